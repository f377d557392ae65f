//! The control socket: connections, frames in, replies and signals out. What requests mean is the engine's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use init_control::frame::{Assembler, MAX_PACKET, encode};
use init_control::{ClientFrame, Request, ServerFrame, Signal, SubscribeLevel};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};
use unit_engine::RequestId;
use unit_engine::api::ReplyResult;

use super::poll::{Poll, Source};
use crate::log::{self, Level};

/// A client that lets more than this wait is cut off; it reconnects and asks again.
const MAX_QUEUED: usize = 64 << 20;

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    assembler: Assembler,
    out: VecDeque<Vec<u8>>,
    queued: usize,
    level: SubscribeLevel,
    writing: bool,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Control {
    listener: OwnedFd,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    requests: HashMap<u64, (u64, u32)>,
    next_request: u64,
}

impl Control {
    /// Serves this listening socket.
    pub(crate) fn new(listener: OwnedFd) -> Control {
        Control {
            listener,
            clients: BTreeMap::new(),
            next_client: 1,
            requests: HashMap::new(),
            next_request: 1,
        }
    }

    /// The listening socket.
    pub(crate) fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    /// Takes new connections.
    pub(crate) fn accept(&mut self, poll: &mut Poll) {
        while let Ok(fd) =
            rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let id = self.next_client;
            self.next_client += 1;
            if poll.add_read(&fd, Source::Client(id)).is_ok() {
                let client = Client {
                    fd,
                    assembler: Assembler::new(),
                    out: VecDeque::new(),
                    queued: 0,
                    level: SubscribeLevel::Off,
                    writing: false,
                };
                self.clients.insert(id, client);
            }
        }
    }

    /// Reads what a client sent and writes what waits for it. Returns its requests.
    pub(crate) fn ready(&mut self, id: u64, poll: &mut Poll) -> Vec<(RequestId, Request)> {
        let mut found = Vec::new();
        let Some(client) = self.clients.get_mut(&id) else {
            return found;
        };
        let mut buffer = vec![0; MAX_PACKET];
        let gone = loop {
            match rustix::net::recv(
                &client.fd,
                &mut buffer[..],
                rustix::net::RecvFlags::DONTWAIT,
            ) {
                Ok((0, _)) => break true,
                Ok((len, _)) => match client.assembler.push::<ClientFrame>(&buffer[..len]) {
                    Ok(Some(frame)) => {
                        let number = self.next_request;
                        self.next_request += 1;
                        self.requests.insert(number, (id, frame.id));
                        found.push((RequestId(number), frame.request));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        log::say(
                            Level::Warning,
                            format_args!("control connection closed: {error}"),
                        );
                        break true;
                    }
                },
                Err(Errno::AGAIN) => break false,
                Err(Errno::INTR) => {}
                Err(_) => break true,
            }
        };
        if gone {
            self.drop_client(id, poll);
        } else {
            self.flush(id, poll);
        }
        found
    }

    /// Answers a request; its client may be gone.
    pub(crate) fn reply(&mut self, request: RequestId, result: ReplyResult, poll: &mut Poll) {
        if let Some((client, id)) = self.requests.remove(&request.0) {
            self.send(client, &ServerFrame::Reply { id, result }, poll);
        }
    }

    /// Changes which signals the client behind a request gets.
    pub(crate) fn subscribe(&mut self, request: RequestId, level: SubscribeLevel) {
        let client = self
            .requests
            .get(&request.0)
            .and_then(|(client, _)| self.clients.get_mut(client));
        if let Some(client) = client {
            client.level = level;
        }
    }

    /// Sends a signal to those who want it.
    pub(crate) fn broadcast(&mut self, signal: &Signal, poll: &mut Poll) {
        let needed = match signal {
            Signal::UnitChanged { .. } | Signal::UnitNew { .. } | Signal::UnitRemoved { .. } => {
                SubscribeLevel::Units
            }
            _ => SubscribeLevel::Jobs,
        };
        let wanting: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| c.level >= needed)
            .map(|(id, _)| *id)
            .collect();
        for id in wanting {
            self.send(id, &ServerFrame::Signal(signal.clone()), poll);
        }
    }

    /// Writes out what can be written without waiting, for the last words before an exec or the end.
    pub(crate) fn flush_all(&mut self, poll: &mut Poll) {
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            self.flush(id, poll);
        }
    }

    fn send(&mut self, id: u64, frame: &ServerFrame, poll: &mut Poll) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        match encode(frame) {
            Ok(packets) => {
                client.queued += packets.iter().map(Vec::len).sum::<usize>();
                client.out.extend(packets);
            }
            Err(error) => log::say(Level::Error, format_args!("control frame lost: {error}")),
        }
        if client.queued > MAX_QUEUED {
            log::say(
                Level::Warning,
                format_args!("control connection closed: its client does not read"),
            );
            self.drop_client(id, poll);
        } else if !client.writing {
            self.flush(id, poll);
        }
    }

    fn flush(&mut self, id: u64, poll: &mut Poll) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        while let Some(packet) = client.out.front() {
            match rustix::net::send(
                &client.fd,
                packet,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(_) => {
                    client.queued -= packet.len().min(client.queued);
                    client.out.pop_front();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.drop_client(id, poll),
            }
        }
        let want = !client.out.is_empty();
        if want != client.writing {
            client.writing = want;
            let events = if want {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            let _ = poll.modify(client.fd.as_fd(), &Source::Client(id), events);
        }
    }

    fn drop_client(&mut self, id: u64, poll: &mut Poll) {
        if let Some(client) = self.clients.remove(&id) {
            poll.remove(&client.fd, &Source::Client(id));
        }
        self.requests.retain(|_, (client, _)| *client != id);
    }
}
