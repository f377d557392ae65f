//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use super::value::{Scope, family_of, ip_from, octets};
use super::wire::{self, Request, attributes, read_str, read_u32};

/// `RTM_NEWADDR`
pub const RTM_NEWADDR: u16 = 20;
/// `RTM_DELADDR`
pub const RTM_DELADDR: u16 = 21;
/// `RTM_GETADDR`
pub const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
/// The address gets no route to its prefix from the kernel.
pub const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;

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

#[cfg(test)]
mod tests {
    use super::super::{Link, Neighbour, Route};
    use super::*;
    use proptest::prelude::*;

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
