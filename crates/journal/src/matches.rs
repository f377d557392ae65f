//! Which entries are wanted, answered from the data objects' own lists of entries, not by reading every entry.

use crate::chain::Chain;
use crate::file::{FileReader, ReadError};
use crate::merge::Direction;

/// A condition on entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The entry has exactly this field (`NAME=value`).
    Field(Vec<u8>),
    /// All hold. None at all is true for every entry.
    And(Vec<Match>),
    /// One holds. None at all is true for no entry.
    Or(Vec<Match>),
}

impl Match {
    /// The field `name` has this value.
    pub fn field(name: &str, value: impl AsRef<[u8]>) -> Self {
        let mut payload = format!("{name}=").into_bytes();
        payload.extend_from_slice(value.as_ref());
        Self::Field(payload)
    }
}

/// A condition with its lists looked up in one file.
#[derive(Debug)]
pub(crate) enum Resolved {
    All,
    Never,
    List(Chain),
    And(Vec<Resolved>),
    Or(Vec<Resolved>),
}

impl Resolved {
    pub(crate) fn new(file: &FileReader, wanted: &Match) -> Result<Self, ReadError> {
        let each = |list: &[Match]| {
            list.iter()
                .map(|m| Self::new(file, m))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(match wanted {
            Match::Field(payload) => match file.find_data(payload)? {
                Some(at) => Self::List(file.entries_with(at)?),
                None => Self::Never,
            },
            Match::And(list) if list.is_empty() => Self::All,
            Match::And(list) => {
                let list = each(list)?;
                if list.iter().any(|r| matches!(r, Self::Never)) {
                    Self::Never
                } else {
                    Self::And(list)
                }
            }
            Match::Or(list) => {
                let mut list = each(list)?;
                list.retain(|r| !matches!(r, Self::Never));
                if list.is_empty() {
                    Self::Never
                } else {
                    Self::Or(list)
                }
            }
        })
    }

    /// The nearest entry offset that satisfies the condition and is not before (after, going backward) `from`.
    pub(crate) fn seek(&self, file: &FileReader, from: u64, direction: Direction) -> Option<u64> {
        let forward = direction == Direction::Forward;
        match self {
            Self::All if forward => file.main().first_from(file, from),
            Self::All => file.main().last_upto(file, from),
            Self::Never => None,
            Self::List(chain) if forward => chain.first_from(file, from),
            Self::List(chain) => chain.last_upto(file, from),
            Self::Or(list) => {
                let found = list.iter().filter_map(|r| r.seek(file, from, direction));
                if forward { found.min() } else { found.max() }
            }
            Self::And(list) => {
                let mut at = from;
                loop {
                    let start = at;
                    for part in list {
                        at = part.seek(file, at, direction)?;
                    }
                    // Settled when a whole round moved nothing. The first round may only have moved from `from` to
                    // the first candidate, which the second then confirms.
                    if at == start {
                        return Some(at);
                    }
                }
            }
        }
    }
}
