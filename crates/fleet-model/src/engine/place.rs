//! Which machine is best for a unit.
//!
//! Hard rules first, in the order MachineID, metadata, MachineOf, Conflicts, Replaces, reservations,
//! cordon. Of the machines that pass, the one where the unit has failed least often, if it is a batch
//! unit; of those, the one with the fewest preferences not met; of those, the least loaded; of those,
//! the first by ID.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::reason::{Obstacle, Waiting};
use super::scheduler::{Entry, Scheduler};
use super::slot::{Access, Load, Slot};
use crate::amount::Reservation;
use crate::glob::Glob;
use crate::machine::MachineId;
use crate::name::UnitName;
use crate::requirements::Requirements;
use crate::state::TargetState;

/// How many machines a reason to wait lists.
const OBSTACLES_LISTED: usize = 8;

/// A unit that looks for a place, with what need not be found out for every machine.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub(super) name: &'a UnitName,
    pub(super) entry: &'a Entry,
    /// Patterns of others in Conflicts, Replaces and PreferConflicts that match it.
    conflicts: Vec<&'a Glob>,
    replaces: Vec<&'a Glob>,
    prefers: Vec<&'a Glob>,
    spread: Option<Spread<'a>>,
    /// Units that move with it: as good as there.
    company: Option<&'a BTreeSet<UnitName>>,
    /// What they reserve together; its own reservation if it moves alone.
    need: Reservation,
}

/// Where the other instances of its template are.
#[derive(Debug)]
struct Spread<'a> {
    key: &'a str,
    counts: Option<&'a BTreeMap<String, u64>>,
    /// Instances at the value that has the fewest.
    fewest: u64,
    /// Where the unit itself is counted.
    own: Option<&'a str>,
}

impl Spread<'_> {
    fn count(&self, value: &str) -> u64 {
        let count = self.counts.and_then(|c| c.get(value)).copied().unwrap_or(0);
        count - u64::from(self.own == Some(value)).min(count)
    }

    /// How many instances more than necessary would be at this machine's value.
    fn excess(&self, slot: &Slot) -> u64 {
        match slot.metadata.get(self.key) {
            Some(value) => self.count(value).saturating_sub(self.fewest),
            None => (self.count("") + 1).saturating_sub(self.fewest).max(1),
        }
    }
}

/// The best machine for a unit, or several that move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) machine: MachineId,
    pub(super) load: Load,
    pub(super) cost: Cost,
}

/// What speaks against a machine that passes, the weightiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Cost {
    /// How often the batch unit has failed there.
    pub(super) failures: u64,
    /// How many preferences it does not meet.
    pub(super) unmet: u64,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            failures: self.failures.saturating_add(other.failures),
            unmet: self.unmet.saturating_add(other.unmet),
        }
    }
}

/// Where a unit named in MachineOf is.
enum Peer<'a> {
    Nowhere,
    On(&'a MachineId),
    Global,
}

impl Scheduler {
    /// What is to be known of a unit, whatever machine is looked at.
    pub(super) fn query<'a>(&'a self, name: &'a UnitName, entry: &'a Entry) -> Query<'a> {
        let globs = |patterns: &'a super::patterns::Patterns| {
            let others = patterns
                .matching(name)
                .filter(|(_, holders)| holders.len() > 1 || !holders.contains(name));
            others.map(|(glob, _)| glob).collect()
        };
        Query {
            name,
            entry,
            conflicts: globs(&self.conflicts),
            replaces: globs(&self.replaces),
            prefers: globs(&self.prefers),
            spread: self.spread(name, entry),
            company: None,
            need: entry.requirements.reservation,
        }
    }

    /// The same for a unit that moves with others, which reserve so much together.
    pub(super) fn query_with<'a>(
        &'a self,
        name: &'a UnitName,
        entry: &'a Entry,
        company: &'a BTreeSet<UnitName>,
        need: Reservation,
    ) -> Query<'a> {
        Query {
            company: Some(company),
            need,
            ..self.query(name, entry)
        }
    }

    fn spread<'a>(&'a self, name: &UnitName, entry: &'a Entry) -> Option<Spread<'a>> {
        let key = entry.requirements.spread.as_deref()?;
        let group = name.template().unwrap_or_else(|| name.clone());
        let place = entry.place().and_then(|id| self.machines.get(id));
        let place = place.filter(|slot| slot.residents.names().contains(name));
        let mut spread = Spread {
            key,
            counts: self.spreads.counts(group, key),
            fewest: 0,
            own: place.map(|slot| slot.metadata.get(key).map_or("", String::as_str)),
        };
        let values = self.domains.get(key).into_iter().flatten();
        spread.fewest = values
            .map(|(value, _)| spread.count(value))
            .min()
            .unwrap_or(0);
        Some(spread)
    }

    /// The best machine, except one, for units that move together. `fresh` are the only machines
    /// to look at, if given.
    pub(super) fn best(
        &self,
        queries: &[Query<'_>],
        except: Option<&MachineId>,
        fresh: Option<&BTreeSet<MachineId>>,
    ) -> Option<Choice> {
        let mut best: Option<Choice> = None;
        // False once nothing better can come.
        let mut consider = |load: Load, machine: &MachineId, slot: &Slot| {
            // What costs least is asked first; who cannot win any more need not be tested.
            let hopeless = |cost: Cost| best.as_ref().is_some_and(|best| cost >= best.cost);
            let sum = |costs: &dyn Fn(&Query<'_>) -> Cost| {
                let costs = queries.iter().map(costs);
                costs.fold(Cost::default(), Cost::plus)
            };
            let place = sum(&|q| cost_of_place(q, machine, slot));
            if except == Some(machine)
                || hopeless(place)
                || queries
                    .iter()
                    .any(|q| self.obstacle(q, machine, slot).is_some())
            {
                return true;
            }
            let cost = place.plus(sum(&|q| cost_of_company(q, slot)));
            if !hopeless(cost) {
                let machine = machine.clone();
                best = Some(Choice {
                    machine,
                    load,
                    cost,
                });
            }
            cost > Cost::default()
        };
        let only = queries
            .iter()
            .find_map(|q| q.entry.requirements.machine_id.as_deref());
        if let Some(only) = only {
            for (machine, slot) in self.named(only) {
                consider(slot.load(), machine, slot);
            }
        } else if let Some(fresh) = fresh {
            let slots = fresh
                .iter()
                .filter_map(|id| Some((self.machines.get(id)?, id)));
            let mut slots: Vec<_> = slots.map(|(slot, id)| (slot.load(), id, slot)).collect();
            slots.sort_by_key(|(load, id, _)| (*load, *id));
            for (load, machine, slot) in slots {
                if !consider(load, machine, slot) {
                    break;
                }
            }
        } else {
            for (load, machine) in &self.by_load {
                if let Some(slot) = self.machines.get(machine)
                    && !consider(*load, machine, slot)
                {
                    break;
                }
            }
        }
        best
    }

    /// Machines that a MachineID names: those whose ID it is, or begins in 8 characters.
    fn named<'a>(&'a self, value: &'a str) -> impl Iterator<Item = (&'a MachineId, &'a Slot)> + 'a {
        self.machines
            .range::<str, _>((Bound::Included(value), Bound::Unbounded))
            .take_while(move |(id, _)| id.as_str().starts_with(value))
            .filter(move |(id, _)| id.is_named_by(value))
    }

    /// A machine for a unit, or the reason why there is none.
    pub(super) fn choose(
        &self,
        query: &Query<'_>,
        fresh: Option<&BTreeSet<MachineId>>,
    ) -> Result<Choice, Waiting> {
        if self.machines.is_empty() {
            return Err(Waiting::NoMachines);
        }
        let requirements = &*query.entry.requirements;
        if let Some(error) = &requirements.invalid {
            return Err(Waiting::Invalid(error.clone()));
        }
        let only = self.peers_place(query.name, requirements)?;
        let choice = match only {
            Some(machine) => self
                .machines
                .get(machine)
                .filter(|slot| self.obstacle(query, machine, slot).is_none())
                .map(|slot| Choice {
                    machine: machine.clone(),
                    load: slot.load(),
                    cost: self.cost(query, machine, slot),
                }),
            None => self.best(std::slice::from_ref(query), None, fresh),
        };
        choice.ok_or_else(|| self.no_fit(query, only))
    }

    /// Why no machine, or not the only one in question, is fit for a unit.
    pub(super) fn no_fit(&self, query: &Query<'_>, only: Option<&MachineId>) -> Waiting {
        let named = query.entry.requirements.machine_id.as_deref();
        if let Some(wanted) = named
            && self.named(wanted).next().is_none()
        {
            let wanted = wanted.to_owned();
            return Waiting::MachineAbsent { wanted };
        }
        let asked = |id: &MachineId| {
            only.is_none_or(|only| only == id) && named.is_none_or(|value| id.is_named_by(value))
        };
        let obstacles: Vec<_> = self
            .machines
            .iter()
            .filter(|(id, _)| asked(id))
            .filter_map(|(id, slot)| Some((id.clone(), self.obstacle(query, id, slot)?)))
            .take(OBSTACLES_LISTED)
            .collect();
        let more = match (only, named) {
            (None, None) => self.machines.len().saturating_sub(obstacles.len()),
            _ => 0,
        };
        Waiting::NoFit { obstacles, more }
    }

    /// The one machine on which all scheduled peers are, if there are any.
    fn peers_place(
        &self,
        name: &UnitName,
        requirements: &Requirements,
    ) -> Result<Option<&MachineId>, Waiting> {
        let mut only: Option<(&String, &MachineId)> = None;
        for peer in &requirements.peers {
            match (self.peer(peer), only) {
                (Peer::Nowhere, _) => {
                    return Err(Waiting::PeerUnscheduled { peer: peer.clone() });
                }
                (Peer::On(machine), Some((one, other))) if other != machine => {
                    let (one, other) = (one.clone(), peer.clone());
                    return Err(Waiting::PeersApart { one, other });
                }
                (Peer::On(machine), _) => only = Some((peer, machine)),
                (Peer::Global, _) => {}
            }
        }
        for glob in &requirements.peer_globs {
            let matches = |other: &UnitName| {
                let replaced = requirements.replaces_unit(other.as_str());
                match self.peer(other.as_str()) {
                    Peer::Nowhere => false,
                    Peer::On(_) => other != name && !replaced,
                    Peer::Global => other != name,
                }
            };
            if !self.units_matching(glob).any(matches) {
                let peer = glob.as_str().to_owned();
                return Err(Waiting::PeerUnscheduled { peer });
            }
        }
        Ok(only.map(|(_, machine)| machine))
    }

    /// All units that a pattern matches.
    pub(super) fn units_matching<'a>(
        &'a self,
        glob: &'a Glob,
    ) -> impl Iterator<Item = &'a UnitName> + 'a {
        let prefix = glob.literal_prefix();
        self.units
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(name, _)| name)
            .take_while(move |name| name.as_str().starts_with(prefix))
            .filter(|name| glob.matches(name.as_str()))
    }

    fn peer(&self, name: &str) -> Peer<'_> {
        match self.units.get(name) {
            Some(_) if self.globals.contains(name) => Peer::Global,
            Some(Entry {
                scheduled: Some(machine),
                target,
                ..
            }) if *target != TargetState::Inactive => Peer::On(machine),
            _ => Peer::Nowhere,
        }
    }

    /// All tests of one machine for one unit, which may be on it.
    pub(super) fn obstacle(
        &self,
        query: &Query<'_>,
        machine: &MachineId,
        slot: &Slot,
    ) -> Option<Obstacle> {
        let (name, requirements) = (query.name, &*query.entry.requirements);
        if let Some(obstacle) = self.basic_obstacle(query, machine, slot) {
            return Some(obstacle);
        }
        let own = requirements.conflicts.iter().flat_map(|glob| {
            let residents = slot.residents.matching(glob, name);
            residents.chain(slot.globals.matching(glob, name))
        });
        let theirs = slot.residents.conflicts.of(&query.conflicts, name);
        let theirs = theirs.chain(slot.globals.conflicts.of(&query.conflicts, name));
        let others = own.chain(theirs);
        if let Some(unit) = others.filter(|other| !query.is_company(other)).min() {
            return Some(Obstacle::Conflict { unit: unit.clone() });
        }
        let mut replacers = slot.residents.replaces.of(&query.replaces, name);
        if let Some(unit) =
            replacers.find(|other| !query.is_company(other) && self.displaces(other, name))
        {
            return Some(Obstacle::ReplacedBy { unit: unit.clone() });
        }
        if !query.need.is_nothing()
            && let Some(obstacle) = no_room(query, slot)
        {
            return Some(obstacle);
        }
        let here = query.entry.scheduled.as_ref() == Some(machine);
        (slot.access != Access::Open && !here).then_some(Obstacle::Cordoned)
    }

    /// MachineID, metadata, MachineOf.
    pub(super) fn basic_obstacle(
        &self,
        query: &Query<'_>,
        machine: &MachineId,
        slot: &Slot,
    ) -> Option<Obstacle> {
        let (name, requirements) = (query.name, &*query.entry.requirements);
        if !requirements.admits_machine(machine) {
            let wanted = requirements.machine_id.clone().unwrap_or_default();
            return Some(Obstacle::OtherMachine { wanted });
        }
        if let Some(key) = requirements.missing_metadata(&slot.metadata) {
            let key = key.to_owned();
            return Some(Obstacle::Metadata { key });
        }
        // Whoever is replaced leaves, and is no company; global units stay.
        let stays =
            |other: &str| !requirements.replaces_unit(other) || self.globals.contains(other);
        let there = |peer: &&String| {
            if !stays(peer) {
                return false;
            }
            query.company.is_some_and(|c| c.contains(peer.as_str()))
                || match self.peer(peer) {
                    Peer::On(place) => place == machine,
                    Peer::Global => slot.globals.names().contains(peer.as_str()),
                    Peer::Nowhere => false,
                }
        };
        if let Some(away) = requirements.peers.iter().find(|peer| !there(peer)) {
            return Some(Obstacle::PeerAway { peer: away.clone() });
        }
        let arrived = |other: &UnitName| {
            let entry = self.units.get(other);
            stays(other.as_str()) && entry.is_some_and(|e| e.scheduled.as_ref() == Some(machine))
        };
        let matched = |glob: &&Glob| {
            let mut residents = slot.residents.matching(glob, name);
            let mut company = query.company.into_iter().flatten();
            residents.any(arrived)
                || slot.globals.matching(glob, name).next().is_some()
                || company.any(|other| {
                    other != name && stays(other.as_str()) && glob.matches(other.as_str())
                })
        };
        let away = requirements.peer_globs.iter().find(|glob| !matched(glob))?;
        let peer = away.as_str().to_owned();
        Some(Obstacle::PeerAway { peer })
    }

    /// What speaks against a machine for a unit, in the eyes of both it and others.
    pub(super) fn cost(&self, query: &Query<'_>, machine: &MachineId, slot: &Slot) -> Cost {
        cost_of_place(query, machine, slot).plus(cost_of_company(query, slot))
    }

    /// Whether a unit that replaces another one makes it leave. Replacements in a circle are ignored,
    /// and those of units that must be where the other one is: they would go on for ever.
    pub(super) fn displaces(&self, replacer: &UnitName, name: &UnitName) -> bool {
        !self.leads_to(name, replacer) && !self.follows(replacer, name)
    }

    /// Whether MachineOf, followed from `from`, arrives at `to`.
    fn follows(&self, from: &UnitName, to: &UnitName) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(entry) = open.pop().and_then(|name| self.units.get(name)) {
            let exact = entry.requirements.peers.iter();
            let exact = exact.filter_map(|p| self.units.get_key_value(p.as_str()));
            let globs = entry.requirements.peer_globs.iter();
            let matched = globs.flat_map(|glob| self.units_matching(glob));
            for next in exact.map(|(name, _)| name).chain(matched) {
                if next == to {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }

    /// Whether following Replaces from `from` arrives at `to`.
    fn leads_to(&self, from: &UnitName, to: &UnitName) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            let globs = self
                .units
                .get(name)
                .map_or(&[][..], |e| &e.requirements.replaces);
            for next in globs.iter().flat_map(|glob| self.units_matching(glob)) {
                if seen.insert(next) {
                    if next == to {
                        return true;
                    }
                    open.push(next);
                }
            }
        }
        false
    }
}

impl Query<'_> {
    fn is_company(&self, other: &UnitName) -> bool {
        self.company.is_some_and(|company| company.contains(other))
    }
}

/// Failures, PreferMetadata and Spread.
fn cost_of_place(query: &Query<'_>, machine: &MachineId, slot: &Slot) -> Cost {
    let metadata = &query.entry.requirements.prefer_metadata;
    let unmet = if metadata.is_empty() {
        0
    } else {
        metadata.unmet(&slot.metadata).count()
    };
    let excess = query
        .spread
        .as_ref()
        .map_or(0, |spread| spread.excess(slot));
    let unmet = u64::try_from(unmet).unwrap_or(u64::MAX);
    Cost {
        failures: query.entry.failures_on(machine),
        unmet: unmet.saturating_add(excess),
    }
}

/// PreferConflicts, whichever side has it.
fn cost_of_company(query: &Query<'_>, slot: &Slot) -> Cost {
    let (name, mut unmet) = (query.name, 0);
    for glob in &query.entry.requirements.prefer_conflicts {
        unmet += slot.residents.matching(glob, name).count();
        unmet += slot.globals.matching(glob, name).count();
    }
    if !query.prefers.is_empty() {
        unmet += slot.residents.prefers.of(&query.prefers, name).count();
    }
    Cost {
        failures: 0,
        unmet: u64::try_from(unmet).unwrap_or(u64::MAX),
    }
}

/// Whether what a unit reserves is not left.
fn no_room(query: &Query<'_>, slot: &Slot) -> Option<Obstacle> {
    let mut reserved = slot.reserved();
    if slot.residents.names().contains(query.name) {
        reserved = reserved.minus(query.need);
    }
    if reserved.plus(query.need).fits(&slot.offer) {
        return None;
    }
    let left = |offer: Option<u64>, reserved: u64| offer.map(|o| o.saturating_sub(reserved));
    let (memory, cpu) = (query.need.memory, query.need.cpu);
    if let Some(free) = left(slot.offer.memory, reserved.memory)
        && memory > free
    {
        return Some(Obstacle::Memory { need: memory, free });
    }
    let free = left(slot.offer.cpu.map(|c| c.millis()), reserved.cpu.millis())?;
    Some(Obstacle::Cpu {
        need: cpu,
        free: crate::amount::Cpu::from_millis(free),
    })
}
