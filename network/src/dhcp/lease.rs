//! A DHCPv4 lease: from an answer, to and from the `KEY=value` file that other programs read.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::message::{Message, class_prefix, option};
use crate::config::Cidr;
use crate::config::values::is_host_name;
use crate::config::values::{broadcast_v4, mask_v4, prefix_of_mask};

/// What a server granted. Times are milliseconds of the boot clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The server.
    pub server: Ipv4Addr,
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 121, else 33: destination, prefix, gateway (unspecified: on the link).
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Option 121 was given, so `routers` do not count.
    pub classless: bool,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 119.
    pub search: Vec<String>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 28.
    pub broadcast: Option<Ipv4Addr>,
    /// Option 26.
    pub mtu: Option<u32>,
    /// Seconds granted; `u32::MAX` is for ever.
    pub lifetime: u32,
    /// Seconds until the server is asked to prolong.
    pub t1: u32,
    /// Seconds until any server is asked.
    pub t2: u32,
    /// When the request was sent that got it.
    pub since: u64,
}

impl Lease {
    /// Reads an offer or acknowledgement; `None` if it lacks what a lease needs.
    pub fn from_message(message: &Message, since: u64) -> Option<Self> {
        let address = message.yiaddr;
        let server = message.address(option::SERVER_ID)?;
        if address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast()
        {
            return None;
        }
        let prefix = match message.address(option::SUBNET_MASK) {
            Some(mask) => prefix_of_mask(mask)?,
            None => class_prefix(address.octets()[0]),
        };
        // Some servers grant seconds only; below this the client would do nothing but ask.
        let lifetime = message.seconds(option::LEASE_TIME)?.max(30);
        let most = u32::try_from(u64::from(lifetime) * 7 / 8).unwrap_or(u32::MAX);
        let t2 = message
            .seconds(option::T2)
            .filter(|t| *t > 0 && *t < lifetime)
            .unwrap_or(most);
        let t1 = message.seconds(option::T1).filter(|t| *t > 0 && *t < t2);
        let classless = message.options.contains_key(&option::CLASSLESS_ROUTES);
        let routes = if classless {
            message.classless_routes()
        } else {
            message.static_routes()
        };
        let domain = message
            .text(option::DOMAIN)
            .map(|d| d.trim_end_matches('.').to_owned());
        let mtu = message
            .options
            .get(&option::MTU)
            .and_then(|m| m.as_slice().try_into().ok());
        Some(Self {
            address,
            prefix,
            server,
            routers: message.addresses(option::ROUTER),
            routes,
            classless,
            dns: message.addresses(option::DNS),
            ntp: message.addresses(option::NTP),
            domain: domain.filter(|d| is_host_name(d)),
            search: message.search_list(),
            hostname: message.text(option::HOSTNAME).filter(|h| is_host_name(h)),
            broadcast: message
                .address(option::BROADCAST)
                .filter(|b| !b.is_unspecified()),
            mtu: mtu
                .map(|m| u32::from(u16::from_be_bytes(m)))
                .filter(|m| *m >= 576),
            lifetime,
            t1: t1.unwrap_or((lifetime / 2).min(t2)),
            t2,
            since,
        })
    }

    /// The address with its prefix.
    pub fn cidr(&self) -> Cidr {
        Cidr {
            addr: IpAddr::V4(self.address),
            prefix: self.prefix,
        }
    }

    /// The broadcast address, given or computed.
    pub fn broadcast_address(&self) -> Option<Ipv4Addr> {
        self.broadcast
            .or_else(|| broadcast_v4(self.address, self.prefix))
    }

    /// When it ends; `None` is never.
    pub fn expires(&self) -> Option<u64> {
        self.moment(self.lifetime)
    }

    /// When its server is asked to prolong it.
    pub fn renews(&self) -> Option<u64> {
        self.moment(self.t1)
    }

    /// When any server is asked.
    pub fn rebinds(&self) -> Option<u64> {
        self.moment(self.t2)
    }

    fn moment(&self, seconds: u32) -> Option<u64> {
        (self.lifetime != u32::MAX).then(|| self.since.saturating_add(u64::from(seconds) * 1000))
    }

    /// Whether only the times differ.
    pub fn same_settings(&self, other: &Self) -> bool {
        let Self {
            lifetime,
            t1,
            t2,
            since,
            ..
        } = *self;
        *self
            == Self {
                lifetime,
                t1,
                t2,
                since,
                ..other.clone()
            }
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let mut line = |key: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(out, "{key}={value}");
            }
        };
        line("ADDRESS", &self.address.to_string());
        line(
            "NETMASK",
            &mask_v4(Ipv4Addr::BROADCAST, self.prefix).to_string(),
        );
        line("PREFIXLEN", &self.prefix.to_string());
        line("ROUTER", &join(&self.routers));
        line("SERVER_ADDRESS", &self.server.to_string());
        line(
            "BROADCAST",
            &self.broadcast.map(|b| b.to_string()).unwrap_or_default(),
        );
        line("MTU", &self.mtu.map(|m| m.to_string()).unwrap_or_default());
        line("T1", &self.t1.to_string());
        line("T2", &self.t2.to_string());
        line("LIFETIME", &self.lifetime.to_string());
        line("DNS", &join(&self.dns));
        line("NTP", &join(&self.ntp));
        line("DOMAINNAME", self.domain.as_deref().unwrap_or_default());
        line("DOMAIN_SEARCH_LIST", &self.search.join(" "));
        line("HOSTNAME", self.hostname.as_deref().unwrap_or_default());
        let routes: Vec<String> = self
            .routes
            .iter()
            .map(|(d, p, g)| format!("{d}/{p},{g}"))
            .collect();
        line("ROUTES", &routes.join(" "));
        line("CLASSLESS", if self.classless { "1" } else { "" });
        line("SINCE_BOOT_MS", &self.since.to_string());
        out
    }

    /// Reads the file's text; `None` if it is not a whole lease.
    pub fn parse(text: &str) -> Option<Self> {
        let get = |key: &str| {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs
                .filter(|(k, _)| *k == key)
                .map(|(_, value)| value)
                .next()
        };
        fn list<T: FromStr>(value: Option<&str>) -> Vec<T> {
            let words = value.unwrap_or_default().split_whitespace();
            words.filter_map(|w| w.parse().ok()).collect()
        }
        let prefix = |p: &str| p.parse().ok().filter(|p| *p <= 32);
        let routes = get("ROUTES")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| {
                let (destination, gateway) = word.split_once(',')?;
                let (destination, length) = destination.split_once('/')?;
                Some((
                    destination.parse().ok()?,
                    prefix(length)?,
                    gateway.parse().ok()?,
                ))
            });
        Some(Self {
            address: get("ADDRESS")?.parse().ok()?,
            prefix: prefix(get("PREFIXLEN")?)?,
            server: get("SERVER_ADDRESS")?.parse().ok()?,
            routers: list(get("ROUTER")),
            routes: routes.collect(),
            classless: get("CLASSLESS") == Some("1"),
            dns: list(get("DNS")),
            ntp: list(get("NTP")),
            domain: get("DOMAINNAME").map(str::to_owned),
            search: list(get("DOMAIN_SEARCH_LIST")),
            hostname: get("HOSTNAME").map(str::to_owned),
            broadcast: get("BROADCAST").and_then(|b| b.parse().ok()),
            mtu: get("MTU").and_then(|m| m.parse().ok()),
            lifetime: get("LIFETIME")?.parse().ok()?,
            t1: get("T1")?.parse().ok()?,
            t2: get("T2")?.parse().ok()?,
            since: get("SINCE_BOOT_MS")?.parse().ok()?,
        })
    }
}

fn join(list: &[Ipv4Addr]) -> String {
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::message::Kind;
    use super::*;
    use crate::netlink::Mac;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    pub(crate) fn ack() -> Message {
        let mut message = Message::request(Kind::Ack, 7, Mac([2, 0, 0, 0, 0, 1]));
        message.reply = true;
        message.yiaddr = Ipv4Addr::new(10, 0, 2, 15);
        for (code, value) in [
            (option::SERVER_ID, vec![10, 0, 2, 2]),
            (option::SUBNET_MASK, vec![255, 255, 255, 0]),
            (option::ROUTER, vec![10, 0, 2, 2]),
            (option::DNS, vec![10, 0, 2, 3, 10, 0, 2, 4]),
            (option::LEASE_TIME, vec![0, 0, 0x0e, 0x10]),
            (option::HOSTNAME, b"node1".to_vec()),
            (option::DOMAIN, b"example.com.".to_vec()),
            (option::MTU, vec![5, 0xdc]),
        ] {
            message.options.insert(code, value);
        }
        message
    }

    #[test]
    fn an_acknowledgement_becomes_a_lease_and_a_file() {
        let lease = Lease::from_message(&ack(), 5000).unwrap();
        assert_eq!(lease.cidr().to_string(), "10.0.2.15/24");
        assert_eq!((lease.t1, lease.t2, lease.lifetime), (1800, 3150, 3600));
        assert_eq!(lease.expires(), Some(5000 + 3_600_000));
        assert_eq!(
            (lease.mtu, lease.domain.as_deref()),
            (Some(1500), Some("example.com"))
        );
        let text = lease.to_text();
        assert!(text.contains("\nSERVER_ADDRESS=10.0.2.2\n"), "{text}");
        assert!(text.contains("\nDNS=10.0.2.3 10.0.2.4\n"), "{text}");
        assert_eq!(Lease::parse(&text), Some(lease));
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        for code in [option::SERVER_ID, option::LEASE_TIME] {
            let mut message = ack();
            message.options.remove(&code);
            assert_eq!(Lease::from_message(&message, 0), None, "{code}");
        }
        let mut message = ack();
        message
            .options
            .insert(option::SUBNET_MASK, vec![255, 0, 255, 0]);
        assert_eq!(Lease::from_message(&message, 0), None);
        assert_eq!(Lease::parse("ADDRESS=10.0.0.1\n"), None);
    }

    #[test]
    fn hostile_text_does_not_reach_files() {
        let mut message = ack();
        message
            .options
            .insert(option::DOMAIN, b"a\nnameserver 6.6.6.6".to_vec());
        message
            .options
            .insert(option::HOSTNAME, b"$(reboot)".to_vec());
        let lease = Lease::from_message(&message, 0).unwrap();
        assert_eq!((lease.domain, lease.hostname), (None, None));
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_files_round_trip(
            options in btree_map(any::<u8>(), vec(any::<u8>(), 0..40), 0..12), text in "\\PC{0,200}",
        ) {
            let mut message = ack();
            message.options.extend(options);
            if let Some(lease) = Lease::from_message(&message, 1) {
                prop_assert!(lease.t1 <= lease.t2 && lease.t2 <= lease.lifetime);
                prop_assert_eq!(Lease::parse(&lease.to_text()), Some(lease));
            }
            let _ = Lease::parse(&text);
        }
    }
}
