//! Taking typed fields out of a mapping while collecting findings.
//!
//! Owns the rules of type compatibility and the texts of the structural findings: a wrong type drops
//! only that field, an unknown key is a warning. Decides nothing about what fields mean.

use super::options::{Kind, OptionRow};
use super::pattern::Pattern;
use crate::finding::{Check, Finding, Level};
use crate::yaml::{Entry, Mark, Node, Scalar};

/// Where findings go.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Finding>,
}

impl Findings {
    pub(crate) fn add(&mut self, check: Check, level: Level, mark: Mark, message: String) {
        let (line, column) = (mark.line, mark.column);
        self.list.push(Finding {
            level,
            message,
            line,
            column,
            check,
        });
    }

    pub(crate) fn wrong_type(&mut self, mark: Mark, name: &str, want: &str) {
        self.add(
            Check::Structure,
            Level::Warning,
            mark,
            format!("incorrect type for \"{name}\" (want {want})"),
        );
    }

    pub(crate) fn invalid(&mut self, mark: Mark, value: &str) {
        let message = format!("invalid value {value}");
        self.add(Check::Pattern, Level::Error, mark, message);
    }
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// The place of its key.
    pub mark: Mark,
}

/// One mapping being read. Call [`Fields::finish`] last: it reports the keys nobody asked for.
pub(crate) struct Fields<'n, 'f> {
    entries: &'n [Entry],
    used: Vec<bool>,
    pub(crate) findings: &'f mut Findings,
}

impl<'n, 'f> Fields<'n, 'f> {
    /// Reads `node` as a mapping called `name`; a null is an empty one.
    pub(crate) fn open(node: &'n Node, name: &str, findings: &'f mut Findings) -> Self {
        let entries = match node.as_map() {
            Some(entries) => entries,
            None => {
                if !node.is_null() {
                    findings.wrong_type(node.mark, name, "struct");
                }
                &[]
            }
        };
        Self {
            entries,
            used: vec![false; entries.len()],
            findings,
        }
    }

    /// The entry of `key`, marked as known. Null values count as absent.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'n Entry> {
        let index = self.entries.iter().position(|e| e.key == key)?;
        self.used[index] = true;
        Some(&self.entries[index]).filter(|e| !e.node.is_null())
    }

    /// The place of the mapping's key, if it is there.
    pub(crate) fn mark_of(&self, key: &str) -> Option<Mark> {
        self.entries.iter().find(|e| e.key == key).map(|e| e.mark)
    }

    fn scalar(&mut self, key: &str, want: &str) -> Option<(&'n Scalar, Mark)> {
        let entry = self.take(key)?;
        match entry.node.as_scalar() {
            Some(scalar) => Some((scalar, entry.mark)),
            None => {
                self.findings.wrong_type(entry.mark, key, want);
                None
            }
        }
    }

    /// Text; a plain number or boolean keeps its source text.
    pub(crate) fn text(&mut self, key: &str) -> Option<At<String>> {
        let (scalar, mark) = self.scalar(key, "string")?;
        let value = match binary_text(scalar) {
            Some(Ok(text)) => text,
            Some(Err(())) => {
                self.findings.wrong_type(mark, key, "string");
                return None;
            }
            None => scalar.text.clone(),
        };
        Some(At { value, mark })
    }

    /// Text without its place, empty if absent.
    pub(crate) fn plain_text(&mut self, key: &str) -> String {
        self.text(key).map(|t| t.value).unwrap_or_default()
    }

    /// Text that must have a form.
    pub(crate) fn checked_text(&mut self, key: &str, pattern: Pattern) -> Option<At<String>> {
        let text = self.text(key).filter(|t| !t.value.is_empty())?;
        if !pattern.matches(&text.value) {
            self.findings.invalid(text.mark, &text.value);
        }
        Some(text)
    }

    pub(crate) fn bool(&mut self, key: &str) -> bool {
        self.maybe_bool(key).unwrap_or(false)
    }

    pub(crate) fn maybe_bool(&mut self, key: &str) -> Option<bool> {
        let (scalar, mark) = self.scalar(key, "bool")?;
        let value = scalar.as_bool();
        if value.is_none() {
            self.findings.wrong_type(mark, key, "bool");
        }
        value
    }

    pub(crate) fn int(&mut self, key: &str) -> Option<At<i64>> {
        let (scalar, mark) = self.scalar(key, "int")?;
        let value = scalar.as_int();
        if value.is_none() {
            self.findings.wrong_type(mark, key, "int");
        }
        Some(At {
            value: value?,
            mark,
        })
    }

    /// A list of texts; items of another type are dropped one by one.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(entry) = self.take(key) else {
            return Vec::new();
        };
        let Some(items) = entry.node.as_list() else {
            self.findings.wrong_type(entry.mark, key, "[]string");
            return Vec::new();
        };
        self.text_items(items, key)
    }

    pub(crate) fn text_items(&mut self, items: &[Node], key: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item.as_scalar() {
                Some(scalar) => texts.push(scalar.text.clone()),
                None if item.is_null() => {}
                None => self
                    .findings
                    .wrong_type(item.mark, &format!("{key}[{index}]"), "string"),
            }
        }
        texts
    }

    /// A list of mappings.
    pub(crate) fn items(&mut self, key: &str) -> &'n [Node] {
        let Some(entry) = self.take(key) else {
            return &[];
        };
        match entry.node.as_list() {
            Some(items) => items,
            None => {
                self.findings.wrong_type(entry.mark, key, "[]struct");
                &[]
            }
        }
    }

    /// An option of a table as text to write out; zero values count as not set.
    pub(crate) fn option(&mut self, row: &OptionRow) -> Option<At<String>> {
        let entry_mark = self.mark_of(row.key);
        if let (Some(mark), Some(reason)) = (entry_mark, row.deprecated) {
            self.deprecated(mark, row.key, reason);
        }
        match row.kind {
            Kind::Text => match row.pattern {
                Some(pattern) => self.checked_text(row.key, pattern),
                None => self.text(row.key),
            }
            .filter(|t| !t.value.is_empty()),
            Kind::Bool => self
                .bool(row.key)
                .then(|| "true".to_owned())
                .map(|value| At {
                    value,
                    mark: entry_mark.unwrap_or(Mark::START),
                }),
            Kind::Int => {
                let int = self.int(row.key).filter(|n| n.value != 0)?;
                Some(At {
                    value: int.value.to_string(),
                    mark: int.mark,
                })
            }
            Kind::Float => {
                let (scalar, mark) = self.scalar(row.key, "float64")?;
                let Some(float) = scalar.as_float() else {
                    self.findings.wrong_type(mark, row.key, "float64");
                    return None;
                };
                (float != 0.0).then(|| At {
                    value: float.to_string(),
                    mark,
                })
            }
        }
    }

    pub(crate) fn deprecated(&mut self, mark: Mark, key: &str, reason: &str) {
        self.findings.add(
            Check::Structure,
            Level::Warning,
            mark,
            format!("deprecated key \"{key}\" ({reason})"),
        );
    }

    /// Reports every key that was not asked for.
    pub(crate) fn finish(self) {
        for (entry, used) in self.entries.iter().zip(&self.used) {
            if !used {
                self.findings.add(
                    Check::Structure,
                    Level::Warning,
                    entry.mark,
                    format!("unrecognized key \"{}\"", entry.key),
                );
            }
        }
    }
}

/// The text of a `!!binary` scalar, or `None` if it is not one.
fn binary_text(scalar: &Scalar) -> Option<Result<String, ()>> {
    scalar.binary.then(|| {
        let bytes = super::content::base64_decode(scalar.text.as_bytes()).map_err(|_| ())?;
        String::from_utf8(bytes).map_err(|_| ())
    })
}
