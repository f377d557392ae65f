//! A DHCP client on a link: the state machine and the sockets it wants at the moment.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::dhcp::frame::{self, CLIENT_PORT, ETH_P_IP, SERVER_PORT};
use crate::dhcp::{Action, Client, Event, Lease, Message, Via};
use crate::netlink::Mac;

/// The client with its sockets.
#[derive(Debug)]
pub(super) struct Port {
    index: u32,
    name: String,
    mac: Mac,
    pub(super) client: Client,
    frames: Option<OwnedFd>,
    datagrams: Option<(Ipv4Addr, UdpSocket)>,
}

/// What others must know about a step of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A lease is in force.
    Acquired(Lease),
    /// It is not any more.
    Lost(Lease),
}

impl Port {
    pub(super) fn new(index: u32, name: &str, client: Client) -> Self {
        let mac = client.params().mac;
        Self {
            index,
            name: name.to_owned(),
            mac,
            client,
            frames: None,
            datagrams: None,
        }
    }

    /// The descriptor to wait for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.frames, &self.datagrams) {
            (Some(fd), _) => Some(fd.as_fd()),
            (None, Some((_, socket))) => Some(socket.as_fd()),
            (None, None) => None,
        }
    }

    /// Tells the client what happened and does what it says.
    pub(super) fn handle(&mut self, now: u64, event: Event<'_>) -> Vec<Outcome> {
        let actions = self.client.handle(now, event);
        // Sockets first: an answer may come while the request is still being logged.
        if let Err(error) = self.adjust_sockets() {
            tracing::warn!(link = self.name, %error, "failed to open a socket for DHCP, trying again later");
        }
        let mut out = Vec::new();
        for action in actions {
            match action {
                Action::Send(via, message) => {
                    if let Err(error) = self.send(via, &message) {
                        tracing::debug!(link = self.name, %error, "failed to send a DHCP message");
                    }
                }
                Action::Acquired(lease) => out.push(Outcome::Acquired(lease)),
                Action::Lost(lease) => out.push(Outcome::Lost(lease)),
                Action::Note(note) => tracing::warn!(link = self.name, "{}: {note}", self.name),
            }
        }
        out
    }

    /// Reads all that waits at the sockets and hands it to the client.
    pub(super) fn receive(&mut self, now: u64) -> Vec<Outcome> {
        let mut out = Vec::new();
        let mut buffer = vec![0; 4096];
        // Bounded, so that a flood on the wire does not starve the rest.
        for _ in 0..64 {
            let read = match (&self.frames, &self.datagrams) {
                (Some(fd), _) => recv(fd, &mut buffer[..], RecvFlags::DONTWAIT).map(|(_, n)| n),
                (None, Some((_, socket))) => {
                    recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).map(|(_, n)| n)
                }
                (None, None) => return out,
            };
            let Ok(len) = read else { return out };
            let bytes = &buffer[..len.min(4096)];
            let payload = if self.frames.is_some() {
                frame::payload(bytes)
            } else {
                Some(bytes)
            };
            if let Some(message) = payload.and_then(Message::decode) {
                out.extend(self.handle(now, Event::Received(&message)));
            }
        }
        out
    }

    fn adjust_sockets(&mut self) -> io::Result<()> {
        match (self.client.wants_frames(), &self.frames) {
            (true, None) => {
                self.frames = Some(syscalls::packet::ethernet(
                    self.index,
                    ETH_P_IP,
                    &frame::filter(),
                )?);
            }
            (false, Some(_)) => self.frames = None,
            _ => {}
        }
        match (self.client.wants_datagrams(), &self.datagrams) {
            (Some(address), have) if have.as_ref().is_none_or(|(at, _)| *at != address) => {
                let socket = UdpSocket::bind(SocketAddrV4::new(address, CLIENT_PORT))?;
                socket.set_broadcast(true)?;
                socket.set_nonblocking(true)?;
                self.datagrams = Some((address, socket));
            }
            (None, Some(_)) => self.datagrams = None,
            _ => {}
        }
        Ok(())
    }

    fn send(&self, via: Via, message: &Message) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotConnected);
        match via {
            Via::Frame => {
                let fd = self.frames.as_ref().ok_or_else(missing)?;
                send(
                    fd,
                    &frame::broadcast(self.mac, &message.encode()),
                    SendFlags::empty(),
                )?;
            }
            Via::Server { to, .. } => self.send_datagram(to, message)?,
            Via::Everyone { .. } => self.send_datagram(Ipv4Addr::BROADCAST, message)?,
        }
        Ok(())
    }

    fn send_datagram(&self, to: Ipv4Addr, message: &Message) -> io::Result<()> {
        let (_, socket) = self.datagrams.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket
            .send_to(&message.encode(), SocketAddrV4::new(to, SERVER_PORT))
            .map(drop)
    }
}
