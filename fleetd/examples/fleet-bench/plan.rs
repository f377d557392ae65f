//! The planner alone, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_model::engine::{Scheduler, Step};
use fleet_model::{MachineId, Metadata, Requirements, TargetState, UnitFile, UnitName};

/// Units for each machine.
pub(crate) const DENSITY: usize = 20;

pub(crate) struct Planned {
    /// From nothing to a place for every unit.
    pub(crate) full: Duration,
    /// One more unit: told and placed; the median of many.
    pub(crate) one: Duration,
    /// One machine gone, all its units placed elsewhere.
    pub(crate) machine_lost: Duration,
}

/// Text of unit number `i`: most ask for nothing, some for a kind of machine, some not to be with
/// their like.
pub(crate) fn text(i: usize) -> String {
    let extra = match i % 10 {
        0 => "[X-Fleet]\nMachineMetadata=disk=ssd\n".to_owned(),
        1 => format!("[X-Fleet]\nConflicts=c{}@*\n", i / 100),
        _ => String::new(),
    };
    format!(
        "[Unit]\nDescription=Unit {i}\n[Service]\nExecStart=/usr/bin/serve --number={i}\nRestart=always\n{extra}"
    )
}

/// Name of unit number `i`.
pub(crate) fn name(i: usize) -> String {
    if i % 10 == 1 {
        format!("c{}@{i}.service", i / 100)
    } else {
        format!("u{i:06}.service")
    }
}

/// Metadata of machine number `i`.
pub(crate) fn metadata(i: usize) -> Metadata {
    let disk = if i.is_multiple_of(3) { "hdd" } else { "ssd" };
    Metadata::from([
        ("disk".to_owned(), disk.to_owned()),
        ("rack".to_owned(), format!("r{}", i / 40)),
    ])
}

/// Times the planner on a cluster of so many machines.
pub(crate) fn measure(machines: usize) -> Planned {
    let ids: Vec<MachineId> = (0..machines)
        .map(|i| MachineId::parse(&crate::cluster::machine(i)).unwrap())
        .collect();
    let unit = |i: usize| {
        let name = UnitName::parse(&name(i)).unwrap();
        let file = UnitFile::parse(&text(i)).unwrap();
        let requirements = Arc::new(Requirements::of(&name, &file));
        (name, requirements)
    };
    let total = machines * DENSITY;
    let units: BTreeMap<_, _> = (0..total).map(unit).collect();

    let started = Instant::now();
    let mut scheduler = Scheduler::new();
    for (i, id) in ids.iter().enumerate() {
        scheduler.set_machine(id, metadata(i));
    }
    for (name, requirements) in &units {
        scheduler.set_unit(name, requirements.clone(), TargetState::Launched);
    }
    let plan = scheduler.plan();
    let full = started.elapsed();
    assert_eq!(plan.tasks.len() + plan.waits.len(), total);
    for task in &plan.tasks {
        if let Step::Schedule { to, .. } = &task.step {
            scheduler.set_schedule(&task.unit, Some(to.clone()));
            scheduler.set_held(&task.unit, to, true);
        }
    }
    scheduler.plan();

    let mut times = Vec::new();
    for i in total..total + 200 {
        let (name, requirements) = unit(i);
        let started = Instant::now();
        scheduler.set_unit(&name, requirements, TargetState::Launched);
        let plan = scheduler.plan();
        times.push(started.elapsed());
        assert!(!plan.tasks.is_empty() || !plan.waits.is_empty());
        scheduler.remove_unit(&name);
        scheduler.plan();
    }
    times.sort();

    let started = Instant::now();
    scheduler.remove_machine(&ids[machines / 2]);
    let plan = scheduler.plan();
    let machine_lost = started.elapsed();
    assert!(!plan.tasks.is_empty());
    Planned {
        full,
        one: times[times.len() / 2],
        machine_lost,
    }
}
