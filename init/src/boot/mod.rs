//! The boot of the system manager: stages before the loop, as a list.
//!
//! A stage that fails is told and passed over, unless the manager cannot run without it: a machine with half
//! of its file systems can be repaired, one that hangs in PID 1 cannot.

mod facts;
mod identity;
mod mounts;
mod sockets;

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use init_control::{BootTimes, Stamp};
use rustix::process::{Resource, Rlimit, setrlimit};
use unit_engine::api::DeviceInfo;
use unit_engine::{Config, Engine, Event};

use crate::cmdline::CommandLine;
use crate::devices::{self, Links};
use crate::handover::{self, Handover};
use crate::host::System;
use crate::log::{self, Level};
use crate::manager::state::Saved;
use crate::manager::{Inherited, Manager, Setup};
use crate::{clock, generators};

const DRIVER_LIMIT: Duration = Duration::from_secs(20);
const QUEUE_LENGTH: &str = "/proc/sys/net/unix/max_dgram_qlen";
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// What the stages know and find out.
#[derive(Debug, Default)]
struct Boot {
    facts: Handover,
    cmdline: CommandLine,
    times: BootTimes,
    first_boot: bool,
    machine_id: String,
    uevents: Option<OwnedFd>,
    links: Links,
    devices: Vec<DeviceInfo>,
}

struct Stage {
    name: &'static str,
    run: fn(&mut Boot) -> std::io::Result<()>,
}

const STAGES: &[Stage] = &[
    Stage {
        name: "kernel file systems",
        run: mounts::kernel_file_systems,
    },
    Stage {
        name: "log and limits",
        run: log_and_limits,
    },
    Stage {
        name: "datagram queues",
        run: |_| lengthen_datagram_queues(Path::new(QUEUE_LENGTH)),
    },
    Stage {
        name: "control groups",
        run: |_| control_groups(),
    },
    Stage {
        name: "machine identity",
        run: identity::decide,
    },
    Stage {
        name: "clock",
        run: |_| identity::advance_clock(),
    },
    Stage {
        name: "loopback",
        run: |_| syscalls::socket::loopback_up(),
    },
    Stage {
        name: "generators",
        run: run_generators,
    },
    Stage {
        name: "presets",
        run: apply_presets,
    },
    Stage {
        name: "first boot is known",
        run: identity::remember,
    },
    Stage {
        name: "boot facts",
        run: facts::write,
    },
    Stage {
        name: "devices",
        run: find_devices,
    },
];

/// Boots the machine and runs the manager. Does not return.
pub(crate) fn run() -> ! {
    let start = stamp();
    let mut boot = Boot {
        facts: Handover::decode(&std::env::var(handover::VARIABLE).unwrap_or_default()),
        ..Boot::default()
    };
    boot.times.userspace = start;
    boot.times.kernel = Stamp {
        realtime: start.realtime.saturating_sub(start.monotonic),
        monotonic: 0,
    };
    if boot.facts.initrd_usec > 0 {
        let before = start.monotonic.saturating_sub(boot.facts.initrd_usec);
        boot.times.initrd = Stamp {
            realtime: start.realtime.saturating_sub(before),
            monotonic: boot.facts.initrd_usec,
        };
    }
    boot.times.security_start = start;
    for stage in STAGES {
        log::say(Level::Debug, format_args!("boot stage \"{}\"", stage.name));
        if let Err(error) = (stage.run)(&mut boot) {
            log::say(
                Level::Error,
                format_args!("boot stage \"{}\" failed: {error}", stage.name),
            );
        }
    }
    boot.times.security_finish = stamp();
    let inherited = loop {
        match sockets::bind(&boot.facts) {
            Ok(inherited) => break inherited,
            Err(error) => hold_on(&format!(
                "the sockets of the manager cannot be bound: {error}"
            )),
        }
    };
    let targets = boot_targets(&boot.cmdline);
    let mut first: Vec<Event> = boot
        .devices
        .drain(..)
        .map(|d| Event::DeviceAppeared(Box::new(d)))
        .collect();
    first.push(Event::Boot {
        targets,
        wants: Vec::new(),
        times: Box::new(boot.times),
    });
    log::say(
        Level::Info,
        format_args!("{} is up, starting units", version()),
    );
    let engine = Engine::new(engine_config());
    start_manager(boot, engine, inherited, first, Vec::new())
}

/// Goes on where the manager before left off. Does not return.
pub(crate) fn restore(number: i32) -> ! {
    log::open_kmsg();
    log::use_journal(true);
    let mut boot = Boot {
        cmdline: CommandLine::of_kernel(),
        ..Boot::default()
    };
    let saved = Saved::read(number);
    let inherited = saved
        .as_ref()
        .map_err(Clone::clone)
        .and_then(Saved::inherit);
    let (saved, inherited) = match (saved, inherited) {
        (Ok(saved), Ok(inherited)) => (saved, inherited),
        (Err(error), _) | (_, Err(error)) => {
            log::say(
                Level::Critical,
                format_args!("state of the manager is lost: {error}; starting over"),
            );
            run();
        }
    };
    boot.times = saved.times;
    boot.first_boot = saved.first_boot;
    if let Some(level) = Level::from_name(&saved.log_level) {
        log::set_threshold(level);
    }
    boot.uevents = syscalls::socket::uevents().ok();
    let system = System::new(boot.cmdline.clone(), boot.first_boot);
    match Engine::restore(
        engine_config(),
        &saved.engine,
        crate::manager::now(),
        &system,
    ) {
        Ok((engine, output)) => {
            log::say(Level::Info, format_args!("{} goes on", version()));
            let first = devices_again(&mut boot);
            start_manager(boot, engine, inherited, first, output)
        }
        Err(error) => {
            log::say(
                Level::Critical,
                format_args!("units are lost: {}; starting over", log::chain(&error)),
            );
            let targets = boot_targets(&boot.cmdline);
            let first = vec![Event::Boot {
                targets,
                wants: Vec::new(),
                times: Box::new(boot.times),
            }];
            start_manager(
                boot,
                Engine::new(engine_config()),
                inherited,
                first,
                Vec::new(),
            )
        }
    }
}

fn start_manager(
    boot: Boot,
    engine: Engine,
    inherited: Inherited,
    first: Vec<Event>,
    restored: Vec<unit_engine::Action>,
) -> ! {
    let uevents = boot.uevents.map_or_else(syscalls::socket::uevents, Ok);
    let setup = uevents.and_then(|uevents| {
        let setup = Setup {
            engine,
            system: System::new(boot.cmdline, boot.first_boot),
            times: boot.times,
            private_tmp_key: private_tmp_key(),
            uevents,
            links: boot.links,
        };
        Manager::new(setup, inherited)
    });
    match setup {
        Ok(manager) => manager.run(first, restored),
        Err(error) => loop {
            hold_on(&format!("the event loop cannot be set up: {error}"));
        },
    }
}

/// PID 1 must not leave; it says what is wrong and restarts the machine, so that the loader counts it.
pub(crate) fn hold_on(reason: &str) {
    log::say(
        Level::Critical,
        format_args!("{reason}; restarting in 10 s"),
    );
    let _ = crate::console::broadcast(&format!("\r\n*** {reason}; restarting in 10 s\r\n"));
    std::thread::sleep(Duration::from_secs(10));
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

/// The last resort: a panic where no state could be saved must not let PID 1 leave without a word.
pub(crate) fn guard(run: impl FnOnce() -> Infallible) -> ! {
    let panic = match catch_unwind(AssertUnwindSafe(run)) {
        Err(panic) => crate::manager::panic_text(panic.as_ref()).to_owned(),
    };
    loop {
        hold_on(&format!("internal error: {panic}"));
    }
}

fn boot_targets(cmdline: &CommandLine) -> Vec<String> {
    let named = generators::boot_target(cmdline).unwrap_or_else(|| "default.target".to_owned());
    let mut all = vec![named];
    all.extend(["rescue.target", "emergency.target"].map(str::to_owned));
    all.dedup();
    all
}

fn engine_config() -> Config {
    Config {
        version: version(),
        ..Config::default()
    }
}

/// This program's version text.
pub(crate) fn version() -> String {
    format!("Flotilla {}", env!("CARGO_PKG_VERSION"))
}

fn stamp() -> Stamp {
    Stamp {
        realtime: clock::realtime_usec(),
        monotonic: clock::monotonic_usec(),
    }
}

/// Kept in /run, so that a re-executed manager finds the same directories.
fn private_tmp_key() -> String {
    const PATH: &str = "/run/systemd/private-tmp-key";
    if let Ok(key) = std::fs::read_to_string(PATH)
        && key.len() == 64
    {
        return key;
    }
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .replace('-', "");
    let mut random = [0; 16];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
    let key = format!(
        "{boot_id:0>32}{}",
        random
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    );
    if let Err(error) = crate::atomic::write(Path::new(PATH), key.as_bytes(), 0o600) {
        log::say(Level::Warning, format_args!("{PATH}: {error}"));
    }
    key
}

fn log_and_limits(boot: &mut Boot) -> std::io::Result<()> {
    log::open_kmsg();
    // For debugging: everything on the console, nothing in a journal that may not work.
    log::use_journal(boot.cmdline.value("systemd.log_target") != Some("kmsg"));
    crate::console::standard_streams();
    let level = boot
        .cmdline
        .value("systemd.log_level")
        .and_then(Level::from_name);
    if let Some(level) = level.or(boot.cmdline.flag("debug").then_some(Level::Debug)) {
        log::set_threshold(level);
    }
    // The kernel is to tell us instead of restarting by itself.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for (resource, soft, hard) in [
        // PID 1 holds the sockets of everybody; services get a soft limit of 1024 from the executor.
        (Resource::Nofile, 524_288, 524_288),
        (Resource::Memlock, 8 << 20, 8 << 20),
    ] {
        setrlimit(
            resource,
            Rlimit {
                current: Some(soft),
                maximum: Some(hard),
            },
        )?;
    }
    let core = Rlimit {
        current: Some(0),
        maximum: None,
    };
    setrlimit(Resource::Core, core)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// The kernel keeps ten datagrams for a socket that is not read at once: a burst of log lines or notifications would make
/// their senders wait. A socket keeps the length it was made with, so this comes before all of them.
fn lengthen_datagram_queues(file: &Path) -> std::io::Result<()> {
    const LENGTH: u32 = 512;
    let now = std::fs::read_to_string(file)?;
    match now.trim().parse::<u32>() {
        Ok(now) if now < LENGTH => std::fs::write(file, LENGTH.to_string()),
        _ => Ok(()),
    }
}

fn control_groups() -> std::io::Result<()> {
    let tree = cgroup2::Hierarchy::default();
    let text = |e: cgroup2::CgroupError| std::io::Error::other(log::chain(&e));
    for group in [
        "/init.scope",
        "/system.slice",
        "/user.slice",
        "/machine.slice",
        "/flotilla.slice",
    ] {
        tree.create(group).map_err(text)?;
    }
    tree.attach("/init.scope", 1).map_err(text)
}

fn run_generators(boot: &mut Boot) -> std::io::Result<()> {
    boot.times.generators_start = stamp();
    generators::run(&boot.cmdline)?;
    boot.times.generators_finish = stamp();
    Ok(())
}

/// First boot: every unit file as the presets say.
fn apply_presets(boot: &mut Boot) -> std::io::Result<()> {
    if !boot.first_boot {
        return Ok(());
    }
    log::say(Level::Info, format_args!("first boot: applying presets"));
    let system = System::new(boot.cmdline.clone(), true);
    system
        .installer()
        .preset_everything()
        .map_err(|e| std::io::Error::other(e.message))
}

/// Loads drivers, has every block device looked at, and makes the links, before the first unit starts.
fn find_devices(boot: &mut Boot) -> std::io::Result<()> {
    let uevents = syscalls::socket::uevents()?;
    boot.uevents = Some(uevents);
    devices::load_drivers(DRIVER_LIMIT);
    log::say(Level::Debug, format_args!("drivers are loaded"));
    let all = devices::coldplug();
    log::say(Level::Debug, format_args!("{} devices", all.len()));
    boot.devices = all
        .iter()
        .filter_map(devices::Uevent::plain_device)
        .collect();
    for (event, found) in devices::probe_all(&all, PROBE_LIMIT) {
        let name = event.name.as_deref().unwrap_or_default();
        let info = boot
            .links
            .update(&format!("/sys{}", event.path), name, &found);
        boot.devices.push(info);
    }
    Ok(())
}

/// After a re-execution the engine knows its devices; the links are still there, only their owners are not.
fn devices_again(boot: &mut Boot) -> Vec<Event> {
    let all = devices::coldplug();
    let mut events: Vec<Event> = Vec::new();
    for (event, found) in devices::probe_all(&all, PROBE_LIMIT) {
        let name = event.name.as_deref().unwrap_or_default();
        let info = boot
            .links
            .update(&format!("/sys{}", event.path), name, &found);
        events.push(Event::DeviceAppeared(Box::new(info)));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_only_become_longer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (before, after) in [("10\n", "512"), ("1024\n", "1024\n"), ("x", "x")] {
            std::fs::write(file.path(), before).unwrap();
            lengthen_datagram_queues(file.path()).unwrap();
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), after);
        }
    }

    #[test]
    fn the_boot_target_has_two_fallbacks() {
        assert_eq!(
            boot_targets(&CommandLine::default()),
            ["default.target", "rescue.target", "emergency.target"]
        );
        assert_eq!(
            boot_targets(&CommandLine::parse("rescue")),
            ["rescue.target", "emergency.target"]
        );
    }
}
