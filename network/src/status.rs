//! What the daemon tells others about links, as files in `/run/systemd/netif`, and when the machine is online.
//!
//! One writer (networkd), readers are `networkd-wait-online`, `networkctl` and scripts. Files are `KEY=value` lines and
//! are replaced as a whole.

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::config::Cidr;

/// How far a link's configuration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// No file matches, or the file says so.
    Unmanaged,
    /// Managed, waits for carrier.
    Pending,
    /// Not yet everything the file asks for.
    Configuring,
    /// Everything the file asks for.
    Configured,
    /// The kernel refused something, or DHCP gave up.
    Failed,
}

/// What a link can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Administratively down.
    Off,
    /// No carrier.
    NoCarrier,
    /// Carrier, no address.
    Carrier,
    /// Only link-local addresses.
    Degraded,
    /// A routable address.
    Routable,
}

const SETUPS: [(Setup, &str); 5] = [
    (Setup::Unmanaged, "unmanaged"),
    (Setup::Pending, "pending"),
    (Setup::Configuring, "configuring"),
    (Setup::Configured, "configured"),
    (Setup::Failed, "failed"),
];
const OPERATIONS: [(Operation, &str); 5] = [
    (Operation::Off, "off"),
    (Operation::NoCarrier, "no-carrier"),
    (Operation::Carrier, "carrier"),
    (Operation::Degraded, "degraded"),
    (Operation::Routable, "routable"),
];

fn name_of<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    table
        .iter()
        .find(|(v, _)| v == value)
        .map_or("unknown", |(_, name)| name)
}

fn value_of<T: Copy>(table: &[(T, &str)], name: &str) -> Option<T> {
    table.iter().find(|(_, n)| *n == name).map(|(v, _)| *v)
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&SETUPS, self))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&OPERATIONS, self))
    }
}

/// The published state of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `ether`, `bridge`, …
    pub kind: String,
    /// How far its configuration has come.
    pub setup: Setup,
    /// What it can do.
    pub operation: Operation,
    /// Whether being online depends on it.
    pub required: bool,
    /// The file it got.
    pub file: Option<String>,
    /// A static address of the file is set.
    pub has_static: bool,
    /// All addresses.
    pub addresses: Vec<Cidr>,
    /// Its gateways of default routes that we set.
    pub gateways: Vec<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Time servers.
    pub ntp: Vec<String>,
    /// Search domains.
    pub domains: Vec<String>,
    /// State of its DHCP client.
    pub dhcp: Option<String>,
    /// What it waits for or what went wrong, for people.
    pub reason: Option<String>,
}

impl LinkStatus {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let mut line = |key: &str, value: String| {
            if !value.is_empty() {
                let _ = writeln!(out, "{key}={}", value.replace(['\n', '\r'], " "));
            }
        };
        line("NAME", self.name.clone());
        line("TYPE", self.kind.clone());
        line("ADMIN_STATE", self.setup.to_string());
        line("OPER_STATE", self.operation.to_string());
        line(
            "REQUIRED_FOR_ONLINE",
            if self.required { "yes" } else { "no" }.to_owned(),
        );
        line("NETWORK_FILE", self.file.clone().unwrap_or_default());
        line(
            "STATIC",
            if self.has_static { "yes" } else { "" }.to_owned(),
        );
        line("ADDRESSES", join(&self.addresses));
        line("GATEWAYS", join(&self.gateways));
        line("DNS", join(&self.dns));
        line("NTP", self.ntp.join(" "));
        line("DOMAINS", self.domains.join(" "));
        line("DHCP4_STATE", self.dhcp.clone().unwrap_or_default());
        line("REASON", self.reason.clone().unwrap_or_default());
        out
    }

    /// Reads the file's text.
    pub fn parse(index: u32, text: &str) -> Option<Self> {
        let get = |key: &str| {
            text.lines()
                .filter_map(|l| l.split_once('='))
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v)
        };
        let words = |key: &str| get(key).unwrap_or_default().split_whitespace();
        let own = |key: &str| get(key).map(str::to_owned);
        Some(Self {
            index,
            name: own("NAME")?,
            kind: own("TYPE").unwrap_or_default(),
            setup: value_of(&SETUPS, get("ADMIN_STATE")?)?,
            operation: value_of(&OPERATIONS, get("OPER_STATE")?)?,
            required: get("REQUIRED_FOR_ONLINE") == Some("yes"),
            file: own("NETWORK_FILE"),
            has_static: get("STATIC") == Some("yes"),
            addresses: words("ADDRESSES").filter_map(Cidr::parse).collect(),
            gateways: words("GATEWAYS").filter_map(|w| w.parse().ok()).collect(),
            dns: words("DNS").filter_map(|w| w.parse().ok()).collect(),
            ntp: words("NTP").map(str::to_owned).collect(),
            domains: words("DOMAINS").map(str::to_owned).collect(),
            dhcp: own("DHCP4_STATE"),
            reason: own("REASON"),
        })
    }

    fn has_carrier(&self) -> bool {
        self.operation >= Operation::Carrier
    }

    /// Why the link keeps the machine from being online.
    fn obstacle(&self) -> String {
        match (&self.reason, self.setup, self.operation) {
            (_, _, Operation::Off) => format!("{}: the link is down", self.name),
            (_, _, Operation::NoCarrier) => format!("{}: no carrier", self.name),
            (Some(reason), ..) => format!("{}: {reason}", self.name),
            (None, setup, operation) => format!("{}: {setup}, {operation}", self.name),
        }
    }
}

fn join<T: ToString>(list: &[T]) -> String {
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether the machine is online; else what is missing, a line per link.
///
/// At least one required link has carrier and a routable, or a static, address, and no managed link with carrier is
/// still being configured. Links without carrier are not waited for.
pub fn online(links: &[LinkStatus]) -> Result<(), Vec<String>> {
    let managed: Vec<&LinkStatus> = links
        .iter()
        .filter(|l| l.setup != Setup::Unmanaged)
        .collect();
    let ready = |l: &&&LinkStatus| {
        l.required && l.has_carrier() && (l.operation == Operation::Routable || l.has_static)
    };
    let busy = |l: &&&LinkStatus| l.has_carrier() && l.setup == Setup::Configuring;
    let busy: Vec<String> = managed.iter().filter(busy).map(|l| l.obstacle()).collect();
    if !busy.is_empty() {
        return Err(busy);
    }
    if managed.iter().any(|l| ready(&l)) {
        return Ok(());
    }
    let waiting: Vec<String> = managed
        .iter()
        .filter(|l| l.required)
        .map(|l| l.obstacle())
        .collect();
    Err(if waiting.is_empty() {
        vec!["no link is managed and required for being online".to_owned()]
    } else {
        waiting
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(name: &str, setup: Setup, operation: Operation) -> LinkStatus {
        LinkStatus {
            index: 2,
            name: name.into(),
            kind: "ether".into(),
            setup,
            operation,
            required: true,
            file: Some("/etc/systemd/network/a.network".into()),
            has_static: false,
            addresses: vec![Cidr::parse("10.0.2.15/24").unwrap()],
            gateways: vec!["10.0.2.2".parse().unwrap()],
            dns: vec!["10.0.2.3".parse().unwrap()],
            ntp: vec![],
            domains: vec!["example.com".into()],
            dhcp: Some("bound".into()),
            reason: None,
        }
    }

    #[test]
    fn online_as_the_contract_says() {
        use Operation::{Carrier, Degraded, NoCarrier, Off, Routable};
        use Setup::{Configured, Configuring, Pending, Unmanaged};
        let good = link("eth0", Configured, Routable);
        let missing = |links: &[LinkStatus]| online(links).err().unwrap_or_default();
        assert_eq!(missing(std::slice::from_ref(&good)), Vec::<String>::new());
        assert_eq!(
            missing(&[good.clone(), link("eth1", Pending, NoCarrier)]),
            Vec::<String>::new()
        );
        assert_eq!(
            missing(&[good.clone(), link("eth1", Configuring, Carrier)]),
            ["eth1: configuring, carrier"]
        );
        assert_eq!(
            missing(&[link("eth0", Configured, Degraded)]),
            ["eth0: configured, degraded"]
        );
        let fixed = LinkStatus {
            has_static: true,
            ..link("eth0", Configured, Degraded)
        };
        assert_eq!(missing(&[fixed]), Vec::<String>::new());
        let optional = LinkStatus {
            required: false,
            ..good.clone()
        };
        assert_eq!(
            missing(&[optional, link("eth1", Pending, Off)]),
            ["eth1: the link is down"]
        );
        let foreign = link("docker0", Unmanaged, Routable);
        assert_eq!(
            missing(&[foreign]),
            ["no link is managed and required for being online"]
        );
        let waits = LinkStatus {
            reason: Some("no answer from a DHCP server".into()),
            ..link("eth0", Configuring, Carrier)
        };
        assert_eq!(missing(&[waits]), ["eth0: no answer from a DHCP server"]);
    }

    #[test]
    fn files_round_trip() {
        let status = link("eth0", Setup::Configured, Operation::Routable);
        assert_eq!(LinkStatus::parse(2, &status.to_text()), Some(status));
        assert_eq!(LinkStatus::parse(2, "NAME=eth0\n"), None);
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,200}") {
            let _ = LinkStatus::parse(1, &text);
        }
    }
}
