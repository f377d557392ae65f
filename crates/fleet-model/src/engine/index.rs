//! Keeping the index consistent.

use super::patterns::Patterns;
use super::reason::Waiting;
use super::scheduler::{Entry, Look, Scheduler, slot_names};
use super::slot::Load;
use crate::machine::MachineId;
use crate::name::UnitName;
use crate::requirements::Requirements;
use crate::state::TargetState;

impl Scheduler {
    /// Changes a unit, taking it out of everything that depends on its fields meanwhile.
    pub(super) fn change(&mut self, name: &UnitName, edit: impl FnOnce(&mut Entry)) {
        let place = self.units.get(name).and_then(Entry::place).cloned();
        if let Some(place) = &place {
            self.settle_out(name, place);
        }
        self.forget_requirements(name);
        edit(self.units.entry(name.clone()).or_default());
        self.note_requirements(name);
        let now = self.units.get(name).and_then(Entry::place).cloned();
        if let Some(old) = place.as_ref().filter(|old| now.as_ref() != Some(*old)) {
            self.displace(name, old);
        }
        if let Some(place) = &now {
            self.settle_in(name, place);
        }
        self.dirty.insert(name.clone());
        self.look(name);
        self.touch_followers(name);
        self.touch_dependents(name);
    }

    /// Takes a unit out of everything that its requirements and target have put it into.
    fn forget_requirements(&mut self, name: &UnitName) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let requirements = entry.requirements.clone();
        let drop_from = |map: &mut std::collections::BTreeMap<String, _>, key: &String| {
            let set: Option<&mut std::collections::BTreeSet<UnitName>> = map.get_mut(key);
            if let Some(set) = set {
                set.remove(name);
                if set.is_empty() {
                    map.remove(key);
                }
            }
        };
        for peer in &requirements.peers {
            drop_from(&mut self.followers, peer);
        }
        for unit in requirements.after.keys() {
            drop_from(&mut self.dependents, unit);
        }
        self.each_pattern(&requirements, |patterns, glob| patterns.remove(glob, name));
        if self.globals.remove(name) {
            // Whether it runs or not: what it forbids may have changed.
            self.freed.extend(self.machines.keys().cloned());
            self.stale.extend(self.machines.keys().cloned());
        }
        self.changed_replaces(name, &requirements);
    }

    fn note_requirements(&mut self, name: &UnitName) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let requirements = entry.requirements.clone();
        let runs = entry.target != TargetState::Inactive && !name.is_template();
        for peer in &requirements.peers {
            let followers = self.followers.entry(peer.clone()).or_default();
            followers.insert(name.clone());
        }
        for unit in requirements.after.keys() {
            let dependents = self.dependents.entry(unit.clone()).or_default();
            dependents.insert(name.clone());
        }
        self.each_pattern(&requirements, |patterns, glob| patterns.add(glob, name));
        if requirements.global && runs {
            self.globals.insert(name.clone());
            self.stale.extend(self.machines.keys().cloned());
        }
        self.changed_replaces(name, &requirements);
    }

    fn each_pattern(
        &mut self,
        requirements: &Requirements,
        mut act: impl FnMut(&mut Patterns, &crate::glob::Glob),
    ) {
        let all = [
            (&mut self.conflicts, &requirements.conflicts),
            (&mut self.replaces, &requirements.replaces),
            (&mut self.prefers, &requirements.prefer_conflicts),
        ];
        for (patterns, globs) in all {
            globs.iter().for_each(|glob| act(patterns, glob));
        }
        for glob in &requirements.peer_globs {
            act(&mut self.glob_followers, glob);
        }
    }

    /// Circles of replacements may have opened or closed for those that replace this unit, and for
    /// those that replace them.
    fn changed_replaces(&mut self, name: &UnitName, requirements: &Requirements) {
        if requirements.replaces.is_empty() {
            return;
        }
        let mut seen = std::collections::BTreeSet::from([name.clone()]);
        let mut open = vec![name.clone()];
        while let Some(name) = open.pop() {
            let holders = self.replaces.holders(&name);
            let new: Vec<UnitName> = holders.filter(|h| !seen.contains(*h)).cloned().collect();
            seen.extend(new.iter().cloned());
            open.extend(new);
            self.look(&name);
            self.dirty.insert(name);
        }
    }

    pub(super) fn move_to(&mut self, name: &UnitName, machine: Option<&MachineId>) {
        let Some(entry) = self.units.get_mut(name) else {
            return;
        };
        let old = std::mem::replace(&mut entry.scheduled, machine.cloned());
        if let Some(old) = old {
            self.settle_out(name, &old);
            self.displace(name, &old);
        }
        if let Some(new) = machine {
            let placed = self.placed.entry(new.clone()).or_default();
            placed.insert(name.clone());
            self.settle_in(name, new);
            self.unwait(name);
        }
        self.touch_followers(name);
        self.touch_dependents(name);
    }

    /// Keeps a place for a unit that is on its way, or no longer.
    pub(super) fn promise(&mut self, name: &UnitName, machine: Option<&MachineId>) {
        let Some(entry) = self.units.get_mut(name) else {
            return;
        };
        let old = std::mem::replace(&mut entry.promised, machine.cloned());
        if let Some(old) = old {
            self.settle_out(name, &old);
        }
        if let Some(new) = machine {
            self.settle_in(name, new);
        }
    }

    /// Puts a unit among the residents of a machine, if it counts there.
    pub(super) fn settle_in(&mut self, name: &UnitName, machine: &MachineId) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let Some(slot) = self.machines.get_mut(machine) else {
            return;
        };
        if !entry.wants_place(name) || slot.residents.names().contains(name) {
            return;
        }
        let load = slot.load();
        let requirements = entry.requirements.clone();
        slot.residents.add(name, &requirements);
        // Those it replaces must be tested again.
        for glob in &requirements.replaces {
            self.dirty
                .extend(slot.residents.matching(glob, name).cloned());
        }
        self.count_spread(name, machine, true);
        self.reload(machine, load);
        self.check_reservations(machine);
        self.stale.insert(machine.clone());
    }

    pub(super) fn settle_out(&mut self, name: &UnitName, machine: &MachineId) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let Some(slot) = self.machines.get_mut(machine) else {
            return;
        };
        if !slot.residents.names().contains(name) {
            return;
        }
        let load = slot.load();
        slot.residents.remove(name, &entry.requirements);
        self.count_spread(name, machine, false);
        self.reload(machine, load);
        self.stale.insert(machine.clone());
        self.freed.insert(machine.clone());
    }

    fn displace(&mut self, name: &UnitName, machine: &MachineId) {
        if let Some(names) = self.placed.get_mut(machine) {
            names.remove(name);
            if names.is_empty() {
                self.placed.remove(machine);
            }
        }
    }

    /// Moves a machine to its place by load.
    pub(super) fn reload(&mut self, machine: &MachineId, old: Load) {
        let Some(slot) = self.machines.get(machine) else {
            return;
        };
        let new = slot.load();
        if new != old {
            self.by_load.remove(&(old, machine.clone()));
            self.by_load.insert((new, machine.clone()));
        }
    }

    /// Whoever is on a machine that has promised too much must be tested again.
    pub(super) fn check_reservations(&mut self, machine: &MachineId) {
        if let Some(slot) = self.machines.get(machine)
            && !slot.residents.reserved().fits(&slot.offer)
        {
            self.dirty.extend(slot_names(Some(slot)));
        }
    }

    pub(super) fn count_metadata(&mut self, id: &MachineId, more: bool) {
        let Some(slot) = self.machines.get(id) else {
            return;
        };
        for (key, value) in &slot.metadata {
            if more {
                let values = self.domains.entry(key.clone()).or_default();
                *values.entry(value.clone()).or_default() += 1;
            } else if let Some(values) = self.domains.get_mut(key) {
                if let Some(count) = values.get_mut(value) {
                    *count -= 1;
                    if *count == 0 {
                        values.remove(value);
                    }
                }
                if values.is_empty() {
                    self.domains.remove(key);
                }
            }
        }
    }

    /// Counts a resident among the instances of its template, if they are spread.
    pub(super) fn count_spread(&mut self, name: &UnitName, machine: &MachineId, more: bool) {
        let (Some(entry), Some(slot)) = (self.units.get(name), self.machines.get(machine)) else {
            return;
        };
        if let Some(key) = &entry.requirements.spread {
            let group = name.template().unwrap_or_else(|| name.clone());
            self.spreads.count(group, key, &slot.metadata, more);
        }
    }

    /// Decides again which global units run on a machine.
    pub(super) fn refresh_globals(&mut self, machine: &MachineId) {
        let Some(slot) = self.machines.get_mut(machine) else {
            return;
        };
        if self.globals.is_empty() && slot.globals.names().is_empty() {
            return;
        }
        let units = &self.units;
        let globals = self
            .globals
            .iter()
            .filter_map(|name| units.get(name).map(|entry| (name, &*entry.requirements)));
        let load = slot.load();
        let accepted = super::accept_globals(&slot.metadata, &slot.offer, &slot.residents, globals);
        let changed: Vec<UnitName> = accepted
            .names()
            .symmetric_difference(slot.globals.names())
            .cloned()
            .collect();
        slot.globals = accepted;
        self.reload(machine, load);
        if !changed.is_empty() {
            self.freed.insert(machine.clone());
        }
        for name in changed {
            self.touch_followers(&name);
            self.touch_dependents(&name);
        }
    }

    /// Whoever must be where this unit is has to be looked at again.
    pub(super) fn touch_followers(&mut self, name: &UnitName) {
        let exact = self.followers.get(name.as_str()).into_iter().flatten();
        let by_glob = self.glob_followers.holders(name);
        let followers: Vec<UnitName> = exact.chain(by_glob).cloned().collect();
        for follower in followers {
            self.look(&follower);
            self.dirty.insert(follower);
        }
    }

    /// The unit is to be looked at with the next plan.
    pub(super) fn look(&mut self, name: &UnitName) {
        self.queue.insert(name.clone(), Look::Everywhere);
    }

    pub(super) fn wait(&mut self, name: &UnitName, why: Waiting) {
        if self.waiting.get(name) == Some(&why) {
            return;
        }
        let old = self.waiting.insert(name.clone(), why);
        self.waited.entry(name.clone()).or_insert(old);
    }

    pub(super) fn unwait(&mut self, name: &UnitName) {
        if let Some(old) = self.waiting.remove(name) {
            self.waited.entry(name.clone()).or_insert(Some(old));
        }
    }
}
