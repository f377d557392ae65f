//! The leader's decisions: which machine runs which unit, and why.
//!
//! [`Scheduler`] is the index; the daemon tells it every change it sees and asks for a [`Plan`].
//! Only what a change touches is looked at again, so a decision does not cost more in a large
//! cluster. [`plan`] builds an index from a whole [`ClusterView`] and asks once.
//!
//! Rules, in the order in which a machine is tested for a unit: MachineID, metadata, MachineOf,
//! Conflicts, Replaces. Of the machines that pass, the one with the fewest units is taken, ties by
//! machine ID. Units are visited in name order; a unit that waits for a peer is looked at again as
//! soon as the peer is placed.
//!
//! What must stay true:
//!
//! - A unit moves stop-first: it is unscheduled, and only when no living machine holds a record of
//!   it any more is it scheduled elsewhere. A machine that is gone holds nothing.
//! - Equal inputs give equal plans. After a plan is applied, the next one is empty, except for the
//!   second half of moves.
//! - Every wanted unit that is not global is scheduled or has a [`Waiting`] that says why not.

mod population;
mod reason;
mod scheduler;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use population::{Population, accept_globals};
pub use reason::{Obstacle, Reason, Waiting};
pub use scheduler::Scheduler;

use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::requirements::Requirements;
use crate::state::TargetState;

/// One unit, as far as scheduling is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitView {
    /// What it asks for.
    pub requirements: Arc<Requirements>,
    /// What is wanted of it.
    pub target: TargetState,
    /// Where it is scheduled.
    pub scheduled: Option<MachineId>,
    /// Machines that have a record of it.
    pub held_by: BTreeSet<MachineId>,
}

/// A whole cluster: every unit, and every machine that is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// All units.
    pub units: BTreeMap<UnitName, UnitView>,
    /// The machines present, with their effective metadata.
    pub machines: BTreeMap<MachineId, Metadata>,
}

/// One change of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineTask {
    /// The unit.
    pub unit: UnitName,
    /// What to write.
    pub step: Step,
    /// Why.
    pub why: Reason,
}

/// What to write into the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The unit runs on `to`; until now it was on `from`, which is gone, or nowhere.
    Schedule {
        /// The machine chosen.
        to: MachineId,
        /// What the schedule must still say for the write to happen.
        from: Option<MachineId>,
    },
    /// The unit runs nowhere; until now it was on `from`.
    Unschedule {
        /// What the schedule must still say for the write to happen.
        from: MachineId,
    },
}

/// The changes to make, and the units whose reason to wait is new.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Changes, by unit name.
    pub tasks: Vec<EngineTask>,
    /// Units that wait since now, or for another reason than before.
    pub waits: Vec<(UnitName, Waiting)>,
}

/// Plans for a whole cluster at once.
#[must_use]
pub fn plan(cluster: &ClusterView) -> Plan {
    let mut scheduler = Scheduler::new();
    for (id, metadata) in &cluster.machines {
        scheduler.set_machine(id, metadata.clone());
    }
    for (name, unit) in &cluster.units {
        scheduler.set_unit(name, unit.requirements.clone(), unit.target);
        scheduler.set_schedule(name, unit.scheduled.clone());
        for machine in &unit.held_by {
            scheduler.set_held(name, machine, true);
        }
    }
    scheduler.plan()
}
