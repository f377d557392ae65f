//! One connection on the `stdout` socket.
//!
//! Data is looked at in the socket, stored, and only then taken out of it. So a journald that is killed loses nothing:
//! its successor gets the connection back from the manager's descriptor store, with all that was not stored yet. A line
//! that has no end yet simply stays in the socket.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use journal::Id128;
use syscalls::socket::{Credentials, peek, peer_credentials, pending};

use super::lines::{self, Break, Header, HeaderState};
use super::sockets::DIR;

/// What one look into a stream has given.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing new.
    Idle,
    /// The first `0` bytes of the buffer can be cut into lines, by this sender; the rest ends as said.
    Data(usize, Credentials, Option<Break>),
    /// The other end is closed and everything was read.
    Closed,
}

/// A connection and what is known of its sender.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) fd: OwnedFd,
    /// `_STREAM_ID`.
    pub(crate) id: String,
    pub(crate) header: Option<Header>,
    /// Whether the one who connected is root, whose word about the unit counts.
    pub(crate) trusted: bool,
    /// The other end has hung up; what is in the socket is all that comes.
    pub(crate) hung_up: bool,
    peer: Credentials,
    state_path: PathBuf,
    /// Name in the manager's descriptor store.
    pub(crate) stored_as: String,
}

impl Stream {
    /// Takes a connection: a new one, or one that the manager's store gave back.
    pub(crate) fn new(root: &Path, fd: OwnedFd, from_store: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        rustix::net::sockopt::set_socket_passcred(&fd, true)?;
        let stat = rustix::fs::fstat(&fd)?;
        let peer = peer_credentials(&fd)?;
        let state_path = root
            .join(DIR)
            .join("streams")
            .join(format!("{}:{}", stat.st_dev, stat.st_ino));
        let stored_as = format!("stream-{}", stat.st_ino);
        let kept = if from_store {
            fs::read_to_string(&state_path).ok()
        } else {
            None
        };
        let (header, id) = match kept.as_deref().and_then(Header::from_state) {
            Some((header, id)) => (Some(header), id),
            None => (None, Id128::random()?.to_string()),
        };
        Ok(Self {
            fd,
            id,
            header,
            trusted: peer.uid == 0,
            hung_up: false,
            peer,
            state_path,
            stored_as,
        })
    }

    /// Looks at what is in the socket, without taking it.
    pub(crate) fn look(&self, buffer: &mut [u8]) -> Look {
        let size = buffer.len();
        // Asked before looking: what arrives between the two must not be taken for another process's.
        let available = pending(&self.fd).unwrap_or(0);
        let message = match peek(&self.fd, buffer) {
            Ok(message) => message,
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Look::Idle;
            }
            Err(_) => return Look::Closed,
        };
        let len = message.len;
        if len == 0 {
            return Look::Closed;
        }
        let sender = message.credentials.unwrap_or(self.peer);
        // The kernel ends a look where another process's data begins.
        let more = len < available.min(size);
        let rest = match (more, self.hung_up && len < size) {
            (true, _) => Some(Break::PidChange),
            (false, true) => Some(Break::Eof),
            (false, false) => None,
        };
        Look::Data(len, sender, rest)
    }

    /// Reads the header at the start of `data`; gives the bytes used. The header is kept on disk before it leaves the socket.
    pub(crate) fn read_header(
        &mut self,
        data: &[u8],
        rest: Option<Break>,
    ) -> Result<usize, &'static str> {
        match lines::header(data) {
            HeaderState::Complete(header, used) => {
                if let Err(err) = fs::write(&self.state_path, header.to_state(&self.id)) {
                    tracing::warn!(path = %self.state_path.display(), "failed to keep a stream's header: {err}");
                }
                self.header = Some(header);
                Ok(used)
            }
            HeaderState::Incomplete if rest.is_some() => Err("ends early"),
            HeaderState::Incomplete => Ok(0),
            HeaderState::Invalid(what) => Err(what),
        }
    }

    /// Takes `len` bytes out of the socket that have been dealt with.
    pub(crate) fn take(&self, len: usize, scratch: &mut [u8]) {
        let mut left = len;
        while left > 0 {
            let part = left.min(scratch.len());
            match rustix::io::read(&self.fd, &mut scratch[..part]) {
                Ok(0) => break,
                Ok(n) => left -= n,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }

    /// The stream has ended: nothing of it needs to be kept.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(&self.state_path);
    }
}
