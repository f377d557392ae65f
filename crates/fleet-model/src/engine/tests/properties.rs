//! What holds for any cluster.

use proptest::prelude::*;

use super::super::*;
use super::rules::{assert_settled, fits, wants_place};
use super::{apply, machine, unit};
use crate::amount::Cpu;
use crate::record::Outcome;

fn options() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "",
        "Conflicts=a*",
        "Conflicts=*1.service",
        "Conflicts=c?.service b1.service",
        "MachineOf=a1.service",
        "MachineOf=b1.service",
        "MachineOf=\"c1.service\" \"c2.service\"",
        "MachineOf=b*",
        "MachineOf=?1.service",
        "MachineID=m1",
        "MachineMetadata=x=1",
        "MachineMetadata=\"x=2\" \"x=1\"",
        "MachineMetadata=x>=2",
        "MachineMetadata=x!=1",
        "Replaces=b*",
        "Replaces=a1.service",
        "Replaces=c*",
        "Replaces=d*",
        "Global=true",
        "Global=true\nConflicts=c*",
        "Global=true\nMemory=1G",
        "Memory=1G",
        "Memory=2G",
        "CPU=1.5",
        "Memory=1G\nCPU=50%",
        "PreferConflicts=a* b*",
        "PreferMetadata=x=1",
        "Spread=x",
        "Batch=yes\nRetries=1",
        "Partition=stop",
        "Memory=plenty",
    ]);
    prop::collection::vec(parts, 0..3).prop_map(|parts| parts.join("\n"))
}

fn sections() -> impl Strategy<Value = String> {
    let order = prop::sample::select(vec![
        "",
        "",
        "",
        "",
        "After=a1.service\n",
        "After=b1.service\nRequires=b1.service\n",
        "After=c1.service a2.service\nRequires=c1.service\n",
        "After=d1.service b2.service\n",
    ]);
    (order, options()).prop_map(|(order, options)| format!("[Unit]\n{order}[X-Fleet]\n{options}"))
}

fn result() -> impl Strategy<Value = Option<Arc<BatchResult>>> {
    let outcome = prop::sample::select(vec![Outcome::Success, Outcome::Failure]);
    let place = prop::sample::select(vec!["m1", "m2"]);
    prop::option::weighted(0.3, (outcome, 1..3_u32, place)).prop_map(|result| {
        let (outcome, attempts, machine) = result?;
        Some(Arc::new(BatchResult {
            outcome,
            exit_status: 1,
            attempts,
            machine: machine.into(),
            finished: String::new(),
            failures: BTreeMap::from([("m3".into(), attempts)]),
        }))
    })
}

fn machines() -> impl Strategy<Value = BTreeMap<MachineId, MachineView>> {
    let access = prop::sample::select(vec![
        Access::Open,
        Access::Open,
        Access::Open,
        Access::Cordoned,
        Access::Draining,
    ]);
    let offer = (
        prop::option::of(1..5_u64),
        prop::option::of(prop::sample::select(vec![1000, 2000, 4000])),
    );
    let view = ("(x=[123])?", offer, access).prop_map(|(metadata, (memory, cpu), access)| {
        let offer = Offer {
            memory: memory.map(|g| g << 30),
            cpu: cpu.map(Cpu::from_millis),
        };
        MachineView {
            metadata: crate::parse_metadata(&metadata),
            offer,
            access,
        }
    });
    let machines = prop::collection::btree_map("m[1-4]", view, 0..5);
    machines.prop_map(|machines| {
        machines
            .into_iter()
            .map(|(id, m)| (machine(&id), m))
            .collect()
    })
}

fn view() -> impl Strategy<Value = ClusterView> {
    let place = prop::option::of(prop::sample::select(vec!["m1", "m2", "m3", "gone"]));
    let target = prop::sample::select(vec![
        TargetState::Launched,
        TargetState::Launched,
        TargetState::Loaded,
        TargetState::Inactive,
    ]);
    let units = (sections(), place, target, result());
    let units = prop::collection::btree_map("[a-d][1-4]", units, 0..12);
    (units, machines()).prop_map(|(units, machines)| ClusterView {
        units: units
            .iter()
            .map(|(n, (s, place, target, result))| {
                let (n, mut view) = unit(n, s, *place);
                view.target = *target;
                view.result = result.clone().filter(|_| view.requirements.batch.is_some());
                (n, view)
            })
            .collect(),
        machines,
    })
}

/// What a cluster does with a plan: old machines let go at once, new ones start.
fn carry_out(view: &mut ClusterView, plan: &Plan) {
    apply(view, plan);
    for unit in view.units.values_mut() {
        unit.held_by = unit
            .scheduled
            .iter()
            .filter(|id| view.machines.contains_key(*id))
            .map(|id| (id.clone(), activity(unit.target)))
            .collect();
    }
}

fn activity(target: TargetState) -> Activity {
    match target {
        TargetState::Launched => Activity::Active,
        _ => Activity::Pending,
    }
}

fn settle(view: &mut ClusterView) -> BTreeMap<UnitName, Waiting> {
    for _ in 0..30 {
        let next = plan(view);
        if next.tasks.is_empty() {
            return next.waits.into_iter().collect();
        }
        carry_out(view, &next);
    }
    panic!("does not settle: {:?}", plan(view));
}

/// Tells one scheduler of a cluster that was another one before. What it has decided itself since
/// stays decided.
fn tell(scheduler: &mut Scheduler, from: &ClusterView, to: &ClusterView) {
    for id in from
        .machines
        .keys()
        .filter(|id| !to.machines.contains_key(*id))
    {
        scheduler.remove_machine(id);
    }
    for (id, m) in &to.machines {
        scheduler.set_machine(id, m.metadata.clone());
        scheduler.set_offer(id, m.offer);
        scheduler.set_access(id, m.access);
    }
    for n in from.units.keys().filter(|n| !to.units.contains_key(*n)) {
        for id in from.units[n].held_by.keys() {
            scheduler.set_state(n, id, None);
        }
        scheduler.remove_unit(n);
    }
    for (n, u) in &to.units {
        scheduler.set_unit(n, u.requirements.clone(), u.target);
        scheduler.set_result(n, u.result.clone(), u.answered);
        scheduler.set_schedule(n, u.scheduled.clone());
        let old = from.units.get(n).map(|u| &u.held_by).into_iter().flatten();
        for (id, _) in old.filter(|(id, _)| !u.held_by.contains_key(*id)) {
            scheduler.set_state(n, id, None);
        }
        for (id, activity) in &u.held_by {
            scheduler.set_state(n, id, Some(*activity));
        }
    }
}

/// One scheduler plans and is told what comes of it, until nothing is left to do.
fn settle_with(scheduler: &mut Scheduler, view: &mut ClusterView) {
    for _ in 0..30 {
        let next = scheduler.plan();
        if next.tasks.is_empty() {
            return;
        }
        let before = view.clone();
        carry_out(view, &next);
        tell(scheduler, &before, view);
    }
    panic!("does not settle: {:?}", scheduler.plan());
}

fn loads(scheduler: &Scheduler, view: &ClusterView) -> Vec<Load> {
    let mut loads: Vec<Load> = view
        .machines
        .keys()
        .map(|id| scheduler.machine(id).unwrap().load)
        .collect();
    loads.sort_by(|a, b| b.cmp(a));
    loads
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn plans_settle_and_keep_all_rules(mut view in view()) {
        let waits = settle(&mut view);
        assert_settled(&view, &waits);
    }

    #[test]
    fn the_order_of_inputs_does_not_matter(view in view(), seed in any::<u64>()) {
        let mut scheduler = Scheduler::new();
        let mut units: Vec<_> = view.units.iter().collect();
        let mut machines: Vec<_> = view.machines.iter().collect();
        // A cheap shuffle.
        let mut state = seed | 1;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % n
        };
        for i in (1..units.len()).rev() {
            units.swap(i, random(i + 1));
        }
        for i in (1..machines.len()).rev() {
            machines.swap(i, random(i + 1));
        }
        let add_machines = |scheduler: &mut Scheduler| {
            for (id, m) in &machines {
                scheduler.set_access(id, m.access);
                scheduler.set_machine(id, m.metadata.clone());
                scheduler.set_offer(id, m.offer);
            }
        };
        let early = random(2) == 0;
        if early {
            add_machines(&mut scheduler);
        }
        for (name, unit) in &units {
            scheduler.set_unit(name, unit.requirements.clone(), unit.target);
            scheduler.set_schedule(name, unit.scheduled.clone());
            scheduler.set_result(name, unit.result.clone(), unit.answered);
        }
        if !early {
            add_machines(&mut scheduler);
        }
        prop_assert_eq!(scheduler.plan(), plan(&view));
    }

    #[test]
    fn an_incremental_index_ends_where_a_fresh_one_is_content(
        views in prop::collection::vec(view(), 1..4)
    ) {
        // One scheduler lives through several clusters; after each, nothing is left for a fresh one.
        let mut scheduler = Scheduler::new();
        let mut last = ClusterView::default();
        for mut view in views {
            for (n, u) in &mut view.units {
                if let Some(old) = last.units.get(n) {
                    u.scheduled = old.scheduled.clone();
                    u.held_by = old.held_by.clone();
                    u.answered = old.answered;
                    u.held_by.retain(|id, _| view.machines.contains_key(id));
                }
            }
            tell(&mut scheduler, &last, &view);
            settle_with(&mut scheduler, &mut view);
            let mut fresh = index(&view);
            prop_assert_eq!(fresh.plan().tasks, vec![]);
            let kinds = |s: &Scheduler| -> Vec<_> {
                let kind = std::mem::discriminant::<Waiting>;
                s.waiting().iter().map(|(n, w)| (n.clone(), kind(w))).collect()
            };
            prop_assert_eq!(kinds(&scheduler), kinds(&fresh));
            for (n, u) in &view.units {
                prop_assert_eq!(scheduler.scheduled(n), u.scheduled.as_ref());
            }
            for id in view.machines.keys() {
                prop_assert_eq!(scheduler.machine(id), fresh.machine(id));
            }
            assert_settled(&view, scheduler.waiting());
            last = view;
        }
    }

    #[test]
    fn rebalancing_stays_within_its_budget_and_never_makes_it_worse(
        mut view in view(), budget in 0..6_u32
    ) {
        settle(&mut view);
        let mut scheduler = index(&view);
        scheduler.plan();
        let placed: Vec<_> = view.units.values().map(|u| u.scheduled.is_some()).collect();
        let (old, before) = (view.clone(), loads(&scheduler, &view));
        scheduler.rebalance(budget);
        let plan = scheduler.plan();
        let moved = plan.rebalanced.unwrap();
        prop_assert!(moved <= budget);
        let moves = plan.tasks.iter().filter(|t| t.why == Reason::Rebalanced).count();
        prop_assert_eq!(moves, usize::try_from(moved).unwrap());
        carry_out(&mut view, &plan);
        tell(&mut scheduler, &old, &view);
        settle_with(&mut scheduler, &mut view);
        assert_settled(&view, scheduler.waiting());
        let now: Vec<_> = view.units.values().map(|u| u.scheduled.is_some()).collect();
        for (before, now) in placed.iter().zip(now) {
            prop_assert!(now || !before, "a unit lost its place");
        }
        let globals = view.units.values().any(|u| u.requirements.global);
        let joined = view.units.values().zip(old.units.values())
            .any(|(now, before)| now.scheduled.is_some() && before.scheduled.is_none());
        if !globals && !joined {
            prop_assert!(loads(&scheduler, &view) <= before);
            prop_assert_eq!(loads(&scheduler, &view) < before, moved > 0);
        }
    }

    #[test]
    fn explanations_agree_with_the_rules(mut view in view()) {
        settle(&mut view);
        for (name, unit) in view.units.iter().filter(|(n, u)| wants_place(n, u)) {
            let explanation = explain(&view, name).unwrap();
            prop_assert_eq!(&explanation.scheduled, &unit.scheduled);
            prop_assert_eq!(explanation.machines.len(), view.machines.len());
            for candidate in &explanation.machines {
                if unit.scheduled.as_ref() != Some(&candidate.machine) {
                    let expect = fits(&view, name, &candidate.machine);
                    prop_assert_eq!(candidate.obstacle.is_none(), expect, "{:?}", candidate);
                }
            }
        }
    }
}
