//! Unit files as fleet keeps them: ordered options, re-serialised text, hash of that text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

/// Physical lines of this length and above are refused.
const LINE_MAX: usize = 2048;

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnitOption {
    /// Section, without brackets.
    #[serde(default)]
    pub section: String,
    /// Left side.
    #[serde(default)]
    pub name: String,
    /// Right side; a continued line keeps its backslash and newline.
    #[serde(default)]
    pub value: String,
}

impl UnitOption {
    /// One assignment.
    pub fn new(
        section: impl Into<String>,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            section: section.into(),
            name: name.into(),
            value: value.into(),
        }
    }
}

/// Why a text is no unit file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line is too long.
    #[error("line {line}: longer than {LINE_MAX} bytes")]
    LineTooLong {
        /// Where, from 1.
        line: usize,
    },
    /// A section header without its end.
    #[error("line {line}: unterminated section header")]
    Unterminated {
        /// Where, from 1.
        line: usize,
    },
    /// More after a section header.
    #[error("line {line}: found garbage after section name")]
    Garbage {
        /// Where, from 1.
        line: usize,
    },
    /// Neither section, comment nor assignment.
    #[error("line {line}: no \"=\" in an option")]
    NoEquals {
        /// Where, from 1.
        line: usize,
    },
    /// An option that cannot be written as text and read back.
    #[error("option {section}/{name}: {reason}")]
    Unwritable {
        /// Its section.
        section: String,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The options of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitFile {
    options: Vec<UnitOption>,
}

impl UnitFile {
    /// Reads a unit file. Comments, blank lines and whatever stands before the first section are
    /// dropped, values are trimmed.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut options = Vec::new();
        let mut section: Option<String> = None;
        let mut lines = text.split('\n').enumerate().map(|(i, line)| (i + 1, line));
        while let Some((number, raw)) = lines.next() {
            let line = check_length(number, raw)?.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let Some((name, after)) = rest.split_once(']') else {
                    return Err(TextError::Unterminated { line: number });
                };
                if !after.trim().is_empty() {
                    return Err(TextError::Garbage { line: number });
                }
                section = Some(name.to_owned());
                continue;
            }
            let Some(section) = &section else { continue };
            let Some((name, first)) = raw.split_once('=') else {
                return Err(TextError::NoEquals { line: number });
            };
            let mut value = strip_cr(first).to_owned();
            while value.ends_with('\\') {
                let next = match lines.next() {
                    Some((number, next)) => strip_cr(check_length(number, next)?),
                    None => "",
                };
                if next.trim().is_empty() {
                    break;
                }
                value.push('\n');
                value.push_str(next);
            }
            let mut value = value.trim();
            while value.ends_with('\\') {
                // Nothing follows: a backslash left here would swallow the next option.
                value = value.trim_end_matches('\\').trim_end();
            }
            options.push(UnitOption::new(section, name.trim(), value));
        }
        Ok(Self { options })
    }

    /// Takes options from elsewhere, for example the API, if they survive being written and read.
    /// Values are trimmed, and their line ends lose a carriage return, as reading would do.
    pub fn from_options(mut options: Vec<UnitOption>) -> Result<Self, TextError> {
        for o in &mut options {
            if o.value.trim().len() != o.value.len() {
                o.value = o.value.trim().to_owned();
            }
            if o.value.contains("\r\n") {
                let lines: Vec<&str> = o.value.split('\n').map(strip_cr).collect();
                o.value = lines.join("\n");
            }
            if let Some(reason) = unwritable(o) {
                let (section, name) = (o.section.clone(), o.name.clone());
                return Err(TextError::Unwritable {
                    section,
                    name,
                    reason,
                });
            }
        }
        Ok(Self { options })
    }

    /// The options in order.
    #[must_use]
    pub fn options(&self) -> &[UnitOption] {
        &self.options
    }

    /// Values of an option, in order.
    pub fn values<'a>(&'a self, section: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
        let hit = move |o: &&UnitOption| o.section == section && o.name == name;
        self.options.iter().filter(hit).map(|o| o.value.as_str())
    }

    /// `[Unit] Description=`, the last one.
    #[must_use]
    pub fn description(&self) -> &str {
        self.values("Unit", "Description").last().unwrap_or("")
    }

    /// Whether there is an `[Install]` section with anything in it.
    #[must_use]
    pub fn has_install(&self) -> bool {
        self.options.iter().any(|o| o.section == "Install")
    }

    /// SHA-1 of the text, as 40 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hex = String::with_capacity(40);
        for byte in Sha1::digest(self.to_string().as_bytes()) {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

impl std::fmt::Display for UnitFile {
    /// Sections in first-seen order, one blank line between them, `Name=value`, final newline.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sections: Vec<&str> = Vec::new();
        for o in &self.options {
            if !sections.contains(&o.section.as_str()) {
                sections.push(&o.section);
            }
        }
        for (i, section) in sections.iter().enumerate() {
            if i > 0 {
                f.write_char('\n')?;
            }
            writeln!(f, "[{section}]")?;
            for o in self.options.iter().filter(|o| o.section == *section) {
                writeln!(f, "{}={}", o.name, o.value)?;
            }
        }
        Ok(())
    }
}

fn strip_cr(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

fn check_length(line: usize, text: &str) -> Result<&str, TextError> {
    if text.len() >= LINE_MAX {
        Err(TextError::LineTooLong { line })
    } else {
        Ok(text)
    }
}

/// Why an option would not be the same after being written and read.
fn unwritable(o: &UnitOption) -> Option<&'static str> {
    if o.section.is_empty() {
        return Some("no section");
    }
    if o.section.contains([']', '\n', '\r', '\0']) {
        return Some("a section name cannot contain \"]\" or a line end");
    }
    if o.name.is_empty() {
        return Some("no name");
    }
    if o.name.contains(['=', '\n', '\r', '\0'])
        || o.name.starts_with(['[', '#', ';'])
        || o.name.trim() != o.name
    {
        return Some("a name cannot contain \"=\" or a line end, or begin like a comment");
    }
    if o.value.contains('\0') {
        return Some("a value cannot contain a zero byte");
    }
    if o.value.ends_with('\\') {
        return Some("a value cannot end in a backslash");
    }
    let mut lines = o.value.split('\n').peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_some() && !line.ends_with('\\') {
            return Some("a line end in a value needs a backslash before it");
        }
        if o.name.len() + line.len() + 1 >= LINE_MAX {
            return Some("a line is too long");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_normalised_and_hashed() {
        let text = "; c\n\n [Unit]\nDescription = x y \n# c\n[Service]\r\nExecStart=/bin/a \\\n  b\r\n[Unit]\nAfter=c\n";
        let file = UnitFile::parse(text).unwrap();
        let expect = "[Unit]\nDescription=x y\nAfter=c\n\n[Service]\nExecStart=/bin/a \\\n  b\n";
        assert_eq!(file.to_string(), expect);
        assert_eq!(file.description(), "x y");
        assert_eq!(file.hash(), UnitFile::parse(expect).unwrap().hash());
        let hello = UnitFile::parse("[Service]\nExecStart=/bin/true\n").unwrap();
        assert_eq!(hello.hash(), "86943ac9f3754cb90f8dd38bf6da7b0cad074592");
    }

    #[test]
    fn bad_texts_say_where() {
        for (text, expect) in [
            ("[Unit]\nfoo\n", TextError::NoEquals { line: 2 }),
            ("[Unit] x\n", TextError::Garbage { line: 1 }),
            ("\n[Unit\n", TextError::Unterminated { line: 2 }),
            (
                &format!("[U]\na={}\n", "x".repeat(2046)),
                TextError::LineTooLong { line: 2 },
            ),
        ] {
            assert_eq!(UnitFile::parse(text), Err(expect), "{text}");
        }
        assert!(UnitFile::parse(&format!("[U]\na={}\n", "x".repeat(2045))).is_ok());
        assert_eq!(
            UnitFile::parse("ignored\n[A]\nb=\n")
                .unwrap()
                .options()
                .len(),
            1
        );
    }

    #[test]
    fn a_backslash_at_the_end_of_a_value_swallows_nothing() {
        for value in [
            "x\\",
            "x\\ ",
            "x\\ \\\t",
            "x\\\n\\",
            "x\\\n \\ ",
            "x\\\n\\\n\n",
        ] {
            let text = format!("[S]\na={value}\n\nb=2\n");
            let printed = UnitFile::parse(&text).unwrap().to_string();
            assert_eq!(printed, "[S]\na=x\nb=2\n", "{value:?}");
        }
    }

    #[test]
    fn options_that_would_change_the_text_are_refused() {
        for o in [
            UnitOption::new("S", "a", "b\n[Service]\nUser=root"),
            UnitOption::new("S]\n[X", "a", "b"),
            UnitOption::new("S", "a=b", "c"),
            UnitOption::new("S", "#a", "c"),
            UnitOption::new("", "a", "c"),
            UnitOption::new("S", "a", "x".repeat(3000)),
        ] {
            assert!(UnitFile::from_options(vec![o.clone()]).is_err(), "{o:?}");
        }
        assert!(UnitFile::from_options(vec![UnitOption::new("S", "a", "b \\\nc")]).is_ok());
        let option = UnitOption::new("S", "a", "b \\\r\nc\r");
        let file = UnitFile::from_options(vec![option]).unwrap();
        assert_eq!(file.to_string(), "[S]\na=b \\\nc\n");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_printing_is_stable(text in "([\\[\\]=#;\\\\ a-c\r\n]|\\[S\\]\n|a=){0,60}") {
            if let Ok(file) = UnitFile::parse(&text) {
                // Odd names, which only texts can have, aside.
                if UnitFile::from_options(file.options().to_vec()).is_ok() {
                    let printed = file.to_string();
                    prop_assert_eq!(UnitFile::parse(&printed).unwrap().to_string(), printed);
                }
            }
        }

        #[test]
        fn accepted_options_survive(
            pairs in prop::collection::vec(("[A-C]", "[a-z]{1,3}", "[a-c\\\\=\\]\\[ \r\n]{0,8}"), 0..8)
        ) {
            let options: Vec<_> =
                pairs.into_iter().map(|(s, n, v)| UnitOption::new(s, n, v.trim())).collect();
            if let Ok(file) = UnitFile::from_options(options) {
                let again = UnitFile::parse(&file.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), file.to_string());
                prop_assert_eq!(again.options().len(), file.options().len());
            }
        }
    }
}
