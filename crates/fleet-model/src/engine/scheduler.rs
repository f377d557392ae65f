//! The index: what the leader knows of the cluster, and how it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::fence::Fence;
use super::patterns::Patterns;
use super::reason::{Reason, Waiting};
use super::slot::{Access, Load, Slot, Spreads};
use crate::amount::{Offer, Reservation};
use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::record::BatchResult;
use crate::requirements::{Partition, Requirements};
use crate::state::{Activity, TargetState};

/// The cluster as the leader knows it, kept up to date change by change.
///
/// The setters only take note; [`Scheduler::plan`] decides, and assumes that its tasks are carried
/// out. When one is not, the shell sets the schedule as it really is, and the next plan deals with
/// it.
#[derive(Debug, Default)]
pub struct Scheduler {
    pub(super) units: BTreeMap<UnitName, Entry>,
    pub(super) machines: BTreeMap<MachineId, Slot>,
    pub(super) by_load: BTreeSet<(Load, MachineId)>,
    /// Whether machines take units, those that are not present included.
    access: BTreeMap<MachineId, Access>,
    /// Units scheduled on machines, present or not, wanted or not.
    pub(super) placed: BTreeMap<MachineId, BTreeSet<UnitName>>,
    /// Units of which machines have a record.
    records: BTreeMap<MachineId, BTreeSet<UnitName>>,
    /// For each unit, known or not, those that name it in MachineOf; and patterns in MachineOf.
    pub(super) followers: BTreeMap<String, BTreeSet<UnitName>>,
    pub(super) glob_followers: Patterns,
    /// For each unit, known or not, those that start after it.
    pub(super) dependents: BTreeMap<String, BTreeSet<UnitName>>,
    /// Patterns of all units, wherever they are.
    pub(super) conflicts: Patterns,
    pub(super) replaces: Patterns,
    pub(super) prefers: Patterns,
    pub(super) globals: BTreeSet<UnitName>,
    pub(super) spreads: Spreads,
    /// For each metadata key, its values and on how many machines.
    pub(super) domains: BTreeMap<String, BTreeMap<String, usize>>,
    pub(super) waiting: BTreeMap<UnitName, Waiting>,
    /// What units waited for before the plan being made.
    pub(super) waited: BTreeMap<UnitName, Option<Waiting>>,
    /// Machines whose global units must be decided again.
    pub(super) stale: BTreeSet<MachineId>,
    /// Scheduled units to test again.
    pub(super) dirty: BTreeSet<UnitName>,
    /// Units to look at, and whether on all machines or on fresh ones only.
    pub(super) queue: BTreeMap<UnitName, Look>,
    /// Machines on which something was freed: whatever fits nowhere may have a chance.
    pub(super) freed: BTreeSet<MachineId>,
    /// Those of this plan.
    pub(super) fresh: BTreeSet<MachineId>,
    /// Units taken off a living machine whose removal has not been seen in the registry yet.
    pub(super) settling: BTreeSet<UnitName>,
    /// Units that the plan being made has placed and taken off again, once or more often.
    pub(super) taken_off: BTreeSet<UnitName>,
    pub(super) parked: BTreeSet<UnitName>,
    /// What the plan being made has changed: the schedule before, and why.
    pub(super) changed: BTreeMap<UnitName, (Option<MachineId>, Reason)>,
    pub(super) fences: BTreeMap<UnitName, Fence>,
    pub(super) margin: Duration,
    pub(super) now: Duration,
    /// When the first plan was made.
    pub(super) started: Option<Duration>,
    /// How many units may be moved to even out the load.
    pub(super) rebalance: Option<u32>,
}

/// How thoroughly to look for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// Only where something was freed; it fits nowhere else.
    Fresh,
    /// Everywhere.
    Everywhere,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// It exists. Of others only the records that machines still have of them are kept.
    pub(super) exists: bool,
    pub(super) requirements: Arc<Requirements>,
    pub(super) target: TargetState,
    pub(super) scheduled: Option<MachineId>,
    /// Where its place is kept while it moves.
    pub(super) promised: Option<MachineId>,
    pub(super) held_by: BTreeMap<MachineId, Activity>,
    pub(super) result: Option<Arc<BatchResult>>,
    /// The last failed attempt after which its schedule was changed.
    pub(super) answered: u32,
    /// Why it is where it is, if this index has decided that.
    pub(super) why: Option<Reason>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            exists: false,
            requirements: Arc::default(),
            target: TargetState::Inactive,
            scheduled: None,
            promised: None,
            held_by: BTreeMap::new(),
            result: None,
            answered: 0,
            why: None,
        }
    }
}

impl Entry {
    /// Shall be on some machine that the leader chooses.
    pub(super) fn wants_place(&self, name: &UnitName) -> bool {
        self.target != TargetState::Inactive
            && !self.requirements.global
            && !name.is_template()
            && self.ended().is_none()
    }

    /// The final result of a batch unit.
    pub(super) fn ended(&self) -> Option<&BatchResult> {
        let batch = self.requirements.batch?;
        self.result
            .as_deref()
            .filter(|result| result.is_final(batch.retries))
    }

    /// The result of a batch unit's attempt that failed and was not the last.
    pub(super) fn failed_attempt(&self) -> Option<&BatchResult> {
        let batch = self.requirements.batch?;
        self.result
            .as_deref()
            .filter(|result| !result.is_final(batch.retries))
    }

    /// The same, if the schedule has not been changed since.
    pub(super) fn open_failure(&self) -> Option<&BatchResult> {
        let batch = self.requirements.batch?;
        self.result
            .as_deref()
            .filter(|result| result.is_open(batch.retries, self.answered))
    }

    /// How often it has failed on a machine since it was started anew.
    pub(super) fn failures_on(&self, machine: &MachineId) -> u64 {
        self.failed_attempt()
            .map_or(0, |result| result.failures_on(machine).into())
    }

    /// The machine on which it counts.
    pub(super) fn place(&self) -> Option<&MachineId> {
        self.scheduled.as_ref().or(self.promised.as_ref())
    }
}

/// A machine with what its units reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineLoad {
    /// What it offers.
    pub offer: Offer,
    /// What is reserved.
    pub reserved: Reservation,
    /// How many units it has, global ones included.
    pub units: usize,
    /// Its load.
    pub load: Load,
    /// Whether it takes units.
    pub access: Access,
}

/// Telling the index what is.
impl Scheduler {
    /// An index of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A machine is present, with this effective metadata.
    pub fn set_machine(&mut self, id: &MachineId, metadata: Metadata) {
        if let Some(slot) = self.machines.get(id) {
            if slot.metadata == metadata {
                return;
            }
            self.count_metadata(id, false);
            // Whatever is spread is counted anew.
            let here: Vec<UnitName> = slot_names(self.machines.get(id));
            here.iter()
                .for_each(|name| self.count_spread(name, id, false));
            if let Some(slot) = self.machines.get_mut(id) {
                slot.metadata = metadata;
            }
            here.iter()
                .for_each(|name| self.count_spread(name, id, true));
            self.dirty.extend(here);
        } else {
            let slot = Slot {
                metadata,
                access: self.access.get(id).copied().unwrap_or_default(),
                ..Slot::default()
            };
            self.by_load.insert((slot.load(), id.clone()));
            self.machines.insert(id.clone(), slot);
            // Units may have been scheduled on it before it was known.
            for name in self.placed.get(id).cloned().unwrap_or_default() {
                self.fences.remove(&name);
                self.settle_in(&name, id);
                self.dirty.insert(name.clone());
                self.look(&name);
                self.touch_followers(&name);
            }
        }
        self.count_metadata(id, true);
        self.stale.insert(id.clone());
        self.freed.insert(id.clone());
    }

    /// What a machine that is present offers to units.
    pub fn set_offer(&mut self, id: &MachineId, offer: Offer) {
        let Some(slot) = self.machines.get_mut(id) else {
            return;
        };
        if slot.offer != offer {
            let load = slot.load();
            slot.offer = offer;
            self.reload(id, load);
            self.check_reservations(id);
            self.stale.insert(id.clone());
            self.freed.insert(id.clone());
        }
    }

    /// Whether a machine, present or not, takes units.
    pub fn set_access(&mut self, id: &MachineId, access: Access) {
        match access {
            Access::Open => self.access.remove(id),
            access => self.access.insert(id.clone(), access),
        };
        let Some(slot) = self.machines.get_mut(id) else {
            return;
        };
        if slot.access != access {
            slot.access = access;
            let here = slot_names(self.machines.get(id));
            here.iter().for_each(|name| self.look(name));
            self.freed.insert(id.clone());
        }
    }

    /// A machine is gone. Whatever it held, it holds no more.
    pub fn remove_machine(&mut self, id: &MachineId) {
        if !self.machines.contains_key(id) {
            return;
        }
        self.count_metadata(id, false);
        let held = self.records.remove(id).unwrap_or_default();
        self.raise_fences(id, &held);
        let mut here = self.placed.get(id).cloned().unwrap_or_default();
        here.extend(slot_names(self.machines.get(id)));
        for name in &here {
            // Those on their way to it have no place any more.
            if let Some(entry) = self.units.get_mut(name)
                && entry.promised.as_ref() == Some(id)
            {
                self.promise(name, None);
            }
            self.settle_out(name, id);
            self.dirty.insert(name.clone());
            self.look(name);
            self.touch_followers(name);
        }
        if let Some(slot) = self.machines.remove(id) {
            self.by_load.remove(&(slot.load(), id.clone()));
            for name in slot.globals.names() {
                self.touch_followers(name);
                self.touch_dependents(name);
            }
        }
        self.stale.remove(id);
        for name in held {
            if let Some(entry) = self.units.get_mut(&name) {
                entry.held_by.remove(id);
            }
            self.forget_if_gone(&name);
            self.look(&name);
            self.touch_dependents(&name);
        }
        self.freed.insert(id.clone());
    }

    /// A unit exists, or has changed.
    pub fn set_unit(
        &mut self,
        name: &UnitName,
        requirements: Arc<Requirements>,
        target: TargetState,
    ) {
        let known = self.units.get(name).is_some_and(|e| e.exists);
        if let Some(old) = self.units.get(name)
            && known
            && old.requirements == requirements
            && old.target == target
        {
            return;
        }
        if !known && requirements.partition == Partition::Stop {
            self.raise_fence_of_newcomer(name);
        }
        self.change(name, |entry| {
            entry.exists = true;
            if entry.requirements != requirements {
                entry.promised = None;
                entry.requirements = requirements;
            }
            entry.target = target;
        });
    }

    /// How a batch unit's last attempt ended, if one has, and the last failed attempt after which
    /// its schedule was changed (see [`EngineTask::answers`](super::EngineTask)).
    pub fn set_result(&mut self, name: &UnitName, result: Option<Arc<BatchResult>>, answered: u32) {
        let known = self.units.get(name).filter(|e| e.exists);
        if known.is_some_and(|e| e.result != result || e.answered != answered) {
            self.change(name, |entry| {
                (entry.result, entry.answered) = (result, answered);
            });
        }
    }

    /// A unit is gone. Its record on a machine, if any, is still respected.
    pub fn remove_unit(&mut self, name: &UnitName) {
        if !self.units.contains_key(name) {
            return;
        }
        self.change(name, |entry| {
            let held_by = std::mem::take(&mut entry.held_by);
            *entry = Entry {
                held_by,
                ..Entry::default()
            };
        });
        // A unit of the same name may be made again before its machine has let go.
        self.forget_if_gone(name);
        self.unwait(name);
        self.settling.remove(name);
        self.dirty.remove(name);
        self.queue.remove(name);
    }

    fn forget_if_gone(&mut self, name: &UnitName) {
        let entry = self.units.get(name);
        if entry.is_some_and(|e| !e.exists && e.held_by.is_empty()) {
            self.units.remove(name);
        }
    }

    /// The registry says where a unit is scheduled.
    pub fn set_schedule(&mut self, name: &UnitName, machine: Option<MachineId>) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let same = entry.scheduled == machine;
        if machine.is_none() && self.settling.remove(name) {
            self.look(name);
        }
        if same {
            return;
        }
        if let Some(entry) = self.units.get_mut(name) {
            entry.why = None;
        }
        if machine.is_some() {
            self.promise(name, None);
            self.fences.remove(name);
            self.settling.remove(name);
        }
        self.move_to(name, machine.as_ref());
        self.dirty.insert(name.clone());
        self.look(name);
    }

    /// How far a machine is with a unit, if it has a record of it.
    pub fn set_state(&mut self, name: &UnitName, machine: &MachineId, state: Option<Activity>) {
        let changed = match state {
            Some(activity) => {
                let entry = self.units.entry(name.clone()).or_default();
                let old = entry.held_by.insert(machine.clone(), activity);
                if old.is_none() {
                    let records = self.records.entry(machine.clone()).or_default();
                    records.insert(name.clone());
                }
                old != Some(activity)
            }
            None => {
                let entry = self.units.get_mut(name);
                let old = entry.and_then(|entry| entry.held_by.remove(machine));
                if old.is_some() {
                    if let Some(records) = self.records.get_mut(machine) {
                        records.remove(name);
                        if records.is_empty() {
                            self.records.remove(machine);
                        }
                    }
                    self.forget_if_gone(name);
                    self.look(name);
                }
                old.is_some()
            }
        };
        if changed {
            self.touch_dependents(name);
        }
    }

    /// A machine has, or no longer has, a record of a unit.
    pub fn set_held(&mut self, name: &UnitName, machine: &MachineId, held: bool) {
        self.set_state(name, machine, held.then(Activity::default));
    }

    /// Asks for at most `budget` moves that even out the load, with the next plan.
    pub fn rebalance(&mut self, budget: u32) {
        self.rebalance = Some(self.rebalance.unwrap_or(0).max(budget));
    }

    /// The units that wait, and why, as of their last look.
    #[must_use]
    pub fn waiting(&self) -> &BTreeMap<UnitName, Waiting> {
        &self.waiting
    }

    /// Where a unit is scheduled.
    #[must_use]
    pub fn scheduled(&self, name: &UnitName) -> Option<&MachineId> {
        self.units.get(name)?.scheduled.as_ref()
    }

    /// What a machine that is present carries.
    #[must_use]
    pub fn machine(&self, id: &MachineId) -> Option<MachineLoad> {
        let slot = self.machines.get(id)?;
        Some(MachineLoad {
            offer: slot.offer,
            reserved: slot.reserved(),
            units: slot.residents.names().len() + slot.globals.names().len(),
            load: slot.load(),
            access: slot.access,
        })
    }
}

/// Names of the residents.
pub(super) fn slot_names(slot: Option<&Slot>) -> Vec<UnitName> {
    slot.map_or_else(Vec::new, |slot| {
        slot.residents.names().iter().cloned().collect()
    })
}
