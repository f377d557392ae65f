//! The sockets that PID 1 binds before any unit: callers wait while a daemon restarts, and are not refused.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;

use unit_file::settings::{Listen, ListenKind, SocketSettings};

use crate::handover::Handover;
use crate::manager::{BUS_SOCKETS, Inherited};
use crate::sockets;

const NOTIFY: &str = "/run/systemd/notify";
/// A real bus daemon owns the system bus where one is installed.
const BUS_DAEMONS: [&str; 3] = [
    "/usr/bin/dbus-daemon",
    "/usr/bin/dbus-broker-launch",
    "/bin/dbus-daemon",
];

/// Binds them all.
pub(super) fn bind(facts: &Handover) -> Result<Inherited, String> {
    let mut held = BTreeMap::new();
    for (path, _) in BUS_SOCKETS {
        let is_bus = path.ends_with("system_bus_socket");
        if is_bus && BUS_DAEMONS.iter().any(|p| Path::new(p).exists()) {
            continue;
        }
        let mode = if is_bus { 0o666 } else { 0o600 };
        held.insert(
            path.to_owned(),
            open(ListenKind::Stream, path, mode, false)?,
        );
    }
    let watchdog = facts.watchdog_fd.and_then(syscalls::spawn::take_passed_fd);
    if let Some(fd) = &watchdog {
        let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
    }
    Ok(Inherited {
        control: open(
            ListenKind::SequentialPacket,
            init_control::SOCKET_PATH,
            0o600,
            false,
        )?,
        notify: open(ListenKind::Datagram, NOTIFY, 0o777, true)?,
        held,
        watchdog,
        fds: HashMap::new(),
        reports: HashMap::new(),
        next_token: 1,
        panics: Vec::new(),
    })
}

fn open(kind: ListenKind, path: &str, mode: u32, credentials: bool) -> Result<OwnedFd, String> {
    let settings = SocketSettings {
        socket_mode: mode,
        pass_credentials: credentials,
        receive_buffer: credentials.then_some(8 << 20),
        ..SocketSettings::default()
    };
    sockets::open(
        &settings,
        &Listen {
            kind,
            address: path.to_owned(),
        },
    )
}
