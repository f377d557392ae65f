//! The index, and how a plan is made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::population::{Population, accept_globals};
use super::reason::{Obstacle, Reason, Waiting};
use super::{EngineTask, Plan, Step};
use crate::amount::Offer;
use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::requirements::Requirements;
use crate::state::TargetState;

/// How many machines a reason to wait lists.
const OBSTACLES_LISTED: usize = 8;

/// The cluster as the leader knows it, kept up to date change by change.
///
/// The setters only take note; [`Scheduler::plan`] decides, and assumes that its tasks are carried
/// out. When one is not, the shell sets the schedule as it really is, and the next plan deals with
/// it.
#[derive(Debug, Default)]
pub struct Scheduler {
    units: BTreeMap<UnitName, Entry>,
    machines: BTreeMap<MachineId, Slot>,
    by_load: BTreeSet<(usize, MachineId)>,
    /// For each unit, known or not, those that name it in MachineOf.
    followers: BTreeMap<String, BTreeSet<UnitName>>,
    globals: BTreeSet<UnitName>,
    waiting: BTreeMap<UnitName, Waiting>,
    /// Scheduled units to test again.
    dirty: BTreeSet<UnitName>,
    /// Unscheduled units to place.
    queue: BTreeSet<UnitName>,
    /// Something was freed: whatever waits may have a chance.
    freed: bool,
    /// Units taken off a living machine whose removal has not been seen in the registry yet.
    settling: BTreeSet<UnitName>,
    /// Units that the plan being made has placed and taken off again, once or more often.
    taken_off: BTreeSet<UnitName>,
    parked: BTreeSet<UnitName>,
    /// What the plan being made has changed: the schedule before, and why.
    changed: BTreeMap<UnitName, (Option<MachineId>, Reason)>,
}

#[derive(Debug)]
struct Entry {
    requirements: Arc<Requirements>,
    target: TargetState,
    scheduled: Option<MachineId>,
    held_by: BTreeSet<MachineId>,
}

impl Entry {
    /// Shall be on some machine that the leader chooses.
    fn wants_place(&self, name: &UnitName) -> bool {
        self.target != TargetState::Inactive && !self.requirements.global && !name.is_template()
    }
}

/// A machine that is present.
#[derive(Debug, Default)]
struct Slot {
    metadata: Metadata,
    residents: Population,
    globals: Population,
}

impl Slot {
    fn load(&self) -> usize {
        self.residents.names().len() + self.globals.names().len()
    }
}

/// Where a unit named in MachineOf is.
enum Peer<'a> {
    Nowhere,
    On(&'a MachineId),
    Global,
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
        if let Some(slot) = self.machines.get_mut(id) {
            if slot.metadata == metadata {
                return;
            }
            slot.metadata = metadata;
            self.dirty.extend(slot.residents.names().iter().cloned());
        } else {
            self.machines.insert(
                id.clone(),
                Slot {
                    metadata,
                    ..Slot::default()
                },
            );
            self.by_load.insert((0, id.clone()));
            // Units may have been scheduled on it before it was known.
            let here: Vec<UnitName> = self.scheduled_on(id);
            for name in here {
                self.settle_in(&name, id);
                self.dirty.insert(name);
            }
        }
        self.refresh_globals(id);
        self.freed = true;
    }

    /// A machine is gone. Whatever it held, it holds no more.
    pub fn remove_machine(&mut self, id: &MachineId) {
        let Some(slot) = self.machines.remove(id) else {
            return;
        };
        self.by_load.remove(&(slot.load(), id.clone()));
        for name in slot.residents.names() {
            self.dirty.insert(name.clone());
            self.touch_followers(name);
        }
        slot.globals
            .names()
            .iter()
            .for_each(|name| self.touch_followers(name));
        for (name, unit) in &mut self.units {
            if unit.held_by.remove(id) {
                self.queue.insert(name.clone());
            }
        }
        self.freed = true;
    }

    /// A unit exists, or has changed.
    pub fn set_unit(
        &mut self,
        name: &UnitName,
        requirements: Arc<Requirements>,
        target: TargetState,
    ) {
        if let Some(old) = self.units.get(name) {
            if old.requirements == requirements && old.target == target {
                return;
            }
            self.forget_requirements(name);
        } else {
            let held_by = BTreeSet::new();
            let entry = Entry {
                requirements: requirements.clone(),
                target,
                scheduled: None,
                held_by,
            };
            self.units.insert(name.clone(), entry);
        }
        if let Some(entry) = self.units.get_mut(name) {
            entry.requirements = requirements.clone();
            entry.target = target;
        }
        for peer in &requirements.peers {
            self.followers
                .entry(peer.clone())
                .or_default()
                .insert(name.clone());
        }
        let runs = target != TargetState::Inactive && !name.is_template();
        if requirements.global && runs {
            self.globals.insert(name.clone());
            self.refresh_all_globals();
        }
        if let Some(machine) = self.units.get(name).and_then(|e| e.scheduled.clone()) {
            self.settle_in(name, &machine);
        }
        self.dirty.insert(name.clone());
        self.queue.insert(name.clone());
        self.touch_followers(name);
        self.freed = true;
    }

    /// A unit is gone. Its record on a machine, if any, is still respected.
    pub fn remove_unit(&mut self, name: &UnitName) {
        if !self.units.contains_key(name) {
            return;
        }
        self.forget_requirements(name);
        let held = self
            .units
            .remove(name)
            .map(|e| e.held_by)
            .unwrap_or_default();
        if !held.is_empty() {
            // A unit of the same name may be made again before its machine has let go.
            let requirements = Arc::new(Requirements::default());
            let target = TargetState::Inactive;
            let entry = Entry {
                requirements,
                target,
                scheduled: None,
                held_by: held,
            };
            self.units.insert(name.clone(), entry);
        }
        self.waiting.remove(name);
        self.settling.remove(name);
        self.dirty.remove(name);
        self.queue.remove(name);
        self.touch_followers(name);
        self.freed = true;
    }

    /// The registry says where a unit is scheduled.
    pub fn set_schedule(&mut self, name: &UnitName, machine: Option<MachineId>) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let same = entry.scheduled == machine;
        if machine.is_none() && self.settling.remove(name) {
            self.queue.insert(name.clone());
        }
        if same {
            return;
        }
        self.move_to(name, machine.as_ref());
        self.dirty.insert(name.clone());
        self.queue.insert(name.clone());
    }

    /// A machine has, or no longer has, a record of a unit.
    pub fn set_held(&mut self, name: &UnitName, machine: &MachineId, held: bool) {
        if held {
            let entry = self.units.entry(name.clone()).or_insert_with(|| Entry {
                requirements: Arc::default(),
                target: TargetState::Inactive,
                scheduled: None,
                held_by: BTreeSet::new(),
            });
            entry.held_by.insert(machine.clone());
        } else if let Some(entry) = self.units.get_mut(name)
            && entry.held_by.remove(machine)
        {
            self.queue.insert(name.clone());
        }
    }

    /// The units that wait, and why.
    #[must_use]
    pub fn waiting(&self) -> &BTreeMap<UnitName, Waiting> {
        &self.waiting
    }

    /// Where a unit is scheduled.
    #[must_use]
    pub fn scheduled(&self, name: &UnitName) -> Option<&MachineId> {
        self.units.get(name)?.scheduled.as_ref()
    }
}

/// Keeping the index consistent.
impl Scheduler {
    fn scheduled_on(&self, id: &MachineId) -> Vec<UnitName> {
        let here = self
            .units
            .iter()
            .filter(|(_, e)| e.scheduled.as_ref() == Some(id));
        here.map(|(name, _)| name.clone()).collect()
    }

    /// Takes a unit out of everything that depends on its requirements and target.
    fn forget_requirements(&mut self, name: &UnitName) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let (requirements, scheduled) = (entry.requirements.clone(), entry.scheduled.clone());
        if let Some(machine) = scheduled {
            self.settle_out(name, &machine);
        }
        for peer in &requirements.peers {
            if let Some(followers) = self.followers.get_mut(peer) {
                followers.remove(name);
                if followers.is_empty() {
                    self.followers.remove(peer);
                }
            }
        }
        if self.globals.remove(name) {
            self.refresh_all_globals();
        }
    }

    fn move_to(&mut self, name: &UnitName, machine: Option<&MachineId>) {
        let Some(entry) = self.units.get_mut(name) else {
            return;
        };
        let old = std::mem::replace(&mut entry.scheduled, machine.cloned());
        if let Some(old) = old {
            self.settle_out(name, &old);
            self.freed = true;
        }
        if let Some(new) = machine {
            self.settle_in(name, new);
            self.waiting.remove(name);
        }
        self.touch_followers(name);
    }

    /// Puts a unit among the residents of a machine, if it counts there.
    fn settle_in(&mut self, name: &UnitName, machine: &MachineId) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let Some(slot) = self.machines.get_mut(machine) else {
            return;
        };
        if !entry.wants_place(name) {
            return;
        }
        let load = slot.load();
        slot.residents.add(name, &entry.requirements);
        // Those it replaces must be tested again.
        for glob in &entry.requirements.replaces {
            self.dirty
                .extend(slot.residents.matching(glob, name).cloned());
        }
        self.reload(machine, load);
        self.refresh_globals(machine);
    }

    fn settle_out(&mut self, name: &UnitName, machine: &MachineId) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        let Some(slot) = self.machines.get_mut(machine) else {
            return;
        };
        let load = slot.load();
        slot.residents.remove(name, &entry.requirements);
        self.reload(machine, load);
        self.refresh_globals(machine);
    }

    /// Moves a machine to its place by load.
    fn reload(&mut self, machine: &MachineId, old: usize) {
        let Some(slot) = self.machines.get(machine) else {
            return;
        };
        let new = slot.load();
        if new != old {
            self.by_load.remove(&(old, machine.clone()));
            self.by_load.insert((new, machine.clone()));
        }
    }

    /// Decides again which global units run on a machine.
    fn refresh_globals(&mut self, machine: &MachineId) {
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
        let accepted = accept_globals(&slot.metadata, &Offer::default(), &slot.residents, globals);
        if accepted.names() == slot.globals.names() {
            slot.globals = accepted;
            return;
        }
        let load = slot.load();
        let changed: Vec<UnitName> = accepted
            .names()
            .symmetric_difference(slot.globals.names())
            .cloned()
            .collect();
        slot.globals = accepted;
        self.reload(machine, load);
        changed.iter().for_each(|name| self.touch_followers(name));
        self.freed = true;
    }

    fn refresh_all_globals(&mut self) {
        let machines: Vec<MachineId> = self.machines.keys().cloned().collect();
        machines.iter().for_each(|id| self.refresh_globals(id));
    }

    /// Whoever must be where this unit is has to be looked at again.
    fn touch_followers(&mut self, name: &UnitName) {
        if let Some(followers) = self.followers.get(name.as_str()) {
            self.dirty.extend(followers.iter().cloned());
            self.queue.extend(followers.iter().cloned());
        }
    }
}

/// Deciding.
impl Scheduler {
    /// Looks at everything that a change has touched and says what to do about it.
    pub fn plan(&mut self) -> Plan {
        let before = self.waiting.clone();
        loop {
            if let Some(name) = self.dirty.pop_first() {
                self.test(&name);
            } else if std::mem::take(&mut self.freed) {
                self.queue.extend(self.waiting.keys().cloned());
            } else if let Some(name) = self.queue.pop_first() {
                self.place(&name);
            } else {
                break;
            }
        }
        self.taken_off.clear();
        self.queue.extend(std::mem::take(&mut self.parked));
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
                Some(EngineTask { unit, step, why })
            })
            .collect();
        let new = self
            .waiting
            .iter()
            .filter(|(name, why)| before.get(*name) != Some(*why));
        Plan {
            tasks,
            waits: new.map(|(n, w)| (n.clone(), w.clone())).collect(),
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
        let requirements = entry.requirements.clone();
        let why = if requirements.global {
            Reason::BecameGlobal
        } else if !entry.wants_place(name) {
            Reason::NotWanted
        } else {
            let Some(slot) = self.machines.get(&machine) else {
                self.take_off(name, Reason::MachineGone);
                return;
            };
            // Of two that cannot be together the first by name stays.
            let conflicting: Vec<UnitName> = slot
                .residents
                .conflicts(name, &requirements)
                .cloned()
                .collect();
            let first = conflicting
                .iter()
                .min()
                .filter(|other| *other < name)
                .cloned();
            let obstacle = self
                .basic_obstacle(&machine, slot, &requirements)
                .or(first.map(|unit| Obstacle::Conflict { unit }))
                .or_else(|| self.replaced(slot, name));
            let Some(obstacle) = obstacle else {
                self.dirty.extend(conflicting);
                return;
            };
            Reason::NoLongerFits(obstacle)
        };
        self.take_off(name, why);
    }

    fn take_off(&mut self, name: &UnitName, why: Reason) {
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
        self.queue.insert(name.clone());
    }

    /// Remembers what the schedule was before this plan, and the last reason for changing it.
    fn note(&mut self, name: &UnitName, why: Reason) {
        let scheduled = self.units.get(name).and_then(|e| e.scheduled.clone());
        let first = self
            .changed
            .remove(name)
            .map_or(scheduled, |(before, _)| before);
        self.changed.insert(name.clone(), (first, why));
    }

    /// Finds a machine for a unit, or the reason why there is none.
    fn place(&mut self, name: &UnitName) {
        let Some(entry) = self.units.get(name) else {
            return;
        };
        if entry.scheduled.is_some() || !entry.wants_place(name) {
            self.waiting.remove(name);
            return;
        }
        if self.settling.contains(name) {
            self.waiting.insert(name.clone(), Waiting::Settling);
            return;
        }
        if self.parked.contains(name) {
            self.waiting.insert(name.clone(), Waiting::Contradiction);
            return;
        }
        match self.choose(name, entry) {
            Ok((machine, load)) => {
                self.note(name, Reason::LeastLoaded { load });
                self.move_to(name, Some(&machine));
            }
            Err(waiting) => {
                self.waiting.insert(name.clone(), waiting);
            }
        }
    }

    fn choose(&self, name: &UnitName, entry: &Entry) -> Result<(MachineId, usize), Waiting> {
        if self.machines.is_empty() {
            return Err(Waiting::NoMachines);
        }
        let requirements = &*entry.requirements;
        let mut obstacles = Vec::new();
        let mut refused = 0;
        let only = self.peers_place(requirements)?;
        for (load, machine) in &self.by_load {
            if only.is_some_and(|only| only != machine) {
                continue;
            }
            let Some(slot) = self.machines.get(machine) else {
                continue;
            };
            match self.obstacle(name, requirements, machine, slot) {
                None => {
                    let other = entry
                        .held_by
                        .iter()
                        .find(|holder| *holder != machine && self.machines.contains_key(*holder));
                    return match other {
                        Some(holder) => Err(Waiting::StillOn {
                            machine: holder.clone(),
                        }),
                        None => Ok((machine.clone(), *load)),
                    };
                }
                Some(obstacle) => {
                    refused += 1;
                    if obstacles.len() < OBSTACLES_LISTED {
                        obstacles.push((machine.clone(), obstacle));
                    }
                }
            }
        }
        let more = refused - obstacles.len();
        // By machine, so that changing loads do not make a new reason.
        obstacles.sort_by(|a, b| a.0.cmp(&b.0));
        Err(Waiting::NoFit { obstacles, more })
    }

    /// The one machine on which all scheduled peers are, if there are any.
    fn peers_place(&self, requirements: &Requirements) -> Result<Option<&MachineId>, Waiting> {
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
        Ok(only.map(|(_, machine)| machine))
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

    /// All tests of one machine for one unit that is not on it.
    fn obstacle(
        &self,
        name: &UnitName,
        requirements: &Requirements,
        machine: &MachineId,
        slot: &Slot,
    ) -> Option<Obstacle> {
        let conflict = || {
            let scheduled = slot.residents.conflicts(name, requirements);
            let unit = scheduled
                .chain(slot.globals.conflicts(name, requirements))
                .min()?;
            Some(Obstacle::Conflict { unit: unit.clone() })
        };
        self.basic_obstacle(machine, slot, requirements)
            .or_else(conflict)
            .or_else(|| self.replaced(slot, name))
    }

    /// MachineID, metadata, MachineOf.
    fn basic_obstacle(
        &self,
        machine: &MachineId,
        slot: &Slot,
        requirements: &Requirements,
    ) -> Option<Obstacle> {
        if !requirements.admits_machine(machine) {
            let wanted = requirements.machine_id.clone().unwrap_or_default();
            return Some(Obstacle::OtherMachine { wanted });
        }
        if let Some(key) = requirements.missing_metadata(&slot.metadata) {
            return Some(Obstacle::Metadata {
                key: key.to_owned(),
            });
        }
        let there = |peer: &&String| match self.peer(peer) {
            Peer::On(place) => place == machine,
            Peer::Global => slot.globals.names().contains(peer.as_str()),
            Peer::Nowhere => false,
        };
        let away = requirements.peers.iter().find(|peer| !there(peer))?;
        Some(Obstacle::PeerAway { peer: away.clone() })
    }

    /// Whether a resident replaces the unit. Replacements in a circle are ignored, or the units
    /// would chase each other for ever.
    fn replaced(&self, slot: &Slot, name: &UnitName) -> Option<Obstacle> {
        let unit = slot
            .residents
            .replacers(name)
            .find(|other| !self.leads_to(name, other))?;
        Some(Obstacle::ReplacedBy { unit: unit.clone() })
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
            for glob in globs {
                let prefix = glob.literal_prefix();
                let range = self
                    .units
                    .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
                for (next, _) in range.take_while(|(n, _)| n.as_str().starts_with(prefix)) {
                    if glob.matches(next.as_str()) && seen.insert(next) {
                        if next == to {
                            return true;
                        }
                        open.push(next);
                    }
                }
            }
        }
        false
    }
}
