//! unit-busd: systemd1, login1, hostname1 and timedate1 on D-Bus, in front of PID 1.
//!
//! ```text
//! systemctl (root) ── /run/systemd/private ──┐
//! everybody ── /run/dbus/system_bus_socket ──┤ unit-busd ── /run/flotilla/init.sock ── PID 1
//! ```
//!
//! PID 1 holds the two listening sockets and passes them on (names `private` and `system_bus`), so a restart of this
//! program refuses nobody. It keeps no truth: every call becomes control frames ([`control`]), properties are made
//! from snapshots, counters and processes are read from the kernel. What a connection asked for (match rules, names,
//! references, inhibitor locks) dies with the connection.
//!
//! The way of a call: [`server`] (epoll) → [`client`] (bytes, limits) → [`calls`] (routing) → [`dispatch`] (the table)
//! → a [`step`]: answer, refuse, or ask PID 1 and go on. [`driver`] and [`router`] are the bus itself, [`units`] turns
//! PID 1's news to signals.
//!
//! Not here: starting services for bus names, polkit, eavesdropping, policy files.
#![forbid(unsafe_code)]

mod access;
mod auth;
mod calls;
mod client;
mod control;
mod dispatch;
mod driver;
mod files;
mod hostname;
mod introspect;
mod login;
mod manager;
mod match_rule;
mod properties;
mod router;
mod server;
mod signals;
mod step;
mod timedate;
mod transient;
mod unit;
mod units;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::client::Door;
use crate::server::{Listener, Server};
use crate::step::World;

const HELP: &str = "\
unit-busd: systemd1, login1, hostname1 and timedate1 on D-Bus, in front of PID 1

Usage: unit-busd [--control PATH] [--private PATH] [--system-bus PATH] [--cgroups PATH] [--root PATH]

Listening sockets come by socket activation, named `private` and `system_bus`; the options make others:
  --control PATH     PID 1's socket (default /run/flotilla/init.sock)
  --private PATH     serve peers without a bus here
  --system-bus PATH  serve the bus here
  --cgroups PATH     the control group hierarchy (default /sys/fs/cgroup)
  --root PATH        root of the configuration files (default /)
  --help, --version

Example:
  unit-busd --private /run/systemd/private --system-bus /run/dbus/system_bus_socket
";

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("unknown option {0:?}")]
    Option(OsString),
    #[error("option {0} needs a value")]
    Value(&'static str),
    #[error("failed to take the listening sockets")]
    Listen(#[source] sd_daemon::ListenError),
    #[error("failed to listen at {path}")]
    Bind { path: PathBuf, source: io::Error },
    #[error("no socket to listen on")]
    NoSocket,
    #[error("failed to set up the event loop")]
    Loop(#[source] io::Error),
}

#[derive(Debug)]
struct Options {
    control: PathBuf,
    private: Option<PathBuf>,
    system_bus: Option<PathBuf>,
    cgroups: PathBuf,
    root: PathBuf,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            telemetry::report(
                "unit-busd",
                &error,
                Some("unit-busd --help lists the options"),
            );
            return ExitCode::from(2);
        }
    };
    telemetry::init("unit-busd", telemetry::Sink::detect(), 0);
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = matches!(error, StartError::NoSocket)
                .then_some("start it by unit-busd.service, or give --private or --system-bus");
            telemetry::report("unit-busd", &error, hint)
        }
    }
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Option<Options>, StartError> {
    let mut options = Options {
        control: init_control::SOCKET_PATH.into(),
        private: None,
        system_bus: None,
        cgroups: "/sys/fs/cgroup".into(),
        root: "/".into(),
    };
    while let Some(arg) = args.next() {
        let mut value = |name| {
            args.next()
                .map(PathBuf::from)
                .ok_or(StartError::Value(name))
        };
        match arg.to_str() {
            Some("--control") => options.control = value("--control")?,
            Some("--private") => options.private = Some(value("--private")?),
            Some("--system-bus") => options.system_bus = Some(value("--system-bus")?),
            Some("--cgroups") => options.cgroups = value("--cgroups")?,
            Some("--root") => options.root = value("--root")?,
            Some("--help" | "-h") => {
                print!("{HELP}");
                return Ok(None);
            }
            Some("--version") => {
                println!("unit-busd {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            _ => return Err(StartError::Option(arg)),
        }
    }
    Ok(Some(options))
}

fn start(options: Options) -> Result<(), StartError> {
    let mut listeners = Vec::new();
    for passed in sd_daemon::listen_fds().map_err(StartError::Listen)? {
        match passed.name.as_str() {
            "private" => listeners.push(Listener {
                door: Door::Private,
                socket: passed.fd,
            }),
            "system_bus" => listeners.push(Listener {
                door: Door::Bus,
                socket: passed.fd,
            }),
            name => tracing::warn!(
                name,
                "a passed descriptor has a name that means nothing here"
            ),
        }
    }
    for (path, door, mode) in [
        (options.private, Door::Private, 0o600),
        (options.system_bus, Door::Bus, 0o666),
    ] {
        if let Some(path) = path {
            let socket = bind(&path, mode).map_err(|source| StartError::Bind { path, source })?;
            listeners.push(Listener { door, socket });
        }
    }
    if listeners.is_empty() {
        return Err(StartError::NoSocket);
    }
    let world = World {
        cgroups: options.cgroups,
        root: options.root,
    };
    let guid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let guid: String = guid.chars().filter(char::is_ascii_hexdigit).collect();
    let mut server =
        Server::new(listeners, options.control, world, guid).map_err(StartError::Loop)?;
    if let Err(error) = sd_daemon::notify(&[sd_daemon::State::Ready]) {
        tracing::warn!(error = %telemetry::chain(&error), "failed to say that we are ready");
    }
    server.run().map_err(StartError::Loop)
}

/// Listen at a path that an earlier run may have left behind.
fn bind(path: &std::path::Path, mode: u32) -> io::Result<OwnedFd> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener.into())
}
