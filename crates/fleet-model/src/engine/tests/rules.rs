//! The rules once more, without an index: what must hold once nothing is left to do.

use std::collections::BTreeSet;

use super::super::*;
use crate::amount::Reservation;
use crate::requirements::Requirements;

fn ended(unit: &UnitView) -> bool {
    let batch = unit.requirements.batch.zip(unit.result.as_ref());
    batch.is_some_and(|(batch, result)| result.is_final(batch.retries))
}

pub(super) fn wants_place(name: &UnitName, unit: &UnitView) -> bool {
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

fn follows(view: &ClusterView, from: &UnitName, to: &UnitName) -> bool {
    let mut seen = BTreeSet::from([from.clone()]);
    let mut open = vec![from.clone()];
    let mut found = false;
    while let Some(unit) = open.pop().and_then(|name| view.units.get(&name)) {
        let r = &unit.requirements;
        for other in view.units.keys() {
            let text = other.as_str();
            if r.peers.contains(text) || r.peer_globs.iter().any(|g| g.matches(text)) {
                found |= other == to;
                if seen.insert(other.clone()) {
                    open.push(other.clone());
                }
            }
        }
    }
    found
}

/// Whether a machine passes all hard rules for a unit that is not on it.
pub(super) fn fits(view: &ClusterView, name: &UnitName, id: &MachineId) -> bool {
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
            theirs.replaces_unit(name.as_str())
                && *n != name
                && !replaces_in_circle(view, name, n)
                && !follows(view, n, name)
        })
        && (r.reservation.is_nothing() || sum(&here).plus(r.reservation).fits(&slot.offer))
}

/// What must hold once nothing is left to do.
pub(super) fn assert_settled(view: &ClusterView, waits: &BTreeMap<UnitName, Waiting>) {
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
