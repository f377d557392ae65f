//! Tables and properties of the engine.

use proptest::prelude::*;

use super::*;
use crate::text::UnitFile;

fn name(text: &str) -> UnitName {
    UnitName::parse(&format!("{text}.service")).unwrap()
}

fn machine(text: &str) -> MachineId {
    MachineId::parse(text).unwrap()
}

fn unit(unit: &str, section: &str, scheduled: Option<&str>) -> (UnitName, UnitView) {
    let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
    let n = name(unit);
    let view = UnitView {
        requirements: Arc::new(Requirements::of(&n, &file)),
        target: TargetState::Launched,
        scheduled: scheduled.map(machine),
        held_by: BTreeSet::new(),
    };
    (n, view)
}

fn cluster(machines: &[(&str, &str)], units: &[(&str, &str, Option<&str>)]) -> ClusterView {
    let metadata = |text| crate::parse_metadata(text);
    ClusterView {
        machines: machines
            .iter()
            .map(|(id, m)| (machine(id), metadata(m)))
            .collect(),
        units: units.iter().map(|(n, s, m)| unit(n, s, *m)).collect(),
    }
}

fn apply(view: &mut ClusterView, plan: &Plan) {
    for task in &plan.tasks {
        let unit = view.units.get_mut(&task.unit).unwrap();
        match &task.step {
            Step::Schedule { to, from } => {
                assert_eq!(&unit.scheduled, from);
                unit.scheduled = Some(to.clone());
            }
            Step::Unschedule { from } => {
                assert_eq!(unit.scheduled.as_ref(), Some(from));
                unit.scheduled = None;
            }
        }
    }
}

/// Plans until nothing is left to do; the first plan's tasks as text.
#[track_caller]
fn check(view: &mut ClusterView, expect: &[&str]) {
    let first = plan(view);
    let text: Vec<_> = first
        .tasks
        .iter()
        .map(|t| match &t.step {
            Step::Schedule { to, .. } => format!("{} > {to}", t.unit.stem()),
            Step::Unschedule { from } => format!("{} x {from}: {}", t.unit.stem(), t.why),
        })
        .chain(
            first
                .waits
                .iter()
                .map(|(n, w)| format!("{} waits: {w}", n.stem())),
        )
        .collect();
    assert_eq!(text, expect);
    apply(view, &first);
}

#[test]
fn units_are_spread_by_load_with_ties_by_machine() {
    let units = [
        ("a", "", None),
        ("b", "", None),
        ("c", "", None),
        ("d", "", None),
        ("e", "", Some("m2")),
    ];
    let mut view = cluster(&[("m2", ""), ("m1", ""), ("m3", "")], &units);
    check(&mut view, &["a > m1", "b > m3", "c > m1", "d > m2"]);
    check(&mut view, &[]);
}

#[test]
fn machine_id_and_metadata_restrict() {
    let units = [
        ("a", "MachineID=m3", None),
        ("b", "MachineID=00000004", None),
        ("c", "MachineMetadata=role=db", None),
        (
            "d",
            "MachineMetadata=role=db\nMachineMetadata=disk=ssd",
            None,
        ),
    ];
    let mut view = cluster(&[("m2", "role=db"), ("m3", ""), ("0000000444", "")], &units);
    check(
        &mut view,
        &[
            "a > m3",
            "b > 0000000444",
            "c > m2",
            "d waits: 00000004 has no fitting metadata disk; m2 has no fitting metadata disk; \
             m3 has no fitting metadata disk",
        ],
    );
}

#[test]
fn of_four_conflicting_units_on_three_machines_one_waits_and_says_why() {
    let s = "Conflicts=web@*.service";
    let units = [
        ("web@1", s, None),
        ("web@2", s, None),
        ("web@3", s, None),
        ("web@4", s, None),
    ];
    let mut view = cluster(&[("m1", ""), ("m2", ""), ("m3", "")], &units);
    check(
        &mut view,
        &[
            "web@1 > m1",
            "web@2 > m2",
            "web@3 > m3",
            "web@4 waits: conflicts with web@1.service on m1; conflicts with web@2.service on m2; \
             conflicts with web@3.service on m3",
        ],
    );
    view.units.remove(&name("web@2"));
    check(&mut view, &["web@4 > m2"]);
}

#[test]
fn a_conflict_of_one_side_counts() {
    let mut view = cluster(
        &[("m1", "")],
        &[("a", "", Some("m1")), ("b", "Conflicts=a*", None)],
    );
    check(&mut view, &["b waits: conflicts with a.service on m1"]);
    let mut view = cluster(
        &[("m1", "")],
        &[("a", "", None), ("b", "Conflicts=a*", Some("m1"))],
    );
    check(&mut view, &["a waits: conflicts with b.service on m1"]);
    // Together by accident: the first by name stays.
    let mut view = cluster(
        &[("m1", "")],
        &[("a", "", Some("m1")), ("b", "Conflicts=*", Some("m1"))],
    );
    check(
        &mut view,
        &[
            "b x m1: no longer fits: conflicts with a.service",
            "b waits: being taken off its last machine",
        ],
    );
    check(&mut view, &["b waits: conflicts with a.service on m1"]);
}

#[test]
fn chains_of_peers_are_placed_in_one_pass_and_leave_together() {
    let units = [
        ("a", "MachineOf=b.service", None),
        ("b", "MachineOf=c.service", None),
        ("c", "MachineMetadata=x=1", None),
        ("y", "MachineOf=z.service", None),
        ("z", "MachineOf=y.service", None),
    ];
    let mut view = cluster(&[("m1", ""), ("m2", "x=1")], &units);
    check(
        &mut view,
        &[
            "a > m2",
            "b > m2",
            "c > m2",
            "y waits: MachineOf z.service, which is not scheduled",
            "z waits: MachineOf y.service, which is not scheduled",
        ],
    );
    view.units.get_mut(&name("c")).unwrap().target = TargetState::Inactive;
    let tasks = plan(&view).tasks;
    let off: Vec<_> = tasks
        .iter()
        .map(|t| format!("{}: {}", t.unit.stem(), t.why))
        .collect();
    assert_eq!(
        off,
        [
            "a: no longer fits: b.service is not there",
            "b: no longer fits: c.service is not there",
            "c: target state is inactive"
        ]
    );
}

#[test]
fn units_of_a_gone_machine_move_at_once() {
    let units = [
        ("a", "", Some("gone")),
        ("b", "MachineOf=a.service", Some("gone")),
    ];
    let mut view = cluster(&[("m1", ""), ("m2", "")], &units);
    check(&mut view, &["a > m1", "b > m1"]);
    check(&mut view, &[]);
}

#[test]
fn a_unit_moves_only_after_its_old_machine_has_let_go() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "x=1")],
        &[("a", "MachineMetadata=x=1", Some("m1"))],
    );
    view.units
        .get_mut(&name("a"))
        .unwrap()
        .held_by
        .insert(machine("m1"));
    check(
        &mut view,
        &[
            "a x m1: no longer fits: no fitting metadata x",
            "a waits: being taken off its last machine",
        ],
    );
    check(&mut view, &["a waits: still being stopped on m1"]);
    view.units.get_mut(&name("a")).unwrap().held_by.clear();
    check(&mut view, &["a > m2"]);
}

#[test]
fn a_replaced_unit_leaves_for_a_machine_that_fits() {
    let mut view = cluster(
        &[("m1", ""), ("m2", ""), ("m3", "x=1")],
        &[
            ("new", "Replaces=old*", None),
            ("old", "MachineMetadata=x=1", Some("m1")),
            ("p", "", Some("m2")),
            ("q", "", Some("m2")),
            ("r", "", Some("m3")),
            ("s", "", Some("m3")),
        ],
    );
    view.machines
        .insert(machine("m1"), crate::parse_metadata("x=1"));
    check(
        &mut view,
        &[
            "new > m1",
            "old x m1: no longer fits: replaced by new.service",
            "old waits: being taken off its last machine",
        ],
    );
    check(&mut view, &["old > m3"]);
    check(&mut view, &[]);
    let circle = [("a", "Replaces=b*", Some("m1")), ("b", "Replaces=a*", None)];
    let mut view = cluster(&[("m1", "")], &circle);
    check(&mut view, &["b > m1"]);
    check(&mut view, &[]);
}

#[test]
fn global_units_count_as_load_and_as_peers_but_are_never_scheduled() {
    let units = [
        ("a", "", None),
        ("b", "", None),
        ("g", "Global=true\nMachineMetadata=x=1", None),
        ("h", "MachineOf=g.service", None),
    ];
    let mut view = cluster(&[("m1", "x=1"), ("m2", "")], &units);
    check(&mut view, &["a > m2", "b > m1", "h > m1"]);
    let (n, mut g) = unit("b", "Global=true", Some("m1"));
    g.held_by.clear();
    view.units.insert(n, g);
    check(&mut view, &["b x m1: unit is global now"]);
}

#[test]
fn templates_and_unwanted_units_are_left_alone() {
    let mut view = cluster(&[("m1", "")], &[("t@", "", None), ("i", "", Some("m1"))]);
    view.units.get_mut(&name("i")).unwrap().target = TargetState::Inactive;
    check(&mut view, &["i x m1: target state is inactive"]);
    check(&mut view, &[]);
}

#[test]
fn without_machines_everything_waits() {
    check(
        &mut cluster(&[], &[("a", "", None)]),
        &["a waits: there are no machines"],
    );
}

// --- properties ---

fn section() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "",
        "Conflicts=a*",
        "Conflicts=*1.service",
        "Conflicts=c?.service b1.service",
        "MachineOf=a1.service",
        "MachineOf=b1.service",
        "MachineOf=\"c1.service\" \"c2.service\"",
        "MachineID=m1",
        "MachineMetadata=x=1",
        "MachineMetadata=\"x=2\" \"x=1\"",
        "Replaces=b*",
        "Replaces=a1.service",
        "Replaces=c*",
        "Replaces=d*",
        "Global=true",
        "Global=true\nConflicts=c*",
    ]);
    prop::collection::vec(parts, 0..3).prop_map(|parts| parts.join("\n"))
}

fn view() -> impl Strategy<Value = ClusterView> {
    let place = prop::option::of(prop::sample::select(vec!["m1", "m2", "m3", "gone"]));
    let target = prop::sample::select(vec![
        TargetState::Launched,
        TargetState::Launched,
        TargetState::Loaded,
        TargetState::Inactive,
    ]);
    let units = prop::collection::btree_map("[a-d][1-4]", (section(), place, target), 0..12);
    let machines = prop::collection::btree_map("m[1-4]", "(x=[12])?", 0..4);
    (units, machines).prop_map(|(units, machines)| ClusterView {
        machines: machines
            .iter()
            .map(|(id, m)| (machine(id), crate::parse_metadata(m)))
            .collect(),
        units: units
            .iter()
            .map(|(n, (s, place, target))| {
                let (n, mut view) = unit(n, s, *place);
                view.target = *target;
                (n, view)
            })
            .collect(),
    })
}

/// What must hold once nothing is left to do.
fn assert_settled(view: &ClusterView, waits: &BTreeSet<UnitName>) {
    for (name, unit) in &view.units {
        let wanted = unit.target != TargetState::Inactive && !unit.requirements.global;
        assert_eq!(
            wanted,
            unit.scheduled.is_some() || waits.contains(name),
            "{name} is placed or explained"
        );
        let Some(place) = &unit.scheduled else {
            continue;
        };
        let metadata = view
            .machines
            .get(place)
            .expect("on a machine that is there");
        assert!(unit.requirements.admits_machine(place));
        assert_eq!(unit.requirements.missing_metadata(metadata), None);
        for (other, theirs) in &view.units {
            if other != name && theirs.scheduled.as_ref() == Some(place) {
                assert!(
                    !unit.requirements.conflicts_with(other.as_str()),
                    "{name} {other}"
                );
            }
        }
        for peer in &unit.requirements.peers {
            let peer = &view.units[peer.as_str()];
            assert!(peer.requirements.global || peer.scheduled.as_ref() == Some(place));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn plans_settle_and_keep_all_rules(mut view in view()) {
        let mut rounds = 0;
        let waits = loop {
            let next = plan(&view);
            if next.tasks.is_empty() {
                break next.waits.into_iter().map(|(n, _)| n).collect();
            }
            apply(&mut view, &next);
            rounds += 1;
            prop_assert!(rounds <= 8, "does not settle: {next:?}");
        };
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
        let early = random(2) == 0;
        if early {
            machines.iter().for_each(|(id, m)| scheduler.set_machine(id, (*m).clone()));
        }
        for (name, unit) in &units {
            scheduler.set_unit(name, unit.requirements.clone(), unit.target);
            scheduler.set_schedule(name, unit.scheduled.clone());
        }
        if !early {
            machines.iter().for_each(|(id, m)| scheduler.set_machine(id, (*m).clone()));
        }
        prop_assert_eq!(scheduler.plan(), plan(&view));
    }

    #[test]
    fn an_incremental_index_ends_where_a_fresh_one_is_content(
        views in prop::collection::vec(view(), 1..4)
    ) {
        // One scheduler lives through several clusters; after each, nothing is left for a fresh one.
        let mut scheduler = Scheduler::new();
        let mut truth: BTreeMap<UnitName, Option<MachineId>> = BTreeMap::new();
        let mut last = ClusterView::default();
        for view in views {
            for id in last.machines.keys().filter(|id| !view.machines.contains_key(*id)) {
                scheduler.remove_machine(id);
            }
            for (id, m) in &view.machines {
                scheduler.set_machine(id, m.clone());
            }
            for n in last.units.keys().filter(|n| !view.units.contains_key(*n)) {
                scheduler.remove_unit(n);
                truth.remove(n);
            }
            for (n, u) in &view.units {
                scheduler.set_unit(n, u.requirements.clone(), u.target);
                let place = truth.entry(n.clone()).or_insert_with(|| u.scheduled.clone());
                scheduler.set_schedule(n, place.clone());
            }
            for _ in 0..8 {
                for task in scheduler.plan().tasks {
                    let to = match task.step {
                        Step::Schedule { to, .. } => Some(to),
                        Step::Unschedule { .. } => None,
                    };
                    truth.insert(task.unit.clone(), to.clone());
                    scheduler.set_schedule(&task.unit, to);
                }
            }
            last = view;
            for (n, u) in &mut last.units {
                u.scheduled = truth[n].clone();
                prop_assert_eq!(scheduler.scheduled(n), u.scheduled.as_ref());
            }
            prop_assert_eq!(plan(&last).tasks, vec![]);
            assert_settled(&last, &scheduler.waiting().keys().cloned().collect());
        }
    }
}
