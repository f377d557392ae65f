//! What is to be done on one link: `plan(what the kernel has, what the file and the lease want) -> steps`.
//!
//! Must stay true: performing the steps and planning again gives nothing; nothing that somebody else set is removed.
//! Ours are addresses whose `IFA_PROTO` is one of the two below, and routes of protocol `static` or `dhcp` on a link
//! that a file matches, so that a restarted daemon knows its own without a file of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::model::{Activation, AddressSpec, RouteSpec};
use crate::config::values::{broadcast_v4, full_prefix};
use crate::config::{Cidr, Settings};
use crate::dhcp::Lease;
use crate::netlink::address::IFA_F_NOPREFIXROUTE;
use crate::netlink::route::{PROTO_DHCP, PROTO_STATIC, TABLE_MAIN};
use crate::netlink::{Address, Link, Mac, Route, RouteKind, Scope};

/// `IFA_PROTO` of addresses from files.
pub const OWN_STATIC: u8 = 0xf4;
/// `IFA_PROTO` of addresses from leases, and of claimed ones.
pub const OWN_DHCP: u8 = 0xf5;

/// Metric the kernel gives an IPv6 route that names none.
const IPV6_METRIC: u32 = 1024;
/// How far a lifetime may be off before it is set anew, in milliseconds.
const TOLERANCE: u64 = 5000;

/// An address of the kernel with the moment it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The address; its lifetime is that of when it was listed.
    pub address: Address,
    /// Milliseconds of the boot clock; `None` is never.
    pub until: Option<u64>,
}

/// What the kernel has on a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    /// The device.
    pub link: Link,
    /// All its addresses.
    pub addresses: Vec<Held>,
    /// Its routes of protocol `static` and `dhcp`.
    pub routes: Vec<Route>,
    /// Current values of the kernel settings that [`kernel_settings`] names, by path below `/proc/sys`.
    pub sysctl: BTreeMap<String, String>,
}

/// What a link shall have.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// From its file.
    pub settings: &'a Settings,
    /// From its DHCP server.
    pub lease: Option<&'a Lease>,
    /// Claimed on the link without a server.
    pub link_local: Option<Ipv4Addr>,
    /// Names to add.
    pub altnames: &'a [String],
    /// The link was brought up, or down, before.
    pub activated: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Write a kernel setting, by path below `/proc/sys`.
    Sysctl(String, String),
    /// Add a name.
    AltName(u32, String),
    /// Set the hardware address.
    Mac(u32, Mac),
    /// Set the largest packet.
    Mtu(u32, u32),
    /// Bring the link up or down.
    Up(u32, bool),
    /// Remove a route.
    DropRoute(Route),
    /// Remove an address.
    DropAddress(Address),
    /// Set an address or its lifetime.
    PutAddress(Address),
    /// Add a route; `true` replaces ours with the same destination.
    PutRoute(Route, bool),
}

/// Kernel settings that a file asks for: path below `/proc/sys` and value.
pub fn kernel_settings(name: &str, settings: &Settings) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut put = |path: String, value: &str| out.push((path, value.to_owned()));
    if !settings.link_local_v6 {
        put(format!("net/ipv6/conf/{name}/addr_gen_mode"), "1");
    }
    match settings.accept_ra {
        // 2: also while forwarding, which container hosts do.
        Some(true) => put(format!("net/ipv6/conf/{name}/accept_ra"), "2"),
        Some(false) => put(format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        None => {}
    }
    if settings.forward_v4 || settings.masquerade_v4 {
        put("net/ipv4/ip_forward".to_owned(), "1");
    }
    if settings.forward_v6 || settings.masquerade_v6 {
        put("net/ipv6/conf/all/forwarding".to_owned(), "1");
    }
    out
}

/// The steps for one managed link at boot-clock time `now` (milliseconds).
pub fn plan(actual: &Actual, wanted: Wanted<'_>, now: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    plan_device(actual, wanted, &mut steps);
    // Without carrier nothing is added, and, so that a pulled cable costs nothing, nothing removed either.
    if actual.link.is_up() && (actual.link.has_carrier() || wanted.settings.without_carrier) {
        plan_network(actual, wanted, now, &mut steps);
    }
    steps
}

fn plan_device(actual: &Actual, wanted: Wanted<'_>, steps: &mut Vec<Step>) {
    let (link, settings) = (&actual.link, wanted.settings);
    for (path, value) in kernel_settings(&link.name, settings) {
        // A path that cannot be read is of a protocol that the kernel does not have.
        if actual.sysctl.get(&path).is_some_and(|have| *have != value) {
            steps.push(Step::Sysctl(path, value));
        }
    }
    for name in wanted
        .altnames
        .iter()
        .filter(|n| !link.altnames.contains(n) && **n != link.name)
    {
        steps.push(Step::AltName(link.index, name.clone()));
    }
    if let Some(mac) = settings
        .mac
        .filter(|mac| link.mac.is_some_and(|have| have != *mac))
    {
        steps.push(Step::Mac(link.index, mac));
    }
    let lease_mtu = wanted
        .lease
        .filter(|_| settings.dhcp.use_mtu)
        .and_then(|l| l.mtu);
    if let Some(mtu) = settings.mtu.or(lease_mtu).filter(|mtu| *mtu != link.mtu) {
        steps.push(Step::Mtu(link.index, mtu));
    }
    let up = match settings.activation {
        Activation::Manual => None,
        Activation::Up => (!wanted.activated).then_some(true),
        Activation::Down => (!wanted.activated).then_some(false),
        Activation::AlwaysUp => Some(true),
        Activation::AlwaysDown => Some(false),
    };
    if let Some(up) = up.filter(|up| *up != link.is_up()) {
        steps.push(Step::Up(link.index, up));
    }
}

fn plan_network(actual: &Actual, wanted: Wanted<'_>, now: u64, steps: &mut Vec<Step>) {
    let addresses = addresses(actual.link.index, wanted, now);
    let routes = routes(actual.link.index, wanted);
    let keep = wanted.settings.keep;

    for route in &actual.routes {
        let ours = (route.proto == PROTO_STATIC && !keep.statics) || route.proto == PROTO_DHCP;
        let wanted = routes.contains_key(&key(route));
        if ours && !wanted && route.kind.has_device() {
            steps.push(Step::DropRoute(route.clone()));
        }
    }
    for held in &actual.addresses {
        let address = &held.address;
        let ours = (address.proto == OWN_STATIC && !keep.statics) || address.proto == OWN_DHCP;
        if ours && !addresses.contains_key(&(address.local, address.prefix)) {
            steps.push(Step::DropAddress(address.clone()));
        }
    }
    for (key, (address, until)) in addresses {
        let have = actual
            .addresses
            .iter()
            .find(|h| (h.address.local, h.address.prefix) == key);
        if !have.is_some_and(|have| is_current(have, &address, until)) {
            // A changed peer cannot be replaced in place.
            if let Some(have) = have.filter(|h| h.address.peer != address.peer) {
                steps.push(Step::DropAddress(have.address.clone()));
            }
            steps.push(Step::PutAddress(address));
        }
    }
    // On-link routes first: gateways are reached through them.
    let mut missing: Vec<(Route, bool)> = Vec::new();
    for (key_, route) in routes {
        match actual.routes.iter().find(|r| key(r) == key_) {
            Some(have) if *have == route => {}
            have => missing.push((route, have.is_some())),
        }
    }
    missing.sort_by_key(|(route, _)| route.gateway.is_some());
    steps.extend(
        missing
            .into_iter()
            .map(|(route, replace)| Step::PutRoute(route, replace)),
    );
}

fn is_current(have: &Held, want: &Address, until: Option<u64>) -> bool {
    have.address.peer == want.peer
        && match (have.until, until) {
            (None, None) => true,
            (Some(a), Some(b)) => a.abs_diff(b) <= TOLERANCE,
            _ => false,
        }
}

type RouteKey = (IpAddr, u8, u32, u32, Option<(IpAddr, u8)>);

/// What the kernel tells routes apart by.
fn key(route: &Route) -> RouteKey {
    (
        route.destination,
        route.prefix,
        route.table,
        route.metric,
        route.source,
    )
}

type AddressKey = (IpAddr, u8);

/// The addresses a link shall have, each with the moment it ends.
fn addresses(
    index: u32,
    wanted: Wanted<'_>,
    now: u64,
) -> BTreeMap<AddressKey, (Address, Option<u64>)> {
    let mut out = BTreeMap::new();
    if let Some(lease) = wanted.lease {
        let until = lease
            .expires()
            .filter(|_| !wanted.settings.keep.expired_lease);
        let left = until.map(|end| {
            let seconds = u32::try_from(end.saturating_sub(now) / 1000).unwrap_or(u32::MAX - 1);
            (seconds, seconds)
        });
        let address = Address {
            index,
            local: IpAddr::V4(lease.address),
            prefix: lease.prefix,
            peer: None,
            broadcast: lease.broadcast_address(),
            label: None,
            scope: Scope::Global,
            flags: IFA_F_NOPREFIXROUTE,
            lifetime: left,
            proto: OWN_DHCP,
        };
        if left.is_none_or(|(seconds, _)| seconds > 0) {
            out.insert((address.local, address.prefix), (address, until));
        }
    }
    if let Some(local) = wanted.link_local {
        let spec = AddressSpec {
            address: Cidr {
                addr: IpAddr::V4(local),
                prefix: 16,
            },
            label: None,
            peer: None,
            broadcast: None,
        };
        let address = Address {
            proto: OWN_DHCP,
            ..static_address(index, &spec)
        };
        out.insert((address.local, address.prefix), (address, None));
    }
    for spec in &wanted.settings.addresses {
        let address = static_address(index, spec);
        out.insert((address.local, address.prefix), (address, None));
    }
    out
}

fn static_address(index: u32, spec: &AddressSpec) -> Address {
    let (local, prefix) = (spec.address.addr, spec.address.prefix);
    let scope = match local {
        IpAddr::V4(a) if a.is_loopback() => Scope::Host,
        IpAddr::V4(a) if a.is_link_local() => Scope::Link,
        IpAddr::V6(a) if a.is_unicast_link_local() => Scope::Link,
        IpAddr::V6(a) if a.is_loopback() => Scope::Host,
        _ => Scope::Global,
    };
    let broadcast = match local {
        IpAddr::V4(a) => spec
            .broadcast
            .or_else(|| broadcast_v4(a, prefix).filter(|_| spec.peer.is_none())),
        IpAddr::V6(_) => None,
    };
    Address {
        index,
        local,
        prefix,
        peer: spec
            .peer
            .filter(|p| *p != local && p.is_ipv4() == local.is_ipv4()),
        broadcast,
        label: spec.label.clone().filter(|_| local.is_ipv4()),
        scope,
        flags: 0,
        lifetime: None,
        proto: OWN_STATIC,
    }
}

/// The routes a link shall have. Those of files win over those of leases.
fn routes(index: u32, wanted: Wanted<'_>) -> BTreeMap<RouteKey, Route> {
    let leased = wanted
        .lease
        .map(|l| lease_routes(index, wanted.settings, l))
        .unwrap_or_default();
    let statics = wanted
        .settings
        .routes
        .iter()
        .filter_map(|spec| static_route(index, spec));
    leased
        .into_iter()
        .chain(statics)
        .map(|route| (key(&route), route))
        .collect()
}

fn static_route(index: u32, spec: &RouteSpec) -> Option<Route> {
    let (destination, prefix) = match (spec.destination, spec.gateway) {
        (Some(destination), _) => (destination.network(), destination.prefix),
        (None, Some(IpAddr::V4(_))) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        (None, Some(IpAddr::V6(_))) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        (None, None) => return None,
    };
    let v4 = destination.is_ipv4();
    let scope = match (spec.scope, spec.kind) {
        // The kernel keeps no scopes for IPv6.
        _ if !v4 => Scope::Global,
        (Some(scope), _) => scope,
        (None, RouteKind::Local) => Scope::Host,
        (None, RouteKind::Unicast) if spec.gateway.is_none() => Scope::Link,
        _ => Scope::Global,
    };
    Some(Route {
        destination,
        prefix,
        table: spec.table.unwrap_or(TABLE_MAIN),
        metric: spec.metric.unwrap_or(if v4 { 0 } else { IPV6_METRIC }),
        index: if spec.kind.has_device() { index } else { 0 },
        gateway: spec.gateway.filter(|_| spec.kind.has_device()),
        source: spec.source.filter(|_| !v4).map(|s| (s.network(), s.prefix)),
        preferred_source: spec.preferred_source.filter(|s| s.is_ipv4() == v4),
        scope,
        kind: spec.kind,
        onlink: spec.onlink && spec.gateway.is_some(),
        mtu: spec.mtu,
        proto: PROTO_STATIC,
    })
}

/// Prefix route, classless or classful routes, gateway.
fn lease_routes(index: u32, settings: &Settings, lease: &Lease) -> Vec<Route> {
    let own = Some(IpAddr::V4(lease.address));
    let route = |destination: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>| Route {
        metric: settings.dhcp.route_metric,
        gateway: gateway.map(IpAddr::V4),
        preferred_source: own,
        scope: if gateway.is_some() {
            Scope::Global
        } else {
            Scope::Link
        },
        ..Route::new(IpAddr::V4(destination), prefix, index, PROTO_DHCP)
    };
    let network = lease.cidr();
    let mut out = Vec::new();
    if let IpAddr::V4(base) = network.network()
        && lease.prefix < full_prefix(network.addr)
    {
        out.push(route(base, lease.prefix, None));
    }
    let use_gateway = settings
        .dhcp
        .use_gateway
        .unwrap_or(settings.dhcp.use_routes);
    let mut wishes = Vec::new();
    if use_gateway && !lease.classless {
        wishes.extend(
            lease
                .routers
                .first()
                .map(|gw| (Ipv4Addr::UNSPECIFIED, 0, *gw)),
        );
    }
    for (destination, prefix, gateway) in &lease.routes {
        if (*prefix == 0 && use_gateway) || (*prefix > 0 && settings.dhcp.use_routes) {
            wishes.push((*destination, *prefix, *gateway));
        }
    }
    let on_link: Vec<(Ipv4Addr, u8)> = wishes
        .iter()
        .filter(|(_, _, gw)| gw.is_unspecified())
        .map(|(d, p, _)| (*d, *p))
        .collect();
    for (destination, prefix, gateway) in wishes {
        if gateway.is_unspecified() {
            out.push(route(destination, prefix, None));
            continue;
        }
        // A gateway outside the prefix, as clouds with /32 addresses have it, gets a route of its own.
        if !network.contains(IpAddr::V4(gateway)) && !on_link.contains(&(gateway, 32)) {
            out.push(route(gateway, 32, None));
        }
        if gateway != lease.address {
            out.push(route(destination, prefix, Some(gateway)));
        }
    }
    out
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
