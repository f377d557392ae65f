//! The measuring part of `cargo xtask bench fleet`: daemons, simulated agents and a real etcd.
//!
//! `fleet-bench measure` prints one JSON document with all figures; `fleet-bench daemon` is one
//! daemon in a process of its own, whose service manager is the tests' pretended one, so that what is
//! measured is fleet and etcd, not the starting of processes. Nothing here ships.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should stop")]

mod cluster;
mod measure;
mod original;
mod plan;
#[path = "../../tests/cluster/pretend.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod pretend;
mod swarm;
mod systemd1;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure"] => {
            let document = runtime.block_on(measure::everything());
            println!("{document}");
            ExitCode::SUCCESS
        }
        ["original"] => {
            let outcome = runtime.block_on(original::measure());
            ExitCode::from(u8::from(!outcome.ran || outcome.failed.is_some()))
        }
        ["daemon", etcd, number, dir] => {
            runtime.block_on(cluster::daemon(etcd, number.parse().unwrap(), dir.as_ref()));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: fleet-bench measure|original (cargo xtask bench fleet runs it)");
            ExitCode::from(2)
        }
    }
}
