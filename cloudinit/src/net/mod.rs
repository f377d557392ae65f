//! Which addresses of the machine are its private and public ones.
//!
//! [`choose`] is the rule, a pure function of a [`Snapshot`]; [`netlink`] makes snapshots. Links are
//! configured by networkd; this module only looks, and waits when it is asked to.

pub mod netlink;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::metadata::Addresses;

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// The loopback.
    pub loopback: bool,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddress {
    /// Link.
    pub index: u32,
    /// Address.
    pub ip: IpAddr,
    /// Not usable yet, or no longer to be used.
    pub unusable: bool,
}

/// The state of the network that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Links by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses, in the kernel's order.
    pub addresses: Vec<LinkAddress>,
    /// Links of default routes with their metric, IPv4 and IPv6.
    pub default_routes: Vec<(bool, u32, u32)>,
}

/// Names of links that belong to containers.
const CONTAINER_LINKS: [&str; 8] = [
    "docker", "br-", "veth", "flannel", "cni", "virbr", "lxc", "dummy",
];

fn is_container_link(name: &str) -> bool {
    CONTAINER_LINKS
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// RFC 1918, RFC 6598, unique local addresses, and the site-local ones that came before them.
fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.segments()[0] & 0xffc0 == 0xfec0,
    }
}

fn is_global(ip: &IpAddr) -> bool {
    if is_private(ip) || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    match ip {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// Chooses addresses: the first private one on the link of the default route, else on other links by
/// index; the same for public ones. Where a family has only one kind, it serves for both names. The
/// second value says what was chosen and from where.
pub fn choose(net: &Snapshot) -> (Addresses, Vec<String>) {
    let mut chosen = Addresses::default();
    let mut why = Vec::new();
    for v4 in [true, false] {
        let ordered = candidates(net, v4);
        let private = ordered.iter().find(|(_, a)| is_private(&a.ip));
        let public = ordered.iter().find(|(_, a)| is_global(&a.ip));
        let suffix = if v4 { "ipv4" } else { "ipv6" };
        for (kind, own, other) in [("private", private, public), ("public", public, private)] {
            let Some((link, address)) = own.or(other) else {
                continue;
            };
            let name = format!("{kind}_{suffix}");
            if let Some(slot) = chosen.slot(&name) {
                *slot = address.ip.to_string();
            }
            let note = if own.is_none() {
                ", the only kind there is"
            } else {
                ""
            };
            why.push(format!("{name}={} (on {}{note})", address.ip, link.name));
        }
    }
    (chosen, why)
}

/// Usable addresses of a family, those of the best default route's link first.
fn candidates(net: &Snapshot, v4: bool) -> Vec<(&Link, &LinkAddress)> {
    let best = net
        .default_routes
        .iter()
        .filter(|(family, ..)| *family == v4)
        .min_by_key(|(_, index, metric)| (*metric, *index))
        .map(|(_, index, _)| *index);
    let mut list: Vec<(usize, &Link, &LinkAddress)> = net
        .addresses
        .iter()
        .enumerate()
        .filter(|(_, a)| a.ip.is_ipv4() == v4 && !a.unusable)
        .filter_map(|(at, a)| net.links.get(&a.index).map(|link| (at, link, a)))
        .filter(|(_, link, _)| !link.loopback && !is_container_link(&link.name))
        .collect();
    list.sort_by_key(|(at, _, a)| (Some(a.index) != best, a.index, *at));
    list.into_iter()
        .map(|(_, link, address)| (link, address))
        .collect()
}

/// Looks at the machine; where one of `needed` is missing, waits until it appears or `limit` is over.
pub fn detect(needed: &[&str], limit: Duration) -> std::io::Result<(Addresses, Vec<String>)> {
    let deadline = Instant::now() + limit;
    // The news socket comes first: nothing between the look and the wait is lost.
    let news = netlink::News::open()?;
    loop {
        let (addresses, why) = choose(&netlink::snapshot()?);
        let missing = addresses
            .pairs()
            .iter()
            .any(|(name, value)| value.is_empty() && needed.contains(name));
        if !missing || !news.wait(deadline)? {
            return Ok((addresses, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(links: &[(u32, &str)], addresses: &[(u32, &str)], routes: &[(u32, u32)]) -> Snapshot {
        Snapshot {
            links: links
                .iter()
                .map(|(i, n)| {
                    (
                        *i,
                        Link {
                            name: (*n).to_owned(),
                            loopback: *n == "lo",
                        },
                    )
                })
                .collect(),
            addresses: addresses
                .iter()
                .map(|(index, ip)| LinkAddress {
                    index: *index,
                    ip: ip.parse().unwrap(),
                    unusable: false,
                })
                .collect(),
            default_routes: routes
                .iter()
                .flat_map(|(i, m)| [(true, *i, *m), (false, *i, *m)])
                .collect(),
        }
    }

    #[track_caller]
    fn check(net: &Snapshot, want: [&str; 4]) {
        let (got, _) = choose(net);
        let got: Vec<&str> = got.pairs().iter().map(|(_, v)| *v).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn one_kind_serves_for_both_names() {
        let n = net(
            &[(1, "lo"), (2, "eth0")],
            &[(1, "127.0.0.1"), (2, "10.0.2.15")],
            &[(2, 0)],
        );
        check(&n, ["10.0.2.15", "10.0.2.15", "", ""]);
    }

    #[test]
    fn the_default_route_comes_before_the_index() {
        let n = net(
            &[(2, "eth0"), (3, "eth1")],
            &[(2, "192.168.1.4"), (3, "10.1.1.1"), (3, "8.8.8.8")],
            &[(3, 100), (2, 200)],
        );
        check(&n, ["8.8.8.8", "10.1.1.1", "", ""]);
        let n = net(
            &[(2, "eth0"), (3, "eth1")],
            &[(3, "10.1.1.1"), (2, "192.168.1.4")],
            &[],
        );
        check(&n, ["192.168.1.4", "192.168.1.4", "", ""]);
    }

    #[test]
    fn containers_link_local_and_tentative_addresses_are_passed_over() {
        let mut n = net(
            &[(2, "eth0"), (5, "docker0"), (6, "flannel.1")],
            &[
                (5, "172.17.0.1"),
                (6, "10.1.0.0"),
                (2, "169.254.1.1"),
                (2, "fe80::1"),
                (2, "fd00::5"),
                (2, "2001:db8::5"),
                (2, "100.64.0.9"),
            ],
            &[(2, 0)],
        );
        check(&n, ["100.64.0.9", "100.64.0.9", "2001:db8::5", "fd00::5"]);
        n.addresses.iter_mut().for_each(|a| a.unusable = true);
        check(&n, ["", "", "", ""]);
    }

    #[test]
    fn the_running_machine_can_be_looked_at() {
        let snapshot = netlink::snapshot().unwrap();
        assert!(
            snapshot
                .links
                .values()
                .any(|l| l.loopback && l.name == "lo")
        );
        let (_, why) = detect(&[], Duration::ZERO).unwrap();
        assert!(why.len() <= 4);
    }
}
