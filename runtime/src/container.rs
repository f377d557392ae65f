//! The record of a container: what was asked for (`config.json`), what happened (`state.json`, `exit.json`), and
//! what is true now.
//!
//! The monitor alone writes the state while it lives (it holds `/run/docker/containers/<id>/lock`); a state of
//! an earlier boot, or of a process that is gone, is read as exited.

use crate::host::{self, Host};
use oci_image::store::{StoreError, write_json};
use oci_runtime::devices::Device;
use oci_runtime::plan::{Resources, Ulimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Errors with the words that scripts look for.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Nothing of this name or id.
    #[error("No such container: {0}")]
    NoSuch(String),
    /// An id prefix that fits several.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// Name taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// By whom.
        id: String,
    },
    /// A name that is none.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    BadName(String),
    /// Files.
    #[error("failed to {what} {path}")]
    Io {
        /// The step.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A damaged record.
    #[error("{path} is damaged")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// After each end.
    Always,
    /// After each end, unless it was stopped before a reboot.
    UnlessStopped,
    /// After a failure, at most so many times (0 = without limit).
    OnFailure(u32),
}

impl Restart {
    /// `no`, `always`, `unless-stopped`, `on-failure[:n]`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "no" | "" => Restart::No,
            "always" => Restart::Always,
            "unless-stopped" => Restart::UnlessStopped,
            "on-failure" => Restart::OnFailure(0),
            other => Restart::OnFailure(other.strip_prefix("on-failure:")?.parse().ok()?),
        })
    }

    /// Docker's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Restart::No => "no",
            Restart::Always => "always",
            Restart::UnlessStopped => "unless-stopped",
            Restart::OnFailure(_) => "on-failure",
        }
    }
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Host address; none = all.
    pub host_ip: Option<std::net::Ipv4Addr>,
    /// Host port; none = a free one.
    pub host_port: Option<u16>,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// One mount of a directory or volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Host path (of a volume: its `_data`).
    pub source: PathBuf,
    /// Where in the container.
    pub target: String,
    /// `ro` and propagation.
    pub options: Vec<String>,
    /// Name, if it is a volume.
    pub volume: Option<String>,
    /// Made for this container alone, removed with `-v`.
    pub anonymous: bool,
}

/// What a container shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Config {
    pub id: String,
    pub name: String,
    pub created: String,
    pub image: String,
    pub image_id: String,
    pub chain: Vec<oci_image::Digest>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub user: String,
    pub workdir: String,
    pub hostname: String,
    pub tty: bool,
    pub stdin: bool,
    pub network: String,
    pub ports: Vec<Port>,
    pub publish_all: bool,
    pub exposed: Vec<String>,
    pub binds: Vec<Bind>,
    pub tmpfs: BTreeMap<String, String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub devices: Vec<Device>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub add_host: Vec<String>,
    pub groups: Vec<String>,
    pub restart: Restart,
    pub remove: bool,
    pub read_only: bool,
    pub ulimits: Vec<Ulimit>,
    pub resources: Resources,
    pub log_driver: String,
    pub no_new_privileges: bool,
    /// `default`, `unconfined` or the text of a profile.
    pub seccomp: String,
    pub stop_signal: String,
    pub stop_timeout: u64,
    pub shm_size: u64,
    pub sysctls: BTreeMap<String, String>,
    pub pid_mode: String,
    pub ipc_mode: String,
    pub uts_mode: String,
    pub oom_score_adj: Option<i32>,
}

impl Config {
    /// Program and arguments together.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }

    /// The first 12 digits of the id.
    pub fn short(&self) -> &str {
        &self.id[..12.min(self.id.len())]
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    #[default]
    Created,
    /// Its first process lives.
    Running,
    /// Between an end and the next start.
    Restarting,
    /// Ended.
    Exited,
}

impl Status {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
        }
    }
}

/// Its network, while it has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Attached {
    pub address: String,
    pub prefix: u8,
    pub gateway: String,
    pub mac: String,
    pub ports: Vec<Port>,
    pub namespace: String,
}

/// What happened to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct State {
    pub status: Status,
    pub pid: i32,
    pub pid_started: u64,
    pub exit_code: i32,
    pub oom_killed: bool,
    pub error: String,
    pub started_at: String,
    pub finished_at: String,
    pub restart_count: u32,
    pub boot_id: String,
    /// Somebody asked for the end: no restart.
    pub stopped: bool,
    /// Control group of its processes.
    pub cgroup: String,
    /// It lives in a unit that supervises it.
    pub in_unit: bool,
    pub network: Option<Attached>,
}

/// A container with what is true of it.
#[derive(Debug, Clone)]
pub struct Container {
    /// What it shall be.
    pub config: Config,
    /// What happened.
    pub state: State,
    /// A monitor is alive.
    pub monitored: bool,
}

impl Container {
    /// Whether its processes live.
    pub fn running(&self) -> bool {
        matches!(self.state.status, Status::Running | Status::Restarting)
    }
}

fn io_error(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.into();
    move |source| ContainerError::Io { what, path, source }
}

/// Whether a name may be given.
pub fn check_name(name: &str) -> Result<(), ContainerError> {
    let bytes = name.as_bytes();
    let good = bytes.len() >= 2
        && bytes.len() <= 128
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    if good {
        Ok(())
    } else {
        Err(ContainerError::BadName(name.to_owned()))
    }
}

impl Host {
    fn names(&self) -> PathBuf {
        self.containers().join(".names")
    }

    /// Writes a new container and takes its name.
    pub fn add_container(&self, config: &Config) -> Result<(), ContainerError> {
        check_name(&config.name)?;
        let directory = self.container(&config.id);
        fs::create_dir_all(self.names()).map_err(io_error("make", self.names()))?;
        fs::create_dir(&directory).map_err(io_error("make", &directory))?;
        let name = self.names().join(&config.name);
        // A link is made or refused in one step: two commands cannot both have the name.
        if let Err(error) = std::os::unix::fs::symlink(&config.id, &name) {
            let holder = fs::read_link(&name)
                .map(|id| id.to_string_lossy().into_owned())
                .unwrap_or_default();
            let stale =
                error.kind() == io::ErrorKind::AlreadyExists && !self.container(&holder).exists();
            let taken = !stale
                || fs::remove_file(&name)
                    .and_then(|()| std::os::unix::fs::symlink(&config.id, &name))
                    .is_err();
            if taken {
                let _ = fs::remove_dir(&directory);
                return Err(match error.kind() {
                    io::ErrorKind::AlreadyExists => ContainerError::NameInUse {
                        name: config.name.clone(),
                        id: holder,
                    },
                    _ => io_error("make", name)(error),
                });
            }
        }
        let made = ["upper", "work", "merged"]
            .iter()
            .try_for_each(|part| fs::create_dir(directory.join(part)));
        let made = made
            .map_err(io_error("make a directory in", &directory))
            .and_then(|()| {
                let upper = directory.join("upper");
                fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .map_err(io_error("protect", upper))?;
                Ok(write_json(&directory.join("config.json"), config)?)
            });
        if made.is_err() {
            self.forget(config);
        }
        made
    }

    /// Removes a container's files and name.
    pub fn remove_container(&self, config: &Config, volumes: bool) -> Result<(), ContainerError> {
        if volumes {
            for bind in config.binds.iter().filter(|bind| bind.anonymous) {
                if let Some(directory) = bind.source.parent() {
                    let _ = fs::remove_dir_all(directory);
                }
            }
        }
        let directory = self.container(&config.id);
        // Without its config.json it is no container any more, whatever happens next.
        let _ = fs::remove_file(directory.join("config.json"));
        let removed = fs::remove_dir_all(&directory);
        self.forget(config);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", directory)(error))
            }
            _ => Ok(()),
        }
    }

    fn forget(&self, config: &Config) {
        let name = self.names().join(&config.name);
        if fs::read_link(&name).is_ok_and(|target| target.as_os_str() == config.id.as_str()) {
            let _ = fs::remove_file(name);
        }
        let _ = fs::remove_dir_all(self.run_of(&config.id));
        let _ = fs::remove_dir_all(self.engine().join(&config.id));
        let directory = self.container(&config.id);
        if !directory.join("config.json").exists() {
            let _ = fs::remove_dir_all(directory);
        }
    }

    /// The full id of a name, id or unambiguous start of an id.
    pub fn find_id(&self, text: &str) -> Result<String, ContainerError> {
        let none = || ContainerError::NoSuch(text.to_owned());
        let wanted = text.strip_prefix('/').unwrap_or(text);
        if wanted.is_empty() || wanted.contains('/') || wanted.starts_with('.') {
            return Err(none());
        }
        if let Ok(id) = fs::read_link(self.names().join(wanted)) {
            let id = id.to_string_lossy().into_owned();
            if self.container(&id).join("config.json").exists() {
                return Ok(id);
            }
        }
        let mut found = self.ids()?.into_iter().filter(|id| id.starts_with(wanted));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(ContainerError::Ambiguous(text.to_owned())),
            (None, _) => Err(none()),
        }
    }

    /// Ids of all containers.
    pub fn ids(&self) -> Result<Vec<String>, ContainerError> {
        let directory = self.containers();
        let items = match fs::read_dir(&directory) {
            Ok(items) => items,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("list", directory)(error)),
        };
        let mut ids: Vec<String> = items
            .flatten()
            .filter_map(|item| item.file_name().into_string().ok())
            .filter(|name| name.len() == 64 && directory.join(name).join("config.json").exists())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Finds and loads.
    pub fn find(&self, text: &str) -> Result<Container, ContainerError> {
        let id = self.find_id(text)?;
        self.load(&id).map_err(|error| match error {
            ContainerError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ContainerError::NoSuch(text.to_owned())
            }
            other => other,
        })
    }

    /// All containers, newest first; one that goes away meanwhile is left out.
    pub fn containers_now(&self) -> Result<Vec<Container>, ContainerError> {
        let load = |id: &String| match self.load(id) {
            Ok(container) => Some(container),
            Err(ContainerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                None
            }
            Err(error) => {
                tracing::warn!(container = id, error = %telemetry::chain(&error), "left out of the list");
                None
            }
        };
        let mut all: Vec<Container> = self.ids()?.iter().filter_map(load).collect();
        all.sort_by(|left, right| right.config.created.cmp(&left.config.created));
        Ok(all)
    }

    /// Loads by full id.
    pub fn load(&self, id: &str) -> Result<Container, ContainerError> {
        let directory = self.container(id);
        let config: Config = read_json(directory.join("config.json"))?;
        let state: State = match read_json(directory.join("state.json")) {
            Ok(state) => state,
            Err(ContainerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                State::default()
            }
            Err(error) => return Err(error),
        };
        let monitored = self.is_monitored(id);
        let state = judge(state, monitored, &host::boot_id(), host::start_time);
        Ok(Container {
            config,
            state,
            monitored,
        })
    }

    /// Whether a monitor holds the container's lock.
    pub fn is_monitored(&self, id: &str) -> bool {
        match fs::File::open(self.run_of(id).join("lock")) {
            Ok(lock) => matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }

    /// Writes the state. At an end it must last, else it may be lost with the machine, whose boot ends it anyway.
    pub fn save_state(&self, id: &str, state: &State) -> Result<(), ContainerError> {
        let path = self.container(id).join("state.json");
        if matches!(state.status, Status::Exited | Status::Created) {
            return Ok(write_json(&path, state)?);
        }
        let bytes = serde_json::to_vec(state).map_err(|source| ContainerError::Record {
            path: path.clone(),
            source,
        })?;
        let temporary = path.with_extension("new");
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(io_error("write", path))
    }
}

/// What a stored state means now. A running state of another boot, or of a process that is gone while no
/// monitor lives to say how it ended, is an end with status 255.
pub fn judge(
    mut state: State,
    monitored: bool,
    boot: &str,
    started: impl Fn(i32) -> Option<u64>,
) -> State {
    let alive = matches!(state.status, Status::Running | Status::Restarting);
    if !alive || (monitored && state.boot_id == boot) {
        return state;
    }
    let lives =
        state.boot_id == boot && state.pid > 0 && started(state.pid) == Some(state.pid_started);
    if !lives {
        state.status = Status::Exited;
        state.exit_code = 255;
        state.pid = 0;
        state.network = None;
        if state.finished_at.is_empty() {
            state.finished_at = state.started_at.clone();
        }
    }
    state
}

fn read_json<T: for<'de> Deserialize<'de>>(path: PathBuf) -> Result<T, ContainerError> {
    let bytes = fs::read(&path).map_err(io_error("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|source| ContainerError::Record { path, source })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(id: &str, name: &str) -> Config {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": name, "created": "2026-01-01T00:00:00Z", "image": "busybox", "image_id": "", "chain": [], "entrypoint": [],
            "cmd": ["sh"], "env": [], "labels": {}, "user": "", "workdir": "", "hostname": "", "tty": false, "stdin": false,
            "network": "bridge", "ports": [], "publish_all": false, "exposed": [], "binds": [], "tmpfs": {}, "cap_add": [], "cap_drop": [],
            "privileged": false, "devices": [], "dns": [], "dns_search": [], "add_host": [], "groups": [], "restart": "no", "remove": false,
            "read_only": false, "ulimits": [], "resources": {}, "log_driver": "journald", "no_new_privileges": false, "seccomp": "default",
            "stop_signal": "SIGTERM", "stop_timeout": 10, "shm_size": 0, "sysctls": {}, "pid_mode": "", "ipc_mode": "", "uts_mode": "",
            "oom_score_adj": null
        }))
        .unwrap()
    }

    #[test]
    fn names_are_unique_and_prefixes_must_be_unambiguous() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            data: dir.path().join("data"),
            run: dir.path().join("run"),
        };
        let (first, second) = (
            format!("aa{}", "0".repeat(62)),
            format!("ab{}", "0".repeat(62)),
        );
        host.add_container(&config(&first, "web")).unwrap();
        let taken = host.add_container(&config(&second, "web"));
        assert!(matches!(taken, Err(ContainerError::NameInUse { .. })));
        assert!(!host.container(&second).exists());
        host.add_container(&config(&second, "web2")).unwrap();
        assert_eq!(host.find_id("web").unwrap(), first);
        assert_eq!(host.find_id("ab").unwrap(), second);
        assert!(matches!(
            host.find_id("a"),
            Err(ContainerError::Ambiguous(_))
        ));
        assert!(matches!(
            host.find_id("../x"),
            Err(ContainerError::NoSuch(_))
        ));
        host.remove_container(&config(&first, "web"), false)
            .unwrap();
        assert!(matches!(
            host.find_id("web"),
            Err(ContainerError::NoSuch(_))
        ));
        assert!(host.add_container(&config(&first, "w")).is_err());
    }

    #[test]
    fn a_running_state_is_believed_only_with_proof() {
        let running = State {
            status: Status::Running,
            pid: 7,
            pid_started: 5,
            boot_id: "b".into(),
            ..State::default()
        };
        let now = |monitored, boot: &str, started: Option<u64>| {
            judge(running.clone(), monitored, boot, |_| started)
        };
        assert_eq!(now(true, "b", None).status, Status::Running);
        assert_eq!(now(false, "b", Some(5)).status, Status::Running);
        assert_eq!(
            (
                now(false, "b", Some(6)).status,
                now(false, "b", None).exit_code
            ),
            (Status::Exited, 255)
        );
        assert_eq!(now(false, "other", Some(5)).status, Status::Exited);
    }

    #[test]
    fn restart_policies_are_read() {
        assert_eq!(Restart::parse("on-failure:3"), Some(Restart::OnFailure(3)));
        assert_eq!(Restart::parse("always"), Some(Restart::Always));
        assert_eq!(Restart::parse("on-failure:x"), None);
    }
}
