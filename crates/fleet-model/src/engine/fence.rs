//! Units that must run at most once (`Partition=stop`).
//!
//! A machine that loses the cluster stops such units by itself once its lease has ended, and has
//! done so within the margin. So the engine schedules them elsewhere only when the margin has passed
//! since it saw that the machine is gone: the presence ends with the lease, never before. Until
//! then the schedule keeps naming the machine that is gone, so that the next leader knows, too. A
//! leader that has just begun knows nothing of units that were being moved then; those wait one
//! margin.

use std::collections::BTreeSet;
use std::time::Duration;

use super::reason::Waiting;
use super::scheduler::Scheduler;
use crate::machine::MachineId;
use crate::name::UnitName;
use crate::requirements::Partition;

/// Until when a unit may still run on a machine that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    machine: Option<MachineId>,
    until: Duration,
}

impl Scheduler {
    /// How long after the end of its lease a machine may need to stop units with `Partition=stop`.
    pub fn set_stop_margin(&mut self, margin: Duration) {
        self.margin = margin;
    }

    /// The time, from any fixed point on. Decisions that depend on it are made with the next plan.
    pub fn set_clock(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let over = |fence: &Fence| fence.until <= self.now;
        let due: Vec<UnitName> = self
            .fences
            .iter()
            .filter(|(_, fence)| over(fence))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            // A fence in the past says that the margin has passed; it goes when the unit moves.
            if matches!(self.waiting.get(&name), Some(Waiting::Fenced { .. })) {
                self.dirty.insert(name.clone());
                self.look(&name);
            } else if self.units.get(&name).is_none_or(|e| e.scheduled.is_none()) {
                self.fences.remove(&name);
            }
        }
    }

    /// When the next plan is due even if nothing changes.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let waits =
            |name: &UnitName| matches!(self.waiting.get(name), Some(Waiting::Fenced { .. }));
        let fences = self.fences.iter().filter(|(name, _)| waits(name));
        fences.map(|(_, fence)| fence.until).min()
    }

    /// A machine is gone; it had these records.
    pub(super) fn raise_fences(&mut self, machine: &MachineId, held: &BTreeSet<UnitName>) {
        let here = self.placed.get(machine).cloned().unwrap_or_default();
        for name in here.iter().chain(held) {
            let Some(entry) = self.units.get(name) else {
                continue;
            };
            if entry.requirements.partition != Partition::Stop {
                continue;
            }
            // What it had let go of, or never taken, is not running there.
            let until = if held.contains(name) {
                self.now.saturating_add(self.margin)
            } else {
                self.now
            };
            let fence = Fence {
                machine: Some(machine.clone()),
                until,
            };
            match self.fences.get(name) {
                Some(old) if old.until >= until => {}
                _ => drop(self.fences.insert(name.clone(), fence)),
            }
        }
    }

    /// A unit that was there before this leader, scheduled nowhere, may be running anywhere.
    pub(super) fn raise_fence_of_newcomer(&mut self, name: &UnitName) {
        if self.started.is_none() && !self.margin.is_zero() {
            let fence = Fence {
                machine: None,
                until: self.now.saturating_add(self.margin),
            };
            self.fences.entry(name.clone()).or_insert(fence);
        }
    }

    /// Whether a unit may still be running on a machine that is gone.
    pub(super) fn fenced(&mut self, name: &UnitName, on: Option<&MachineId>) -> Option<Waiting> {
        let entry = self.units.get(name)?;
        let stop = entry.requirements.partition == Partition::Stop;
        if let Some(machine) = on
            && stop
            && self
                .fences
                .get(name)
                .is_none_or(|fence| fence.machine.as_ref() != Some(machine))
        {
            // Gone before this leader came: nobody knows since when.
            let fence = Fence {
                machine: Some(machine.clone()),
                until: self.now.saturating_add(self.margin),
            };
            self.fences.insert(name.clone(), fence);
        }
        let fence = self.fences.get(name)?;
        if fence.until <= self.now {
            return None;
        }
        let machine = fence.machine.clone();
        Some(Waiting::Fenced { machine })
    }
}
