//! DHCP messages in Ethernet frames, for a link that has no address yet.

use syscalls::packet::Filter;

use crate::netlink::Mac;

/// Port of clients.
pub const CLIENT_PORT: u16 = 68;
/// Port of servers.
pub const SERVER_PORT: u16 = 67;
/// Ethernet protocol of IPv4.
pub const ETH_P_IP: u16 = 0x0800;

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;

/// A broadcast from `0.0.0.0:68` to port 67.
pub fn broadcast(from: Mac, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ETHERNET + IP + UDP + payload.len());
    out.extend_from_slice(&[0xff; 6]);
    out.extend_from_slice(&from.0);
    out.extend_from_slice(&ETH_P_IP.to_be_bytes());
    let udp_len = u16::try_from(UDP + payload.len()).unwrap_or(u16::MAX);
    let total = udp_len.saturating_add(20);
    let mut ip = [
        0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255,
    ];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut udp = [0; UDP];
    udp[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
    let mut pseudo = [0, 0, 0, 0, 255, 255, 255, 255, 0, 17, 0, 0];
    pseudo[10..12].copy_from_slice(&udp_len.to_be_bytes());
    let sum = match checksum(&[&pseudo, &udp, payload]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&ip);
    out.extend_from_slice(&udp);
    out.extend_from_slice(payload);
    out
}

/// The payload of a frame that carries UDP to port 68. The UDP checksum is not looked at: between virtual machines and
/// over veth it is often left for hardware that is not there, and the Ethernet frame had one of its own.
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    if frame.get(12..14)? != ETH_P_IP.to_be_bytes() {
        return None;
    }
    let packet = &frame[ETHERNET..];
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let ip = packet.get(..header)?;
    let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
    let is_udp = packet[0] >> 4 == 4 && header >= IP && fragment == 0 && ip.get(9) == Some(&17);
    if !is_udp || checksum(&[ip]) != 0 {
        return None;
    }
    let (head, body) = packet.get(header..total)?.split_at_checked(UDP)?;
    let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if head[2..4] != CLIENT_PORT.to_be_bytes() || head[0..2] != SERVER_PORT.to_be_bytes() {
        return None;
    }
    body.get(..len.checked_sub(UDP)?)
}

/// The filter for the kernel: IPv4, not a later fragment, UDP, to port 68.
pub fn filter() -> Vec<Filter> {
    const LDB: u16 = 0x30;
    const LDH: u16 = 0x28;
    const LDX_IHL: u16 = 0xb1;
    const LDH_X: u16 = 0x48;
    const JEQ: u16 = 0x15;
    const JSET: u16 = 0x45;
    const RET: u16 = 0x06;
    let op = |code, jt, jf, k| Filter { code, jt, jf, k };
    vec![
        op(LDB, 0, 0, 23),
        op(JEQ, 0, 6, 17),
        op(LDH, 0, 0, 20),
        op(JSET, 4, 0, 0x1fff),
        op(LDX_IHL, 0, 0, 14),
        op(LDH_X, 0, 0, 16),
        op(JEQ, 0, 1, u32::from(CLIENT_PORT)),
        op(RET, 0, 0, 0xffff),
        op(RET, 0, 0, 0),
    ]
}

/// The Internet checksum over the pieces, all but the last of even length.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for piece in pieces {
        let (pairs, rest) = piece.as_chunks::<2>();
        sum += pairs
            .iter()
            .map(|p| u32::from(u16::from_be_bytes(*p)))
            .sum::<u32>();
        sum += rest.first().map_or(0, |b| u32::from(*b) << 8);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_answer_is_unwrapped(data in vec(any::<u8>(), 0..500)) {
            let mut frame = broadcast(Mac([2, 0, 0, 0, 0, 1]), &data);
            prop_assert_eq!(payload(&frame), None);
            frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
            prop_assert_eq!(payload(&frame), Some(&data[..]));
            prop_assert_eq!(checksum(&[&frame[14..34]]), 0);
        }

        #[test]
        fn unwrapping_never_panics(frame in vec(any::<u8>(), 0..80)) {
            let _ = payload(&frame);
        }
    }
}
