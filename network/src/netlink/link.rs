//! Links: what the kernel says about them, and the requests that change them.

use std::net::Ipv4Addr;

use super::value::Mac;
use super::wire::{self, Request, attributes, read_str, read_u16, read_u32};

/// `RTM_NEWLINK`
pub const RTM_NEWLINK: u16 = 16;
/// `RTM_DELLINK`
pub const RTM_DELLINK: u16 = 17;
/// `RTM_GETLINK`
pub const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWLINKPROP: u16 = 108;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
/// The link is administratively up.
pub const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_LOWER_UP: u32 = 0x1_0000;

/// What the kernel says about a network device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// `ARPHRD_…`.
    pub hardware: u16,
    /// `IFF_…`.
    pub flags: u32,
    /// Current hardware address, if of Ethernet's length.
    pub mac: Option<Mac>,
    /// Burnt-in hardware address.
    pub permanent_mac: Option<Mac>,
    /// Largest packet.
    pub mtu: u32,
    /// Index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// Kind of a virtual device (`veth`, `bridge`, `vxlan`, …).
    pub kind: Option<String>,
    /// VXLAN network identifier and local address, if it is one.
    pub vxlan: Option<Vxlan>,
}

/// The settings of a VXLAN device that matter to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vxlan {
    /// Network identifier.
    pub id: u32,
    /// Address packets leave from.
    pub local: Option<Ipv4Addr>,
    /// UDP port.
    pub port: u16,
    /// Index of the device packets leave by.
    pub link: u32,
    /// Whether the device learns addresses by itself.
    pub learning: bool,
}

impl Link {
    /// Reads the body of an `RTM_NEWLINK` or `RTM_DELLINK`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            hardware: read_u16(body, 2)?,
            index: read_u32(body, 4)?,
            flags: read_u32(body, 8)?,
            ..Self::default()
        };
        let mut lower = 0;
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                IFLA_IFNAME => link.name = read_str(value),
                IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                IFLA_PERM_ADDRESS => link.permanent_mac = value.try_into().ok().map(Mac),
                IFLA_MTU => link.mtu = read_u32(value, 0)?,
                IFLA_LINK => lower = read_u32(value, 0)?,
                IFLA_MASTER => link.master = read_u32(value, 0),
                IFLA_PROP_LIST => link.altnames.extend(
                    attributes(value)
                        .filter(|(k, _)| *k == IFLA_ALT_IFNAME)
                        .map(|(_, v)| read_str(v)),
                ),
                IFLA_LINKINFO => link.read_info(value),
                _ => {}
            }
        }
        if let Some(vxlan) = &mut link.vxlan
            && vxlan.link == 0
        {
            vxlan.link = lower;
        }
        Some(link)
    }

    fn read_info(&mut self, info: &[u8]) {
        for (kind, value) in attributes(info) {
            match kind {
                IFLA_INFO_KIND => self.kind = Some(read_str(value)),
                IFLA_INFO_DATA if self.kind.as_deref() == Some("vxlan") => {
                    let mut vxlan = Vxlan::default();
                    for (kind, value) in attributes(value) {
                        match kind {
                            IFLA_VXLAN_ID => vxlan.id = read_u32(value, 0).unwrap_or(0),
                            3 => vxlan.link = read_u32(value, 0).unwrap_or(0),
                            IFLA_VXLAN_LOCAL => {
                                vxlan.local = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
                            }
                            IFLA_VXLAN_LEARNING => vxlan.learning = value.first() == Some(&1),
                            IFLA_VXLAN_PORT => {
                                vxlan.port = value.try_into().map_or(0, u16::from_be_bytes);
                            }
                            _ => {}
                        }
                    }
                    self.vxlan = Some(vxlan);
                }
                _ => {}
            }
        }
    }

    /// Whether the link is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Whether the link can carry packets.
    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    /// Whether this is the loopback device.
    pub fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

/// Brings a link up or down.
pub fn set_up(index: u32, up: bool) -> Request {
    Request::new(RTM_SETLINK, wire::NLM_F_ACK).body(&link_header(index, u32::from(up), IFF_UP))
}

/// Sets a link's largest packet.
pub fn set_mtu(index: u32, mtu: u32) -> Request {
    Request::new(RTM_SETLINK, wire::NLM_F_ACK)
        .body(&link_header(index, 0, 0))
        .attr_u32(IFLA_MTU, mtu)
}

/// Sets a link's hardware address.
pub fn set_mac(index: u32, mac: Mac) -> Request {
    Request::new(RTM_SETLINK, wire::NLM_F_ACK)
        .body(&link_header(index, 0, 0))
        .attr(IFLA_ADDRESS, &mac.0)
}

/// Gives a link one more name.
pub fn add_altname(index: u32, name: &str) -> Request {
    Request::new(
        RTM_NEWLINKPROP,
        wire::NLM_F_ACK | wire::NLM_F_CREATE | wire::NLM_F_EXCL | wire::NLM_F_APPEND,
    )
    .body(&link_header(index, 0, 0))
    .nested(IFLA_PROP_LIST, |r| r.attr_str(IFLA_ALT_IFNAME, name))
}

/// Removes a virtual link.
pub fn del_link(index: u32) -> Request {
    Request::new(RTM_DELLINK, wire::NLM_F_ACK).body(&link_header(index, 0, 0))
}

/// Makes a VXLAN device that learns nothing by itself.
pub fn add_vxlan(name: &str, mac: Option<Mac>, mtu: u32, vxlan: &Vxlan) -> Request {
    let local = vxlan.local.map(|a| a.octets());
    Request::new(
        RTM_NEWLINK,
        wire::NLM_F_ACK | wire::NLM_F_CREATE | wire::NLM_F_EXCL,
    )
    .body(&link_header(0, 0, 0))
    .attr_str(IFLA_IFNAME, name)
    .attr_opt(IFLA_ADDRESS, mac.as_ref().map(|m| &m.0[..]))
    .attr_u32(IFLA_MTU, mtu)
    .nested(IFLA_LINKINFO, |r| {
        r.attr_str(IFLA_INFO_KIND, "vxlan")
            .nested(IFLA_INFO_DATA, |r| {
                r.attr_u32(IFLA_VXLAN_ID, vxlan.id)
                    .attr_u32(3, vxlan.link)
                    .attr_opt(IFLA_VXLAN_LOCAL, local.as_ref().map(|a| &a[..]))
                    .attr(IFLA_VXLAN_LEARNING, &[u8::from(vxlan.learning)])
                    .attr(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes())
            })
    })
}

/// Lists all links.
pub fn get_links() -> Request {
    Request::new(RTM_GETLINK, wire::NLM_F_DUMP).body(&link_header(0, 0, 0))
}
