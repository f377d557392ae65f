//! Network settings of a source, as files for networkd. Pure.
//!
//! [`nocloud`] reads cloud-init's `network-config` in both versions; [`debian`] reads `interfaces`
//! files. Both fill [`LinkConfig`], which knows how a `.network` file is written.

pub mod debian;
pub mod nocloud;

use std::fmt::Write as _;

/// Files for networkd: name and text.
pub type NetworkFiles = Vec<(String, String)>;

/// Network settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct NetworkError {
    /// Line of the settings.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// One route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Destination with prefix length; empty: default.
    pub destination: String,
    /// Gateway.
    pub gateway: String,
    /// Metric.
    pub metric: String,
}

/// What is to be set on one link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkConfig {
    /// Match by name (globs).
    pub name: String,
    /// Match by hardware address.
    pub mac: String,
    /// Largest packet.
    pub mtu: String,
    /// Not waited for when the machine goes online.
    pub optional: bool,
    /// Ask for IPv4.
    pub dhcp4: bool,
    /// Ask for IPv6.
    pub dhcp6: bool,
    /// Take router advertisements: `yes`, `no`, or empty.
    pub accept_ra: String,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub domains: Vec<String>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// VLANs on the link.
    pub vlans: Vec<String>,
    /// Bond that the link belongs to.
    pub bond: String,
}

impl LinkConfig {
    /// The text of a `.network` file.
    pub fn render(&self) -> String {
        let mut text = String::from("[Match]\n");
        line(&mut text, "MACAddress", &self.mac);
        line(&mut text, "Name", &self.name);
        if !self.mtu.is_empty() || self.optional {
            text.push_str("\n[Link]\n");
            line(&mut text, "MTUBytes", &self.mtu);
            line(
                &mut text,
                "RequiredForOnline",
                if self.optional { "no" } else { "" },
            );
        }
        text.push_str("\n[Network]\n");
        let dhcp = match (self.dhcp4, self.dhcp6) {
            (true, true) => "yes",
            (true, false) => "ipv4",
            (false, true) => "ipv6",
            (false, false) => "no",
        };
        line(&mut text, "DHCP", dhcp);
        line(&mut text, "IPv6AcceptRA", &self.accept_ra);
        for (key, values) in [
            ("Address", &self.addresses),
            ("Gateway", &self.gateways),
            ("DNS", &self.dns),
            ("VLAN", &self.vlans),
        ] {
            for value in values {
                line(&mut text, key, value);
            }
        }
        line(&mut text, "Domains", &self.domains.join(" "));
        line(&mut text, "Bond", &self.bond);
        for route in &self.routes {
            text.push_str("\n[Route]\n");
            line(&mut text, "Destination", &route.destination);
            line(&mut text, "Gateway", &route.gateway);
            line(&mut text, "Metric", &route.metric);
        }
        text
    }

    /// The file name: late enough that files of a document win, before the default.
    pub fn file_name(&self, label: &str) -> String {
        let safe: String = label
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        format!("50-cloudinit-{safe}.network")
    }
}

/// Writes `KEY=value`; an empty value is no line, and a value is never more than one line.
fn line(text: &mut String, key: &str, value: &str) {
    if !value.is_empty() {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}={value}");
    }
}

/// Prefix length of a dotted netmask, or of a number.
pub(crate) fn prefix_of_mask(mask: &str) -> Option<u8> {
    if let Ok(number) = mask.parse::<u8>() {
        return (number <= 128).then_some(number);
    }
    let bits = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
    let ones = bits.leading_ones();
    (bits.checked_shl(ones).unwrap_or(0) == 0).then_some(u8::try_from(ones).ok()?)
}

/// An address with prefix length out of an address and a mask that may be absent.
pub(crate) fn with_prefix(address: &str, mask: &str) -> Option<String> {
    let (ip, prefix) = match address.split_once('/') {
        Some((ip, prefix)) => (ip, prefix_of_mask(prefix)?),
        None if mask.is_empty() => (address, if address.contains(':') { 128 } else { 32 }),
        None => (address, prefix_of_mask(mask)?),
    };
    let ip: std::net::IpAddr = ip.parse().ok()?;
    (ip.is_ipv6() || prefix <= 32).then(|| format!("{ip}/{prefix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_become_prefixes() {
        assert_eq!(prefix_of_mask("255.255.255.0"), Some(24));
        assert_eq!(prefix_of_mask("0.0.0.0"), Some(0));
        assert_eq!(prefix_of_mask("255.255.255.255"), Some(32));
        assert_eq!(prefix_of_mask("255.0.255.0"), None);
        assert_eq!(prefix_of_mask("64"), Some(64));
        assert_eq!(
            with_prefix("10.0.0.1", "255.255.0.0").as_deref(),
            Some("10.0.0.1/16")
        );
        assert_eq!(with_prefix("10.0.0.1/8", "").as_deref(), Some("10.0.0.1/8"));
        assert_eq!(with_prefix("10.0.0.1/64", ""), None);
        assert_eq!(with_prefix("fd00::1", "").as_deref(), Some("fd00::1/128"));
        assert_eq!(with_prefix("x", ""), None);
    }
}
