//! The engine's front door.

use init_control::Request;

use crate::api::{Action, Event, Host, Now, Output};

/// Manager-wide settings (the `[Manager]` section of systemd's system.conf, built in here).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Path of the notify socket, put into NOTIFY_SOCKET.
    pub notify_socket: String,
    /// The manager's environment block, `NAME=value`.
    pub environment: Vec<String>,
    /// Print status lines (`show_status`).
    pub status_lines: bool,
    /// Version text of the manager.
    pub version: String,
    /// Runs in the initramfs.
    pub in_initrd: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            notify_socket: "/run/systemd/notify".to_owned(),
            environment: vec![
                "LANG=C.UTF-8".to_owned(),
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ],
            status_lines: true,
            version: String::new(),
            in_initrd: false,
        }
    }
}

/// Why a saved state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not what [`Engine::serialise`] wrote.
    #[error("saved manager state cannot be read: {0}")]
    Malformed(String),
}

/// All units, jobs and timers.
#[derive(Debug)]
pub struct Engine {
    config: Config,
}

impl Engine {
    /// An engine without units; send [`Event::Boot`] first.
    pub fn new(config: Config) -> Engine {
        Engine { config }
    }

    /// The engine as it was when [`Engine::serialise`] ran; unit files are read afresh through the host.
    /// The output re-arms watches (sockets, paths, control groups); perform it before the first event.
    pub fn restore(
        config: Config,
        state: &[u8],
        _now: Now,
        _host: &dyn Host,
    ) -> Result<(Engine, Output), StateError> {
        if state.is_empty() {
            return Err(StateError::Malformed("it is empty".to_owned()));
        }
        Ok((Engine { config }, Vec::new()))
    }

    /// Handles one event.
    pub fn handle(&mut self, _now: Now, event: Event, _host: &dyn Host) -> Output {
        match event {
            Event::Request {
                id,
                request: Request::UnitFiles(request),
            } => {
                vec![Action::UnitFiles { id, request }]
            }
            Event::Request { id, request } => {
                vec![Action::Forward {
                    id,
                    request: Box::new(request),
                }]
            }
            _ => Vec::new(),
        }
    }

    /// When [`Event::TimerElapsed`] is due next, on the monotonic clock in microseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// The state for daemon-reexec.
    pub fn serialise(&self) -> Vec<u8> {
        self.config.version.as_bytes().to_vec()
    }
}
