//! The kernel's side of the overlay: the link to the other machines, the VXLAN device, and the objects of `plan`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use super::model::{Backend, Subnet};
use super::plan::{Objects, PROTO_FLANNEL, Step};
use crate::netlink::address::get_addresses;
use crate::netlink::link::{add_vxlan, del_link, get_links, set_mtu, set_up};
use crate::netlink::route::{TABLE_MAIN, get_routes};
use crate::netlink::{
    Address, Handle, Link, Mac, Neighbour, NetlinkError, Route, RouteKind, Scope, Vxlan,
};

/// Bytes that VXLAN adds to a packet.
const VXLAN_OVERHEAD: u32 = 50;

/// Why the kernel's side cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    /// No link fits.
    #[error("no link is named or has the address {0}")]
    NoInterface(String),
    /// There is no default route.
    #[error("there is no default route to find the link to the other machines by")]
    NoDefaultRoute,
    /// The link has no IPv4 address.
    #[error("link {0} has no IPv4 address")]
    NoAddress(String),
    /// The kernel refused.
    #[error("failed to {what}")]
    Kernel {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
}

fn kernel(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> DeviceError {
    let what = what.into();
    move |source| DeviceError::Kernel { what, source }
}

/// The link to the other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) address: Ipv4Addr,
    pub(super) network: Subnet,
}

/// The overlay's own device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Mac,
}

fn list_links(handle: &mut Handle) -> Result<Vec<Link>, DeviceError> {
    let mut links = Vec::new();
    let dumped = handle.dump(&get_links(), |m| {
        links.extend(Link::parse(m.body));
    });
    dumped.map_err(kernel("list links")).map(|()| links)
}

fn list_addresses(handle: &mut Handle) -> Result<Vec<Address>, DeviceError> {
    let mut addresses = Vec::new();
    let dumped = handle.dump(&get_addresses(), |m| {
        addresses.extend(Address::parse(m.body));
    });
    dumped.map_err(kernel("list addresses")).map(|()| addresses)
}

fn list_routes(handle: &mut Handle) -> Result<Vec<Route>, DeviceError> {
    let mut routes = Vec::new();
    let dumped = handle.dump(&get_routes(), |m| {
        routes.extend(Route::parse(m.body));
    });
    dumped.map_err(kernel("list routes")).map(|()| routes)
}

/// Finds the link: the first of `wishes` (names or addresses) that exists, or that of the default route.
pub(super) fn external(handle: &mut Handle, wishes: &[String]) -> Result<External, DeviceError> {
    let links = list_links(handle)?;
    let addresses = list_addresses(handle)?;
    let (link, wish) = if wishes.is_empty() {
        let routes = list_routes(handle)?;
        (
            default_link(&links, &routes).ok_or(DeviceError::NoDefaultRoute)?,
            None,
        )
    } else {
        let found = wishes
            .iter()
            .find_map(|wish| wished(&links, &addresses, wish));
        found.ok_or_else(|| DeviceError::NoInterface(wishes.join(", ")))?
    };
    let own = |a: &&Address| a.index == link.index && a.scope == Scope::Global;
    let addresses = addresses.iter().filter(own).filter_map(|a| match a.local {
        IpAddr::V4(v4) => Some((v4, a.prefix)),
        IpAddr::V6(_) => None,
    });
    let mut addresses = addresses.filter(|(a, _)| wish.is_none_or(|w| w == *a));
    let (address, prefix) = addresses
        .next()
        .ok_or_else(|| DeviceError::NoAddress(link.name.clone()))?;
    let network = Subnet::parse(&format!("{address}/{prefix}"));
    Ok(External {
        index: link.index,
        name: link.name.clone(),
        mtu: link.mtu,
        address,
        network: network.ok_or_else(|| DeviceError::NoAddress(link.name.clone()))?,
    })
}

fn wished<'a>(
    links: &'a [Link],
    addresses: &[Address],
    wish: &str,
) -> Option<(&'a Link, Option<Ipv4Addr>)> {
    if let Ok(address) = wish.parse::<Ipv4Addr>() {
        let holder = addresses.iter().find(|a| a.local == IpAddr::V4(address))?;
        let link = links.iter().find(|l| l.index == holder.index)?;
        return Some((link, Some(address)));
    }
    let named = |l: &&Link| l.name == wish || l.altnames.iter().any(|n| n == wish);
    links.iter().find(named).map(|l| (l, None))
}

fn default_link<'a>(links: &'a [Link], routes: &[Route]) -> Option<&'a Link> {
    let default = |r: &&Route| {
        r.prefix == 0
            && r.destination.is_ipv4()
            && r.table == TABLE_MAIN
            && r.kind == RouteKind::Unicast
    };
    let best = routes.iter().filter(default).min_by_key(|r| r.metric)?;
    links.iter().find(|l| l.index == best.index)
}

/// Largest packet of the overlay.
pub(super) fn overlay_mtu(backend: Backend, external: &External) -> u32 {
    match backend {
        Backend::Vxlan { mtu, .. } => mtu.unwrap_or(external.mtu.saturating_sub(VXLAN_OVERHEAD)),
        Backend::HostGw => external.mtu,
    }
}

/// Makes the VXLAN device, or takes the one of an earlier run if it is right.
pub(super) fn ensure_vxlan(
    handle: &mut Handle,
    backend: Backend,
    external: &External,
) -> Result<Option<Device>, DeviceError> {
    let Backend::Vxlan { vni, port, .. } = backend else {
        return Ok(None);
    };
    let name = format!("flannel.{vni}");
    let mtu = overlay_mtu(backend, external);
    let wanted = Vxlan {
        id: vni,
        local: Some(external.address),
        port,
        link: external.index,
        learning: false,
    };
    if let Some(link) = list_links(handle)?.into_iter().find(|l| l.name == name) {
        if let (Some(mac), true) = (link.mac, link.vxlan == Some(wanted)) {
            if link.mtu != mtu {
                handle
                    .request(set_mtu(link.index, mtu))
                    .map_err(kernel(format!("set the MTU of {name}")))?;
            }
            return Ok(Some(Device {
                index: link.index,
                name,
                mac,
            }));
        }
        tracing::info!("{name} has other settings, making it anew");
        handle
            .request(del_link(link.index))
            .map_err(kernel(format!("remove {name}")))?;
    }
    let mac = vtep_mac(vni, external.address);
    handle
        .request(add_vxlan(&name, Some(mac), mtu, &wanted))
        .map_err(kernel(format!(
            "make {name} (is the kernel module vxlan there?)"
        )))?;
    let made = list_links(handle)?.into_iter().find(|l| l.name == name);
    let device = made.map(|l| Device {
        index: l.index,
        name: name.clone(),
        mac,
    });
    device.map(Some).ok_or(DeviceError::NoInterface(name))
}

/// Locally administered, and the same after a reboot, so that the others' entries stay right.
fn vtep_mac(vni: u32, address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0xf2, vni.to_be_bytes()[3], a, b, c, d])
}

/// Gives the device the first address of our subnet, removes others, and brings it up.
pub(super) fn configure(
    handle: &mut Handle,
    device: &Device,
    subnet: Subnet,
) -> Result<(), DeviceError> {
    let own = IpAddr::V4(subnet.base);
    let mut present = false;
    for address in list_addresses(handle)?
        .into_iter()
        .filter(|a| a.index == device.index)
    {
        if address.local.is_ipv4() && (address.local, address.prefix) != (own, 32) {
            let what = format!("remove the address {} of {}", address.local, device.name);
            handle.request(address.remove()).map_err(kernel(what))?;
        }
        present |= (address.local, address.prefix) == (own, 32);
    }
    // The kernel tells everybody of a replaced address, also of an equal one: we would repair for ever.
    let address = (!present).then_some(Address {
        index: device.index,
        local: own,
        prefix: 32,
        peer: None,
        broadcast: None,
        label: None,
        scope: Scope::Global,
        flags: 0,
        lifetime: None,
        proto: 0,
    });
    if let Some(address) = address {
        let what = format!("set the address {own} of {}", device.name);
        handle.request(address.replace()).map_err(kernel(what))?;
    }
    handle
        .request(set_up(device.index, true))
        .map_err(kernel(format!("bring up {}", device.name)))
}

/// What the kernel has of the overlay.
pub(super) fn objects(
    handle: &mut Handle,
    device: Option<&Device>,
) -> Result<Objects, DeviceError> {
    let routes = list_routes(handle)?
        .into_iter()
        .filter(|r| r.proto == PROTO_FLANNEL)
        .collect();
    let mut neighbours = BTreeSet::new();
    if let Some(device) = device {
        for forwarding in [false, true] {
            handle
                .dump(&Neighbour::list(forwarding), |m| {
                    neighbours.extend(Neighbour::parse(m.body));
                })
                .map_err(kernel("list neighbours"))?;
        }
        neighbours.retain(|n| n.index == device.index);
    }
    Ok(Objects { routes, neighbours })
}

/// Does one step.
pub(super) fn perform(handle: &mut Handle, step: &Step) -> Result<(), DeviceError> {
    let (result, what) = match step {
        Step::PutNeighbour(n) => (
            handle.request(n.replace()),
            format!("set the neighbour {}", n.address),
        ),
        Step::DropNeighbour(n) => (
            handle.request(n.remove()),
            format!("remove the neighbour {}", n.address),
        ),
        Step::PutRoute(r) => (
            handle.request(r.replace()),
            format!("set the route to {}/{}", r.destination, r.prefix),
        ),
        Step::DropRoute(r) => (
            handle.request(r.remove()),
            format!("remove the route to {}/{}", r.destination, r.prefix),
        ),
    };
    match (result, step) {
        // Gone already, with its device or by another hand.
        (Err(e), Step::DropNeighbour(_)) if e.is(Errno::NOENT) => Ok(()),
        (Err(e), Step::DropRoute(_)) if e.is(Errno::SRCH) => Ok(()),
        (result, _) => result.map_err(kernel(what)),
    }
}
