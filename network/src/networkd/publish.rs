//! From the manager's view to [`LinkStatus`] and [`Source`], and into files.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::manager::ManagedLink;
use crate::config::Cidr;
use crate::files::Writer;
use crate::netlink::Link;
use crate::plan::{Held, OWN_STATIC};
use crate::resolv::Source;
use crate::status::{LinkStatus, Operation, Setup, online};

/// Where the daemon's files are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) netif: PathBuf,
    pub(super) resolv_conf: PathBuf,
    pub(super) time_sources: PathBuf,
}

impl Places {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            netif: root.join("run/systemd/netif"),
            resolv_conf: root.join("run/systemd/resolve/resolv.conf"),
            time_sources: root.join("run/chrony-dhcp/networkd.sources"),
        }
    }

    pub(super) fn lease(&self, index: u32) -> PathBuf {
        self.netif.join("leases").join(index.to_string())
    }

    pub(super) fn link(&self, index: u32) -> PathBuf {
        self.netif.join("links").join(index.to_string())
    }
}

/// What a link can do.
pub(super) fn operation(link: &Link, addresses: &[Held]) -> Operation {
    let usable = |h: &&Held| !h.address.is_tentative();
    let link_local = |h: &Held| match h.address.local {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    if !link.is_up() {
        Operation::Off
    } else if !link.has_carrier() {
        Operation::NoCarrier
    } else if addresses
        .iter()
        .filter(usable)
        .any(|h| !link_local(h) && !h.address.local.is_loopback())
    {
        Operation::Routable
    } else if addresses.iter().any(|h| usable(&h)) {
        Operation::Degraded
    } else {
        Operation::Carrier
    }
}

/// The state of a link that nobody manages.
pub(super) fn unmanaged(link: &Link, kind: String, addresses: &[Held]) -> LinkStatus {
    let cidr = |h: &Held| Cidr {
        addr: h.address.local,
        prefix: h.address.prefix,
    };
    LinkStatus {
        index: link.index,
        name: link.name.clone(),
        kind,
        setup: Setup::Unmanaged,
        operation: operation(link, addresses),
        required: false,
        file: None,
        has_static: false,
        addresses: addresses.iter().map(cidr).collect(),
        gateways: Vec::new(),
        dns: Vec::new(),
        ntp: Vec::new(),
        domains: Vec::new(),
        dhcp: None,
        reason: None,
    }
}

/// A link's published state; `None` if it is not managed.
pub(super) fn status(link: &Link, addresses: &[Held], managed: &ManagedLink) -> Option<LinkStatus> {
    let file = managed.managing_file()?;
    let mut status = unmanaged(link, managed.facts.kind.clone(), addresses);
    let operation = status.operation;
    status.file = Some(file.path.clone());
    let source = source(managed);
    status.required = file.settings.required_for_online;
    status.has_static = addresses
        .iter()
        .any(|h| h.address.proto == OWN_STATIC && !h.address.is_tentative());
    status.dns = source
        .file_dns
        .iter()
        .chain(&source.lease_dns)
        .copied()
        .collect();
    status.domains = source
        .file_domains
        .iter()
        .chain(&source.lease_domains)
        .cloned()
        .collect();
    status.ntp = source.ntp;
    status.gateways = managed.gateways.clone();
    status.dhcp = managed.port.as_ref().map(|p| p.client.state().to_owned());
    (status.setup, status.reason) = setup(managed, operation, addresses);
    Some(status)
}

fn setup(
    managed: &ManagedLink,
    operation: Operation,
    addresses: &[Held],
) -> (Setup, Option<String>) {
    if let Some(failure) = &managed.failure {
        return (Setup::Failed, Some(failure.clone()));
    }
    if operation <= Operation::NoCarrier {
        let without = managed
            .file
            .as_ref()
            .is_some_and(|f| f.settings.without_carrier);
        let done = without && operation == Operation::NoCarrier && managed.settled;
        return (
            if done {
                Setup::Configured
            } else {
                Setup::Pending
            },
            None,
        );
    }
    if !managed.settled {
        return (
            Setup::Configuring,
            Some("settings are being applied".to_owned()),
        );
    }
    if addresses
        .iter()
        .any(|h| h.address.proto == OWN_STATIC && h.address.is_tentative())
    {
        return (
            Setup::Configuring,
            Some("an address is being checked for duplicates".to_owned()),
        );
    }
    if managed
        .claim
        .as_ref()
        .is_some_and(|c| c.claimer.address().is_none())
    {
        return (
            Setup::Configuring,
            Some("a link-local address is being claimed".to_owned()),
        );
    }
    match &managed.port {
        Some(port) if port.client.state() == "failed" => (
            Setup::Failed,
            Some("no DHCP server has answered, and MaxAttempts= is reached".to_owned()),
        ),
        // Where the network speaks IPv6 only, waiting for an IPv4 lease would be in vain.
        Some(port) if !port.client.is_settled() && !has_advertised(addresses) => (
            Setup::Configuring,
            Some("no answer from a DHCP server yet".to_owned()),
        ),
        _ => (Setup::Configured, None),
    }
}

/// An address from a router advertisement.
fn has_advertised(addresses: &[Held]) -> bool {
    addresses.iter().any(|h| match h.address.local {
        IpAddr::V6(a) => {
            !a.is_unicast_link_local() && !h.address.is_permanent() && !h.address.is_tentative()
        }
        IpAddr::V4(_) => false,
    })
}

/// What a link brings to `resolv.conf`.
pub(super) fn source(managed: &ManagedLink) -> Source {
    let Some(file) = &managed.file else {
        return Source::default();
    };
    let (settings, dhcp) = (&file.settings, &file.settings.dhcp);
    let mut out = Source {
        metric: dhcp.route_metric,
        file_dns: settings.dns.clone(),
        file_domains: settings.domains.clone(),
        ntp: settings.ntp.clone(),
        ..Source::default()
    };
    if let Some(lease) = managed.lease() {
        if dhcp.use_dns {
            out.lease_dns = lease.dns.iter().map(|a| IpAddr::V4(*a)).collect();
        }
        if dhcp.use_domains {
            out.lease_domains = if lease.search.is_empty() {
                lease.domain.iter().cloned().collect()
            } else {
                lease.search.clone()
            };
        }
        if dhcp.use_ntp {
            out.ntp.extend(lease.ntp.iter().map(ToString::to_string));
        }
    }
    out
}

/// Writes the links' files and, last, the summary that waiters watch.
pub(super) fn write_states(
    writer: &mut Writer,
    places: &Places,
    links: &[LinkStatus],
) -> io::Result<()> {
    let mut changed = false;
    for link in links {
        changed |= writer.put(places.link(link.index), link.to_text())?;
    }
    let managed = links.iter().filter(|l| l.setup != Setup::Unmanaged);
    let best = managed.map(|l| l.operation).max().unwrap_or(Operation::Off);
    let is_online = if online(links).is_ok() { "yes" } else { "no" };
    let text = format!("OPER_STATE={best}\nONLINE={is_online}\n");
    if changed {
        // Renewed also when its text is the same: its renaming is what wakes the waiters.
        writer.remove(&places.netif.join("state"))?;
    }
    writer.put(places.netif.join("state"), text).map(drop)
}
