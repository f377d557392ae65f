//! The connection to PID 1: frames out, frames in, and who waits for what.
//!
//! It comes back by itself: when PID 1 re-executes, the socket stays bound, so a new connection is there at once.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use init_control::frame::{self, Assembler, FrameError};
use init_control::{ClientFrame, Request, ServerFrame};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// Wait between attempts to connect.
const RETRY: Duration = Duration::from_millis(200);
/// Packets queued for PID 1 at most.
const MAX_QUEUE: usize = 4096;

/// Why the connection to PID 1 failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlFailure {
    #[error("failed to connect to {path}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("PID 1 closed the connection")]
    Closed,
    #[error("failed to speak to PID 1")]
    Io(#[source] io::Error),
    #[error("failed to read PID 1's frames")]
    Frame(#[source] FrameError),
    #[error("PID 1 does not read its requests")]
    Stuck,
}

/// The connection; `W` is what waits for an answer.
#[derive(Debug)]
pub(crate) struct Control<W> {
    path: PathBuf,
    socket: Option<OwnedFd>,
    retry_at: Option<Instant>,
    assembler: Assembler,
    output: VecDeque<Vec<u8>>,
    waiting: HashMap<u32, W>,
    next_id: u32,
    buffer: Vec<u8>,
}

impl<W> Control<W> {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            socket: None,
            retry_at: None,
            assembler: Assembler::new(),
            output: VecDeque::new(),
            waiting: HashMap::new(),
            next_id: 1,
            buffer: vec![0; frame::MAX_PACKET],
        }
    }

    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// When to try to connect again; none while connected.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        if self.socket.is_some() {
            None
        } else {
            self.retry_at
        }
    }

    /// Connect if it is time; true when a new connection was made.
    pub(crate) fn connect(&mut self, now: Instant) -> Result<bool, ControlFailure> {
        if self.socket.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return Ok(false);
        }
        match self.open() {
            Ok(socket) => {
                self.socket = Some(socket);
                self.retry_at = None;
                Ok(true)
            }
            Err(source) => {
                self.retry_at = Some(now + RETRY);
                Err(ControlFailure::Connect {
                    path: self.path.clone(),
                    source,
                })
            }
        }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        Ok(socket)
    }

    /// Queue a request; false (and `waiter` given back) where PID 1 is far behind or cannot be asked.
    pub(crate) fn ask(&mut self, request: Request, waiter: W) -> Result<(), W> {
        if self.output.len() >= MAX_QUEUE {
            return Err(waiter);
        }
        let id = self.next_id;
        let Ok(packets) = frame::encode(&ClientFrame { id, request }) else {
            return Err(waiter);
        };
        self.next_id = self.next_id.wrapping_add(1);
        self.waiting.insert(id, waiter);
        self.output.extend(packets);
        Ok(())
    }

    /// Who waits for this answer.
    pub(crate) fn take_waiter(&mut self, id: u32) -> Option<W> {
        self.waiting.remove(&id)
    }

    /// The connection is lost: all who wait, in the order of their questions.
    pub(crate) fn reset(&mut self, now: Instant) -> Vec<W> {
        self.socket = None;
        self.retry_at = Some(now);
        self.assembler = Assembler::new();
        self.output.clear();
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        waiting.sort_by_key(|(id, _)| *id);
        waiting.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Write what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), ControlFailure> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        while let Some(packet) = self.output.front() {
            match rustix::net::send(socket, packet, SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.output.pop_front();
                }
                Err(Errno::AGAIN) => {
                    return if self.output.len() >= MAX_QUEUE {
                        Err(ControlFailure::Stuck)
                    } else {
                        Ok(())
                    };
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ControlFailure::Closed),
                Err(error) => return Err(ControlFailure::Io(error.into())),
            }
        }
        Ok(())
    }

    /// One frame, if a whole one is there.
    pub(crate) fn receive(&mut self) -> Result<Option<ServerFrame>, ControlFailure> {
        loop {
            let Some(socket) = &self.socket else {
                return Ok(None);
            };
            match rustix::net::recv(socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) => return Err(ControlFailure::Closed),
                Ok((count, _)) => {
                    let frame = self
                        .assembler
                        .push(&self.buffer[..count])
                        .map_err(ControlFailure::Frame)?;
                    if frame.is_some() {
                        return Ok(frame);
                    }
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(ControlFailure::Closed),
                Err(error) => return Err(ControlFailure::Io(error.into())),
            }
        }
    }
}
