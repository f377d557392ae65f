//! Tests of the reading of .network files.

use std::net::IpAddr;

use super::super::model::{Activation, Patterns};
use super::*;
use crate::netlink::RouteKind;
use proptest::prelude::*;

fn parse(text: &str) -> (NetworkFile, Vec<String>) {
    let (file, remarks) = parse_network(
        "10-a.network",
        &[("/etc/10-a.network".to_owned(), text.to_owned())],
    );
    (file, remarks.iter().map(ToString::to_string).collect())
}

#[test]
fn the_bare_metal_example() {
    let (file, remarks) = parse(
        "[Match]\nName=eth0\n\n[Network]\nAddress=10.0.2.27/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n",
    );
    assert_eq!(remarks, Vec::<String>::new());
    assert_eq!(file.rule.name.unwrap().patterns, ["eth0"]);
    assert_eq!(
        file.settings.addresses[0].address.to_string(),
        "10.0.2.27/24"
    );
    assert_eq!(
        file.settings.routes[0].gateway,
        Some("10.0.2.2".parse().unwrap())
    );
    assert_eq!(file.settings.dns, ["10.0.2.3".parse::<IpAddr>().unwrap()]);
    assert!(!file.settings.dhcp4);
}

#[test]
fn bad_lines_are_dropped_with_their_place_and_the_rest_applies() {
    let (file, remarks) = parse(
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.27/99\nDHCP=perhaps\nDNS=1.1.1.1\nColour=red\n[Strange]\nA=b\n",
    );
    assert_eq!(file.settings.addresses, []);
    assert!(!file.settings.dhcp4);
    assert_eq!(file.settings.dns.len(), 1);
    assert_eq!(
        remarks,
        [
            "/etc/10-a.network:4: warning: Address=10.0.2.27/99: expected an address with its prefix length, like 10.0.0.5/24, line ignored",
            "/etc/10-a.network:5: warning: DHCP=perhaps: expected yes, no, ipv4 or ipv6, line ignored",
            "/etc/10-a.network:7: warning: Colour= is not known in [Network], ignored",
            "/etc/10-a.network:8: warning: section [Strange] is not known, ignored",
        ]
    );
}

#[test]
fn an_empty_match_is_remarked_on() {
    let (_, remarks) = parse("[Network]\nDHCP=yes\n");
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].contains("nothing in [Match]"), "{remarks:?}");
}

#[test]
fn a_bad_hardware_address_in_match_does_not_match_everything() {
    let (file, remarks) = parse("[Match]\nMACAddress=nonsense\n[Network]\nDHCP=yes\n");
    assert_eq!(file.rule.mac, Some(Vec::new()));
    assert_eq!(remarks.len(), 1);
}

#[test]
fn sections_of_every_kind() {
    let text = "[Match]\nMACAddress=52:54:00:f1:07:01 52:54:00:f1:07:02\nDriver=!veth bridge\nHost=!node*\n\
        [Link]\nMTUBytes=9000\nRequiredForOnline=no\nActivationPolicy=always-up\n\
        [Network]\nDHCP=both\nDomains=example.com ~corp\nIPForward=ipv4\nIPMasquerade=yes\nKeepConfiguration=dhcp\nLinkLocalAddressing=no\n\
        [Address]\nAddress=10.1.0.1/32\nPeer=10.1.0.2/32\nLabel=eth0:1\n\
        [Route]\nDestination=10.9.0.0/16\nGateway=10.0.2.9\nGatewayOnLink=yes\nMetric=7\nTable=100\nMTUBytes=1400\nScope=link\n\
        [Route]\nDestination=10.8.0.0/16\nType=blackhole\n\
        [DHCP]\nUseDNS=no\nRouteMetric=50\nClientIdentifier=duid\nUseMTU=yes\nMaxAttempts=3\n";
    let (file, remarks) = parse(text);
    assert_eq!(remarks, Vec::<String>::new());
    let s = &file.settings;
    assert_eq!(file.rule.mac.as_ref().map(Vec::len), Some(2));
    assert_eq!(
        file.rule.driver,
        Some(Patterns {
            patterns: vec!["veth".into(), "bridge".into()],
            negated: true
        })
    );
    assert_eq!(
        (s.mtu, s.required_for_online, s.activation),
        (Some(9000), false, Activation::AlwaysUp)
    );
    assert!(
        s.dhcp4
            && s.forward_v4
            && !s.forward_v6
            && s.masquerade_v4
            && s.keep.expired_lease
            && !s.link_local_v6
    );
    assert_eq!(s.domains, ["example.com", "~corp"]);
    assert_eq!(s.addresses[0].peer, Some("10.1.0.2".parse().unwrap()));
    assert_eq!(s.routes.len(), 2);
    assert_eq!(
        (s.routes[0].metric, s.routes[0].table, s.routes[0].onlink),
        (Some(7), Some(100), true)
    );
    assert_eq!(s.routes[1].kind, RouteKind::Blackhole);
    assert_eq!(
        (s.dhcp.use_dns, s.dhcp.route_metric, s.dhcp.max_attempts),
        (false, 50, Some(3))
    );
}

#[test]
fn drop_ins_add_and_empty_values_reset() {
    let sources = [
        (
            "/a".to_owned(),
            "[Match]\nName=eth0\n[Network]\nDNS=1.1.1.1\nAddress=10.0.0.1/8\n".to_owned(),
        ),
        (
            "/a.d/b.conf".to_owned(),
            "[Network]\nDNS=\nDNS=9.9.9.9\nAddress=10.0.0.2/8\nX\n".to_owned(),
        ),
    ];
    let (file, remarks) = parse_network("a.network", &sources);
    assert_eq!(file.settings.dns, ["9.9.9.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(file.settings.addresses.len(), 2);
    assert_eq!(remarks.len(), 1);
    assert_eq!(
        (remarks[0].path.as_str(), remarks[0].line),
        ("/a.d/b.conf", 5)
    );
}

proptest! {
    #[test]
    fn never_panics(lines in proptest::collection::vec(
        ("(\\[(Match|Link|Network|Address|Route|DHCP)\\]|(Name|Address|Gateway|DNS|MTUBytes|DHCP|MACAddress|Table|Domains|Peer|Scope)=[ -~é]{0,20})", ), 0..12)) {
        let text: Vec<String> = lines.into_iter().map(|(l,)| l).collect();
        let _ = parse(&text.join("\n"));
    }
}
