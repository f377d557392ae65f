//! A container's environment as a value, and the OCI runtime configuration it becomes. No I/O.

use crate::caps::{self, UnknownCapability};
use crate::devices::Device;
use crate::seccomp;
use crate::users::Identity;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `PATH` of a container whose image names none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a plan makes no container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// `--cap-add`, `--cap-drop`.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    /// No command.
    #[error("No command specified")]
    NoCommand,
    /// A path that must be absolute.
    #[error("the {what} {path:?} is invalid, it needs to be an absolute path")]
    Relative {
        /// Which.
        what: &'static str,
        /// The path.
        path: String,
    },
    /// `--ulimit`.
    #[error("invalid ulimit type: {0}")]
    Ulimit(String),
    /// `--sysctl` that would change the host.
    #[error("sysctl {0:?} is not in a separate kernel namespace")]
    Sysctl(String),
}

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// A new one.
    Private,
    /// The host's.
    Host,
    /// That of an open namespace file or of another container's process.
    Path(PathBuf),
}

/// Which filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// [`seccomp::profile`].
    Default,
    /// None.
    Unconfined,
    /// The user's own `linux.seccomp`.
    Custom(Value),
}

/// A mount besides the standard ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Host path, or none for tmpfs.
    pub source: Option<PathBuf>,
    /// Where.
    pub target: String,
    /// Further options, such as `ro` or `size=1m`.
    pub options: Vec<String>,
}

/// `--ulimit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Limits of the control group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<i64>,
    /// Memory and swap together; −1 = no limit.
    pub memory_swap: Option<i64>,
    /// Relative weight, 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// Microseconds in 100 ms.
    pub cpu_quota: Option<i64>,
    /// `0-2,4`.
    pub cpuset: Option<String>,
    /// Number of processes.
    pub pids: Option<i64>,
}

/// Everything that decides what a container's processes see and may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Where the program starts; empty = `/`.
    pub cwd: String,
    /// `user[:group]`, resolved in the container's root.
    pub user: String,
    /// `--group-add`.
    pub groups: Vec<String>,
    /// Gets a terminal.
    pub terminal: bool,
    /// Host name.
    pub hostname: String,
    /// Root file system is read-only.
    pub read_only: bool,
    /// Nearly the host.
    pub privileged: bool,
    /// `--cap-add`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`.
    pub cap_drop: Vec<String>,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub filter: Filter,
    /// Device files.
    pub devices: Vec<Device>,
    /// Bind mounts and tmpfs, in the order of their depth.
    pub mounts: Vec<Mount>,
    /// Network namespace.
    pub network: Space,
    /// Processes.
    pub pid: Space,
    /// Shared memory and queues.
    pub ipc: Space,
    /// Host name.
    pub uts: Space,
    /// Absolute path of the control group.
    pub cgroup: String,
    /// Its limits.
    pub resources: Resources,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Kernel settings of the namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Size of `/dev/shm`.
    pub shm_size: u64,
    /// Likeliness to be killed when memory is short.
    pub oom_score_adj: Option<i32>,
}

impl Plan {
    /// A plan for `args` with everything else as a container without options has it.
    pub fn new(args: Vec<String>, cgroup: impl Into<String>) -> Self {
        Plan {
            args,
            env: vec![DEFAULT_PATH.to_owned()],
            cwd: String::new(),
            user: String::new(),
            groups: Vec::new(),
            terminal: false,
            hostname: String::new(),
            read_only: false,
            privileged: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            no_new_privileges: false,
            filter: Filter::Default,
            devices: Vec::new(),
            mounts: Vec::new(),
            network: Space::Private,
            pid: Space::Private,
            ipc: Space::Private,
            uts: Space::Private,
            cgroup: cgroup.into(),
            resources: Resources::default(),
            ulimits: Vec::new(),
            sysctls: BTreeMap::new(),
            shm_size: 64 << 20,
            oom_score_adj: None,
        }
    }

    /// Whether the kernel must confirm a filter before the process may run.
    pub fn wants_filter(&self) -> bool {
        !self.privileged && self.filter != Filter::Unconfined
    }

    /// The process of the runtime configuration.
    pub fn process(&self, who: &Identity) -> Result<Value, PlanError> {
        if self.args.first().is_none_or(String::is_empty) {
            return Err(PlanError::NoCommand);
        }
        let cwd = if self.cwd.is_empty() { "/" } else { &self.cwd };
        absolute("working directory", cwd)?;
        let capabilities = caps::effective(self.privileged, &self.cap_add, &self.cap_drop)?;
        // The kernel drops root's privileges at setuid; giving them to another user would keep them.
        let running: &[&str] = if who.uid == 0 { &capabilities } else { &[] };
        let mut env = self.env.clone();
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.push(DEFAULT_PATH.to_owned());
        }
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", who.home));
        }
        if self.terminal && !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        let mut limits = Vec::new();
        for limit in &self.ulimits {
            limits.push(
                json!({"type": rlimit(&limit.name)?, "soft": limit.soft, "hard": limit.hard}),
            );
        }
        let mut process = json!({
            "terminal": self.terminal,
            "user": {"uid": who.uid, "gid": who.gid, "additionalGids": who.groups},
            "args": self.args,
            "env": env,
            "cwd": cwd,
            "capabilities": {"bounding": capabilities, "effective": running, "permitted": running, "inheritable": [], "ambient": []},
            "rlimits": limits,
        });
        if self.no_new_privileges {
            process["noNewPrivileges"] = json!(true);
        }
        if let Some(adjust) = self.oom_score_adj {
            process["oomScoreAdj"] = json!(adjust);
        }
        Ok(process)
    }

    /// The whole runtime configuration for a root file system at `root`.
    pub fn spec(&self, root: &Path, who: &Identity) -> Result<Value, PlanError> {
        if !self.cgroup.starts_with('/') {
            return Err(PlanError::Relative {
                what: "control group",
                path: self.cgroup.clone(),
            });
        }
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
        for (kind, space) in [
            ("network", &self.network),
            ("pid", &self.pid),
            ("ipc", &self.ipc),
            ("uts", &self.uts),
        ] {
            match space {
                Space::Private => namespaces.push(json!({"type": kind})),
                Space::Path(path) => namespaces.push(json!({"type": kind, "path": path})),
                Space::Host => {}
            }
        }
        let mut linux = json!({
            "namespaces": namespaces,
            "cgroupsPath": self.cgroup,
            "resources": self.resources(),
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
            "sysctl": self.sysctls()?,
        });
        if !self.privileged {
            linux["maskedPaths"] = json!(MASKED);
            linux["readonlyPaths"] = json!(READ_ONLY);
            match &self.filter {
                Filter::Default => {
                    let capabilities = caps::effective(false, &self.cap_add, &self.cap_drop)?;
                    linux["seccomp"] = seccomp::profile(&capabilities);
                }
                Filter::Custom(profile) => linux["seccomp"] = profile.clone(),
                Filter::Unconfined => {}
            }
        }
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": self.process(who)?,
            "root": {"path": root, "readonly": self.read_only},
            "mounts": self.mounts()?,
            "linux": linux,
        });
        if self.uts == Space::Private && !self.hostname.is_empty() {
            spec["hostname"] = json!(self.hostname);
        }
        Ok(spec)
    }

    fn sysctls(&self) -> Result<BTreeMap<&str, &str>, PlanError> {
        let mut found = BTreeMap::new();
        for (key, value) in &self.sysctls {
            let network = key.starts_with("net.") && self.network != Space::Host;
            let ipc = (key.starts_with("kernel.shm")
                || key.starts_with("kernel.msg")
                || key == "kernel.sem"
                || key.starts_with("fs.mqueue."))
                && self.ipc == Space::Private;
            if !(network || ipc) || key.contains("..") || key.contains('/') {
                return Err(PlanError::Sysctl(key.clone()));
            }
            found.insert(key.as_str(), value.as_str());
        }
        Ok(found)
    }

    fn resources(&self) -> Value {
        let wanted = &self.resources;
        let mut resources = json!({});
        if wanted.memory.is_some() || wanted.memory_swap.is_some() {
            // Twice the memory with swap is docker's rule when only the memory is named.
            let swap = wanted
                .memory_swap
                .or(wanted.memory.map(|bytes| bytes.saturating_mul(2)));
            resources["memory"] = json!({"limit": wanted.memory, "swap": swap});
        }
        let mut cpu = json!({});
        if let Some(shares) = wanted.cpu_shares {
            cpu["shares"] = json!(shares);
        }
        if let Some(quota) = wanted.cpu_quota {
            cpu["quota"] = json!(quota);
            cpu["period"] = json!(100_000);
        }
        if let Some(cpus) = &wanted.cpuset {
            cpu["cpus"] = json!(cpus);
        }
        if cpu.as_object().is_some_and(|fields| !fields.is_empty()) {
            resources["cpu"] = cpu;
        }
        if let Some(limit) = wanted.pids {
            resources["pids"] = json!({"limit": limit});
        }
        resources
    }

    fn mounts(&self) -> Result<Vec<Value>, PlanError> {
        let system = |kind: &str, target: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
        let read = if self.privileged { "rw" } else { "ro" };
        let mut mounts = vec![
            system("proc", "/proc", &["nosuid", "noexec", "nodev"]),
            system(
                "tmpfs",
                "/dev",
                &["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            system(
                "devpts",
                "/dev/pts",
                &[
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
            ),
            system("sysfs", "/sys", &["nosuid", "noexec", "nodev", read]),
            system(
                "cgroup",
                "/sys/fs/cgroup",
                &["nosuid", "noexec", "nodev", "relatime", read],
            ),
            system("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        ];
        if self.network == Space::Host {
            // A sysfs of its own needs its own network namespace.
            mounts[3] = json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", read]});
        }
        let shm = format!("size={}", self.shm_size);
        match &self.ipc {
            Space::Host => mounts.push(json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "rw", "nosuid", "nodev"]})),
            _ => mounts.push(system("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm])),
        }
        for mount in &self.mounts {
            absolute("mount path", &mount.target)?;
            mounts.retain(|standard| standard["destination"] != mount.target.as_str());
            let entry = match &mount.source {
                Some(source) => {
                    let mut options = vec!["rbind".to_owned()];
                    if !mount
                        .options
                        .iter()
                        .any(|option| PROPAGATION.contains(&option.as_str()))
                    {
                        options.push("rprivate".to_owned());
                    }
                    options.extend(mount.options.iter().cloned());
                    json!({"destination": mount.target, "type": "bind", "source": source, "options": options})
                }
                None => {
                    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
                    if !mount.options.iter().any(|option| option == "exec") {
                        options.push("noexec".to_owned());
                    }
                    options.extend(
                        mount
                            .options
                            .iter()
                            .filter(|option| *option != "exec")
                            .cloned(),
                    );
                    json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options})
                }
            };
            mounts.push(entry);
        }
        Ok(mounts)
    }
}

const PROPAGATION: [&str; 6] = [
    "private", "rprivate", "slave", "rslave", "shared", "rshared",
];

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn absolute(what: &'static str, path: &str) -> Result<(), PlanError> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(PlanError::Relative {
        what,
        path: path.to_owned(),
    })
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    })
}

fn rlimit(name: &str) -> Result<String, PlanError> {
    const KNOWN: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_prefix("rlimit_").unwrap_or(&lower);
    if KNOWN.contains(&bare) {
        return Ok(format!("RLIMIT_{}", bare.to_ascii_uppercase()));
    }
    Err(PlanError::Ulimit(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn root() -> Identity {
        Identity {
            uid: 0,
            gid: 0,
            groups: vec![],
            home: "/root".into(),
        }
    }

    fn plan() -> Plan {
        Plan::new(vec!["true".into()], "/docker/abc/payload-abc")
    }

    #[test]
    fn the_default_plan_is_a_valid_confined_configuration() {
        let value = plan().spec(Path::new("/r"), &root()).unwrap();
        let spec: Spec = serde_json::from_value(value.clone()).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_some() && linux.masked_paths().is_some());
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 6);
        assert_eq!(
            value["process"]["capabilities"]["bounding"]
                .as_array()
                .unwrap()
                .len(),
            14
        );
        assert!(plan().wants_filter());
    }

    #[test]
    fn privileged_has_no_filter_and_other_users_have_no_running_capabilities() {
        let wide = Plan {
            privileged: true,
            ..plan()
        }
        .spec(Path::new("/r"), &root())
        .unwrap();
        assert!(
            wide["linux"].get("seccomp").is_none() && wide["linux"].get("maskedPaths").is_none()
        );
        let who = Identity {
            uid: 1000,
            ..root()
        };
        let process = plan().process(&who).unwrap();
        assert_eq!(process["capabilities"]["effective"], json!([]));
        assert_eq!(
            process["capabilities"]["bounding"]
                .as_array()
                .unwrap()
                .len(),
            14
        );
    }

    #[test]
    fn what_would_reach_the_host_is_refused() {
        let with = |key: &str, network| {
            Plan {
                sysctls: [(key.to_owned(), "1".to_owned())].into(),
                network,
                ..plan()
            }
            .spec(Path::new("/r"), &root())
        };
        assert!(with("net.ipv4.ip_forward", Space::Private).is_ok());
        assert!(with("net.ipv4.ip_forward", Space::Host).is_err());
        assert!(with("kernel.core_pattern", Space::Private).is_err());
        assert!(with("net./../kernel", Space::Private).is_err());
        assert_eq!(
            Plan {
                cgroup: "x".into(),
                ..plan()
            }
            .spec(Path::new("/r"), &root())
            .unwrap_err(),
            PlanError::Relative {
                what: "control group",
                path: "x".into()
            }
        );
        assert_eq!(
            Plan {
                args: vec![],
                ..plan()
            }
            .process(&root()),
            Err(PlanError::NoCommand)
        );
    }

    #[test]
    fn mounts_of_the_user_replace_standard_ones() {
        let mount = Mount {
            source: None,
            target: "/dev/shm".into(),
            options: vec!["size=1m".into()],
        };
        let spec = Plan {
            mounts: vec![mount],
            ..plan()
        }
        .spec(Path::new("/r"), &root())
        .unwrap();
        let shm: Vec<_> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|mount| mount["destination"] == "/dev/shm")
            .collect();
        assert_eq!(shm.len(), 1);
        assert!(
            shm[0]["options"]
                .as_array()
                .unwrap()
                .contains(&json!("size=1m"))
        );
    }
}
