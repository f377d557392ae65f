//! Any sequence of facts, whatever sense it makes: every plan comes to an end, schedules only on
//! machines that are there, and leaves an index that a fresh one agrees with.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::{machine, name, unit};
use crate::amount::Cpu;
use crate::record::Outcome;

const OPTIONS: [&str; 17] = [
    "",
    "Conflicts=a*",
    "Conflicts=*",
    "MachineOf=a1.service",
    "MachineOf=b*",
    "MachineID=m1",
    "MachineMetadata=x>1",
    "Replaces=b*",
    "Replaces=a*",
    "Global=true",
    "Global=true\nMemory=1G",
    "Memory=1G",
    "PreferConflicts=*",
    "Spread=x",
    "Partition=stop",
    "Batch=yes\nRetries=2",
    "CPU=2",
];

#[derive(Debug, Clone)]
enum Fact {
    Machine(String, u8),
    Gone(String),
    Unit(String, (usize, usize), bool, TargetState),
    Removed(String),
    State(String, String, Option<Activity>),
    Schedule(String, Option<String>),
    Result(String, Option<(Outcome, String)>),
    Access(String, Access),
    Offer(String, u64),
    Rebalance(u32),
    Plan,
}

fn fact() -> impl Strategy<Value = Fact> {
    let id = || "m[1-4]";
    let unit = || "[ab][1-4]";
    let options = || 0..OPTIONS.len();
    let target = prop::sample::select(vec![
        TargetState::Launched,
        TargetState::Launched,
        TargetState::Loaded,
        TargetState::Inactive,
    ]);
    let activity = prop::sample::select(vec![
        Activity::Active,
        Activity::Pending,
        Activity::Failed,
        Activity::Idle,
        Activity::Done,
    ]);
    let access = prop::sample::select(vec![Access::Open, Access::Cordoned, Access::Draining]);
    let outcome = prop::sample::select(vec![Outcome::Success, Outcome::Failure]);
    prop_oneof![
        3 => (id(), 0..4_u8).prop_map(|(id, x)| Fact::Machine(id, x)),
        1 => id().prop_map(Fact::Gone),
        4 => (unit(), (options(), options()), any::<bool>(), target)
            .prop_map(|(n, o, after, t)| Fact::Unit(n, o, after, t)),
        1 => unit().prop_map(Fact::Removed),
        2 => (unit(), id(), prop::option::of(activity))
            .prop_map(|(n, id, a)| Fact::State(n, id, a)),
        1 => (unit(), prop::option::of(id())).prop_map(|(n, id)| Fact::Schedule(n, id)),
        1 => (unit(), prop::option::of((outcome, id()))).prop_map(|(n, r)| Fact::Result(n, r)),
        1 => (id(), access).prop_map(|(id, a)| Fact::Access(id, a)),
        1 => (id(), 0..6_u64).prop_map(|(id, g)| Fact::Offer(id, g)),
        1 => (0..4_u32).prop_map(Fact::Rebalance),
        4 => Just(Fact::Plan),
    ]
}

/// What the facts amount to.
#[derive(Default)]
struct Truth {
    view: ClusterView,
    access: BTreeMap<MachineId, Access>,
}

impl Truth {
    fn note(&mut self, scheduler: &mut Scheduler, fact: &Fact) {
        let view = &mut self.view;
        match fact {
            Fact::Machine(id, x) => {
                let id = machine(id);
                let metadata = crate::parse_metadata(&format!("x={x}"));
                scheduler.set_machine(&id, metadata.clone());
                let access = self.access.get(&id).copied().unwrap_or_default();
                let slot = view.machines.entry(id).or_default();
                (slot.metadata, slot.access) = (metadata, access);
            }
            Fact::Gone(id) => {
                let id = machine(id);
                scheduler.remove_machine(&id);
                if view.machines.remove(&id).is_some() {
                    for unit in view.units.values_mut() {
                        unit.held_by.remove(&id);
                    }
                }
            }
            Fact::Unit(n, (one, other), after, target) => {
                let order = if *after {
                    "After=a1.service b2.service\nRequires=b2.service\n"
                } else {
                    ""
                };
                let (one, other) = (OPTIONS[*one], OPTIONS[*other]);
                let text = format!("[Unit]\n{order}[X-Fleet]\n{one}\n{other}");
                let (n, new) = unit(n, &text, None);
                scheduler.set_unit(&n, new.requirements.clone(), *target);
                let known = view.units.entry(n).or_insert_with(|| new.clone());
                (known.requirements, known.target) = (new.requirements, *target);
            }
            Fact::Removed(n) => {
                let n = name(n);
                scheduler.remove_unit(&n);
                if let Some(unit) = view.units.remove(&n) {
                    // Its machine lets go of it.
                    for id in unit.held_by.keys() {
                        scheduler.set_state(&n, id, None);
                    }
                }
            }
            Fact::State(n, id, activity) => {
                let (n, id) = (name(n), machine(id));
                let known = view.machines.contains_key(&id);
                if let Some(unit) = view.units.get_mut(&n).filter(|_| known) {
                    scheduler.set_state(&n, &id, *activity);
                    match activity {
                        Some(activity) => unit.held_by.insert(id, *activity),
                        None => unit.held_by.remove(&id),
                    };
                }
            }
            Fact::Schedule(n, id) => {
                let n = name(n);
                if let Some(unit) = view.units.get_mut(&n) {
                    unit.scheduled = id.as_deref().map(machine);
                    scheduler.set_schedule(&n, unit.scheduled.clone());
                }
            }
            Fact::Result(n, result) => {
                let n = name(n);
                if let Some(unit) = view.units.get_mut(&n) {
                    unit.result = result.as_ref().map(|(outcome, id)| {
                        Arc::new(BatchResult {
                            outcome: *outcome,
                            exit_status: 0,
                            attempts: 1,
                            machine: id.clone(),
                            finished: String::new(),
                            failures: BTreeMap::new(),
                        })
                    });
                    scheduler.set_result(&n, unit.result.clone(), unit.answered);
                }
            }
            Fact::Access(id, access) => {
                let id = machine(id);
                scheduler.set_access(&id, *access);
                if let Some(slot) = view.machines.get_mut(&id) {
                    slot.access = *access;
                }
                self.access.insert(id, *access);
            }
            Fact::Offer(id, gigabytes) => {
                let id = machine(id);
                if let Some(slot) = view.machines.get_mut(&id) {
                    slot.offer = Offer {
                        memory: Some(gigabytes << 30),
                        cpu: Some(Cpu::from_millis(gigabytes * 500)),
                    };
                    scheduler.set_offer(&id, slot.offer);
                }
            }
            Fact::Rebalance(budget) => scheduler.rebalance(*budget),
            Fact::Plan => {
                let plan = scheduler.plan();
                for task in &plan.tasks {
                    if let Step::Schedule { to, .. } = &task.step {
                        assert!(view.machines.contains_key(to), "{} on {to}", task.unit);
                    }
                }
                super::apply(view, &plan);
                for (n, u) in &view.units {
                    scheduler.set_result(n, u.result.clone(), u.answered);
                    scheduler.set_schedule(n, u.scheduled.clone());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_sequence_of_facts_is_survived(
        facts in prop::collection::vec(fact(), 0..80),
        margin in 0..20_u64,
    ) {
        let mut scheduler = Scheduler::new();
        scheduler.set_stop_margin(Duration::from_secs(margin));
        let mut truth = Truth::default();
        let mut now = 0;
        for fact in &facts {
            now += 1;
            scheduler.set_clock(Duration::from_secs(now));
            truth.note(&mut scheduler, fact);
        }
        // Then nothing happens any more, but time passes.
        for round in 0..40 {
            prop_assert!(round < 39, "does not settle: {:?}", scheduler.plan());
            now += margin;
            scheduler.set_clock(Duration::from_secs(now));
            let before = truth.view.clone();
            truth.note(&mut scheduler, &Fact::Plan);
            // Whoever has a unit that is not scheduled there lets go of it.
            for (n, unit) in &mut truth.view.units {
                let gone: BTreeSet<MachineId> = unit
                    .held_by
                    .keys()
                    .filter(|id| unit.scheduled.as_ref() != Some(*id))
                    .cloned()
                    .collect();
                for id in gone {
                    unit.held_by.remove(&id);
                    scheduler.set_state(n, &id, None);
                }
            }
            if truth.view == before && scheduler.wake_at().is_none() {
                break;
            }
        }
        let mut fresh = index(&truth.view);
        prop_assert_eq!(fresh.plan().tasks, vec![]);
        for id in truth.view.machines.keys() {
            prop_assert_eq!(scheduler.machine(id), fresh.machine(id));
        }
        let names = |s: &Scheduler| s.waiting().keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&scheduler), names(&fresh));
        prop_assert_eq!(scheduler.wake_at(), None);
        for n in truth.view.units.keys() {
            prop_assert!(scheduler.explain(n).is_some());
        }
    }
}
