//! The bridge network: addresses, the namespace of a container, published ports.
//!
//! One bridge (`docker0`, or the subnet that flannel leased), one firewall table `ip flotilla` written by `nft`.
//! A container's namespace is made by a helper process and kept by a bind mount in `/run/docker/netns`, so that
//! it outlives restarts; when the mount and the last process go, the kernel removes the link. A published port
//! is held by a socket of the monitor: a conflict with anything on the host is seen, and the port is free
//! again whatever happens to the monitor.

mod bridge;
pub mod files;
mod namespace;
mod ports;

pub use bridge::{Bridge, wait_for_overlay};
pub use namespace::{helper_main, release};
pub use ports::{Published, unpublish};

use crate::container::{Attached, Container, Port, Status};
use crate::host::Host;
use crate::options::Options;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// An address with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address itself (of the bridge).
    pub address: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Network {
    /// `172.17.0.1/16`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.trim().split_once('/')?;
        let network = Network {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok()?,
        };
        (8..=30).contains(&network.prefix).then_some(network)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// First address of the range.
    pub fn base(self) -> u32 {
        u32::from(self.address) & self.mask()
    }

    /// `172.17.0.0/16`.
    pub fn subnet(self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.base()), self.prefix)
    }

    /// Addresses for containers, in order.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let (base, size) = (self.base(), !self.mask());
        (1..size)
            .map(move |offset| Ipv4Addr::from(base + offset))
            .filter(move |address| *address != self.address)
    }
}

/// Why a container has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A program said no.
    #[error("{program} failed to {what}: {output}")]
    Program {
        /// ip, nft.
        program: &'static str,
        /// The step.
        what: &'static str,
        /// What it wrote.
        output: String,
    },
    /// A file or process operation.
    #[error("failed to {what}")]
    Io {
        /// The step.
        what: String,
        /// The error.
        source: std::io::Error,
    },
    /// All addresses are taken.
    #[error("no available IPv4 addresses on this network's address pools: bridge ({0})")]
    Exhausted(String),
    /// The overlay has no subnet yet.
    #[error(
        "the overlay network has no subnet yet (/run/flannel/subnet.env is missing); is flanneld running and etcd reachable?"
    )]
    NoLease,
    /// Taken.
    #[error(
        "driver failed programming external connectivity: Bind for {address}:{port} failed: port is already allocated"
    )]
    PortTaken {
        /// On which address.
        address: Ipv4Addr,
        /// Which.
        port: u16,
    },
    /// Not free at all.
    #[error("no free host port for a published port")]
    NoPort,
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Io { what, source }
}

/// A container's network while it runs; ports are free again when this is dropped.
#[derive(Debug)]
pub struct Connection {
    /// What the record says.
    pub attached: Attached,
    /// Sockets that hold the ports.
    pub published: Published,
}

/// Gives a container of the bridge network a namespace, an address and its ports.
pub fn connect(
    host: &Host,
    options: &Options,
    id: &str,
    wanted: &[Port],
    sysctls: bool,
) -> Result<Connection, NetworkError> {
    let _lock = host.lock("network.lock").map_err(io("lock the network"))?;
    let bridge = Bridge::ensure(options)?;
    let published = Published::reserve(wanted)?;
    let address = allocate(host, &bridge, id)?;
    let mac = mac_of(address);
    let mut attached = Attached {
        address: address.to_string(),
        prefix: bridge.network.prefix,
        gateway: bridge.network.address.to_string(),
        mac: mac.clone(),
        ports: published.ports.clone(),
        namespace: String::new(),
    };
    let made = namespace::make(
        host,
        id,
        Some(&namespace::Link {
            bridge: &bridge,
            address,
            mac: &mac,
        }),
        sysctls,
    )
    .and_then(|path| {
        attached.namespace = path.to_string_lossy().into_owned();
        if options.iptables {
            published.map(address)
        } else {
            Ok(())
        }
    });
    match made {
        Ok(()) => Ok(Connection {
            attached,
            published,
        }),
        Err(error) => {
            disconnect(host, id, &attached);
            Err(error)
        }
    }
}

/// A namespace with nothing but loopback.
pub fn isolate(host: &Host, id: &str) -> Result<Attached, NetworkError> {
    let path = namespace::make(host, id, None, true)?;
    Ok(Attached {
        namespace: path.to_string_lossy().into_owned(),
        ..Attached::default()
    })
}

/// Takes everything back; goes on over errors, because it runs after an end.
pub fn disconnect(host: &Host, id: &str, attached: &Attached) {
    if let Ok(address) = attached.address.parse() {
        unpublish(&attached.ports, address);
        let _ = fs::remove_file(host.data.join("ipam/bridge").join(&attached.address));
    }
    release(host, id);
}

/// The next free address. An address of a container that does not run any more is free.
fn allocate(host: &Host, bridge: &Bridge, id: &str) -> Result<Ipv4Addr, NetworkError> {
    let directory = host.data.join("ipam/bridge");
    fs::create_dir_all(&directory).map_err(io("make the address directory"))?;
    let last_file = directory.join("last");
    let last: Option<Ipv4Addr> = fs::read_to_string(&last_file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let hosts: Vec<Ipv4Addr> = bridge.network.hosts().take(1 << 16).collect();
    let start = last
        .and_then(|last| hosts.iter().position(|address| *address == last))
        .map_or(0, |at| at + 1);
    // Going round keeps an address that was just freed out of other hosts' ARP caches for a while.
    for index in 0..hosts.len() {
        let address = hosts[(start + index) % hosts.len()];
        let file = directory.join(address.to_string());
        let holder = fs::read_to_string(&file).unwrap_or_default();
        let free = holder.is_empty()
            || holder == id
            || host.load(&holder).map_or(true, |holder: Container| {
                holder.state.status == Status::Exited || holder.state.status == Status::Created
            });
        if free {
            fs::write(&file, id).map_err(io("write an address"))?;
            fs::write(&last_file, address.to_string()).map_err(io("write an address"))?;
            return Ok(address);
        }
    }
    Err(NetworkError::Exhausted(bridge.network.subnet()))
}

/// Docker's form: locally administered, with the address in it.
fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Feeds a program and returns its complaint if it fails.
pub(crate) fn feed(
    program: &'static str,
    arguments: &[&str],
    input: &str,
    what: &'static str,
) -> Result<String, NetworkError> {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io(format!("start {program} to {what}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(io(format!("wait for {program}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(NetworkError::Program {
        program,
        what,
        output: String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_give_addresses() {
        let network = Network::parse("10.1.5.1/24").unwrap();
        assert_eq!(network.subnet(), "10.1.5.0/24");
        let hosts: Vec<_> = network.hosts().collect();
        assert_eq!(
            (hosts.len(), hosts[0].to_string().as_str()),
            (253, "10.1.5.2")
        );
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0.1/31",
            "x/8",
            "10.0.0.1/0",
        ] {
            assert!(Network::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(mac_of("172.17.0.2".parse().unwrap()), "02:42:ac:11:00:02");
    }

    #[test]
    fn addresses_go_round_and_those_of_the_gone_are_free() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            data: dir.path().join("data"),
            run: dir.path().join("run"),
        };
        let bridge = Bridge {
            name: "b".into(),
            network: Network::parse("10.0.0.1/29").unwrap(),
            mtu: 1500,
            overlay: None,
        };
        let next = |id: &str| allocate(&host, &bridge, id).unwrap().to_string();
        assert_eq!(
            (next("a"), next("b")),
            ("10.0.0.2".into(), "10.0.0.3".into())
        );
        // No container of these names exists, so after a round the first address comes again.
        for _ in 0..3 {
            next("c");
        }
        assert_eq!(next("d"), "10.0.0.2");
    }
}
