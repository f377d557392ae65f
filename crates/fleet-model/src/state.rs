//! States of units: wanted, derived, and as the service manager sees them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wanted of a unit, and the same three words for what has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// Known, on no machine.
    Inactive,
    /// On a machine, known to its service manager, not started.
    Loaded,
    /// On a machine, and its start was asked for.
    Launched,
}

impl TargetState {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Loaded => "loaded",
            Self::Launched => "launched",
        }
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid state \"{0}\": not one of inactive, loaded, launched")]
pub struct ParseTargetError(String);

impl FromStr for TargetState {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Inactive, Self::Loaded, Self::Launched]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| ParseTargetError(text.chars().take(40).collect()))
    }
}

/// How far a machine has got with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The machine has taken it, or has not let go of it yet: nobody else may run it.
    Claimed,
    /// The service manager knows it.
    Loaded,
    /// Its start was asked for.
    Launched,
}

/// One machine's record of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Hash of the text that runs.
    pub hash: String,
    /// systemd's LoadState.
    pub load: String,
    /// systemd's ActiveState.
    pub active: String,
    /// systemd's SubState.
    pub sub: String,
    /// How far the machine has got.
    pub phase: Phase,
}

impl UnitState {
    /// The record that keeps other machines off a unit before anything is done with it.
    #[must_use]
    pub fn claim(hash: &str) -> Self {
        Self {
            hash: hash.to_owned(),
            load: "not-found".into(),
            active: "inactive".into(),
            sub: "dead".into(),
            phase: Phase::Claimed,
        }
    }

    /// The state of a unit as clients see it, from its target machine's record.
    #[must_use]
    pub fn current(record: Option<&Self>) -> TargetState {
        match record.map(|r| r.phase) {
            None | Some(Phase::Claimed) => TargetState::Inactive,
            Some(Phase::Loaded) => TargetState::Loaded,
            Some(Phase::Launched) => TargetState::Launched,
        }
    }
}
