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
    /// When it entered this state, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last wish for a restart that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<u64>,
    /// Whether it says that it is ready, if it says so at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Of a unit whose start was asked for and that is inactive: whether it has run to its end, or
    /// its start is yet to come. Older daemons do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<bool>,
}

/// How far a unit is with running, as far as others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Activity {
    /// Not started, or on its way.
    #[default]
    Pending,
    /// Its start was asked for, and it is not running: it is about to start, or has run to its end;
    /// its machine does not say which.
    Idle,
    /// Failed.
    Failed,
    /// It has run to its end, as a oneshot does, and has not failed.
    Done,
    /// Running and, if it says so, ready.
    Active,
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
            since: None,
            restart: None,
            ready: None,
            ended: None,
        }
    }

    /// How far the unit is with running.
    #[must_use]
    pub fn activity(&self) -> Activity {
        match (self.phase, self.active.as_str()) {
            (_, "failed") => Activity::Failed,
            (_, "active" | "reloading") if self.ready != Some(false) => Activity::Active,
            (Phase::Launched, "inactive") => match self.ended {
                Some(true) => Activity::Done,
                Some(false) => Activity::Pending,
                None => Activity::Idle,
            },
            _ => Activity::Pending,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_is_what_others_may_rely_on() {
        for (phase, active, ready, expect) in [
            (Phase::Launched, "active", None, Activity::Active),
            (Phase::Launched, "active", Some(false), Activity::Pending),
            (Phase::Launched, "active", Some(true), Activity::Active),
            (Phase::Launched, "reloading", None, Activity::Active),
            (Phase::Launched, "activating", None, Activity::Pending),
            (Phase::Launched, "inactive", None, Activity::Idle),
            (Phase::Loaded, "inactive", None, Activity::Pending),
            (Phase::Loaded, "active", None, Activity::Active),
            (Phase::Launched, "failed", None, Activity::Failed),
        ] {
            let state = UnitState {
                active: active.into(),
                phase,
                ready,
                ..UnitState::claim("")
            };
            assert_eq!(state.activity(), expect, "{state:?}");
        }
        for (phase, active, expect) in [
            (
                Phase::Launched,
                "inactive",
                [Activity::Pending, Activity::Done],
            ),
            (Phase::Launched, "active", [Activity::Active; 2]),
            (Phase::Launched, "failed", [Activity::Failed; 2]),
            (Phase::Loaded, "inactive", [Activity::Pending; 2]),
        ] {
            for (ended, expect) in [false, true].into_iter().zip(expect) {
                let state = UnitState {
                    active: active.into(),
                    phase,
                    ended: Some(ended),
                    ..UnitState::claim("")
                };
                assert_eq!(state.activity(), expect, "{state:?}");
            }
        }
    }

    #[test]
    fn records_of_older_daemons_are_read() {
        let json =
            r#"{"hash":"h","load":"loaded","active":"active","sub":"running","phase":"launched"}"#;
        let state: UnitState = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
    }
}
