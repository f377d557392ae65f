//! The sockets: passed by the service manager, or made here when there is none.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use rustix::net::{SocketType, getsockname, sockopt};

/// The directory of the sockets.
pub(crate) const DIR: &str = "run/systemd/journal";

/// Everything that journald listens on.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) native: OwnedFd,
    pub(crate) syslog: Option<OwnedFd>,
    pub(crate) stdout: UnixListener,
    pub(crate) varlink: Option<UnixListener>,
    /// Connections of `stdout` that the manager kept over our restart.
    pub(crate) streams: Vec<OwnedFd>,
}

/// A socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The environment's statement is wrong.
    #[error("failed to take the sockets of the service manager")]
    Passed(#[source] sd_daemon::ListenError),
    /// One that we make.
    #[error("failed to listen on {path}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Sockets {
    /// Sorts what was passed by kind and address, and makes what is missing below `root`.
    pub(crate) fn open(root: &Path) -> Result<Self, SocketError> {
        let passed = sd_daemon::listen_fds().map_err(SocketError::Passed)?;
        let under_manager = !passed.is_empty();
        let (mut native, mut syslog, mut stdout) = (None, None, None);
        let mut streams = Vec::new();
        for passed in passed {
            let fd = passed.fd;
            let path = local_path(&fd).unwrap_or_default();
            let listens = sockopt::socket_acceptconn(&fd).unwrap_or(false);
            match sockopt::socket_type(&fd) {
                Ok(SocketType::STREAM) if listens => stdout = Some(UnixListener::from(fd)),
                Ok(SocketType::STREAM) => streams.push(fd),
                Ok(SocketType::DGRAM) if path.ends_with("/dev-log") => syslog = Some(fd),
                Ok(SocketType::DGRAM) => native = Some(fd),
                _ => tracing::warn!(
                    name = passed.name,
                    "ignoring a passed descriptor of unknown kind"
                ),
            }
        }
        let dir = root.join(DIR);
        let bind = |path: &Path, source: io::Result<()>| {
            source.map_err(|source| SocketError::Bind {
                path: path.to_owned(),
                source,
            })
        };
        bind(&dir, fs::create_dir_all(dir.join("streams")))?;
        let native = native.map_or_else(|| datagram(&dir.join("socket")), Ok)?;
        let stdout = stdout.map_or_else(|| listen(&dir.join("stdout"), 0o666), Ok)?;
        let syslog = match syslog {
            // The manager decides whether there is a syslog socket.
            None if under_manager => None,
            None => Some(datagram(&dir.join("dev-log"))?),
            some => some,
        };
        for fd in [
            Some(native.as_fd()),
            syslog.as_ref().map(AsFd::as_fd),
            Some(stdout.as_fd()),
        ]
        .into_iter()
        .flatten()
        {
            // Harmless to repeat where the socket unit has said so already.
            let set = sockopt::set_socket_passcred(fd, true)
                .and_then(|()| rustix::io::ioctl_fionbio(fd, true));
            bind(&dir, set.map_err(io::Error::from))?;
        }
        for fd in [Some(native.as_fd()), syslog.as_ref().map(AsFd::as_fd)]
            .into_iter()
            .flatten()
        {
            // Without it entries lack the time at which they were sent, nothing else.
            let _ = syscalls::socket::set_timestamp(fd);
        }
        let varlink = listen(&dir.join("io.systemd.journal"), 0o600)
            .inspect_err(|err| tracing::warn!("{}", telemetry::chain(err)))
            .ok();
        Ok(Self {
            native,
            syslog,
            stdout,
            varlink,
            streams,
        })
    }
}

fn local_path(fd: &OwnedFd) -> Option<String> {
    let address = getsockname(fd).ok()?;
    let unix = rustix::net::SocketAddrUnix::try_from(address).ok()?;
    Some(unix.path()?.to_string_lossy().into_owned())
}

fn datagram(path: &Path) -> Result<OwnedFd, SocketError> {
    let make = || {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        // Not allowed to everybody, and not needed.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20);
        Ok(OwnedFd::from(socket))
    };
    make().map_err(|source| SocketError::Bind {
        path: path.to_owned(),
        source,
    })
}

fn listen(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let make = || {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    make().map_err(|source| SocketError::Bind {
        path: path.to_owned(),
        source,
    })
}
