//! What a DHCP client calls itself.

use super::hostname;
use crate::config::HostFacts;
use crate::config::model::{ClientId, DhcpSettings};
use crate::dhcp::Params;
use crate::netlink::Mac;

/// What the client of a link says about itself.
pub(super) fn params(
    mac: Mac,
    dhcp: &DhcpSettings,
    keep_expired: bool,
    host: &HostFacts,
) -> Params {
    let own_name = || hostname::to_send(&host.hostname);
    Params {
        mac,
        client_id: match dhcp.client_id {
            ClientId::Mac => std::iter::once(1).chain(mac.0).collect(),
            ClientId::Duid => duid(mac, &host.machine_id),
        },
        hostname: if dhcp.send_hostname {
            dhcp.hostname.clone().or_else(own_name)
        } else {
            None
        },
        vendor_class: dhcp.vendor_class.clone(),
        broadcast: dhcp.broadcast,
        max_attempts: dhcp.max_attempts,
        keep_expired,
    }
}

/// RFC 4361: type 255, an association number from the hardware address, and a DUID of the machine. The machine-id itself
/// is not told to the network, only a number made from it.
fn duid(mac: Mac, machine_id: &str) -> Vec<u8> {
    let hash = |seed: u64, bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let mut out = vec![255];
    out.extend_from_slice(&mac.0[2..]);
    out.extend_from_slice(&[0, 4]);
    out.extend_from_slice(&hash(1, machine_id.as_bytes()).to_be_bytes());
    out.extend_from_slice(&hash(2, machine_id.as_bytes()).to_be_bytes());
    out
}

/// Differs between machines and between runs.
pub(super) fn seed(mac: Mac, now: u64) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]).rotate_left(17)
        ^ now.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
