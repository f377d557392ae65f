//! The table in `docs/compat/fleet-conformance.md`: each rule of fleet's contract, and the test that shows it.
//!
//! Checked as part of `tidy`: the tests that it names are there, no rule is there twice, and every section of the contract
//! has its rules. A rule that nothing shows says so; those are counted and printed.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// The page.
pub const PAGE: &str = "docs/compat/fleet-conformance.md";
/// What a row says that has no test.
const NO_TEST: &str = "no test";
const TAGS: [&str; 3] = ["keep", "fix", "beat"];
const SECTIONS: std::ops::RangeInclusive<usize> = 1..=12;

/// What the page holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    rules: usize,
    /// Where the rules are that nothing shows, and which.
    without: Vec<String>,
}

/// Checks the page against the tree. What is wrong goes to `bad`, one line each.
pub fn check(bad: &mut Vec<String>) -> Result<Counts> {
    let text = fs::read_to_string(PAGE).context(PAGE)?;
    Ok(judge(
        PAGE,
        &text,
        |path| fs::read_to_string(path).ok(),
        bad,
    ))
}

/// Says how much of the contract is shown.
pub fn print(counts: &Counts) {
    let Counts { rules, without } = counts;
    let shown = rules - without.len();
    println!("conformance: {rules} rules of the contract, {shown} with a test that shows them");
    for rule in without {
        println!("conformance: {rule}: {NO_TEST}");
    }
}

fn judge(
    page: &str,
    text: &str,
    read: impl Fn(&str) -> Option<String>,
    bad: &mut Vec<String>,
) -> Counts {
    let mut counts = Counts::default();
    let mut seen: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let mut section = None;
    for (i, line) in text.lines().enumerate() {
        let mut complain = |what: &str| bad.push(format!("{page}:{}: {what}", i + 1));
        if let Some(title) = line.strip_prefix("## §") {
            let number = title.split([' ', ':']).next().unwrap_or_default();
            section = number.parse().ok().filter(|n| SECTIONS.contains(n));
            if section.is_none() {
                complain("a section is §1 to §12");
            }
            continue;
        }
        let Some(cells) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else {
            continue;
        };
        // A bar within a cell is written \|.
        let cells: Vec<&str> = cells.split(" | ").map(str::trim).collect();
        if cells == ["rule", "tag", "test"] {
            continue;
        }
        let (Some(section), [rule, tag, tests]) = (section, &cells[..]) else {
            complain("a row is `| rule | tag | test |`, below the title of its section");
            continue;
        };
        counts.rules += 1;
        if let Some(first) = seen.insert((section, rule), i + 1) {
            complain(&format!("the same rule as in line {first}"));
        }
        if !TAGS.contains(tag) {
            complain(&format!("{tag}: not one of {}", TAGS.join(", ")));
        }
        if let Some(rest) = tests.strip_prefix(NO_TEST) {
            if !rest.is_empty() && !rest.starts_with(": ") {
                complain("after `no test` comes nothing, or a colon and why");
            }
            counts.without.push(format!("{page}:{}: {rule}", i + 1));
            continue;
        }
        for test in tests.split(", ") {
            if let Err(what) = find(test, &read) {
                complain(&what);
            }
        }
    }
    for number in SECTIONS {
        if !seen.keys().any(|(section, _)| *section == number) {
            bad.push(format!("{page}: no rule of §{number}"));
        }
    }
    counts
}

/// Looks for `` `FILE::FUNCTION` ``, or `` `FILE` `` where the file is a script.
fn find(test: &str, read: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let name = test.strip_prefix('`').and_then(|t| t.strip_suffix('`'));
    let name = name.ok_or_else(|| format!("{test}: a test is `FILE::FUNCTION`, or `{NO_TEST}`"))?;
    let (path, function) = match name.split_once("::") {
        Some((path, function)) => (path, Some(function)),
        None => (name, None),
    };
    let text = read(path).ok_or_else(|| format!("{path}: no such file"))?;
    match function {
        Some(function) if text.contains(&format!("fn {function}(")) => Ok(()),
        Some(function) => Err(format!("{path} has no function {function}")),
        // These are run by name, and that all of them are is a test of its own.
        None if path.ends_with(".txt") => Ok(()),
        None => Err(format!("{path}: which function of it?")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(rows: &str) -> (Counts, Vec<String>) {
        let mut text = String::from("# Page\n\n| rule | tag | test |\n");
        for n in SECTIONS {
            text += &format!("## §{n}: title\n| rule | tag | test |\n|---|---|---|\n");
            text += &match n {
                12 => rows.to_owned(),
                n => format!("| rule {n} | keep | `a.rs::works` |\n"),
            };
        }
        let read = |path: &str| match path {
            "a.rs" => Some("#[test]\nfn works() {}\nasync fn helps(x: u8) {}\n".to_owned()),
            "life.txt" => Some(String::new()),
            _ => None,
        };
        let mut bad = Vec::new();
        let counts = judge("p", &text, read, &mut bad);
        (counts, bad)
    }

    #[test]
    fn a_page_is_good_when_its_tests_are_there() {
        let rows = "| one \\| two | keep | `a.rs::works`, `life.txt` |\n\
                    | another | beat | `a.rs::helps` |\n\
                    | a third | fix | no test: too hard |\n";
        let (counts, bad) = judged(rows);
        assert_eq!(bad, Vec::<String>::new());
        assert_eq!(counts.rules, 14);
        assert_eq!(counts.without, ["p:53: a third"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (row, expect) in [
            (
                "| r | keep | `a.rs::work` |",
                "p:51: a.rs has no function work",
            ),
            ("| r | keep | `b.rs::works` |", "p:51: b.rs: no such file"),
            ("| r | keep | `a.rs` |", "p:51: a.rs: which function of it?"),
            (
                "| r | keep | a.rs::works |",
                "p:51: a.rs::works: a test is `FILE::FUNCTION`, or `no test`",
            ),
            (
                "| r | good | `a.rs::works` |",
                "p:51: good: not one of keep, fix, beat",
            ),
            (
                "| r | keep | no tests |",
                "p:51: after `no test` comes nothing, or a colon and why",
            ),
            (
                "| r | keep |",
                "p:51: a row is `| rule | tag | test |`, below the title of its section",
            ),
            (
                "| r | keep | `a.rs::works` |\n| r | keep | `a.rs::works` |",
                "p:52: the same rule as in line 51",
            ),
        ] {
            assert_eq!(judged(&format!("{row}\n")).1[0], expect, "{row}");
        }
        assert_eq!(judged("").1, ["p: no rule of §12"]);
    }
}
