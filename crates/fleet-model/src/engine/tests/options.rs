//! What goes beyond the original: reservations, preferences, cordons, explanations.

use super::super::*;
use super::{apply, check, cluster, hold, machine, name, text};
use crate::amount::Cpu;

fn offer(view: &mut ClusterView, id: &str, gigabytes: u64, cpus: u64) {
    view.machines.get_mut(&machine(id)).unwrap().offer = Offer {
        memory: Some(gigabytes << 30),
        cpu: Some(Cpu::from_millis(cpus * 1000)),
    };
}

fn access(view: &mut ClusterView, id: &str, access: Access) {
    view.machines.get_mut(&machine(id)).unwrap().access = access;
}

#[test]
fn reservations_are_kept_and_weigh_more_than_counts() {
    let units = [
        ("a", "Memory=3G", None),
        ("b", "Memory=2G\nCPU=0.5", None),
        ("c", "[Service]\nMemoryMax=2G", None),
        ("d", "CPU=300%", None),
        ("e", "", None),
    ];
    let mut view = cluster(&[("m1", ""), ("m2", "")], &units);
    offer(&mut view, "m1", 4, 2);
    offer(&mut view, "m2", 4, 2);
    check(
        &mut view,
        &[
            "a > m1",
            "b > m2",
            "c > m2",
            "e > m1",
            "d waits: m1: processors: 3 needed, 2 left; m2: processors: 3 needed, 1.5 left",
        ],
    );
    check(
        &mut view,
        &["d waits: m1: processors: 3 needed, 2 left; m2: processors: 3 needed, 1.5 left"],
    );
    // A machine that offers nothing known is not limited.
    view.machines.insert(machine("m3"), MachineView::default());
    check(&mut view, &["d > m3"]);
    // Less is offered than was: those later by name go.
    offer(&mut view, "m2", 2, 2);
    check(
        &mut view,
        &[
            "c x m2: no longer fits: memory: 2G needed, 0 left",
            "c waits: being taken off its last machine",
        ],
    );
    check(&mut view, &["c > m3"]);
}

#[test]
fn global_units_run_where_room_is_left() {
    let units = [
        ("a", "Memory=3G", Some("m1")),
        ("g", "Global=true\nMemory=2G", None),
        ("h", "Memory=3G", None),
    ];
    let mut view = cluster(&[("m1", ""), ("m2", "")], &units);
    offer(&mut view, "m1", 4, 4);
    offer(&mut view, "m2", 4, 4);
    check(
        &mut view,
        &["h waits: m1: memory: 3G needed, 1G left; m2: memory: 3G needed, 2G left"],
    );
    let explanation = explain(&view, &name("g")).unwrap();
    assert_eq!(explanation.verdict, Verdict::Global { on: 1 });
    let obstacles: Vec<_> = explanation
        .machines
        .iter()
        .map(|c| {
            (
                c.machine.as_str(),
                c.obstacle.as_ref().map(Obstacle::to_string),
            )
        })
        .collect();
    let expect = Some("memory: 2G needed, 1G left".to_owned());
    assert_eq!(obstacles, [("m2", None), ("m1", expect)]);
}

#[test]
fn preferences_decide_among_machines_that_fit_and_keep_nobody_waiting() {
    let units = [
        ("db", "", Some("m1")),
        ("web@1", "PreferConflicts=db* web@*", None),
        ("web@2", "PreferConflicts=db* web@*", None),
        ("web@3", "PreferConflicts=db* web@*", None),
        ("x", "PreferMetadata=disk=ssd", None),
        (
            "y",
            "PreferMetadata=disk=tape\nMachineMetadata=disk=ssd",
            None,
        ),
    ];
    let mut view = cluster(&[("m1", "disk=ssd"), ("m2", ""), ("m3", "")], &units);
    check(
        &mut view,
        &["web@1 > m2", "web@2 > m3", "web@3 > m1", "x > m1", "y > m1"],
    );
    let explanation = explain(&view, &name("y"))
        .unwrap()
        .to_wire(|_| String::new());
    assert_eq!(
        explanation.reason,
        "fits where it is; units are not moved without need"
    );
    assert_eq!(
        (
            explanation.machines[0].id.as_str(),
            explanation.machines[0].unmet
        ),
        ("m1", 1)
    );
    assert_eq!(explanation.machines[1].obstacle, "no fitting metadata disk");
}

#[test]
fn instances_are_spread_over_the_values_of_a_key() {
    let units: Vec<_> = (1..=6).map(|i| format!("web@{i}")).collect();
    let units: Vec<_> = units
        .iter()
        .map(|n| (n.as_str(), "Spread=zone", None))
        .chain([("other", "", Some("m4"))])
        .collect();
    let machines = [
        ("m1", "zone=a"),
        ("m2", "zone=a"),
        ("m3", "zone=a"),
        ("m4", "zone=b"),
        ("m5", ""),
    ];
    let mut view = cluster(&machines, &units);
    let first = plan(&view);
    apply(&mut view, &first);
    let in_zone = |zone: &str, view: &ClusterView| {
        let there = |u: &&UnitView| {
            let place = u.scheduled.as_ref().map(|id| &view.machines[id].metadata);
            u.requirements.spread.is_some()
                && place.is_some_and(|m| m.get("zone").is_some_and(|z| z == zone))
        };
        view.units.values().filter(there).count()
    };
    assert_eq!((in_zone("a", &view), in_zone("b", &view)), (3, 3));
}

#[test]
fn a_cordoned_machine_keeps_what_it_has_and_gets_nothing_new() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "")],
        &[
            ("a", "", Some("m1")),
            ("b", "", None),
            ("c", "MachineID=m1", None),
            ("g", "Global=true", None),
        ],
    );
    access(&mut view, "m1", Access::Cordoned);
    check(&mut view, &["b > m2", "c waits: m1 is cordoned"]);
    assert_eq!(
        explain(&view, &name("g")).unwrap().verdict,
        Verdict::Global { on: 2 }
    );
    access(&mut view, "m1", Access::Open);
    check(&mut view, &["c > m1"]);
}

#[test]
fn draining_moves_what_can_move_stop_first_and_explains_the_rest() {
    let mut view = cluster(
        &[("m1", "x=1"), ("m2", ""), ("m3", "")],
        &[
            ("a", "", Some("m1")),
            ("b", "MachineOf=a.service", Some("m1")),
            ("pinned", "MachineID=m1", Some("m1")),
            ("special", "MachineMetadata=x=1", Some("m1")),
            ("z", "Conflicts=z*", Some("m1")),
            ("zz", "", Some("m2")),
            ("zzz", "", Some("m3")),
        ],
    );
    access(&mut view, "m1", Access::Draining);
    hold(&mut view, "a", "m1", Activity::Active);
    let mut scheduler = index(&view);
    let first = scheduler.plan();
    assert_eq!(
        text(&first),
        [
            "a x m1: machine is being drained",
            "b x m1: machine is being drained",
            "a waits: being taken off its last machine",
            "b waits: being taken off its last machine",
            "pinned waits: cannot leave m1, which is being drained: MachineID is m1",
            "special waits: cannot leave m1, which is being drained: \
             m2 has no fitting metadata x; m3 has no fitting metadata x",
            "z waits: cannot leave m1, which is being drained: \
             conflicts with zz.service on m2; conflicts with zzz.service on m3",
        ]
    );
    // Both go where one place for both was kept, when the old machine has let go.
    scheduler.set_schedule(&name("a"), None);
    scheduler.set_schedule(&name("b"), None);
    let second = scheduler.plan();
    assert_eq!(second.tasks, []);
    scheduler.set_state(&name("a"), &machine("m1"), None);
    assert_eq!(text(&scheduler.plan()), ["a > m2", "b > m2"]);
    // As soon as one may leave, it does.
    scheduler.remove_unit(&name("zzz"));
    assert_eq!(
        text(&scheduler.plan()),
        [
            "z x m1: machine is being drained",
            "z waits: being taken off its last machine"
        ]
    );
}

#[test]
fn rebalancing_moves_from_more_to_less_loaded_machines_within_its_budget() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "")],
        &[
            ("a", "MachineID=m1", Some("m1")),
            ("b", "", Some("m1")),
            ("c", "", Some("m1")),
            ("d", "Batch=yes", Some("m1")),
            ("e", "", Some("m1")),
            ("f", "MachineOf=a.service", Some("m1")),
        ],
    );
    let moves = |view: &ClusterView, budget| {
        let mut scheduler = index(view);
        scheduler.plan();
        scheduler.rebalance(budget);
        let plan = scheduler.plan();
        assert_eq!(
            plan.rebalanced,
            Some(u32::try_from(plan.tasks.len()).unwrap())
        );
        text(&plan)
    };
    let off = |unit: &str| format!("{unit} x m1: rebalanced to a less loaded machine");
    let settling = |unit: &str| format!("{unit} waits: being taken off its last machine");
    assert_eq!(moves(&view, 1), [off("b"), settling("b")]);
    assert_eq!(
        moves(&view, 9),
        [
            off("b"),
            off("c"),
            off("e"),
            settling("b"),
            settling("c"),
            settling("e")
        ]
    );
    view.units.remove(&name("e"));
    view.units.remove(&name("d"));
    assert_eq!(moves(&view, 9).len(), 4);
    for unit in ["b", "c"] {
        view.units.get_mut(&name(unit)).unwrap().scheduled = Some(machine("m2"));
    }
    assert_eq!(moves(&view, 9), Vec::<String>::new());
}

#[test]
fn patterns_in_machine_of_are_met_by_any_unit_that_matches() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "")],
        &[
            ("cache@1", "", Some("m2")),
            ("web", "MachineOf=cache@*", None),
            ("x", "MachineOf=[no]*", None),
        ],
    );
    check(
        &mut view,
        &[
            "web > m2",
            "x waits: MachineOf [no]*, which is not scheduled",
        ],
    );
    view.units.get_mut(&name("cache@1")).unwrap().target = TargetState::Inactive;
    check(
        &mut view,
        &[
            "cache@1 x m2: target state is inactive",
            "web x m2: no longer fits: cache@* is not there",
            "web waits: being taken off its last machine",
            "x waits: MachineOf [no]*, which is not scheduled",
        ],
    );
    // One match leaves, another one stays.
    let units = [
        ("cache@1", "", Some("m2")),
        ("cache@2", "", Some("m2")),
        ("web", "MachineOf=cache@*", Some("m2")),
    ];
    let mut view = cluster(&[("m2", "")], &units);
    view.units.remove(&name("cache@1"));
    check(&mut view, &[]);
}

#[test]
fn a_replaced_unit_goes_only_where_it_fits() {
    // The original moved it to the least loaded other machine, whatever it asked for.
    let mut view = cluster(
        &[("m1", "x=1"), ("m2", ""), ("m3", "")],
        &[
            ("old", "MachineMetadata=x=1", Some("m1")),
            ("new", "Replaces=old.service\nMachineMetadata=x=1", None),
        ],
    );
    check(
        &mut view,
        &[
            "new > m1",
            "old x m1: no longer fits: replaced by new.service",
            "old waits: being taken off its last machine",
        ],
    );
    check(
        &mut view,
        &[
            "old waits: replaced by new.service on m1; m2 has no fitting metadata x; \
           m3 has no fitting metadata x",
        ],
    );
}

#[test]
fn a_unit_cannot_replace_what_it_must_be_with() {
    let mut view = cluster(
        &[("m1", "")],
        &[
            ("a", "MachineOf=b.service", Some("m1")),
            ("b", "", Some("m1")),
            ("c", "MachineOf=a.service\nReplaces=b*", None),
        ],
    );
    check(&mut view, &["c > m1"]);
    check(&mut view, &[]);
}

#[test]
fn values_that_cannot_be_read_are_a_reason_to_wait() {
    check(
        &mut cluster(&[("m1", "")], &[("a@x", "Announce=http:%i", None)]),
        &["a@x waits: invalid Announce=http:x: a port is a number from 1 to 65535"],
    );
}

#[test]
fn explanations_name_machines_obstacles_and_reasons() {
    let mut view = cluster(
        &[("m1", ""), ("m2", "x=1"), ("m3", "x=1")],
        &[("a", "MachineMetadata=x=1", None), ("b", "", Some("m2"))],
    );
    let mut scheduler = index(&view);
    let plan = scheduler.plan();
    let wire = scheduler
        .explain(&name("a"))
        .unwrap()
        .to_wire(|id| format!("ip-{id}"));
    assert!(wire.scheduled && wire.machine == "m3" && wire.waiting.is_none());
    assert_eq!(wire.reason, "least loaded machine that fits (0 units)");
    let lines: Vec<_> = wire
        .machines
        .iter()
        .map(|m| format!("{} {} {} {} {}", m.id, m.ip, m.fits, m.load, m.obstacle))
        .collect();
    assert_eq!(
        lines,
        [
            "m2 ip-m2 true 1 ",
            "m3 ip-m3 true 1 ",
            "m1 ip-m1 false 0 no fitting metadata x"
        ]
    );
    let before = explain(&view, &name("a")).unwrap();
    assert_eq!(before.verdict, Verdict::Due);
    apply(&mut view, &plan);
    assert_eq!(explain(&view, &name("a")).unwrap().verdict, Verdict::Stays);
    view.machines.clear();
    let wire = explain(&view, &name("a"))
        .unwrap()
        .to_wire(|_| String::new());
    assert_eq!(wire.waiting.as_deref(), Some("there are no machines"));
    assert_eq!(explain(&view, &name("nobody")), None);
    let mut view = cluster(&[], &[("t@", "", None), ("off", "", None)]);
    view.units.get_mut(&name("off")).unwrap().target = TargetState::Inactive;
    assert_eq!(
        explain(&view, &name("t@")).unwrap().verdict,
        Verdict::Template
    );
    assert_eq!(
        explain(&view, &name("off")).unwrap().verdict,
        Verdict::NotWanted
    );
}
