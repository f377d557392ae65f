//! etcd-launch: the ExecStart of etcd.service.
//!
//! Takes the environment as user data of CoreOS sets it (names of 0.4, 2.x and 3.x), and becomes etcd, or the proxy to a
//! cluster elsewhere. [`plan`] decides; this file looks at the machine before, and acts after.

pub mod plan;
mod proxy;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use self::plan::{Env, Facts, Plan, PlanError, Role};
use self::proxy::ProxyError;

const ETCD: &str = "/usr/bin/etcd";
const OLD_DATA: &str = "/var/lib/etcd2";

/// etcd cannot be started.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("failed to read the settings")]
    Plan(#[source] PlanError),
    #[error("failed to read the machine's identifier")]
    MachineId(#[source] io::Error),
    #[error("{} holds data of a cluster that only had etcd's v2 store ({what})", path.display())]
    OldData { path: PathBuf, what: &'static str },
    #[error("failed to run {ETCD}")]
    Exec(#[source] io::Error),
    #[error("failed to start the proxy")]
    Runtime(#[source] io::Error),
    #[error("failed to pass connections on")]
    Proxy(#[source] ProxyError),
}

/// The program.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    match args.first().map(String::as_str) {
        Some("--help") => {
            println!(
                "Usage: etcd-launch [ETCD-OPTIONS …]\n\nStarts etcd from ETCD_* variables (of 0.4, 2.x and 3.x), or with ETCD_PROXY=on \
                 a proxy to the cluster of\nETCD_INITIAL_CLUSTER. With --dry-run prints what it would do.\n\n\
                 Example: ETCD_NAME=a ETCD_ADDR=10.0.0.1:4001 etcd-launch --dry-run"
            );
            return ExitCode::SUCCESS;
        }
        Some("--version") => {
            println!("etcd-launch {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    telemetry::init("etcd-launch", telemetry::Sink::detect(), 0);
    match run(&args) {
        Ok(code) => code,
        Err(err) => telemetry::report("etcd-launch", &err, hint(&err)),
    }
}

fn hint(err: &LaunchError) -> Option<&'static str> {
    match err {
        LaunchError::OldData { .. } => Some(
            "migrate it with etcd 3.3's tools (https://etcd.io/docs/v3.3/op-guide/v2-migration/) or move it away",
        ),
        LaunchError::Plan(_) => Some(
            "systemctl cat etcd2 shows where the variable is set (coreos.etcd2 of the user data ends up there)",
        ),
        LaunchError::Exec(_) => Some("the package etcd-server brings it"),
        LaunchError::Proxy(ProxyError::Listen { .. }) => {
            Some("another etcd or proxy may be running: ss -ltnp shows who has the port")
        }
        _ => None,
    }
}

fn run(args: &[String]) -> Result<ExitCode, LaunchError> {
    let env: Env = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("ETCD_"))
        .collect();
    let facts = Facts {
        machine_id: machine_id().map_err(LaunchError::MachineId)?,
        etcd2_in_use: in_use(Path::new(OLD_DATA)),
    };
    let plan = plan::plan(&env, &facts).map_err(LaunchError::Plan)?;
    if args.first().is_some_and(|a| a == "--dry-run") {
        print_plan(&plan);
        return Ok(ExitCode::SUCCESS);
    }
    for note in &plan.notes {
        tracing::warn!("{note}");
    }
    match &plan.role {
        Role::Member { data_dir } => {
            check_data(Path::new(data_dir))?;
            let mut command = Command::new(ETCD);
            command.args(args).envs(&plan.set);
            for name in &plan.unset {
                command.env_remove(name);
            }
            // etcd itself tells the manager when it is ready.
            Err(LaunchError::Exec(command.exec()))
        }
        Role::Proxy { listen, peers } => proxy(listen, peers.clone()),
    }
}

fn print_plan(plan: &Plan) {
    for note in &plan.notes {
        println!("# {note}");
    }
    match &plan.role {
        Role::Member { .. } => {
            for (name, value) in &plan.set {
                println!("{name}={value}");
            }
            println!("exec {ETCD}");
        }
        Role::Proxy { listen, peers } => {
            println!(
                "proxy {} to the members that {} name",
                listen.join(" "),
                peers.join(" ")
            );
        }
    }
}

fn proxy(listen: &[String], peers: Vec<String>) -> Result<ExitCode, LaunchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LaunchError::Runtime)?;
    let ready = || {
        let states = [
            sd_daemon::State::Ready,
            sd_daemon::State::Status("passing connections on"),
        ];
        if let Err(err) = sd_daemon::notify(&states) {
            tracing::warn!("{}", telemetry::chain(&err));
        }
    };
    runtime.block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(LaunchError::Runtime)?;
        tokio::select! {
            outcome = proxy::run(listen, peers, ready) => match outcome {
                Ok(never) => match never {},
                Err(err) => Err(LaunchError::Proxy(err)),
            },
            _ = end.recv() => Ok(ExitCode::SUCCESS),
        }
    })
}

fn machine_id() -> io::Result<String> {
    let text = fs::read_to_string("/etc/machine-id")?;
    let id = text.trim();
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(id.to_owned());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "/etc/machine-id holds no identifier",
    ))
}

/// Whether a directory is a mount point or has anything in it.
fn in_use(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let mounted = device(dir).is_some() && device(dir) != dir.parent().and_then(device);
    mounted || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Refuses the data of 0.4, and of a 2.x that had no v3 store: etcd 3 would start with an empty keyspace.
fn check_data(dir: &Path) -> Result<(), LaunchError> {
    let old = |what| {
        Err(LaunchError::OldData {
            path: dir.to_owned(),
            what,
        })
    };
    if dir.join("log").is_file() && dir.join("conf").is_file() && !dir.join("member").exists() {
        return old("written by etcd 0.4");
    }
    if dir.join("member/wal").is_dir() && !dir.join("member/snap/db").exists() {
        return old("written by etcd 2");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_data_is_refused_and_new_is_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = dir.path();
        assert!(check_data(at).is_ok());
        assert!(check_data(&at.join("missing")).is_ok());
        fs::create_dir_all(at.join("member/wal")).expect("mkdir");
        let err = check_data(at).expect_err("2.x");
        assert!(err.to_string().contains("etcd 2"), "{err}");
        fs::create_dir_all(at.join("member/snap")).expect("mkdir");
        fs::write(at.join("member/snap/db"), "").expect("write");
        assert!(check_data(at).is_ok());

        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("log"), "").expect("write");
        fs::write(dir.path().join("conf"), "").expect("write");
        assert!(
            check_data(dir.path())
                .expect_err("0.4")
                .to_string()
                .contains("0.4")
        );
    }

    #[test]
    fn a_directory_is_in_use_when_it_holds_data_or_is_a_mount() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(!in_use(dir.path()));
        assert!(!in_use(&dir.path().join("missing")));
        fs::write(dir.path().join("x"), "").expect("write");
        assert!(in_use(dir.path()));
        assert!(in_use(Path::new("/proc")));
    }
}
