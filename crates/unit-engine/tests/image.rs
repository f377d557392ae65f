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
