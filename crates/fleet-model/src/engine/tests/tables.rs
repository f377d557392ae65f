//! What the original knew.

use super::super::*;
use super::{check, cluster, machine, name, unit};

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
fn an_empty_machine_id_is_that_of_no_machine() {
    let why = "MachineID is empty, which is the ID of no machine";
    let units = [
        ("a", "MachineID=", None),
        ("b", "MachineID=%i", None),
        ("c@m1", "MachineID=%i", None),
        ("d", "MachineID=%i", Some("m1")),
    ];
    let mut view = cluster(&[("m1", "")], &units);
    let waits = |unit: &str| format!("{unit} waits: {why}");
    let (a, b) = (waits("a"), waits("b"));
    let off = format!("d x m1: no longer fits: {why}");
    check(
        &mut view,
        &[
            "c@m1 > m1",
            &off,
            &a,
            &b,
            "d waits: being taken off its last machine",
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
        .insert(machine("m1"), Activity::Active);
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
    view.machines.get_mut(&machine("m1")).unwrap().metadata = crate::parse_metadata("x=1");
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

#[test]
fn rules_are_tested_in_their_order() {
    // Everything speaks against m1; as one obstacle after the other goes, the next is named. Such
    // combinations are refused at submission, and tested all the same.
    let rules = [
        ("MachineID=m9", "not machine m9"),
        ("MachineMetadata=x=1", "no fitting metadata x"),
        ("MachineOf=far.service", "far.service is not there"),
        ("Conflicts=foe*", "conflicts with foe.service"),
        ("", "replaced by heir.service"),
        ("Memory=1", "memory: 1 needed, 0 left"),
        ("", "cordoned"),
    ];
    for first in 0..rules.len() {
        let section: Vec<_> = rules[first..].iter().map(|(option, _)| *option).collect();
        let mut units = vec![("a", section.join("\n"), None)];
        units.push(("far", String::new(), Some("m2")));
        units.push(("foe", String::new(), Some("m1")));
        if first <= 4 {
            units.push(("heir", "Replaces=a.service".into(), Some("m1")));
        }
        let units: Vec<_> = units.iter().map(|(n, s, m)| (*n, s.as_str(), *m)).collect();
        let mut view = cluster(&[("m1", ""), ("m2", "")], &units);
        for (id, access) in [("m1", Access::Cordoned), ("m2", Access::Cordoned)] {
            let slot = view.machines.get_mut(&machine(id)).unwrap();
            slot.access = access;
            slot.offer.memory = Some(0);
        }
        let explained = explain(&view, &name("a")).unwrap();
        let mut machines = explained.to_wire(|_| String::new()).machines.into_iter();
        let here = machines.find(|m| m.id == "m1").unwrap();
        assert_eq!(here.obstacle, rules[first].1);
    }
}
