//! Random machines and random events: nothing panics, and every job ends once everything that it could wait
//! for has ended.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim;

use init_control::{JobMode, KillWho, PowerAction, Reply, Request, Verb};
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert, proptest};
use sim::Sim;
use unit_engine::api::{DeviceInfo, MountEntry, PeerAddress};
use unit_engine::{Config, Engine, Event, ExitStatus, SpawnId};
use unit_file::UnitName;

const UNITS: [&str; 14] = [
    "a.service",
    "b.service",
    "c.service",
    "d@1.service",
    "t.target",
    "u.target",
    "s.socket",
    "x.socket",
    "m.mount",
    "k.timer",
    "p.path",
    "e.slice",
    "dev-vdz.device",
    "nosuch.service",
];

const DEPS: [&str; 13] = [
    "Wants",
    "Requires",
    "Requisite",
    "BindsTo",
    "PartOf",
    "Upholds",
    "Conflicts",
    "Before",
    "After",
    "OnFailure",
    "OnSuccess",
    "PropagatesStopTo",
    "StopWhenUnneeded=yes\nAfter",
];

#[derive(Debug, Clone)]
struct Plan {
    services: Vec<(usize, usize, usize, usize)>,
    dependencies: Vec<(usize, usize, usize)>,
    steps: Vec<(u8, usize, usize)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        prop::collection::vec((0..7usize, 0..7usize, 0..7usize, 0..4usize), 4),
        prop::collection::vec((0..UNITS.len(), 0..DEPS.len(), 0..UNITS.len()), 0..14),
        prop::collection::vec((any::<u8>(), 0..64usize, 0..64usize), 1..40),
    )
        .prop_map(|(services, dependencies, steps)| Plan {
            services,
            dependencies,
            steps,
        })
}

fn text(plan: &Plan) -> String {
    const TYPES: [&str; 7] = [
        "simple",
        "exec",
        "oneshot",
        "notify",
        "forking",
        "idle",
        "notify-reload",
    ];
    const PROGRAMS: [&str; 7] = [
        "sleep", "true", "false", "stubborn", "fork", "missing", "exit 3",
    ];
    const RESTARTS: [&str; 7] = [
        "no",
        "on-failure",
        "on-abnormal",
        "always",
        "on-success",
        "on-abort",
        "on-watchdog",
    ];
    const EXTRAS: [&str; 4] = [
        "",
        "ExecStartPre=-/bin/false\nExecStop=/bin/true\nExecStopPost=/bin/sleep\nTimeoutStopSec=3\n",
        "ExecStartPost=/bin/sleep\nTimeoutStartSec=4\nExecReload=/bin/false\nWatchdogSec=5\n",
        "ExecCondition=/bin/exit 2\nKillMode=mixed\nRemainAfterExit=yes\n",
    ];
    let mut out = String::new();
    let names = ["a.service", "b.service", "c.service", "d@.service"];
    let dependencies = |unit: &str| {
        let mut lines = String::from("[Unit]\n");
        for (from, dep, to) in &plan.dependencies {
            if UNITS[*from] == unit || (unit == "d@.service" && UNITS[*from] == "d@1.service") {
                lines.push_str(&format!("{}={}\n", DEPS[*dep], UNITS[*to]));
            }
        }
        lines
    };
    for (name, (kind, program, restart, extra)) in names.iter().zip(&plan.services) {
        out.push_str(&format!(
            "== {name}\n{}[Service]\nType={}\nExecStart=/bin/{}\nRestart={}\nRestartSec=1\n{}",
            dependencies(name),
            TYPES[*kind],
            PROGRAMS[*program],
            RESTARTS[*restart],
            EXTRAS[*extra]
        ));
    }
    for target in ["t.target", "u.target"] {
        out.push_str(&format!(
            "== {target}\n{}AllowIsolate=yes\n",
            dependencies(target)
        ));
    }
    for (name, body) in [
        ("s.socket", "[Socket]\nListenStream=/s\nService=a.service\n"),
        ("x.socket", "[Socket]\nListenStream=/x\nAccept=yes\n"),
        ("m.mount", "[Mount]\nWhat=/dev/vdz\nTimeoutSec=5\n"),
        (
            "k.timer",
            "[Timer]\nOnActiveSec=3\nOnUnitInactiveSec=7\nUnit=b.service\n",
        ),
        (
            "p.path",
            "[Path]\nPathExists=/flag\nPathChanged=/x\nUnit=c.service\n",
        ),
        ("e.slice", ""),
    ] {
        out.push_str(&format!("== {name}\n{}{body}", dependencies(name)));
    }
    out.push_str("== x@.service\n[Service]\nExecStart=/bin/sleep\n");
    out
}

fn unit(index: usize) -> String {
    UNITS[index % UNITS.len()].to_owned()
}

fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap()
}

fn step(sim: &mut Sim, kind: u8, a: usize, b: usize) {
    let pid = sim
        .world
        .procs
        .keys()
        .nth(a % sim.world.procs.len().max(1))
        .copied();
    match kind % 24 {
        0..=5 => {
            let verb = Verb::ALL[b % Verb::ALL.len()];
            let mode = JobMode::ALL[(a / 14) % JobMode::ALL.len()];
            sim.job(verb, &unit(a), mode);
        }
        6 | 7 => {
            sim.job(Verb::Start, &unit(a), JobMode::Replace);
        }
        8 => sim.advance(b as u64 * 200_000),
        9 => {
            if let Some(pid) = pid {
                sim.end(pid, ExitStatus::Exited((b % 3) as i32));
            }
        }
        10 => {
            if let Some(pid) = pid {
                sim.end(pid, ExitStatus::Killed(9));
            }
        }
        11 | 12 => {
            const TEXTS: [&str; 8] = [
                "READY=1",
                "READY=1",
                "RELOADING=1",
                "STOPPING=1",
                "MAINPID=101",
                "WATCHDOG=trigger",
                "WATCHDOG_USEC=1000000\nEXTEND_TIMEOUT_USEC=1000000",
                "FDSTORE=1\nFDNAME=x",
            ];
            if let Some(pid) = pid {
                let text = TEXTS[b % TEXTS.len()].to_owned();
                let fds = if b.is_multiple_of(3) {
                    vec![sim.token()]
                } else {
                    Vec::new()
                };
                sim.event(Event::Notify {
                    pid,
                    uid: 0,
                    cgroup: None,
                    text,
                    fds,
                });
            }
        }
        13 => sim.event(Event::SocketReady {
            unit: name("s.socket"),
        }),
        14 => {
            let token = sim.token();
            sim.event(Event::Accepted {
                unit: name("x.socket"),
                token,
                peer: PeerAddress::Unix {
                    pid: 1,
                    uid: b as u32,
                },
            });
        }
        15 => {
            let info = DeviceInfo {
                sysfs_path: "/sys/vdz".to_owned(),
                nodes: vec!["/dev/vdz".to_owned()],
                ..DeviceInfo::default()
            };
            sim.event(Event::DeviceAppeared(Box::new(info)));
        }
        16 => sim.event(Event::DeviceGone {
            sysfs_path: "/sys/vdz".to_owned(),
        }),
        17 => {
            sim.mounts.clear();
            if b.is_multiple_of(2) {
                sim.mounts.push(MountEntry {
                    id: 1,
                    what: "x".to_owned(),
                    where_: "/m".to_owned(),
                    fs_type: String::new(),
                    options: String::new(),
                });
            }
            let table = sim.mounts.clone();
            sim.event(Event::MountTable(table));
        }
        18 => {
            if b.is_multiple_of(2) {
                sim.world
                    .other_files
                    .insert("/flag".to_owned(), String::new());
            } else {
                sim.world.other_files.remove("/flag");
            }
            sim.event(Event::PathTriggered {
                unit: name("p.path"),
                index: b % 2,
            });
        }
        19 => {
            let _ = sim.request(Request::Reload);
        }
        20 => {
            let _ = sim.request(Request::ResetFailed { name: None });
            let who = KillWho::ALL[a % KillWho::ALL.len()];
            let _ = sim.request(Request::KillUnit {
                name: unit(b),
                who,
                signal: 15,
            });
        }
        21 => {
            if let Some(pid) = pid {
                let cgroup = sim.world.procs[&pid].cgroup.clone();
                sim.event(Event::OomKill { cgroup });
                let _ = sim.request(Request::DelegateSelf { pid });
            }
            sim.event(Event::SpawnFailed {
                id: SpawnId(b as u64),
                message: "none".to_owned(),
            });
        }
        22 => reexec(sim),
        _ => {
            let _ = sim.request(Request::UnitSnapshot { name: unit(a) });
            let _ = sim.request(Request::ManagerSnapshot);
            let _ = sim.request(Request::ListUnits {
                states: Vec::new(),
                patterns: Vec::new(),
            });
            if b == 7 {
                let _ = sim.request(Request::Power {
                    action: PowerAction::Reboot,
                    immediate: false,
                    argument: None,
                });
            }
        }
    }
}

fn reexec(sim: &mut Sim) {
    let state = sim.engine.serialise();
    let (engine, out) = Engine::restore(Config::default(), &state, sim.now, &sim.world)
        .expect("own state is readable");
    sim.engine = engine;
    sim.perform(out);
    sim.event(Event::TimerElapsed);
}

fn job_ids(sim: &mut Sim) -> Vec<u32> {
    match sim.request(Request::ListJobs) {
        Ok(Reply::Jobs(jobs)) => jobs.into_iter().map(|j| j.id).collect(),
        other => panic!("{other:?}"),
    }
}

/// Ends processes and lets time pass until every job that is queued now has ended. What restarts, upholds or
/// triggers itself may queue new ones meanwhile.
fn wind_down(sim: &mut Sim) -> Vec<u32> {
    // A path unit whose file is there starts its unit again for ever.
    sim.world.other_files.remove("/flag");
    let mut waiting = job_ids(sim);
    for _ in 0..40 {
        if waiting.is_empty() {
            break;
        }
        let pids: Vec<u32> = sim.world.procs.keys().copied().collect();
        for pid in pids {
            sim.end(pid, ExitStatus::Exited(0));
        }
        sim.advance(100_000_000);
        let now = job_ids(sim);
        waiting.retain(|id| now.contains(id));
    }
    waiting
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_no_job_stays_for_ever(plan in plan()) {
        let mut sim = Sim::new(&text(&plan));
        for (kind, a, b) in &plan.steps {
            step(&mut sim, *kind, *a, *b);
            // Whatever waits has something to wait for.
            let Ok(Reply::Jobs(jobs)) = sim.request(Request::ListJobs) else { panic!() };
            let source = sim.engine.next_deadline().is_some() || !sim.world.procs.is_empty();
            prop_assert!(jobs.is_empty() || source, "{jobs:?}\n{:#?}", sim.trace);
        }
        let left = wind_down(&mut sim);
        prop_assert!(left.is_empty(), "{left:?}\n{:#?}", &sim.trace[sim.trace.len().saturating_sub(40)..]);
    }

    /// One job a unit, every JobNew has its JobRemoved, stops run before starts of ordered units.
    #[test]
    fn no_job_is_lost(plan in plan()) {
        let mut sim = Sim::new(&text(&plan));
        let mut asked = 0;
        let mut refused = 0;
        for (_, a, b) in &plan.steps {
            let verb = Verb::ALL[b % Verb::ALL.len()];
            let result = sim.job(verb, &unit(*a), JobMode::Replace);
            asked += 1;
            refused += usize::from(result.chars().next().is_some_and(char::is_uppercase));
            let jobs = sim.jobs();
            let mut units: Vec<_> = jobs.iter().map(|j| j.split(' ').next().unwrap()).collect();
            units.sort_unstable();
            units.dedup();
            prop_assert!(units.len() == jobs.len(), "{jobs:?}");
        }
        let left = wind_down(&mut sim);
        prop_assert!(left.is_empty(), "{left:?}");
        prop_assert!(refused <= asked);
    }
}
