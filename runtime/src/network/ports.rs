//! Published ports: reserved by sockets, mapped by elements of the firewall's maps.

use super::{NetworkError, feed};
use crate::container::Port;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

/// Where ports without a wish come from; 49153 is fleet's.
const DYNAMIC: std::ops::RangeInclusive<u16> = 49154..=65535;

/// Reserved host ports. Never accepts: packets are turned to the container before they reach a socket.
#[derive(Debug)]
pub struct Published {
    /// With the host ports filled in.
    pub ports: Vec<Port>,
    sockets: Vec<OwnedFd>,
}

impl Published {
    /// Binds each port; a taken one is an error, one without number gets a free one.
    pub fn reserve(wanted: &[Port]) -> Result<Published, NetworkError> {
        let mut published = Published {
            ports: Vec::new(),
            sockets: Vec::new(),
        };
        for port in wanted {
            let address = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let (number, holder) = match port.host_port {
                Some(number) => (
                    number,
                    bind(&port.protocol, address, number)
                        .map_err(|error| taken(error, address, number))?,
                ),
                None => find_free(&port.protocol, address)?,
            };
            published.sockets.push(holder);
            published.ports.push(Port {
                host_port: Some(number),
                ..port.clone()
            });
        }
        Ok(published)
    }

    /// Points the ports at the container.
    pub fn map(&self, container: Ipv4Addr) -> Result<(), NetworkError> {
        if self.ports.is_empty() {
            return Ok(());
        }
        let add = elements("add", &self.ports, Some(container));
        if feed("nft", &["-f", "-"], &add, "publish ports").is_ok() {
            return Ok(());
        }
        // An element of a monitor that was killed: the port was free, so the element is stale.
        for port in &self.ports {
            let _ = feed(
                "nft",
                &["-f", "-"],
                &elements("delete", std::slice::from_ref(port), None),
                "remove a stale port",
            );
        }
        feed("nft", &["-f", "-"], &add, "publish ports").map(|_| ())
    }
}

/// Removes the elements of these ports; those that are gone already are fine.
pub fn unpublish(ports: &[Port], container: Ipv4Addr) {
    if ports.is_empty() {
        return;
    }
    if feed(
        "nft",
        &["-f", "-"],
        &elements("delete", ports, None),
        "withdraw ports",
    )
    .is_err()
    {
        for port in ports {
            let _ = feed(
                "nft",
                &["-f", "-"],
                &elements("delete", std::slice::from_ref(port), None),
                "withdraw a port",
            );
        }
    }
    tracing::debug!(%container, "ports withdrawn");
}

fn elements(verb: &str, ports: &[Port], container: Option<Ipv4Addr>) -> String {
    let mut text = String::new();
    for port in ports {
        let Some(number) = port.host_port else {
            continue;
        };
        let (map, key) = match port.host_ip {
            Some(address) if !address.is_unspecified() => (
                format!("{}_addr_ports", port.protocol),
                format!("{address} . {number}"),
            ),
            _ => (format!("{}_ports", port.protocol), number.to_string()),
        };
        let value = container.map_or_else(String::new, |address| {
            format!(" : {address} . {}", port.container_port)
        });
        let _ = writeln!(text, "{verb} element ip flotilla {map} {{ {key}{value} }}");
    }
    text
}

/// Binds without listening: until the firewall turns packets away, and whenever its table is lost, a client is
/// refused at once, and never waits for an answer that nobody gives. Without `SO_REUSEADDR`, so that a
/// server that sets it cannot take the port either.
fn bind(protocol: &str, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let kind = if protocol == "udp" {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    Ok(socket)
}

fn taken(error: io::Error, address: Ipv4Addr, port: u16) -> NetworkError {
    match error.kind() {
        io::ErrorKind::AddrInUse => NetworkError::PortTaken { address, port },
        _ => NetworkError::Io {
            what: format!("reserve port {port} on {address}"),
            source: error,
        },
    }
}

fn find_free(protocol: &str, address: Ipv4Addr) -> Result<(u16, OwnedFd), NetworkError> {
    let local =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = local
        .split_whitespace()
        .filter_map(|word| word.parse::<u16>().ok());
    let (low, high) = (
        bounds.next().unwrap_or(32768),
        bounds.next().unwrap_or(60999),
    );
    // Ports the kernel gives to outgoing connections come last.
    let outside = DYNAMIC.filter(|port| !(low..=high).contains(port));
    let inside = DYNAMIC.filter(|port| (low..=high).contains(port));
    outside
        .chain(inside)
        .find_map(|port| {
            bind(protocol, address, port)
                .ok()
                .map(|holder| (port, holder))
        })
        .ok_or(NetworkError::NoPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_port: Option<u16>, ip: Option<&str>) -> Port {
        Port {
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol: "tcp".into(),
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = Published::reserve(&[port(None, Some("127.0.0.1"))]).unwrap();
        let number = first.ports[0].host_port.unwrap();
        assert!(number > 49153);
        let second = Published::reserve(&[port(Some(number), Some("127.0.0.1"))]).unwrap_err();
        assert!(
            second.to_string().contains("port is already allocated"),
            "{second}"
        );
        drop(first);
        Published::reserve(&[port(Some(number), Some("127.0.0.1"))]).unwrap();
    }

    #[test]
    fn elements_are_written_for_both_maps() {
        let text = elements(
            "add",
            &[port(Some(9200), None), port(Some(81), Some("10.0.0.1"))],
            Some("172.17.0.2".parse().unwrap()),
        );
        assert_eq!(
            text,
            "add element ip flotilla tcp_ports { 9200 : 172.17.0.2 . 80 }\nadd element ip flotilla tcp_addr_ports { 10.0.0.1 . 81 : 172.17.0.2 . 80 }\n"
        );
    }
}
