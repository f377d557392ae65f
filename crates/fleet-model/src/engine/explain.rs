//! Answers to "why is this unit there, and why not elsewhere".

use std::fmt;

use super::reason::{Obstacle, Reason, Waiting};
use super::scheduler::{Entry, Scheduler};
use super::slot::{Load, Slot};
use super::{ClusterView, index};
use crate::machine::MachineId;
use crate::name::UnitName;
use crate::requirements::Requirements;
use crate::state::TargetState;
use crate::wire::flotilla;

/// Everything there is to say about a unit's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The unit.
    pub unit: UnitName,
    /// What is wanted of it.
    pub target: TargetState,
    /// Where it is scheduled.
    pub scheduled: Option<MachineId>,
    /// Why it is there, or nowhere.
    pub verdict: Verdict,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// All machines, best first.
    pub machines: Vec<Candidate>,
}

/// Why a unit is where it is, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A template; only instances of it run.
    Template,
    /// Nobody wants it on a machine.
    NotWanted,
    /// Each machine decides alone; it runs on so many.
    Global {
        /// How many.
        on: usize,
    },
    /// This leader put it there.
    Decided(Reason),
    /// An earlier leader put it there, and it can stay.
    Stays,
    /// It is about to be placed.
    Due,
    /// It is about to be taken off.
    Leaves(Reason),
    /// It waits.
    Waits(Waiting),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template => f.write_str("a template is not scheduled, only its instances are"),
            Self::NotWanted => f.write_str("target state is inactive"),
            Self::Global { on } => write!(f, "global: each machine decides alone ({on} run it)"),
            Self::Decided(reason) => write!(f, "{reason}"),
            Self::Stays => f.write_str("fits where it is; units are not moved without need"),
            Self::Due => f.write_str("is being scheduled"),
            Self::Leaves(reason) => write!(f, "is being taken off: {reason}"),
            Self::Waits(waiting) => write!(f, "{waiting}"),
        }
    }
}

/// One machine, as a place for a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The machine.
    pub machine: MachineId,
    /// What is in the way.
    pub obstacle: Option<Obstacle>,
    /// How often the batch unit has failed there since it was started anew.
    pub failures: u64,
    /// How many preferences it does not meet.
    pub unmet: u64,
    /// What it carries.
    pub load: Load,
}

impl Scheduler {
    /// Explains a unit's place. To be asked after [`Scheduler::plan`].
    #[must_use]
    pub fn explain(&self, name: &UnitName) -> Option<Explanation> {
        let (name, entry) = self.units.get_key_value(name).filter(|(_, e)| e.exists)?;
        let requirements = &*entry.requirements;
        let query = self.query(name, entry);
        let mut machines: Vec<Candidate> = self
            .machines
            .iter()
            .map(|(machine, slot)| {
                let obstacle = if requirements.global {
                    refusal(name, requirements, slot)
                } else {
                    let invalid = requirements.invalid.clone().map(Obstacle::Invalid);
                    invalid.or_else(|| self.obstacle(&query, machine, slot))
                };
                let cost = self.cost(&query, machine, slot);
                Candidate {
                    machine: machine.clone(),
                    obstacle,
                    failures: cost.failures,
                    unmet: cost.unmet,
                    load: slot.load(),
                }
            })
            .collect();
        machines.sort_by(|a, b| {
            let key = |c: &Candidate| (c.obstacle.is_some(), c.failures, c.unmet, c.load);
            key(a).cmp(&key(b)).then_with(|| a.machine.cmp(&b.machine))
        });
        let waiting = self.waiting.get(name).cloned();
        Some(Explanation {
            unit: name.clone(),
            target: entry.target,
            scheduled: entry.scheduled.clone(),
            verdict: self.verdict(name, entry, waiting.as_ref()),
            waiting,
            machines,
        })
    }

    fn verdict(&self, name: &UnitName, entry: &Entry, waiting: Option<&Waiting>) -> Verdict {
        if name.is_template() {
            return Verdict::Template;
        }
        if entry.target == TargetState::Inactive {
            return Verdict::NotWanted;
        }
        if entry.requirements.global {
            let runs = |slot: &&Slot| slot.globals.names().contains(name);
            let on = self.machines.values().filter(runs).count();
            return Verdict::Global { on };
        }
        match (&entry.scheduled, &entry.why, waiting) {
            (_, _, Some(waiting)) => Verdict::Waits(waiting.clone()),
            (Some(_), Some(reason @ Reason::Chosen { .. }), None) => {
                Verdict::Decided(reason.clone())
            }
            (Some(_), _, None) => Verdict::Stays,
            (None, _, None) => Verdict::Due,
        }
    }
}

/// Explains a unit's place in a whole cluster as it is, before the leader has done anything about it.
#[must_use]
pub fn explain(cluster: &ClusterView, name: &UnitName) -> Option<Explanation> {
    let mut scheduler = index(cluster);
    let plan = scheduler.plan();
    let mut explanation = scheduler.explain(name)?;
    let scheduled = cluster.units.get(name)?.scheduled.clone();
    if explanation.scheduled != scheduled {
        if explanation.waiting.is_none() {
            let task = plan.tasks.into_iter().find(|task| task.unit == *name);
            explanation.verdict = match (&scheduled, task) {
                (Some(_), Some(task)) => Verdict::Leaves(task.why),
                _ => Verdict::Due,
            };
        }
        explanation.scheduled = scheduled;
    }
    Some(explanation)
}

/// Why a machine does not run a global unit.
fn refusal(name: &UnitName, requirements: &Requirements, slot: &Slot) -> Option<Obstacle> {
    if slot.globals.names().contains(name) {
        return None;
    }
    if let Some(error) = &requirements.invalid {
        return Some(Obstacle::Invalid(error.clone()));
    }
    if let Some(key) = requirements.missing_metadata(&slot.metadata) {
        let key = key.to_owned();
        return Some(Obstacle::Metadata { key });
    }
    let residents = slot.residents.conflicts(name, requirements);
    let mut others = residents.chain(slot.globals.conflicts(name, requirements));
    if let Some(unit) = others.next().cloned() {
        return Some(Obstacle::Conflict { unit });
    }
    let need = requirements.reservation;
    let free = slot.offer.memory?.saturating_sub(slot.reserved().memory);
    if need.memory > free {
        let need = need.memory;
        return Some(Obstacle::Memory { need, free });
    }
    let free = slot
        .offer
        .cpu?
        .millis()
        .saturating_sub(slot.reserved().cpu.millis());
    (need.cpu.millis() > free).then(|| Obstacle::Cpu {
        need: need.cpu,
        free: crate::amount::Cpu::from_millis(free),
    })
}

impl Explanation {
    /// As the API says it. `address` knows where machines can be reached.
    #[must_use]
    pub fn to_wire(&self, address: impl Fn(&MachineId) -> String) -> flotilla::Explanation {
        let machines = self.machines.iter().map(|candidate| flotilla::Candidate {
            id: candidate.machine.to_string(),
            ip: address(&candidate.machine),
            fits: candidate.obstacle.is_none(),
            obstacle: candidate
                .obstacle
                .as_ref()
                .map_or_else(String::new, Obstacle::to_string),
            failures: candidate.failures,
            unmet: candidate.unmet,
            load: candidate.load.whole(),
        });
        flotilla::Explanation {
            unit: self.unit.to_string(),
            target: self.target.to_string(),
            scheduled: self.scheduled.is_some(),
            machine: self
                .scheduled
                .as_ref()
                .map_or_else(String::new, MachineId::to_string),
            reason: self.verdict.to_string(),
            waiting: self.waiting.as_ref().map(Waiting::to_string),
            machines: machines.collect(),
        }
    }
}
