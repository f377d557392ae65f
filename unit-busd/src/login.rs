//! `org.freedesktop.login1`: ending the machine, inhibitors, who is logged in. No seats.
//!
//! What must outlive a call (inhibitors, the scheduled shutdown) is in [`Logins`]; the schedule is also a file, so
//! that it survives a restart of this program. Sessions are read from the kernel each time.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dbus_api::names;
use dbus_api::snapshot::Interface;
use dbus_api::wire::Value;
use init_control::{ErrorKind, PowerAction};
use syscalls::socket::Credentials;

use crate::access;
use crate::dispatch::{Access, Call, Method};
use crate::hostname::{replace_file, shell_file};
use crate::step::{Act, Step};

pub(crate) const PATH: &str = "/org/freedesktop/login1";
pub(crate) const MANAGER: &str = "org.freedesktop.login1.Manager";
const SESSION: &str = "org.freedesktop.login1.Session";
pub(crate) const SESSION_PREFIX: &str = "/org/freedesktop/login1/session/";
/// How long delay locks may hold up the end.
pub(crate) const DELAY_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Inhibitors at most.
const MAX_INHIBITORS: usize = 256;

macro_rules! row {
    ($member:literal, $input:literal => $output:literal, $access:ident, $run:expr) => {
        Method {
            interface: MANAGER,
            member: $member,
            input: $input,
            output: $output,
            access: Access::$access,
            run: $run,
        }
    };
}

pub(crate) const METHODS: &[Method] = &[
    row!("Reboot", "b" => "", Wheel, |_| power(PowerAction::Reboot, 0)),
    row!("PowerOff", "b" => "", Wheel, |_| power(PowerAction::PowerOff, 0)),
    row!("Halt", "b" => "", Wheel, |_| power(PowerAction::Halt, 0)),
    row!("RebootWithFlags", "t" => "", Wheel, |call| power(PowerAction::Reboot, call.number(0))),
    row!("PowerOffWithFlags", "t" => "", Wheel, |call| power(PowerAction::PowerOff, call.number(0))),
    row!("HaltWithFlags", "t" => "", Wheel, |call| power(PowerAction::Halt, call.number(0))),
    row!("CanReboot", "" => "s", All, can),
    row!("CanPowerOff", "" => "s", All, can),
    row!("CanHalt", "" => "s", All, can),
    row!("CanSuspend", "" => "s", All, |_| Step::Reply(vec![Value::str("na")])),
    row!("CanHibernate", "" => "s", All, |_| Step::Reply(vec![Value::str("na")])),
    row!("CanHybridSleep", "" => "s", All, |_| Step::Reply(vec![Value::str("na")])),
    row!("ScheduleShutdown", "st" => "", Wheel, |call| {
        Step::Act(Act::Schedule(Some((call.text(0), call.number(1)))))
    }),
    row!("CancelScheduledShutdown", "" => "b", Wheel, |_| Step::Act(Act::Schedule(None))),
    row!("SetWallMessage", "sb" => "", Wheel, |_| Step::done()),
    row!("Inhibit", "ssss" => "h", All, |call| {
        Step::Act(Act::Inhibit {
            what: call.text(0),
            who: call.text(1),
            why: call.text(2),
            mode: call.text(3),
            peer: call.peer,
        })
    }),
    row!("ListInhibitors", "" => "a(ssssuu)", All, |_| Step::Act(Act::ListInhibitors)),
    row!("ListSessions", "" => "a(susso)", All, list_sessions),
    row!("ListUsers", "" => "a(uso)", All, list_users),
    row!("ListSeats", "" => "a(so)", All, |_| Step::Reply(vec![Value::array("(so)", Vec::new())])),
    row!("GetSession", "s" => "o", All, |call| {
        let id = call.text(0);
        match sessions(&call.world.cgroups).into_iter().find(|session| session.id == id) {
            Some(session) => Step::Reply(vec![Value::path(session.path())]),
            None => Step::Refuse("org.freedesktop.login1.NoSuchSession".to_owned(), format!("No session '{id}' known")),
        }
    }),
];

pub(crate) const SESSION_METHODS: &[Method] = &[];

/// Bit 0 of the flags: root asks to look at inhibitors, too.
fn power(action: PowerAction, _flags: u64) -> Step {
    Step::Act(Act::Power {
        action,
        check_inhibitors: true,
    })
}

fn can(call: &Call) -> Step {
    let may = access::allowed(Access::Wheel, call.peer, &call.world.root);
    Step::Reply(vec![Value::str(if may { "yes" } else { "no" })])
}

/// One inhibitor; the lock is the other end of the pipe.
#[derive(Debug)]
struct Inhibitor {
    what: String,
    who: String,
    why: String,
    delays: bool,
    peer: Credentials,
    pipe: OwnedFd,
}

/// What login1 keeps.
#[derive(Debug)]
pub(crate) struct Logins {
    inhibitors: BTreeMap<u64, Inhibitor>,
    next: u64,
    /// `reboot`, `poweroff`, `halt` and when (µs since 1970).
    scheduled: Option<(PowerAction, u64)>,
    file: PathBuf,
    /// An end that waits for delay locks.
    pub(crate) preparing: bool,
}

impl Logins {
    /// With the schedule that an earlier run of this program left.
    pub(crate) fn load(root: &Path) -> Self {
        let file = root.join("run/systemd/shutdown/scheduled");
        let fields = shell_file(&file);
        let at = fields.get("USEC").and_then(|text| text.parse().ok());
        let action = fields
            .get("MODE")
            .and_then(|word| PowerAction::from_word(word));
        Self {
            inhibitors: BTreeMap::new(),
            next: 0,
            scheduled: action.zip(at),
            file,
            preparing: false,
        }
    }

    pub(crate) fn scheduled(&self) -> Option<(PowerAction, u64)> {
        self.scheduled
    }

    /// Set or cancel; says whether one was there.
    pub(crate) fn schedule(&mut self, wanted: Option<(PowerAction, u64)>) -> std::io::Result<bool> {
        let had = self.scheduled.take().is_some();
        match wanted {
            Some((action, at)) => {
                if let Some(directory) = self.file.parent() {
                    fs::create_dir_all(directory)?;
                }
                replace_file(
                    &self.file,
                    &format!("USEC={at}\nWARN_WALL=0\nMODE={action}\n"),
                )?;
                self.scheduled = wanted;
            }
            None if had => fs::remove_file(&self.file)?,
            None => {}
        }
        Ok(had)
    }

    /// Add an inhibitor; gives its key and the lock for the caller.
    pub(crate) fn inhibit(
        &mut self,
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
        peer: Credentials,
    ) -> Result<(u64, OwnedFd), (ErrorKind, String)> {
        const KNOWN: [&str; 8] = [
            "shutdown",
            "sleep",
            "idle",
            "handle-power-key",
            "handle-suspend-key",
            "handle-hibernate-key",
            "handle-lid-switch",
            "handle-reboot-key",
        ];
        let invalid = |text: String| (ErrorKind::InvalidArgs, text);
        if what.is_empty() || !what.split(':').all(|word| KNOWN.contains(&word)) {
            return Err(invalid(format!("Invalid what specification {what}")));
        }
        if !matches!(mode, "block" | "delay") {
            return Err(invalid(format!("Invalid mode specification {mode}")));
        }
        if mode == "block" && peer.uid != 0 {
            return Err((ErrorKind::AccessDenied, "Only root may block".to_owned()));
        }
        if self.inhibitors.len() >= MAX_INHIBITORS {
            return Err((
                ErrorKind::LimitsExceeded,
                "Maximum number of inhibitors reached".to_owned(),
            ));
        }
        let failed = |error: rustix::io::Errno| {
            (ErrorKind::Failed, format!("failed to make a pipe: {error}"))
        };
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (pipe, lock) = rustix::pipe::pipe_with(flags).map_err(failed)?;
        self.next += 1;
        let inhibitor = Inhibitor {
            what: what.to_owned(),
            who: who.to_owned(),
            why: why.to_owned(),
            delays: mode == "delay",
            peer,
            pipe,
        };
        self.inhibitors.insert(self.next, inhibitor);
        Ok((self.next, lock))
    }

    pub(crate) fn pipe(&self, key: u64) -> Option<&OwnedFd> {
        self.inhibitors.get(&key).map(|inhibitor| &inhibitor.pipe)
    }

    /// The lock was given back.
    pub(crate) fn release(&mut self, key: u64) {
        self.inhibitors.remove(&key);
    }

    fn holds_shutdown(&self, delays: bool) -> Option<&Inhibitor> {
        self.inhibitors
            .values()
            .find(|i| i.delays == delays && i.what.split(':').any(|word| word == "shutdown"))
    }

    /// Who forbids the end, if anybody.
    pub(crate) fn blocker(&self) -> Option<String> {
        self.holds_shutdown(false)
            .map(|i| format!("{} (pid {}): {}", i.who, i.peer.pid, i.why))
    }

    /// Does anybody want a moment first?
    pub(crate) fn is_delayed(&self) -> bool {
        self.holds_shutdown(true).is_some()
    }

    pub(crate) fn list(&self) -> Value {
        let items = self
            .inhibitors
            .values()
            .map(|i| {
                Value::Struct(vec![
                    Value::str(&*i.what),
                    Value::str(&*i.who),
                    Value::str(&*i.why),
                    Value::str(if i.delays { "delay" } else { "block" }),
                    Value::U32(i.peer.uid),
                    Value::U32(u32::try_from(i.peer.pid).unwrap_or_default()),
                ])
            })
            .collect();
        Value::array("(ssssuu)", items)
    }

    fn inhibited(&self, delays: bool) -> String {
        let mut words: Vec<&str> = self
            .inhibitors
            .values()
            .filter(|i| i.delays == delays)
            .flat_map(|i| i.what.split(':'))
            .collect();
        words.sort_unstable();
        words.dedup();
        words.join(":")
    }

    /// One property, or all with an empty name.
    pub(crate) fn property(&self, name: &str) -> Step {
        let (kind, at) = self
            .scheduled
            .map_or(("", 0), |(action, at)| (action.as_str(), at));
        let all = vec![
            ("EnableWallMessages", Value::Bool(false)),
            ("WallMessage", Value::str("")),
            ("KillUserProcesses", Value::Bool(false)),
            ("IdleHint", Value::Bool(false)),
            ("BlockInhibited", Value::str(self.inhibited(false))),
            ("DelayInhibited", Value::str(self.inhibited(true))),
            (
                "InhibitDelayMaxUSec",
                Value::U64(u64::try_from(DELAY_MAX.as_micros()).unwrap_or(u64::MAX)),
            ),
            ("PreparingForShutdown", Value::Bool(self.preparing)),
            ("PreparingForSleep", Value::Bool(false)),
            (
                "ScheduledShutdown",
                Value::Struct(vec![Value::str(kind), Value::U64(at)]),
            ),
            (
                "NCurrentInhibitors",
                Value::U64(self.inhibitors.len() as u64),
            ),
        ];
        if name.is_empty() {
            return Step::Reply(vec![Value::dict(all)]);
        }
        match all.into_iter().find(|(key, _)| *key == name) {
            Some((_, value)) => Step::Reply(vec![Value::variant(value)]),
            None => Step::bus_error("UnknownProperty", format!("Unknown property '{name}'.")),
        }
    }
}

/// A login: the oldest process with a controlling terminal in the control group of an ssh or getty instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    id: String,
    uid: u32,
    leader: u32,
    tty: String,
    unit: String,
}

impl Session {
    fn path(&self) -> String {
        format!("{SESSION_PREFIX}{}", names::escape(&self.id))
    }
}

/// All logins, by walking the control groups of the units that people log in through.
pub(crate) fn sessions(cgroups: &Path) -> Vec<Session> {
    let mut units = Vec::new();
    find_login_units(cgroups, 0, &mut units);
    let mut out: Vec<Session> = units
        .into_iter()
        .filter_map(|(path, unit)| session_of(&path, &unit))
        .collect();
    out.sort_by_key(|session| session.leader);
    out
}

fn find_login_units(directory: &Path, depth: u32, out: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_login = ["sshd@", "getty@", "serial-getty@"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            && name.ends_with(".service");
        if is_login {
            out.push((entry.path(), name));
        } else if name.ends_with(".slice") && depth < 4 {
            find_login_units(&entry.path(), depth + 1, out);
        }
    }
}

fn session_of(group: &Path, unit: &str) -> Option<Session> {
    let pids = fs::read_to_string(group.join("cgroup.procs")).ok()?;
    pids.lines()
        .filter_map(|line| line.parse::<u32>().ok())
        .find_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let tty = terminal(&stat)?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let uid = status.lines().find_map(|line| {
                line.strip_prefix("Uid:")?
                    .split_whitespace()
                    .nth(1)?
                    .parse()
                    .ok()
            })?;
            // A login prompt has the terminal too, but nobody is logged in: it runs as root with the name of the program.
            let name = stat.split_once('(')?.1.rsplit_once(')')?.0;
            if matches!(name, "agetty" | "getty" | "login" | "sshd" | "sshd-session") {
                return None;
            }
            Some(Session {
                id: pid.to_string(),
                uid,
                leader: pid,
                tty,
                unit: unit.to_owned(),
            })
        })
}

/// Name of the controlling terminal by its number in `/proc/PID/stat`.
fn terminal(stat: &str) -> Option<String> {
    let number: u32 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(4)?
        .parse::<i64>()
        .ok()?
        .try_into()
        .ok()?;
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    );
    match (major, minor) {
        (0, _) => None,
        (4, minor) if minor < 64 => Some(format!("tty{minor}")),
        (4, minor) => Some(format!("ttyS{}", minor - 64)),
        (136..=143, minor) => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        (229, minor) => Some(format!("hvc{minor}")),
        (204, minor) if minor >= 64 => Some(format!("ttyAMA{}", minor - 64)),
        _ => Some(format!("{major}:{minor}")),
    }
}

fn list_sessions(call: &Call) -> Step {
    let passwd = fs::read_to_string(call.world.root.join("etc/passwd")).unwrap_or_default();
    let items = sessions(&call.world.cgroups)
        .into_iter()
        .map(|session| {
            let user = access::user_name(session.uid, &passwd)
                .unwrap_or_default()
                .to_owned();
            Value::Struct(vec![
                Value::str(&*session.id),
                Value::U32(session.uid),
                Value::Str(user),
                Value::str(""),
                Value::path(session.path()),
            ])
        })
        .collect();
    Step::Reply(vec![Value::array("(susso)", items)])
}

fn list_users(call: &Call) -> Step {
    let passwd = fs::read_to_string(call.world.root.join("etc/passwd")).unwrap_or_default();
    let mut uids: Vec<u32> = sessions(&call.world.cgroups)
        .into_iter()
        .map(|session| session.uid)
        .collect();
    uids.sort_unstable();
    uids.dedup();
    let items = uids
        .into_iter()
        .map(|uid| {
            let user = access::user_name(uid, &passwd)
                .unwrap_or_default()
                .to_owned();
            let path = format!("/org/freedesktop/login1/user/_{uid}");
            Value::Struct(vec![Value::U32(uid), Value::Str(user), Value::Path(path)])
        })
        .collect();
    Step::Reply(vec![Value::array("(uso)", items)])
}

pub(crate) fn session_properties(call: &Call, id: &str) -> Option<Interface> {
    let session = sessions(&call.world.cgroups)
        .into_iter()
        .find(|session| session.id == id)?;
    let passwd = fs::read_to_string(call.world.root.join("etc/passwd")).unwrap_or_default();
    let user = access::user_name(session.uid, &passwd)
        .unwrap_or_default()
        .to_owned();
    let remote = session.unit.starts_with("sshd@");
    let properties = vec![
        ("Id", Value::str(&*session.id)),
        (
            "User",
            Value::Struct(vec![
                Value::U32(session.uid),
                Value::path(format!("/org/freedesktop/login1/user/_{}", session.uid)),
            ]),
        ),
        ("Name", Value::Str(user)),
        ("TTY", Value::Str(session.tty)),
        ("Remote", Value::Bool(remote)),
        ("Service", Value::str(if remote { "sshd" } else { "login" })),
        ("Scope", Value::Str(session.unit)),
        ("Leader", Value::U32(session.leader)),
        ("Type", Value::str("tty")),
        ("Class", Value::str("user")),
        ("Active", Value::Bool(true)),
        ("State", Value::str("active")),
    ];
    Some(Interface {
        name: SESSION.to_owned(),
        properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Credentials = Credentials {
        pid: 1,
        uid: 0,
        gid: 0,
    };

    #[test]
    fn inhibitors() {
        let root = tempfile::tempdir().unwrap();
        let mut logins = Logins::load(root.path());
        assert!(
            logins
                .inhibit("dancing", "me", "why", "block", ROOT)
                .is_err()
        );
        assert!(
            logins
                .inhibit("shutdown", "me", "why", "perhaps", ROOT)
                .is_err()
        );
        let other = Credentials { uid: 500, ..ROOT };
        assert_eq!(
            logins
                .inhibit("shutdown", "me", "y", "block", other)
                .unwrap_err()
                .0,
            ErrorKind::AccessDenied
        );
        let (key, _lock) = logins
            .inhibit("shutdown:sleep", "me", "work", "block", ROOT)
            .unwrap();
        assert_eq!(logins.blocker().as_deref(), Some("me (pid 1): work"));
        assert_eq!(logins.inhibited(false), "shutdown:sleep");
        logins.release(key);
        assert_eq!(logins.blocker(), None);
        let _delay = logins
            .inhibit("shutdown", "me", "work", "delay", other)
            .unwrap();
        assert!(logins.is_delayed());
    }

    #[test]
    fn schedule_survives() {
        let root = tempfile::tempdir().unwrap();
        let mut logins = Logins::load(root.path());
        assert!(!logins.schedule(Some((PowerAction::Reboot, 77))).unwrap());
        assert_eq!(
            Logins::load(root.path()).scheduled(),
            Some((PowerAction::Reboot, 77))
        );
        assert!(logins.schedule(None).unwrap());
        assert_eq!(Logins::load(root.path()).scheduled(), None);
    }

    #[test]
    fn terminals() {
        for (number, expect) in [
            (0, None),
            (1025, Some("tty1")),
            (1088, Some("ttyS0")),
            (34816, Some("pts/0")),
        ] {
            let stat = format!("7 (a) b) S 1 7 7 {number} 7");
            assert_eq!(terminal(&stat).as_deref(), expect, "{number}");
        }
        assert_eq!(terminal("garbage"), None);
    }
}
