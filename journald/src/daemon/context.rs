//! What is known of a sender beside its credentials: the trusted fields, read from `/proc` and remembered for a second.

use std::collections::HashMap;
use std::fs;

use syscalls::socket::Credentials;

use super::cgroup::{Membership, membership, path_of};

/// Processes remembered, and for how long (microseconds).
const MAX_KEPT: usize = 128;
const FRESH: u64 = 1_000_000;
/// Longer command lines are cut.
const CMDLINE_MAX: usize = 2048;

/// One sender.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// `_PID=…` and so on, ready to be stored.
    pub(crate) fields: Vec<Vec<u8>>,
    /// Its unit, by its control group.
    pub(crate) unit: Option<String>,
    /// Name of the program.
    pub(crate) comm: String,
    /// What its messages are counted under.
    pub(crate) group: String,
    uid: u32,
    read_at: u64,
    /// Whether `/proc` still knew the process.
    alive: bool,
}

/// The senders of late.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    kept: HashMap<i32, Context>,
}

impl Contexts {
    /// The sender with these credentials at `now` (microseconds, steady clock).
    pub(crate) fn get(&mut self, sender: Credentials, now: u64) -> &Context {
        let fresh = self
            .kept
            .get(&sender.pid)
            .is_some_and(|c| c.uid == sender.uid && now.saturating_sub(c.read_at) < FRESH);
        if !fresh {
            let mut new = Context::read(sender, now);
            // A process that has ended meanwhile is still the one that was seen before.
            if !new.alive
                && let Some(mut old) = self
                    .kept
                    .remove(&sender.pid)
                    .filter(|old| old.uid == sender.uid)
            {
                old.read_at = now;
                new = old;
            }
            if self.kept.len() >= MAX_KEPT {
                self.kept
                    .retain(|_, c| now.saturating_sub(c.read_at) < FRESH);
            }
            if self.kept.len() >= MAX_KEPT {
                self.kept.clear();
            }
            self.kept.insert(sender.pid, new);
        }
        self.kept.entry(sender.pid).or_default()
    }
}

impl Context {
    fn read(sender: Credentials, now: u64) -> Self {
        let pid = sender.pid;
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
        let text = |name: &str| read(name).map(|b| String::from_utf8_lossy(&b).into_owned());
        let mut context = Self {
            uid: sender.uid,
            read_at: now,
            ..Self::default()
        };
        for (name, value) in [
            ("_PID", i64::from(pid)),
            ("_UID", sender.uid.into()),
            ("_GID", sender.gid.into()),
        ] {
            context.fields.push(format!("{name}={value}").into_bytes());
        }
        if let Some(comm) = text("comm") {
            context.alive = true;
            context.comm = comm.trim_end().to_owned();
            context.add("_COMM", context.comm.clone().as_bytes());
        }
        if let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) {
            context.add("_EXE", exe.as_os_str().as_encoded_bytes());
        }
        if let Some(cmdline) = read("cmdline").filter(|c| !c.is_empty()) {
            context.add("_CMDLINE", &command_line(&cmdline));
        }
        if let Some(caps) = text("status").as_deref().and_then(effective_capabilities) {
            context.add("_CAP_EFFECTIVE", caps.as_bytes());
        }
        let cgroup = text("cgroup").and_then(|t| path_of(&t).map(membership));
        match cgroup {
            Some(cgroup) => context.add_membership(cgroup),
            None => context.group = format!("uid {}", sender.uid),
        }
        context
    }

    fn add_membership(&mut self, cgroup: Membership) {
        self.add("_SYSTEMD_CGROUP", cgroup.path.as_bytes());
        self.add("_SYSTEMD_SLICE", cgroup.slice.as_bytes());
        if let Some(unit) = &cgroup.unit {
            self.add("_SYSTEMD_UNIT", unit.as_bytes());
            if let Some(id) = invocation(&cgroup.unit_path, unit) {
                self.add("_SYSTEMD_INVOCATION_ID", &id);
            }
        }
        self.group = cgroup.unit.clone().unwrap_or(cgroup.path);
        self.unit = cgroup.unit;
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        self.fields.push([name.as_bytes(), b"=", value].concat());
    }
}

/// Identifier of the unit's present run: PID 1 writes it on the control group, systemd also as the target of a link.
fn invocation(unit_path: &str, unit: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 64];
    let group = format!("/sys/fs/cgroup{unit_path}");
    let found = rustix::fs::getxattr(&group, "trusted.invocation_id", &mut value[..])
        .ok()
        .map(|len| value[..len.min(value.len())].to_vec())
        .or_else(|| {
            let link = fs::read_link(format!("/run/systemd/units/invocation:{unit}")).ok()?;
            Some(link.into_os_string().into_encoded_bytes())
        });
    found.filter(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
}

/// `/proc/PID/cmdline` as one line: arguments apart by blanks.
fn command_line(raw: &[u8]) -> Vec<u8> {
    let raw = &raw[..raw.len().min(CMDLINE_MAX)];
    let end = raw.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    raw[..end]
        .iter()
        .map(|b| if *b < b' ' { b' ' } else { *b })
        .collect()
}

/// `CapEff` without leading zeros.
fn effective_capabilities(status: &str) -> Option<String> {
    let value = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))?
        .trim();
    let short = value.trim_start_matches('0');
    Some(if short.is_empty() { "0" } else { short }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_described() {
        let pid = std::process::id() as i32;
        let mut contexts = Contexts::default();
        let context = contexts.get(
            Credentials {
                pid,
                uid: 0,
                gid: 0,
            },
            5_000_000,
        );
        let has = |prefix: &str| {
            context
                .fields
                .iter()
                .any(|f| f.starts_with(prefix.as_bytes()))
        };
        for field in [
            "_PID=",
            "_UID=0",
            "_COMM=",
            "_EXE=/",
            "_CMDLINE=",
            "_CAP_EFFECTIVE=",
            "_SYSTEMD_CGROUP=/",
        ] {
            assert!(has(field), "{field}");
        }
        assert!(!context.group.is_empty());
    }

    #[test]
    fn an_ended_process_keeps_its_name() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let sender = Credentials {
            pid: child.id() as i32,
            uid: 0,
            gid: 0,
        };
        let mut contexts = Contexts::default();
        // The name is the program's once it runs.
        while contexts.get(sender, 0).comm != "sleep" {
            contexts = Contexts::default();
            std::thread::yield_now();
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(contexts.get(sender, 10_000_000).comm, "sleep");
    }

    #[test]
    fn command_lines_and_capabilities_are_readable() {
        assert_eq!(command_line(b"a\0b c\0\0"), b"a b c");
        assert_eq!(command_line(b"\0"), b"");
        assert_eq!(
            effective_capabilities("X:\t1\nCapEff:\t00000000a80425fb\n").as_deref(),
            Some("a80425fb")
        );
        assert_eq!(
            effective_capabilities("CapEff:\t0000000000000000\n").as_deref(),
            Some("0")
        );
        assert_eq!(effective_capabilities(""), None);
    }
}
