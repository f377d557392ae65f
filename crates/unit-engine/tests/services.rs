//! Services as the contract (init.md §6, §7) has them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim;

use init_control::{JobMode, Verb};
use sim::Sim;
use unit_engine::ExitStatus;

fn service(body: &str) -> Sim {
    Sim::new(&format!("== a.service\n[Service]\n{body}\n"))
}

/// (what, [Service] lines, job result, state, Result=)
#[test]
fn start_jobs() {
    for (what, body, job, state, result) in [
        (
            "simple",
            "ExecStart=/bin/sleep",
            "done",
            "active/running",
            "success",
        ),
        (
            "simple ends",
            "ExecStart=/bin/true",
            "done",
            "inactive/dead",
            "success",
        ),
        (
            "simple, missing binary",
            "ExecStart=/bin/missing",
            "done",
            "failed/failed",
            "exit-code",
        ),
        (
            "exec, missing binary",
            "Type=exec\nExecStart=/bin/missing",
            "failed",
            "failed/failed",
            "exit-code",
        ),
        (
            "exec",
            "Type=exec\nExecStart=/bin/sleep",
            "done",
            "active/running",
            "success",
        ),
        (
            "oneshot",
            "Type=oneshot\nExecStart=/bin/true",
            "done",
            "inactive/dead",
            "success",
        ),
        (
            "oneshot stays",
            "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true",
            "done",
            "active/exited",
            "success",
        ),
        (
            "oneshot fails",
            "Type=oneshot\nExecStart=/bin/false\nExecStart=/bin/true",
            "failed",
            "failed/failed",
            "exit-code",
        ),
        (
            "oneshot forgives",
            "Type=oneshot\nRemainAfterExit=yes\nExecStart=-/bin/false\nExecStart=/bin/true",
            "done",
            "active/exited",
            "success",
        ),
        (
            "oneshot runs",
            "Type=oneshot\nExecStart=/bin/sleep",
            "waiting",
            "activating/start",
            "success",
        ),
        (
            "notify waits",
            "Type=notify\nExecStart=/bin/sleep",
            "waiting",
            "activating/start",
            "success",
        ),
        (
            "notify ends early",
            "Type=notify\nExecStart=/bin/true",
            "failed",
            "failed/failed",
            "protocol",
        ),
        (
            "forking",
            "Type=forking\nExecStart=/bin/fork",
            "done",
            "active/running",
            "success",
        ),
        (
            "forking fails",
            "Type=forking\nExecStart=/bin/false",
            "failed",
            "failed/failed",
            "exit-code",
        ),
        (
            "pre fails",
            "ExecStartPre=/bin/false\nExecStart=/bin/sleep",
            "failed",
            "failed/failed",
            "exit-code",
        ),
        (
            "pre forgiven",
            "ExecStartPre=-/bin/false\nExecStart=/bin/sleep",
            "done",
            "active/running",
            "success",
        ),
        (
            "post fails",
            "ExecStart=/bin/sleep\nExecStartPost=/bin/false",
            "failed",
            "failed/failed",
            "exit-code",
        ),
        (
            "condition",
            "ExecCondition=/bin/exit 3\nExecStart=/bin/sleep",
            "done",
            "inactive/dead",
            "exec-condition",
        ),
        (
            "condition broken",
            "ExecCondition=/bin/exit 255\nExecStart=/bin/sleep",
            "failed",
            "failed/failed",
            "exit-code",
        ),
        (
            "no env file",
            "EnvironmentFile=/none\nExecStart=/bin/sleep",
            "failed",
            "failed/failed",
            "resources",
        ),
        (
            "env file optional",
            "EnvironmentFile=-/none\nExecStart=/bin/sleep",
            "done",
            "active/running",
            "success",
        ),
    ] {
        let mut sim = service(body);
        let got = sim.start("a.service");
        assert_eq!(
            (got.as_str(), sim.state("a.service").as_str()),
            (job, state),
            "{what}: {:#?}",
            sim.trace
        );
        if state != "inactive/dead" || result == "success" {
            assert_eq!(sim.service("a.service").result, result, "{what}");
        }
    }
}

#[test]
fn order_of_the_stages() {
    let mut sim = service(
        "ExecCondition=/bin/true c\nExecStartPre=/bin/true 1\nExecStartPre=/bin/true 2\nExecStart=/bin/sleep main\nExecStartPost=/bin/true post\nExecReload=/bin/true reload $MAINPID\nExecStop=/bin/true stop $MAINPID\nExecStopPost=/bin/true stoppost",
    );
    assert_eq!(sim.start("a.service"), "done");
    let main = sim.service("a.service").main_pid;
    assert_eq!(sim.job(Verb::Reload, "a.service", JobMode::Replace), "done");
    assert_eq!(sim.stop("a.service"), "done");
    assert_eq!(
        sim.spawns(),
        [
            "a.service /bin/true c",
            "a.service /bin/true 1",
            "a.service /bin/true 2",
            "a.service /bin/sleep main",
            "a.service /bin/true post",
            &format!("a.service /bin/true reload {main}"),
            &format!("a.service /bin/true stop {main}"),
            "a.service /bin/true stoppost",
        ]
    );
    assert!(sim.world.procs.is_empty());
}

#[test]
fn exec_stop_when_the_main_process_ends() {
    for (status, stops) in [
        (ExitStatus::Exited(0), true),
        (ExitStatus::Exited(1), false),
    ] {
        let mut sim =
            service("ExecStart=/bin/sleep\nExecStop=/bin/true stop\nExecStopPost=/bin/true post");
        sim.start("a.service");
        let pid = sim.service("a.service").main_pid;
        sim.end(pid, status);
        assert_eq!(sim.spawns().contains(&"a.service /bin/true stop"), stops);
        assert!(sim.spawns().contains(&"a.service /bin/true post"));
    }
}

#[test]
fn stop_post_knows_the_end() {
    let mut sim = service("ExecStart=/bin/sleep\nExecStopPost=/bin/sleep post\nRestart=no");
    sim.start("a.service");
    let pid = sim.service("a.service").main_pid;
    sim.end(pid, ExitStatus::Killed(9));
    let env = &sim.spawned.last().unwrap().environment;
    for want in [
        "SERVICE_RESULT=signal",
        "EXIT_CODE=killed",
        "EXIT_STATUS=KILL",
    ] {
        assert!(env.iter().any(|e| e == want), "{want} {env:?}");
    }
}

#[test]
fn notify() {
    let mut sim = service("Type=notify\nExecStart=/bin/sleep\nWatchdogSec=10");
    assert_eq!(sim.start("a.service"), "waiting");
    sim.notify("a.service", "STATUS=loading");
    assert_eq!(sim.service("a.service").status_text, "loading");
    sim.notify("a.service", "READY=1\nSTATUS=up");
    assert_eq!(sim.state("a.service"), "active/running");
    sim.advance(8_000_000);
    sim.notify("a.service", "WATCHDOG=1");
    sim.advance(8_000_000);
    assert_eq!(sim.state("a.service"), "active/running");
    sim.notify("a.service", "RELOADING=1");
    assert_eq!(sim.state("a.service"), "reloading/reload");
    sim.notify("a.service", "READY=1");
    assert_eq!(sim.state("a.service"), "active/running");
    sim.advance(11_000_000);
    assert_eq!(sim.service("a.service").result, "watchdog");
    assert_eq!(sim.state("a.service"), "failed/failed");
}

#[test]
fn timeouts() {
    // Start: TERM, then KILL after the stop time-out.
    let mut sim =
        service("Type=notify\nExecStart=/bin/stubborn\nTimeoutStartSec=5\nTimeoutStopSec=3");
    sim.start("a.service");
    sim.advance(5_500_000);
    assert_eq!(sim.state("a.service"), "deactivating/stop-sigterm");
    sim.advance(3_000_000);
    assert_eq!(sim.state("a.service"), "failed/failed");
    assert_eq!(sim.service("a.service").result, "timeout");
    // EXTEND_TIMEOUT_USEC moves the start limit.
    let mut sim = service("Type=notify\nExecStart=/bin/sleep\nTimeoutStartSec=5");
    sim.start("a.service");
    sim.advance(4_000_000);
    sim.notify("a.service", "EXTEND_TIMEOUT_USEC=10000000");
    sim.advance(8_000_000);
    assert_eq!(sim.state("a.service"), "activating/start");
    // Stop time-out: the stop job still is done, the unit failed.
    let mut sim = service("ExecStart=/bin/stubborn\nTimeoutStopSec=3");
    sim.start("a.service");
    assert_eq!(sim.stop("a.service"), "waiting");
    sim.advance(4_000_000);
    assert!(sim.saw("job a.service done"));
    assert_eq!(sim.service("a.service").result, "timeout");
    // RuntimeMaxSec.
    let mut sim = service("ExecStart=/bin/sleep\nRuntimeMaxSec=2");
    sim.start("a.service");
    sim.advance(3_000_000);
    assert_eq!(sim.service("a.service").result, "timeout");
}

#[test]
fn restart_and_start_limit() {
    let mut sim = service("ExecStart=/bin/false\nRestart=on-failure\nRestartSec=1");
    sim.start("a.service");
    assert_eq!(sim.state("a.service"), "activating/auto-restart");
    sim.advance(2_500_000);
    assert_eq!(sim.service("a.service").restarts, 2);
    // A plain start waits for the timer.
    assert_eq!(sim.start("a.service"), "waiting");
    sim.advance(10_000_000);
    assert_eq!(sim.state("a.service"), "failed/failed");
    assert_eq!(
        sim.service("a.service").result,
        "exit-code",
        "the old result stays"
    );
    assert!(sim.saw("Start request repeated too quickly"));
    // reset-failed clears the counter.
    sim.request(init_control::Request::ResetFailed {
        name: Some("a.service".to_owned()),
    })
    .unwrap();
    assert_eq!(sim.start("a.service"), "done");
}

#[test]
fn stop_never_restarts() {
    let mut sim = service("ExecStart=/bin/sleep\nRestart=always\nRestartSec=0");
    sim.start("a.service");
    assert_eq!(sim.stop("a.service"), "done");
    sim.advance(1_000_000);
    assert_eq!(sim.state("a.service"), "inactive/dead");
    sim.start("a.service");
    let pid = sim.service("a.service").main_pid;
    sim.end(pid, ExitStatus::Exited(0));
    sim.advance(1_000_000);
    assert_eq!(sim.state("a.service"), "active/running");
    assert_eq!(sim.service("a.service").restarts, 1);
    assert_eq!(sim.restart("a.service"), "done");
    assert_eq!(sim.service("a.service").restarts, 0);
}

#[test]
fn kill_modes() {
    let body = |mode: &str| {
        format!("Type=forking\nExecStart=/bin/fork\nKillMode={mode}\nGuessMainPID=yes")
    };
    for (mode, left) in [
        ("control-group", 0),
        ("mixed", 0),
        ("process", 1),
        ("none", 2),
    ] {
        let mut sim = service(&body(mode));
        sim.start("a.service");
        // A second process beside the main one.
        let main = sim.pids("a.service")[0];
        let proc = sim.world.procs[&main].clone();
        sim.world.procs.insert(9000, proc);
        assert_eq!(sim.stop("a.service"), "done", "{mode} {:#?}", sim.trace);
        assert_eq!(sim.world.procs.len(), left, "{mode}");
    }
}

#[test]
fn payload_groups_are_spared_first() {
    let mut sim = service("ExecStart=/bin/stubborn supervisor\nTimeoutStopSec=10");
    sim.start("a.service");
    let main = sim.pids("a.service")[0];
    let mut payload = sim.world.procs[&main].clone();
    payload.program = "container".to_owned();
    payload.cgroup.push_str("/payload-0123");
    sim.world.procs.insert(9000, payload);
    sim.stop("a.service");
    assert!(
        sim.world.procs.contains_key(&9000),
        "the supervisor ends it"
    );
    sim.advance(11_000_000);
    assert!(sim.world.procs.is_empty(), "SIGKILL covers everything");
}

#[test]
fn environment() {
    let mut sim = service(
        "User=core\nEnvironment=A=1 B='2 3'\nEnvironmentFile=/f\nExecStart=/bin/sleep ${A} $B $OPTS %n\nPassEnvironment=LANG",
    );
    sim.world
        .other_files
        .insert("/f".to_owned(), "A=9\nOPTS=-x 'y z'\n".to_owned());
    sim.start("a.service");
    assert_eq!(
        sim.spawns(),
        ["a.service /bin/sleep 9 2 3 -x y z a.service"]
    );
    let env = &sim.spawned[0].environment;
    for want in [
        "USER=core",
        "HOME=/home/core",
        "SHELL=/bin/bash",
        "LOGNAME=core",
    ] {
        assert!(env.iter().any(|e| e == want), "{want}");
    }
    assert!(env.iter().any(|e| e.starts_with("INVOCATION_ID=")));
    assert!(!env.iter().any(|e| e.starts_with("NOTIFY_SOCKET=")));
}

#[test]
fn pid_file() {
    let mut sim =
        service("Type=forking\nExecStart=/bin/fork\nPIDFile=/run/a.pid\nTimeoutStartSec=5");
    assert_eq!(sim.start("a.service"), "waiting");
    let child = sim.pids("a.service")[0];
    sim.world
        .other_files
        .insert("/run/a.pid".to_owned(), child.to_string());
    sim.advance(200_000);
    assert_eq!(sim.state("a.service"), "active/running");
    assert_eq!(sim.service("a.service").main_pid, child);
}

#[test]
fn idle_waits_for_the_queue() {
    let mut sim = Sim::new(
        "== a.service\n[Service]\nType=idle\nExecStart=/bin/sleep\n== b.service\n[Service]\nType=oneshot\nExecStart=/bin/sleep\n== t.target\n[Unit]\nWants=a.service b.service\nDefaultDependencies=no\n",
    );
    sim.start("t.target");
    assert_eq!(sim.spawns(), ["b.service /bin/sleep"]);
    let b = sim.pids("b.service")[0];
    sim.end(b, ExitStatus::Exited(0));
    assert_eq!(
        sim.spawns(),
        ["b.service /bin/sleep", "a.service /bin/sleep"]
    );
}

#[test]
fn reexec_keeps_what_runs() {
    let mut sim = Sim::new(
        "== a.service\n[Service]\nExecStart=/bin/sleep\nRestart=always\n== b.service\n[Service]\nType=notify\nExecStart=/bin/sleep\n",
    );
    sim.start("a.service");
    sim.start("b.service");
    let before = sim.snapshot("a.service");
    let state = sim.engine.serialise();
    let (engine, out) =
        unit_engine::Engine::restore(unit_engine::Config::default(), &state, sim.now, &sim.world)
            .unwrap();
    sim.engine = engine;
    sim.perform(out);
    let after = sim.snapshot("a.service");
    assert_eq!(before, after);
    assert_eq!(sim.jobs(), ["b.service start"]);
    sim.notify("b.service", "READY=1");
    assert_eq!(sim.state("b.service"), "active/running");
    assert_eq!(sim.stop("a.service"), "done");
    assert!(
        unit_engine::Engine::restore(unit_engine::Config::default(), b"x", sim.now, &sim.world)
            .is_err()
    );
}
