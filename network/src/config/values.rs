//! Parsers for single values of `.network` files. Each gives `None` for what it does not accept.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use unit_file::value::split_words;
pub(crate) use unit_file::value::{glob_matches as glob, parse_bool};

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address, host bits kept.
    pub addr: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Cidr {
    /// Parses `ADDRESS/LENGTH`; without a length the whole address is meant.
    pub fn parse(text: &str) -> Option<Self> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr.parse().ok()?, Some(prefix)),
            None => (text.parse().ok()?, None),
        };
        let full = full_prefix(addr);
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => full,
        };
        (prefix <= full).then_some(Self { addr, prefix })
    }

    /// The network: the address with its host bits cleared.
    pub fn network(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => IpAddr::V4(mask_v4(a, self.prefix)),
            IpAddr::V6(a) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        }
    }

    /// Whether `other` is within the network.
    pub fn contains(self, other: IpAddr) -> bool {
        self.addr.is_ipv4() == other.is_ipv4()
            && Self {
                addr: other,
                prefix: self.prefix,
            }
            .network()
                == self.network()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// The longest prefix of an address's family.
pub fn full_prefix(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// Clears the host bits of an IPv4 address.
pub fn mask_v4(addr: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    Ipv4Addr::from(u32::from(addr) & mask)
}

/// The broadcast address of an IPv4 network, which prefixes of 31 and 32 bits do not have.
pub fn broadcast_v4(addr: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    (prefix <= 30).then(|| Ipv4Addr::from(u32::from(addr) | host))
}

/// The prefix length of a netmask without holes.
pub fn prefix_of_mask(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).unwrap_or(32))
}

/// A number of bytes with an optional `K`, `M` or `G`.
pub fn parse_size(text: &str) -> Option<u32> {
    unit_file::value::parse_size(text)?.try_into().ok()
}

/// Splits a value at blanks; quotes keep words together. What is not quoted well is split at every blank.
pub fn words(text: &str) -> Vec<String> {
    split_words(text).unwrap_or_else(|_| text.split_whitespace().map(str::to_owned).collect())
}

/// Whether a text can be a DNS name.
pub fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn networks() {
        let net = Cidr::parse("10.0.2.11/24").unwrap();
        assert_eq!(net.network().to_string(), "10.0.2.0");
        assert!(net.contains("10.0.2.2".parse().unwrap()));
        assert!(!net.contains("10.0.3.2".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert!(
            Cidr::parse("0.0.0.0/0")
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        for bad in [
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "10.0.0/8",
            "",
            "::/129",
            "1.2.3.4/",
            "eth0",
        ] {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
        assert_eq!(
            broadcast_v4(Ipv4Addr::new(10, 0, 2, 11), 24),
            Some(Ipv4Addr::new(10, 0, 2, 255))
        );
        assert_eq!(broadcast_v4(Ipv4Addr::new(10, 0, 2, 11), 32), None);
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 255, 252, 0)), Some(22));
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix_of_mask(Ipv4Addr::UNSPECIFIED), Some(0));
    }

    #[test]
    fn sizes_and_words() {
        assert_eq!(
            (
                parse_size("1500"),
                parse_size("9K"),
                parse_size("x"),
                parse_size("9G")
            ),
            (Some(1500), Some(9216), None, None)
        );
        assert_eq!(words(" a 'b c'\td \"\" "), vec!["a", "b c", "d", ""]);
    }

    proptest! {
        #[test]
        fn cidr_text_round_trips(octets in any::<[u8; 16]>(), prefix in 0u8..=128) {
            let net = Cidr { addr: IpAddr::from(octets), prefix };
            prop_assert_eq!(Cidr::parse(&net.to_string()), Some(net));
            prop_assert!(net.contains(net.network()));
        }

        #[test]
        fn masks_round_trip(prefix in 0u8..=32) {
            prop_assert_eq!(prefix_of_mask(mask_v4(Ipv4Addr::BROADCAST, prefix)), Some(prefix));
        }
    }
}
