//! The leader's decisions: which machine runs which unit, and why.
//!
//! [`Scheduler`] is the index; the daemon tells it every change it sees and asks for a [`Plan`].
//! Only what a change touches is looked at again, so a decision does not cost more in a large
//! cluster. [`plan`] builds an index from a whole [`ClusterView`] and asks once.
//!
//! What decides, in this order (`docs/fleet/scheduling.md` explains it to users):
//!
//! 1. Hard rules: MachineID, metadata, MachineOf, Conflicts, Replaces, what is left of the memory
//!    and the processors, cordons.
//! 2. Of the machines that pass, those where a batch unit has failed least often; of those, the one
//!    that meets the most preferences (PreferConflicts, PreferMetadata, Spread).
//! 3. Of those, the least loaded; then the first by machine ID.
//!
//! Units are visited in name order; a unit that waits for a peer, for room, or for another unit to
//! be active is looked at again as soon as that changes.
//!
//! What must stay true:
//!
//! - A unit moves stop-first: it is unscheduled, and only when no living machine holds a record of
//!   it any more is it scheduled elsewhere. A machine that is gone holds nothing, but a unit with
//!   `Partition=stop` waits until that machine has stopped it.
//! - Equal inputs give equal plans. After a plan is applied, the next one is empty, except for the
//!   second half of moves.
//! - Every wanted unit that is not global is scheduled or has a [`Waiting`] that says why not.

mod decide;
mod explain;
mod fence;
mod index;
mod moves;
mod order;
mod patterns;
mod place;
mod population;
mod reason;
mod scheduler;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use explain::{Candidate, Explanation, Verdict, explain};
pub use population::{Population, accept_globals};
pub use reason::{Obstacle, Reason, Waiting};
pub use scheduler::{MachineLoad, Scheduler};
pub use slot::{Access, Load};

use crate::amount::Offer;
use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::record::BatchResult;
use crate::requirements::Requirements;
use crate::state::{Activity, TargetState};

/// One unit, as far as scheduling is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitView {
    /// What it asks for.
    pub requirements: Arc<Requirements>,
    /// What is wanted of it.
    pub target: TargetState,
    /// Where it is scheduled.
    pub scheduled: Option<MachineId>,
    /// Machines that have a record of it, and how far they are with it.
    pub held_by: BTreeMap<MachineId, Activity>,
    /// How its last attempt ended, if it is a batch unit and one has.
    pub result: Option<Arc<BatchResult>>,
    /// The last failed attempt that was answered: see [`EngineTask::answers`]. 0 for none.
    pub answered: u32,
}

/// One machine that is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineView {
    /// Its effective metadata.
    pub metadata: Metadata,
    /// What it offers to units.
    pub offer: Offer,
    /// Whether it takes units.
    pub access: Access,
}

/// A whole cluster: every unit, and every machine that is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// All units.
    pub units: BTreeMap<UnitName, UnitView>,
    /// The machines present.
    pub machines: BTreeMap<MachineId, MachineView>,
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
    /// The failed attempt of a batch unit, counted from 1, that this change answers. To be written
    /// with it: a unit that is scheduled where its last attempt failed runs there again only if the
    /// schedule was made since.
    pub answers: Option<u32>,
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
    /// How many units were moved to even out the load, if that was asked for. It is done then.
    pub rebalanced: Option<u32>,
}

/// An index of a whole cluster.
#[must_use]
pub fn index(cluster: &ClusterView) -> Scheduler {
    let mut scheduler = Scheduler::new();
    for (id, machine) in &cluster.machines {
        scheduler.set_machine(id, machine.metadata.clone());
        scheduler.set_offer(id, machine.offer);
        scheduler.set_access(id, machine.access);
    }
    for (name, unit) in &cluster.units {
        scheduler.set_unit(name, unit.requirements.clone(), unit.target);
        scheduler.set_result(name, unit.result.clone(), unit.answered);
        scheduler.set_schedule(name, unit.scheduled.clone());
        for (machine, activity) in &unit.held_by {
            scheduler.set_state(name, machine, Some(*activity));
        }
    }
    scheduler
}

/// Plans for a whole cluster at once.
#[must_use]
pub fn plan(cluster: &ClusterView) -> Plan {
    index(cluster).plan()
}
