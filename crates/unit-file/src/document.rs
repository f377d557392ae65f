//! The syntax of unit files: sections and assignments, comments, continuation lines.

use std::borrow::Cow;
use std::fmt;

use crate::diagnostic::{Diagnostic, Level};

/// Longest line, in bytes.
pub const LINE_MAX: usize = 1 << 20;

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Section without brackets.
    pub section: &'a str,
    /// Key, trimmed.
    pub key: &'a str,
    /// Value, trimmed; continued lines are joined by one space.
    pub value: Cow<'a, str>,
    /// Line number of its start, from 1.
    pub line: usize,
}

/// The assignments of a text and remarks about lines that are none. Never fails.
pub fn parse(text: &str) -> (Vec<Entry<'_>>, Vec<Diagnostic>) {
    let mut entries = Vec::new();
    let mut remarks = Vec::new();
    let mut section: Option<&str> = None;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate();
    while let Some((index, raw)) = lines.next() {
        let line = index + 1;
        let mut warn = |message: String| {
            remarks.push(Diagnostic {
                path: String::new(),
                line,
                level: Level::Warning,
                message,
            });
        };
        let trimmed = raw.trim_start();
        if trimmed.trim_end().is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if raw.len() > LINE_MAX {
            warn("line is longer than 1 MiB, ignored".to_owned());
            continue;
        }
        let mut logical = Cow::Borrowed(trimmed);
        if let Some(first) = trimmed.strip_suffix('\\') {
            logical = Cow::Owned(join_continued(first, &mut lines));
        }
        let whole = logical.trim_end();
        if whole.starts_with('[') {
            match trimmed
                .trim_end()
                .strip_prefix('[')
                .and_then(|s| s.strip_suffix(']'))
            {
                Some(name) => section = Some(name),
                None => warn(format!(
                    "section header {whole:?} has no closing bracket, ignored"
                )),
            }
            continue;
        }
        let Some(section) = section else {
            warn("assignment outside of any section, ignored".to_owned());
            continue;
        };
        if !whole.contains('=') {
            warn("line has no '=', ignored".to_owned());
            continue;
        }
        // The key lies on the first physical line, so it can borrow; so can a value that is not continued.
        let (key, value) = match &logical {
            Cow::Borrowed(b) => {
                let (k, v) = b.split_once('=').expect("'=' was looked for above");
                (k, Cow::Borrowed(v.trim()))
            }
            Cow::Owned(joined) => {
                let Some((k, _)) = trimmed.split_once('=') else {
                    warn("line has no '=' before its continuation, ignored".to_owned());
                    continue;
                };
                let value = joined.split_once('=').map_or("", |(_, v)| v).trim();
                (k, Cow::Owned(value.to_owned()))
            }
        };
        let key = key.trim();
        if key.is_empty() {
            warn("assignment without a key, ignored".to_owned());
            continue;
        }
        entries.push(Entry {
            section,
            key,
            value,
            line,
        });
    }
    (entries, remarks)
}

/// Joins the lines after one that ended in a backslash; comment lines in between are left out.
fn join_continued<'a>(first: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut out = first.to_owned();
    out.push(' ');
    for (_, next) in lines.by_ref() {
        if next.trim_start().starts_with(['#', ';']) {
            continue;
        }
        match next.strip_suffix('\\') {
            Some(part) => {
                out.push_str(part);
                out.push(' ');
            }
            None => {
                out.push_str(next);
                break;
            }
        }
    }
    out
}

/// An assignment on its own, for making unit files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedEntry {
    /// Section.
    pub section: String,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// A list of assignments that prints as a unit file: sections in first-seen order, one blank line between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryList(pub Vec<OwnedEntry>);

impl EntryList {
    /// The assignments of a text, owned.
    pub fn parse(text: &str) -> EntryList {
        let (entries, _) = parse(text);
        EntryList(
            entries
                .into_iter()
                .map(|e| OwnedEntry {
                    section: e.section.to_owned(),
                    key: e.key.to_owned(),
                    value: e.value.into_owned(),
                })
                .collect(),
        )
    }
}

impl fmt::Display for EntryList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen: Vec<&str> = Vec::new();
        for entry in &self.0 {
            if !seen.contains(&entry.section.as_str()) {
                seen.push(&entry.section);
            }
        }
        for (i, section) in seen.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            writeln!(f, "[{section}]")?;
            for entry in self.0.iter().filter(|e| e.section == *section) {
                // A backslash at the very end would join the next line.
                let end = if entry.value.ends_with('\\') { " " } else { "" };
                writeln!(f, "{}={}{end}", entry.key, entry.value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryList, OwnedEntry, parse};
    use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

    #[test]
    fn syntax() {
        let text = "# c\n[Unit]\nA=1\n  B = two  \n; c\nC=a\\\n# in between\n  b \\\nc\n\n[X]\nD=\nbad\n[Y\nE=x=y\n";
        let (entries, remarks) = parse(text);
        let got: Vec<_> = entries
            .iter()
            .map(|e| (e.section, e.key, e.value.as_ref(), e.line))
            .collect();
        assert_eq!(
            got,
            [
                ("Unit", "A", "1", 3),
                ("Unit", "B", "two", 4),
                ("Unit", "C", "a   b  c", 6),
                ("X", "D", "", 12),
                ("X", "E", "x=y", 15),
            ]
        );
        assert_eq!(remarks.iter().map(|r| r.line).collect::<Vec<_>>(), [13, 14]);
    }

    #[test]
    fn continuation_at_the_end() {
        assert_eq!(parse("[A]\nb=c\\").0[0].value, "c");
        assert!(parse("x=y").0.is_empty());
    }

    #[test]
    fn a_value_that_ends_in_a_backslash_does_not_swallow_the_next_line() {
        let entry = |key: &str, value: &str| OwnedEntry {
            section: "Unit".to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let list = EntryList(vec![
            entry("Description", "a\\"),
            entry("After", "b.service"),
        ]);
        assert_eq!(EntryList::parse(&list.to_string()), list);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn print_then_parse_gives_the_same(entries in prop::collection::vec(
            ("[A-Z][a-z]{0,4}", "[A-Za-z]{1,8}", "[!-~]([ -~]{0,12}[!-Z])?")
                .prop_filter("no continuation", |(_, _, v)| !v.ends_with('\\'))
                .prop_map(|(section, key, value)| OwnedEntry { section, key, value }),
            0..12,
        )) {
            let list = EntryList(entries);
            let printed = list.to_string();
            let again = EntryList::parse(&printed);
            prop_assert_eq!(again.to_string(), printed);
            prop_assert_eq!(again.0.len(), list.0.len());
        }
    }
}
