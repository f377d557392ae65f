//! Deterministic simulation: whole daemons (engine, agent, presence, fence) on the in-memory store
//! and on simulated time, with everything going wrong that can: daemons and machines die, the way to
//! the store is cut, slow or lossy, watches break or come late, history is compacted, leaders are
//! deposed, clocks disagree, and operators change their minds all the time.
//!
//! What must hold in every run:
//!
//! - no unit with `Partition=stop` runs on two machines, ever;
//! - units in conflict never share a machine;
//! - when the faults end, everything wanted runs again within a bound, where the leader would put it,
//!   and nothing else runs;
//! - then the cluster is quiet: no writes, no starts, and nothing is left of what was destroyed.
//!
//! `SIM_SEED=N` runs one seed and prints what happened; `SIM_RUNS=N` sets the number of runs. The seeds are the same
//! each time, so that a commit is not blamed for what chance finds in another part.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod machine;
mod rng;
mod view;
mod wire;
mod world;

use world::World;

/// Seeds that have found something once.
const REGRESSIONS: &[u64] = &[6, 12, 14, 16, 21, 25, 66, 108, 311, 1051, 1834];

/// One run; what went wrong, with what happened before it.
fn simulate(seed: u64, traced: bool) -> Result<(), (String, Vec<String>)> {
    run(seed, traced, async |world| world.live().await)
}

fn run(
    seed: u64,
    traced: bool,
    live: impl AsyncFnOnce(&mut World) -> Result<(), String>,
) -> Result<(), (String, Vec<String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, traced);
        let result = live(&mut world).await;
        let trace = std::mem::take(&mut world.truth.lock().unwrap().trace);
        if traced && result.is_ok() {
            println!("{}", trace.join("\n"));
        }
        result.map_err(|what| (what, trace))
    })
}

fn check(seed: u64) {
    if simulate(seed, false).is_ok() {
        return;
    }
    // Once more, to tell what happened.
    let (what, trace) = match simulate(seed, true) {
        Err(found) => found,
        Ok(()) => panic!("SIM_SEED={seed} failed, and did not when it was run again"),
    };
    panic!("{}\nSIM_SEED={seed}: {what}", trace.join("\n"));
}

#[test]
fn seeds_that_have_found_something_are_run_again() {
    REGRESSIONS.iter().copied().for_each(check);
}

/// The daemon leaves while the unit is still stopping.
#[test]
fn a_unit_that_outlasts_the_daemons_patience_does_not_run_twice() {
    for seed in 1..=20 {
        let done = run(seed, true, async |world| {
            world.stop_under_a_slow_unit().await
        });
        if let Err((what, trace)) = done {
            panic!("{}\nseed {seed}: {what}", trace.join("\n"));
        }
    }
}

#[test]
fn a_file_that_somebody_removes_comes_back() {
    let done = run(1, true, async |world| world.lose_a_file().await);
    if let Err((what, trace)) = done {
        panic!("{}\n{what}", trace.join("\n"));
    }
}

#[test]
fn whatever_goes_wrong_the_rules_hold_and_the_cluster_settles() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    if let Some(seed) = number("SIM_SEED") {
        // What the daemons say goes to standard error, between the lines of the trace.
        telemetry::init("sim", telemetry::Sink::Stderr, 1);
        if let Err((what, trace)) = simulate(seed, true) {
            panic!("{}\nSIM_SEED={seed}: {what}", trace.join("\n"));
        }
        return;
    }
    let runs = number("SIM_RUNS").unwrap_or(3000);
    // A run is one thread's own, and simulated time does not wait for the others.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 1..=threads as u64 {
            scope.spawn(move || (first..=runs).step_by(threads).for_each(check));
        }
    });
}
