//! Which control group a container lives in.
//!
//! | who asks | base group |
//! |---|---|
//! | the main process of a unit (simple, exec, notify, idle) | the unit's own, after `DelegateSelf` |
//! | anybody else, with a manager on the bus | a scope `machine.slice/container-<id12>.scope` |
//! | without a bus | `/docker/<id12>` |
//!
//! In each the command and the monitor sit in `<base>/supervisor` and the container in
//! `<base>/payload-<id12>`, because cgroup v2 allows no processes beside child groups.

use cgroup2::Hierarchy;
use dbus_api::blocking::Connection;
use dbus_api::systemd1::{self, JobMode, TransientProperty};
use oci_runtime::devices::{self, Rule};
use std::path::Path;
use std::time::Duration;

/// Marks a group whose processes the manager spares in the first stage of a stop.
pub const PAYLOAD_XATTR: &str = "user.flotilla.payload";
/// Base groups without a manager.
const PLAIN: &str = "/docker/";
/// What limits need.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The mounted hierarchy.
pub fn hierarchy() -> Hierarchy {
    Hierarchy::at("/sys/fs/cgroup")
}

/// Where the command itself runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// As main process of a unit that was delegated to it; the unit's group.
    Unit(String),
    /// Anywhere else.
    Other,
}

/// Finds out what the command is, and gets its unit's group delegated when it is its main process.
pub fn caller(detach: bool, classic: bool) -> Caller {
    if detach && classic {
        return Caller::Other;
    }
    let group =
        cgroup2::group_of(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default();
    // Only services have main processes; asking the bus for each command in a shell would be slow.
    if !group.split('/').any(|part| part.ends_with(".service")) {
        return Caller::Other;
    }
    match main_process_of(&group) {
        Ok(Some(unit_group)) => Caller::Unit(unit_group),
        Ok(None) => Caller::Other,
        Err(error) => {
            tracing::debug!(error = %telemetry::chain(&error), "not placed in the unit");
            Caller::Other
        }
    }
}

fn main_process_of(_group: &str) -> Result<Option<String>, dbus_api::Error> {
    let mut bus = Connection::system()?;
    let own = rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned();
    let path = bus.call(systemd1::unit_by_pid(own))?;
    let Some(unit) = dbus_api::names::unit_of_path(&path.0) else {
        return Ok(None);
    };
    let main = bus.call(systemd1::unit_property(&unit, "Service", "MainPID"))?;
    let kind = bus.unit_text(&unit, "Service", "Type")?;
    if main.as_u32() != Some(own)
        || !matches!(
            kind.as_str(),
            "simple" | "exec" | "notify" | "notify-reload" | "idle"
        )
    {
        return Ok(None);
    }
    let group = bus.call(systemd1::delegate_self())?;
    let supervisor = format!("{}/supervisor", group.trim_end_matches('/'));
    let groups = hierarchy();
    let moved = groups
        .create(&supervisor)
        .and_then(|()| groups.attach(&supervisor, own.cast_signed()));
    match moved {
        Ok(()) => Ok(Some(group)),
        Err(error) => {
            tracing::warn!(error = %telemetry::chain(&error), "cannot use the unit's control group");
            Ok(None)
        }
    }
}

/// Gives a monitor a base group outside of units; it is moved to `<base>/supervisor`.
pub fn scope(id12: &str, name: &str, monitor: u32) -> Result<String, cgroup2::CgroupError> {
    let base = match start_scope(id12, name, monitor) {
        Ok(group) => group,
        Err(error) => {
            tracing::debug!(error = %telemetry::chain(&error), "no scope, using a plain control group");
            format!("{PLAIN}{id12}")
        }
    };
    let groups = hierarchy();
    let supervisor = format!("{base}/supervisor");
    groups.create(&supervisor)?;
    groups.attach(&supervisor, monitor.cast_signed())?;
    Ok(base)
}

fn start_scope(id12: &str, name: &str, monitor: u32) -> Result<String, dbus_api::Error> {
    let mut bus = Connection::system()?;
    let unit = format!("container-{id12}.scope");
    let properties = [
        TransientProperty::description(&format!("container {name}")),
        TransientProperty::pids(&[monitor]),
        TransientProperty::slice("machine.slice"),
        TransientProperty::delegate(true),
    ];
    let mut tries = 0;
    loop {
        // The scope of the container's last run may be on its way out.
        match bus.run(
            systemd1::start_transient_unit(&unit, JobMode::Replace, &properties),
            Some(Duration::from_secs(20)),
        ) {
            Ok(_) => break,
            Err(error)
                if tries < 10 && error.name() == Some("org.freedesktop.systemd1.UnitExists") =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(error),
        }
    }
    let group = bus.unit_text(&unit, "Scope", "ControlGroup")?;
    if group.is_empty() {
        Ok(format!("/machine.slice/{unit}"))
    } else {
        Ok(group)
    }
}

/// Why the container's group could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The group.
    #[error("failed to make the container's control group")]
    Group(#[from] cgroup2::CgroupError),
    /// The device program.
    #[error("failed to enforce the container's device rules")]
    Devices(#[source] std::io::Error),
    /// The kernel does not enforce what it accepted.
    #[error("device rules are not enforced on this machine; refusing to run containers")]
    NotEnforced,
}

/// Where a container's processes are.
pub fn payload_path(base: &str, id12: &str) -> String {
    format!("{}/payload-{id12}", base.trim_end_matches('/'))
}

/// At the end of a monitor: without a manager nobody else removes the group. The root group may hold processes.
pub fn leave(base: &str) {
    if !base.starts_with(PLAIN) {
        return;
    }
    let groups = hierarchy();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let left = groups.attach("/", own).and_then(|()| groups.remove(base));
    if let Err(error) = left {
        tracing::debug!(error = %telemetry::chain(&error), "the plain control group stays");
    }
}

/// Makes `<base>/payload-<id12>` with the device rules in force; its path.
pub fn payload(
    base: &str,
    id12: &str,
    rules: &[Rule],
    controllers: bool,
) -> Result<String, PlaceError> {
    let groups = hierarchy();
    let group = payload_path(base, id12);
    if groups.exists(&group) {
        let _ = groups.kill(&group);
        for _ in 0..50 {
            if groups.remove(&group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    groups.create(&group)?;
    // Where the unit forbids it, only limits fail, and those say so when they are set.
    if let Err(error) = groups.enable(&group, &CONTROLLERS) {
        if controllers {
            return Err(error.into());
        }
        tracing::debug!(error = %telemetry::chain(&error), "controllers stay off");
    }
    let _ = groups.set_xattr(&group, PAYLOAD_XATTR, b"1");
    restrict(&groups, &group, rules)?;
    Ok(group)
}

fn restrict(groups: &Hierarchy, group: &str, rules: &[Rule]) -> Result<(), PlaceError> {
    let program = syscalls::bpf::load_device_program(&devices::program(rules))
        .map_err(PlaceError::Devices)?;
    let directory = groups.open(group)?;
    syscalls::bpf::attach_device_program(&directory, &program, syscalls::bpf::Attach::Multi)
        .map_err(PlaceError::Devices)
}

/// Once a boot: a process in a group that forbids every device must not open `/dev/null`.
pub fn prove_device_rules(
    base: &str,
    run: &Path,
    engine: &oci_runtime::helper::HelperEngine,
) -> Result<(), PlaceError> {
    let marker = run.join("devices-enforced");
    if marker.exists() {
        return Ok(());
    }
    let groups = hierarchy();
    let group = format!(
        "{}/probe-{}",
        base.trim_end_matches('/'),
        std::process::id()
    );
    groups.create(&group)?;
    let held = restrict(&groups, &group, &[]).map(|()| engine.probe_devices(&groups.path(&group)));
    let _ = groups.remove(&group);
    match held? {
        Ok(true) => {
            let _ = std::fs::write(marker, "");
            Ok(())
        }
        Ok(false) => Err(PlaceError::NotEnforced),
        Err(error) => Err(PlaceError::Devices(std::io::Error::other(error))),
    }
}
