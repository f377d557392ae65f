//! Moves that nothing forces: away from machines that are being drained, and to even out the load.
//!
//! A unit that moves has a place kept for it while it stops on its old machine, so that nothing else
//! takes that place. It is never stopped before there is one.

use std::collections::BTreeSet;

use super::place::{Choice, Query};
use super::reason::{Obstacle, Reason, Waiting};
use super::scheduler::{Entry, Scheduler};
use super::slot::{Access, Load, Slot};
use crate::amount::Reservation;
use crate::glob::Glob;
use crate::machine::MachineId;
use crate::name::UnitName;

/// How many of the least loaded machines are tried for a unit that would even out the load.
const CANDIDATES: usize = 64;

impl Scheduler {
    /// Moves a unit away from its machine, with those that must be where it is, if it can run
    /// elsewhere.
    pub(super) fn leave(&mut self, name: &UnitName) {
        let Some(machine) = self.scheduled(name).cloned() else {
            return;
        };
        let group = self.group(name, &machine);
        match self.refuge(&group, &machine) {
            Some(choice) if !self.can_follow(&group, &choice.machine) => {
                let why = Box::new(Waiting::Contradiction);
                self.wait(name, Waiting::CannotLeave { machine, why });
            }
            Some(choice) => {
                for member in &group {
                    self.take_off(member, Reason::Draining);
                    self.promise(member, Some(&choice.machine));
                    self.unwait(member);
                }
            }
            None => {
                let why = Box::new(self.bond(name, &group, &machine));
                self.wait(name, Waiting::CannotLeave { machine, why });
            }
        }
    }

    /// The unit and all that must be on the same machine, as far as MachineOf says so.
    fn group(&self, name: &UnitName, machine: &MachineId) -> BTreeSet<UnitName> {
        let mut group = BTreeSet::from([name.clone()]);
        let Some(slot) = self.machines.get(machine) else {
            return group;
        };
        let is_here = |other: &UnitName| {
            self.units
                .get(other)
                .is_some_and(|e| e.scheduled.as_ref() == Some(machine))
        };
        let mut open = vec![name.clone()];
        while let Some(name) = open.pop() {
            let Some(entry) = self.units.get(&name) else {
                continue;
            };
            let peers = entry.requirements.peers.iter();
            let peers = peers.filter_map(|peer| slot.residents.names().get(peer.as_str()));
            let followers = self.followers.get(name.as_str()).into_iter().flatten();
            let by_glob = self.glob_followers.holders(&name);
            let bound = by_glob.filter(|follower| self.is_bound(follower, slot, &group));
            let near = peers.chain(followers).chain(bound).filter(|o| is_here(o));
            let near: Vec<UnitName> = near.filter(|o| !group.contains(*o)).cloned().collect();
            group.extend(near.iter().cloned());
            open.extend(near);
        }
        group
    }

    /// Whether a unit has a pattern in MachineOf that only units of the group match here.
    fn is_bound(&self, follower: &UnitName, slot: &Slot, group: &BTreeSet<UnitName>) -> bool {
        let Some(entry) = self.units.get(follower) else {
            return false;
        };
        let lost = |glob: &Glob| {
            let mut residents = slot.residents.matching(glob, follower);
            residents.all(|other| group.contains(other))
                && slot.globals.matching(glob, follower).next().is_none()
        };
        entry.requirements.peer_globs.iter().any(lost)
    }

    fn queries<'a>(&'a self, group: &'a BTreeSet<UnitName>) -> Vec<Query<'a>> {
        let entries = group.iter().filter_map(|n| Some((n, self.units.get(n)?)));
        let entries: Vec<(&UnitName, &Entry)> = entries.collect();
        let total = entries.iter().fold(Reservation::default(), |sum, (_, e)| {
            sum.plus(e.requirements.reservation)
        });
        let mut out = Vec::with_capacity(entries.len());
        for (i, (name, entry)) in entries.into_iter().enumerate() {
            // The first asks for room for all of them.
            let need = if i == 0 {
                total
            } else {
                Reservation::default()
            };
            out.push(self.query_with(name, entry, group, need));
        }
        out
    }

    /// The best other machine for a group.
    fn refuge(&self, group: &BTreeSet<UnitName>, machine: &MachineId) -> Option<Choice> {
        let queries = self.queries(group);
        if queries
            .iter()
            .any(|q| q.entry.requirements.machine_id.is_some())
        {
            return None;
        }
        self.best(&queries, Some(machine), None)
    }

    /// Whether the units of a group can be scheduled one after the other on a machine: those that
    /// are named in each other's MachineOf never can.
    fn can_follow(&self, group: &BTreeSet<UnitName>, machine: &MachineId) -> bool {
        if group.len() == 1 {
            return true;
        }
        let mut arrived: BTreeSet<UnitName> = BTreeSet::new();
        while arrived.len() < group.len() {
            let next = group.iter().find(|name| {
                let Some((entry, slot)) = self.units.get(*name).zip(self.machines.get(machine))
                else {
                    return false;
                };
                let mut peers = entry.requirements.peers.iter();
                let mut globs = entry.requirements.peer_globs.iter();
                let there = |glob: &&Glob| {
                    let mut arrived = arrived.iter();
                    let others = slot.residents.matching(glob, name);
                    let mut others = others.chain(slot.globals.matching(glob, name));
                    arrived.any(|other| glob.matches(other.as_str())) || others.next().is_some()
                };
                !arrived.contains(*name)
                    && peers.all(|peer| {
                        !group.contains(peer.as_str()) || arrived.contains(peer.as_str())
                    })
                    && globs.all(|glob| there(&glob))
            });
            match next {
                Some(name) => arrived.insert(name.clone()),
                None => return false,
            };
        }
        true
    }

    /// Why a unit cannot leave.
    fn bond(&self, name: &UnitName, group: &BTreeSet<UnitName>, machine: &MachineId) -> Waiting {
        let queries = self.queries(group);
        let own = queries.iter().filter(|q| q.name == name);
        let others = queries.iter().filter(|q| q.name != name);
        let mut why = Waiting::NoFit {
            obstacles: Vec::new(),
            more: self.machines.len() - 1,
        };
        for query in own.chain(others) {
            if let Some(wanted) = query.entry.requirements.machine_id.clone() {
                return Waiting::Pinned { wanted };
            }
            let found = self.no_fit(query, None);
            if let Waiting::NoFit { obstacles, more } = found
                && !obstacles.is_empty()
            {
                // Its own machine is none of them.
                let more = more.saturating_sub(usize::from(self.machines.contains_key(machine)));
                why = Waiting::NoFit { obstacles, more };
                break;
            }
        }
        why
    }

    /// The machine where a place is kept, if the unit can run there now.
    pub(super) fn kept(&self, query: &Query<'_>, machine: &MachineId) -> Option<Choice> {
        let slot = self.machines.get(machine)?;
        if self.obstacle(query, machine, slot).is_some() {
            return None;
        }
        Some(Choice {
            machine: machine.clone(),
            load: slot.load(),
            cost: self.cost(query, machine, slot),
        })
    }

    /// Whether the place kept for a unit is none any more.
    pub(super) fn promise_is_broken(&self, name: &UnitName) -> bool {
        let Some((entry, machine)) = self
            .units
            .get(name)
            .and_then(|entry| Some((entry, entry.promised.as_ref()?)))
        else {
            return false;
        };
        let Some(slot) = self.machines.get(machine) else {
            return true;
        };
        let comes = |other: &UnitName| {
            let entry = self.units.get(other);
            entry.is_some_and(|e| e.promised.as_ref() == Some(machine))
        };
        match self.obstacle(&self.query(name, entry), machine, slot) {
            None => false,
            // Those that it must be with are on their way, too.
            Some(Obstacle::PeerAway { peer }) => {
                let glob = Glob::new(peer);
                let mut peers = self.units_matching(&glob);
                !peers.any(|other| other != name && comes(other))
            }
            Some(_) => true,
        }
    }

    /// Moves at most `budget` units from more to less loaded machines; how many.
    ///
    /// Each move is to a machine that afterwards carries less than the old one did before, and that
    /// meets no fewer preferences. Units that are bound to others, or to a machine, and batch units
    /// stay.
    pub(super) fn even_out(&mut self, budget: u32) -> u32 {
        let mut moved = 0;
        let mut hopeless = BTreeSet::new();
        while moved < budget {
            let Some((name, target)) = self.improvement(&mut hopeless) else {
                break;
            };
            self.take_off(&name, Reason::Rebalanced);
            self.promise(&name, Some(&target));
            while let Some(machine) = self.stale.pop_first() {
                self.refresh_globals(&machine);
            }
            moved += 1;
        }
        moved
    }

    fn improvement(&self, hopeless: &mut BTreeSet<MachineId>) -> Option<(UnitName, MachineId)> {
        let (least, _) = self.by_load.first()?;
        for (load, machine) in self.by_load.iter().rev() {
            if load <= least {
                break;
            }
            let Some(slot) = self.machines.get(machine) else {
                continue;
            };
            if hopeless.contains(machine) || slot.access == Access::Draining {
                continue;
            }
            for name in slot.residents.names() {
                if let Some(target) = self.lighter_place(name, machine, slot, *load) {
                    return Some((name.clone(), target));
                }
            }
            hopeless.insert(machine.clone());
        }
        None
    }

    fn lighter_place(
        &self,
        name: &UnitName,
        machine: &MachineId,
        slot: &Slot,
        load: Load,
    ) -> Option<MachineId> {
        let entry = self.units.get(name)?;
        let requirements = &*entry.requirements;
        let bound = requirements.machine_id.is_some()
            || !requirements.peers.is_empty()
            || !requirements.peer_globs.is_empty()
            || requirements.batch.is_some()
            || entry.scheduled.as_ref() != Some(machine)
            || self.group(name, machine).len() > 1;
        if bound {
            return None;
        }
        let query = self.query(name, entry);
        let cost = self.cost(&query, machine, slot);
        for (other_load, other) in self.by_load.iter().take(CANDIDATES) {
            if *other_load >= load {
                break;
            }
            let Some(target) = self.machines.get(other) else {
                continue;
            };
            let replaces = |glob: &Glob| target.residents.matching(glob, name).next().is_some();
            if other != machine
                && target.load_with(1, requirements.reservation) < load
                && !requirements.replaces.iter().any(replaces)
                && self.obstacle(&query, other, target).is_none()
                && self.cost(&query, other, target) <= cost
            {
                return Some(other.clone());
            }
        }
        None
    }
}
