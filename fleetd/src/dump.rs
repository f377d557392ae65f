//! SIGUSR1: one line of JSON on standard output about what this machine shall run and what it has
//! published, for whoever looks into a problem.

use std::collections::BTreeMap;
use std::io::Write as _;

use fleet_model::{MachineId, TargetState, UnitName, UnitState};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::presence::Standing;
use crate::registry::{Desired, Mirror, Registry};

/// What is written.
#[derive(Debug, Serialize)]
struct Dump {
    machine: String,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// Units that this machine shall have, or has to decide about itself.
    agent: BTreeMap<UnitText, AgentEntry>,
    /// What it has published; absent while etcd cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher: Option<BTreeMap<UnitText, UnitState>>,
}

type UnitText = String;

#[derive(Debug, PartialEq, Eq, Serialize)]
struct AgentEntry {
    target: TargetState,
    hash: String,
    global: bool,
}

/// Answers the signal until the runtime ends.
pub(crate) async fn answer_signal(
    registry: Registry,
    mirror: Mirror,
    standing: watch::Receiver<Standing>,
    me: MachineId,
) {
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(asked) => asked,
        Err(error) => {
            tracing::warn!("failed to receive SIGUSR1: {error}");
            return;
        }
    };
    while asked.recv().await.is_some() {
        let states = registry.states(None).await.ok();
        let dump = {
            let standing = standing.borrow();
            Dump {
                machine: me.to_string(),
                healthy: standing.healthy,
                lease: standing.lease.map(|l| l.to_string()),
                agent: concerning(&mirror.read(), &me),
                publisher: states.map(|states| own(states, &me)),
            }
        };
        let mut line = serde_json::to_vec(&dump).unwrap_or_default();
        line.push(b'\n');
        // Nobody may be there to read it.
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

fn concerning(desired: &Desired, me: &MachineId) -> BTreeMap<UnitText, AgentEntry> {
    let mine = desired
        .units
        .iter()
        .filter(|(_, unit)| unit.scheduled.as_ref() == Some(me) || unit.requirements.global);
    mine.map(|(name, unit)| {
        let entry = AgentEntry {
            target: unit.target,
            hash: unit.hash.to_string(),
            global: unit.requirements.global,
        };
        (name.to_string(), entry)
    })
    .collect()
}

fn own(
    states: Vec<(UnitName, MachineId, UnitState)>,
    me: &MachineId,
) -> BTreeMap<UnitText, UnitState> {
    let mine = states.into_iter().filter(|(_, machine, _)| machine == me);
    mine.map(|(name, _, state)| (name.to_string(), state))
        .collect()
}
