//! How the planner scales: `plan_scale [--json] [MACHINES UNITS]`, 1000 and 20000 by default.
//!
//! Prints the time of a full plan from nothing, of decisions after single changes, and the memory
//! that the process had at most. The cluster has what real ones have: web units that avoid each
//! other, units bound to others, units for some machines only, reservations, preferences, spread
//! instances, global units. Times above a few milliseconds are those of the processor, so that other work
//! on the machine does not count; the planners have one thread and wait for nothing. `--check` fails if one of these
//! bounds is missed: full plan 1 s, one decision 1 ms, memory 300 MB.

#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_model::engine::{Access, Plan, Scheduler, Step};
use fleet_model::{Activity, MachineId, Offer, Requirements, TargetState, UnitFile, UnitName};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|a| a == name);
    let mut numbers = arguments.iter().filter_map(|a| a.parse::<usize>().ok());
    let machines = numbers.next().unwrap_or(1000).max(2);
    let units = numbers.next().unwrap_or(20_000).max(100);
    let figures = measure(machines, units);
    if flag("--json") {
        let fields = figures
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value:.3}"));
        println!("{{{}}}", fields.collect::<Vec<_>>().join(","));
    } else {
        for (name, value) in &figures {
            println!("{name:24} {value:12.3}");
        }
    }
    let get = |name: &str| {
        figures
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0.0, |(_, v)| *v)
    };
    let missed = get("full_plan_ms") > 1000.0
        || get("decision_mean_ms") > 1.0
        || get("peak_memory_mb") > 300.0;
    if flag("--check") && missed {
        eprintln!("plan_scale: a bound is missed: full plan 1 s, decision 1 ms, memory 300 MB");
        std::process::exit(1);
    }
}

fn measure(machines: usize, units: usize) -> Vec<(&'static str, f64)> {
    let ids: Vec<MachineId> = (0..machines)
        .filter_map(|i| MachineId::parse(&format!("{i:032x}")))
        .collect();
    let texts: Vec<(UnitName, UnitFile)> = (0..units).filter_map(text).collect();
    let mut figures = vec![("machines", as_f64(machines)), ("units", as_f64(units))];

    let start = Cpu::now();
    let wishes: Vec<(UnitName, Arc<Requirements>)> = texts
        .iter()
        .map(|(name, file)| (name.clone(), Arc::new(Requirements::of(name, file))))
        .collect();
    figures.push(("parse_ms", ms(start.elapsed())));
    drop(texts);

    let start = Cpu::now();
    let mut scheduler = Scheduler::new();
    for (i, id) in ids.iter().enumerate() {
        join(&mut scheduler, i, id);
    }
    for (name, requirements) in &wishes {
        scheduler.set_unit(name, requirements.clone(), TargetState::Launched);
    }
    let plan = scheduler.plan();
    figures.push(("full_plan_ms", ms(start.elapsed())));
    let placed = plan
        .tasks
        .iter()
        .filter(|t| matches!(t.step, Step::Schedule { .. }))
        .count();
    figures.push(("placed", as_f64(placed)));
    figures.push(("waiting", as_f64(scheduler.waiting().len())));
    let held: Vec<(UnitName, MachineId)> = plan
        .tasks
        .iter()
        .filter_map(|t| match &t.step {
            Step::Schedule { to, .. } => Some((t.unit.clone(), to.clone())),
            Step::Unschedule { .. } => None,
        })
        .collect();
    drop(plan);
    for (unit, machine) in &held {
        scheduler.set_state(unit, machine, Some(Activity::Active));
    }
    scheduler.plan();

    // A leader that takes over a cluster in which everything runs.
    let start = Cpu::now();
    let mut successor = Scheduler::new();
    for (name, requirements) in &wishes {
        successor.set_unit(name, requirements.clone(), TargetState::Launched);
        successor.set_schedule(name, scheduler.scheduled(name).cloned());
    }
    for (i, id) in ids.iter().enumerate() {
        join(&mut successor, i, id);
    }
    for (unit, machine) in &held {
        successor.set_state(unit, machine, Some(Activity::Active));
    }
    let plan = successor.plan();
    figures.push(("takeover_ms", ms(start.elapsed())));
    figures.push(("takeover_changes", as_f64(plan.tasks.len())));
    drop((plan, successor));

    // Single units come and go. The best of three, for one decision is shorter than a clock tick.
    let (mut worst, mut total) = (Duration::ZERO, Duration::ZERO);
    let rounds = 1000.min(wishes.len());
    for i in 0..rounds {
        let (name, requirements) = &wishes[i * wishes.len() / rounds];
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let machine = scheduler.scheduled(name).cloned();
            scheduler.remove_unit(name);
            if let Some(machine) = &machine {
                scheduler.set_state(name, machine, None);
            }
            scheduler.plan();
            let start = Instant::now();
            scheduler.set_unit(name, requirements.clone(), TargetState::Launched);
            let plan = scheduler.plan();
            best = best.min(start.elapsed());
            claim(&mut scheduler, &plan);
        }
        (worst, total) = (worst.max(best), total + best);
    }
    figures.push(("decision_mean_ms", ms(total) / as_f64(rounds)));
    figures.push(("decision_worst_ms", ms(worst)));

    // A machine dies.
    let start = Cpu::now();
    scheduler.remove_machine(&ids[machines / 2]);
    let plan = scheduler.plan();
    let took = ms(start.elapsed());
    figures.push(("machine_dies_ms", took));
    figures.push((
        "machine_dies_per_unit_ms",
        took / as_f64(plan.tasks.len().max(1)),
    ));
    claim(&mut scheduler, &plan);

    // It comes back, and load is evened out.
    let start = Cpu::now();
    join(&mut scheduler, machines / 2, &ids[machines / 2]);
    let plan = scheduler.plan();
    figures.push(("machine_joins_ms", ms(start.elapsed())));
    claim(&mut scheduler, &plan);
    let start = Cpu::now();
    scheduler.rebalance(20);
    let plan = scheduler.plan();
    figures.push(("rebalance_ms", ms(start.elapsed())));
    figures.push(("rebalanced", f64::from(plan.rebalanced.unwrap_or(0))));
    settle(&mut scheduler, &plan);

    // One is drained.
    let start = Cpu::now();
    scheduler.set_access(&ids[0], Access::Draining);
    let plan = scheduler.plan();
    figures.push(("drain_ms", ms(start.elapsed())));
    figures.push(("drained", as_f64(plan.tasks.len())));
    settle(&mut scheduler, &plan);

    // Somebody asks why.
    let start = Cpu::now();
    let (name, _) = &wishes[wishes.len() / 3];
    let known = scheduler.explain(name).map_or(0, |e| e.machines.len());
    figures.push(("explain_ms", ms(start.elapsed())));
    figures.push(("explain_machines", as_f64(known)));
    figures.push(("peak_memory_mb", peak_memory_mb()));
    figures
}

/// One of the kinds of units that clusters have.
fn text(i: usize) -> Option<(UnitName, UnitFile)> {
    let (name, fleet) = match i % 20 {
        _ if i % 2000 == 7 => (
            format!("agent{i}.service"),
            "Global=true\nMemory=64M".to_owned(),
        ),
        0..=3 => {
            let app = i / 400;
            (
                format!("web{app}@{i}.service"),
                format!("Conflicts=web{app}@*.service\nMemory=256M"),
            )
        }
        4 => (
            format!("side{i}.service"),
            format!("MachineOf=plain{}.service", i + 1),
        ),
        6 => (
            format!("ssd{i}.service"),
            "MachineMetadata=disk=ssd\nCPU=0.2".to_owned(),
        ),
        7 => (
            format!("ring{i}.service"),
            "MachineMetadata=rack>=50\nMachineMetadata=zone!=z0".to_owned(),
        ),
        8 | 9 => (
            format!("pool@{i}.service"),
            "Spread=zone\nMemory=128M".to_owned(),
        ),
        10 => {
            let app = i / 400;
            (
                format!("soft{app}@{i}.service"),
                format!("PreferConflicts=soft{app}@*.service\nPreferMetadata=disk=ssd"),
            )
        }
        11 => (format!("big{i}.service"), "Memory=2G\nCPU=1".to_owned()),
        _ => (format!("plain{i}.service"), "Memory=64M".to_owned()),
    };
    let text = format!(
        "[Unit]\nDescription=unit {i}\nAfter=docker.service network-online.target\n\n\
         [Service]\nExecStart=/usr/bin/docker run --rm app{i}\n\n[X-Fleet]\n{fleet}\n"
    );
    Some((UnitName::parse(&name).ok()?, UnitFile::parse(&text).ok()?))
}

fn join(scheduler: &mut Scheduler, i: usize, id: &MachineId) {
    let disk = if i.is_multiple_of(10) { "ssd" } else { "disk" };
    let metadata = format!("zone=z{},disk={disk},rack={}", i % 3, i % 100);
    scheduler.set_machine(id, fleet_model::parse_metadata(&metadata));
    let offer = Offer {
        memory: Some(32 << 30),
        cpu: Some(fleet_model::Cpu::from_millis(16_000)),
    };
    scheduler.set_offer(id, offer);
}

fn claim(scheduler: &mut Scheduler, plan: &Plan) {
    for task in &plan.tasks {
        if let Step::Schedule { to, .. } = &task.step {
            scheduler.set_state(&task.unit, to, Some(Activity::Active));
        }
    }
}

/// Old machines let go, new ones take over, until nothing moves any more.
fn settle(scheduler: &mut Scheduler, plan: &Plan) {
    let mut next = Some(plan.clone());
    while let Some(plan) = next.take().filter(|plan| !plan.tasks.is_empty()) {
        for task in &plan.tasks {
            match &task.step {
                Step::Schedule { to, .. } => {
                    scheduler.set_state(&task.unit, to, Some(Activity::Active));
                }
                Step::Unschedule { from } => {
                    scheduler.set_schedule(&task.unit, None);
                    scheduler.set_state(&task.unit, from, None);
                }
            }
        }
        next = Some(scheduler.plan());
    }
}

/// A point in the processor time of this thread, or in time where the kernel does not say.
struct Cpu(Option<Duration>, Instant);

impl Cpu {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let spent = text.and_then(|t| t.split_whitespace().next()?.parse().ok());
        Self(spent.map(Duration::from_nanos), Instant::now())
    }

    fn elapsed(&self) -> Duration {
        match (self.0, Self::now().0) {
            (Some(then), Some(now)) => now.saturating_sub(then),
            _ => self.1.elapsed(),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn as_f64(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}

/// The most memory the process had, from the kernel; 0 where it does not say.
fn peak_memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u32>().ok());
    kilobytes.map_or(0.0, |kb| f64::from(kb) / 1024.0)
}
