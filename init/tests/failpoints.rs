//! Panics in process 1, provoked: it goes on from its state, under services that do not notice; when they do not end, the
//! machine restarts.

#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use init_control::{Request, Verb};
use machine::Machine;

const UNITS: &[(&str, &[u8])] = &[
    ("default.target", b"[Unit]\nDefaultDependencies=no\nWants=a.service b.service\n"),
    ("a.service", b"[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 1000\nRestart=always\nRestartSec=0\n"),
    ("b.service", b"[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 1000\n"),
];

/// How often the log has a text.
fn times(machine: &Machine, text: &str) -> usize {
    machine.log().matches(text).count()
}

#[test]
fn a_panic_costs_no_service() {
    let mut machine = Machine::boot(UNITS);
    machine.eventually("the boot ends", |m| m.log().contains("Startup finished"));
    let pids = ["a.service", "b.service"].map(|s| machine.main_pid(s));
    assert!(!pids.contains(&0), "{}", machine.log());
    // In the loop, then in the engine while it handles a request.
    machine.realtime_signal(30);
    machine.eventually("the manager goes on", |m| times(m, "goes on") == 1);
    assert!(
        machine.log().contains("a turn of the loop: failpoint"),
        "{}",
        machine.log()
    );
    assert_eq!(
        ["a.service", "b.service"].map(|s| machine.main_pid(s)),
        pids
    );
    machine.realtime_signal(29);
    // The signal may be read after the first request; the one that meets it gets no answer.
    machine.eventually("the manager goes on again", |m| {
        m.ask(Request::ListJobs);
        times(m, "goes on") == 2
    });
    assert!(
        machine.log().contains("failpoint in the engine"),
        "{}",
        machine.log()
    );
    assert_eq!(
        ["a.service", "b.service"].map(|s| machine.main_pid(s)),
        pids
    );
    // It is still their parent: it hears of an end, restarts, and stops.
    machine
        .ask(Request::KillUnit {
            name: "a.service".to_owned(),
            who: init_control::KillWho::Main,
            signal: 9,
        })
        .unwrap()
        .unwrap();
    machine.eventually("a.service is restarted", |m| {
        let pid = m.main_pid("a.service");
        pid != 0 && pid != pids[0]
    });
    machine.job(Verb::Stop, "b.service").unwrap().unwrap();
    machine.eventually("b.service ends", |m| {
        m.state("b.service") == "inactive/dead"
    });
}

#[test]
fn panics_without_end_restart_the_machine() {
    let mut machine = Machine::boot(UNITS);
    machine.eventually("the boot ends", |m| m.log().contains("Startup finished"));
    for number in 1..=5 {
        machine.realtime_signal(30);
        machine.eventually("the manager goes on", |m| times(m, "goes on") == number);
    }
    machine.realtime_signal(30);
    // A restart of a pid namespace ends it as by SIGHUP.
    assert_eq!(machine.end(), Some(1), "{}", machine.log());
    assert!(
        machine.log().contains("one after the other; restarting"),
        "{}",
        machine.log()
    );
}
