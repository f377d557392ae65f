//! Addresses and names put into a document in place of `$private_ipv4` and its like.
//!
//! The original replaced text before reading YAML, so a value could change the structure of the
//! document. Here scalars of the finished tree are filled in. One thing of the old order must be
//! kept: `\$private_ipv4` in double quotes is no YAML escape, so [`protect`] hides such backslashes
//! before the parser sees them.

use crate::yaml::{Node, Style, Value};

/// The four names that are replaced everywhere, by prefix, as the original does.
pub const ADDRESS_NAMES: [&str; 4] = ["public_ipv4", "private_ipv4", "public_ipv6", "private_ipv6"];

/// Names of ours. They are replaced only as whole words and never inside file contents or scripts,
/// because shell code written before them uses variables of the same names.
const EXTRA_NAMES: [&str; 3] = ["hostname", "instance_id", "machine_id"];

/// Keys whose values are text for other programs.
const FOREIGN_TEXT: [&str; 3] = ["content", "runcmd", "bootcmd"];

/// Stands for a backslash and a dollar sign that were hidden from the YAML reader.
const HIDDEN: &str = "\u{F8F0}\u{F8F1}";

/// Values by name; empty text means: known to be nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    values: Vec<(String, String)>,
}

impl Variables {
    /// Sets `name` (without the dollar sign).
    pub fn set(&mut self, name: &str, value: &str) {
        self.values.retain(|(n, _)| n != name);
        self.values.push((name.to_owned(), value.to_owned()));
    }

    /// The value of `name`, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(n, v)| n == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }
}

/// A variable that was used but has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The variable, without the dollar sign.
    pub name: String,
    /// Line of the input.
    pub line: u32,
}

/// Hides `\$NAME` of the four names, so that the YAML reader does not take it for an escape.
/// The text keeps its length in characters, and with it every column.
pub fn protect(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\$") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        out.push_str(if name_at(after, &ADDRESS_NAMES).is_some() {
            HIDDEN
        } else {
            "\\$"
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Whether `text` uses one of the four address names unescaped, and which.
pub fn addresses_used(text: &str) -> Vec<&'static str> {
    let protected = protect(text);
    ADDRESS_NAMES
        .into_iter()
        .filter(|name| protected.contains(&format!("${name}")))
        .collect()
}

/// Fills in a whole script.
pub fn substitute_script(text: &str, vars: &Variables) -> (String, Vec<Missing>) {
    let mut missing = Vec::new();
    let out = replace(&protect(text), vars, false, |name, at, source| {
        missing.push(Missing {
            name: name.to_owned(),
            line: line_at(source, at, 1),
        });
    });
    (out, missing)
}

/// Fills in every scalar of a tree that was read from [`protect`]ed text.
pub fn substitute_tree(root: &mut Node, vars: &Variables) -> Vec<Missing> {
    let mut missing = Vec::new();
    walk(root, vars, true, &mut missing);
    missing.sort_by(|a, b| (a.line, &a.name).cmp(&(b.line, &b.name)));
    missing.dedup();
    missing
}

fn walk(node: &mut Node, vars: &Variables, extras: bool, missing: &mut Vec<Missing>) {
    let mark = node.mark;
    match &mut node.value {
        Value::Scalar(scalar) => {
            if !scalar.text.contains('$') && !scalar.text.contains(HIDDEN) {
                return;
            }
            let new = replace(&scalar.text, vars, extras, |name, at, source| {
                missing.push(Missing {
                    name: name.to_owned(),
                    line: line_at(source, at, mark.line),
                });
            });
            if new != scalar.text {
                scalar.text = new;
                // A value must not turn text into a number, a boolean or null.
                if scalar.style == Style::Plain {
                    scalar.style = Style::Quoted;
                }
            }
        }
        Value::List(items) => {
            for item in items {
                walk(item, vars, extras, missing);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let foreign = FOREIGN_TEXT.contains(&entry.key.as_str());
                walk(&mut entry.node, vars, extras && !foreign, missing);
            }
        }
    }
}

fn line_at(text: &str, at: usize, first: u32) -> u32 {
    let before = text[..at].bytes().filter(|b| *b == b'\n').count();
    first.saturating_add(u32::try_from(before).unwrap_or(u32::MAX))
}

fn name_at<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    names.iter().find(|n| text.starts_with(**n)).copied()
}

fn replace(
    text: &str,
    vars: &Variables,
    extras: bool,
    mut missing: impl FnMut(&str, usize, &str),
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if let Some(after) = rest.strip_prefix(HIDDEN) {
            // Only `protect` writes this pair in front of a name.
            out.push_str(if name_at(after, &ADDRESS_NAMES).is_some() {
                "$"
            } else {
                HIDDEN
            });
            at += HIDDEN.len();
            if let Some(name) = name_at(after, &ADDRESS_NAMES) {
                out.push_str(name);
                at += name.len();
            }
            continue;
        }
        if let Some(after) = rest.strip_prefix('$') {
            if let Some(name) = name_at(after, &ADDRESS_NAMES) {
                match vars.get(name) {
                    Some(value) => out.push_str(value),
                    None => missing(name, at, text),
                }
                at += 1 + name.len();
                continue;
            }
            if let Some((name, value)) = extra_at(after, vars).filter(|_| extras) {
                out.push_str(value);
                at += 1 + name.len();
                continue;
            }
        }
        let c = rest.chars().next().expect("at is inside the text");
        out.push(c);
        at += c.len_utf8();
    }
    out
}

/// One of our own names as a whole word, if its value is known.
fn extra_at<'v>(after: &str, vars: &'v Variables) -> Option<(&'static str, &'v str)> {
    let name = EXTRA_NAMES.into_iter().find(|n| after.starts_with(n))?;
    let next = after[name.len()..].chars().next();
    if next.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    Some((name, vars.get(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn vars() -> Variables {
        let mut v = Variables::default();
        v.set("private_ipv4", "10.0.0.7");
        v.set("hostname", "n1");
        v
    }

    #[track_caller]
    fn check(text: &str, want: &str, want_missing: &[(&str, u32)]) {
        let mut root = yaml::parse(&protect(text)).unwrap().unwrap();
        let missing = substitute_tree(&mut root, &vars());
        assert_eq!(root.get_text("k").unwrap(), want);
        let got: Vec<_> = missing.iter().map(|m| (m.name.as_str(), m.line)).collect();
        assert_eq!(got, want_missing);
    }

    #[test]
    fn scalars_are_filled_in() {
        check("k: http://$private_ipv4:2380", "http://10.0.0.7:2380", &[]);
        check("k: $private_ipv4$private_ipv4", "10.0.0.710.0.0.7", &[]);
        check("k: $private_ipv4x", "10.0.0.7x", &[]);
        check("k: \"\\$private_ipv4\"", "$private_ipv4", &[]);
        check("k: a\\$private_ipv4", "a$private_ipv4", &[]);
        check("k: \\$HOME", "\\$HOME", &[]);
        check("k: ${private_ipv4}", "${private_ipv4}", &[]);
        check("k: $hostname", "n1", &[]);
        check("k: $hostnames", "$hostnames", &[]);
        check("k: $machine_id", "$machine_id", &[]);
        check("j: 1\nk: <$public_ipv4>", "<>", &[("public_ipv4", 2)]);
        check(
            "k: |\n  a\n  $public_ipv6\n",
            "a\n\n",
            &[("public_ipv6", 3)],
        );
    }

    #[test]
    fn file_contents_keep_shell_variables() {
        let mut root = yaml::parse("content: echo $hostname $private_ipv4")
            .unwrap()
            .unwrap();
        substitute_tree(&mut root, &vars());
        assert_eq!(root.get_text("content"), Some("echo $hostname 10.0.0.7"));
    }

    #[test]
    fn values_cannot_change_the_structure() {
        let mut v = Variables::default();
        v.set("private_ipv4", "x\nevil: yes");
        let mut root = yaml::parse("k: $private_ipv4").unwrap().unwrap();
        substitute_tree(&mut root, &v);
        assert_eq!(root.as_map().unwrap().len(), 1);
        assert_eq!(root.get_text("k"), Some("x\nevil: yes"));
    }

    #[test]
    fn scripts_are_filled_in_and_missing_values_have_lines() {
        let (out, missing) =
            substitute_script("#!/bin/sh\necho $public_ipv4 \\$private_ipv4\n", &vars());
        assert_eq!(out, "#!/bin/sh\necho  $private_ipv4\n");
        assert_eq!(
            missing,
            [Missing {
                name: "public_ipv4".into(),
                line: 2
            }]
        );
        assert_eq!(
            addresses_used("\\$public_ipv4 $private_ipv6"),
            ["private_ipv6"]
        );
    }
}
