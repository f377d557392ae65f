//! From a container's record to the engine's request.

use crate::container::{Attached, Config};
use crate::host::Host;
use crate::options::Options;
use oci_runtime::devices::{self, Rule};
use oci_runtime::engine::{Overlay, Populate, RunRequest};
use oci_runtime::plan::{Filter, Mount, Plan, Space};
use std::path::{Path, PathBuf};

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The seccomp profile of the user.
    #[error("the seccomp profile is not valid JSON")]
    Seccomp(#[source] serde_json::Error),
    /// `container:X` that does not run.
    #[error("cannot join namespaces of a non running container: {0}")]
    NotRunning(String),
}

/// Device rules of a container.
pub fn rules(config: &Config) -> Vec<Rule> {
    if config.privileged {
        return vec![Rule::EVERYTHING];
    }
    let mut rules = devices::default_rules();
    rules.extend(
        config
            .devices
            .iter()
            .map(oci_runtime::devices::Device::rule),
    );
    rules
}

/// Whether limits need controllers.
pub fn needs_controllers(config: &Config) -> bool {
    config.resources != oci_runtime::plan::Resources::default()
}

fn space(host: &Host, mode: &str, kind: &str) -> Result<Space, LaunchError> {
    match mode {
        "host" => Ok(Space::Host),
        other => match other.strip_prefix("container:") {
            Some(name) => {
                let pid = host
                    .find(name)
                    .ok()
                    .filter(crate::container::Container::running)
                    .map(|container| container.state.pid);
                let pid = pid.ok_or_else(|| LaunchError::NotRunning(name.to_owned()))?;
                Ok(Space::Path(PathBuf::from(format!("/proc/{pid}/ns/{kind}"))))
            }
            None => Ok(Space::Private),
        },
    }
}

/// The plan of a container in a control group, with its network if it has one of its own.
pub fn plan(
    host: &Host,
    options: &Options,
    config: &Config,
    cgroup: &str,
    network: Option<&Attached>,
) -> Result<Plan, LaunchError> {
    let directory = host.container(&config.id);
    let mut plan = Plan::new(config.args(), cgroup);
    plan.env = config.env.clone();
    if !plan.env.iter().any(|entry| entry.starts_with("HOSTNAME=")) {
        plan.env.push(format!("HOSTNAME={}", config.hostname));
    }
    plan.cwd.clone_from(&config.workdir);
    plan.user.clone_from(&config.user);
    plan.groups.clone_from(&config.groups);
    plan.terminal = config.tty;
    plan.hostname.clone_from(&config.hostname);
    plan.read_only = config.read_only;
    plan.privileged = config.privileged;
    plan.cap_add.clone_from(&config.cap_add);
    plan.cap_drop.clone_from(&config.cap_drop);
    plan.no_new_privileges = config.no_new_privileges || options.no_new_privileges;
    plan.filter = match config.seccomp.as_str() {
        "default" => Filter::Default,
        "unconfined" => Filter::Unconfined,
        text => Filter::Custom(serde_json::from_str(text).map_err(LaunchError::Seccomp)?),
    };
    plan.devices = config.devices.clone();
    if config.privileged {
        plan.devices.extend(host_devices());
    }
    plan.mounts = mounts(config, &directory);
    plan.network = match network {
        Some(attached) => Space::Path(PathBuf::from(&attached.namespace)),
        None => space(host, &config.network, "net")?,
    };
    plan.pid = space(host, &config.pid_mode, "pid")?;
    plan.ipc = space(host, &config.ipc_mode, "ipc")?;
    plan.uts =
        if config.network == "host" && config.uts_mode.is_empty() && config.hostname == host_name()
        {
            Space::Host
        } else {
            space(host, &config.uts_mode, "uts")?
        };
    plan.resources = config.resources.clone();
    plan.ulimits = config.ulimits.clone();
    plan.sysctls = config.sysctls.clone();
    if config.shm_size > 0 {
        plan.shm_size = config.shm_size;
    }
    // The monitor is protected from the OOM killer; what it starts must not be.
    plan.oom_score_adj = Some(config.oom_score_adj.unwrap_or(0));
    Ok(plan)
}

/// The host's own name.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn mounts(config: &Config, directory: &Path) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let own = [
        ("hosts", "/etc/hosts"),
        ("hostname", "/etc/hostname"),
        ("resolv.conf", "/etc/resolv.conf"),
    ];
    for (file, target) in own {
        if config.network != "none" || file != "resolv.conf" {
            mounts.push(Mount {
                source: Some(directory.join(file)),
                target: target.to_owned(),
                options: vec!["rw".into()],
            });
        }
    }
    for (target, options) in &config.tmpfs {
        mounts.push(Mount {
            source: None,
            target: target.clone(),
            options: options
                .split(',')
                .filter(|option| !option.is_empty())
                .map(str::to_owned)
                .collect(),
        });
    }
    for bind in &config.binds {
        mounts.retain(|mount: &Mount| mount.target != bind.target);
        mounts.push(Mount {
            source: Some(bind.source.clone()),
            target: bind.target.clone(),
            options: bind.options.clone(),
        });
    }
    // A mount below another must come after it.
    mounts.sort_by_key(|mount| {
        mount
            .target
            .split('/')
            .filter(|part| !part.is_empty())
            .count()
    });
    mounts
}

/// The engine's request for a run.
pub fn request(
    host: &Host,
    config: &Config,
    plan: Plan,
    console: Option<PathBuf>,
    layers: Vec<PathBuf>,
) -> RunRequest {
    let directory = host.container(&config.id);
    let populate = config
        .binds
        .iter()
        .filter(|bind| bind.volume.is_some() && is_empty(&bind.source))
        .map(|bind| Populate {
            from: bind.target.clone(),
            to: bind.source.clone(),
        })
        .collect();
    RunRequest {
        id: config.id.clone(),
        plan,
        overlay: Overlay {
            lowers: layers,
            upper: directory.join("upper"),
            work: directory.join("work"),
            merged: directory.join("merged"),
        },
        state: host.engine(),
        bundle: host.run_of(&config.id),
        console,
        populate,
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut items| items.next().is_none())
}

/// Devices of the host for a privileged container.
fn host_devices() -> Vec<devices::Device> {
    let mut found = Vec::new();
    collect_devices(Path::new("/dev"), &mut found, 0);
    found
}

fn collect_devices(directory: &Path, found: &mut Vec<devices::Device>, depth: u32) {
    const OWN: [&str; 4] = ["pts", "shm", "mqueue", "fd"];
    const STANDARD: [&str; 9] = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "core",
    ];
    let Ok(items) = std::fs::read_dir(directory) else {
        return;
    };
    for item in items.flatten() {
        let (path, name) = (item.path(), item.file_name());
        let name = name.to_string_lossy();
        if depth == 0 && (OWN.contains(&&*name) || STANDARD.contains(&&*name)) {
            continue;
        }
        match item.file_type() {
            Ok(kind) if kind.is_dir() && depth < 3 => collect_devices(&path, found, depth + 1),
            Ok(kind) if !kind.is_dir() && !kind.is_symlink() => {
                found.extend(device(&path, &path.to_string_lossy(), "rwm").ok());
            }
            _ => {}
        }
    }
}

/// A device file of the host as a device of a container.
pub fn device(source: &Path, target: &str, access: &str) -> std::io::Result<devices::Device> {
    use rustix::fs::FileType;
    let stat = rustix::fs::stat(source)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => return Err(std::io::Error::other("not a device file")),
    };
    Ok(devices::Device {
        path: target.to_owned(),
        kind,
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        mode: stat.st_mode & 0o777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        access: access.to_owned(),
    })
}
