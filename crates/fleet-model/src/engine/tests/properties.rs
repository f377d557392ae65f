//! What holds for any cluster.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;
use super::{apply, machine, unit};
use crate::amount::{Cpu, Reservation};
use crate::record::Outcome;
use crate::requirements::Requirements;

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

// --- the rules once more, without an index ---

fn ended(unit: &UnitView) -> bool {
    let batch = unit.requirements.batch.zip(unit.result.as_ref());
    batch.is_some_and(|(batch, result)| result.is_final(batch.retries))
}

fn wants_place(name: &UnitName, unit: &UnitView) -> bool {
    unit.target != TargetState::Inactive
        && !unit.requirements.global
        && !name.is_template()
        && !ended(unit)
}

fn residents<'a>(view: &'a ClusterView, id: &MachineId) -> Vec<(&'a UnitName, &'a Requirements)> {
    view.units
        .iter()
        .filter(|(n, u)| wants_place(n, u) && u.scheduled.as_ref() == Some(id))
        .map(|(n, u)| (n, &*u.requirements))
        .collect()
}

fn apart(a: (&UnitName, &Requirements), b: (&UnitName, &Requirements)) -> bool {
    a.0 != b.0 && (a.1.conflicts_with(b.0.as_str()) || b.1.conflicts_with(a.0.as_str()))
}

fn sum<'a>(units: impl IntoIterator<Item = &'a (&'a UnitName, &'a Requirements)>) -> Reservation {
    let add = |sum: Reservation, (_, r): &(&UnitName, &Requirements)| sum.plus(r.reservation);
    units.into_iter().fold(Reservation::default(), add)
}

/// Global units on a machine, by the rule as the documentation has it.
fn globals<'a>(view: &'a ClusterView, id: &MachineId) -> Vec<(&'a UnitName, &'a Requirements)> {
    let slot = &view.machines[id];
    let scheduled = residents(view, id);
    let mut accepted = Vec::new();
    for (name, unit) in &view.units {
        let me = (name, &*unit.requirements);
        let r = me.1;
        let room = r.reservation.is_nothing()
            || sum(&scheduled)
                .plus(sum(&accepted))
                .plus(r.reservation)
                .fits(&slot.offer);
        if r.global
            && unit.target != TargetState::Inactive
            && r.invalid.is_none()
            && r.missing_metadata(&slot.metadata).is_none()
            && !scheduled
                .iter()
                .chain(&accepted)
                .any(|other| apart(me, *other))
            && room
        {
            accepted.push(me);
        }
    }
    accepted
}

fn replaces_in_circle(view: &ClusterView, from: &UnitName, to: &UnitName) -> bool {
    let mut seen = BTreeSet::from([from.clone()]);
    let mut open = vec![from.clone()];
    while let Some(name) = open.pop() {
        let Some(unit) = view.units.get(&name) else {
            continue;
        };
        for other in view.units.keys() {
            if unit.requirements.replaces_unit(other.as_str()) && seen.insert(other.clone()) {
                open.push(other.clone());
            }
        }
    }
    seen.contains(to)
}

/// Whether a machine passes all hard rules for a unit that is not on it.
fn fits(view: &ClusterView, name: &UnitName, id: &MachineId) -> bool {
    let (unit, slot) = (&view.units[name], &view.machines[id]);
    let r = &*unit.requirements;
    let scheduled: Vec<_> = residents(view, id)
        .into_iter()
        .filter(|(n, _)| *n != name)
        .collect();
    let here: Vec<_> = scheduled.iter().copied().chain(globals(view, id)).collect();
    // Whoever is replaced leaves; global units stay.
    let company: Vec<&UnitName> = here
        .iter()
        .filter(|(n, theirs)| theirs.global || !r.replaces_unit(n.as_str()))
        .map(|(n, _)| *n)
        .collect();
    let failed = unit.result.as_ref().filter(|_| r.batch.is_some());
    r.invalid.is_none()
        && slot.access == Access::Open
        && r.admits_machine(id)
        && r.missing_metadata(&slot.metadata).is_none()
        && r.peers
            .iter()
            .all(|peer| company.iter().any(|n| n.as_str() == peer))
        && r.peer_globs.iter().all(|glob| {
            let mut others = company.iter().filter(|n| **n != name);
            others.any(|n| glob.matches(n.as_str()))
        })
        && !here.iter().any(|other| apart((name, r), *other))
        && !scheduled.iter().any(|(n, theirs)| {
            theirs.replaces_unit(name.as_str()) && *n != name && !replaces_in_circle(view, name, n)
        })
        && (r.reservation.is_nothing() || sum(&here).plus(r.reservation).fits(&slot.offer))
        && failed.is_none_or(|result| result.machine != id.as_str())
}

/// What must hold once nothing is left to do.
fn assert_settled(view: &ClusterView, waits: &BTreeMap<UnitName, Waiting>) {
    for (name, unit) in &view.units {
        let r = &*unit.requirements;
        let wanted = unit.target != TargetState::Inactive && !r.global && !name.is_template();
        if wanted {
            let is_placed = unit.scheduled.is_some();
            assert!(
                is_placed || waits.contains_key(name),
                "{name} is placed or explained"
            );
        } else {
            assert_eq!(unit.scheduled, None, "{name}");
            assert!(!waits.contains_key(name), "{name}");
        }
        match waits.get(name) {
            Some(Waiting::NoFit { .. }) => {
                for id in view.machines.keys() {
                    assert!(!fits(view, name, id), "{name} waits and fits on {id}");
                }
            }
            Some(Waiting::Order { .. }) => assert!(!r.after.is_empty()),
            Some(Waiting::Ended { .. }) => assert!(ended(unit)),
            _ => {}
        }
        let Some(place) = &unit.scheduled else {
            continue;
        };
        let slot = view
            .machines
            .get(place)
            .expect("on a machine that is there");
        assert!(r.admits_machine(place));
        assert_eq!(r.missing_metadata(&slot.metadata), None);
        let scheduled = residents(view, place);
        assert!(
            !scheduled.iter().any(|other| apart((name, r), *other)),
            "{name}"
        );
        let here: Vec<_> = scheduled
            .iter()
            .copied()
            .chain(globals(view, place))
            .collect();
        for peer in &r.peers {
            assert!(
                here.iter().any(|(n, _)| n.as_str() == peer),
                "{name} without {peer}"
            );
        }
        for glob in &r.peer_globs {
            let mut others = here.iter().filter(|(n, _)| *n != name);
            assert!(
                others.any(|(n, _)| glob.matches(n.as_str())),
                "{name} without {glob}"
            );
        }
        if slot.access == Access::Draining {
            assert!(
                matches!(waits.get(name), Some(Waiting::CannotLeave { .. })),
                "{name} stays on {place} and does not say why"
            );
            let alone = r.peers.is_empty()
                && r.peer_globs.is_empty()
                && !view.units.values().any(|u| {
                    u.requirements.peers.contains(name.as_str())
                        || u.requirements
                            .peer_globs
                            .iter()
                            .any(|g| g.matches(name.as_str()))
                });
            for id in view.machines.keys().filter(|id| alone && *id != place) {
                assert!(!fits(view, name, id), "{name} could leave {place} for {id}");
            }
        }
    }
    let scheduler = {
        let mut scheduler = index(view);
        scheduler.plan();
        scheduler
    };
    for (id, slot) in &view.machines {
        let scheduled = residents(view, id);
        let globals = globals(view, id);
        let here: Vec<_> = scheduled
            .iter()
            .chain(&globals)
            .filter(|(_, r)| !r.reservation.is_nothing())
            .copied()
            .collect();
        assert!(
            here.is_empty() || sum(&here).fits(&slot.offer),
            "{id} has promised too much"
        );
        // No global unit is missed, and none is where it must not be.
        let got = scheduler.machine(id).unwrap();
        assert_eq!(
            got.units,
            scheduled.len() + globals.len(),
            "global units of {id}"
        );
        assert_eq!(got.reserved, sum(scheduled.iter().chain(&globals)));
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
        scheduler.set_result(n, u.result.clone());
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
            scheduler.set_result(name, unit.result.clone());
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
