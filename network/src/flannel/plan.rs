//! From leases to routes and neighbours: `plan(what the kernel has, what the leases want) -> steps`.
//!
//! Must stay true: performing the steps and planning again gives nothing; only objects of the overlay's device, or of our
//! route protocol number, are ever removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::model::{Attributes, Backend, Subnet};
use crate::netlink::{Neighbour, Route};

/// Protocol number of the overlay's routes, so that nobody else takes them for theirs.
pub const PROTO_FLANNEL: u8 = 0xf6;

/// The machine's own place in the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// How machines reach each other.
    pub backend: Backend,
    /// The machine's subnet.
    pub subnet: Subnet,
    /// Index of the overlay's device (VXLAN).
    pub device: u32,
    /// Index of the device that leads to the other machines.
    pub external: u32,
    /// The network that device is in.
    pub external_network: Subnet,
}

/// Routes and neighbours of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    /// Routes of [`PROTO_FLANNEL`].
    pub routes: BTreeSet<Route>,
    /// Permanent neighbours of the overlay's device.
    pub neighbours: BTreeSet<Neighbour>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set a neighbour.
    PutNeighbour(Neighbour),
    /// Remove a neighbour.
    DropNeighbour(Neighbour),
    /// Set a route, in the place of one to the same destination.
    PutRoute(Route),
    /// Remove a route.
    DropRoute(Route),
}

/// A lease that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Its subnet.
    pub subnet: Subnet,
    /// What is wrong.
    pub reason: &'static str,
}

/// What the kernel should have for the leases of the others.
pub fn wanted(here: Here, leases: &BTreeMap<Subnet, Attributes>) -> (Objects, Vec<Unusable>) {
    let mut out = Objects::default();
    let mut unusable = Vec::new();
    for (subnet, lease) in leases.iter().filter(|(subnet, _)| **subnet != here.subnet) {
        match objects_of(here, *subnet, lease) {
            Ok((route, neighbours)) => {
                out.routes.insert(route);
                out.neighbours.extend(neighbours);
            }
            Err(reason) => unusable.push(Unusable {
                subnet: *subnet,
                reason,
            }),
        }
    }
    (out, unusable)
}

fn objects_of(
    here: Here,
    subnet: Subnet,
    lease: &Attributes,
) -> Result<(Route, Vec<Neighbour>), &'static str> {
    if lease.backend != here.backend.name() {
        return Err("it is of another backend");
    }
    let near = here.external_network.contains(lease.public_ip);
    match here.backend {
        Backend::HostGw if near => {
            Ok((route(subnet, here.external, lease.public_ip, false), vec![]))
        }
        Backend::HostGw => Err("its machine is not in the same network, which host-gw needs"),
        Backend::Vxlan { direct: true, .. } if near => {
            Ok((route(subnet, here.external, lease.public_ip, false), vec![]))
        }
        Backend::Vxlan { .. } => {
            let mac = lease.vtep_mac().ok_or("it names no hardware address")?;
            let entry = |address, forwarding| Neighbour {
                index: here.device,
                address,
                mac,
                forwarding,
            };
            // The other end's device has the first address of its subnet; it is no neighbour by prefix, hence on-link.
            let neighbours = vec![entry(subnet.base, false), entry(lease.public_ip, true)];
            Ok((route(subnet, here.device, subnet.base, true), neighbours))
        }
    }
}

fn route(subnet: Subnet, index: u32, gateway: Ipv4Addr, onlink: bool) -> Route {
    Route {
        gateway: Some(IpAddr::V4(gateway)),
        onlink,
        ..Route::new(IpAddr::V4(subnet.base), subnet.prefix, index, PROTO_FLANNEL)
    }
}

/// The steps from what is to what should be. Neighbours come before the routes that use them, and go after.
pub fn plan(actual: &Objects, wanted: &Objects) -> Vec<Step> {
    let place = |r: &Route| (r.destination, r.prefix, r.table, r.metric);
    let mut steps = Vec::new();
    for route in actual.routes.difference(&wanted.routes) {
        if !wanted.routes.iter().any(|w| place(w) == place(route)) {
            steps.push(Step::DropRoute(route.clone()));
        }
    }
    // One hardware address has one tunnel end: setting it replaces the old one, so that must not be removed afterwards.
    let slot = |n: &Neighbour| match n.forwarding {
        true => (n.index, None, Some(n.mac)),
        false => (n.index, Some(n.address), None),
    };
    for neighbour in actual.neighbours.difference(&wanted.neighbours) {
        if !wanted.neighbours.iter().any(|w| slot(w) == slot(neighbour)) {
            steps.push(Step::DropNeighbour(*neighbour));
        }
    }
    let neighbours = wanted.neighbours.difference(&actual.neighbours);
    steps.extend(neighbours.map(|n| Step::PutNeighbour(*n)));
    let routes = wanted.routes.difference(&actual.routes);
    steps.extend(routes.map(|r| Step::PutRoute(r.clone())));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Mac;
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    fn here(backend: Backend) -> Here {
        let subnet = |t| Subnet::parse(t).unwrap();
        Here {
            backend,
            subnet: subnet("10.1.1.0/24"),
            device: 9,
            external: 2,
            external_network: subnet("10.0.2.0/24"),
        }
    }

    fn vxlan(direct: bool) -> Backend {
        Backend::Vxlan {
            vni: 1,
            port: 8472,
            direct,
            mtu: None,
        }
    }

    fn lease(last: u8, mac: u8, backend: Backend) -> Attributes {
        Attributes::new(
            Ipv4Addr::new(10, 0, 2, last),
            backend,
            Some(Mac([2, 0, 0, 0, 0, mac])),
        )
    }

    fn perform(objects: &mut Objects, steps: &[Step]) {
        for step in steps {
            match step.clone() {
                Step::PutNeighbour(n) => {
                    objects.neighbours.retain(|o| match n.forwarding {
                        true => !o.forwarding || (o.index, o.mac) != (n.index, n.mac),
                        false => o.forwarding || (o.index, o.address) != (n.index, n.address),
                    });
                    objects.neighbours.insert(n);
                }
                Step::DropNeighbour(n) => drop(objects.neighbours.remove(&n)),
                Step::PutRoute(r) => {
                    objects
                        .routes
                        .retain(|o| (o.destination, o.prefix) != (r.destination, r.prefix));
                    objects.routes.insert(r);
                }
                Step::DropRoute(r) => drop(objects.routes.remove(&r)),
            }
        }
    }

    #[test]
    fn a_peer_is_a_route_an_arp_entry_and_a_tunnel_end() {
        let leases = BTreeMap::from([
            (
                Subnet::parse("10.1.1.0/24").unwrap(),
                lease(11, 1, vxlan(false)),
            ),
            (
                Subnet::parse("10.1.6.0/24").unwrap(),
                lease(12, 2, vxlan(false)),
            ),
            (
                Subnet::parse("10.1.7.0/24").unwrap(),
                lease(13, 3, Backend::HostGw),
            ),
        ]);
        let (objects, unusable) = wanted(here(vxlan(false)), &leases);
        assert_eq!(unusable.len(), 1);
        let steps = plan(&Objects::default(), &objects);
        let [
            Step::PutNeighbour(_),
            Step::PutNeighbour(_),
            Step::PutRoute(route),
        ] = &steps[..]
        else {
            panic!("{steps:?}")
        };
        assert_eq!((route.index, route.onlink, route.prefix), (9, true, 24));
        assert_eq!(route.gateway, Some("10.1.6.0".parse().unwrap()));
        assert!(plan(&objects, &objects).is_empty());
    }

    #[test]
    fn near_machines_are_routed_to_directly_where_asked() {
        let leases = BTreeMap::from([(
            Subnet::parse("10.1.6.0/24").unwrap(),
            lease(12, 2, vxlan(true)),
        )]);
        let (objects, _) = wanted(here(vxlan(true)), &leases);
        let route = objects.routes.first().unwrap();
        assert_eq!((route.index, route.onlink), (2, false));
        assert!(objects.neighbours.is_empty());
        let mut far = leases.clone();
        far.values_mut()
            .for_each(|l| l.public_ip = Ipv4Addr::new(10, 9, 9, 9));
        assert_eq!(wanted(here(vxlan(true)), &far).0.neighbours.len(), 2);
        assert_eq!(wanted(here(Backend::HostGw), &leases).1.len(), 1);
    }

    proptest! {
        #[test]
        fn plans_settle(
            first in btree_map(1u8..20, (2u8..250, 1u8..6), 0..12),
            second in btree_map(1u8..20, (2u8..250, 1u8..6), 0..12), direct in any::<bool>(),
        ) {
            // No two machines share a tunnel end's hardware address.
            let leases = |m: &BTreeMap<u8, (u8, u8)>| -> BTreeMap<Subnet, Attributes> {
                m.iter().map(|(n, (last, mac))| {
                    let subnet = Subnet::parse(&format!("10.1.{n}.0/24")).unwrap();
                    (subnet, lease(*last, n.wrapping_mul(10).wrapping_add(*mac), vxlan(direct)))
                }).collect()
            };
            let mut kernel = Objects::default();
            for leases in [leases(&first), leases(&second)] {
                let (objects, _) = wanted(here(vxlan(direct)), &leases);
                let steps = plan(&kernel, &objects);
                perform(&mut kernel, &steps);
                prop_assert_eq!(&kernel, &objects);
                prop_assert_eq!(plan(&kernel, &objects), vec![]);
            }
        }
    }
}
