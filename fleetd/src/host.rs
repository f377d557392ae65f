//! What the daemon asks of the machine it runs on: identity, address, size.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use fleet_model::{Cpu, MachineId};

/// The machine has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum MachineIdError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is something else in it.
    #[error("{path} does not hold a machine ID")]
    Content {
        /// The file.
        path: String,
    },
}

/// Reads machine-id(5).
pub(crate) fn machine_id(path: &Path) -> Result<MachineId, MachineIdError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| MachineIdError::Read {
        path: name(),
        source,
    })?;
    let text = text.trim();
    MachineId::parse(text)
        .filter(|_| text != "uninitialized")
        .ok_or_else(|| MachineIdError::Content { path: name() })
}

/// The IPv4 address from which this machine speaks to the rest of the world; none without a route.
///
/// Connecting a datagram socket sends nothing: the kernel only looks up the route.
pub(crate) fn default_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address reserved for documentation: certainly not on a local network.
    socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified() => {
            Some(ip)
        }
        _ => None,
    }
}

/// Memory of the machine in bytes, from proc(5).
pub(crate) fn memory() -> Option<u64> {
    total_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Processors that this process may use.
pub(crate) fn cpus() -> Option<Cpu> {
    let count = std::thread::available_parallelism().ok()?.get();
    let millis = u64::try_from(count).ok()?.checked_mul(1000)?;
    Some(Cpu::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_the_machine_is_read() {
        let text = "MemFree:  1 kB\nMemTotal:       16384 kB\n";
        assert_eq!(total_memory(text), Some(16 << 20));
        assert_eq!(total_memory("MemTotal: 1 MB"), None);
        assert_eq!(total_memory(""), None);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpus().is_some_and(|cpus| cpus.millis() >= 1000));
    }
}
