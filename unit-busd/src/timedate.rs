//! `org.freedesktop.timedate1`: time zone and whether the clock is synchronised. The NTP client is chronyd.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};
use std::time::{SystemTime, UNIX_EPOCH};

use dbus_api::snapshot::Interface;
use dbus_api::wire::Value;
use init_control::{
    ActiveState, EnableFlags, ErrorKind, JobMode, LoadState, Reply, Request, UnitFileRequest,
    UnitListEntry, Verb,
};

use crate::dispatch::{Access, Call, Method};
use crate::step::Step;

const NAME: &str = "org.freedesktop.timedate1";
const ZONES: &str = "usr/share/zoneinfo";
/// The unit that keeps the time, and the target that says it is right.
const NTP_UNIT: &str = "chronyd.service";
const SYNCED: &str = "time-sync.target";

pub(crate) const METHODS: &[Method] = &[
    Method {
        interface: NAME,
        member: "SetTimezone",
        input: "sb",
        output: "",
        access: Access::Root,
        run: set_zone,
    },
    Method {
        interface: NAME,
        member: "SetNTP",
        input: "bb",
        output: "",
        access: Access::Root,
        run: set_ntp,
    },
    Method {
        interface: NAME,
        member: "ListTimezones",
        input: "",
        output: "as",
        access: Access::All,
        run: |call| Step::Reply(vec![Value::strings(zones(&call.world.root.join(ZONES)))]),
    },
];

/// The properties; whether the clock is kept is asked of PID 1.
pub(crate) fn with_interface(call: &Call, then: impl FnOnce(Interface) -> Step + 'static) -> Step {
    let zone = zone(&call.world.root);
    let names = vec![NTP_UNIT.to_owned(), SYNCED.to_owned()];
    Step::ask(Request::ListUnitsByNames { names }, move |reply| {
        let Reply::Units(units) = reply else {
            return Step::mismatch();
        };
        let is = |index: usize, test: fn(&UnitListEntry) -> bool| {
            Value::Bool(units.get(index).is_some_and(test))
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let properties = vec![
            ("Timezone", Value::str(zone)),
            ("LocalRTC", Value::Bool(false)),
            ("CanNTP", is(0, |unit| unit.load == LoadState::Loaded)),
            ("NTP", is(0, |unit| unit.active == ActiveState::Active)),
            (
                "NTPSynchronized",
                is(1, |unit| unit.active == ActiveState::Active),
            ),
            ("TimeUSec", Value::U64(now)),
            ("RTCTimeUSec", Value::U64(rtc())),
        ];
        then(Interface {
            name: NAME.to_owned(),
            properties,
        })
    })
}

/// The hardware clock, in microseconds; 0 where there is none.
fn rtc() -> u64 {
    let text = fs::read_to_string("/sys/class/rtc/rtc0/since_epoch").unwrap_or_default();
    text.trim()
        .parse::<u64>()
        .map_or(0, |seconds| seconds.saturating_mul(1_000_000))
}

fn zone(root: &Path) -> String {
    let target = fs::read_link(root.join("etc/localtime")).unwrap_or_default();
    let target = target.to_string_lossy();
    target
        .split_once("zoneinfo/")
        .map_or("UTC", |(_, zone)| zone)
        .to_owned()
}

/// A relative name without tricks.
fn is_zone_name(name: &str) -> bool {
    !name.is_empty()
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

fn set_zone(call: &Call) -> Step {
    let name = call.text(0);
    let root = &call.world.root;
    if !is_zone_name(&name) || !root.join(ZONES).join(&name).is_file() {
        return Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Invalid or not installed time zone '{name}'"),
        );
    }
    match link_zone(root, &name) {
        Ok(()) => Step::done(),
        Err(error) => Step::refuse(
            ErrorKind::Failed,
            format!("Failed to set time zone: {error}"),
        ),
    }
}

fn link_zone(root: &Path, name: &str) -> io::Result<()> {
    let temporary = root.join("etc/.localtime.unit-busd");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(format!("../{ZONES}/{name}"), &temporary)?;
    fs::rename(&temporary, root.join("etc/localtime"))?;
    fs::File::open(root.join("etc"))?.sync_all()
}

/// Names of all zones, from tzdata's list, else by walking the directory.
fn zones(directory: &Path) -> Vec<String> {
    if let Ok(table) = fs::read_to_string(directory.join("tzdata.zi")) {
        let mut names: Vec<String> = table
            .lines()
            .filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                ["Z", name, ..] | ["L", _, name] => Some(name.to_owned()),
                _ => None,
            })
            .collect();
        names.sort();
        return names;
    }
    let mut names = Vec::new();
    walk(directory, "", &mut names);
    names.sort();
    names
}

fn walk(directory: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_zone = name.starts_with(|c: char| c.is_ascii_uppercase());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && is_zone => {
                walk(&entry.path(), &format!("{prefix}{name}/"), names);
            }
            Ok(kind) if !kind.is_dir() && is_zone => names.push(format!("{prefix}{name}")),
            _ => {}
        }
    }
}

/// Enable and start, or stop and disable.
fn set_ntp(call: &Call) -> Step {
    let on = call.flag(0);
    let files = vec![NTP_UNIT.to_owned()];
    let flags = EnableFlags::default();
    let request = if on {
        UnitFileRequest::Enable { files, flags }
    } else {
        UnitFileRequest::Disable { files, flags }
    };
    let verb = if on { Verb::Start } else { Verb::Stop };
    Step::ask(Request::UnitFiles(request), move |_| {
        Step::ask(Request::Reload, move |_| {
            Step::ask_done(Request::StartUnit {
                name: NTP_UNIT.to_owned(),
                verb,
                mode: JobMode::Replace,
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_a_link() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join(ZONES).join("Europe")).unwrap();
        fs::write(root.path().join(ZONES).join("Europe/Vienna"), "TZif").unwrap();
        assert_eq!(zone(root.path()), "UTC");
        link_zone(root.path(), "Europe/Vienna").unwrap();
        link_zone(root.path(), "Europe/Vienna").unwrap();
        assert_eq!(zone(root.path()), "Europe/Vienna");
        assert_eq!(zones(&root.path().join(ZONES)), ["Europe/Vienna"]);
        for name in ["", "../../etc/passwd", "/etc/passwd", "Europe/../x"] {
            assert!(!is_zone_name(name), "{name}");
        }
    }
}
