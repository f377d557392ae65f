//! An IPv4 link-local address on a link: the claimer and its socket.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::link_local::{Action, Arp, Claimer, ETH_P_ARP, Event};
use crate::netlink::Mac;

/// The claimer with its socket, which is open while the link has carrier.
#[derive(Debug)]
pub(super) struct Claim {
    index: u32,
    name: String,
    pub(super) claimer: Claimer,
    socket: Option<OwnedFd>,
}

impl Claim {
    /// `held` is the address of an earlier run.
    pub(super) fn new(index: u32, name: &str, mac: Mac, held: Option<Ipv4Addr>) -> Self {
        Self {
            index,
            name: name.to_owned(),
            claimer: Claimer::new(mac).resume(held),
            socket: None,
        }
    }

    /// The descriptor to wait for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Follows the carrier.
    pub(super) fn follow(&mut self, now: u64, carrier: bool) {
        match (carrier, self.claimer.is_stopped()) {
            (true, true) => match syscalls::packet::ethernet(self.index, ETH_P_ARP, &[]) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.handle(now, Event::Start);
                }
                Err(error) => {
                    tracing::warn!(link = self.name, %error, "failed to open a socket for ARP, trying again later");
                }
            },
            (false, false) => {
                self.handle(now, Event::CarrierLost);
                self.socket = None;
            }
            _ => {}
        }
    }

    /// Reads what waits and serves what is due.
    pub(super) fn serve(&mut self, now: u64) {
        let mut buffer = [0; 128];
        for _ in 0..64 {
            let Some(Ok((_, len))) = self
                .socket
                .as_ref()
                .map(|s| recv(s, &mut buffer[..], RecvFlags::DONTWAIT))
            else {
                break;
            };
            if let Some(arp) = Arp::decode(&buffer[..len]) {
                self.handle(now, Event::Heard(arp));
            }
        }
        if self.claimer.deadline().is_some_and(|due| due <= now) {
            self.handle(now, Event::Tick);
        }
    }

    fn handle(&mut self, now: u64, event: Event) {
        let name = &self.name;
        for action in self.claimer.handle(now, event) {
            match action {
                Action::Send(arp) => {
                    let sent = self.socket.as_ref().map_or(Ok(0), |s| {
                        send(s, &arp.encode(), SendFlags::empty()).map_err(io::Error::from)
                    });
                    if let Err(error) = sent {
                        tracing::debug!(link = name, %error, "failed to send ARP");
                    }
                }
                Action::Claimed(address) => {
                    tracing::info!(link = name, "{name}: link-local address {address}");
                }
                Action::Lost(address) => {
                    tracing::warn!(
                        link = name,
                        "{name}: another machine uses {address}, taking another address"
                    );
                }
            }
        }
    }
}
