//! Deciding: tests of what is scheduled, places for what is not.

use super::order::Turn;
use super::reason::{Obstacle, Reason, Waiting};
use super::scheduler::{Entry, Look, Scheduler};
use super::slot::{Access, Slot};
use super::{EngineTask, Plan, Step};
use crate::amount::Reservation;
use crate::machine::MachineId;
use crate::name::UnitName;

impl Scheduler {
    /// Looks at everything that a change has touched and says what to do about it.
    pub fn plan(&mut self) -> Plan {
        self.started.get_or_insert(self.now);
        let mut rebalanced = None;
        loop {
            if let Some(machine) = self.stale.pop_first() {
                self.refresh_globals(&machine);
            } else if let Some(name) = self.dirty.pop_first() {
                self.test(&name);
            } else if !self.freed.is_empty() {
                self.fresh.append(&mut self.freed);
                self.look_at_freed();
            } else if let Some((name, look)) = self.queue.pop_first() {
                self.place(&name, look);
            } else if let Some(budget) = self.rebalance.take() {
                rebalanced = Some(self.even_out(budget));
            } else {
                break;
            }
        }
        self.fresh.clear();
        self.taken_off.clear();
        let parked = std::mem::take(&mut self.parked);
        self.queue
            .extend(parked.into_iter().map(|name| (name, Look::Everywhere)));
        let tasks = std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|(unit, (from, why))| {
                let to = self.units.get(&unit).and_then(|e| e.scheduled.clone());
                let step = match (from, to) {
                    (from, to) if from == to => return None,
                    (from, Some(to)) => Step::Schedule { to, from },
                    (Some(from), None) => Step::Unschedule { from },
                    (None, None) => return None,
                };
                let failed = self.units.get(&unit).and_then(Entry::failed_attempt);
                let answers = failed.map(|result| result.attempts);
                Some(EngineTask {
                    unit,
                    step,
                    why,
                    answers,
                })
            })
            .collect();
        let waited = std::mem::take(&mut self.waited);
        let waits = waited.into_iter().filter_map(|(name, before)| {
            let now = self.waiting.get(&name)?;
            (before.as_ref() != Some(now)).then(|| (name, now.clone()))
        });
        Plan {
            tasks,
            waits: waits.collect(),
            rebalanced,
        }
    }

    /// Whatever fits nowhere, or cannot leave, may have a chance where something was freed.
    fn look_at_freed(&mut self) {
        let stuck = self.waiting.iter().filter(|(_, why)| {
            matches!(
                why,
                Waiting::NoFit { .. }
                    | Waiting::NoMachines
                    | Waiting::MachineAbsent { .. }
                    | Waiting::StillOn { .. }
                    | Waiting::CannotLeave { .. }
            )
        });
        for (name, why) in stuck {
            let look = match why {
                Waiting::NoFit { .. } => Look::Fresh,
                _ => Look::Everywhere,
            };
            let entry = self.queue.entry(name.clone()).or_insert(look);
            *entry = (*entry).max(look);
        }
    }

    /// Tests a scheduled unit against its machine and takes it off if it cannot stay.
    fn test(&mut self, name: &UnitName) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let Some(machine) = entry.scheduled.clone() else {
            return;
        };
        if !self.machines.contains_key(&machine) {
            match self.fenced(name, Some(&machine)) {
                Some(why) => self.wait(name, why),
                None => self.take_off(
                    name,
                    self.reason_to_leave(name).unwrap_or(Reason::MachineGone),
                ),
            }
            return;
        }
        if let Some(why) = self.reason_to_leave(name) {
            self.take_off(name, why);
            return;
        }
        let Some((slot, entry)) = self.machines.get(&machine).zip(self.units.get(name)) else {
            return;
        };
        // Of two that cannot be together the first by name stays.
        let conflicting: Vec<UnitName> = slot
            .residents
            .conflicts(name, &entry.requirements)
            .filter(|other| self.is_on(other, &machine))
            .cloned()
            .collect();
        let first = conflicting.iter().min().filter(|other| *other < name);
        let first = first.map(|unit| Obstacle::Conflict { unit: unit.clone() });
        let replaced = || {
            let mut replacers = slot.residents.replacers(name);
            let unit = replacers
                .find(|other| self.is_on(other, &machine) && self.displaces(other, name))?;
            Some(Obstacle::ReplacedBy { unit: unit.clone() })
        };
        let query = self.query(name, entry);
        let obstacle = self
            .basic_obstacle(&query, &machine, slot)
            .or(first)
            .or_else(replaced)
            .or_else(|| self.overbooked(name, entry.requirements.reservation, slot, &machine));
        match obstacle {
            Some(obstacle) => self.take_off(name, Reason::NoLongerFits(obstacle)),
            None => self.dirty.extend(conflicting),
        }
    }

    fn is_on(&self, name: &UnitName, machine: &MachineId) -> bool {
        let entry = self.units.get(name);
        entry.is_some_and(|e| e.scheduled.as_ref() == Some(machine))
    }

    /// Why a unit leaves whatever machine it is on.
    fn reason_to_leave(&self, name: &UnitName) -> Option<Reason> {
        let entry = self.units.get(name)?;
        if entry.requirements.global {
            return Some(Reason::BecameGlobal);
        }
        if let Some(result) = entry.ended() {
            return Some(Reason::Ended(result.outcome));
        }
        if !entry.wants_place(name) {
            return Some(Reason::NotWanted);
        }
        let failed = entry.open_failure()?;
        let here = entry
            .scheduled
            .as_ref()
            .is_some_and(|m| m.as_str() == failed.machine);
        here.then_some(Reason::Retry {
            attempts: failed.attempts,
        })
    }

    /// Whether the machine offers less than was reserved, and this unit is not among those that
    /// stay: in name order, as far as there is room.
    fn overbooked(
        &self,
        name: &UnitName,
        need: Reservation,
        slot: &Slot,
        machine: &MachineId,
    ) -> Option<Obstacle> {
        if need.is_nothing() || slot.residents.reserved().fits(&slot.offer) {
            return None;
        }
        let mut kept = Reservation::default();
        for other in slot
            .residents
            .names()
            .iter()
            .filter(|o| self.is_on(o, machine))
        {
            let Some(entry) = self.units.get(other) else {
                continue;
            };
            let with = kept.plus(entry.requirements.reservation);
            let fits = entry.requirements.reservation.is_nothing() || with.fits(&slot.offer);
            if other == name {
                if fits {
                    return None;
                }
                break;
            }
            if fits {
                kept = with;
            }
        }
        let left = |offer: Option<u64>, kept: u64| offer.map(|o| o.saturating_sub(kept));
        if let Some(free) = left(slot.offer.memory, kept.memory).filter(|free| need.memory > *free)
        {
            let need = need.memory;
            return Some(Obstacle::Memory { need, free });
        }
        let free = left(slot.offer.cpu.map(|c| c.millis()), kept.cpu.millis())?;
        let free = crate::amount::Cpu::from_millis(free);
        Some(Obstacle::Cpu {
            need: need.cpu,
            free,
        })
    }

    pub(super) fn take_off(&mut self, name: &UnitName, why: Reason) {
        self.note(name, why);
        self.move_to(name, None);
        let before = self
            .changed
            .get(name)
            .and_then(|(before, _)| before.as_ref());
        if before.is_some_and(|machine| self.machines.contains_key(machine)) {
            // Comes back when its removal has been seen: then nothing can be claimed any more.
            self.settling.insert(name.clone());
        } else if !self.taken_off.insert(name.clone()) {
            // Rules that contradict each other could go on like this for ever.
            self.parked.insert(name.clone());
        }
        self.look(name);
    }

    /// Remembers what the schedule was before this plan, and the last reason for changing it. A
    /// failed attempt is answered by that.
    fn note(&mut self, name: &UnitName, why: Reason) {
        let scheduled = self.units.get(name).and_then(|e| e.scheduled.clone());
        let first = self
            .changed
            .remove(name)
            .map_or(scheduled, |(before, _)| before);
        self.changed.insert(name.clone(), (first, why.clone()));
        if let Some(entry) = self.units.get_mut(name) {
            entry.why = Some(why);
            if let Some(attempts) = entry.failed_attempt().map(|result| result.attempts) {
                entry.answered = attempts;
            }
        }
    }

    /// Finds a machine for a unit, or the reason why there is none.
    fn place(&mut self, name: &UnitName, look: Look) {
        let Some(entry) = self.units.get(name) else {
            self.unwait(name);
            return;
        };
        if let Some(machine) = &entry.scheduled {
            let draining = self
                .machines
                .get(machine)
                .is_some_and(|slot| slot.access == Access::Draining);
            if draining {
                self.leave(name);
            } else if self.machines.contains_key(machine) {
                self.unwait(name);
            }
            return;
        }
        if !entry.wants_place(name) {
            self.promise(name, None);
            self.explain_end(name);
            return;
        }
        if self.settling.contains(name) {
            self.wait(name, Waiting::Settling);
            return;
        }
        if self.parked.contains(name) {
            self.promise(name, None);
            self.wait(name, Waiting::Contradiction);
            return;
        }
        if let Some(why) = self.fenced(name, None) {
            self.wait(name, why);
            return;
        }
        match self.decide(name, look) {
            Ok((machine, why)) => {
                self.note(name, why);
                self.promise(name, None);
                self.fences.remove(name);
                self.move_to(name, Some(&machine));
            }
            Err(waiting) => self.wait(name, waiting),
        }
    }

    /// A batch unit that has ended is explained; what is not wanted needs no explanation.
    fn explain_end(&mut self, name: &UnitName) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let wanted = entry.target != crate::state::TargetState::Inactive
            && !entry.requirements.global
            && !name.is_template();
        match entry.ended().filter(|_| wanted) {
            Some(result) => {
                let (outcome, attempts) = (result.outcome, result.attempts);
                self.wait(name, Waiting::Ended { outcome, attempts });
            }
            None => self.unwait(name),
        }
    }

    fn decide(&mut self, name: &UnitName, look: Look) -> Result<(MachineId, Reason), Waiting> {
        if self.promise_is_broken(name) {
            self.promise(name, None);
        }
        let Some(entry) = self.units.get(name) else {
            return Err(Waiting::Settling);
        };
        let mut circle = false;
        if entry.promised.is_none() {
            match self.turn(name, entry) {
                Turn::Now => {}
                Turn::First => circle = true,
                Turn::Later(why) => return Err(why),
            }
        }
        let query = self.query(name, entry);
        let fresh = match (look, self.waiting.get(name)) {
            (Look::Fresh, Some(Waiting::NoFit { .. })) => Some(&self.fresh),
            _ => None,
        };
        let choice = match entry.promised.as_ref().and_then(|id| self.kept(&query, id)) {
            Some(choice) => choice,
            None => self.choose(&query, fresh)?,
        };
        let holders = entry.held_by.keys();
        // Where it has failed it is loaded anew: what has ended does not start by itself.
        let mut others = holders.filter(|holder| {
            (**holder != choice.machine || choice.cost.failures > 0)
                && self.machines.contains_key(*holder)
        });
        if let Some(holder) = others.next() {
            let machine = holder.clone();
            return Err(Waiting::StillOn { machine });
        }
        let why = Reason::Chosen {
            load: choice.load,
            failures: choice.cost.failures,
            unmet: choice.cost.unmet,
            circle,
        };
        Ok((choice.machine, why))
    }
}
