//! Devices: the kernel's uevents, the links below `/dev/disk`, and what the engine is told about them.
//!
//! Superblocks are read by a helper process (`init --probe`), never here. A device is told to the engine
//! only after its links exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use unit_engine::api::DeviceInfo;

use crate::log::{self, Level};
use crate::probe::Found;

/// One uevent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uevent {
    /// `add`, `change`, `remove`, `bind` …
    pub(crate) action: String,
    /// Path below /sys, without it.
    pub(crate) path: String,
    /// `block`, `net`, `tty` …
    pub(crate) subsystem: String,
    /// Node name below /dev.
    pub(crate) name: Option<String>,
    /// Alias by which a driver can be found.
    pub(crate) modalias: Option<String>,
}

impl Uevent {
    /// Parses a message of the kernel: `ACTION@PATH`, then `KEY=value`, each ended by NUL.
    pub(crate) fn parse(message: &[u8]) -> Option<Uevent> {
        let mut parts = message
            .split(|b| *b == 0)
            .map(|p| String::from_utf8_lossy(p).into_owned());
        let head = parts.next()?;
        let (action, path) = head.split_once('@')?;
        let mut event = Uevent {
            action: action.to_owned(),
            path: path.to_owned(),
            ..Uevent::default()
        };
        for (key, value) in
            parts.filter_map(|p| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        {
            match key.as_str() {
                "SUBSYSTEM" => event.subsystem = value,
                "DEVNAME" => event.name = Some(value),
                "MODALIAS" => event.modalias = Some(value),
                _ => {}
            }
        }
        Some(event)
    }

    /// Whether its superblock is worth reading.
    pub(crate) fn needs_probe(&self) -> bool {
        self.subsystem == "block" && self.name.as_deref().is_some_and(|n| !n.starts_with("ram"))
    }

    /// The unit-worthy device behind an event about something else than a block device.
    pub(crate) fn plain_device(&self) -> Option<DeviceInfo> {
        let sysfs_path = format!("/sys{}", self.path);
        let nodes = match self.subsystem.as_str() {
            "tty" => vec![format!(
                "/dev/{}",
                self.name.as_deref().filter(|n| is_login_terminal(n))?
            )],
            "net" => vec![format!(
                "/sys/subsystem/net/devices/{}",
                self.path.rsplit('/').next()?
            )],
            _ => return None,
        };
        Some(DeviceInfo {
            description: nodes[0].clone(),
            sysfs_path,
            nodes,
            wants: Vec::new(),
        })
    }
}

/// Serial and hypervisor terminals, not the virtual consoles.
fn is_login_terminal(name: &str) -> bool {
    let behind = |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    behind("tty").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()))
        || ["hvc", "xvc", "hvsi", "sclp"]
            .iter()
            .any(|p| behind(p).is_some())
}

/// Which device owns which links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    by_device: BTreeMap<String, BTreeSet<String>>,
}

impl Links {
    /// Makes the links of a probed block device, drops those it no longer has, and describes it.
    pub(crate) fn update(&mut self, sysfs_path: &str, name: &str, found: &Found) -> DeviceInfo {
        let node = format!("/dev/{name}");
        let wanted: BTreeSet<String> = found.links().into_iter().collect();
        let had = self
            .by_device
            .insert(sysfs_path.to_owned(), wanted.clone())
            .unwrap_or_default();
        for gone in had.difference(&wanted) {
            remove_link(gone, &node);
        }
        for link in &wanted {
            if let Err(error) = make_link(link, name) {
                log::say(Level::Warning, format_args!("{link} was not made: {error}"));
            }
        }
        let nodes: Vec<String> = std::iter::once(node.clone()).chain(wanted).collect();
        DeviceInfo {
            sysfs_path: sysfs_path.to_owned(),
            nodes,
            description: node,
            wants: Vec::new(),
        }
    }

    /// Removes the links of a device that went.
    pub(crate) fn remove(&mut self, sysfs_path: &str, name: &str) {
        for link in self.by_device.remove(sysfs_path).unwrap_or_default() {
            remove_link(&link, &format!("/dev/{name}"));
        }
    }
}

fn make_link(link: &str, name: &str) -> std::io::Result<()> {
    let target = PathBuf::from(format!("../../{name}"));
    if fs::read_link(link).is_ok_and(|t| t == target) {
        return Ok(());
    }
    let path = Path::new(link);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    // The newest device of a name wins, at once for everyone who looks.
    let temporary = format!("{link}.tmp-{}", name.replace('/', "!"));
    let _ = fs::remove_file(&temporary);
    symlink(&target, &temporary)?;
    fs::rename(&temporary, path)
}

fn remove_link(link: &str, node: &str) {
    // Another device may have taken the name meanwhile.
    let target = fs::read_link(link).unwrap_or_default();
    if target.file_name() == Path::new(node).file_name() {
        let _ = fs::remove_file(link);
    }
}

/// The devices that are there already, as events.
pub(crate) fn coldplug() -> Vec<Uevent> {
    ["block", "tty", "net"]
        .iter()
        .flat_map(|subsystem| of_class(subsystem))
        .collect()
}

fn of_class(subsystem: &str) -> Vec<Uevent> {
    let Ok(entries) = fs::read_dir(Path::new("/sys/class").join(subsystem)) else {
        return Vec::new();
    };
    let mut found: Vec<Uevent> = entries
        .flatten()
        .filter_map(|e| of_sysfs(&e.path(), subsystem))
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The "add" event of a device that exists.
pub(crate) fn of_sysfs(link: &Path, subsystem: &str) -> Option<Uevent> {
    let path = fs::canonicalize(link).ok()?;
    let text = fs::read_to_string(path.join("uevent")).unwrap_or_default();
    let name = text
        .lines()
        .find_map(|l| l.strip_prefix("DEVNAME="))
        .map(str::to_owned);
    let path = path.to_str()?.strip_prefix("/sys")?.to_owned();
    Some(Uevent {
        action: "add".to_owned(),
        path,
        subsystem: subsystem.to_owned(),
        name,
        modalias: None,
    })
}

/// Loads drivers for all devices, in a helper, until no new device asks for one or the time is over.
pub(crate) fn load_drivers(limit: Duration) {
    const MODPROBE: &str = "/usr/sbin/modprobe";
    if !Path::new(MODPROBE).exists() {
        return;
    }
    let start = Instant::now();
    let mut known = BTreeSet::new();
    // A driver can bring up a bus with further devices (a controller its disks): a few rounds suffice.
    for _ in 0..4 {
        let fresh: Vec<String> = modaliases().difference(&known).cloned().collect();
        if fresh.is_empty() || start.elapsed() > limit {
            return;
        }
        known.extend(fresh.iter().cloned());
        log::say(
            Level::Debug,
            format_args!("drivers for {} devices", fresh.len()),
        );
        let child = Command::new(MODPROBE)
            .args(["-a", "-b", "-q", "--"])
            .args(&fresh)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => wait(child, limit.saturating_sub(start.elapsed())),
            Err(error) => {
                return log::say(
                    Level::Warning,
                    format_args!("drivers were not loaded: {error}"),
                );
            }
        }
    }
}

/// Waits for a helper of the early boot; one that hangs is left to itself.
fn wait(mut child: std::process::Child, limit: Duration) {
    let start = Instant::now();
    while start.elapsed() < limit {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    log::say(
        Level::Warning,
        format_args!(
            "a helper did not end within {} s, going on",
            limit.as_secs()
        ),
    );
}

/// Every alias in /sys for which a driver might exist.
fn modaliases() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let Ok(buses) = fs::read_dir("/sys/bus") else {
        return all;
    };
    for bus in buses.flatten() {
        let Ok(devices) = fs::read_dir(bus.path().join("devices")) else {
            continue;
        };
        for device in devices
            .flatten()
            .filter(|d| !d.path().join("driver").exists())
        {
            if let Ok(alias) = fs::read_to_string(device.path().join("modalias")) {
                all.insert(alias.trim().to_owned());
            }
        }
    }
    all.remove("");
    all
}

/// Probes block devices at boot, all at once, each by a helper of its own, for at most `limit`.
pub(crate) fn probe_all(events: &[Uevent], limit: Duration) -> Vec<(Uevent, Found)> {
    let start = Instant::now();
    let mut helpers = Vec::new();
    for event in events.iter().filter(|e| e.needs_probe()) {
        let node = format!("/dev/{}", event.name.as_deref().unwrap_or_default());
        let child = Command::new("/proc/self/exe")
            .args(["--probe", &node])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        helpers.extend(child.ok().map(|c| (event.clone(), c)));
    }
    let mut found = Vec::new();
    while !helpers.is_empty() && start.elapsed() < limit {
        let (done, waiting) = split_done(helpers);
        for (event, mut child) in done {
            let mut text = String::new();
            if let Some(out) = &mut child.stdout {
                let _ = std::io::Read::read_to_string(out, &mut text);
            }
            found.push((event, Found::decode(&text)));
        }
        helpers = waiting;
        if !helpers.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    for (event, _) in helpers {
        log::say(
            Level::Warning,
            format_args!("{} does not answer", event.path),
        );
        found.push((event, Found::default()));
    }
    found
}

/// Splits helpers into those that ended and those that did not.
fn split_done(helpers: Vec<Helper>) -> (Vec<Helper>, Vec<Helper>) {
    let (mut done, mut waiting) = (Vec::new(), Vec::new());
    for (event, mut child) in helpers {
        if matches!(child.try_wait(), Ok(None)) {
            waiting.push((event, child));
        } else {
            done.push((event, child));
        }
    }
    (done, waiting)
}

type Helper = (Uevent, std::process::Child);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uevent_is_parsed() {
        let message =
            b"add@/devices/x/block/vdb\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=vdb\0SEQNUM=7\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(
            (
                event.action.as_str(),
                event.path.as_str(),
                event.name.as_deref()
            ),
            ("add", "/devices/x/block/vdb", Some("vdb"))
        );
        assert!(event.needs_probe());
        assert_eq!(Uevent::parse(b"libudev\0xx"), None);
    }

    #[test]
    fn terminals_and_links_become_devices_and_virtual_consoles_do_not() {
        let event = |subsystem: &str, name: &str| Uevent {
            subsystem: subsystem.to_owned(),
            path: format!("/devices/x/{name}"),
            name: Some(name.to_owned()),
            ..Uevent::default()
        };
        assert_eq!(
            event("tty", "ttyS0").plain_device().unwrap().nodes,
            ["/dev/ttyS0"]
        );
        assert!(event("tty", "hvc0").plain_device().is_some());
        assert!(event("tty", "tty1").plain_device().is_none());
        assert!(event("tty", "tty").plain_device().is_none());
        assert_eq!(
            event("net", "eth0").plain_device().unwrap().nodes,
            ["/sys/subsystem/net/devices/eth0"]
        );
        assert!(event("pci", "x").plain_device().is_none());
    }

    proptest! {
        #[test]
        fn any_message_is_looked_at(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Uevent::parse(&message);
        }
    }
}
