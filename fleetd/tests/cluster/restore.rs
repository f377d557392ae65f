//! An older copy of etcd's data is restored under running daemons.

use std::sync::Arc;

use etcd_kv::Keys;
use etcd_kv::Kv;
use etcd_kv::testing::EtcdServer;

use crate::harness::{Cluster, eventually};

const PREFIX: &str = "/_coreos.com/fleet/v3";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_copy_lacks_of_running_units_is_published_anew() {
    let mut etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 1).await;
    let text = "[Service]\nExecStart=/x\n[X-Fleet]\nAnnounce=web:80\n";
    cluster.put("a.service", text, "launched").await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let records = async || {
        let mut keys = Vec::new();
        for kind in ["state", "announce"] {
            let reply = kv.list(format!("{PREFIX}/{kind}/")).await;
            keys.extend(reply.map(|r| r.kvs).unwrap_or_default());
        }
        keys.len()
    };
    eventually("it runs and is announced", async || {
        records().await == 2 && cluster.active().await.contains("a.service")
    })
    .await;
    // The copy is made as if before its machine had said anything of it.
    for kind in ["state", "announce"] {
        kv.delete(Keys::prefix(format!("{PREFIX}/{kind}/")))
            .await
            .unwrap();
    }
    etcd.kill().await;
    etcd.backup(false);
    etcd.resume().await;
    for i in 0..5 {
        eventually("etcd is back", async || {
            let key = format!("{PREFIX}/metadata/m/{i}");
            kv.put(key, "x", None).await.is_ok()
        })
        .await;
    }
    // The daemon has seen these before the copy comes.
    let caught_up = async || {
        let (status, _) = cluster.request(0, "GET", "/fleet/v1/machines", None).await;
        status == 200
    };
    eventually("the daemon is back", caught_up).await;
    cluster
        .put("b.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    eventually("b runs", async || {
        cluster.active().await.contains("b.service")
    })
    .await;
    let starts = cluster.starts("a.service");

    etcd.kill().await;
    etcd.backup(true);
    etcd.resume().await;
    eventually("a is recorded and announced again", async || {
        records().await == 2
    })
    .await;
    eventually("a is active, and b is gone with the copy", async || {
        let active = cluster.active().await;
        active.contains("a.service") && !active.contains("b.service")
    })
    .await;
    assert_eq!(cluster.starts("a.service"), starts, "nothing was restarted");
}
