//! Connections of commands to a monitor.

use crate::protocol::{self, Event};
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Output kept for a command that reads slowly.
const QUEUE: usize = 1 << 20;

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Its socket.
    pub socket: OwnedFd,
    /// Gets output.
    pub output: bool,
    /// Gives input.
    pub stdin: bool,
    /// Its output must not be dropped.
    pub lossless: bool,
    /// Wants to know the end.
    pub waits: bool,
    /// Its loss ends a container that lives in its unit.
    pub supervises: bool,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    dropped: u64,
    /// Is to be forgotten.
    pub closed: bool,
}

impl Client {
    /// A new connection.
    pub fn new(socket: OwnedFd) -> Client {
        Client {
            socket,
            output: false,
            stdin: false,
            lossless: false,
            waits: false,
            supervises: false,
            queue: VecDeque::new(),
            queued: 0,
            dropped: 0,
            closed: false,
        }
    }

    /// Whether packets wait for room.
    pub fn pending(&self) -> bool {
        !self.queue.is_empty() && !self.closed
    }

    /// Whether the container's output must wait for this command.
    pub fn blocks(&self) -> bool {
        self.lossless && self.output && !self.closed && self.queued > QUEUE
    }

    /// Sends output, or drops it when a reader that may lose some is too slow.
    pub fn send_output(&mut self, error: bool, bytes: &[u8]) {
        for piece in bytes.chunks(protocol::PIECE) {
            if !self.lossless && self.queued > QUEUE {
                self.dropped += 1;
                continue;
            }
            if self.dropped > 0 {
                let note = format!(
                    "\n[{} pieces of output dropped: the reader was too slow]\n",
                    self.dropped
                );
                self.dropped = 0;
                self.push([&b"e"[..], note.as_bytes()].concat());
            }
            self.push([if error { &b"e"[..] } else { &b"o"[..] }, piece].concat());
        }
    }

    /// Sends an event after all output before it.
    pub fn send(&mut self, event: &Event) {
        self.push(protocol::message(event));
    }

    /// Sends an event with a descriptor at once: used before any output.
    pub fn send_with(&mut self, event: &Event, fd: BorrowedFd<'_>) {
        if protocol::send_with(&self.socket, event, &[fd]).is_err() {
            self.closed = true;
        }
    }

    fn push(&mut self, packet: Vec<u8>) {
        self.queued += packet.len();
        self.queue.push_back(packet);
        self.flush();
    }

    /// Sends what there is room for.
    pub fn flush(&mut self) {
        while let Some(packet) = self.queue.front() {
            match rustix::net::send(
                &self.socket,
                packet,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(_) => {
                    self.queued -= packet.len();
                    self.queue.pop_front();
                }
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        || error == rustix::io::Errno::NOBUFS =>
                {
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.closed = true;
                    self.queue.clear();
                    self.queued = 0;
                    return;
                }
            }
        }
    }
}
