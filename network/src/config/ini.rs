//! Sections, keys and values with their line numbers, as systemd's files write them.
//!
//! Unlike unit files, `.network` files repeat sections that stay apart (`[Address]`, `[Route]`), so sections are kept
//! as they stand, which the crate `unit-file` does not do.

use unit_file::{Diagnostic, Level};

/// `Key=value` with the line it starts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Left of the equals sign.
    pub key: String,
    /// Right of it, continuation lines joined.
    pub value: String,
    /// Line, from 1.
    pub line: usize,
}

/// `[Name]` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Between the brackets.
    pub name: String,
    /// Line of the header.
    pub line: usize,
    /// In order.
    pub entries: Vec<Entry>,
}

/// Reads a file. What cannot be understood is left out and remarked on.
pub fn parse(file: &str, text: &str) -> (Vec<Section>, Vec<Diagnostic>) {
    let mut sections: Vec<Section> = Vec::new();
    let mut remarks = Vec::new();
    for (line, content) in logical_lines(text) {
        let mut remark = |message: String| {
            remarks.push(Diagnostic {
                path: file.to_owned(),
                line,
                level: Level::Warning,
                message,
            });
        };
        if let Some(rest) = content.strip_prefix('[') {
            match rest.strip_suffix(']') {
                Some(name) if !name.is_empty() && !name.contains(['[', ']']) => {
                    sections.push(Section {
                        name: name.to_owned(),
                        line,
                        entries: Vec::new(),
                    });
                }
                _ => remark(format!("{content:?} is not a section header, ignored")),
            }
            continue;
        }
        let Some((key, value)) = content.split_once('=') else {
            remark(format!("{content:?} has no \"=\", ignored"));
            continue;
        };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        match sections.last_mut() {
            _ if key.is_empty() => remark("nothing stands before the \"=\", ignored".to_owned()),
            Some(section) => section.entries.push(Entry { key, value, line }),
            None => remark(format!("{key}= stands before any section, ignored")),
        }
    }
    (sections, remarks)
}

/// Lines with continuations joined by a space, without blank lines and comments.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, raw) in (1..).zip(text.lines()) {
        let line = raw.trim();
        if line.starts_with(['#', ';']) || (line.is_empty() && open.is_none()) {
            continue;
        }
        let (body, goes_on) = match line.strip_suffix('\\') {
            Some(body) => (body.trim_end(), true),
            None => (line, false),
        };
        let (start, joined) = match open.take() {
            Some((start, before)) => (start, format!("{before} {body}")),
            None => (number, body.to_owned()),
        };
        if goes_on {
            open = Some((start, joined));
        } else {
            out.push((start, joined));
        }
    }
    out.extend(open);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_entries_and_lines() {
        let (sections, remarks) = parse(
            "f",
            "# c\n[Match]\nName = eth0\n\n[Network]\nDNS=1.1.1.1 \\\n  8.8.8.8\n; c\nnonsense\n[Bad\n",
        );
        assert_eq!(sections.len(), 2);
        assert_eq!(
            sections[0].entries,
            vec![Entry {
                key: "Name".into(),
                value: "eth0".into(),
                line: 3
            }]
        );
        assert_eq!(sections[1].entries[0].value, "1.1.1.1 8.8.8.8");
        assert_eq!(
            remarks.iter().map(|r| r.line).collect::<Vec<_>>(),
            vec![9, 10]
        );
        assert_eq!(
            remarks[0].to_string(),
            "f:9: warning: \"nonsense\" has no \"=\", ignored"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*", lines in proptest::collection::vec("[\\[\\]=#; \\\\a-z]{0,12}", 0..8)) {
            let _ = parse("f", &text);
            let _ = parse("f", &lines.join("\n"));
        }
    }
}
