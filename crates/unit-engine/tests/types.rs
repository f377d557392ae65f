//! Sockets, mounts, timers, paths, scopes, devices.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim;

use init_control::{JobMode, Reply, Request, Setting, TransientUnit, TypeSnapshot, Verb};
use sim::{Proc, Sim};
use unit_engine::api::{DeviceInfo, MountEntry, PeerAddress};
use unit_engine::{Event, ExitStatus};
use unit_file::UnitName;

fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap()
}

const SOCKET: &str = "== a.socket\n[Socket]\nListenStream=/run/a\nListenStream=80\nFileDescriptorName=web\n== a.service\n[Service]\nExecStart=/bin/sleep\n";

#[test]
fn socket_activation() {
    let mut sim = Sim::new(SOCKET);
    assert_eq!(sim.start("a.socket"), "done");
    assert_eq!(sim.state("a.socket"), "active/listening");
    sim.event(Event::SocketReady {
        unit: name("a.socket"),
    });
    assert_eq!(sim.state("a.socket"), "active/running");
    assert_eq!(sim.state("a.service"), "active/running");
    let spec = &sim.spawned[0];
    assert_eq!(spec.fds.len(), 2);
    assert!(spec.environment.contains(&"LISTEN_FDS=2".to_owned()));
    assert!(
        spec.environment
            .contains(&"LISTEN_FDNAMES=web:web".to_owned())
    );
    let pid = sim.pids("a.service")[0];
    sim.end(pid, ExitStatus::Exited(0));
    assert_eq!(sim.state("a.socket"), "active/listening");
    // A socket whose service runs refuses to start.
    sim.stop("a.socket");
    sim.start("a.service");
    assert_eq!(sim.start("a.socket"), "failed");
}

#[test]
fn socket_gives_up_with_its_service() {
    let mut sim = Sim::new(&SOCKET.replace("/bin/sleep", "/bin/false"));
    sim.start("a.socket");
    for _ in 0..8 {
        sim.event(Event::SocketReady {
            unit: name("a.socket"),
        });
    }
    assert_eq!(sim.state("a.socket"), "failed/failed");
    match sim.snapshot("a.socket").kind {
        TypeSnapshot::Socket(s) => assert_eq!(s.result, "service-start-limit-hit"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn accept_makes_instances() {
    let mut sim = Sim::new(
        "== ssh.socket\n[Socket]\nListenStream=22\nAccept=yes\nMaxConnections=2\n== ssh@.service\n[Unit]\nCollectMode=inactive-or-failed\n[Service]\nExecStart=-/bin/sleep\nStandardInput=socket\n",
    );
    assert_eq!(sim.start("ssh.socket"), "done");
    for port in 1000..1003 {
        let token = sim.token();
        let peer = PeerAddress::Inet {
            local: ("10.0.2.11".to_owned(), 22),
            remote: ("10.0.2.2".to_owned(), port),
        };
        sim.event(Event::Accepted {
            unit: name("ssh.socket"),
            token,
            peer,
        });
    }
    let units: Vec<_> = sim.spawned.iter().map(|s| s.unit.to_string()).collect();
    assert_eq!(
        units,
        [
            "ssh@0-10.0.2.11:22-10.0.2.2:1000.service",
            "ssh@1-10.0.2.11:22-10.0.2.2:1001.service"
        ]
    );
    assert!(sim.spawned[0].stdio_socket.is_some());
    assert!(sim.spawned[0].fds.is_empty(), "inetd style passes no fd 3");
    let listen = |v: &String| v.starts_with("LISTEN_");
    assert!(!sim.spawned[0].environment.iter().any(listen));
    assert!(
        sim.spawned[0]
            .environment
            .contains(&"REMOTE_ADDR=10.0.2.2".to_owned())
    );
    let pid = sim.pids(&units[0])[0];
    sim.end(pid, ExitStatus::Exited(255));
    assert!(
        sim.request(Request::GetUnit {
            name: units[0].clone()
        })
        .is_err(),
        "collected"
    );
    match sim.snapshot("ssh.socket").kind {
        TypeSnapshot::Socket(s) => assert_eq!((s.connections, s.accepted, s.refused), (1, 2, 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mounts() {
    let mut sim = Sim::new(
        "== var-lib-docker.mount\n[Mount]\nWhat=/dev/vdb\nType=ext4\n== a.service\n[Unit]\nRequiresMountsFor=/var/lib/docker/x\n[Service]\nExecStart=/bin/sleep\n",
    );
    // Waits for the device, then mounts, then the service starts.
    assert_eq!(sim.start("a.service"), "waiting");
    assert_eq!(sim.state("dev-vdb.device"), "inactive/dead");
    let info = DeviceInfo {
        sysfs_path: "/sys/devices/vdb".to_owned(),
        nodes: vec!["/dev/vdb".to_owned(), "/dev/disk/by-label/x".to_owned()],
        ..DeviceInfo::default()
    };
    sim.event(Event::DeviceAppeared(Box::new(info)));
    assert_eq!(sim.state("var-lib-docker.mount"), "active/mounted");
    assert_eq!(sim.state("a.service"), "active/running");
    assert_eq!(
        sim.state("dev-disk-by\\x2dlabel-x.device"),
        "active/plugged"
    );
    // Unmounted behind our back: the mount is dead, the service (Requires only) stays.
    sim.mounts.clear();
    sim.event(Event::MountTable(Vec::new()));
    assert_eq!(sim.state("var-lib-docker.mount"), "inactive/dead");
    assert_eq!(sim.state("a.service"), "active/running");
    sim.event(Event::DeviceGone {
        sysfs_path: "/sys/devices/vdb".to_owned(),
    });
    assert_eq!(sim.state("dev-vdb.device"), "inactive/dead");
}

#[test]
fn mounts_of_the_kernel_become_units() {
    let mut sim = Sim::new("");
    let entry = MountEntry {
        id: 1,
        what: "tmpfs".to_owned(),
        where_: "/mnt/x y".to_owned(),
        fs_type: "tmpfs".to_owned(),
        options: "rw".to_owned(),
    };
    sim.event(Event::MountTable(vec![entry]));
    let unit = sim.snapshot("mnt-x\\x20y.mount");
    assert_eq!(
        (unit.load.as_str(), unit.sub.as_str()),
        ("loaded", "mounted")
    );
    sim.event(Event::MountTable(Vec::new()));
    assert!(
        sim.request(Request::GetUnit { name: unit.id }).is_err(),
        "it vanishes"
    );
}

#[test]
fn a_missing_device_times_out() {
    let mut sim = Sim::new(
        "== m.mount\n[Mount]\nWhat=/dev/none\nType=ext4\n== local-fs.target\n[Unit]\nDefaultDependencies=no\nRequires=m.mount\nAfter=m.mount\n",
    );
    assert_eq!(sim.start("local-fs.target"), "waiting");
    sim.advance(91_000_000);
    assert!(sim.saw("job dev-none.device timeout"));
    assert!(sim.saw("job m.mount dependency") && sim.saw("job local-fs.target dependency"));
}

#[test]
fn timers() {
    let mut sim = Sim::new(
        "== a.timer\n[Timer]\nOnActiveSec=10\nOnUnitInactiveSec=60\n== a.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
    );
    assert_eq!(sim.start("a.timer"), "done");
    assert_eq!(sim.state("a.timer"), "active/waiting");
    sim.advance(11_000_000);
    assert_eq!(sim.spawns().len(), 1);
    sim.advance(130_000_000);
    assert_eq!(sim.spawns().len(), 3);
    sim.stop("a.timer");
    sim.advance(130_000_000);
    assert_eq!(sim.spawns().len(), 3);
}

#[test]
fn persistent_calendar_timer_catches_up() {
    let mut sim = Sim::new(
        "== a.timer\n[Timer]\nOnCalendar=daily\nPersistent=yes\n== a.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
    );
    let two_days_ago = sim.now.realtime - 2 * 86_400_000_000;
    sim.world
        .other_files
        .insert("stamp-a.timer".to_owned(), two_days_ago.to_string());
    sim.start("a.timer");
    sim.advance(1_000_000);
    assert_eq!(sim.spawns().len(), 1, "the one that was missed");
    let stamp: u64 = sim.world.other_files["stamp-a.timer"].parse().unwrap();
    assert!(stamp > two_days_ago);
    sim.advance(86_400_000_000);
    assert_eq!(sim.spawns().len(), 2);
}

#[test]
fn a_timer_goes_on_when_a_condition_fails() {
    let mut sim = Sim::new(
        "== a.timer\n[Timer]\nOnCalendar=minutely\n== a.service\n[Unit]\nConditionPathExists=/no\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
    );
    sim.start("a.timer");
    sim.advance(180_000_000);
    assert_eq!(sim.state("a.timer"), "active/waiting");
}

#[test]
fn paths() {
    let mut sim = Sim::new(
        "== a.path\n[Path]\nPathExists=/flag\n== a.service\n[Service]\nExecStart=/bin/sleep\n== c.path\n[Path]\nPathChanged=/c\n== c.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
    );
    sim.start("a.path");
    assert_eq!(sim.state("a.path"), "active/waiting");
    sim.world
        .other_files
        .insert("/flag".to_owned(), String::new());
    sim.event(Event::PathTriggered {
        unit: name("a.path"),
        index: 0,
    });
    assert_eq!(sim.state("a.service"), "active/running");
    sim.world.other_files.remove("/flag");
    let pid = sim.pids("a.service")[0];
    sim.end(pid, ExitStatus::Exited(0));
    assert_eq!(sim.state("a.path"), "active/waiting");
    sim.start("c.path");
    for _ in 0..3 {
        sim.event(Event::PathTriggered {
            unit: name("c.path"),
            index: 0,
        });
    }
    assert_eq!(
        sim.spawns()
            .iter()
            .filter(|s| s.starts_with("c.service"))
            .count(),
        3
    );
}

fn scope(name: &str, pids: Vec<u32>) -> Request {
    Request::StartTransient {
        unit: TransientUnit {
            name: name.to_owned(),
            settings: vec![
                Setting::new("Unit", "Description", "a container"),
                Setting::new("Scope", "Slice", "machine.slice"),
                Setting::new("Scope", "Delegate", "yes"),
            ],
            pids,
            controller: None,
        },
        mode: JobMode::Fail,
        aux: Vec::new(),
    }
}

fn process(sim: &mut Sim, pid: u32) {
    let proc = Proc {
        cgroup: "/user".to_owned(),
        program: "container".to_owned(),
        argv: Vec::new(),
        env: Vec::new(),
    };
    sim.world.procs.insert(pid, proc);
}

#[test]
fn transient_scopes() {
    let mut sim = Sim::new("");
    process(&mut sim, 5000);
    assert!(matches!(
        sim.request(scope("c.scope", vec![5000])),
        Ok(Reply::Job { .. })
    ));
    assert_eq!(sim.state("c.scope"), "active/running");
    let unit = sim.snapshot("c.scope");
    assert!(unit.transient && unit.cgroup.as_ref().unwrap().delegated);
    assert_eq!(unit.description, "a container");
    assert_eq!(sim.world.procs[&5000].cgroup, "/machine.slice/c.scope");
    assert!(
        sim.request(scope("c.scope", vec![5000])).is_err(),
        "it is there"
    );
    assert!(
        sim.request(scope("d.scope", Vec::new())).is_err(),
        "no processes"
    );
    assert_eq!(
        sim.request(Request::GetUnitByPid { pid: 5000 }).unwrap(),
        Reply::UnitName("c.scope".to_owned())
    );
    sim.end(5000, ExitStatus::Exited(0));
    assert!(
        sim.request(Request::GetUnit {
            name: "c.scope".to_owned()
        })
        .is_err()
    );
    process(&mut sim, 5001);
    sim.request(scope("c.scope", vec![5001])).unwrap();
    assert_eq!(sim.stop("c.scope"), "done");
    assert!(sim.world.procs.is_empty());
}

#[test]
fn delegate_self() {
    let mut sim = Sim::new("== a.service\n[Service]\nExecStart=/bin/sleep\n");
    sim.start("a.service");
    let pid = sim.pids("a.service")[0];
    assert_eq!(
        sim.request(Request::DelegateSelf { pid }).unwrap(),
        Reply::Text("/system.slice/a.service".to_owned())
    );
    assert!(sim.snapshot("a.service").cgroup.unwrap().delegated);
    process(&mut sim, 7000);
    assert!(sim.request(Request::DelegateSelf { pid: 7000 }).is_err());
}

#[test]
fn descriptor_store() {
    let mut sim = Sim::new(
        "== a.service\n[Service]\nExecStart=/bin/sleep\nFileDescriptorStoreMax=2\nRestart=always\nRestartSec=1\n",
    );
    sim.start("a.service");
    let pid = sim.pids("a.service")[0];
    let fds = vec![sim.token(), sim.token(), sim.token()];
    sim.event(Event::Notify {
        pid,
        uid: 0,
        cgroup: None,
        text: "FDSTORE=1\nFDNAME=x".to_owned(),
        fds,
    });
    assert_eq!(sim.service("a.service").fd_store_used, 2);
    assert!(sim.saw("close 1"));
    sim.end(pid, ExitStatus::Killed(9));
    sim.advance(2_000_000);
    assert_eq!(sim.spawned.last().unwrap().fds.len(), 2);
    assert_eq!(sim.job(Verb::Stop, "a.service", JobMode::Replace), "done");
    assert!(sim.saw("close 2"));
}

/// A look at a forgotten unit loads it for a moment. If that were news, a client that looks at each unit it hears of
/// would never come to an end.
#[test]
fn looking_at_a_forgotten_unit_makes_no_news() {
    let mut sim = Sim::new(
        "== a.service\n[Unit]\nWants=b.service nosuch.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n\
         == b.service\n[Service]\nExecStart=/bin/sleep\n== bad.service\n[Service]\nType=oneshot\n",
    );
    sim.news.clear();
    for name in ["a.service", "b.service", "bad.service", "nosuch.service"] {
        let unit = sim.snapshot(name);
        assert_eq!(unit.active.as_str(), "inactive", "{name}");
    }
    assert_eq!(sim.news, Vec::<String>::new());
    let names = vec!["a.service".to_owned()];
    sim.request(Request::ListUnitsByNames { names }).unwrap();
    sim.request(Request::GetUnit {
        name: "a.service".to_owned(),
    })
    .unwrap_err();
    assert_eq!(sim.news, Vec::<String>::new());
    // What stays is announced once, with its states; what goes is said to be gone.
    assert_eq!(sim.start("b.service"), "done");
    sim.news.retain(|n| n.contains("b.service"));
    assert_eq!(
        sim.news,
        [
            "new b.service",
            "changed b.service activating/start",
            "changed b.service active/running"
        ]
    );
    sim.news.clear();
    sim.snapshot("b.service");
    sim.request(Request::Reload).unwrap();
    assert!(
        !sim.news.iter().any(|n| n.starts_with("new ")),
        "{:?}",
        sim.news
    );
    sim.news.clear();
    assert_eq!(sim.stop("b.service"), "done");
    assert!(
        sim.news.contains(&"removed b.service".to_owned()),
        "{:?}",
        sim.news
    );
    sim.news.clear();
    sim.snapshot("b.service");
    assert_eq!(sim.news, Vec::<String>::new());
}
