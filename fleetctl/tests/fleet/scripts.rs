//! Conversations in `scripts/*.txt`, each on a cluster of its own.
//!
//! ```text
//! # machines 2              how many machines; 1 if it is not said
//! # only v1                 the daemon has the original's API only
//! # anything else           a comment
//! file NAME                 a file where fleetctl runs; the indented lines after it are its text
//! $ list-units              a command, after it what it prints:
//! > UNIT ...                a line of standard output
//! ! WARNING: ...            a line of standard error
//! = 1                       exit status; 0 if it is not said
//! ? list-units              as `$`, but tried again until it is so
//! % start a b               as `$`, but its lines may come in any order
//! ```
//!
//! In expected lines `…` stands for anything.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Ran};

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Step {
    File(String, String),
    Run {
        line: usize,
        again: bool,
        any_order: bool,
        words: Vec<String>,
        expect: Ran,
    },
}

fn parse(text: &str) -> (usize, bool, Vec<Step>) {
    let mut machines = 1;
    let only_v1 = text.lines().any(|line| line == "# only v1");
    let mut steps = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let at = i + 1;
        if let Some(count) = line.strip_prefix("# machines ") {
            machines = count.parse().unwrap();
        } else if line.is_empty() || line.starts_with('#') {
        } else if let Some(name) = line.strip_prefix("file ") {
            steps.push(Step::File(name.to_owned(), String::new()));
        } else if let Some(command) = ["$ ", "? ", "% "]
            .iter()
            .find_map(|mark| line.strip_prefix(mark))
        {
            steps.push(Step::Run {
                line: at,
                again: line.starts_with('?'),
                any_order: line.starts_with('%'),
                words: command.split_whitespace().map(str::to_owned).collect(),
                expect: Ran {
                    code: 0,
                    out: String::new(),
                    err: String::new(),
                },
            });
        } else {
            match steps.last_mut() {
                Some(Step::File(_, text)) => {
                    let line = line
                        .strip_prefix("  ")
                        .unwrap_or_else(|| panic!("line {at}: {line}"));
                    writeln!(text, "{line}").unwrap();
                }
                Some(Step::Run { expect, .. }) => match line.split_at(1) {
                    (">", rest) => {
                        writeln!(expect.out, "{}", rest.strip_prefix(' ').unwrap_or(rest)).unwrap();
                    }
                    ("!", rest) => {
                        writeln!(expect.err, "{}", rest.strip_prefix(' ').unwrap_or(rest)).unwrap();
                    }
                    ("=", rest) => expect.code = rest.trim().parse().unwrap(),
                    _ => panic!("line {at}: {line}"),
                },
                None => panic!("line {at}: {line}"),
            }
        }
    }
    (machines, only_v1, steps)
}

/// Whether a text is as expected, where `…` stands for anything within one line.
fn fits(expect: &str, got: &str) -> bool {
    if expect.lines().count() != got.lines().count() {
        return false;
    }
    expect.lines().zip(got.lines()).all(|(expect, got)| {
        let mut parts = expect.split('…');
        let first = parts.next().unwrap_or("");
        let Some(mut rest) = got.strip_prefix(first) else {
            return false;
        };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else {
            return rest.is_empty();
        };
        for part in middle {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    })
}

fn same(expect: &Ran, got: &Ran) -> bool {
    expect.code == got.code && fits(&expect.out, &got.out) && fits(&expect.err, &got.err)
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn as_script(ran: &Ran) -> String {
    let mut text = String::new();
    ran.out
        .lines()
        .for_each(|l| writeln!(text, "> {l}").unwrap());
    ran.err
        .lines()
        .for_each(|l| writeln!(text, "! {l}").unwrap());
    if ran.code != 0 {
        writeln!(text, "= {}", ran.code).unwrap();
    }
    text
}

#[track_caller]
fn check(name: &str, text: &str) {
    let (machines, only_v1, steps) = parse(text);
    let mut cluster = Cluster::start(machines);
    if only_v1 {
        cluster.pretend_original();
    }
    for step in steps {
        match step {
            Step::File(path, text) => cluster.write(&path, &text),
            Step::Run {
                line,
                again,
                any_order,
                words,
                mut expect,
            } => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let deadline = Instant::now() + DEADLINE;
                let got = loop {
                    let mut got = cluster.fleetctl(&words);
                    if any_order {
                        (got.out, expect.out) = (sorted(&got.out), sorted(&expect.out));
                    }
                    if same(&expect, &got) || !again || Instant::now() > deadline {
                        break got;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                };
                assert!(
                    same(&expect, &got),
                    "{name}.txt:{line}: {}\n--- expected\n{}--- got\n{}",
                    words.join(" "),
                    as_script(&expect),
                    as_script(&got)
                );
            }
        }
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), include_str!(concat!("scripts/", stringify!($name), ".txt")));
        })*

        #[test]
        fn every_script_is_run() {
            let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/scripts");
            for entry in std::fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let name = name.strip_suffix(".txt").unwrap();
                assert!([$(stringify!($name)),*].contains(&name), "{name}");
            }
        }
    };
}

scripts!(
    batch,
    explain,
    globals,
    json,
    life,
    lists,
    machines,
    no_blocking,
    only_v1,
    replace_flag,
    restart,
    rolling,
    scale,
    templates,
    usage,
    waiting,
);

#[test]
fn anything_stands_for_anything() {
    assert!(fits("a…c\n", "abbc\n") && fits("…", "x") && fits("a…b…", "a1b2") && fits("", ""));
    assert!(!fits("a…c\n", "abd\n") && !fits("a\n", "a\nb\n") && !fits("a", "ab"));
}
