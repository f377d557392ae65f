//! `fleetd`: reads the command line and the configuration, and runs the daemon, again after SIGHUP.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use fleetd::agent::{ServiceManager, Systemd};
use fleetd::api::Tls;
use fleetd::clock::MachineClock;
use fleetd::config::{ConfigError, DEFAULT_FILE, Settings};
use fleetd::daemon::{ApiIo, DaemonError, End, Io, run, signalled};
use fleetd::dev::{Address, Dev, DevError};
use fleetd::tls::{TlsError, acceptor};

const HELP: &str = "\
fleetd: the fleet daemon: agent, engine and API of a cluster of machines

Usage: fleetd [--config FILE] [--default KEY=VALUE]...
       fleetd dev [--listen ADDRESS]...
       fleetd completion bash|zsh|fish
       fleetd --version | --help

Commands:
  dev               one machine with a store in memory, to try things out; ends with the process
  completion        print the completions of a shell

Options:
  --config FILE     configuration [default: /etc/fleet/fleet.conf if it exists];
                    every key can also be set as FLEET_KEY in the environment
  --default K=V     as a line of a configuration that the file above wins over
  --listen ADDRESS  where dev serves: unix://PATH or http://LOOPBACK:PORT
                    [default: unix:///run/fleet.sock, or $XDG_RUNTIME_DIR/fleet.sock]
  --version         print the version
  --help            print this text

The API is served on the sockets that the service manager passes (fleet.socket); the dashboard is
at /ui on the same sockets. SIGHUP reads the configuration again. Exit status: 0 done, 1 failed
or used wrongly, as the original's.

Examples:
  FLEET_METADATA=role=core fleetd --config ./fleet.conf
  fleetd dev --listen unix:///tmp/fleet.sock --listen http://127.0.0.1:8080
";

/// Completions by shell.
const COMPLETIONS: [(&str, &str); 3] = [
    (
        "bash",
        "_fleetd() {
  local words='dev completion --config --default --listen --version --help'
  case ${COMP_WORDS[COMP_CWORD-1]} in
    --config) COMPREPLY=($(compgen -f -- \"${COMP_WORDS[COMP_CWORD]}\")); return;;
    completion) words='bash zsh fish';;
  esac
  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))
}
complete -F _fleetd fleetd
",
    ),
    (
        "zsh",
        "#compdef fleetd
_arguments '1:command:(dev completion)' '2:shell:(bash zsh fish)' \\
  '--config[configuration]:file:_files' '*--default[weaker than the file]:KEY=VALUE:' \\
  '*--listen[where dev serves]:address:' \\
  '--version[print the version]' '--help[print the help]'
",
    ),
    (
        "fish",
        "complete -c fleetd -n __fish_use_subcommand -a 'dev completion'
complete -c fleetd -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'
complete -c fleetd -l config -r -d configuration
complete -c fleetd -l default -x -d 'weaker than the file'
complete -c fleetd -n '__fish_seen_subcommand_from dev' -l listen -x -d 'where dev serves'
complete -c fleetd -l version -d 'print the version'
complete -c fleetd -l help -d 'print the help'
",
    ),
];

#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Listen(#[from] sd_daemon::ListenError),
    #[error("failed to prepare TLS of the API")]
    Tls(#[from] TlsError),
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Dev(#[from] DevError),
}

impl MainError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config(ConfigError::Read { path, .. }) if path != DEFAULT_FILE => {
                Some("--config must name a readable file")
            }
            Self::Daemon(DaemonError::MachineId(_)) => Some("systemd-machine-id-setup makes one"),
            Self::Dev(DevError::NoPlace | DevError::InUse(_) | DevError::Listen { .. }) => {
                Some("--listen unix://PATH names another place")
            }
            _ => None,
        }
    }
}

/// Where the configuration is, but for the environment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sources {
    file: Option<PathBuf>,
    /// Weaker than the file.
    defaults: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Run(Sources),
    Dev(Vec<String>),
    Guard(PathBuf, PathBuf),
    Print(String),
}

fn main() -> ExitCode {
    let done = match arguments(std::env::args().skip(1)) {
        Err(complaint) => return misused(&complaint),
        Ok(Request::Print(text)) => {
            telemetry::quiet_broken_pipe();
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(sources)) => serve(&sources),
        Ok(Request::Guard(run, units)) => guard(run, units),
        Ok(Request::Dev(listen)) => match listen.iter().map(|a| Address::parse(a)).collect() {
            Ok(addresses) => try_out(addresses),
            Err(complaint) => return misused(&complaint),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::report("fleetd", &error, error.hint()),
    }
}

/// The original's status for wrong usage is that of any failure.
fn misused(complaint: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("fleetd: {complaint}\nhint: fleetd --help");
    ExitCode::FAILURE
}

fn arguments(args: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut args = args.peekable();
    if args.next_if(|a| a == "guard").is_some() {
        let mut directory = || args.next().ok_or("guard needs two directories");
        return Ok(Request::Guard(directory()?.into(), directory()?.into()));
    }
    if args.next_if(|a| a == "completion").is_some() {
        let shell = args.next().unwrap_or_default();
        let found = COMPLETIONS.iter().find(|(name, _)| *name == shell);
        let (_, text) = found.ok_or("completion needs bash, zsh or fish")?;
        return Ok(Request::Print((*text).to_owned()));
    }
    let dev = args.next_if(|a| a == "dev").is_some();
    let (mut sources, mut listen) = (Sources::default(), Vec::new());
    while let Some(arg) = args.next() {
        let (name, mut value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = |what| value.take().or_else(|| args.next()).ok_or(what);
        match name {
            "--config" | "-config" if !dev => {
                sources.file = Some(PathBuf::from(value("--config needs a file")?));
            }
            "--default" if !dev => {
                let value = value("--default needs KEY=VALUE")?;
                if !value.contains('=') {
                    return Err(format!("--default needs KEY=VALUE, not \"{value}\""));
                }
                sources.defaults.push(value);
            }
            "--listen" if dev => listen.push(value("--listen needs an address")?),
            "--version" | "-version" | "version" => {
                let version = format!("fleetd version {}\n", fleetd::VERSION);
                return Ok(Request::Print(version));
            }
            "--help" | "-h" | "help" => return Ok(Request::Print(HELP.to_owned())),
            _ => return Err(format!("unknown argument \"{arg}\"")),
        }
    }
    Ok(if dev {
        Request::Dev(listen)
    } else {
        Request::Run(sources)
    })
}

/// Settings, what is to be said about them, and what they name read.
type Loaded = (Settings, Vec<String>, Option<Tls>);

fn load(sources: &Sources) -> Result<Loaded, MainError> {
    let file = sources.file.as_deref();
    let (settings, warnings) = Settings::load(&sources.defaults, file, std::env::vars())?;
    let tls = match &settings.api_tls {
        Some(files) => Some(Tls(acceptor(files)?)),
        None => None,
    };
    Ok((settings, warnings, tls))
}

fn manager(settings: &Settings) -> Arc<dyn ServiceManager> {
    Arc::new(if settings.systemd_user {
        Systemd::of_user()
    } else {
        Systemd::new()
    })
}

/// How much is logged.
fn steps(settings: &Settings) -> i32 {
    settings.verbosity.clamp(0, 2)
}

/// A runtime of its own for each round: whatever belongs to the old settings ends with it.
fn runtime() -> Result<tokio::runtime::Runtime, MainError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(MainError::Runtime)
}

fn serve(sources: &Sources) -> Result<(), MainError> {
    let sockets = sd_daemon::listen_fds()?;
    let (mut settings, mut warnings, tls) = load(sources)?;
    telemetry::init("fleetd", telemetry::Sink::detect(), steps(&settings));
    let mut io = Io {
        sockets: sockets.into_iter().map(|s| (s.name, s.fd)).collect(),
        manager: manager(&settings),
        kv: None,
        clock: Arc::new(MachineClock),
        api: ApiIo {
            tls,
            metrics_socket: Some(settings.metrics_socket.clone()),
            ..ApiIo::default()
        },
    };
    loop {
        for warning in warnings.drain(..) {
            tracing::warn!("{warning}");
        }
        let runtime = runtime()?;
        let end = runtime.block_on(run(&settings, &io, signalled()))?;
        runtime.shutdown_background();
        if end == End::Exit {
            return Ok(());
        }
        tracing::info!("reading the configuration again");
        match load(sources) {
            Ok(loaded) => {
                (settings, warnings, io.api.tls) = loaded;
                telemetry::set_steps(steps(&settings));
                tracing::debug!(verbosity = settings.verbosity, "the configuration is read");
            }
            // A slip of the pen must not take the machine out of the cluster.
            Err(error) => tracing::error!("the old settings stay: {}", telemetry::chain(&error)),
        }
        io.api.metrics_socket = Some(settings.metrics_socket.clone());
        // The connection of the old one has ended with its runtime.
        io.manager = manager(&settings);
    }
}

/// What `fleet-guard.service` runs; see `fleetd::agent::fence`. It ends only if it cannot begin.
fn guard(run: PathBuf, units: PathBuf) -> Result<(), MainError> {
    telemetry::init("fleetd", telemetry::Sink::detect(), 0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(MainError::Runtime)?;
    let manager = Arc::new(Systemd::new());
    let error = runtime.block_on(fleetd::daemon::guard(run, units, manager));
    Err(MainError::Daemon(DaemonError::Files(error)))
}

/// `fleetd dev`.
fn try_out(addresses: Vec<Address>) -> Result<(), MainError> {
    let (mut settings, warnings) = Settings::from_text("environment", "", std::env::vars())?;
    telemetry::init("fleetd", telemetry::Sink::Stderr, steps(&settings));
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    settings.systemd_user = !rustix::process::geteuid().is_root();
    if settings.public_ip.is_empty() {
        settings.public_ip = "127.0.0.1".into();
    }
    let manager = manager(&settings);
    let mut dev = Dev::prepare(settings, addresses, manager)?;
    let runtime = runtime()?;
    let done = loop {
        let round = runtime.block_on(async {
            if let Some(why) = dev.look_for_manager().await {
                eprintln!("fleetd dev: {why}");
            }
            for address in &dev.addresses {
                match address {
                    Address::Unix(_) => {
                        eprintln!("fleetd dev: fleetctl --endpoint {address} list-machines");
                    }
                    Address::Http(_) => eprintln!("fleetd dev: dashboard at {address}/ui"),
                }
            }
            dev.run(signalled()).await
        });
        match round {
            // There is no configuration to read again.
            Ok(End::Reload) => {}
            Ok(End::Exit | End::Leave) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    runtime.shutdown_background();
    dev.clean_up();
    done
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn arguments_are_understood() {
        let read = |line: &str| arguments(line.split_whitespace().map(str::to_owned));
        let run = |path: Option<&str>, defaults: &[&str]| {
            Ok(Request::Run(Sources {
                file: path.map(PathBuf::from),
                defaults: defaults.iter().map(|d| (*d).to_owned()).collect(),
            }))
        };
        let file = |path| run(Some(path), &[]);
        let dev = |of: &[&str]| Ok(Request::Dev(of.iter().map(|a| (*a).to_owned()).collect()));
        let wrong = |what: &str| Err(what.to_owned());
        for (line, expect) in [
            ("", run(None, &[])),
            (
                "--default a=b --config f --default=c=d=e",
                run(Some("f"), &["a=b", "c=d=e"]),
            ),
            ("--default", wrong("--default needs KEY=VALUE")),
            ("--default a", wrong("--default needs KEY=VALUE, not \"a\"")),
            ("dev --default a=b", wrong("unknown argument \"--default\"")),
            ("--config f", file("f")),
            ("--config=f=g", file("f=g")),
            ("-config f", file("f")),
            ("--config", wrong("--config needs a file")),
            ("guard a b", Ok(Request::Guard("a".into(), "b".into()))),
            ("completion", wrong("completion needs bash, zsh or fish")),
            ("guard a", wrong("guard needs two directories")),
            ("dev", dev(&[])),
            (
                "dev --listen unix:///a --listen=http://b",
                dev(&["unix:///a", "http://b"]),
            ),
            ("dev --config f", wrong("unknown argument \"--config\"")),
            ("--listen unix:///a", wrong("unknown argument \"--listen\"")),
            ("x", wrong("unknown argument \"x\"")),
            ("config=f", wrong("unknown argument \"config=f\"")),
        ] {
            assert_eq!(read(line), expect, "{line}");
        }
        for line in [
            "version",
            "--version",
            "--help",
            "help",
            "dev --help",
            "completion bash",
            "completion zsh",
            "completion fish",
        ] {
            assert!(matches!(read(line), Ok(Request::Print(_))), "{line}");
        }
    }

    /// `fleet.conf` decides on the image, too: nothing that its unit sets may win over it.
    #[test]
    fn the_images_unit_gives_defaults_only() {
        let unit = include_str!("../../image-build/rootfs/usr/lib/systemd/system/fleet.service");
        assert!(!unit.contains("Environment=FLEET_"), "{unit}");
        let mut lines = unit.lines();
        let start = lines.find_map(|l| l.strip_prefix("ExecStart=/usr/bin/fleetd"));
        let words = start.unwrap().split_whitespace().map(str::to_owned);
        let Ok(Request::Run(sources)) = arguments(words) else {
            panic!("{start:?}");
        };
        let (none, environment) = (Path::new("/dev/null"), std::iter::empty());
        let (settings, warnings) =
            Settings::load(&sources.defaults, Some(none), environment).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(settings.dns_listen, ["127.0.0.54:53".parse().unwrap()]);
    }
}
