//! DHCPv4 messages (RFC 2131, 2132, 3396, 3397, 3442) as bytes and values.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::config::values::is_host_name;
use crate::config::values::mask_v4;
use crate::netlink::Mac;

/// Option numbers.
pub mod option {
    #![allow(missing_docs)]
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const STATIC_ROUTES: u8 = 33;
    pub const NTP: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
}

/// `DHCP Message Type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl Kind {
    fn from_number(n: u8) -> Option<Self> {
        use Kind::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform]
            .into_iter()
            .find(|k| *k as u8 == n)
    }
}

/// A message. Fields that neither a client nor its server's answers need are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Sent by a server.
    pub reply: bool,
    /// Transaction.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The answer must be broadcast.
    pub broadcast: bool,
    /// The address the client has.
    pub ciaddr: Ipv4Addr,
    /// The address the client gets.
    pub yiaddr: Ipv4Addr,
    /// The client's hardware address.
    pub chaddr: Mac,
    /// Options, pieces of one option joined.
    pub options: BTreeMap<u8, Vec<u8>>,
}

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 236;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// Old servers and relays drop what is shorter than a BOOTP message.
const MINIMUM: usize = 300;

impl Message {
    /// A client's message without options but its kind.
    pub fn request(kind: Kind, xid: u32, chaddr: Mac) -> Self {
        Self {
            reply: false,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            options: BTreeMap::from([(option::MESSAGE_TYPE, vec![kind as u8])]),
        }
    }

    /// What the message is, if it says so.
    pub fn kind(&self) -> Option<Kind> {
        match self.options.get(&option::MESSAGE_TYPE)?.as_slice() {
            [n] => Kind::from_number(*n),
            _ => None,
        }
    }

    /// The bytes for the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; FIXED];
        out[0] = if self.reply { 2 } else { 1 };
        (out[1], out[2]) = (1, 6);
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[8..10].copy_from_slice(&self.secs.to_be_bytes());
        out[10] = if self.broadcast { 0x80 } else { 0 };
        out[12..16].copy_from_slice(&self.ciaddr.octets());
        out[16..20].copy_from_slice(&self.yiaddr.octets());
        out[28..34].copy_from_slice(&self.chaddr.0);
        out.extend_from_slice(&COOKIE);
        let kind = self.options.get_key_value(&option::MESSAGE_TYPE);
        let rest = self
            .options
            .iter()
            .filter(|(code, _)| **code != option::MESSAGE_TYPE);
        for (code, value) in kind.into_iter().chain(rest) {
            let mut chunks = value.chunks(255);
            let first = chunks.next().unwrap_or(&[]);
            for chunk in std::iter::once(first).chain(chunks) {
                out.push(*code);
                out.push(u8::try_from(chunk.len()).unwrap_or(255));
                out.extend_from_slice(chunk);
            }
        }
        out.push(255);
        out.resize(out.len().max(MINIMUM), 0);
        out
    }

    /// Reads a message; `None` for what is not DHCP over Ethernet.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..FIXED)?;
        if bytes.get(FIXED..FIXED + 4)? != COOKIE || fixed[1] != 1 || fixed[2] != 6 {
            return None;
        }
        let reply = match fixed[0] {
            1 => false,
            2 => true,
            _ => return None,
        };
        let four = |at: usize| [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        let mut options = BTreeMap::new();
        read_options(&bytes[FIXED + 4..], &mut options);
        match options.get(&option::OVERLOAD).map(Vec::as_slice) {
            Some([1]) => read_options(&fixed[FILE], &mut options),
            Some([2]) => read_options(&fixed[SNAME], &mut options),
            Some([3]) => {
                read_options(&fixed[FILE], &mut options);
                read_options(&fixed[SNAME], &mut options);
            }
            _ => {}
        }
        Some(Self {
            reply,
            xid: u32::from_be_bytes(four(4)),
            secs: u16::from_be_bytes([fixed[8], fixed[9]]),
            broadcast: fixed[10] & 0x80 != 0,
            ciaddr: Ipv4Addr::from(four(12)),
            yiaddr: Ipv4Addr::from(four(16)),
            chaddr: Mac([
                fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33],
            ]),
            options,
        })
    }

    fn bytes(&self, code: u8) -> &[u8] {
        self.options.get(&code).map_or(&[], Vec::as_slice)
    }

    /// An option that is one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.bytes(code)
            .first_chunk::<4>()
            .map(|b| Ipv4Addr::from(*b))
    }

    /// An option that is a list of addresses.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let (addresses, _) = self.bytes(code).as_chunks::<4>();
        addresses
            .iter()
            .map(|b| Ipv4Addr::from(*b))
            .filter(|a| !a.is_unspecified())
            .collect()
    }

    /// An option that is a number of seconds.
    pub fn seconds(&self, code: u8) -> Option<u32> {
        self.bytes(code).try_into().ok().map(u32::from_be_bytes)
    }

    /// An option that is text, zeros at its end cut.
    pub fn text(&self, code: u8) -> Option<String> {
        let text = std::str::from_utf8(self.bytes(code))
            .ok()?
            .trim_end_matches('\0');
        (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
    }

    /// Routes of option 121: destination, prefix, gateway.
    pub fn classless_routes(&self) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
        let mut bytes = self.bytes(option::CLASSLESS_ROUTES);
        let mut out = Vec::new();
        while let Some((&prefix, rest)) = bytes.split_first() {
            let significant = usize::from(prefix.div_ceil(8));
            if prefix > 32 || rest.len() < significant + 4 {
                break;
            }
            let mut destination = [0; 4];
            destination[..significant].copy_from_slice(&rest[..significant]);
            let gateway = &rest[significant..significant + 4];
            let gateway = Ipv4Addr::new(gateway[0], gateway[1], gateway[2], gateway[3]);
            out.push((
                mask_v4(Ipv4Addr::from(destination), prefix),
                prefix,
                gateway,
            ));
            bytes = &rest[significant + 4..];
        }
        out
    }

    /// Routes of option 33: to hosts, or to whole networks of the address's historic class.
    pub fn static_routes(&self) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
        let (pairs, _) = self.bytes(option::STATIC_ROUTES).as_chunks::<8>();
        let mut out = Vec::new();
        for &[a, b, c, d, gateway @ ..] in pairs {
            let (class, destination) = (class_prefix(a), Ipv4Addr::new(a, b, c, d));
            let prefix = if mask_v4(destination, class) == destination {
                class
            } else {
                32
            };
            if !destination.is_unspecified() {
                out.push((destination, prefix, Ipv4Addr::from(gateway)));
            }
        }
        out
    }

    /// The search list of option 119, with DNS's compression.
    pub fn search_list(&self) -> Vec<String> {
        let bytes = self.bytes(option::SEARCH);
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let Some((name, next)) = read_name(bytes, at) else {
                break;
            };
            if is_host_name(&name) {
                out.push(name);
            }
            at = next;
        }
        out
    }
}

/// The prefix of an address's historic class, by its first byte.
pub fn class_prefix(first: u8) -> u8 {
    match first {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

fn read_options(mut bytes: &[u8], into: &mut BTreeMap<u8, Vec<u8>>) {
    loop {
        match bytes {
            [0, rest @ ..] => bytes = rest,
            [255, ..] | [] | [_] => return,
            [code, len, rest @ ..] => {
                let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else {
                    return;
                };
                into.entry(*code).or_default().extend_from_slice(value);
                bytes = rest;
            }
        }
    }
}

/// A domain name at an offset, and where the next one starts. Pointers may only go backwards, so this ends.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut labels: Vec<&str> = Vec::new();
    let (mut at, mut limit, mut next) = (start, start, None);
    loop {
        let len = usize::from(*bytes.get(at)?);
        match len {
            0 => return Some((labels.join("."), next.unwrap_or(at + 1))),
            1..=63 => {
                labels.push(std::str::from_utf8(bytes.get(at + 1..at + 1 + len)?).ok()?);
                at += 1 + len;
                if labels.len() > 127 {
                    return None;
                }
            }
            192.. => {
                let target = ((len & 0x3f) << 8) | usize::from(*bytes.get(at + 1)?);
                next.get_or_insert(at + 2);
                if target >= limit {
                    return None;
                }
                (at, limit) = (target, target);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn with(code: u8, value: &[u8]) -> Message {
        let mut message = Message::request(Kind::Discover, 1, Mac([2, 0, 0, 0, 0, 1]));
        message.options.insert(code, value.to_vec());
        message
    }

    #[test]
    fn long_options_are_split_and_joined() {
        let message = with(option::SEARCH, &[7; 600]);
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Some(message));
    }

    #[test]
    fn options_in_the_file_field_count_when_overload_says_so() {
        let mut bytes = with(option::OVERLOAD, &[1]).encode();
        bytes[FILE.start..FILE.start + 7].copy_from_slice(&[option::ROUTER, 4, 10, 0, 0, 1, 255]);
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(
            message.addresses(option::ROUTER),
            [Ipv4Addr::new(10, 0, 0, 1)]
        );
    }

    fn shown(routes: &[(Ipv4Addr, u8, Ipv4Addr)]) -> Vec<String> {
        routes
            .iter()
            .map(|(d, p, g)| format!("{d}/{p} {g}"))
            .collect()
    }

    #[test]
    fn routes_of_both_options() {
        let bytes = [
            0, 10, 0, 2, 2, 24, 192, 168, 9, 10, 0, 2, 3, 32, 169, 254, 169, 254, 0, 0, 0, 0,
        ];
        assert_eq!(
            shown(&with(121, &bytes).classless_routes()),
            [
                "0.0.0.0/0 10.0.2.2",
                "192.168.9.0/24 10.0.2.3",
                "169.254.169.254/32 0.0.0.0"
            ]
        );
        let bytes = [10, 0, 0, 0, 10, 0, 2, 2, 172, 16, 1, 5, 10, 0, 2, 3];
        assert_eq!(
            shown(&with(33, &bytes).static_routes()),
            ["10.0.0.0/8 10.0.2.2", "172.16.1.5/32 10.0.2.3"]
        );
    }

    #[test]
    fn search_lists_follow_pointers_backwards_only() {
        let mut list = b"\x03eng\x05apple\x03com\x00".to_vec();
        list.extend_from_slice(b"\x09marketing\xc0\x04");
        assert_eq!(
            with(119, &list).search_list(),
            ["eng.apple.com", "marketing.apple.com"]
        );
        assert_eq!(with(119, b"\xc0\x00").search_list(), Vec::<String>::new());
        assert_eq!(
            with(119, b"\x01a\xc0\x00").search_list(),
            Vec::<String>::new()
        );
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in vec(any::<u8>(), 0..600), options in vec(any::<u8>(), 0..200)) {
            let mut valid = Message::request(Kind::Discover, 1, Mac([0; 6])).encode();
            valid.truncate(FIXED + 4);
            valid.extend_from_slice(&options);
            for input in [&bytes, &valid] {
                if let Some(m) = Message::decode(input) {
                    let _ = (m.kind(), m.search_list(), m.classless_routes(), m.static_routes());
                    let _ = (m.text(15), m.addresses(6), m.seconds(51));
                }
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(
            xid in any::<u32>(), secs in any::<u16>(), broadcast in any::<bool>(), mac in any::<[u8; 6]>(),
            options in btree_map(
                (1u8..=254).prop_filter("overload", |c| *c != option::OVERLOAD), vec(any::<u8>(), 0..300), 0..6),
        ) {
            let message =
                Message { xid, secs, broadcast, options, ..Message::request(Kind::Offer, 0, Mac(mac)) };
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }
}
