//! Is this boot healthy? The decision is a value; the shell that asks the machine is [`observe`], and what it knows of
//! units comes from [`Units`](crate::units::Units).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Units that every machine needs, and those it needs only where they are enabled or were started.
pub(crate) const ALWAYS: &[&str] = &[
    "unit-busd.service",
    "systemd-journald.service",
    "systemd-networkd.service",
];
pub(crate) const IF_WANTED: &[&str] = &["sshd.socket", "fleet.service", "etcd.service"];
/// etcd may wait for its quorum: no fault of the image.
const MAY_ACTIVATE: &[&str] = &["etcd.service"];
/// Written by mark-good: the last good boot had a default route.
pub const HAD_ROUTE: &str = "/var/lib/flotilla/update/had-default-route";

/// What was seen of the machine.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// STATE took a write and a sync, or why not.
    pub state_error: Option<String>,
    /// Root hash of the mounted /usr, and the one that the loader asked for.
    pub usrhash: Option<String>,
    /// `flotilla.usrhash=` of the kernel command line.
    pub wanted_usrhash: Option<String>,
    /// `ActiveState` of each unit looked at; units nobody wants are left out.
    pub units: BTreeMap<String, String>,
    /// A default route exists now.
    pub route: bool,
    /// One existed at the last good boot.
    pub route_before: bool,
    /// The operator's own checks that failed, with what they said.
    pub checks_failed: Vec<(PathBuf, String)>,
}

/// One thing that is wrong, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// STATE does not take a write.
    State(String),
    /// Another /usr than the loader asked for.
    Usr,
    /// A unit is not as it should be.
    Unit {
        /// Its name.
        unit: String,
        /// Its `ActiveState`.
        state: String,
    },
    /// No default route, where there was one.
    Route,
    /// A check of the operator's.
    Check {
        /// The program.
        path: PathBuf,
        /// What it said.
        said: String,
    },
}

impl Fault {
    /// Whether a signal of the service manager tells its end.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        matches!(self, Fault::Unit { state, .. } if state != UNKNOWN)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::State(error) => write!(f, "STATE is not writable: {error}"),
            Fault::Usr => f.write_str("/usr is not the one that the boot loader asked for"),
            Fault::Unit { unit, state } => write!(f, "{unit} is {state}"),
            Fault::Route => f.write_str("there is no default route; the last good boot had one"),
            Fault::Check { path, said } => write!(f, "check {} failed: {said}", path.display()),
        }
    }
}

/// Said for a state when the service manager does not answer.
pub(crate) const UNKNOWN: &str = "unknown";

/// Is this a state that a unit may have in a healthy boot?
#[must_use]
pub fn is_fine(unit: &str, state: &str) -> bool {
    matches!(state, "active" | "reloading")
        || (state == "activating" && MAY_ACTIVATE.contains(&unit))
}

/// What is wrong; empty = healthy.
#[must_use]
pub fn judge(o: &Observation) -> Vec<Fault> {
    let mut bad = Vec::new();
    bad.extend(o.state_error.clone().map(Fault::State));
    if o.wanted_usrhash.is_some() && o.usrhash != o.wanted_usrhash {
        bad.push(Fault::Usr);
    }
    for (unit, state) in o.units.iter().filter(|(unit, state)| !is_fine(unit, state)) {
        bad.push(Fault::Unit {
            unit: unit.clone(),
            state: state.clone(),
        });
    }
    if o.route_before && !o.route {
        bad.push(Fault::Route);
    }
    for (path, said) in o.checks_failed.iter().cloned() {
        bad.push(Fault::Check { path, said });
    }
    bad
}

/// What nobody tells of is looked at again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// How long to wait for news before the next look; `left` is the time until the verdict, whichever it will be.
#[must_use]
pub fn pause(bad: &[Fault], left: Duration) -> Duration {
    if bad.iter().all(Fault::is_signalled) {
        left
    } else {
        left.min(AGAIN)
    }
}

/// Looks at the machine once. `units`: the state of those that count. `run_checks`: the operator's checks are run too.
#[must_use]
pub fn observe(
    boot: &crate::boot::BootInfo,
    units: BTreeMap<String, String>,
    run_checks: bool,
) -> Observation {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    Observation {
        state_error: write_probe(Path::new("/var/lib/flotilla"))
            .err()
            .map(|e| e.to_string()),
        usrhash: boot.usrhash.clone(),
        wanted_usrhash: cmdline
            .split_whitespace()
            .rev()
            .find_map(|w| w.strip_prefix("flotilla.usrhash="))
            .map(str::to_string),
        units,
        route: default_route(&fs::read_to_string("/proc/net/route").unwrap_or_default()),
        route_before: Path::new(HAD_ROUTE).exists(),
        checks_failed: if run_checks {
            failed_checks(Path::new("/etc/flotilla/health.d"))
        } else {
            Vec::new()
        },
    }
}

fn write_probe(dir: &Path) -> std::io::Result<()> {
    let p = dir.join(".health");
    fs::write(&p, b"ok")?;
    fs::File::open(&p)?.sync_all()?;
    fs::remove_file(&p)
}

/// A route to 0.0.0.0/0 in `/proc/net/route`.
#[must_use]
pub fn default_route(table: &str) -> bool {
    table.lines().skip(1).any(|l| {
        let f: Vec<&str> = l.split_whitespace().collect();
        f.len() > 7 && f[1] == "00000000" && f[7] == "00000000"
    })
}

fn failed_checks(dir: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    let mut failed = Vec::new();
    for f in files {
        if !f
            .metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        {
            continue;
        }
        match Command::new(&f).stdin(Stdio::null()).output() {
            Ok(o) if o.status.success() => {}
            Ok(o) => {
                let said = String::from_utf8_lossy(&o.stderr);
                failed.push((
                    f,
                    format!("{} {}", o.status, said.lines().last().unwrap_or(""))
                        .trim()
                        .to_string(),
                ));
            }
            Err(e) => failed.push((f, e.to_string())),
        }
    }
    failed
}

/// `HEALTH_STABLE=` and `HEALTH_TIMEOUT=` (seconds) of update.conf files, later files win.
#[must_use]
pub fn times(confs: &[String]) -> (Duration, Duration) {
    let mut stable = 60;
    let mut timeout = 300;
    for line in confs.iter().flat_map(|c| c.lines()) {
        match line.split_once('=') {
            Some(("HEALTH_STABLE", v)) => stable = v.trim().parse().unwrap_or(stable),
            Some(("HEALTH_TIMEOUT", v)) => timeout = v.trim().parse().unwrap_or(timeout),
            _ => {}
        }
    }
    (Duration::from_secs(stable), Duration::from_secs(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Observation {
        let mut o = Observation {
            route: true,
            route_before: true,
            ..Observation::default()
        };
        for u in ALWAYS {
            o.units.insert((*u).into(), "active".into());
        }
        o
    }

    #[test]
    fn each_fault_is_named_and_etcd_may_wait() {
        assert!(judge(&healthy()).is_empty());
        let mut o = healthy();
        o.units.insert("etcd.service".into(), "activating".into());
        assert!(judge(&o).is_empty());
        o.units.insert("fleet.service".into(), "activating".into());
        o.route = false;
        o.wanted_usrhash = Some("aa".into());
        o.usrhash = Some("bb".into());
        o.state_error = Some("read-only".into());
        o.checks_failed
            .push(("/etc/flotilla/health.d/x".into(), "exit status: 1".into()));
        let bad: Vec<String> = judge(&o).iter().map(ToString::to_string).collect();
        let bad = bad.join("\n");
        for part in [
            "fleet.service is activating",
            "default route",
            "/usr is not",
            "read-only",
            "health.d/x",
        ] {
            assert!(bad.contains(part), "{part} in {bad}");
        }
        assert!(!bad.contains("etcd"));
    }

    #[test]
    fn only_what_nobody_tells_of_is_looked_at_again_soon() {
        let unit = |state: &str| Fault::Unit {
            unit: "fleet.service".into(),
            state: state.into(),
        };
        let minute = Duration::from_secs(60);
        for (bad, wanted) in [
            (vec![], minute),
            (vec![unit("failed")], minute),
            (vec![unit("failed"), Fault::Route], AGAIN),
            (vec![unit(UNKNOWN)], AGAIN),
        ] {
            assert_eq!(pause(&bad, minute), wanted, "{bad:?}");
        }
        assert_eq!(
            pause(&[Fault::Usr], Duration::from_secs(1)),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn the_kernels_route_table_is_read() {
        let t = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n";
        assert!(!default_route(t));
        assert!(!default_route(&format!(
            "{t}eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        )));
        assert!(default_route(&format!(
            "{t}eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        )));
    }

    #[test]
    fn times_have_defaults_and_bad_values_keep_them() {
        assert_eq!(
            times(&[]),
            (Duration::from_secs(60), Duration::from_secs(300))
        );
        assert_eq!(
            times(&["HEALTH_STABLE=5\nHEALTH_TIMEOUT=x\n".into()]),
            (Duration::from_secs(5), Duration::from_secs(300))
        );
    }

    #[test]
    fn only_executable_checks_run_and_failures_say_why() {
        let d = tempfile::tempdir().expect("temp dir");
        for (name, body, mode) in [
            ("10-ok", "#!/bin/sh\nexit 0\n", 0o755),
            ("20-bad", "#!/bin/sh\necho broken >&2; exit 3\n", 0o755),
            ("30-off", "#!/bin/sh\nexit 1\n", 0o644),
        ] {
            let p = d.path().join(name);
            fs::write(&p, body).expect("write");
            fs::set_permissions(&p, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        let failed = failed_checks(d.path());
        assert_eq!(failed.len(), 1);
        assert!(failed[0].1.contains("broken"), "{failed:?}");
    }
}
