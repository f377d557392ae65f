//! What is asked of a machine's metadata.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::machine::Metadata;

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `!=`.
    NotEqual,
    /// `<`.
    Less,
    /// `<=`.
    AtMost,
    /// `>`.
    Greater,
    /// `>=`.
    AtLeast,
}

/// `key!=a|b`, `key<5` and the like. All rules must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataRule {
    text: String,
    key: String,
    comparison: Comparison,
    value: String,
}

impl MetadataRule {
    /// The rule as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a machine keeps it. `!=` holds where the key is missing, comparisons do not.
    #[must_use]
    pub fn holds(&self, metadata: &Metadata) -> bool {
        let Some(value) = metadata.get(&self.key) else {
            return self.comparison == Comparison::NotEqual;
        };
        let order = || compare(value, &self.value);
        match self.comparison {
            Comparison::NotEqual => {
                *value != self.value && self.value.split('|').all(|v| v != value)
            }
            Comparison::Less => order() == Ordering::Less,
            Comparison::AtMost => order() != Ordering::Greater,
            Comparison::Greater => order() == Ordering::Greater,
            Comparison::AtLeast => order() != Ordering::Less,
        }
    }
}

/// As numbers if both are, else as text.
fn compare(a: &str, b: &str) -> Ordering {
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite());
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    }
}

/// Everything asked of the metadata: `key=value` pairs, alternatives by key, and rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetadataDemand {
    /// For each key, the machine's value must be one of these.
    pub values: BTreeMap<String, BTreeSet<String>>,
    /// All of these must hold.
    pub rules: Vec<MetadataRule>,
}

/// Why an item asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// A pair that the original skips.
    Pair,
    /// A broken rule.
    Rule(&'static str),
}

impl MetadataDemand {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.rules.is_empty()
    }

    /// Takes one item: `key=value`, `key=a|b`, `key!=value`, `key<value`, …
    pub(super) fn add(&mut self, item: &str) -> Result<(), Unread> {
        let at = item.bytes().enumerate().find_map(|(at, byte)| {
            let next = item.as_bytes().get(at + 1);
            match (byte, next) {
                (b'!', Some(b'=')) => Some((at, 2, Some(Comparison::NotEqual))),
                (b'<', Some(b'=')) => Some((at, 2, Some(Comparison::AtMost))),
                (b'>', Some(b'=')) => Some((at, 2, Some(Comparison::AtLeast))),
                (b'<', _) => Some((at, 1, Some(Comparison::Less))),
                (b'>', _) => Some((at, 1, Some(Comparison::Greater))),
                (b'=', _) => Some((at, 1, None)),
                _ => None,
            }
        });
        let Some((at, length, comparison)) = at else {
            return Err(Unread::Pair);
        };
        // The operators are ASCII, so these are character boundaries.
        let (key, value) = (&item[..at], &item[at + length..]);
        let Some(comparison) = comparison else {
            if key.is_empty() || value.is_empty() || value.contains('=') {
                return Err(Unread::Pair);
            }
            let alternatives = self.values.entry(key.to_owned()).or_default();
            if value.contains('|') {
                let listed = value.split('|').filter(|v| !v.is_empty());
                alternatives.extend(listed.map(str::to_owned));
            }
            // Also whole: the original knew no lists.
            alternatives.insert(value.to_owned());
            return Ok(());
        };
        if key.is_empty() {
            return Err(Unread::Rule("no key before the operator"));
        }
        if value.is_empty() {
            return Err(Unread::Rule("no value after the operator"));
        }
        if value.contains(['=', '<', '>']) {
            return Err(Unread::Rule("more than one operator"));
        }
        if comparison != Comparison::NotEqual && value.contains('|') {
            return Err(Unread::Rule("a list can only be compared with = and !="));
        }
        self.rules.push(MetadataRule {
            text: item.to_owned(),
            key: key.to_owned(),
            comparison,
            value: value.to_owned(),
        });
        Ok(())
    }

    /// The parts that a machine does not meet, as keys and as written rules.
    pub fn unmet<'a>(&'a self, metadata: &'a Metadata) -> impl Iterator<Item = &'a str> + 'a {
        let values = self
            .values
            .iter()
            .filter(|(key, values)| metadata.get(*key).is_none_or(|v| !values.contains(v)));
        let rules = self.rules.iter().filter(|rule| !rule.holds(metadata));
        values
            .map(|(key, _)| key.as_str())
            .chain(rules.map(MetadataRule::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_compare_numbers_as_numbers_and_text_as_text() {
        for (rule, metadata, expect) in [
            ("zone!=a", "zone=b", true),
            ("zone!=a", "zone=a", false),
            ("zone!=a", "", true),
            ("zone!=a|b", "zone=b", false),
            ("zone!=a|b", "zone=c", true),
            ("zone=a|b", "zone=b", true),
            ("zone=a|b", "zone=a|b", true),
            ("zone=a|b", "zone=c", false),
            ("zone=a|b", "", false),
            ("ram<16", "ram=9", true),
            ("ram<16", "ram=16", false),
            ("ram<=16", "ram=16.0", true),
            ("ram>9", "ram=16", true),
            ("ram>=16", "ram=9", false),
            ("ram>=1e3", "ram=1000", true),
            ("kernel>=6.1", "kernel=6.12-cloud", true),
            ("release<b", "release=a", true),
            ("x<nan", "x=m", true),
            ("ram>9", "", false),
            ("ram<9", "", false),
        ] {
            let mut demand = MetadataDemand::default();
            demand.add(rule).unwrap();
            let metadata = crate::parse_metadata(metadata);
            assert_eq!(
                demand.unmet(&metadata).next().is_none(),
                expect,
                "{rule} {metadata:?}"
            );
        }
    }

    #[test]
    fn broken_pairs_are_told_from_broken_rules() {
        for (item, expect) in [
            ("broken", Unread::Pair),
            ("a=b=c", Unread::Pair),
            ("=x", Unread::Pair),
            ("x=", Unread::Pair),
            ("!=x", Unread::Rule("no key before the operator")),
            ("x<", Unread::Rule("no value after the operator")),
            ("x>=y=z", Unread::Rule("more than one operator")),
            (
                "x<1|2",
                Unread::Rule("a list can only be compared with = and !="),
            ),
        ] {
            assert_eq!(MetadataDemand::default().add(item), Err(expect), "{item}");
        }
        // An operator after the first "=" is part of a value, as ever.
        let mut demand = MetadataDemand::default();
        demand.add("role=a<b").unwrap();
        assert_eq!(demand.unmet(&crate::parse_metadata("role=a<b")).count(), 0);
    }
}
