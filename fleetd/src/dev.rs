//! `fleetd dev`: one machine with a store in memory, for a first try without etcd and without
//! configuration. Everything is the real thing but the store, and ends with the process: its units
//! are unloaded.
//!
//! Where no service manager answers, nothing can be loaded or started; that is said at the start and
//! to every caller who asks for it, and the rest works.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_kv::MemKv;
use fleet_model::MachineId;

use crate::agent::ServiceManager;
use crate::clock::MachineClock;
use crate::config::Settings;
use crate::daemon::{ApiIo, DaemonError, End, Io, run};

/// What callers are told who want a unit started where nothing can start it.
const NO_MANAGER: &str = "no service manager answers on this machine: units can be submitted, \
                          listed, shown and destroyed, not loaded or started";

/// Why there is nothing to try.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// An address that is none.
    #[error("invalid address \"{0}\": expected unix://PATH or http://ADDRESS:PORT")]
    Address(String),
    /// An address that others reach.
    #[error("{0} is not a loopback address: whoever reaches it would control this machine")]
    Open(String),
    /// Nowhere to listen by default.
    #[error("no place for a socket: XDG_RUNTIME_DIR is not set")]
    NoPlace,
    /// Another process listens there.
    #[error("{0} is in use by a running process")]
    InUse(String),
    /// The address cannot be taken.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No room for files.
    #[error("failed to prepare {path}")]
    Directory {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A loopback address and port, for browsers.
    Http(std::net::SocketAddr),
}

impl Address {
    /// Reads `unix://PATH` or `http://ADDRESS:PORT`.
    pub fn parse(text: &str) -> Result<Self, DevError> {
        let invalid = || DevError::Address(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            let path = Path::new(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(invalid())
            };
        }
        let address = text.strip_prefix("http://").ok_or_else(invalid)?;
        let address = address
            .trim_end_matches('/')
            .replace("localhost:", "127.0.0.1:");
        let address: std::net::SocketAddr = address.parse().map_err(|_| invalid())?;
        if address.ip().is_loopback() {
            Ok(Self::Http(address))
        } else {
            Err(DevError::Open(address.to_string()))
        }
    }

    fn listen(&self) -> Result<OwnedFd, DevError> {
        let failed = |source| DevError::Listen {
            address: self.to_string(),
            source,
        };
        match self {
            Self::Http(address) => Ok(TcpListener::bind(address).map_err(failed)?.into()),
            Self::Unix(path) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(DevError::InUse(self.to_string()));
                }
                // A socket on which nobody listens is left over; anything else is not ours.
                use std::os::unix::fs::FileTypeExt as _;
                let stale = std::fs::symlink_metadata(path)
                    .is_ok_and(|found| found.file_type().is_socket());
                if stale {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                let mode = std::fs::Permissions::from_mode(0o660);
                std::fs::set_permissions(path, mode).map_err(failed)?;
                Ok(listener.into())
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http(address) => write!(f, "http://{address}"),
        }
    }
}

/// A place for what belongs to one user's processes.
fn runtime_directory() -> Result<PathBuf, DevError> {
    if rustix::process::geteuid().is_root() {
        return Ok("/run".into());
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .ok_or(DevError::NoPlace)
}

/// A machine to try things on, ready to be run.
#[derive(Debug)]
pub struct Dev {
    /// Settings of the daemon.
    pub settings: Settings,
    /// What it works with.
    pub io: Io,
    /// Where it listens.
    pub addresses: Vec<Address>,
    sockets: Vec<PathBuf>,
    directory: tempdir::Directory,
}

impl Dev {
    /// Takes addresses and makes directories. Without addresses there is one: `fleet.sock` in the
    /// user's runtime directory.
    pub fn prepare(
        mut settings: Settings,
        mut addresses: Vec<Address>,
        manager: Arc<dyn ServiceManager>,
    ) -> Result<Self, DevError> {
        if addresses.is_empty() {
            addresses.push(Address::Unix(runtime_directory()?.join("fleet.sock")));
        }
        let directory = tempdir::Directory::new()?;
        settings.units_directory = directory.path().join("units");
        settings.run_directory = directory.path().join("run");
        let id = std::fs::read_to_string(&settings.machine_id_file).unwrap_or_default();
        let id = id.trim();
        if MachineId::parse(id).is_none() || id == "uninitialized" {
            // Any will do: nobody else sees it.
            let file = directory.path().join("machine-id");
            let text = format!(
                "{:032x}\n",
                0xf1ee_7000_u128 + u128::from(std::process::id())
            );
            std::fs::write(&file, text).map_err(|source| DevError::Directory {
                path: file.display().to_string(),
                source,
            })?;
            settings.machine_id_file = file;
        }
        let mut sockets = Vec::new();
        let mut paths = Vec::new();
        for address in &addresses {
            sockets.push((address.to_string(), address.listen()?));
            if let Address::Unix(path) = address {
                paths.push(path.clone());
            }
        }
        let io = Io {
            sockets,
            manager,
            kv: Some(Arc::new(MemKv::new())),
            clock: Arc::new(MachineClock),
            api: ApiIo::default(),
        };
        Ok(Self {
            settings,
            io,
            addresses,
            sockets: paths,
            directory,
        })
    }

    /// Asks whether a service manager is there; what there is to say about that.
    pub async fn look_for_manager(&mut self) -> Option<&str> {
        if let Err(error) = self.io.manager.own_job().await {
            tracing::debug!("no service manager: {}", telemetry::chain(&error));
            self.io.api.no_manager = Some(NO_MANAGER.to_owned());
        }
        self.io.api.no_manager.as_deref()
    }

    /// Runs until `end` says so. Its units end with it: their files, and the store that knows them,
    /// are gone then.
    pub async fn run(
        &self,
        end: impl Future<Output = Result<End, DaemonError>>,
    ) -> Result<End, DaemonError> {
        let end = async {
            Ok(match end.await? {
                End::Reload => End::Reload,
                End::Exit | End::Leave => End::Leave,
            })
        };
        run(&self.settings, &self.io, end).await
    }

    /// Removes what it made.
    pub fn clean_up(self) {
        for path in &self.sockets {
            let _ = std::fs::remove_file(path);
        }
        self.directory.remove();
    }
}

mod tempdir {
    //! A directory of our own, removed at the end.

    use std::os::unix::fs::DirBuilderExt as _;
    use std::path::{Path, PathBuf};

    use super::{DevError, runtime_directory};

    #[derive(Debug)]
    pub(super) struct Directory(PathBuf);

    impl Directory {
        pub(super) fn new() -> Result<Self, DevError> {
            let base = runtime_directory().unwrap_or_else(|_| std::env::temp_dir());
            let path = base.join(format!("fleet-dev-{}", std::process::id()));
            // Must not exist: nobody has put it there for us.
            let mut builder = std::fs::DirBuilder::new();
            builder
                .mode(0o700)
                .create(&path)
                .map_err(|source| DevError::Directory {
                    path: path.display().to_string(),
                    source,
                })?;
            Ok(Self(path))
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }

        pub(super) fn remove(self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_local() {
        let said = |text: &str| match Address::parse(text) {
            Ok(address) => address.to_string(),
            Err(error) => format!("! {error}"),
        };
        for (text, expect) in [
            ("unix:///a/b.sock", "unix:///a/b.sock"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
            ("http://localhost:8080/", "http://127.0.0.1:8080"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(said(text), expect);
        }
        for text in ["unix://a", "tcp://x", "http://x", "http://127.0.0.1", ""] {
            assert!(said(text).starts_with("! invalid address"), "{text}");
        }
        assert!(said("http://0.0.0.0:80").contains("not a loopback address"));
    }
}
