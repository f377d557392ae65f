//! Values that several kinds of messages carry.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// A hardware address of Ethernet's length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Parses `aa:bb:…`, `aa-bb-…` or `aabb.ccdd.eeff`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = match text.len() {
            17 if text.split([':', '-']).all(|part| part.len() == 2) => {
                text.replace([':', '-'], "")
            }
            14 if text.split('.').all(|part| part.len() == 4) => text.replace('.', ""),
            _ => return None,
        };
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut out = [0; 6];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a route or address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Scope {
    /// Everywhere.
    #[default]
    Global,
    /// This site (IPv6, historic).
    Site,
    /// This link.
    Link,
    /// This machine.
    Host,
    /// Another number.
    Other(u8),
}

impl Scope {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Global => 0,
            Self::Site => 200,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(n) => n,
        }
    }

    /// From the kernel's number.
    pub fn from_number(n: u8) -> Self {
        match n {
            0 => Self::Global,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            n => Self::Other(n),
        }
    }
}

pub(super) fn family_of(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn ip_from(value: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|b| IpAddr::V6(Ipv6Addr::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_have_three_spellings() {
        let mac = Mac([0x52, 0x54, 0, 0xf1, 7, 0x0b]);
        for text in ["52:54:00:f1:07:0b", "52-54-00-F1-07-0B", "5254.00f1.070b"] {
            assert_eq!(Mac::parse(text), Some(mac), "{text}");
        }
        for text in [
            "",
            "52:54:00:f1:07",
            "52:54:00:f1:07:0g",
            "525400f1070b",
            "52:54:00:f1:07:0b:0c",
            "ä2:54:00:f1:07:0",
        ] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:f1:07:0b");
    }
}
