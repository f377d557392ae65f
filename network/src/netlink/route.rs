//! The four kinds of rtnetlink objects as values, each with its parser and its requests.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wire::{self, Request, attributes, read_str, read_u16, read_u32};

/// `RTM_NEWLINK`
pub const RTM_NEWLINK: u16 = 16;
/// `RTM_DELLINK`
pub const RTM_DELLINK: u16 = 17;
/// `RTM_GETLINK`
pub const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
/// `RTM_NEWADDR`
pub const RTM_NEWADDR: u16 = 20;
/// `RTM_DELADDR`
pub const RTM_DELADDR: u16 = 21;
/// `RTM_GETADDR`
pub const RTM_GETADDR: u16 = 22;
/// `RTM_NEWROUTE`
pub const RTM_NEWROUTE: u16 = 24;
/// `RTM_DELROUTE`
pub const RTM_DELROUTE: u16 = 25;
/// `RTM_GETROUTE`
pub const RTM_GETROUTE: u16 = 26;
/// `RTM_NEWNEIGH`
pub const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// `RTM_GETNEIGH`
pub const RTM_GETNEIGH: u16 = 30;
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

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u32 = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;

/// The link is administratively up.
pub const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// The address gets no route to its prefix from the kernel.
pub const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;
/// Routes of the kernel itself.
pub const PROTO_KERNEL: u8 = 2;
/// Routes from configuration files.
pub const PROTO_STATIC: u8 = 4;
/// Routes from a DHCP lease.
pub const PROTO_DHCP: u8 = 16;

/// A hardware address of Ethernet's length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Parses `aa:bb:…`, `aa-bb-…` or `aabb.ccdd.eeff`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = match text.len() {
            17 if text.split([':', '-']).all(|part| part.len() == 2) => {
                text.replace([':', '-'], "")
            }
            14 if text.split('.').all(|part| part.len() == 4) => text.replace('.', ""),
            _ => return None,
        };
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut out = [0; 6];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn family_of(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn ip_from(value: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|b| IpAddr::V6(Ipv6Addr::from(b)))
}

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

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Index of the link.
    pub index: u32,
    /// The address itself.
    pub local: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The other end, on point-to-point links.
    pub peer: Option<IpAddr>,
    /// Broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// Name of the address, IPv4 only.
    pub label: Option<String>,
    /// `RT_SCOPE_…`.
    pub scope: Scope,
    /// `IFA_F_…`.
    pub flags: u32,
    /// Seconds it stays valid and preferred; `None` is for ever.
    pub lifetime: Option<(u32, u32)>,
    /// Who set it (`IFA_PROTO`).
    pub proto: u8,
}

/// How far a route or address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Scope {
    /// Everywhere.
    #[default]
    Global,
    /// This site (IPv6, historic).
    Site,
    /// This link.
    Link,
    /// This machine.
    Host,
    /// Another number.
    Other(u8),
}

impl Scope {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Global => 0,
            Self::Site => 200,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(n) => n,
        }
    }

    /// From the kernel's number.
    pub fn from_number(n: u8) -> Self {
        match n {
            0 => Self::Global,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            n => Self::Other(n),
        }
    }
}

impl Address {
    /// Reads the body of an `RTM_NEWADDR` or `RTM_DELADDR`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (prefix, flags, scope) = (*body.get(1)?, *body.get(2)?, *body.get(3)?);
        let index = read_u32(body, 4)?;
        let (mut local, mut other, mut broadcast, mut label) = (None, None, None, None);
        let (mut flags, mut lifetime, mut proto) = (u32::from(flags), None, 0);
        for (kind, value) in attributes(body.get(8..)?) {
            match kind {
                IFA_LOCAL => local = ip_from(value),
                IFA_ADDRESS => other = ip_from(value),
                IFA_BROADCAST => broadcast = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                IFA_LABEL => label = Some(read_str(value)),
                IFA_FLAGS => flags = read_u32(value, 0)?,
                IFA_CACHEINFO => lifetime = Some((read_u32(value, 4)?, read_u32(value, 0)?)),
                IFA_PROTO => proto = value.first().copied().unwrap_or(0),
                _ => {}
            }
        }
        let own = local.or(other)?;
        Some(Self {
            index,
            local: own,
            prefix,
            peer: other.filter(|o| *o != own),
            broadcast,
            label,
            scope: Scope::from_number(scope),
            flags,
            lifetime: lifetime.filter(|(valid, _)| *valid != u32::MAX),
            proto,
        })
    }

    /// Whether the kernel has not yet found it to be free of duplicates.
    pub fn is_tentative(&self) -> bool {
        self.flags & IFA_F_TENTATIVE != 0
    }

    /// Whether it was made by a person or a program, not by router advertisements.
    pub fn is_permanent(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0
    }

    /// Sets the address, or brings its lifetime up to date.
    pub fn replace(&self) -> Request {
        let cache = self.lifetime.map(|(valid, preferred)| {
            let mut info = [0; 16];
            info[0..4].copy_from_slice(&preferred.to_ne_bytes());
            info[4..8].copy_from_slice(&valid.to_ne_bytes());
            info
        });
        let mut request = self.request(RTM_NEWADDR, wire::NLM_F_CREATE | wire::NLM_F_REPLACE);
        if let Some(broadcast) = self.broadcast {
            request = request.attr(IFA_BROADCAST, &broadcast.octets());
        }
        if let Some(label) = &self.label {
            request = request.attr_str(IFA_LABEL, label);
        }
        request
            .attr_u32(IFA_FLAGS, self.flags)
            .attr_opt(IFA_CACHEINFO, cache.as_ref().map(|c| &c[..]))
            .attr(IFA_PROTO, &[self.proto])
    }

    /// Removes the address.
    pub fn remove(&self) -> Request {
        self.request(RTM_DELADDR, 0)
    }

    fn request(&self, kind: u16, flags: u16) -> Request {
        let mut body = [
            family_of(self.local),
            self.prefix,
            0,
            self.scope.number(),
            0,
            0,
            0,
            0,
        ];
        body[4..8].copy_from_slice(&self.index.to_ne_bytes());
        Request::new(kind, flags | wire::NLM_F_ACK)
            .body(&body)
            .attr(IFA_LOCAL, &octets(self.local))
            .attr(IFA_ADDRESS, &octets(self.peer.unwrap_or(self.local)))
    }
}

/// Lists all addresses.
pub fn get_addresses() -> Request {
    Request::new(RTM_GETADDR, wire::NLM_F_DUMP).body(&[0; 8])
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Delivers it here.
    Local,
    /// Drops it in silence.
    Blackhole,
    /// Drops it and says that the host cannot be reached.
    Unreachable,
    /// Drops it and says that it is forbidden.
    Prohibit,
    /// Goes on in the next table.
    Throw,
    /// Another number.
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Throw => 9,
            Self::Other(n) => n,
        }
    }

    fn from_number(n: u8) -> Self {
        match n {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            n => Self::Other(n),
        }
    }

    /// Whether packets of this route leave by a device.
    pub fn has_device(self) -> bool {
        matches!(self, Self::Unicast | Self::Local)
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination; `0.0.0.0` with prefix 0 is the default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix.
    pub prefix: u8,
    /// Routing table.
    pub table: u32,
    /// Lower wins.
    pub metric: u32,
    /// Index of the device, 0 for none.
    pub index: u32,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Only for packets from this prefix (IPv6).
    pub source: Option<(IpAddr, u8)>,
    /// Address that packets of this machine get.
    pub preferred_source: Option<IpAddr>,
    /// `RT_SCOPE_…`.
    pub scope: Scope,
    /// What it does.
    pub kind: RouteKind,
    /// The gateway is on the link even where no prefix says so.
    pub onlink: bool,
    /// Largest packet on this route.
    pub mtu: Option<u32>,
    /// Who set it (`RTPROT_…`).
    pub proto: u8,
}

impl Route {
    /// A plain unicast route in the main table; the rest by struct update.
    pub fn new(destination: IpAddr, prefix: u8, index: u32, proto: u8) -> Self {
        Self {
            destination,
            prefix,
            table: TABLE_MAIN,
            metric: 0,
            index,
            gateway: None,
            source: None,
            preferred_source: None,
            scope: Scope::Global,
            kind: RouteKind::Unicast,
            onlink: false,
            mtu: None,
            proto,
        }
    }

    /// Reads the body of an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` also for caches and multipath routes.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let [
            family,
            prefix,
            source_prefix,
            _tos,
            table,
            proto,
            scope,
            kind,
        ] = *body.first_chunk::<8>()?;
        let flags = read_u32(body, 8)?;
        const CLONED: u32 = 0x200;
        if flags & CLONED != 0 || (family != AF_INET && family != AF_INET6) {
            return None;
        }
        let any = if family == AF_INET {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let mut route = Self::new(any, prefix, 0, proto);
        route.table = u32::from(table);
        route.scope = Scope::from_number(scope);
        route.kind = RouteKind::from_number(kind);
        route.onlink = flags & RTNH_F_ONLINK != 0;
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                RTA_DST => route.destination = ip_from(value)?,
                RTA_SRC => route.source = ip_from(value).map(|ip| (ip, source_prefix)),
                RTA_OIF => route.index = read_u32(value, 0)?,
                RTA_GATEWAY => route.gateway = ip_from(value),
                RTA_PRIORITY => route.metric = read_u32(value, 0)?,
                RTA_PREFSRC => route.preferred_source = ip_from(value),
                RTA_TABLE => route.table = read_u32(value, 0)?,
                RTA_METRICS => {
                    route.mtu = attributes(value)
                        .find(|(k, _)| *k == RTAX_MTU)
                        .and_then(|(_, v)| read_u32(v, 0));
                }
                _ => {}
            }
        }
        Some(route)
    }

    /// Adds the route; fails where one with the same destination, metric and table exists.
    pub fn add(&self) -> Request {
        self.request(RTM_NEWROUTE, wire::NLM_F_CREATE | wire::NLM_F_EXCL)
    }

    /// Adds the route in the place of one with the same destination, metric and table.
    pub fn replace(&self) -> Request {
        self.request(RTM_NEWROUTE, wire::NLM_F_CREATE | wire::NLM_F_REPLACE)
    }

    /// Removes the route.
    pub fn remove(&self) -> Request {
        self.request(RTM_DELROUTE, 0)
    }

    fn request(&self, kind: u16, flags: u16) -> Request {
        let table = u8::try_from(self.table).unwrap_or(0);
        let mut body = [0; 12];
        body[..8].copy_from_slice(&[
            family_of(self.destination),
            self.prefix,
            self.source.map_or(0, |(_, prefix)| prefix),
            0,
            table,
            self.proto,
            self.scope.number(),
            self.kind.number(),
        ]);
        if self.onlink {
            body[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        }
        let mut request = Request::new(kind, flags | wire::NLM_F_ACK).body(&body);
        if self.prefix > 0 {
            request = request.attr(RTA_DST, &octets(self.destination));
        }
        if let Some((source, _)) = self.source {
            request = request.attr(RTA_SRC, &octets(source));
        }
        if let Some(gateway) = self.gateway {
            request = request.attr(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = self.preferred_source {
            request = request.attr(RTA_PREFSRC, &octets(source));
        }
        if self.index != 0 && self.kind.has_device() {
            request = request.attr_u32(RTA_OIF, self.index);
        }
        if let Some(mtu) = self.mtu {
            request = request.nested(RTA_METRICS, |r| r.attr_u32(RTAX_MTU, mtu));
        }
        request
            .attr_u32(RTA_PRIORITY, self.metric)
            .attr_u32(RTA_TABLE, self.table)
    }
}

/// Lists all routes.
pub fn get_routes() -> Request {
    Request::new(RTM_GETROUTE, wire::NLM_F_DUMP).body(&[0; 12])
}

/// A permanent neighbour: an address on a link, or a destination behind a VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Index of the link.
    pub index: u32,
    /// The neighbour's address (ARP), or the tunnel end (forwarding entry).
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// A forwarding entry of a VXLAN device instead of an ARP entry.
    pub forwarding: bool,
}

impl Neighbour {
    /// Reads the body of an `RTM_NEWNEIGH`; `None` for what is not permanent.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let index = read_u32(body, 4)?;
        let state = read_u16(body, 8)?;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                NDA_DST => address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        if state & NUD_PERMANENT == 0 || (family != AF_INET && family != AF_BRIDGE) {
            return None;
        }
        Some(Self {
            index,
            address: address?,
            mac: mac?,
            forwarding: family == AF_BRIDGE,
        })
    }

    /// Sets the entry.
    pub fn replace(&self) -> Request {
        self.request(RTM_NEWNEIGH, wire::NLM_F_CREATE | wire::NLM_F_REPLACE)
    }

    /// Removes the entry.
    pub fn remove(&self) -> Request {
        self.request(RTM_DELNEIGH, 0)
    }

    /// Lists forwarding or ARP entries of all links.
    pub fn list(forwarding: bool) -> Request {
        let family = if forwarding { AF_BRIDGE } else { AF_INET };
        Request::new(RTM_GETNEIGH, wire::NLM_F_DUMP)
            .body(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    fn request(&self, kind: u16, flags: u16) -> Request {
        let (family, ntf) = if self.forwarding {
            (AF_BRIDGE, NTF_SELF)
        } else {
            (AF_INET, 0)
        };
        let mut body = [0; 12];
        body[0] = family;
        body[4..8].copy_from_slice(&self.index.to_ne_bytes());
        body[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        body[10] = ntf;
        body[11] = 1;
        Request::new(kind, flags | wire::NLM_F_ACK)
            .body(&body)
            .attr(NDA_DST, &self.address.octets())
            .attr(NDA_LLADDR, &self.mac.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hardware_addresses_have_three_spellings() {
        let mac = Mac([0x52, 0x54, 0, 0xf1, 7, 0x0b]);
        for text in ["52:54:00:f1:07:0b", "52-54-00-F1-07-0B", "5254.00f1.070b"] {
            assert_eq!(Mac::parse(text), Some(mac), "{text}");
        }
        for text in [
            "",
            "52:54:00:f1:07",
            "52:54:00:f1:07:0g",
            "525400f1070b",
            "52:54:00:f1:07:0b:0c",
            "ä2:54:00:f1:07:0",
        ] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:f1:07:0b");
    }

    #[test]
    fn a_route_request_reads_back_as_the_route() {
        let route = Route {
            gateway: Some("10.0.2.2".parse().unwrap()),
            metric: 1024,
            mtu: Some(1400),
            onlink: true,
            preferred_source: Some("10.0.2.15".parse().unwrap()),
            ..Route::new("10.9.0.0".parse().unwrap(), 16, 3, PROTO_DHCP)
        };
        let bytes = route.add().finish(1);
        assert_eq!(Route::parse(&bytes[wire::HEADER..]), Some(route));
    }

    proptest! {
        #[test]
        fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Link::parse(&bytes), Address::parse(&bytes), Route::parse(&bytes), Neighbour::parse(&bytes));
        }

        #[test]
        fn an_address_request_reads_back(octets in any::<[u8; 4]>(), prefix in 0u8..=32, proto in any::<u8>(), valid in 0u32..u32::MAX) {
            let address = Address {
                index: 2, local: IpAddr::from(octets), prefix, peer: None, broadcast: None, label: None,
                scope: Scope::Global, flags: IFA_F_NOPREFIXROUTE, lifetime: Some((valid, valid / 2)), proto,
            };
            let bytes = address.replace().finish(1);
            prop_assert_eq!(Address::parse(&bytes[wire::HEADER..]), Some(address));
        }
    }
}
