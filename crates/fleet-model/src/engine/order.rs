//! Start order between units, across machines.
//!
//! A unit that shall be launched and names other units of the cluster in `After=` is scheduled when
//! they are far enough: those that it requires too must be active, or have run to their end without
//! failing; the others must not be on their way any more. Units that wait for each other in a circle
//! start in name order.

use std::collections::BTreeSet;

use super::reason::Waiting;
use super::scheduler::{Entry, Scheduler};
use crate::name::UnitName;
use crate::state::{Activity, TargetState};

/// Whether a unit may start.
pub(super) enum Turn {
    /// It may.
    Now,
    /// It may, to break a circle.
    First,
    /// It waits.
    Later(Waiting),
}

impl Scheduler {
    pub(super) fn turn(&self, name: &UnitName, entry: &Entry) -> Turn {
        let mut open = self.awaited(entry).peekable();
        let Some((unit, required)) = open.peek().cloned() else {
            return Turn::Now;
        };
        let later = Turn::Later(Waiting::Order {
            unit: unit.to_string(),
            required,
        });
        let reached = self.reached(name);
        if !reached.contains(name) {
            return later;
        }
        // Those that also wait for this unit.
        let circle: BTreeSet<&UnitName> = reached
            .iter()
            .filter(|other| self.reached(other).contains(name))
            .copied()
            .collect();
        if circle.first() == Some(&name) && open.all(|(unit, _)| circle.contains(unit)) {
            Turn::First
        } else {
            later
        }
    }

    /// Units after which this one starts and that are not far enough, and whether it requires them.
    fn awaited<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = (&'a UnitName, bool)> + 'a {
        let launched = entry.target == TargetState::Launched;
        let after = entry.requirements.after.iter().filter(move |_| launched);
        after.filter_map(|(unit, required)| {
            let (unit, other) = self.units.get_key_value(unit.as_str())?;
            (!self.is_far_enough(unit, other, *required)).then_some((unit, *required))
        })
    }

    fn is_far_enough(&self, name: &UnitName, entry: &Entry, required: bool) -> bool {
        if !entry.exists
            || name.is_template()
            || (entry.target == TargetState::Inactive && !required)
        {
            return true;
        }
        if let Some(result) = entry.ended() {
            return !required || result.outcome == crate::record::Outcome::Success;
        }
        let activity = if entry.requirements.global {
            entry.held_by.values().max()
        } else {
            let place = entry.scheduled.as_ref();
            place.and_then(|machine| entry.held_by.get(machine))
        };
        match activity {
            Some(Activity::Active | Activity::Done) => true,
            _ if required => false,
            Some(Activity::Failed | Activity::Idle) => true,
            _ => {
                entry.target != TargetState::Launched
                    || (entry.requirements.global && !self.runs_anywhere(name))
            }
        }
    }

    fn runs_anywhere(&self, global: &UnitName) -> bool {
        let mut slots = self.machines.values();
        slots.any(|slot| slot.globals.names().contains(global))
    }

    /// Units that a unit waits for, and those that they wait for in turn.
    fn reached<'a>(&'a self, name: &UnitName) -> BTreeSet<&'a UnitName> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&Entry> = self.units.get(name).into_iter().collect();
        while let Some(entry) = open.pop() {
            for (unit, _) in self.awaited(entry) {
                if reached.insert(unit)
                    && let Some(next) = self.units.get(unit)
                    && next.place().is_none()
                    && next.wants_place(unit)
                {
                    open.push(next);
                }
            }
        }
        reached
    }

    /// Those that wait for this unit, and for those in turn, must be looked at again.
    pub(super) fn touch_dependents(&mut self, name: &UnitName) {
        if self.dependents.is_empty() {
            return;
        }
        let mut open = vec![name.clone()];
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let dependents = self.dependents.get(name.as_str());
            let dependents: Vec<UnitName> = dependents.into_iter().flatten().cloned().collect();
            for dependent in dependents {
                if self.waiting.contains_key(&dependent) && seen.insert(dependent.clone()) {
                    self.look(&dependent);
                    open.push(dependent);
                }
            }
        }
    }
}
