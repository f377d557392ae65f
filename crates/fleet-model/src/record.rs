//! Results of batch units. Fields may be added; unknown ones are ignored.

use serde::{Deserialize, Serialize};

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
}

impl BatchResult {
    /// Whether no further attempt is due.
    #[must_use]
    pub fn is_final(&self, retries: u32) -> bool {
        self.outcome == Outcome::Success || self.attempts > retries
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
        let outcome = Outcome::Success;
        assert!(BatchResult { outcome, ..result }.is_final(9));
    }
}
