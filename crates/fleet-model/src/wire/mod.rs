//! The JSON of the HTTP API v1. Fields are left out when empty, as the original does. What goes
//! beyond v1 is in [`flotilla`].

pub mod flotilla;

use serde::{Deserialize, Serialize};

use crate::machine::Metadata;
use crate::text::UnitOption;

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unit {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its text, as options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<UnitOption>,
    /// What is wanted of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub desired_state: String,
    /// What has come of it; empty for global units.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current_state: String,
    /// Where it is scheduled.
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
}

/// A page of units.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitPage {
    /// The units.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<Unit>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// One machine's state of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitState {
    /// The unit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Hash of its text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// The machine.
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// systemd's LoadState.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_load_state: String,
    /// systemd's ActiveState.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_active_state: String,
    /// systemd's SubState.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_sub_state: String,
}

/// A page of states.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitStatePage {
    /// The states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<UnitState>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its ID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Where it can be reached.
    #[serde(rename = "primaryIP", skip_serializing_if = "String::is_empty")]
    pub primary_ip: String,
    /// Its effective metadata.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// A page of machines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachinePage {
    /// The machines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<Machine>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// An error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorEntity,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntity {
    /// The HTTP status.
    pub code: u16,
    /// One line; may be empty.
    #[serde(default)]
    pub message: String,
}

/// One change of a machine's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataPatch {
    /// `add`, `remove` or `replace`.
    #[serde(default)]
    pub op: String,
    /// `/MACHINE/metadata/KEY`.
    #[serde(default)]
    pub path: String,
    /// The value, in the documented form or in the one that the original reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<PatchValue>,
}

/// A value, bare or wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PatchValue {
    /// `"x"`.
    Bare(String),
    /// `{"value":"x"}`.
    Wrapped {
        /// The value.
        value: String,
    },
}

impl PatchValue {
    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bare(value) | Self::Wrapped { value } => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_left_out() {
        assert_eq!(serde_json::to_string(&UnitPage::default()).unwrap(), "{}");
        assert_eq!(
            serde_json::to_string(&MachinePage::default()).unwrap(),
            "{}"
        );
        let unit = Unit {
            name: "a.service".into(),
            options: vec![UnitOption::new("S", "n", "v")],
            desired_state: "launched".into(),
            current_state: String::new(),
            machine_id: "m".into(),
        };
        let json = r#"{"name":"a.service","options":[{"section":"S","name":"n","value":"v"}],"desiredState":"launched","machineID":"m"}"#;
        assert_eq!(serde_json::to_string(&unit).unwrap(), json);
        assert_eq!(serde_json::from_str::<Unit>(json).unwrap(), unit);
    }

    #[test]
    fn both_forms_of_a_patch_value_are_read() {
        for json in [r#""x""#, r#"{"value":"x"}"#] {
            assert_eq!(
                serde_json::from_str::<PatchValue>(json).unwrap().as_str(),
                "x"
            );
        }
    }
}
