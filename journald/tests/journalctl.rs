//! Our journalctl beside Debian's: the same arguments on the same files give the same output and exit status.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use journal::{Id128, Limits, Stamp, Store, StoreOptions};

const MACHINE: Id128 = Id128([0xab; 16]);
const OURS: &str = env!("CARGO_BIN_EXE_journalctl");
const DEBIANS: &str = "/usr/bin/journalctl";

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .arg("--no-pager")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("it starts")
}

/// Two boots in three files, with everything that makes output interesting.
fn journal_dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temp dir");
    let limits = Limits {
        max_use: 64 << 20,
        keep_free: 0,
        max_file: 8 << 20,
        max_files: 100,
    };
    let options = StoreOptions {
        machine_id: MACHINE,
        limits,
        step: 64 << 10,
        gid: None,
    };
    let mut store = Store::open(dir.path(), options).expect("open");
    for n in 0..300u64 {
        let boot_id = if n < 120 {
            Id128([0xb1; 16])
        } else {
            Id128([0xb2; 16])
        };
        let mut fields: Vec<Vec<u8>> = [
            format!("PRIORITY={}", n % 8),
            format!("_PID={}", if n % 17 == 0 { 1 } else { n % 13 + 2 }),
            format!("_UID={}", n % 2 * 1000),
            "_HOSTNAME=machine".to_owned(),
            format!("_BOOT_ID={boot_id}"),
            format!("_MACHINE_ID={MACHINE}"),
            format!(
                "_TRANSPORT={}",
                if n % 10 == 0 { "kernel" } else { "stdout" }
            ),
            format!("SYSLOG_FACILITY={}", n % 5),
        ]
        .into_iter()
        .map(String::into_bytes)
        .collect();
        fields.push(match n % 9 {
            0 => format!("MESSAGE=first {n}\nsecond {n}").into_bytes(),
            1 => [b"MESSAGE=\xff\x01 ".as_slice(), n.to_string().as_bytes()].concat(),
            2 => format!("MESSAGE=Grüße {n}").into_bytes(),
            _ => format!("MESSAGE=message {n}").into_bytes(),
        });
        match n % 4 {
            0 => fields.push(b"SYSLOG_IDENTIFIER=web".to_vec()),
            1 => fields.push(b"_COMM=worker".to_vec()),
            _ => fields.push(b"SYSLOG_IDENTIFIER=db".to_vec()),
        }
        match n % 17 {
            0 => fields.push(b"UNIT=web@1.service".to_vec()),
            _ => fields.push(format!("_SYSTEMD_UNIT=web@{}.service", n % 3).into_bytes()),
        }
        if n % 25 == 0 {
            fields.push(b"TWICE=1".to_vec());
            fields.push(b"TWICE=2".to_vec());
        }
        let at = n * 61_000_007;
        let stamp = Stamp {
            realtime: 1_700_000_000_000_000 + at,
            monotonic: if n < 120 { at } else { at - 7_000_000_000 },
            boot_id,
        };
        store.append(stamp, &fields).expect("append");
        if n == 80 || n == 200 {
            store.rotate().expect("rotate");
        }
    }
    store.sync().expect("sync");
    let path = store.dir().to_owned();
    (dir, path)
}

/// The lines of an output, each with its members or fields in one order: the original's is arbitrary.
fn sorted(mode: &str, output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output).into_owned();
    if mode.starts_with("json") {
        let stream = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        return stream
            .map(|value| {
                let value = value.expect("JSON");
                let members: std::collections::BTreeMap<_, _> =
                    value.as_object().expect("an object").iter().collect();
                format!("{members:?}")
            })
            .collect();
    }
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn same(dir: &Path, line: &str) {
    let mut args = vec!["-D", dir.to_str().expect("utf-8")];
    args.extend(
        line.split_whitespace()
            .map(|a| if a == "SPACE" { " " } else { a }),
    );
    let (ours, theirs) = (run(OURS, &args), run(DEBIANS, &args));
    let mode = line.split_once("-o ").map_or("short", |(_, rest)| rest);
    let (got, want) = (sorted(mode, &ours.stdout), sorted(mode, &theirs.stdout));
    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got, want, "{line}: line {at}");
    }
    assert_eq!(got.len(), want.len(), "{line}: number of lines");
    let error = String::from_utf8_lossy(&ours.stderr);
    assert_eq!(
        ours.status.code(),
        theirs.status.code(),
        "{line}: exit status; {error}"
    );
}

#[test]
fn selections_are_those_of_the_original() {
    let (_guard, dir) = journal_dir();
    for line in [
        "",
        "-n 5",
        "-n",
        "-n all",
        "-r",
        "-r -n 3",
        "-q",
        "-u web@1",
        "-u web@1.service -u web@2",
        "-u web@*",
        "-u nothing",
        "-p err",
        "-p 3",
        "-p warning..debug",
        "-t web",
        "-t web -t db -n 20",
        "-b",
        "-b -1",
        "-b -0",
        "-b 1",
        "-b b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1",
        "-b -7",
        "-b all",
        "-k",
        "--facility kern,user",
        "_PID=1",
        "_PID=3 _PID=4 PRIORITY=2",
        "_PID=3 + _PID=4 PRIORITY=2",
        "NOTHING=1",
        "foo",
        "--since @1700005000",
        "--since @1700005000 --until @1700006000",
        "--since 2023-11-15",
        "-r --until @1700006000 -n 4",
        "--since nosuch",
        "-p nosuch",
        "-b -g message.*7",
        "-b -g MESSAGE",
        "-b -g nothing-at-all",
        "-F _PID -q",
        "-F _SYSTEMD_UNIT",
        "-F NOTHING",
        "--list-boots",
        "--nosuch",
        "--disk-usage",
    ] {
        if line.starts_with("-F") {
            // In no particular order.
            let mut args = vec!["-D", dir.to_str().expect("utf-8")];
            args.extend(line.split_whitespace());
            let lines = |output: Output| {
                let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout)
                    .lines()
                    .map(str::to_owned)
                    .collect();
                lines.sort();
                lines
            };
            assert_eq!(
                lines(run(OURS, &args)),
                lines(run(DEBIANS, &args)),
                "{line}"
            );
            continue;
        }
        same(&dir, line);
    }
}

#[test]
fn formats_are_those_of_the_original() {
    let (_guard, dir) = journal_dir();
    for mode in [
        "short",
        "short-full",
        "short-iso",
        "short-iso-precise",
        "short-precise",
        "short-monotonic",
        "short-unix",
        "with-unit",
        "verbose",
        "export",
        "json",
        "json-pretty",
        "cat",
    ] {
        same(&dir, &format!("-o {mode}"));
        same(&dir, &format!("-a -n 40 -o {mode}"));
    }
    same(&dir, "--no-hostname -n 20 -o short");
    same(&dir, "--utc -n 20 -o short-full");
    same(&dir, "--output-fields=MESSAGE,_PID -n 20 -o json");
    same(&dir, "--output-fields=_PID -n 20 -o cat");
    same(&dir, "-n 3 -o nosuch");
}

#[test]
fn cursors_are_exchanged_with_the_original() {
    let (_guard, dir) = journal_dir();
    let at = dir.to_str().expect("utf-8");
    let shown = run(
        DEBIANS,
        &[
            "-D",
            at,
            "-r",
            "-n",
            "1",
            "--until",
            "@1700006000",
            "-o",
            "export",
        ],
    );
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let cursor = text
        .lines()
        .find_map(|l| l.strip_prefix("__CURSOR="))
        .expect("a cursor");
    for option in ["--cursor", "--after-cursor"] {
        same(&dir, &format!("{option} {cursor} -o cat"));
        same(
            &dir,
            &format!("{option} {cursor} -n 4 --show-cursor -o short"),
        );
    }
    let file = dir.join("cursor");
    std::fs::write(&file, cursor).expect("write");
    let args = [
        "-D",
        at,
        "--cursor-file",
        file.to_str().expect("utf-8"),
        "-o",
        "cat",
    ];
    let first = run(OURS, &args);
    assert!(!first.stdout.is_empty());
    let second = run(OURS, &args);
    assert_eq!(String::from_utf8_lossy(&second.stdout), "", "all was read");
}

#[test]
fn follow_shows_new_lines_and_ends_with_its_reader() {
    use std::io::{BufRead as _, BufReader};
    let (guard, dir) = journal_dir();
    let limits = Limits {
        max_use: 64 << 20,
        keep_free: 0,
        max_file: 8 << 20,
        max_files: 100,
    };
    let options = StoreOptions {
        machine_id: MACHINE,
        limits,
        step: 64 << 10,
        gid: None,
    };
    let mut store = Store::open(guard.path(), options).expect("open");
    let mut child = Command::new(OURS)
        .args([
            "-D",
            dir.to_str().expect("utf-8"),
            "-f",
            "-n",
            "1",
            "-o",
            "cat",
            "_PID=5",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("read");
    let log = |n: u64, pid: u32, store: &mut Store| {
        let stamp = Stamp {
            realtime: 1_800_000_000_000_000 + n,
            monotonic: n,
            boot_id: Id128([0xb3; 16]),
        };
        store
            .append(stamp, &[format!("MESSAGE=new {n}"), format!("_PID={pid}")])
            .expect("append");
    };
    log(1, 5, &mut store);
    assert_eq!(lines.next().expect("a line").expect("read"), "new 1");
    store.rotate().expect("rotate");
    log(2, 6, &mut store);
    log(3, 5, &mut store);
    assert_eq!(lines.next().expect("a line").expect("read"), "new 3");
    drop(lines);
    let status = child.wait().expect("it ends by itself");
    assert_eq!(status.code(), Some(141));
}

#[test]
fn verify_and_vacuum() {
    let (_guard, dir) = journal_dir();
    let at = dir.to_str().expect("utf-8");
    assert!(run(OURS, &["-D", at, "--verify"]).status.success());
    let files = journal::journal_files(&dir).expect("list");
    let damaged = &files[0].path;
    let mut bytes = std::fs::read(damaged).expect("read");
    let at_message = bytes
        .windows(10)
        .position(|w| w == b"MESSAGE=me")
        .expect("a message");
    bytes[at_message + 9] = b'X';
    std::fs::write(damaged, bytes).expect("write");
    let output = run(OURS, &["-D", at, "--verify"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("FAIL: ") && error.contains("does not match its hash"),
        "{error}"
    );
    let output = run(OURS, &["-D", at, "--vacuum-files=1"]);
    assert!(output.status.success());
    assert_eq!(
        journal::journal_files(&dir).expect("list").len(),
        files.len() - 1
    );
}
