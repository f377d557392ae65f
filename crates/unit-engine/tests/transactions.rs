//! Dependencies, ordering and jobs as the contract (init.md §5) has them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim;

use init_control::{JobMode, Request, Verb};
use sim::Sim;
use unit_engine::ExitStatus;

const RUN: &str = "[Service]\nExecStart=/bin/sleep\n";

/// Units by short lines: `name: [Unit] settings separated by ;`. Services run `sleep`.
fn machine(units: &[(&str, &str)]) -> Sim {
    let mut text = String::new();
    for (name, unit) in units {
        let body = if name.ends_with(".service") && !unit.contains("[Service]") {
            RUN
        } else {
            ""
        };
        text.push_str(&format!(
            "== {name}\n[Unit]\n{}\n{body}",
            unit.replace(';', "\n")
        ));
    }
    Sim::new(&text)
}

#[test]
fn requirement_table() {
    // (dependency of a on b, state of b after start a, state of a after stop b)
    for (dependency, started, after_stop) in [
        ("Wants=b.service", "active/running", "active/running"),
        ("Requires=b.service", "active/running", "inactive/dead"),
        ("BindsTo=b.service", "active/running", "inactive/dead"),
        ("PartOf=b.service", "inactive/dead", "active/running"),
        ("Upholds=b.service", "active/running", "active/running"),
        ("After=b.service", "inactive/dead", "active/running"),
    ] {
        let mut sim = machine(&[("a.service", dependency), ("b.service", "")]);
        assert_eq!(sim.start("a.service"), "done");
        assert_eq!(sim.state("b.service"), started, "{dependency}");
        sim.start("b.service");
        sim.stop("b.service");
        let want = if dependency.starts_with("PartOf") {
            "inactive/dead"
        } else {
            after_stop
        };
        assert_eq!(sim.state("a.service"), want, "{dependency}");
        if dependency.starts_with("Upholds") {
            assert_eq!(sim.state("b.service"), "active/running");
        }
    }
}

#[test]
fn the_other_ends_by_itself() {
    for (dependency, want) in [
        ("Requires=b.service;After=b.service", "active/running"),
        ("BindsTo=b.service;After=b.service", "inactive/dead"),
        ("Requisite=b.service;After=b.service", "active/running"),
    ] {
        let mut sim = machine(&[("a.service", dependency), ("b.service", "")]);
        sim.start("b.service");
        assert_eq!(sim.start("a.service"), "done", "{dependency}");
        let pid = sim.pids("b.service")[0];
        sim.end(pid, ExitStatus::Exited(0));
        assert_eq!(sim.state("a.service"), want, "{dependency}");
    }
}

#[test]
fn failure_of_a_requirement() {
    let bad = "[Service]\nType=oneshot\nExecStart=/bin/false\n";
    let mut sim = machine(&[
        ("a.service", "Requires=b.service;After=b.service"),
        ("b.service", bad),
    ]);
    assert_eq!(sim.start("a.service"), "dependency");
    assert_eq!(sim.state("a.service"), "inactive/dead");
    // Without After= both run, and a stays.
    let mut sim = machine(&[("a.service", "Requires=b.service"), ("b.service", bad)]);
    assert_eq!(sim.start("a.service"), "done");
    assert_eq!(sim.state("a.service"), "active/running");
    // Requisite= starts nothing.
    let mut sim = machine(&[
        ("a.service", "Requisite=b.service;After=b.service"),
        ("b.service", ""),
    ]);
    assert_eq!(sim.start("a.service"), "dependency");
    assert_eq!(sim.state("b.service"), "inactive/dead");
}

#[test]
fn conflicts() {
    let mut sim = machine(&[("a.service", "Conflicts=b.service"), ("b.service", "")]);
    sim.start("b.service");
    assert_eq!(sim.start("a.service"), "done");
    assert_eq!(sim.state("b.service"), "inactive/dead");
    assert_eq!(sim.start("b.service"), "done");
    assert_eq!(sim.state("a.service"), "inactive/dead");
    let mut sim = machine(&[
        ("t.target", "Requires=a.service b.service"),
        ("a.service", "Conflicts=b.service"),
        ("b.service", ""),
    ]);
    assert_eq!(sim.start("t.target"), "TransactionJobsConflicting");
    let mut sim = machine(&[
        ("t.target", "Wants=a.service b.service"),
        ("a.service", "Conflicts=b.service"),
        ("b.service", ""),
    ]);
    assert_eq!(sim.start("t.target"), "done");
}

#[test]
fn cycles() {
    let mut sim = machine(&[
        ("t.target", "Wants=a.service b.service"),
        ("a.service", "After=b.service"),
        ("b.service", "After=a.service"),
    ]);
    assert_eq!(sim.start("t.target"), "done");
    assert!(sim.saw("Ordering cycle"));
    let up = ["a.service", "b.service"].map(|u| sim.state(u) == "active/running");
    assert_eq!(
        up.iter().filter(|u| **u).count(),
        1,
        "one of the two is given up"
    );
    let mut sim = machine(&[
        ("a.service", "Requires=b.service;After=b.service"),
        ("b.service", "After=a.service"),
    ]);
    assert_eq!(sim.start("a.service"), "TransactionOrderIsCyclic");
}

#[test]
fn order_of_start_and_stop() {
    let slow = "[Service]\nType=notify\nExecStart=/bin/sleep\n";
    let unit = |deps: &str| format!("{deps}\n{slow}");
    let mut sim = machine(&[
        ("t.target", "Requires=a.service b.service"),
        ("a.service", &unit("After=b.service")),
        ("b.service", slow),
    ]);
    assert_eq!(sim.start("t.target"), "waiting");
    assert_eq!(sim.spawns(), ["b.service /bin/sleep"]);
    sim.notify("b.service", "READY=1");
    assert_eq!(sim.spawns().len(), 2);
    sim.notify("a.service", "READY=1");
    assert_eq!(sim.state("t.target"), "active/active");
    // Down the other way round: a (stubborn by time) first.
    let a = sim.pids("a.service")[0];
    sim.world.procs.get_mut(&a).unwrap().program = "stubborn".to_owned();
    sim.stop("t.target");
    sim.stop("b.service");
    assert_eq!(
        sim.state("b.service"),
        "inactive/dead",
        "nothing stops a, so b need not wait"
    );
    sim.start("b.service");
    sim.notify("b.service", "READY=1");
    sim.request(Request::StartUnit {
        name: "shutdown.target".to_owned(),
        verb: Verb::Start,
        mode: JobMode::Replace,
    })
    .unwrap();
    assert_eq!(sim.state("a.service"), "deactivating/stop-sigterm");
    assert_eq!(sim.state("b.service"), "active/running", "waits for a");
    sim.advance(91_000_000);
    assert_eq!(sim.state("b.service"), "inactive/dead");
    assert_eq!(sim.state("shutdown.target"), "active/active");
}

#[test]
fn a_stop_goes_before_a_start_whatever_the_order() {
    for order in ["Before=b.service", "After=b.service"] {
        let mut sim = machine(&[
            ("a.service", &format!("Conflicts=b.service;{order}")),
            ("b.service", ""),
        ]);
        sim.start("b.service");
        let b = sim.pids("b.service")[0];
        sim.world.procs.get_mut(&b).unwrap().program = "stubborn".to_owned();
        assert_eq!(sim.start("a.service"), "waiting");
        assert!(sim.pids("a.service").is_empty(), "{order}");
        sim.advance(91_000_000);
        assert_eq!(sim.state("a.service"), "active/running");
    }
}

#[test]
fn job_modes() {
    let slow = "[Service]\nType=notify\nExecStart=/bin/sleep\n";
    let mut sim = machine(&[("a.service", slow), ("b.service", "Conflicts=a.service")]);
    assert_eq!(sim.start("a.service"), "waiting");
    assert_eq!(
        sim.job(Verb::Start, "b.service", JobMode::Fail),
        "TransactionIsDestructive"
    );
    assert_eq!(sim.start("b.service"), "done");
    assert!(sim.saw("job a.service canceled"));
    // Irreversible jobs stand against all others.
    let mut sim = machine(&[("a.service", slow)]);
    sim.job(Verb::Start, "a.service", JobMode::ReplaceIrreversibly);
    assert_eq!(sim.stop("a.service"), "TransactionIsDestructive");
    // ignore-requirements.
    let mut sim = machine(&[("a.service", "Requires=b.service"), ("b.service", "")]);
    sim.job(Verb::Start, "a.service", JobMode::IgnoreRequirements);
    assert_eq!(sim.state("b.service"), "inactive/dead");
    // isolate.
    let mut sim = machine(&[
        (
            "t.target",
            "AllowIsolate=yes;Wants=a.service;IgnoreOnIsolate=no",
        ),
        ("a.service", ""),
        ("b.service", ""),
        ("c.service", "IgnoreOnIsolate=yes"),
    ]);
    sim.start("b.service");
    sim.start("c.service");
    assert_eq!(
        sim.job(Verb::Start, "a.service", JobMode::Isolate),
        "NoIsolation"
    );
    assert_eq!(sim.job(Verb::Start, "t.target", JobMode::Isolate), "done");
    for (unit, want) in [
        ("a.service", "active"),
        ("b.service", "inactive"),
        ("c.service", "active"),
    ] {
        assert!(sim.state(unit).starts_with(want), "{unit}");
    }
}

#[test]
fn errors_have_their_names() {
    let mut sim = machine(&[
        ("bad.service", "[Service]\nType=simple"),
        ("noreload.service", ""),
        ("refuse.target", "RefuseManualStart=yes"),
        ("needs.service", "Requires=nosuch.service"),
        ("wants.service", "Wants=nosuch.service needs.service"),
    ]);
    sim.world.add("== masked.service -> /dev/null\n");
    for (verb, unit, want) in [
        (Verb::Start, "nosuch.service", "NoSuchUnit"),
        (Verb::Stop, "nosuch.service", "NoSuchUnit"),
        (Verb::Start, "bad.service", "BadUnitSetting"),
        (Verb::Start, "masked.service", "UnitMasked"),
        (Verb::Reload, "noreload.service", "JobTypeNotApplicable"),
        (Verb::Start, "refuse.target", "OnlyByDependency"),
        (Verb::Start, "not a name", "InvalidArgs"),
        (Verb::Start, "needs.service", "NoSuchUnit"),
        (Verb::Start, "wants.service", "done"),
        (Verb::TryRestart, "noreload.service", "done"),
    ] {
        assert_eq!(sim.job(verb, unit, JobMode::Replace), want, "{verb} {unit}");
    }
    assert_eq!(sim.state("needs.service"), "inactive/dead");
    assert_eq!(sim.snapshot("bad.service").load.as_str(), "bad-setting");
    assert_eq!(sim.snapshot("nosuch.service").load.as_str(), "not-found");
    assert_eq!(sim.snapshot("masked.service").load.as_str(), "masked");
}

#[test]
fn restart_takes_dependents_along() {
    let mut sim = machine(&[
        ("a.service", "Requires=b.service;After=b.service"),
        ("p.service", "PartOf=b.service"),
        ("w.service", "Wants=b.service"),
        ("b.service", ""),
    ]);
    for unit in ["a.service", "p.service", "w.service"] {
        sim.start(unit);
    }
    let before: Vec<_> = ["a.service", "p.service", "w.service", "b.service"]
        .iter()
        .map(|u| sim.pids(u))
        .collect();
    assert_eq!(sim.restart("b.service"), "done");
    let after: Vec<_> = ["a.service", "p.service", "w.service", "b.service"]
        .iter()
        .map(|u| sim.pids(u))
        .collect();
    let changed: Vec<bool> = before
        .iter()
        .zip(&after)
        .map(|(b, a)| a != b && a.len() == 1)
        .collect();
    assert_eq!(changed, [true, true, false, true]);
    assert!(sim.jobs().is_empty());
}

#[test]
fn conditions_and_asserts() {
    let mut sim = machine(&[
        ("c.service", "ConditionPathExists=/nope"),
        ("n.service", "ConditionPathExists=!/nope"),
        (
            "t.service",
            "ConditionPathExists=|/nope;ConditionPathExists=|!/nope",
        ),
        ("s.service", "AssertPathExists=/nope"),
        ("r.service", "Requires=c.service;After=c.service"),
        ("b.service", "BindsTo=c.service;After=c.service"),
    ]);
    for (unit, job, state) in [
        ("c.service", "done", "inactive/dead"),
        ("n.service", "done", "active/running"),
        ("t.service", "done", "active/running"),
        ("s.service", "assert", "inactive/dead"),
        ("r.service", "done", "active/running"),
        ("b.service", "dependency", "inactive/dead"),
    ] {
        assert_eq!(
            (sim.start(unit).as_str(), sim.state(unit).as_str()),
            (job, state),
            "{unit}"
        );
    }
}

#[test]
fn handlers() {
    let bad = "OnFailure=h.service\n[Service]\nExecStart=/bin/false\n";
    let mut sim = machine(&[("a.service", bad), ("h.service", "")]);
    sim.start("a.service");
    assert_eq!(sim.state("h.service"), "active/running");
    let env = sim.spawned.last().unwrap().environment.clone();
    for want in [
        "MONITOR_UNIT=a.service",
        "MONITOR_SERVICE_RESULT=exit-code",
        "MONITOR_EXIT_STATUS=1",
    ] {
        assert!(env.iter().any(|e| e == want), "{want}");
    }
    let good = "OnSuccess=h.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n";
    let mut sim = machine(&[("a.service", good), ("h.service", "")]);
    sim.start("a.service");
    assert_eq!(sim.state("h.service"), "active/running");
}

#[test]
fn unneeded_and_garbage() {
    let mut sim = machine(&[
        ("a.service", "Requires=n.service"),
        ("n.service", "StopWhenUnneeded=yes"),
    ]);
    sim.start("a.service");
    assert_eq!(sim.state("n.service"), "active/running");
    sim.stop("a.service");
    assert_eq!(sim.state("n.service"), "inactive/dead");
    assert!(matches!(
        sim.request(Request::GetUnit { name: "a.service".to_owned() }),
        Err(e) if e.kind == init_control::ErrorKind::NoSuchUnit
    ));
    // A new text is seen without daemon-reload once the unit is unloaded.
    sim.world
        .add("== a.service\n[Service]\nExecStart=/bin/other\n");
    sim.start("a.service");
    assert!(sim.spawns().contains(&"a.service /bin/other"));
    sim.world
        .add("== a.service\n[Service]\nExecStart=/bin/third\n");
    assert!(sim.snapshot("a.service").need_daemon_reload);
    sim.request(Request::Reload).unwrap();
    assert!(!sim.snapshot("a.service").need_daemon_reload);
    sim.restart("a.service");
    assert!(sim.spawns().contains(&"a.service /bin/third"));
}

#[test]
fn templates_aliases_and_drop_ins() {
    let mut sim = Sim::new(
        "== web@.service\n[Service]\nExecStart=/bin/sleep %i %I\n== web@1.service.d/x.conf\n[Service]\nEnvironment=X=1\n== real.service\n[Service]\nExecStart=/bin/sleep\n== nick.service -> real.service\n== u.target\n[Unit]\nWants=nick.service\n",
    );
    sim.start("web@1.service");
    assert_eq!(sim.spawns(), ["web@1.service /bin/sleep 1 1"]);
    assert!(sim.spawned[0].environment.contains(&"X=1".to_owned()));
    assert_eq!(
        sim.spawned[0].cgroup,
        "/system.slice/system-web.slice/web@1.service"
    );
    assert_eq!(sim.start("web@.service"), "InvalidArgs");
    assert_eq!(sim.start("u.target"), "done");
    let unit = sim.snapshot("nick.service");
    assert_eq!(unit.id, "real.service");
    assert_eq!(unit.names, ["real.service", "nick.service"]);
    assert_eq!(unit.active.as_str(), "active");
    assert_eq!(sim.stop("nick.service"), "done");
    assert_eq!(sim.state("real.service"), "inactive/dead");
}

#[test]
fn shutdown_ends_with_power() {
    let mut sim = machine(&[
        ("a.service", ""),
        ("umount.target", "DefaultDependencies=no"),
        (
            "final.target",
            "DefaultDependencies=no;After=shutdown.target umount.target",
        ),
        (
            "reboot.target",
            "DefaultDependencies=no;Requires=systemd-reboot.service;After=systemd-reboot.service",
        ),
        (
            "systemd-reboot.service",
            "DefaultDependencies=no;Requires=shutdown.target umount.target final.target;After=shutdown.target umount.target final.target;SuccessAction=reboot-force\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
        ),
    ]);
    sim.start("a.service");
    let a = sim.pids("a.service")[0];
    sim.world.procs.get_mut(&a).unwrap().program = "stubborn".to_owned();
    let power = Request::Power {
        action: init_control::PowerAction::Reboot,
        immediate: false,
        argument: None,
    };
    sim.request(power).unwrap();
    assert!(!sim.saw("power"));
    assert_eq!(sim.start("a.service"), "TransactionIsDestructive");
    assert_eq!(sim.engine.system_state().as_str(), "stopping");
    sim.advance(91_000_000);
    assert!(sim.saw("power reboot"), "{:#?}", sim.trace);
}

#[test]
fn job_timeout_and_cancel() {
    let slow = "JobTimeoutSec=5\n[Service]\nType=notify\nExecStart=/bin/sleep\n";
    let mut sim = machine(&[
        ("a.service", "Requires=b.service;After=b.service"),
        ("b.service", slow),
    ]);
    assert_eq!(sim.start("a.service"), "waiting");
    sim.advance(6_000_000);
    assert!(sim.saw("job b.service timeout") && sim.saw("job a.service dependency"));
    assert_eq!(
        sim.state("b.service"),
        "activating/start",
        "the unit itself goes on"
    );
    let mut sim = machine(&[(
        "b.service",
        "[Service]\nType=notify\nExecStart=/bin/sleep\n",
    )]);
    sim.start("b.service");
    let Ok(init_control::Reply::Jobs(jobs)) = sim.request(Request::ListJobs) else {
        panic!()
    };
    sim.request(Request::CancelJob { id: jobs[0].id }).unwrap();
    assert!(sim.saw("job b.service canceled"));
    assert!(sim.request(Request::CancelJob { id: 9999 }).is_err());
}

#[test]
fn replies_come_before_job_removed() {
    let mut sim = machine(&[("t.target", "DefaultDependencies=no")]);
    sim.trace.clear();
    sim.start("t.target");
    let reply = sim.trace.iter().position(|l| l == "reply").unwrap();
    let removed = sim
        .trace
        .iter()
        .position(|l| l == "job t.target done")
        .unwrap();
    assert!(reply < removed);
}
