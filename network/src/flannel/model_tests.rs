//! Tests of flannel's configuration, subnets and leases.

use super::*;
use proptest::prelude::*;

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn record(subnet: &str, public: &str) -> Record {
    let subnet = Subnet::parse(subnet).unwrap();
    let attributes = Attributes::new(ip(public), DEFAULT_BACKEND, Mac::parse("02:00:00:00:00:01"));
    Record {
        subnet,
        name: subnet.key(),
        attributes: Some(attributes),
        reserved: false,
        revision: 1,
    }
}

#[test]
fn the_example_configuration() {
    let c = config(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#);
    assert_eq!(
        (c.network.to_string().as_str(), c.subnet_len),
        ("10.1.0.0/16", 24)
    );
    assert_eq!((c.min, c.max), (ip("10.1.1.0"), ip("10.1.255.0")));
    assert_eq!(c.backend, DEFAULT_BACKEND);
    assert!(!c.backend_is_default);
    let c = config(
        r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"DirectRouting":true}}"#,
    );
    assert_eq!(
        (c.min, c.max, c.subnet_len),
        (ip("10.10.0.0"), ip("10.99.0.0"), 20)
    );
    assert_eq!(
        c.backend,
        Backend::Vxlan {
            vni: 7,
            port: 4789,
            direct: true,
            mtu: None
        }
    );
    assert_eq!(
        config(r#"{"Network":"10.1.0.0/24","Backend":{"Type":"host-gw"}}"#).subnet_len,
        26
    );
}

#[test]
fn bad_configurations_say_what_is_wrong() {
    for (text, want) in [
        (
            "{",
            "the network configuration is not what flannel's JSON should be",
        ),
        ("{}", "Network \"\" is not a network like 10.1.0.0/16"),
        (
            r#"{"Network":"10.1.0.0/33"}"#,
            "Network \"10.1.0.0/33\" is not a network like 10.1.0.0/16",
        ),
        (
            r#"{"Network":"10.1.0.0/29"}"#,
            "Network 10.1.0.0/29 is too small, /28 is the least",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetLen":31}"#,
            "SubnetLen 31 leaves no addresses, 30 is the most",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetLen":17}"#,
            "Network 10.1.0.0/16 must hold at least four subnets, SubnetLen 17 is too short",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMin":"10.2.0.0"}"#,
            "SubnetMin \"10.2.0.0\" is not an address of Network on a boundary of SubnetLen",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMax":"10.1.9.1"}"#,
            "SubnetMax \"10.1.9.1\" is not an address of Network on a boundary of SubnetLen",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp"}}"#,
            "backend type \"udp\" is not supported; use vxlan or host-gw",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
            "VNI 16777216 has more than 24 bits",
        ),
    ] {
        assert_eq!(Config::parse(text).unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn lease_values_are_those_of_the_original() {
    let written = r#"{"PublicIP":"10.37.7.195","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}}"#;
    let read: Attributes = serde_json::from_str(written).unwrap();
    assert_eq!(read.vtep_mac(), Mac::parse("82:4b:b6:2f:54:4e"));
    let own = Attributes::new(ip("10.37.7.195"), DEFAULT_BACKEND, read.vtep_mac());
    assert_eq!(serde_json::to_string(&own).unwrap(), written);
    let old: Attributes = serde_json::from_str(r#"{"PublicIP":"10.0.0.1"}"#).unwrap();
    assert_eq!((old.backend.as_str(), old.vtep_mac()), ("", None));
}

#[test]
fn keys() {
    for (text, want) in [
        ("10.1.5.0-24", Some("10.1.5.0/24")),
        ("10.1.5.0-24&fd00::-64", Some("10.1.5.0/24")),
        ("10.1.5.1-24", None),
        ("10.1.5.0-33", None),
        ("10.1.5.0/24", None),
        ("", None),
    ] {
        assert_eq!(
            Subnet::from_key(text).map(|s| s.to_string()).as_deref(),
            want,
            "{text}"
        );
    }
}

#[test]
fn choosing_a_subnet() {
    let c = config(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let me = ip("10.0.2.11");
    let taken = record("10.1.5.0/24", "10.0.2.12");
    let own = record("10.1.7.0/24", "10.0.2.11");
    let misfit = record("10.9.7.0/24", "10.0.2.11");
    let leases = [taken.clone(), own.clone()];
    assert_eq!(choose(&c, &leases, me, None, 0), Choice::Renew(own));
    assert_eq!(
        choose(&c, std::slice::from_ref(&misfit), me, None, 0),
        Choice::Discard(misfit)
    );
    let before = Subnet::parse("10.1.9.0/24");
    assert_eq!(
        choose(&c, std::slice::from_ref(&taken), me, before, 0),
        Choice::Claim(before.unwrap())
    );
    let Choice::Claim(other) = choose(
        &c,
        std::slice::from_ref(&taken),
        me,
        Subnet::parse("10.1.5.0/24"),
        4,
    ) else {
        panic!()
    };
    assert_eq!(other.to_string(), "10.1.6.0/24", "the one it had is taken");
    let Choice::Claim(other) = choose(&c, &[], me, Subnet::parse("10.1.5.0/25"), 0) else {
        panic!()
    };
    assert_eq!(
        other.to_string(),
        "10.1.1.0/24",
        "the one it had is of another length"
    );
    let small =
        config(r#"{"Network":"10.1.0.0/24","SubnetMin":"10.1.0.64","SubnetMax":"10.1.0.64"}"#);
    assert_eq!(
        choose(&small, &[record("10.1.0.64/26", "10.0.2.12")], me, None, 0),
        Choice::Full
    );
}

proptest! {
    #[test]
    fn a_claim_is_allowed_and_free(
        taken in proptest::collection::btree_set(0u8..=255, 0..200), random in any::<u64>(), previous in any::<Option<u8>>(),
    ) {
        let c = config(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#);
        let leases: Vec<Record> = taken.iter().map(|n| record(&format!("10.1.{n}.0/24"), "10.0.2.99")).collect();
        let previous = previous.map(|n| Subnet::parse(&format!("10.1.{n}.0/24")).unwrap());
        match choose(&c, &leases, ip("10.0.2.11"), previous, random) {
            Choice::Claim(subnet) => {
                prop_assert!(c.allows(subnet));
                prop_assert!(!leases.iter().any(|l| l.subnet.overlaps(subnet)));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn reading_never_panics(text in "\\PC{0,120}", network in "10\\.[0-9]{1,3}\\.0\\.0/[0-9]{1,2}", len in 0u8..40) {
        let _ = (Config::parse(&text), Subnet::from_key(&text), serde_json::from_str::<Attributes>(&text));
        let _ = Config::parse(&format!("{{\"Network\":\"{}\",\"SubnetLen\":{}}}", network, len));
    }
}
