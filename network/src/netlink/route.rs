//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::value::{AF_INET, AF_INET6, Scope, family_of, ip_from, octets};
use super::wire::{self, Request, attributes, read_u32};

/// `RTM_NEWROUTE`
pub const RTM_NEWROUTE: u16 = 24;
/// `RTM_DELROUTE`
pub const RTM_DELROUTE: u16 = 25;
/// `RTM_GETROUTE`
pub const RTM_GETROUTE: u16 = 26;
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
/// The main routing table.
pub const TABLE_MAIN: u32 = 254;
/// Routes from configuration files.
pub const PROTO_STATIC: u8 = 4;
/// Routes from a DHCP lease.
pub const PROTO_DHCP: u8 = 16;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
