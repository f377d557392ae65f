//! The JSON below `/flotilla/v1`: what goes beyond the API v1. Names are in snake_case; what is
//! absent is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::Cpu;
use crate::machine::Metadata;

/// Where a unit could run, where it runs, and why. `GET explain/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// The unit.
    pub unit: String,
    /// What is wanted of it.
    pub target: String,
    /// Whether it is scheduled on a machine.
    pub scheduled: bool,
    /// That machine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// Why it is there, or why the engine does not schedule it.
    pub reason: String,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Every machine, best first.
    pub machines: Vec<Candidate>,
}

/// One machine, as seen by a unit that looks for a place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// Its ID.
    pub id: String,
    /// Where it can be reached.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Whether the unit could run there.
    pub fits: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub obstacle: String,
    /// How often the batch unit has failed there since it was started anew.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u64,
    /// How many preferences it does not meet.
    pub unmet: u64,
    /// Its load: one per unit, and one per hundredth of what it offers that is reserved.
    pub load: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// All machines. `GET machines`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machines {
    /// By ID.
    pub machines: Vec<Machine>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its ID.
    pub id: String,
    /// Where it can be reached.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Its effective metadata.
    pub metadata: Metadata,
    /// Version of its daemon.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// It takes no new units.
    pub cordoned: bool,
    /// Units leave it.
    pub draining: bool,
    /// Memory that it offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors that it offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpu>,
    /// Memory reserved by its units.
    pub reserved_memory_bytes: u64,
    /// Processors reserved by its units.
    pub reserved_cpus: Cpu,
    /// How many units it has, global ones included.
    pub units: usize,
}

/// Machines that may take over a global unit's new text: those that may so far, or those that shall,
/// too. `GET` and `POST units/NAME/turns`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turns {
    /// Their IDs.
    pub machines: Vec<String>,
}

/// `POST rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceRequest {
    /// How many units may be moved; a default if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u32>,
}

/// How far the leader is with what `POST rebalance` asked for. `GET rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rebalancing {
    /// The leader has not dealt with the last request yet.
    pub pending: bool,
    /// How many units the last request that it has dealt with moves.
    pub moved: u32,
    /// These units and the machine that each leaves; not all, if there are very many.
    pub units: BTreeMap<String, String>,
}

/// A unit on all its machines. `GET units/NAME/states`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitRuns {
    /// Names the last restart asked for; 0 for none. Restarts asked for later have larger names.
    pub restart: u64,
    /// By machine.
    pub states: Vec<UnitRun>,
}

/// A unit on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitRun {
    /// The machine.
    pub machine: String,
    /// Hash of the text that it runs.
    pub hash: String,
    /// systemd's LoadState.
    pub load: String,
    /// systemd's ActiveState.
    pub active: String,
    /// systemd's SubState.
    pub sub: String,
    /// Since when it is so, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Names the last restart that it has carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<u64>,
    /// Whether it says that it is ready, if it says so at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// Who the caller is. `GET whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WhoAmI {
    /// Name of the user or the certificate.
    pub name: String,
    /// `read`, `operate` or `admin`.
    pub role: String,
    /// How that is known: `unix`, `tls` or `plain`.
    pub via: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_as_documented() {
        let machine = Machine {
            id: "m1".into(),
            cpus: Some(Cpu::from_millis(3500)),
            ..Machine::default()
        };
        let json = r#"{"id":"m1","metadata":{},"cordoned":false,"draining":false,"cpus":3.5,"reserved_memory_bytes":0,"reserved_cpus":0,"units":0}"#;
        assert_eq!(serde_json::to_string(&machine).unwrap(), json);
        assert_eq!(serde_json::from_str::<Machine>(json).unwrap(), machine);
        let explanation: Explanation =
            serde_json::from_str(r#"{"unit":"a.service","machines":[{"id":"m1","fits":true}]}"#)
                .unwrap();
        assert!(explanation.machines[0].fits && explanation.waiting.is_none());
        assert!(serde_json::from_str::<RebalanceRequest>(r#"{"bugdet":1}"#).is_err());
    }
}
