//! `fleetd`: reads the command line and the configuration, and runs the daemon, again after SIGHUP.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use fleetd::agent::Systemd;
use fleetd::clock::MachineClock;
use fleetd::config::{ConfigError, DEFAULT_FILE, Settings};
use fleetd::daemon::{DaemonError, End, Io, run, signalled};

const HELP: &str = "\
fleetd: the fleet daemon: agent, engine and API of a cluster of machines

Usage: fleetd [--config FILE]
       fleetd --version | --help

Options:
  --config FILE   configuration [default: /etc/fleet/fleet.conf if it exists];
                  every key can also be set as FLEET_KEY in the environment
  --version       print the version
  --help          print this text

The API is served on the sockets that the service manager passes (fleet.socket).

Example:
  FLEET_METADATA=role=core fleetd --config ./fleet.conf
";

#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Listen(#[from] sd_daemon::ListenError),
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
}

enum Request {
    Run(Option<PathBuf>),
    Guard(PathBuf, PathBuf),
    Print(String),
}

fn main() -> ExitCode {
    let request = match arguments(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(complaint) => {
            eprintln!("fleetd: {complaint}\nhint: fleetd --help");
            return ExitCode::from(2);
        }
    };
    match request {
        Request::Print(text) => {
            telemetry::quiet_broken_pipe();
            print!("{text}");
            ExitCode::SUCCESS
        }
        Request::Guard(run, units) => match guard(run, units) {
            Ok(never) => never,
            Err(error) => telemetry::report("fleetd guard", &error, None),
        },
        Request::Run(file) => match serve(file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let hint = match &error {
                    MainError::Config(ConfigError::Read { path, .. }) if path != DEFAULT_FILE => {
                        Some("--config must name a readable file")
                    }
                    MainError::Daemon(DaemonError::MachineId(_)) => {
                        Some("systemd-machine-id-setup makes one")
                    }
                    _ => None,
                };
                telemetry::report("fleetd", &error, hint)
            }
        },
    }
}

fn arguments(mut args: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut file = None;
    while let Some(arg) = args.next() {
        if arg == "guard" {
            let mut directory = || args.next().ok_or("guard needs two directories");
            return Ok(Request::Guard(directory()?.into(), directory()?.into()));
        }
        match arg.trim_start_matches("--").split_once('=') {
            Some(("config", path)) => file = Some(PathBuf::from(path)),
            _ => match arg.as_str() {
                "--config" | "-config" => {
                    let path = args.next().ok_or("--config needs a file")?;
                    file = Some(PathBuf::from(path));
                }
                "--version" | "-version" | "version" => {
                    return Ok(Request::Print(format!(
                        "fleetd version {}\n",
                        fleetd::VERSION
                    )));
                }
                "--help" | "-h" | "help" => return Ok(Request::Print(HELP.to_owned())),
                other => return Err(format!("unknown argument \"{other}\"")),
            },
        }
    }
    Ok(Request::Run(file))
}

/// What `fleet-guard.service` runs; see `fleetd::agent::fence`.
fn guard(run: PathBuf, units: PathBuf) -> Result<ExitCode, MainError> {
    telemetry::init("fleetd", telemetry::Sink::detect(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(MainError::Runtime)?;
    let manager = Arc::new(Systemd::new());
    let error = runtime.block_on(fleetd::daemon::guard(run, units, manager));
    Err(MainError::Daemon(DaemonError::Files(error)))
}

fn serve(file: Option<PathBuf>) -> Result<(), MainError> {
    let sockets = sd_daemon::listen_fds()?;
    let mut io = Io {
        sockets: sockets.into_iter().map(|s| (s.name, s.fd)).collect(),
        manager: Arc::new(Systemd::new()),
        kv: None,
        clock: Arc::new(MachineClock),
    };
    let load = || Settings::load(file.as_deref(), std::env::vars());
    let (mut settings, mut warnings) = load()?;
    telemetry::init(
        "fleetd",
        telemetry::Sink::detect(),
        settings.verbosity.clamp(0, 2),
    );
    loop {
        for warning in warnings.drain(..) {
            tracing::warn!("{warning}");
        }
        // A runtime of its own for each round: whatever belongs to the old settings ends with it.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(MainError::Runtime)?;
        let end = runtime.block_on(run(&settings, &io, signalled()))?;
        runtime.shutdown_background();
        if end == End::Exit {
            return Ok(());
        }
        // The connection of the old one has ended with its runtime.
        io.manager = Arc::new(Systemd::new());
        tracing::info!("reading the configuration again");
        match load() {
            Ok(loaded) => (settings, warnings) = loaded,
            // A slip of the pen must not take the machine out of the cluster.
            Err(error) => tracing::error!("the old settings stay: {}", telemetry::chain(&error)),
        }
    }
}
