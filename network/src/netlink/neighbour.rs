//! Permanent neighbours: ARP entries, and forwarding entries of VXLAN devices.

use std::net::Ipv4Addr;

use super::value::{AF_INET, Mac};
use super::wire::{self, Request, attributes, read_u16, read_u32};

/// `RTM_NEWNEIGH`
pub const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// `RTM_GETNEIGH`
pub const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const AF_BRIDGE: u8 = 7;

/// A permanent neighbour: an address on a link, or a destination behind a VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Index of the link.
    pub index: u32,
    /// The neighbour's address (ARP), or the tunnel end (forwarding entry).
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// A forwarding entry of a VXLAN device instead of an ARP entry.
    pub forwarding: bool,
}

impl Neighbour {
    /// Reads the body of an `RTM_NEWNEIGH`; `None` for what is not permanent.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let index = read_u32(body, 4)?;
        let state = read_u16(body, 8)?;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                NDA_DST => address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        if state & NUD_PERMANENT == 0 || (family != AF_INET && family != AF_BRIDGE) {
            return None;
        }
        Some(Self {
            index,
            address: address?,
            mac: mac?,
            forwarding: family == AF_BRIDGE,
        })
    }

    /// Sets the entry.
    pub fn replace(&self) -> Request {
        self.request(RTM_NEWNEIGH, wire::NLM_F_CREATE | wire::NLM_F_REPLACE)
    }

    /// Removes the entry.
    pub fn remove(&self) -> Request {
        self.request(RTM_DELNEIGH, 0)
    }

    /// Lists forwarding or ARP entries of all links.
    pub fn list(forwarding: bool) -> Request {
        let family = if forwarding { AF_BRIDGE } else { AF_INET };
        Request::new(RTM_GETNEIGH, wire::NLM_F_DUMP)
            .body(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    fn request(&self, kind: u16, flags: u16) -> Request {
        let (family, ntf) = if self.forwarding {
            (AF_BRIDGE, NTF_SELF)
        } else {
            (AF_INET, 0)
        };
        let mut body = [0; 12];
        body[0] = family;
        body[4..8].copy_from_slice(&self.index.to_ne_bytes());
        body[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        body[10] = ntf;
        body[11] = 1;
        Request::new(kind, flags | wire::NLM_F_ACK)
            .body(&body)
            .attr(NDA_DST, &self.address.octets())
            .attr(NDA_LLADDR, &self.mac.0)
    }
}
