//! What fails or is lost on one machine: files, links, requests to the service manager.

use std::sync::Arc;

use etcd_kv::Kv;
use etcd_kv::testing::EtcdServer;

use crate::harness::{Cluster, eventually};

const PLAIN: &str = "[Service]\nExecStart=/x\n";
const PREFIX: &str = "/_coreos.com/fleet/v3";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_unit_is_put_back_and_a_left_one_removed() {
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 1).await;
    cluster.put("a.service", PLAIN, "launched").await;
    cluster.put("b.service", PLAIN, "launched").await;
    eventually("both run", async || cluster.active().await.len() == 2).await;
    let manager = cluster.daemons[0].manager.clone();
    let file = cluster.daemons[0].unit_file("a.service");
    std::fs::remove_file(&file).unwrap();
    manager.lose("a.service");
    eventually("it is there and runs again", async || {
        file.exists() && manager.is_active("a.service") && cluster.active().await.len() == 2
    })
    .await;
    assert_eq!(cluster.starts("a.service"), 2);
    assert_eq!(cluster.starts("b.service"), 1);

    // Written by a daemon that died before it was linked, and no longer wanted.
    cluster.kill(0);
    let left = cluster.daemons[0].unit_file("left.service");
    std::fs::write(&left, PLAIN).unwrap();
    cluster.revive(0).await;
    eventually("it is gone", async || !left.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_cannot_be_stopped_stays_until_it_can() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 1).await;
    cluster.put("a.service", PLAIN, "launched").await;
    eventually("it runs", async || cluster.active().await.len() == 1).await;
    let manager = cluster.daemons[0].manager.clone();
    manager.refuse_stop(true);
    let path = "/fleet/v1/units/a.service";
    assert_eq!(cluster.request(0, "DELETE", path, None).await.0, 204);
    let stops = || {
        manager
            .log()
            .iter()
            .filter(|l| *l == "stop a.service")
            .count()
    };
    eventually("it was tried twice", async || stops() >= 2).await;
    let file = cluster.daemons[0].unit_file("a.service");
    assert!(file.exists() && manager.is_active("a.service"));
    assert!(!cluster.states_of("a.service").await.is_empty());
    manager.refuse_stop(false);
    eventually("it is gone", async || {
        !file.exists() && cluster.states_of("a.service").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_touches_neither_units_nor_presence_nor_lead() {
    let etcd = EtcdServer::start().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let mut cluster = Cluster::start(&etcd, 1).await;
    cluster.put("a.service", PLAIN, "launched").await;
    eventually("it runs", async || cluster.active().await.len() == 1).await;
    let presence = format!("{PREFIX}/presence/{}", cluster.ids()[0]);
    let keys = [presence, format!("{PREFIX}/engine/leader")];
    let records = async || {
        let mut records = Vec::new();
        for key in &keys {
            let record = kv.get(key.as_str()).await.unwrap().unwrap();
            records.push((record.lease, record.create_revision));
        }
        records
    };
    let before = records().await;
    let log = cluster.daemons[0].manager.log();
    cluster.reload(0, |_| {}).await;
    cluster.put("b.service", PLAIN, "launched").await;
    eventually("a new one runs", async || cluster.active().await.len() == 2).await;
    assert_eq!(records().await, before);
    let after = cluster.daemons[0].manager.log();
    let others = after[log.len()..].iter();
    let others: Vec<_> = others.filter(|l| !l.contains("b.service")).collect();
    assert!(others.iter().all(|l| *l == "reload"), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_an_older_engine_is_ousted_and_one_too_old_gives_up() {
    let etcd = EtcdServer::start().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let _cluster = Cluster::start(&etcd, 1).await;
    let leader = format!("{PREFIX}/engine/leader");
    let leads = async || {
        let record = kv.get(leader.as_str()).await.unwrap();
        record.is_some_and(|record| record.lease.is_some())
    };
    eventually("it leads", leads).await;
    let old = r#"{"machine":"other","version":0}"#;
    kv.put(leader.as_str(), old, None).await.unwrap();
    eventually("it leads again", leads).await;
    kv.put(format!("{PREFIX}/engine/version"), "2", None)
        .await
        .unwrap();
    eventually("it does not lead", async || !leads().await).await;
}
