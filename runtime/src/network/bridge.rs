//! The bridge and the firewall table.

use super::{Network, NetworkError, feed, io};
use crate::options::Options;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const SUBNET_ENV: &str = "/run/flannel/subnet.env";
/// cloudinit writes it where user data configures flannel.
const FLANNEL_OPTIONS: &str = "/run/flannel/options.env";
/// First of these that the host does not route already.
const POOL: [&str; 4] = [
    "172.17.0.1/16",
    "172.18.0.1/16",
    "172.19.0.1/16",
    "192.168.240.1/20",
];

/// The bridge of the default network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its interface.
    pub name: String,
    /// Its address and range.
    pub network: Network,
    /// Largest packet.
    pub mtu: u32,
    /// The whole overlay, which is not masqueraded.
    pub overlay: Option<String>,
}

/// Waits until flanneld has a subnet, where it is configured; `tell` is called about every 5 s.
pub fn wait_for_overlay(timeout: Duration, mut tell: impl FnMut()) -> Result<(), NetworkError> {
    if Path::new(SUBNET_ENV).exists() || !Path::new(FLANNEL_OPTIONS).exists() {
        return Ok(());
    }
    let start = Instant::now();
    let mut said = 0;
    while !Path::new(SUBNET_ENV).exists() {
        if start.elapsed() > timeout {
            return Err(NetworkError::NoLease);
        }
        if start.elapsed().as_secs() / 5 >= said {
            said += 1;
            tell();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// What `subnet.env` says: subnet, MTU, whole network.
fn parse_subnet_env(text: &str) -> Option<(Network, Option<u32>, Option<String>)> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    let network = Network::parse(value("FLANNEL_SUBNET")?)?;
    let mtu = value("FLANNEL_MTU").and_then(|mtu| mtu.parse().ok());
    let whole = value("FLANNEL_NETWORK").filter(|whole| Network::parse(whole).is_some());
    Some((network, mtu, whole.map(str::to_owned)))
}

impl Bridge {
    fn wanted(options: &Options) -> Bridge {
        let lease = fs::read_to_string(SUBNET_ENV)
            .ok()
            .and_then(|text| parse_subnet_env(&text));
        let (lease_network, lease_mtu, overlay) = match lease {
            Some((network, mtu, overlay)) => (Some(network), mtu, overlay),
            None => (None, None, None),
        };
        let name = options
            .bridge
            .clone()
            .filter(|name| name != "none")
            .unwrap_or_else(|| "docker0".into());
        let network = options
            .bip
            .as_deref()
            .and_then(Network::parse)
            .or(lease_network)
            .unwrap_or_else(|| free_network(&name));
        Bridge {
            network,
            mtu: options.mtu.or(lease_mtu).unwrap_or_else(uplink_mtu),
            overlay,
            name,
        }
    }

    /// Makes the bridge and the firewall table as they shall be. The network lock must be held.
    pub fn ensure(options: &Options) -> Result<Bridge, NetworkError> {
        let mut bridge = Self::wanted(options);
        let present = Path::new("/sys/class/net").join(&bridge.name);
        let current = if present.exists() {
            current_address(&bridge.name)?
        } else {
            Vec::new()
        };
        let mut batch = String::new();
        if !present.exists() {
            let _ = writeln!(batch, "link add {} type bridge", bridge.name);
        }
        if !current.contains(&bridge.network) {
            let busy =
                fs::read_dir(present.join("brif")).is_ok_and(|mut ports| ports.next().is_some());
            match current.first() {
                // Containers with addresses of the old range are on it: they keep it until they are gone.
                Some(old) if busy => {
                    tracing::warn!(bridge = %bridge.name, old = %old.subnet(), new = %bridge.network.subnet(), "the bridge keeps its address while containers use it");
                    bridge.network = *old;
                }
                _ => {
                    let _ = writeln!(batch, "addr flush dev {} scope global", bridge.name);
                    let _ = writeln!(
                        batch,
                        "addr add {}/{} dev {}",
                        bridge.network.address, bridge.network.prefix, bridge.name
                    );
                }
            }
        }
        if !batch.is_empty() {
            let _ = writeln!(batch, "link set {} mtu {} up", bridge.name, bridge.mtu);
            feed("ip", &["-batch", "-"], &batch, "set up the bridge")?;
        }
        let settings = [
            ("/proc/sys/net/ipv4/ip_forward".to_owned(), "1"),
            (
                format!("/proc/sys/net/ipv4/conf/{}/route_localnet", bridge.name),
                "1",
            ),
        ];
        for (path, value) in settings {
            if fs::read_to_string(&path)
                .map(|now| now.trim() != value)
                .unwrap_or(true)
            {
                fs::write(&path, value).map_err(io(format!("set {path}")))?;
            }
        }
        if options.iptables {
            feed(
                "nft",
                &["-f", "-"],
                &bridge.table(options),
                "write the firewall table",
            )?;
        }
        Ok(bridge)
    }

    /// The table as one transaction; the maps keep their elements.
    fn table(&self, options: &Options) -> String {
        let mut text = String::from("add table ip flotilla\n");
        for protocol in ["tcp", "udp"] {
            let _ = writeln!(
                text,
                "add map ip flotilla {protocol}_ports {{ type inet_service : ipv4_addr . inet_service ; }}"
            );
            let _ = writeln!(
                text,
                "add map ip flotilla {protocol}_addr_ports {{ type ipv4_addr . inet_service : ipv4_addr . inet_service ; }}"
            );
        }
        for (chain, hook, priority) in [
            ("prerouting", "prerouting", -100),
            ("output", "output", -100),
            ("postrouting", "postrouting", 100),
        ] {
            let _ = writeln!(
                text,
                "add chain ip flotilla {chain} {{ type nat hook {hook} priority {priority} ; policy accept ; }}"
            );
            let _ = writeln!(text, "flush chain ip flotilla {chain}");
        }
        let _ = writeln!(
            text,
            "add chain ip flotilla forward {{ type filter hook forward priority 0 ; policy accept ; }}\nflush chain ip flotilla forward"
        );
        for chain in ["prerouting", "output"] {
            for protocol in ["tcp", "udp"] {
                let _ = writeln!(
                    text,
                    "add rule ip flotilla {chain} fib daddr type local dnat ip to ip daddr . {protocol} dport map @{protocol}_addr_ports"
                );
                let _ = writeln!(
                    text,
                    "add rule ip flotilla {chain} fib daddr type local dnat ip to {protocol} dport map @{protocol}_ports"
                );
            }
        }
        let (subnet, name) = (self.network.subnet(), &self.name);
        if options.ip_masq {
            let outside = self.overlay.as_ref().map_or_else(String::new, |overlay| {
                format!(
                    "ip daddr != {} ",
                    Network::parse(overlay).map_or_else(|| overlay.clone(), Network::subnet)
                )
            });
            let _ = writeln!(
                text,
                "add rule ip flotilla postrouting ip saddr {subnet} oifname != \"{name}\" {outside}masquerade"
            );
        }
        let _ = writeln!(
            text,
            "add rule ip flotilla postrouting ip saddr 127.0.0.0/8 oifname \"{name}\" masquerade"
        );
        let _ = writeln!(
            text,
            "add rule ip flotilla postrouting ip saddr {subnet} oifname \"{name}\" ct status dnat masquerade"
        );
        if !options.icc {
            let _ = writeln!(
                text,
                "add rule ip flotilla forward iifname \"{name}\" oifname \"{name}\" ct status dnat accept"
            );
            let _ = writeln!(
                text,
                "add rule ip flotilla forward iifname \"{name}\" oifname \"{name}\" ct state established,related accept"
            );
            let _ = writeln!(
                text,
                "add rule ip flotilla forward iifname \"{name}\" oifname \"{name}\" drop"
            );
        }
        text
    }
}

fn current_address(name: &str) -> Result<Vec<Network>, NetworkError> {
    let output = feed(
        "ip",
        &["-o", "-4", "addr", "show", "dev", name, "scope", "global"],
        "",
        "read the bridge's address",
    )?;
    Ok(output
        .split_whitespace()
        .zip(output.split_whitespace().skip(1))
        .filter(|(word, _)| *word == "inet")
        .filter_map(|(_, address)| Network::parse(address))
        .collect())
}

/// The first network of the pool that no route of the host but the bridge's own overlaps.
fn free_network(own: &str) -> Network {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let pool: Vec<Network> = POOL
        .iter()
        .filter_map(|text| Network::parse(text))
        .collect();
    let fallback = Network {
        address: std::net::Ipv4Addr::new(172, 17, 0, 1),
        prefix: 16,
    };
    pool.into_iter()
        .find(|network| !overlaps(&routes, *network, own))
        .unwrap_or(fallback)
}

fn overlaps(routes: &str, network: Network, own: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| {
            fields
                .get(index)
                .and_then(|text| u32::from_str_radix(text, 16).ok())
                .map(u32::swap_bytes)
        };
        let (Some(target), Some(mask)) = (number(1), number(7)) else {
            return false;
        };
        let common = mask & network.mask();
        mask != 0 && fields[0] != own && target & common == network.base() & common
    })
}

/// MTU of the interface with the default route.
fn uplink_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let uplink = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        (fields.next()? == "00000000").then_some(name)
    });
    uplink
        .and_then(|name| fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_file_gives_subnet_mtu_and_the_whole_network() {
        let text = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.5.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let (network, mtu, whole) = parse_subnet_env(text).unwrap();
        assert_eq!(
            (network.subnet().as_str(), mtu, whole.as_deref()),
            ("10.1.5.0/24", Some(1450), Some("10.1.0.0/16"))
        );
        assert!(parse_subnet_env("FLANNEL_SUBNET=x").is_none());
    }

    #[test]
    fn a_routed_range_is_not_taken() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\neth0 00000000 0102000A 0003 0 0 0 00000000 0\neth1 000011AC 00000000 0001 0 0 0 0000FFFF 0\n";
        let network = Network::parse("172.17.0.1/16").unwrap();
        assert!(overlaps(routes, network, "docker0"));
        assert!(!overlaps(routes, network, "eth1"));
        assert!(!overlaps(
            routes,
            Network::parse("172.18.0.1/16").unwrap(),
            "docker0"
        ));
    }
}
