//! Process 1 for real: it boots, survives what is wrong in unit files, and is exchanged under running services.

#![allow(clippy::unwrap_used, reason = "tests")]

mod machine;

use init_control::Verb;
use machine::Machine;
use rustix::process::Signal;

const SLEEPER: &[u8] =
    b"[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 1000\nRestart=always\n";

/// Files and settings that must cost their own unit and nothing else.
#[test]
fn bad_unit_files_cost_their_units_only() {
    let long = [
        b"[Service]\nExecStart=/bin/true ".to_vec(),
        vec![b'x'; 2 << 20],
    ]
    .concat();
    let deep = format!(
        "[Unit]\n{}[Service]\nExecStart=/bin/true\n",
        "After=cycle-a.service\n".repeat(5000)
    );
    let bad: &[(&str, &[u8])] = &[
        ("binary.service", b"\xFF\xFE\x00\x01[Service]\x00ExecStart=\xC3\x28"),
        ("long.service", &long),
        ("deep.service", deep.as_bytes()),
        ("no-section.service", b"ExecStart=/bin/true\n=\n[\n]]\n[Service\n"),
        ("nothing.service", b"[Service]\n"),
        (
            "numbers.service",
            b"[Service]\nExecStart=/bin/true\nTimeoutSec=99999999999999999999999999d\nRestartSec=-1\nLimitNOFILE=1e400\nTasksMax=900%\nNice=300\nUMask=99999\nUser=\nWatchdogSec=18446744073709551615\n",
        ),
        (
            "specifiers.service",
            b"[Unit]\nDescription=%z %\nAfter=%i%I%j%J%p.service\n[Service]\nExecStart=/bin/%q%%%\nEnvironment=\"A\nWorkingDirectory=~%h\n",
        ),
        (
            "cycle-a.service",
            b"[Unit]\nRequires=cycle-b.service\nAfter=cycle-b.service\n[Service]\nExecStart=/bin/true\n",
        ),
        (
            "cycle-b.service",
            b"[Unit]\nRequires=cycle-a.service\nAfter=cycle-a.service\n[Service]\nExecStart=/bin/true\n",
        ),
        ("self.service", b"[Unit]\nRequires=self.service\nAfter=self.service\nConflicts=self.service\n[Service]\nExecStart=/bin/true\n"),
        ("pipe-environment.service", b"[Service]\nEnvironmentFile=/tmp/pipe\nExecStart=/bin/true\n"),
        ("endless-environment.service", b"[Service]\nEnvironmentFile=/dev/zero\nExecStart=/bin/true\n"),
        ("pipe-pid.service", b"[Service]\nType=forking\nPIDFile=/tmp/pipe\nTimeoutStartSec=2\nExecStart=/bin/true\n"),
        ("bad.socket", b"[Socket]\nListenStream=@\nListenStream=256.0.0.1:99999\nListenFIFO=relative\n"),
        ("bad.timer", b"[Timer]\nOnCalendar=*-99-99 25:61\nOnCalendar=Mon..\nOnActiveSec=x\n"),
        ("not-its-name.mount", b"[Mount]\nWhat=none\nWhere=/elsewhere\n"),
        ("a.service.d/x.conf", b"\x80\x81[Unit"),
    ];
    let mut units: Vec<(&str, &[u8])> = bad.to_vec();
    let wants: String = bad
        .iter()
        .filter(|(name, _)| !name.contains('/'))
        .map(|(name, _)| format!("Wants={name}\n"))
        .collect();
    let target = format!(
        "[Unit]\nDefaultDependencies=no\nWants=pipe.service\nAfter=pipe.service\n{wants}Wants=a.service\nAfter=a.service\n"
    );
    units.push(("default.target", target.as_bytes()));
    units.push(("a.service", SLEEPER));
    units.push((
        "pipe.service",
        b"[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/mkfifo /tmp/pipe\n",
    ));
    let mut machine = Machine::boot(&units);
    machine.eventually("the boot ends", |m| m.log().contains("Startup finished"));
    assert_eq!(
        machine.state("default.target"),
        "active/active",
        "{}",
        machine.log()
    );
    // Its drop-in is of no use, the unit is.
    assert_eq!(machine.state("a.service"), "active/running");
    for (name, load) in [
        ("binary.service", "error"),
        ("nothing.service", "bad-setting"),
        ("not-its-name.mount", "bad-setting"),
    ] {
        let unit = machine.unit(name).unwrap();
        assert_eq!(unit.load.as_str(), load, "{name}");
    }
    for name in ["pipe-environment.service", "endless-environment.service"] {
        machine.job(Verb::Start, name).unwrap().unwrap();
        machine.eventually(name, |m| m.state(name) == "failed/failed");
    }
    assert!(
        machine.log().contains("is not a regular file"),
        "{}",
        machine.log()
    );
}

#[test]
fn services_do_not_notice_a_re_execution() {
    let units: &[(&str, &[u8])] = &[
        (
            "default.target",
            b"[Unit]\nDefaultDependencies=no\nWants=a.service b.socket queue.service\n",
        ),
        (
            "queue.service",
            b"[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'cat /proc/sys/net/unix/max_dgram_qlen > /run/queue'\n",
        ),
        ("a.service", SLEEPER),
        (
            "b.socket",
            b"[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/b.sock\n",
        ),
        ("b.service", SLEEPER),
    ];
    let mut machine = Machine::boot(units);
    machine.eventually("the boot ends", |m| m.log().contains("Startup finished"));
    let pid = machine.main_pid("a.service");
    assert_ne!(pid, 0);
    let queue = std::fs::read_to_string(machine.file("run/queue")).unwrap();
    assert_eq!(queue, "512\n");
    machine.signal(Signal::TERM);
    machine.eventually("the manager goes on", |m| m.log().contains("goes on"));
    assert_eq!(machine.main_pid("a.service"), pid);
    assert_eq!(machine.state("b.socket"), "active/listening");
    // It is still the service's parent, and the socket's owner.
    let _client = std::os::unix::net::UnixStream::connect(machine.file("run/b.sock")).unwrap();
    machine.eventually("the socket starts its service", |m| {
        m.state("b.service") == "active/running"
    });
    machine.job(Verb::Stop, "a.service").unwrap().unwrap();
    machine.eventually("the service ends", |m| {
        m.state("a.service") == "inactive/dead"
    });
}
