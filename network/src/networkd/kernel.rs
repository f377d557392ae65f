//! A mirror of the kernel's links, addresses and routes, kept up to date by its messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::netlink::address::{RTM_DELADDR, RTM_NEWADDR, get_addresses};
use crate::netlink::link::{RTM_DELLINK, RTM_NEWLINK, get_links};
use crate::netlink::route::{PROTO_DHCP, PROTO_STATIC, RTM_DELROUTE, RTM_NEWROUTE, get_routes};
use crate::netlink::wire::Message;
use crate::netlink::{Address, Handle, Link, NetlinkError, Route};
use crate::plan::{Held, OWN_DHCP};

/// What a message changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The mirror is right again.
    Done,
    /// The kernel drops routes in silence with this: list them anew.
    Relist,
}

/// The mirror.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) links: BTreeMap<u32, Link>,
    addresses: BTreeMap<(u32, IpAddr, u8), Held>,
    /// Only those of protocol `static` and `dhcp`: nothing else is compared with anything.
    routes: BTreeSet<Route>,
}

impl Kernel {
    /// Lists everything anew. `now` is the boot clock in milliseconds.
    pub(super) fn list(&mut self, handle: &mut Handle, now: u64) -> Result<(), NetlinkError> {
        let mut fresh = Self::default();
        for request in [get_links(), get_addresses(), get_routes()] {
            handle.dump(&request, |message| {
                fresh.apply(message, now);
            })?;
        }
        *self = fresh;
        Ok(())
    }

    /// Takes one message in.
    pub(super) fn apply(&mut self, message: Message<'_>, now: u64) -> Change {
        match message.kind {
            RTM_NEWLINK => {
                // Messages of other families tell only parts (bridge ports, IPv6 settings).
                if message.body.first() == Some(&0)
                    && let Some(link) = Link::parse(message.body)
                {
                    let before = self.links.insert(link.index, link.clone());
                    if before.is_some_and(|b| b.is_up() != link.is_up()) {
                        return Change::Relist;
                    }
                }
            }
            RTM_DELLINK => {
                if message.body.first() == Some(&0)
                    && let Some(link) = Link::parse(message.body)
                {
                    self.links.remove(&link.index);
                    self.addresses.retain(|(index, ..), _| *index != link.index);
                    self.routes.retain(|r| r.index != link.index);
                }
            }
            RTM_NEWADDR => {
                if let Some(address) = Address::parse(message.body) {
                    let until = address
                        .lifetime
                        .map(|(valid, _)| now + u64::from(valid) * 1000);
                    let key = (address.index, address.local, address.prefix);
                    self.addresses.insert(key, Held { address, until });
                }
            }
            RTM_DELADDR => {
                if let Some(address) = Address::parse(message.body) {
                    self.addresses
                        .remove(&(address.index, address.local, address.prefix));
                    return Change::Relist;
                }
            }
            RTM_NEWROUTE | RTM_DELROUTE => self.apply_route(message),
            _ => {}
        }
        Change::Done
    }

    fn apply_route(&mut self, message: Message<'_>) {
        let Some(mut route) = Route::parse(message.body) else {
            return;
        };
        if route.proto != PROTO_STATIC && route.proto != PROTO_DHCP {
            return;
        }
        if !route.kind.has_device() {
            // IPv6 hangs these on the loopback device.
            route.index = 0;
        }
        let same = |r: &Route| {
            (r.destination, r.prefix, r.table, r.metric, r.source)
                == (
                    route.destination,
                    route.prefix,
                    route.table,
                    route.metric,
                    route.source,
                )
        };
        if message.kind == RTM_DELROUTE {
            self.routes.retain(|r| !(same(r) && r.index == route.index));
        } else {
            self.routes.retain(|r| !same(r));
            self.routes.insert(route);
        }
    }

    /// All addresses of a link.
    pub(super) fn addresses(&self, index: u32) -> Vec<Held> {
        let first = (index, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let of_link = self
            .addresses
            .range(first..)
            .take_while(|((i, ..), _)| *i == index);
        of_link.map(|(_, held)| held.clone()).collect()
    }

    /// The link-local address that an earlier run of ours claimed.
    pub(super) fn claimed_address(&self, index: u32) -> Option<Ipv4Addr> {
        let ours = self
            .addresses(index)
            .into_iter()
            .map(|h| h.address)
            .filter(|a| a.proto == OWN_DHCP);
        ours.filter_map(|a| match a.local {
            IpAddr::V4(v4) if v4.is_link_local() => Some(v4),
            _ => None,
        })
        .next()
    }

    /// The mirrored routes of a link, and those without a device.
    pub(super) fn routes(&self, index: u32) -> Vec<Route> {
        self.routes
            .iter()
            .filter(|r| r.index == index || r.index == 0)
            .cloned()
            .collect()
    }
}
