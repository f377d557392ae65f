//! Links, addresses and default routes out of the kernel, and waiting for news about them.
//!
//! Three dumps over a netlink socket, decoded by hand: a few fields of three messages do not pay for a
//! crate.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use super::{Link, LinkAddress, Snapshot};

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Request for a dump.
const REQUEST_DUMP: u16 = 0x301;
/// Groups: links, addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

const LINK_IS_LOOPBACK: u32 = 0x8;
/// Duplicate detection runs or failed, or the address is deprecated.
const ADDRESS_UNUSABLE: u32 = 0x40 | 0x08 | 0x20;
const MAIN_TABLE: u32 = 254;
const UNICAST: u8 = 1;

fn open(groups: u32) -> io::Result<OwnedFd> {
    let fd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Protocol 0 of this family is the routing one.
        None,
    )?;
    bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

/// A socket that becomes readable when links, addresses or routes change.
#[derive(Debug)]
pub struct News(OwnedFd);

impl News {
    /// Starts listening.
    pub fn open() -> io::Result<Self> {
        open(GROUPS).map(Self)
    }

    /// Waits for news; false when the deadline is over.
    pub fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return Ok(false);
        };
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // What the news are does not matter; an overrun is news too.
        let mut buffer = [0_u8; 8192];
        while matches!(recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT), Ok((n, _)) if n > 0) {}
        Ok(true)
    }
}

/// The network as it is now.
pub fn snapshot() -> io::Result<Snapshot> {
    let fd = open(0)?;
    let mut snapshot = Snapshot::default();
    for (kind, body) in [(GET_LINK, 16), (GET_ADDRESS, 8), (GET_ROUTE, 12)] {
        dump(&fd, kind, body, &mut snapshot)?;
    }
    Ok(snapshot)
}

fn dump(fd: &OwnedFd, kind: u16, body: usize, into: &mut Snapshot) -> io::Result<()> {
    let length = 16 + body;
    let mut request = vec![0_u8; length];
    let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request[8..12].copy_from_slice(&u32::from(kind).to_ne_bytes());
    sendto(
        fd,
        &request,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let (received, _) = recv(fd, &mut buffer[..], RecvFlags::empty())?;
        if received == 0 || decode(&buffer[..received], into)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one packet; true when the dump is over.
fn decode(mut packet: &[u8], into: &mut Snapshot) -> io::Result<bool> {
    while packet.len() >= 16 {
        let length = u32_at(packet, 0).unwrap_or(0) as usize;
        if length < 16 || length > packet.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let kind = u16_at(packet, 4).unwrap_or(0);
        let body = &packet[16..length];
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = u32_at(body, 0).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(-code));
            }
            NEW_LINK => link(body, into),
            NEW_ADDRESS => address(body, into),
            NEW_ROUTE => route(body, into),
            _ => {}
        }
        packet = &packet[length.next_multiple_of(4).min(packet.len())..];
    }
    Ok(false)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Type and value of each attribute.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        if length < 4 || length > bytes.len() {
            break;
        }
        list.push((kind & 0x3fff, &bytes[4..length]));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    list
}

fn attribute<'a>(list: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    list.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v)
}

fn link(body: &[u8], into: &mut Snapshot) {
    let (Some(index), Some(flags), Some(rest)) = (u32_at(body, 4), u32_at(body, 8), body.get(16..))
    else {
        return;
    };
    let list = attributes(rest);
    let name = attribute(&list, 3).unwrap_or_default();
    let name = String::from_utf8_lossy(name)
        .trim_end_matches('\0')
        .to_owned();
    into.links.insert(
        index,
        Link {
            name,
            loopback: flags & LINK_IS_LOOPBACK != 0,
        },
    );
}

fn address(body: &[u8], into: &mut Snapshot) {
    let (Some(index), Some(rest)) = (u32_at(body, 4), body.get(8..)) else {
        return;
    };
    let list = attributes(rest);
    // The local address differs from the other one on point-to-point links.
    let Some(ip) = attribute(&list, 2).or(attribute(&list, 1)).and_then(ip) else {
        return;
    };
    let short = u32::from(body[2]);
    let flags = attribute(&list, 8)
        .and_then(|v| u32_at(v, 0))
        .unwrap_or(short);
    into.addresses.push(LinkAddress {
        index,
        ip,
        unusable: flags & ADDRESS_UNUSABLE != 0,
    });
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn route(body: &[u8], into: &mut Snapshot) {
    let Some(rest) = body.get(12..) else { return };
    let v4 = match body[0] {
        2 => true,
        10 => false,
        _ => return,
    };
    let list = attributes(rest);
    let number = |kind| attribute(&list, kind).and_then(|v| u32_at(v, 0));
    let table = number(15).unwrap_or(u32::from(body[4]));
    if body[1] != 0 || table != MAIN_TABLE || body[7] != UNICAST {
        return;
    }
    if let Some(index) = number(4) {
        into.default_routes
            .push((v4, index, number(6).unwrap_or(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_packets_are_errors_and_never_panics() {
        let mut into = Snapshot::default();
        assert!(decode(&[0; 20], &mut into).is_err());
        for length in 16..64_u32 {
            let mut packet = [0xff_u8; 64];
            packet[..4].copy_from_slice(&length.to_ne_bytes());
            for kind in [NEW_LINK, NEW_ADDRESS, NEW_ROUTE] {
                packet[4..6].copy_from_slice(&kind.to_ne_bytes());
                let _ = decode(&packet[..length as usize], &mut into);
            }
        }
    }
}
