//! Tests of the plan: what is there already is not done again.

use super::*;
use crate::config::parse::parse_network;
use crate::dhcp::lease::tests::ack;
use proptest::prelude::*;

const UP: u32 = 0x1_0001;

fn settings(text: &str) -> Settings {
    let text = format!("[Match]\nName=eth0\n{text}");
    let (file, remarks) = parse_network("a.network", &[("a.network".into(), text)]);
    assert_eq!(remarks, []);
    file.settings
}

fn eth0(flags: u32) -> Actual {
    let link = Link {
        index: 2,
        name: "eth0".into(),
        flags,
        mtu: 1500,
        ..Link::default()
    };
    Actual {
        link,
        ..Actual::default()
    }
}

fn wanted<'a>(settings: &'a Settings, lease: Option<&'a Lease>) -> Wanted<'a> {
    Wanted {
        settings,
        lease,
        link_local: None,
        altnames: &[],
        activated: false,
    }
}

/// What the kernel does with steps.
fn perform(actual: &mut Actual, steps: &[Step], now: u64) {
    for step in steps {
        match step.clone() {
            Step::Sysctl(path, value) => drop(actual.sysctl.insert(path, value)),
            Step::AltName(_, name) => actual.link.altnames.push(name),
            Step::Mac(_, mac) => actual.link.mac = Some(mac),
            Step::Mtu(_, mtu) => actual.link.mtu = mtu,
            Step::Up(_, true) => actual.link.flags |= UP,
            Step::Up(_, false) => {
                actual.link.flags &= !UP;
                actual.routes.clear();
            }
            Step::DropRoute(route) => actual.routes.retain(|r| *r != route),
            Step::DropAddress(a) => actual.addresses.retain(|h| h.address != a),
            Step::PutAddress(a) => {
                actual
                    .addresses
                    .retain(|h| (h.address.local, h.address.prefix) != (a.local, a.prefix));
                let until = a.lifetime.map(|(valid, _)| now + u64::from(valid) * 1000);
                actual.addresses.push(Held { address: a, until });
            }
            Step::PutRoute(route, replace) => {
                let clash = actual.routes.iter().any(|r| key(r) == key(&route));
                assert_eq!(clash, replace, "{route:?}");
                actual.routes.retain(|r| key(r) != key(&route));
                actual.routes.push(route);
            }
        }
    }
}

/// Applies plans until nothing is left; more than two rounds (device, then network) are too many.
fn settle(actual: &mut Actual, wanted: Wanted<'_>, now: u64) -> Vec<Step> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let steps = plan(actual, wanted, now);
        perform(actual, &steps, now);
        all.extend(steps);
    }
    assert_eq!(plan(actual, wanted, now), [], "a second plan must be empty");
    all
}

#[test]
fn the_bare_metal_example() {
    let settings = settings("[Network]\nAddress=10.0.2.27/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n");
    let mut actual = eth0(0);
    let steps = settle(&mut actual, wanted(&settings, None), 0);
    let [
        Step::Up(2, true),
        Step::PutAddress(address),
        Step::PutRoute(route, false),
    ] = &steps[..]
    else {
        panic!("{steps:?}")
    };
    assert_eq!(
        (address.local.to_string().as_str(), address.prefix),
        ("10.0.2.27", 24)
    );
    assert_eq!(address.broadcast, Some(Ipv4Addr::new(10, 0, 2, 255)));
    assert_eq!(
        (route.prefix, route.gateway),
        (0, Some("10.0.2.2".parse().unwrap()))
    );
}

#[test]
fn a_lease_gives_address_prefix_route_and_gateway_in_that_order() {
    let settings = settings("[Network]\nDHCP=yes\n");
    let lease = Lease::from_message(&ack(), 0).unwrap();
    let mut actual = eth0(UP);
    let steps = settle(&mut actual, wanted(&settings, Some(&lease)), 1000);
    let [
        Step::PutAddress(a),
        Step::PutRoute(prefix, _),
        Step::PutRoute(default, _),
    ] = &steps[..]
    else {
        panic!("{steps:?}")
    };
    assert_eq!(a.lifetime, Some((3599, 3599)));
    assert_eq!(
        (prefix.prefix, prefix.metric, prefix.gateway),
        (24, 1024, None)
    );
    assert_eq!(default.gateway, Some("10.0.2.2".parse().unwrap()));
    assert_eq!(default.preferred_source, Some("10.0.2.15".parse().unwrap()));

    let renewed = Lease {
        since: 1_800_000,
        ..lease.clone()
    };
    let steps = settle(&mut actual, wanted(&settings, Some(&renewed)), 1_800_000);
    assert!(matches!(steps[..], [Step::PutAddress(_)]), "{steps:?}");

    let steps = settle(&mut actual, wanted(&settings, None), 1_800_000);
    assert_eq!(steps.len(), 3);
    assert!(actual.addresses.is_empty() && actual.routes.is_empty());
}

#[test]
fn classless_routes_beat_the_router_and_far_gateways_are_reached() {
    let settings = settings("[Network]\nDHCP=yes\n");
    let mut message = ack();
    message.options.insert(1, vec![255, 255, 255, 255]);
    message
        .options
        .insert(121, vec![0, 169, 254, 0, 1, 24, 10, 9, 9, 10, 0, 2, 15]);
    let lease = Lease::from_message(&message, 0).unwrap();
    let mut actual = eth0(UP);
    settle(&mut actual, wanted(&settings, Some(&lease)), 0);
    let shown: Vec<_> = actual
        .routes
        .iter()
        .map(|r| (r.destination.to_string(), r.prefix, r.gateway.is_some()))
        .collect();
    assert_eq!(
        shown,
        [
            ("169.254.0.1".into(), 32, false),
            ("0.0.0.0".into(), 0, true),
        ]
    );
}

#[test]
fn what_others_set_stays_and_what_we_set_goes() {
    let before = settings("[Network]\nAddress=10.0.2.27/24\nGateway=10.0.2.2\n");
    let after = settings("[Network]\nAddress=10.0.2.28/24\n");
    let mut actual = eth0(UP);
    settle(&mut actual, wanted(&before, None), 0);
    let foreign = Address {
        proto: 0,
        ..static_address(
            2,
            &AddressSpec {
                address: crate::config::Cidr::parse("192.168.7.7/24").unwrap(),
                label: None,
                peer: None,
                broadcast: None,
            },
        )
    };
    actual.addresses.push(Held {
        address: foreign.clone(),
        until: None,
    });
    let steps = settle(&mut actual, wanted(&after, None), 0);
    assert!(
        matches!(
            steps[..],
            [
                Step::DropRoute(_),
                Step::DropAddress(_),
                Step::PutAddress(_)
            ]
        ),
        "{steps:?}"
    );
    assert!(actual.addresses.iter().any(|h| h.address == foreign));
}

#[test]
fn a_changed_gateway_replaces_the_route() {
    let before = settings("[Network]\nAddress=10.0.2.27/24\nGateway=10.0.2.2\n");
    let after = settings("[Network]\nAddress=10.0.2.27/24\nGateway=10.0.2.3\n");
    let mut actual = eth0(UP);
    settle(&mut actual, wanted(&before, None), 0);
    let steps = settle(&mut actual, wanted(&after, None), 0);
    assert!(matches!(steps[..], [Step::PutRoute(_, true)]), "{steps:?}");
}

#[test]
fn without_carrier_nothing_is_touched_unless_asked_for() {
    let plain = settings("[Network]\nAddress=10.0.2.27/24\n");
    let eager = settings("[Network]\nAddress=10.0.2.27/24\nConfigureWithoutCarrier=yes\n");
    let mut actual = eth0(UP);
    settle(&mut actual, wanted(&plain, None), 0);
    actual.link.flags = 1;
    assert_eq!(
        plan(&actual, wanted(&settings("[Network]\nDHCP=no\n"), None), 0),
        []
    );
    let mut down = eth0(1);
    assert_eq!(plan(&down, wanted(&plain, None), 0), []);
    assert_eq!(settle(&mut down, wanted(&eager, None), 0).len(), 1);
}

#[test]
fn device_settings() {
    let settings = settings(
        "[Link]\nMTUBytes=9000\nMACAddress=02:00:00:00:00:09\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=yes\nIPForward=ipv4\n",
    );
    let mut actual = eth0(0);
    actual.link.mac = Mac::parse("02:00:00:00:00:01");
    for path in [
        "net/ipv6/conf/eth0/addr_gen_mode",
        "net/ipv6/conf/eth0/accept_ra",
        "net/ipv4/ip_forward",
    ] {
        actual.sysctl.insert(path.into(), "0".into());
    }
    let altnames = ["enp0s3".to_owned()];
    let steps = settle(
        &mut actual,
        Wanted {
            altnames: &altnames,
            ..wanted(&settings, None)
        },
        0,
    );
    assert_eq!(steps.len(), 7, "{steps:?}");
    assert_eq!(steps.last(), Some(&Step::Up(2, true)));
    assert_eq!(actual.sysctl["net/ipv6/conf/eth0/accept_ra"], "2");
}

#[test]
fn activation_policies() {
    for (policy, activated, up, want) in [
        ("up", false, false, Some(true)),
        ("up", true, false, None),
        ("always-up", true, false, Some(true)),
        ("manual", false, false, None),
        ("down", false, true, Some(false)),
        ("down", true, true, None),
        ("always-down", true, true, Some(false)),
    ] {
        let settings = settings(&format!("[Link]\nActivationPolicy={policy}\n"));
        let actual = eth0(if up { UP } else { 0 });
        let steps = plan(
            &actual,
            Wanted {
                activated,
                ..wanted(&settings, None)
            },
            0,
        );
        let want: Vec<Step> = want.map(|up| Step::Up(2, up)).into_iter().collect();
        assert_eq!(steps, want, "{policy} {activated} {up}");
    }
}

proptest! {
    /// From any file and lease to any other: the plan settles, and foreign things survive.
    #[test]
    fn plans_settle(
        first in proptest::collection::vec(0usize..10, 0..6),
        second in proptest::collection::vec(0usize..10, 0..6),
        leased in any::<[bool; 2]>(), router in 0u8..4, prefix in 8u8..=32,
    ) {
        const LINES: [&str; 10] = [
            "[Network]\nAddress=10.0.2.27/24\n", "[Network]\nAddress=10.0.2.15/24\n", "[Network]\nGateway=10.0.2.2\n",
            "[Network]\nGateway=10.0.2.3\n", "[Network]\nAddress=2001:db8::1/64\nGateway=2001:db8::2\n",
            "[Route]\nDestination=10.9.0.0/16\nMetric=5\n", "[Route]\nDestination=10.9.0.0/16\nType=blackhole\n",
            "[Network]\nKeepConfiguration=static\n", "[Address]\nAddress=10.3.0.1/32\nPeer=10.3.0.2/32\n",
            "[Network]\nKeepConfiguration=dhcp\n",
        ];
        let text = |lines: &[usize]| lines.iter().map(|i| LINES[*i]).collect::<String>();
        let (a, b) = (settings(&text(&first)), settings(&text(&second)));
        let mut message = ack();
        message.options.insert(1, crate::config::values::mask_v4(Ipv4Addr::BROADCAST, prefix).octets().to_vec());
        message.options.insert(3, vec![10, 0, router, 2]);
        let lease = Lease::from_message(&message, 0).unwrap();
        let foreign = Route { metric: 77, ..Route::new("10.200.0.0".parse().unwrap(), 16, 2, 3) };
        let mut actual = eth0(UP);
        actual.routes.push(foreign.clone());
        for (settings, leased) in [(&a, leased[0]), (&b, leased[1])] {
            settle(&mut actual, wanted(settings, leased.then_some(&lease)), 1000);
        }
        prop_assert!(actual.routes.contains(&foreign));
    }
}
