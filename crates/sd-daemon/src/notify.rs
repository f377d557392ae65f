//! Messages to the manager's notify socket.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, UCred, connect, sendmsg, socket_with,
};
use rustix::process::{Pid, getgid, getuid};

/// One assignment of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State<'a> {
    /// `READY=1`: start-up, or a reload, is complete.
    Ready,
    /// `RELOADING=1`, with the time stamp that `Type=notify-reload` asks for.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
    /// `STATUS=`: one line for people.
    Status(&'a str),
    /// `ERRNO=`.
    Errno(i32),
    /// `MAINPID=`.
    MainPid(u32),
    /// `WATCHDOG=1`: still alive.
    Watchdog,
    /// `WATCHDOG=trigger`: act as if the watchdog had run out.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`: change the interval.
    WatchdogInterval(Duration),
    /// `EXTEND_TIMEOUT_USEC=`: this much more time for the phase that is running.
    ExtendTimeout(Duration),
    /// `FDSTORE=1`: keep the descriptors of this message over a restart.
    FdStore,
    /// `FDSTOREREMOVE=1`: forget those named by `FdName`.
    FdStoreRemove,
    /// `FDNAME=`.
    FdName(&'a str),
    /// `FDPOLL=0`: keep a stored descriptor also when its other end is closed.
    NoFdPoll,
    /// `BARRIER=1`: the one descriptor of the message is closed when all before it was handled.
    Barrier,
}

/// The message could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// `NOTIFY_SOCKET` is neither an absolute path nor an abstract name (`@…`).
    #[error("NOTIFY_SOCKET={0} is not a unix socket address")]
    Address(String),
    /// The socket does not take the message.
    #[error("failed to notify the service manager at {path}")]
    Send {
        /// Address of the socket.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl NotifyError {
    /// Whether the manager's queue was full; the message can be sent later.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Send { source, .. } => source.kind() == std::io::ErrorKind::WouldBlock,
            Self::Address(_) => false,
        }
    }
}

/// Sends `states` to the manager. `Ok(false)` when there is none to notify.
pub fn notify(states: &[State<'_>]) -> Result<bool, NotifyError> {
    notify_with_fds(states, &[])
}

/// Like [`notify`], with descriptors attached.
pub fn notify_with_fds(states: &[State<'_>], fds: &[BorrowedFd<'_>]) -> Result<bool, NotifyError> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => notify_to(&path, states, fds, None).map(|()| true),
        None => Ok(false),
    }
}

/// Keeps `fds` under `name` in the manager's descriptor store; a restart gets them back from
/// [`listen_fds`](crate::listen_fds). The unit needs `FileDescriptorStoreMax=`.
pub fn store_fds(name: &str, fds: &[BorrowedFd<'_>]) -> Result<bool, NotifyError> {
    notify_with_fds(&[State::FdStore, State::FdName(name)], fds)
}

/// Drops everything stored under `name`.
pub fn remove_stored(name: &str) -> Result<bool, NotifyError> {
    notify(&[State::FdStoreRemove, State::FdName(name)])
}

/// Sends to a given socket, if asked on behalf of the process `pid` (needs privilege; `systemd-notify` uses it for its parent).
pub fn notify_to(
    address: &OsStr,
    states: &[State<'_>],
    fds: &[BorrowedFd<'_>],
    pid: Option<Pid>,
) -> Result<(), NotifyError> {
    Notifier::connect(address)?.send(states, fds, pid)
}

/// A connection to the manager's notify socket, for programs that notify often or must not wait for the manager.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    address: String,
}

impl Notifier {
    /// A connection to the manager of this process that never waits; `None` when there is no manager. While the manager's
    /// queue is full, sending fails and [`NotifyError::is_full`] says so; the descriptor becomes writable afterwards.
    pub fn from_env() -> Result<Option<Self>, NotifyError> {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let notifier = Self::connect(&address)?;
        rustix::io::ioctl_fionbio(&notifier.socket, true).map_err(|errno| NotifyError::Send {
            path: notifier.address.clone(),
            source: errno.into(),
        })?;
        Ok(Some(notifier))
    }

    fn connect(address: &OsStr) -> Result<Self, NotifyError> {
        let shown = || address.to_string_lossy().into_owned();
        let unix = match address.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddrUnix::new_abstract_name(name),
            [b'/', ..] => SocketAddrUnix::new(PathBuf::from(address)),
            _ => return Err(NotifyError::Address(shown())),
        }
        .map_err(|_| NotifyError::Address(shown()))?;
        socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .and_then(|socket| connect(&socket, &unix).map(|()| socket))
        .map(|socket| Self {
            socket,
            address: shown(),
        })
        .map_err(|errno| NotifyError::Send {
            path: shown(),
            source: errno.into(),
        })
    }

    /// Sends one message, if asked on behalf of the process `pid`.
    pub fn send(
        &self,
        states: &[State<'_>],
        fds: &[BorrowedFd<'_>],
        pid: Option<Pid>,
    ) -> Result<(), NotifyError> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let text = message(states, now);
        let sent = match self.send_text(&text, fds, pid) {
            // Not allowed to speak for another process: say it in our own name.
            Err(rustix::io::Errno::PERM) if pid.is_some() => self.send_text(&text, fds, None),
            other => other,
        };
        sent.map_err(|errno| NotifyError::Send {
            path: self.address.clone(),
            source: errno.into(),
        })
    }

    fn send_text(
        &self,
        text: &str,
        fds: &[BorrowedFd<'_>],
        pid: Option<Pid>,
    ) -> rustix::io::Result<()> {
        // Space for the 253 descriptors the kernel takes in one message, and the credentials.
        let mut space =
            [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(rustix::io::Errno::TOOBIG);
        }
        if let Some(pid) = pid {
            let cred = UCred {
                pid,
                uid: getuid(),
                gid: getgid(),
            };
            control.push(SendAncillaryMessage::ScmCredentials(cred));
        }
        sendmsg(
            &self.socket,
            &[IoSlice::new(text.as_bytes())],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map(drop)
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The text of a message. Line breaks inside values become spaces: they would start another assignment.
fn message(states: &[State<'_>], monotonic: rustix::time::Timespec) -> String {
    let mut text = String::new();
    for state in states {
        // Writing to a String cannot fail.
        let _ = match state {
            State::Ready => text.write_str("READY=1"),
            State::Reloading => {
                let usec = monotonic.tv_sec as i128 * 1_000_000 + monotonic.tv_nsec as i128 / 1000;
                write!(text, "RELOADING=1\nMONOTONIC_USEC={usec}")
            }
            State::Stopping => text.write_str("STOPPING=1"),
            State::Status(line) => write!(text, "STATUS={}", line.replace(['\n', '\0'], " ")),
            State::Errno(errno) => write!(text, "ERRNO={errno}"),
            State::MainPid(pid) => write!(text, "MAINPID={pid}"),
            State::Watchdog => text.write_str("WATCHDOG=1"),
            State::WatchdogTrigger => text.write_str("WATCHDOG=trigger"),
            State::WatchdogInterval(d) => write!(text, "WATCHDOG_USEC={}", d.as_micros()),
            State::ExtendTimeout(d) => write!(text, "EXTEND_TIMEOUT_USEC={}", d.as_micros()),
            State::FdStore => text.write_str("FDSTORE=1"),
            State::FdStoreRemove => text.write_str("FDSTOREREMOVE=1"),
            State::FdName(name) => write!(text, "FDNAME={}", name.replace(['\n', ':'], "_")),
            State::NoFdPoll => text.write_str("FDPOLL=0"),
            State::Barrier => text.write_str("BARRIER=1"),
        };
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use rustix::time::Timespec;
    use std::io::{IoSliceMut, Read, Seek, Write};
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn messages_are_lines_of_assignments() {
        let at = Timespec {
            tv_sec: 2,
            tv_nsec: 3_000_000,
        };
        let text = message(
            &[
                State::Ready,
                State::Status("two\nlines"),
                State::Reloading,
                State::ExtendTimeout(Duration::from_secs(1)),
                State::FdName("a:b"),
            ],
            at,
        );
        assert_eq!(
            text,
            "READY=1\nSTATUS=two lines\nRELOADING=1\nMONOTONIC_USEC=2003000\nEXTEND_TIMEOUT_USEC=1000000\nFDNAME=a_b\n"
        );
    }

    #[test]
    fn descriptors_arrive_with_their_message() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).expect("bind");
        let mut file = tempfile::tempfile().expect("temp file");
        file.write_all(b"kept").expect("write");
        let states = [State::FdStore, State::FdName("stream")];
        notify_to(path.as_os_str(), &states, &[file.as_fd()], None).expect("sent");

        let mut buf = [0u8; 256];
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut buf)];
        let got = recvmsg(&receiver, &mut iov, &mut control, RecvFlags::empty()).expect("received");
        let fds: Vec<_> = control
            .drain()
            .flat_map(|m| match m {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(&buf[..got.bytes], b"FDSTORE=1\nFDNAME=stream\n");
        let mut again = std::fs::File::from(fds.into_iter().next().expect("one descriptor"));
        again.rewind().expect("seek");
        let mut text = String::new();
        again.read_to_string(&mut text).expect("read");
        assert_eq!(text, "kept");
    }

    #[test]
    fn a_bad_address_is_named() {
        for bad in ["", "@", "relative"] {
            let err = notify_to(OsStr::new(bad), &[State::Ready], &[], None).expect_err("refused");
            assert!(matches!(err, NotifyError::Address(_)), "{bad}: {err}");
        }
    }
}
