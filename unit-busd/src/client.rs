//! One D-Bus connection: buffers, identity, what it asked for. Bounded in every direction.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use dbus_api::wire::Message;
use syscalls::socket::Credentials;

use crate::auth::{Handshake, Progress};
use crate::match_rule::MatchRule;

/// Largest message taken from root and from others.
const MAX_INPUT_ROOT: usize = 4 * 1024 * 1024;
const MAX_INPUT_OTHERS: usize = 256 * 1024;
/// Bytes waiting to be read by a client before it is dropped.
const MAX_OUTPUT: usize = 16 * 1024 * 1024;
/// Bytes read at one turn, so that one client cannot hold up the others.
const TURN: usize = 256 * 1024;
/// Descriptors waiting for their message.
const MAX_FDS: usize = 64;

/// Calls in work at PID 1 for one client; more are left in its socket.
pub(crate) const MAX_PENDING: usize = 64;
/// Rules of one client.
pub(crate) const MAX_RULES: usize = 512;
/// Names of one client.
pub(crate) const MAX_NAMES: usize = 32;

/// Where the connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `/run/systemd/private`: no names, always subscribed to the manager's signals.
    Private,
    /// The façade of the system bus.
    Bus,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("closed by the client")]
    Closed,
    #[error("no D-Bus handshake")]
    Handshake,
    #[error("message of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("malformed message: {0}")]
    Malformed(dbus_api::wire::DecodeError),
    #[error("does not read what it is sent")]
    Slow,
    #[error("too many descriptors")]
    Descriptors,
    #[error("connection failed: {0}")]
    Io(io::Error),
    #[error("spoke before Hello")]
    NoHello,
    #[error("PID 1 went away")]
    ManagerGone,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Rc<[u8]>,
    at: usize,
    fds: Vec<OwnedFd>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) door: Door,
    pub(crate) peer: Credentials,
    /// `:1.7` after Hello.
    pub(crate) unique: Option<String>,
    pub(crate) rules: Vec<MatchRule>,
    pub(crate) rule_texts: Vec<String>,
    /// Asked for unit signals by `Subscribe`.
    pub(crate) subscribed: bool,
    /// Units held by `RefUnit`, once per call.
    pub(crate) refs: Vec<String>,
    /// Well-known names owned.
    pub(crate) names: BTreeSet<String>,
    /// Calls in work at PID 1.
    pub(crate) pending: usize,
    pub(crate) since: Instant,
    /// What epoll is told to look for.
    pub(crate) interest: (bool, bool),
    socket: OwnedFd,
    handshake: Option<Handshake>,
    passes_fds: bool,
    input: Vec<u8>,
    input_fds: VecDeque<OwnedFd>,
    output: VecDeque<Outgoing>,
    output_size: usize,
}

impl Client {
    pub(crate) fn new(
        socket: OwnedFd,
        door: Door,
        peer: Credentials,
        guid: &str,
        now: Instant,
    ) -> Self {
        Self {
            door,
            peer,
            unique: None,
            rules: Vec::new(),
            rule_texts: Vec::new(),
            subscribed: false,
            refs: Vec::new(),
            names: BTreeSet::new(),
            pending: 0,
            since: now,
            interest: (true, false),
            socket,
            handshake: Some(Handshake::new(peer.uid, guid)),
            passes_fds: false,
            input: Vec::new(),
            input_fds: VecDeque::new(),
            output: VecDeque::new(),
            output_size: 0,
        }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Is the handshake over?
    pub(crate) fn is_ready(&self) -> bool {
        self.handshake.is_none()
    }

    /// Is there something to be written?
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Read what is there, up to one turn's share.
    pub(crate) fn read(&mut self) -> Result<(), End> {
        let mut chunk = [0_u8; 16 * 1024];
        let mut total = 0;
        while total < TURN {
            match syscalls::socket::receive(&self.socket, &mut chunk) {
                Ok(message) if message.len == 0 => {
                    // What was read before counts: a client may write and close.
                    return if total == 0 { Err(End::Closed) } else { Ok(()) };
                }
                Ok(message) => {
                    total += message.len;
                    self.input.extend_from_slice(&chunk[..message.len]);
                    self.input_fds.extend(message.fds);
                    if self.input_fds.len() > MAX_FDS {
                        return Err(End::Descriptors);
                    }
                    if message.len < chunk.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(End::Closed);
                }
                Err(error) => return Err(End::Io(error)),
            }
        }
        Ok(())
    }

    /// The next whole message, after the handshake.
    pub(crate) fn next_message(&mut self) -> Result<Option<(Message, Vec<OwnedFd>)>, End> {
        if let Some(handshake) = &mut self.handshake {
            let mut answer = Vec::new();
            let progress = handshake.feed(&mut self.input, &mut answer);
            self.passes_fds = handshake.passes_fds();
            if !answer.is_empty() {
                self.send(answer.into(), Vec::new())?;
            }
            match progress {
                Progress::Going => return Ok(None),
                Progress::Refused => return Err(End::Handshake),
                Progress::Done => self.handshake = None,
            }
        }
        let Some(size) = Message::length(&self.input).map_err(End::Malformed)? else {
            return Ok(None);
        };
        let limit = if self.peer.uid == 0 {
            MAX_INPUT_ROOT
        } else {
            MAX_INPUT_OTHERS
        };
        if size > limit {
            return Err(End::TooLarge { size, limit });
        }
        if self.input.len() < size {
            return Ok(None);
        }
        let message = Message::parse(&self.input[..size]).map_err(End::Malformed)?;
        self.input.drain(..size);
        if self.input.is_empty() {
            // A large message came and went: do not hold its memory.
            self.input = Vec::new();
        }
        let count = message.unix_fds as usize;
        if count > self.input_fds.len() {
            return Err(End::Descriptors);
        }
        let fds = self.input_fds.drain(..count).collect();
        Ok(Some((message, fds)))
    }

    /// Queue bytes; descriptors go with the first of them, and only to a client that agreed to take some.
    pub(crate) fn send(&mut self, bytes: Rc<[u8]>, fds: Vec<OwnedFd>) -> Result<(), End> {
        if self.output_size + bytes.len() > MAX_OUTPUT {
            return Err(End::Slow);
        }
        let fds = if self.passes_fds { fds } else { Vec::new() };
        self.output_size += bytes.len();
        self.output.push_back(Outgoing { bytes, at: 0, fds });
        Ok(())
    }

    /// Write what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), End> {
        while let Some(front) = self.output.front_mut() {
            let fds: Vec<_> = front.fds.iter().map(AsFd::as_fd).collect();
            match syscalls::socket::send_with_fds(&self.socket, &front.bytes[front.at..], &fds) {
                Ok(count) => {
                    front.at += count;
                    front.fds.clear();
                    self.output_size -= count;
                    if front.at == front.bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Err(End::Closed);
                }
                Err(error) => return Err(End::Io(error)),
            }
        }
        Ok(())
    }
}
