//! The keys of each section: what their values may be and where they go.

use std::net::IpAddr;

use super::ini::Entry;
use super::model::{
    Activation, AddressSpec, ClientId, Condition, Match, Patterns, RouteSpec, Settings,
};
use super::values::{Cidr, is_host_name, parse_bool, parse_size, words};
use crate::netlink::{Mac, RouteKind, Scope};

/// What a key did with its value.
pub(super) enum Outcome {
    Taken,
    Bad(&'static str),
    Unknown,
    /// Understood, but this version does nothing with it.
    NotYet(&'static str),
}

use Outcome::{Bad, NotYet, Taken, Unknown};

pub(super) const ADDRESS: &str = "an address with its prefix length, like 10.0.0.5/24";
const BOOL: &str = "yes or no";

pub(super) fn store<T>(place: &mut Option<T>, value: Option<T>, want: &'static str) -> Outcome {
    match value {
        Some(value) => {
            *place = Some(value);
            Taken
        }
        None => Bad(want),
    }
}

fn set<T>(place: &mut T, value: Option<T>, want: &'static str) -> Outcome {
    match value {
        Some(value) => {
            *place = value;
            Taken
        }
        None => Bad(want),
    }
}

fn flag(place: &mut bool, value: &str) -> Outcome {
    set(place, parse_bool(value), BOOL)
}

/// An address of this machine: not a group, not "any".
pub(super) fn parse_address(value: &str) -> Option<Cidr> {
    Cidr::parse(value).filter(|c| !c.addr.is_multicast() && !c.addr.is_unspecified())
}

fn parse_mtu(value: &str) -> Option<u32> {
    parse_size(value).filter(|mtu| (68..=65_535).contains(mtu))
}

/// Adds the parsed words to a list; an empty value empties it. One bad word spoils the line.
fn extend<T>(
    list: &mut Vec<T>,
    value: &str,
    parse: impl Fn(&str) -> Option<T>,
    want: &'static str,
) -> Outcome {
    if value.is_empty() {
        list.clear();
        return Taken;
    }
    match words(value)
        .iter()
        .map(|word| parse(word))
        .collect::<Option<Vec<_>>>()
    {
        Some(parsed) => {
            list.extend(parsed);
            Taken
        }
        None => Bad(want),
    }
}

pub(super) fn match_key(rule: &mut Match, entry: &Entry) -> Outcome {
    let value = entry.value.as_str();
    match entry.key.as_str() {
        "Name" | "OriginalName" => patterns(&mut rule.name, value),
        "Type" => patterns(&mut rule.kind, value),
        "Driver" => patterns(&mut rule.driver, value),
        "Path" => patterns(&mut rule.path, value),
        "MACAddress" => macs(&mut rule.mac, value),
        "PermanentMACAddress" => macs(&mut rule.permanent_mac, value),
        "Virtualization" => condition(&mut rule.virtualization, value),
        "KernelCommandLine" => condition(&mut rule.kernel_command_line, value),
        "Host" => condition(&mut rule.host, value),
        _ => Unknown,
    }
}

fn patterns(place: &mut Option<Patterns>, value: &str) -> Outcome {
    if value.is_empty() {
        *place = None;
        return Taken;
    }
    let (list, negated) = match value.strip_prefix('!') {
        Some(rest) => (rest, true),
        None => (value, false),
    };
    match place {
        Some(have) if have.negated == negated => have.patterns.extend(words(list)),
        _ => {
            *place = Some(Patterns {
                patterns: words(list),
                negated,
            });
        }
    }
    Taken
}

fn macs(place: &mut Option<Vec<Mac>>, value: &str) -> Outcome {
    let mut list = place.take().unwrap_or_default();
    let outcome = extend(
        &mut list,
        value,
        Mac::parse,
        "hardware addresses like 52:54:00:12:34:56",
    );
    // A bad list must not turn into "matches everything": it stays a rule that nothing fulfils.
    *place = (!value.is_empty()).then_some(list);
    outcome
}

fn condition(place: &mut Option<Condition>, value: &str) -> Outcome {
    *place = match value.strip_prefix('!') {
        Some(text) => Some(Condition {
            text: text.to_owned(),
            negated: true,
        }),
        None if value.is_empty() => None,
        None => Some(Condition {
            text: value.to_owned(),
            negated: false,
        }),
    };
    Taken
}

pub(super) fn link_key(settings: &mut Settings, entry: &Entry) -> Outcome {
    let value = entry.value.as_str();
    match entry.key.as_str() {
        "MTUBytes" => store(
            &mut settings.mtu,
            parse_mtu(value),
            "a size from 68 to 65535",
        ),
        "MACAddress" => store(
            &mut settings.mac,
            Mac::parse(value),
            "a hardware address like 52:54:00:12:34:56",
        ),
        "RequiredForOnline" => required_for_online(settings, value),
        "Unmanaged" => flag(&mut settings.unmanaged, value),
        "ActivationPolicy" => {
            let policy = match value {
                "up" => Some(Activation::Up),
                "always-up" => Some(Activation::AlwaysUp),
                "manual" | "bound" => Some(Activation::Manual),
                "down" => Some(Activation::Down),
                "always-down" => Some(Activation::AlwaysDown),
                _ => None,
            };
            set(
                &mut settings.activation,
                policy,
                "up, always-up, manual, down or always-down",
            )
        }
        "ARP"
        | "Multicast"
        | "AllMulticast"
        | "Promiscuous"
        | "RequiredFamilyForOnline"
        | "Group" => NotYet("not done by this version, ignored"),
        _ => Unknown,
    }
}

/// A boolean, or the operational state that must be reached (`routable`, `degraded:routable`), which all mean yes.
fn required_for_online(settings: &mut Settings, value: &str) -> Outcome {
    const STATES: [&str; 7] = [
        "missing",
        "off",
        "no-carrier",
        "dormant",
        "degraded-carrier",
        "carrier",
        "degraded",
    ];
    let required = parse_bool(value).or_else(|| {
        value
            .split(':')
            .all(|s| STATES.contains(&s) || s == "routable" || s == "enslaved")
            .then_some(true)
    });
    set(
        &mut settings.required_for_online,
        required,
        "yes, no or an operational state",
    )
}

pub(super) fn network_key(settings: &mut Settings, entry: &Entry) -> Outcome {
    let value = entry.value.as_str();
    match entry.key.as_str() {
        "DHCP" => dhcp(settings, value),
        "Address" if value.is_empty() => {
            settings.addresses.clear();
            Taken
        }
        "Address" => match parse_address(value) {
            Some(address) => {
                settings.addresses.push(AddressSpec {
                    address,
                    label: None,
                    peer: None,
                    broadcast: None,
                });
                Taken
            }
            None => Bad(ADDRESS),
        },
        "Gateway" => gateway(settings, value),
        "DNS" => extend(
            &mut settings.dns,
            value,
            parse_dns,
            "addresses of name servers",
        ),
        "Domains" => extend(&mut settings.domains, value, parse_domain, "domain names"),
        "NTP" => extend(
            &mut settings.ntp,
            value,
            parse_host,
            "names or addresses of time servers",
        ),
        "LinkLocalAddressing" => link_local(settings, value),
        "IPv6AcceptRA" | "IPv6AcceptRouterAdvertisements" => {
            store(&mut settings.accept_ra, parse_bool(value), BOOL)
        }
        "IPForward" => families(value, &mut settings.forward_v4, &mut settings.forward_v6),
        "IPv4Forwarding" => flag(&mut settings.forward_v4, value),
        "IPv6Forwarding" => flag(&mut settings.forward_v6, value),
        "IPMasquerade" => families(
            value,
            &mut settings.masquerade_v4,
            &mut settings.masquerade_v6,
        ),
        "ConfigureWithoutCarrier" => flag(&mut settings.without_carrier, value),
        "KeepConfiguration" => keep(settings, value),
        "Description" | "IgnoreCarrierLoss" => Taken,
        "Bond"
        | "Bridge"
        | "VLAN"
        | "VXLAN"
        | "Tunnel"
        | "LLDP"
        | "EmitLLDP"
        | "MACVLAN"
        | "DNSSEC"
        | "LLMNR"
        | "MulticastDNS"
        | "IPv6PrivacyExtensions"
        | "DHCPServer"
        | "DNSDefaultRoute" => NotYet("not done by this version, ignored"),
        _ => Unknown,
    }
}

fn dhcp(settings: &mut Settings, value: &str) -> Outcome {
    let (v4, note) = match value {
        "ipv4" | "v4" => (true, None),
        "ipv6" | "v6" => (
            false,
            Some("addresses by DHCPv6 are not done by this version; router advertisements are"),
        ),
        "both" => (true, None),
        "none" => (false, None),
        other => match parse_bool(other) {
            Some(on) => (on, None),
            None => return Bad("yes, no, ipv4 or ipv6"),
        },
    };
    settings.dhcp4 = v4;
    note.map_or(Taken, NotYet)
}

fn gateway(settings: &mut Settings, value: &str) -> Outcome {
    match value {
        "" => settings.routes.retain(|r| r.destination.is_some()),
        // The gateway of a lease or of an advertisement is used anyway.
        "_dhcp4" | "_ipv6ra" => {}
        _ => match value.parse::<IpAddr>() {
            Ok(gateway) if !gateway.is_unspecified() => {
                settings.routes.push(RouteSpec {
                    gateway: Some(gateway),
                    ..RouteSpec::default()
                });
            }
            _ => return Bad("the address of a router"),
        },
    }
    Taken
}

/// An address; a port or TLS name behind it has no place in resolv.conf and is cut.
fn parse_dns(word: &str) -> Option<IpAddr> {
    let plain = word.split('#').next().unwrap_or(word);
    let plain = plain.split('%').next().unwrap_or(plain);
    let plain = plain
        .strip_prefix('[')
        .and_then(|p| p.split(']').next())
        .unwrap_or(plain);
    plain.parse().ok().or_else(|| {
        plain
            .rsplit_once(":53")
            .filter(|(_, rest)| rest.is_empty())?
            .0
            .parse()
            .ok()
    })
}

fn parse_domain(word: &str) -> Option<String> {
    let name = word.strip_prefix('~').unwrap_or(word);
    (name == "." || is_host_name(name))
        .then(|| word.trim_end_matches('.').to_owned())
        .map(|w| match w.as_str() {
            "~" | "" => "~.".to_owned(),
            _ => w,
        })
}

fn parse_host(word: &str) -> Option<String> {
    (word.parse::<IpAddr>().is_ok() || is_host_name(word)).then(|| word.to_owned())
}

fn link_local(settings: &mut Settings, value: &str) -> Outcome {
    let (v4, v6) = match value {
        "ipv4" => (true, false),
        "ipv6" => (false, true),
        other => match parse_bool(other) {
            Some(on) => (on, on),
            None => return Bad("yes, no, ipv4 or ipv6"),
        },
    };
    (settings.link_local_v4, settings.link_local_v6) = (v4, v6);
    Taken
}

/// `yes`, `no`, `ipv4`, `ipv6`, `both`.
fn families(value: &str, v4: &mut bool, v6: &mut bool) -> Outcome {
    (*v4, *v6) = match value {
        "ipv4" => (true, false),
        "ipv6" => (false, true),
        "both" => (true, true),
        "kernel" => (false, false),
        other => match parse_bool(other) {
            Some(on) => (on, on),
            None => return Bad("yes, no, ipv4, ipv6 or both"),
        },
    };
    Taken
}

fn keep(settings: &mut Settings, value: &str) -> Outcome {
    (settings.keep.expired_lease, settings.keep.statics) = match value {
        "dhcp" => (true, false),
        // Stopping never takes anything down, so this is what happens anyway.
        "dhcp-on-stop" => (false, false),
        "static" => (false, true),
        other => match parse_bool(other) {
            Some(on) => (on, on),
            None => return Bad("yes, no, static, dhcp or dhcp-on-stop"),
        },
    };
    Taken
}

pub(super) fn route_key(route: &mut RouteSpec, entry: &Entry) -> Outcome {
    let value = entry.value.as_str();
    match entry.key.as_str() {
        "Gateway" if matches!(value, "_dhcp4" | "_ipv6ra") => {
            NotYet("not done in [Route] by this version, ignored")
        }
        "Gateway" => store(
            &mut route.gateway,
            value.parse().ok(),
            "the address of a router",
        ),
        "Destination" => store(
            &mut route.destination,
            Cidr::parse(value),
            "an address with its prefix length",
        ),
        "Source" => store(
            &mut route.source,
            Cidr::parse(value),
            "an address with its prefix length",
        ),
        "PreferredSource" => store(
            &mut route.preferred_source,
            value.parse().ok(),
            "an address",
        ),
        "Metric" => store(&mut route.metric, value.parse().ok(), "a number"),
        "Scope" => {
            let scope = match value {
                "global" => Some(Scope::Global),
                "site" => Some(Scope::Site),
                "link" => Some(Scope::Link),
                "host" => Some(Scope::Host),
                other => other.parse().ok().map(Scope::from_number),
            };
            store(
                &mut route.scope,
                scope,
                "global, site, link, host or a number",
            )
        }
        "GatewayOnLink" | "GatewayOnlink" => flag(&mut route.onlink, value),
        "Table" => {
            let table = match value {
                "default" => Some(253),
                "main" => Some(254),
                "local" => Some(255),
                other => other.parse().ok().filter(|t| *t > 0),
            };
            store(&mut route.table, table, "main, default, local or a number")
        }
        "MTUBytes" => store(&mut route.mtu, parse_mtu(value), "a size from 68 to 65535"),
        "Type" => {
            let kind = match value {
                "unicast" => Some(RouteKind::Unicast),
                "local" => Some(RouteKind::Local),
                "blackhole" => Some(RouteKind::Blackhole),
                "unreachable" => Some(RouteKind::Unreachable),
                "prohibit" => Some(RouteKind::Prohibit),
                "throw" => Some(RouteKind::Throw),
                _ => None,
            };
            set(
                &mut route.kind,
                kind,
                "unicast, local, blackhole, unreachable, prohibit or throw",
            )
        }
        _ => Unknown,
    }
}

impl Default for RouteSpec {
    fn default() -> Self {
        Self {
            destination: None,
            gateway: None,
            source: None,
            preferred_source: None,
            metric: None,
            scope: None,
            onlink: false,
            table: None,
            mtu: None,
            kind: RouteKind::Unicast,
        }
    }
}

pub(super) fn dhcp_key(settings: &mut Settings, entry: &Entry) -> Outcome {
    let value = entry.value.as_str();
    let dhcp = &mut settings.dhcp;
    match entry.key.as_str() {
        "UseDNS" => flag(&mut dhcp.use_dns, value),
        "UseRoutes" => flag(&mut dhcp.use_routes, value),
        "UseGateway" => store(&mut dhcp.use_gateway, parse_bool(value), BOOL),
        "UseHostname" => flag(&mut dhcp.use_hostname, value),
        // `route` asks a split resolver to use the names for routing only, which without one is "no".
        "UseDomains" if value == "route" => flag(&mut dhcp.use_domains, "no"),
        "UseDomains" | "UseDomainName" => flag(&mut dhcp.use_domains, value),
        "UseNTP" => flag(&mut dhcp.use_ntp, value),
        "UseMTU" => flag(&mut dhcp.use_mtu, value),
        "RouteMetric" => set(&mut dhcp.route_metric, value.parse().ok(), "a number"),
        "ClientIdentifier" => {
            let id = match value {
                "mac" => Some(ClientId::Mac),
                "duid" | "duid-only" => Some(ClientId::Duid),
                _ => None,
            };
            set(&mut dhcp.client_id, id, "mac or duid")
        }
        "SendHostname" => flag(&mut dhcp.send_hostname, value),
        "Hostname" => store(
            &mut dhcp.hostname,
            Some(value).filter(|v| is_host_name(v)).map(str::to_owned),
            "a host name",
        ),
        "RequestBroadcast" => flag(&mut dhcp.broadcast, value),
        "MaxAttempts" if value == "infinity" => {
            dhcp.max_attempts = None;
            Taken
        }
        "MaxAttempts" => store(
            &mut dhcp.max_attempts,
            value.parse().ok().filter(|n| *n > 0),
            "a number or infinity",
        ),
        "VendorClassIdentifier" if value.len() <= 255 => {
            dhcp.vendor_class = Some(value.to_owned()).filter(|v| !v.is_empty());
            Taken
        }
        "VendorClassIdentifier" => Bad("at most 255 bytes"),
        "CriticalConnection" => match parse_bool(value) {
            Some(on) => {
                settings.keep.expired_lease = on;
                Taken
            }
            None => Bad(BOOL),
        },
        "UseTimezone" | "SendRelease" | "Anonymize" | "RouteTable" | "DUIDType" | "IAID"
        | "UserClass" => NotYet("not done by this version, ignored"),
        _ => Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_with_ports_and_names() {
        for (word, want) in [
            ("1.1.1.1", Some("1.1.1.1")),
            ("1.1.1.1#cloud", Some("1.1.1.1")),
            ("1.1.1.1:53", Some("1.1.1.1")),
            ("[2001:db8::1]:53", Some("2001:db8::1")),
            ("2001:db8::53", Some("2001:db8::53")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("host", None),
            ("", None),
        ] {
            assert_eq!(parse_dns(word), want.map(|w| w.parse().unwrap()), "{word}");
        }
    }
}
