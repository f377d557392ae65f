//! Announced services as a real resolver's client sees them: Debian's `dig` against the daemons.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use etcd_kv::testing::EtcdServer;
use etcd_kv::{Kv, Txn};
use fleet_model::{MachineId, UnitName};
use fleetd::dns::{Directory, Server};
use fleetd::registry::{Announcement, Registry};
use tokio::process::Command;

use crate::harness::{Cluster, eventually};

/// What dig says.
async fn dig(server: SocketAddr, args: &[&str]) -> String {
    let output = Command::new("dig")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+time=5", "+tries=2"])
        .args(args)
        .output()
        .await
        .expect("dig is installed (Debian: bind9-dnsutils)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn short(server: SocketAddr, name: &str, kind: &str) -> BTreeSet<String> {
    let text = dig(server, &["+short", name, kind]).await;
    text.lines().map(str::to_owned).collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|i| (*i).to_owned()).collect()
}

const WEB: &str = "[Service]\nExecStart=/x\n[X-Fleet]\nAnnounce=web:80\nConflicts=web@*\n";

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_on_every_machine_while_their_units_are_active() {
    let mut etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 2).await;
    for i in 1..=2 {
        cluster
            .put(&format!("web@{i}.service"), WEB, "launched")
            .await;
    }
    let bad = "[Service]\nExecStart=/bin/false\n[X-Fleet]\nAnnounce=81\n";
    cluster.put("bad.service", bad, "launched").await;
    let both = set(&["10.0.0.1", "10.0.0.2"]);
    for dns in [cluster.daemons[0].dns, cluster.daemons[1].dns] {
        eventually("both are found", async || {
            short(dns, "web.fleet.local", "A").await == both
        })
        .await;
        let ids = cluster.ids();
        let hosts = [0, 1].map(|i| format!("0 10 80 {}.machines.fleet.local.", ids[i]));
        let hosts = hosts.iter().map(String::as_str).collect::<Vec<_>>();
        for name in [
            "_web._tcp.fleet.local",
            "_WEB._TCP.Fleet.Local",
            "web.fleet.local",
        ] {
            assert_eq!(short(dns, name, "SRV").await, set(&hosts), "{name}");
        }
        let first = format!("{}.machines.fleet.local", ids[0]);
        assert_eq!(short(dns, &first, "A").await, set(&["10.0.0.1"]));
        for (args, expect) in [
            (&["web.fleet.local", "A"][..], "status: NOERROR"),
            (&["web.fleet.local", "A"], "flags: qr aa rd;"),
            (&["web.fleet.local", "A", "+tcp"], "ANSWER: 2"),
            (&["web.fleet.local", "A", "+noedns"], "ANSWER: 2"),
            (&["web.fleet.local", "SRV"], "ADDITIONAL: 3"),
            (&["web.fleet.local", "AAAA"], "status: NOERROR"),
            (&["web.fleet.local", "AAAA"], "ANSWER: 0, AUTHORITY: 1"),
            (&["none.fleet.local", "A"], "status: NXDOMAIN"),
            (&["none.fleet.local", "A"], "SOA"),
            (&["bad.fleet.local", "A"], "status: NXDOMAIN"),
            (
                &["fleet.local", "SOA"],
                "ns.fleet.local. hostmaster.fleet.local.",
            ),
            (&["fleet.local", "NS"], "ns.fleet.local."),
            (&["fleet.local", "AXFR"], "Transfer failed"),
            (&["example.org", "A"], "status: REFUSED"),
            (&["-c", "CH", "version.bind", "TXT"], "status: REFUSED"),
            (
                &["web.fleet.local", "A", "+edns=9", "+noednsneg"],
                "status: BADVERS",
            ),
            (
                &["+opcode=NOTIFY", "web.fleet.local", "SOA"],
                "status: NOTIMP",
            ),
        ] {
            let said = dig(dns, args).await;
            assert!(
                said.contains(expect),
                "dig {args:?}: no {expect:?} in {said}"
            );
            assert!(!said.contains("WARNING: M"), "malformed: {said}");
        }
    }

    // A unit that is stopped is no longer found; its machine says so itself.
    let dns = cluster.daemons[1].dns;
    let one = cluster.machine_of("web@1.service").await.unwrap();
    let other = 1 - cluster.index(&one);
    cluster.target("web@1.service", "loaded").await;
    let left = format!("10.0.0.{}", other + 1);
    eventually("one is left", async || {
        short(dns, "web.fleet.local", "A").await == set(&[&left])
    })
    .await;
    assert_eq!(short(dns, "web-1.fleet.local", "A").await, set(&[]));

    // A daemon that is restarted announces without a gap: nothing is written.
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let announced = async || {
        kv.list("/_coreos.com/fleet/v3/announce/")
            .await
            .unwrap()
            .kvs
    };
    let before = announced().await;
    assert_eq!(before.len(), 1);
    cluster.kill(other);
    cluster.revive(other).await;
    // Once it has published anything new, it has passed the point where it compares.
    cluster.target("web@1.service", "launched").await;
    eventually("both are found again", async || {
        short(dns, "web.fleet.local", "A").await == both
    })
    .await;
    let after = announced().await;
    assert!(after.contains(&before[0]), "{before:?} {after:?}");

    // Without etcd the last answers stay.
    etcd.kill().await;
    assert_eq!(short(dns, "web.fleet.local", "A").await, both);
    etcd.resume().await;

    // A machine that leaves takes its announcements along; its unit has no other place to go.
    cluster.daemons[other].manager.set_own_job(Some("stop"));
    let dns = cluster.daemons[1 - other].dns;
    cluster.end(other).await;
    let left = format!("10.0.0.{}", 2 - other);
    eventually("one has left", async || {
        short(dns, "web.fleet.local", "A").await == set(&[&left])
    })
    .await;
    assert_eq!(short(dns, "web-2.fleet.local", "A").await, set(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_long_for_a_datagram_comes_by_tcp() {
    let etcd = EtcdServer::start().await;
    let registry = Registry::new(Arc::new(etcd.client()), "/f/");
    let announce = |i: u32| {
        let unit = UnitName::parse(&format!("web@{i}.service")).unwrap();
        let machine = MachineId::parse(&format!("m{i}")).unwrap();
        let announcement = Announcement {
            address: std::net::Ipv4Addr::from(0x0a00_0000 + i).into(),
            port: 80,
            proto: "tcp".into(),
        };
        (unit, machine, announcement)
    };
    let (lease, _) = registry
        .kv()
        .lease_grant(std::time::Duration::from_secs(60), None)
        .await
        .unwrap();
    let mut txn = Txn::new();
    for i in 1..=100 {
        let (unit, machine, announcement) = announce(i);
        txn.then
            .push(registry.announce("web", &unit, &machine, Some((&announcement, lease))));
    }
    registry.kv().txn(txn).await.unwrap();
    let directory = Directory::start(registry.clone());
    let server = Server::bind(([127, 0, 0, 1], 0).into(), directory)
        .await
        .unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.run());
    eventually("all are found", async || {
        short(address, "web.fleet.local", "A").await.len() == 100
    })
    .await;
    let cut = dig(address, &["+ignore", "web.fleet.local", "A"]).await;
    assert!(cut.contains("flags: qr aa tc rd;"), "{cut}");
    // Several questions on one connection.
    let two = dig(
        address,
        &[
            "+tcp",
            "+keepopen",
            "web-1.fleet.local",
            "web-2.fleet.local",
        ],
    )
    .await;
    assert!(
        two.contains("10.0.0.1") && two.contains("10.0.0.2"),
        "{two}"
    );
    // A lease that ends takes everything along.
    registry.kv().lease_revoke(lease).await.unwrap();
    eventually("nothing is left", async || {
        let said = dig(address, &["web.fleet.local", "A"]).await;
        said.contains("status: NXDOMAIN")
    })
    .await;
}
