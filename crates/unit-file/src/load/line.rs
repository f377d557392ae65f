//! One assignment on its way into a typed setting.

use crate::name::clean_path;
use crate::settings::{Amount, PathEntry, Usec};
use crate::specifier::Specifiers;
use crate::value;

/// What came of a line: taken, or the key is not known. An error text means: line ignored.
pub(super) type Taken = Result<bool, String>;

/// A value with what is needed to read it.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) value: &'a str,
    pub(super) specifiers: &'a Specifiers<'a>,
}

impl Line<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    fn bad(&self, what: &str) -> String {
        format!("{:?} is not {what}", self.value)
    }

    pub(super) fn boolean(&self) -> Result<bool, String> {
        value::parse_bool(self.value).ok_or_else(|| self.bad("a boolean"))
    }

    pub(super) fn span(&self) -> Result<Usec, String> {
        value::parse_span(self.value).ok_or_else(|| self.bad("a time span"))
    }

    /// A time-out: 0 and infinity both mean none.
    pub(super) fn timeout(&self) -> Result<Usec, String> {
        Ok(match self.span()? {
            0 => crate::settings::INFINITY,
            span => span,
        })
    }

    pub(super) fn size(&self) -> Result<u64, String> {
        value::parse_size(self.value).ok_or_else(|| self.bad("a size"))
    }

    pub(super) fn amount(&self) -> Result<Option<Amount>, String> {
        if self.is_empty() {
            return Ok(None);
        }
        value::parse_amount(self.value)
            .map(Some)
            .ok_or_else(|| self.bad("a size, percentage or infinity"))
    }

    pub(super) fn mode(&self) -> Result<u32, String> {
        value::parse_mode(self.value).ok_or_else(|| self.bad("an octal mode"))
    }

    pub(super) fn signal(&self) -> Result<i32, String> {
        value::parse_signal(self.value).ok_or_else(|| self.bad("a signal"))
    }

    pub(super) fn number<T: std::str::FromStr>(&self) -> Result<T, String> {
        self.value
            .parse()
            .map_err(|_| self.bad("a number in range"))
    }

    /// A number in a closed range.
    pub(super) fn within(&self, low: i64, high: i64) -> Result<i64, String> {
        let n: i64 = self.number()?;
        if n < low || n > high {
            return Err(format!("{n} is not between {low} and {high}"));
        }
        Ok(n)
    }

    pub(super) fn word<T: Copy>(&self, table: &[(&str, T)]) -> Result<T, String> {
        table
            .iter()
            .find(|(w, _)| *w == self.value)
            .map(|(_, t)| *t)
            .ok_or_else(|| {
                let words: Vec<&str> = table.iter().map(|(w, _)| *w).collect();
                format!("{:?} is none of {}", self.value, words.join(" "))
            })
    }

    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        self.specifiers.expand(text).map_err(|e| e.to_string())
    }

    /// The expanded text; `None` when empty.
    pub(super) fn text(&self) -> Result<Option<String>, String> {
        if self.is_empty() {
            Ok(None)
        } else {
            self.expand(self.value).map(Some)
        }
    }

    /// The expanded text, a clean absolute path.
    pub(super) fn path(&self) -> Result<Option<String>, String> {
        match self.text()? {
            None => Ok(None),
            Some(p) => clean_path(&p)
                .map(Some)
                .ok_or_else(|| format!("{p:?} is not an absolute path")),
        }
    }

    /// Words, quotes undone, specifiers expanded.
    pub(super) fn words(&self) -> Result<Vec<String>, String> {
        let words = value::split_words(self.value).map_err(|e| e.to_string())?;
        words.iter().map(|w| self.expand(w)).collect()
    }
}

/// Appends words; an empty value resets.
pub(super) fn list(slot: &mut Vec<String>, line: Line<'_>) -> Taken {
    if line.is_empty() {
        slot.clear();
    } else {
        let words = line.words()?;
        slot.extend(words);
    }
    Ok(true)
}

/// Appends names, leaving out what is there; an empty value resets nothing (dependencies cannot be reset).
pub(super) fn names(slot: &mut Vec<String>, line: Line<'_>) -> Taken {
    for word in line.words()? {
        if !slot.contains(&word) {
            slot.push(word);
        }
    }
    Ok(true)
}

/// Sets a slot.
pub(super) fn set<T>(slot: &mut T, value: Result<T, String>) -> Taken {
    *slot = value?;
    Ok(true)
}

/// Paths with `-` and `+` prefixes.
pub(super) fn path_list(slot: &mut Vec<PathEntry>, line: Line<'_>) -> Taken {
    if line.is_empty() {
        slot.clear();
        return Ok(true);
    }
    for word in line.words()? {
        let mut rest = word.as_str();
        let mut entry = PathEntry {
            path: String::new(),
            optional: false,
            below_root: false,
        };
        loop {
            if let Some(r) = rest.strip_prefix('-') {
                entry.optional = true;
                rest = r;
            } else if let Some(r) = rest.strip_prefix('+') {
                entry.below_root = true;
                rest = r;
            } else {
                break;
            }
        }
        entry.path = clean_path(rest).ok_or_else(|| format!("{word:?} is not an absolute path"))?;
        slot.push(entry);
    }
    Ok(true)
}
