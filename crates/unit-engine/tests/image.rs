//! The units of the image, read from the tree: they load without a remark, boot, and shut down.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim;

use std::path::{Path, PathBuf};

use init_control::{PowerAction, Reply, Request};
use sim::{Sim, World};
use unit_engine::{Config, Engine, Event};

fn units_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image-build/rootfs/usr/lib/systemd/system")
}

/// All unit files, links and dependency directories of the image; what presets enable is linked.
fn world() -> World {
    let mut world = World::default();
    let directory = units_directory();
    for entry in std::fs::read_dir(&directory).expect("the image's units are in the tree") {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            let target = target.file_name().unwrap().to_str().unwrap().to_owned();
            world.links.insert(name, target);
        } else if path.is_dir() {
            let (unit, kind) = name.rsplit_once('.').unwrap();
            for link in std::fs::read_dir(&path).unwrap() {
                let other = link.unwrap().file_name().to_str().unwrap().to_owned();
                if kind == "d" {
                    let text = std::fs::read_to_string(path.join(&other)).unwrap();
                    world.files.insert(format!("{name}/{other}"), text);
                } else {
                    world
                        .dependency_links
                        .push((unit.to_owned(), kind.to_owned(), other));
                }
            }
        } else {
            world
                .files
                .insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    let enabled: Vec<(String, String)> = world
        .files
        .iter()
        .filter(|(n, _)| !n.contains('/'))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    for (name, text) in enabled {
        for line in text.lines() {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let kind = match key {
                "WantedBy" => "wants",
                "RequiredBy" => "requires",
                "Alias" => {
                    for alias in value.split_whitespace() {
                        world
                            .links
                            .entry(alias.to_owned())
                            .or_insert_with(|| name.clone());
                    }
                    continue;
                }
                _ => continue,
            };
            if !enabled_by_preset(&name) {
                continue;
            }
            for target in value.split_whitespace() {
                world
                    .dependency_links
                    .push((target.to_owned(), kind.to_owned(), name.clone()));
            }
        }
    }
    world
}

/// Does a preset file of the image enable it?
fn enabled_by_preset(name: &str) -> bool {
    let directory = units_directory().join("../system-preset");
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        text.lines()
            .any(|l| l.strip_prefix("enable ") == Some(name))
    })
}

/// What user data typically adds.
const CLUSTER: [&str; 4] = [
    "etcd.service",
    "fleet.service",
    "docker.service",
    "flanneld.service",
];

fn boot() -> Sim {
    let mut sim = Sim::new("");
    sim.world = world();
    sim.engine = Engine::new(Config {
        status_lines: false,
        ..Config::default()
    });
    sim.world
        .other_files
        .insert("/run/flotilla/boot.json".to_owned(), String::new());
    sim.event(Event::Boot {
        targets: vec!["default.target".to_owned()],
        wants: Vec::new(),
        times: Box::default(),
    });
    let_it_settle(&mut sim);
    for unit in CLUSTER {
        sim.start(unit);
        let_it_settle(&mut sim);
    }
    sim
}

/// Every daemon says that it is ready; every oneshot ends well.
fn let_it_settle(sim: &mut Sim) {
    for _ in 0..200 {
        let mut waiting: Vec<(String, u32)> = sim
            .world
            .procs
            .iter()
            .map(|(pid, p)| (p.cgroup.rsplit('/').next().unwrap().to_owned(), *pid))
            .collect();
        waiting.retain(|(unit, _)| sim.state(unit).starts_with("activating"));
        if waiting.is_empty() {
            if sim.jobs().is_empty() {
                break;
            }
            // Something waits for a device that this machine has not.
            sim.advance(3_000_000);
        }
        for (unit, pid) in waiting {
            let main = sim.service(&unit).main_pid == pid;
            if main && sim.service(&unit).service_type == "notify" {
                let text = "READY=1".to_owned();
                sim.event(Event::Notify {
                    pid,
                    uid: 0,
                    cgroup: None,
                    text,
                    fds: Vec::new(),
                });
            } else {
                sim.end(pid, unit_engine::ExitStatus::Exited(0));
            }
        }
    }
}

#[test]
fn the_image_boots_and_goes_down() {
    let mut sim = boot();
    let remarks: Vec<_> = sim
        .trace
        .iter()
        .filter(|l| {
            [
                "warning:",
                "error:",
                "cycle",
                "cannot",
                "Dependency failed for local-fs",
                "without order",
            ]
            .iter()
            .any(|w| l.contains(w))
        })
        .collect();
    assert!(remarks.is_empty(), "{remarks:#?}");
    let jobs = sim.jobs();
    assert!(jobs.is_empty(), "{jobs:?} {:#?}", sim.trace);
    for unit in [
        "sysinit.target",
        "basic.target",
        "multi-user.target",
        "default.target",
        "sshd.socket",
    ] {
        assert!(
            sim.state(unit).starts_with("active"),
            "{unit} {:#?}",
            sim.trace
        );
    }
    let power = Request::Power {
        action: PowerAction::Reboot,
        immediate: false,
        argument: None,
    };
    sim.request(power).unwrap();
    sim.advance(300_000_000);
    assert!(sim.saw("power reboot"), "{:?}", sim.jobs());
    // These two stay for the last words; the final shutdown ends them.
    let left: Vec<&str> = sim
        .world
        .procs
        .values()
        .filter_map(|p| p.cgroup.rsplit('/').next())
        .collect();
    assert_eq!(left, ["unit-busd.service", "systemd-journald.service"]);
}

/// How a unit comes to be started on a machine without user data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum On {
    /// By a preset, when the machine boots for the first time.
    Preset,
    /// By a link in the image.
    Link,
    /// Only when somebody wants it.
    Wanted,
}

/// A unit of the image: name, type, how it starts, other names, what it comes after and before.
type Row = (
    &'static str,
    &'static str,
    On,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// The units that every machine has from the first boot on (the contract's section 5).
const UNITS: &[Row] = &[
    (
        "systemd-journald.service",
        "notify",
        On::Link,
        &[],
        &["systemd-journald.socket"],
        &["sysinit.target"],
    ),
    (
        "systemd-journald.socket",
        "socket",
        On::Link,
        &[],
        &[],
        &["systemd-journald.service"],
    ),
    (
        "systemd-journald-dev-log.socket",
        "socket",
        On::Link,
        &[],
        &[],
        &["systemd-journald.service"],
    ),
    (
        "systemd-journal-flush.service",
        "oneshot",
        On::Link,
        &[],
        &["local-fs.target", "systemd-journald.service"],
        &[],
    ),
    (
        "dbus.socket",
        "socket",
        On::Link,
        &[],
        &[],
        &["unit-busd.service"],
    ),
    (
        "unit-busd.service",
        "notify",
        On::Link,
        &["dbus.service", "systemd-logind.service"],
        &[],
        &["sysinit.target"],
    ),
    (
        "systemd-sysctl.service",
        "oneshot",
        On::Link,
        &[],
        &["systemd-modules-load.service"],
        &["sysinit.target"],
    ),
    (
        "systemd-modules-load.service",
        "oneshot",
        On::Link,
        &[],
        &[],
        &["sysinit.target"],
    ),
    (
        "systemd-tmpfiles-setup.service",
        "oneshot",
        On::Link,
        &[],
        &["local-fs.target"],
        &["sysinit.target"],
    ),
    (
        "systemd-sysusers.service",
        "oneshot",
        On::Link,
        &[],
        &[],
        &["sysinit.target"],
    ),
    (
        "systemd-random-seed.service",
        "oneshot",
        On::Link,
        &[],
        &[],
        &["sysinit.target"],
    ),
    (
        "systemd-udev-settle.service",
        "oneshot",
        On::Link,
        &[],
        &[],
        &["sysinit.target"],
    ),
    (
        "systemd-udevd.service",
        "oneshot",
        On::Link,
        &[],
        &[],
        &["sysinit.target"],
    ),
    (
        "usr-share-oem.mount",
        "mount",
        On::Link,
        &[],
        &[],
        &["local-fs.target"],
    ),
    (
        "tmp.mount",
        "mount",
        On::Link,
        &[],
        &[],
        &["local-fs.target"],
    ),
    (
        "flotilla-cloudinit-local.service",
        "oneshot",
        On::Link,
        &[],
        &["local-fs.target", "systemd-udev-settle.service"],
        &["network-pre.target", "system-config.target"],
    ),
    (
        "systemd-networkd.service",
        "notify",
        On::Preset,
        &["network.service", "systemd-resolved.service"],
        &["network-pre.target", "systemd-sysctl.service"],
        &["network.target"],
    ),
    (
        "systemd-networkd-wait-online.service",
        "oneshot",
        On::Wanted,
        &[],
        &["systemd-networkd.service"],
        &["network-online.target"],
    ),
    (
        "flotilla-cloudinit.service",
        "oneshot",
        On::Preset,
        &[
            "oem-cloudinit.service",
            "user-configdrive.service",
            "coreos-setup-environment.service",
        ],
        &[
            "systemd-networkd.service",
            "flotilla-cloudinit-local.service",
            "basic.target",
        ],
        &[
            "sshd.socket",
            "fleet.service",
            "etcd.service",
            "docker.service",
            "flanneld.service",
            "user-config.target",
        ],
    ),
    (
        "flotilla-cloudinit-commands.service",
        "exec",
        On::Preset,
        &[],
        &["flotilla-cloudinit.service"],
        &[],
    ),
    (
        "sshd.socket",
        "socket",
        On::Preset,
        &[],
        &["flotilla-cloudinit.service", "sshd-keygen.service"],
        &[],
    ),
    (
        "sshd.service",
        "simple",
        On::Wanted,
        &["ssh.service"],
        &[],
        &[],
    ),
    (
        "sshd-keygen.service",
        "oneshot",
        On::Preset,
        &[],
        &[],
        &["sshd.socket"],
    ),
    (
        "ssh-key-proc-cmdline.service",
        "oneshot",
        On::Preset,
        &[],
        &[],
        &["sshd.socket"],
    ),
    (
        "chronyd.service",
        "exec",
        On::Preset,
        &[
            "systemd-timesyncd.service",
            "ntpd.service",
            "chrony.service",
        ],
        &["network.target"],
        &["time-sync.target"],
    ),
    (
        "chrony-wait.service",
        "oneshot",
        On::Wanted,
        &[],
        &["chronyd.service"],
        &["time-sync.target"],
    ),
    (
        "etcd.service",
        "notify",
        On::Wanted,
        &["etcd2.service", "etcd-member.service"],
        &["network-online.target"],
        &[],
    ),
    (
        "fleet.service",
        "notify",
        On::Wanted,
        &["fleetd.service"],
        &["fleet.socket", "etcd.service", "network-online.target"],
        &[],
    ),
    (
        "fleet.socket",
        "socket",
        On::Wanted,
        &[],
        &[],
        &["fleet.service"],
    ),
    (
        "docker.service",
        "notify",
        On::Wanted,
        &[],
        &["docker.socket", "flanneld.service", "network.target"],
        &[],
    ),
    (
        "docker.socket",
        "socket",
        On::Preset,
        &[],
        &["flotilla-cloudinit.service"],
        &["docker.service"],
    ),
    (
        "containers-restore.service",
        "oneshot",
        On::Preset,
        &[],
        &[
            "flotilla-cloudinit.service",
            "docker.service",
            "flanneld.service",
        ],
        &[],
    ),
    (
        "flanneld.service",
        "notify",
        On::Wanted,
        &["flannel.service"],
        &["etcd.service", "network-online.target"],
        &["docker.service"],
    ),
    ("early-docker.target", "target", On::Wanted, &[], &[], &[]),
    (
        "flannel-docker-opts.service",
        "oneshot",
        On::Wanted,
        &[],
        &[],
        &[],
    ),
    ("early-docker.service", "oneshot", On::Wanted, &[], &[], &[]),
    (
        "flotilla-health.service",
        "oneshot",
        On::Preset,
        &[],
        &["multi-user.target"],
        &["boot-complete.target"],
    ),
    (
        "update-mark-good.service",
        "oneshot",
        On::Preset,
        &[],
        &["boot-complete.target", "multi-user.target"],
        &[],
    ),
];

#[test]
fn the_units_are_those_of_the_contract() {
    use init_control::{DependencyKind as D, TypeSnapshot};
    let world = world();
    let mut sim = boot();
    let mut bad = Vec::new();
    for (name, unit_type, on, aliases, after, before) in UNITS.iter().copied() {
        let unit = sim.snapshot(name);
        if unit.load.as_str() != "loaded" {
            bad.push(format!("{name} is {}", unit.load.as_str()));
            continue;
        }
        let kind = match &unit.kind {
            TypeSnapshot::Service(s) => s.service_type.clone(),
            _ => name.rsplit('.').next().unwrap().to_owned(),
        };
        if kind != unit_type {
            bad.push(format!("{name} is of type {kind}"));
        }
        for alias in aliases {
            if sim.snapshot(alias).id != name {
                bad.push(format!("{alias} is no other name of {name}"));
            }
        }
        for (kind, others) in [(D::After, after), (D::Before, before)] {
            let there: Vec<&String> = unit
                .dependencies
                .iter()
                .filter(|(k, _)| *k == kind)
                .flat_map(|(_, names)| names)
                .collect();
            for other in others {
                if !there.iter().any(|n| n == other) {
                    bad.push(format!("{name} is not {kind:?} {other}"));
                }
            }
        }
        // Who starts it, on a machine where nobody asked for anything.
        let linked = world.dependency_links.iter().any(|(by, _, n)| {
            n == name && !["network-online.target", "time-sync.target"].contains(&&**by)
        });
        let preset = enabled_by_preset(name) && world.files[name].contains("[Install]");
        let holds = match on {
            On::Preset => linked && preset,
            On::Link => linked,
            On::Wanted => !linked,
        };
        if !holds {
            bad.push(format!("{name} is not started as the table says ({on:?})"));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn settings_that_others_rely_on() {
    let mut sim = boot();
    for (name, settings) in [
        (
            "unit-busd.service",
            "Restart=always StartLimitIntervalSec=0 OOMScoreAdjust=-900",
        ),
        (
            "systemd-journald.service",
            "Restart=always OOMScoreAdjust=-500 Slice=flotilla.slice",
        ),
        (
            "systemd-networkd.service",
            "Restart=always OOMScoreAdjust=-500 Slice=flotilla.slice",
        ),
        (
            "etcd.service",
            "User=etcd TimeoutStartSec=0 Restart=always RestartSec=10s LimitNOFILE=40000 OOMScoreAdjust=-500",
        ),
        (
            "fleet.service",
            "Restart=always RestartSec=1s StartLimitIntervalSec=0 OOMScoreAdjust=-500",
        ),
        (
            "docker.service",
            "Restart=always RequiresMountsFor=/var/lib/docker Requires=docker.socket",
        ),
        (
            "docker.socket",
            "ListenStream=/run/docker.sock SocketMode=0660 SocketGroup=docker",
        ),
        (
            "fleet.socket",
            "ListenStream=/run/fleet.sock SocketMode=0660 SocketGroup=fleet",
        ),
        ("flanneld.service", "Restart=always RestartSec=5s"),
        ("flotilla-cloudinit.service", "TimeoutSec=10min"),
        ("flotilla-cloudinit-commands.service", "RemainAfterExit=yes"),
        (
            "sshd.socket",
            "Accept=yes MaxConnections=64 DefaultDependencies=no",
        ),
        ("sshd@1-2.service", "KillMode=process"),
        (
            "containers-restore.service",
            "RequiresMountsFor=/var/lib/docker",
        ),
        ("flotilla.slice", "MemoryMin=96M CPUWeight=500 IOWeight=500"),
        (
            "ssh-key-proc-cmdline.service",
            "ConditionKernelCommandLine=sshkey",
        ),
        (
            "update-mark-good.service",
            "RemainAfterExit=yes Requires=boot-complete.target",
        ),
        ("getty@tty1.service", "Type=idle"),
    ] {
        let unit = sim.snapshot(name);
        for setting in settings.split(' ') {
            let (key, value) = setting.split_once('=').unwrap();
            let found: Vec<&str> = unit
                .settings
                .iter()
                .filter(|s| s.key == key)
                .map(|s| &*s.value)
                .collect();
            assert!(found.contains(&value), "{name}: {setting}, found {found:?}");
        }
    }
}

/// 700 trivial units: what they cost grows with their number, not with its square.
#[test]
fn many_units() {
    fn run(count: usize) -> std::time::Duration {
        let mut world = World::default();
        let mut wants = String::new();
        for i in 0..count {
            world.files.insert(
                format!("u{i}.service"),
                "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n".to_owned(),
            );
            wants.push_str(&format!("u{i}.service "));
        }
        world
            .files
            .insert("all.target".to_owned(), format!("[Unit]\nWants={wants}\n"));
        let mut sim = Sim::new("");
        sim.world.files.extend(world.files);
        let begin = std::time::Instant::now();
        assert_eq!(sim.start("all.target"), "done");
        let took = begin.elapsed();
        assert!(matches!(sim.request(Request::ListJobs), Ok(Reply::Jobs(j)) if j.is_empty()));
        assert_eq!(sim.spawned.len(), count);
        took
    }
    let (few, many) = (run(350), run(2800));
    println!("350 units {few:?}, 2800 units {many:?}");
    assert!(
        many < few * 40,
        "8 times the units took {few:?} -> {many:?}"
    );
}
