//! Results of batch units. Fields may be added; unknown ones are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::MachineId;

/// How a batch unit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Success,
    /// Otherwise.
    Failure,
}

/// The end of a batch unit's last attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    /// How it ended.
    pub outcome: Outcome,
    /// Exit status, or the number of the signal that ended it.
    pub exit_status: i32,
    /// How many attempts there were, this one included.
    pub attempts: u32,
    /// The machine of the last attempt.
    pub machine: String,
    /// When it ended, RFC 3339.
    #[serde(default)]
    pub finished: String,
    /// How many attempts failed, by machine, this one included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u32>,
}

impl BatchResult {
    /// Whether no further attempt is due.
    #[must_use]
    pub fn is_final(&self, retries: u32) -> bool {
        self.outcome == Outcome::Success || self.attempts > retries
    }

    /// Whether it is a failure after which the leader has yet to decide about the next attempt.
    /// `answered` is the last attempt after which it has.
    #[must_use]
    pub fn is_open(&self, retries: u32, answered: u32) -> bool {
        !self.is_final(retries) && self.attempts > answered
    }

    /// How many attempts failed on a machine.
    #[must_use]
    pub fn failures_on(&self, machine: &MachineId) -> u32 {
        let last = self.outcome == Outcome::Failure && self.machine == machine.as_str();
        let counted = self.failures.get(machine.as_str()).copied();
        counted.unwrap_or(0).max(u32::from(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_final_when_the_retries_are_used_up() {
        let json = r#"{"outcome":"failure","exit_status":3,"attempts":2,"machine":"m1","new":1}"#;
        let result: BatchResult = serde_json::from_str(json).unwrap();
        assert!(result.is_final(1) && !result.is_final(2));
        for (retries, answered, open) in [(2, 0, true), (2, 1, true), (2, 2, false), (1, 0, false)]
        {
            assert_eq!(result.is_open(retries, answered), open);
        }
        let machine = |id| MachineId::parse(id).unwrap();
        assert_eq!(result.failures_on(&machine("m1")), 1);
        let json = r#"{"outcome":"failure","exit_status":3,"attempts":4,"machine":"m1","failures":{"m1":3,"m2":1}}"#;
        let counted: BatchResult = serde_json::from_str(json).unwrap();
        for (id, failures) in [("m1", 3), ("m2", 1), ("m3", 0)] {
            assert_eq!(counted.failures_on(&machine(id)), failures, "{id}");
        }
        let outcome = Outcome::Success;
        assert!(BatchResult { outcome, ..result }.is_final(9));
    }
}
