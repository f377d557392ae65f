//! Life of a unit beyond placement: restarts, batch units, losing the cluster, and what is left.

use std::sync::Arc;
use std::time::Duration;

use etcd_kv::Kv;
use etcd_kv::testing::EtcdServer;
use fleet_model::{Outcome, UnitName};
use fleetd::registry::Registry;
use tokio::time::{Instant, sleep};

use crate::counting::Counting;
use crate::harness::{Cluster, eventually};

const PREFIX: &str = "/_coreos.com/fleet/";
const PLAIN: &str = "[Service]\nExecStart=/x\n";

fn registry(kv: Arc<dyn Kv>) -> Registry {
    Registry::new(kv, PREFIX)
}

fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap()
}

/// Keys below the prefix that belong to units.
async fn unit_keys(kv: &dyn Kv) -> Vec<String> {
    let all = kv.list(format!("{PREFIX}v3/")).await.unwrap().kvs;
    all.iter()
        .map(|kv| kv.key_str().into_owned())
        .filter(|key| {
            ["/job/", "/state/", "/announce/"]
                .iter()
                .any(|p| key.contains(p))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_stops_and_starts_once_wherever_the_unit_runs() {
    let etcd = EtcdServer::start().await;
    let registry = registry(Arc::new(etcd.client()));
    let mut cluster = Cluster::start(&etcd, 2).await;
    cluster.put("a.service", PLAIN, "launched").await;
    cluster.put("l.service", PLAIN, "loaded").await;
    let global = format!("{PLAIN}[X-Fleet]\nGlobal=true\n");
    cluster.put("g.service", &global, "launched").await;
    eventually("all run", async || {
        cluster.starts("a.service") == 1 && cluster.starts("g.service") == 2
    })
    .await;
    for unit in ["a.service", "l.service", "g.service"] {
        assert!(
            registry
                .ask_restart(&name(unit), 7)
                .await
                .unwrap()
                .is_some()
        );
    }
    eventually("all are restarted", async || {
        cluster.starts("a.service") == 2 && cluster.starts("g.service") == 4
    })
    .await;
    let index = cluster.index(&cluster.machine_of("a.service").await.unwrap());
    let log = cluster.daemons[index].manager.log();
    let own: Vec<_> = log.iter().filter(|l| l.contains(" a.service")).collect();
    assert_eq!(
        own,
        [
            "link a.service",
            "start a.service",
            "stop a.service",
            "start a.service"
        ]
    );
    eventually("the state tells of it", async || {
        let unit = name("a.service");
        let states = registry.states(Some((&unit, &unit))).await.unwrap();
        states.first().is_some_and(|(_, _, s)| s.restart == Some(7))
    })
    .await;
    // A daemon that comes back knows that it is done.
    cluster.kill(index);
    cluster.revive(index).await;
    cluster.put("later.service", PLAIN, "launched").await;
    eventually("a later one runs", async || {
        cluster.active().await.contains("later.service")
    })
    .await;
    assert_eq!(cluster.starts("a.service"), 2);
    assert_eq!(cluster.starts("g.service"), 4);
    assert_eq!(cluster.starts("l.service"), 0, "it was only loaded");
}

/// The leader's record.
async fn leader(kv: &dyn Kv) -> Option<etcd_kv::KeyValue> {
    let key = format!("{PREFIX}v3/engine/leader");
    kv.get(key).await.unwrap()
}

/// Waits until there is a leader such as this. Its number.
async fn eventually_leads(cluster: &Cluster, kv: &dyn Kv, such: impl Fn(usize) -> bool) -> usize {
    let mut found = 0;
    eventually("it leads", async || {
        let Some(record) = leader(kv).await else {
            return false;
        };
        let record: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        let machine = record["machine"].as_str().unwrap();
        let place = cluster.ids().iter().position(|id| id == machine);
        found = place.unwrap_or(usize::MAX);
        place.is_some_and(&such)
    })
    .await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_told_not_to_lead_lets_another_one_do_it() {
    let etcd = EtcdServer::start().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let mut cluster = Cluster::start(&etcd, 2).await;
    let first = eventually_leads(&cluster, &*kv, |_| true).await;
    cluster.reload(first, |s| s.disable_engine = true).await;
    eventually_leads(&cluster, &*kv, |index| index != first).await;
    cluster.put("a.service", PLAIN, "launched").await;
    eventually("it does its work", async || {
        cluster.active().await.contains("a.service")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_time_to_live_takes_effect_and_the_cluster_sees_nothing() {
    let etcd = EtcdServer::start().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let mut cluster = Cluster::start(&etcd, 2).await;
    let first = eventually_leads(&cluster, &*kv, |_| true).await;
    let here = cluster.ids()[first].clone();
    let keep = format!("{PLAIN}[X-Fleet]\nMachineID={here}\n");
    let stop = format!("{keep}Partition=stop\n");
    cluster.put("keep.service", &keep, "launched").await;
    cluster.put("stop.service", &stop, "launched").await;
    eventually("both run", async || cluster.active().await.len() == 2).await;
    let presence = format!("{PREFIX}v3/presence/{here}");
    let before = kv.get(presence.as_str()).await.unwrap().unwrap();
    let pids = cluster.daemons[first].manager.main_pids();
    let everything = etcd_kv::Keys::prefix(format!("{PREFIX}v3/"));
    let mut watch = kv
        .watch(etcd_kv::WatchRequest::now(everything))
        .await
        .unwrap();

    let ttl = Duration::from_secs(6);
    cluster.reload(first, |s| s.agent_ttl = ttl).await;
    let mut lease = None;
    eventually("it has another lease", async || {
        lease = kv.get(presence.as_str()).await.unwrap().unwrap().lease;
        lease != before.lease
    })
    .await;
    eventually("the old one is gone", async || {
        kv.lease_info(before.lease.unwrap(), false).await.is_err()
    })
    .await;
    let lease = kv.lease_info(lease.unwrap(), true).await.unwrap();
    assert_eq!(lease.granted, 6);
    // Presence, leadership, two states.
    assert_eq!(lease.keys.len(), 4, "{lease:?}");
    // It works, and is renewed in time: after longer than it lasts it is the same.
    sleep(ttl + Duration::from_secs(2)).await;
    let after = kv.get(presence.as_str()).await.unwrap().unwrap();
    assert_eq!(after.lease, Some(lease.lease));
    assert_eq!(after.create_revision, before.create_revision);
    cluster.put("later.service", &keep, "launched").await;
    eventually("a later one runs", async || {
        cluster.active().await.contains("later.service")
    })
    .await;
    let mut now = cluster.daemons[first].manager.main_pids();
    now.remove("later.service");
    assert_eq!(now, pids, "nothing was bounced");
    let mut seen = false;
    while !seen {
        for event in watch.next().await.unwrap().events {
            let key = String::from_utf8_lossy(event.key()).into_owned();
            assert!(!matches!(event, etcd_kv::Event::Delete { .. }), "{key}");
            seen |= key.contains("/job/later.service");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_goes_to_another_prefix_leaves_no_ghost() {
    let etcd = EtcdServer::start().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let mut cluster = Cluster::start(&etcd, 1).await;
    cluster.put("a.service", PLAIN, "launched").await;
    eventually("it runs", async || cluster.active().await.len() == 1).await;
    let presence = |prefix: &str| format!("{prefix}v3/presence/{}", cluster.ids()[0]);
    let (old, new) = (presence(PREFIX), presence("/other/"));
    cluster
        .reload(0, |s| s.etcd_key_prefix = "/other/".into())
        .await;
    eventually("it is in the other cluster", async || {
        kv.get(new.as_str()).await.unwrap().is_some()
    })
    .await;
    assert_eq!(kv.get(old.as_str()).await.unwrap(), None);
    eventually("what ran for the first one is gone", async || {
        cluster.daemons[0].manager.names().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_which_a_part_panics_ends_and_its_successor_goes_on() {
    let store = Counting::default();
    let kv: Arc<dyn Kv> = Arc::new(store.clone());
    let mut cluster = Cluster::start_on(kv.clone(), 1).await;
    for (round, (key, what)) in [
        ("engine/leader", "the engine"),
        ("/state/", "the agent"),
        ("lease", "the presence"),
    ]
    .into_iter()
    .enumerate()
    {
        eventually_leads(&cluster, &*kv, |_| true).await;
        *store.panic_at.lock().unwrap() = Some(key);
        if what == "the engine" {
            let leader = etcd_kv::Keys::one(format!("{PREFIX}v3/engine/leader"));
            kv.delete(leader).await.unwrap();
        }
        let unit = format!("u{round}.service");
        let file = fleet_model::UnitFile::parse(PLAIN).unwrap();
        let launched = fleet_model::TargetState::Launched;
        let registry = registry(kv.clone());
        registry
            .create(&name(&unit), &file, launched)
            .await
            .unwrap();
        let why = cluster.breaks(0).await;
        assert!(why.starts_with(what), "{why}");
        *store.panic_at.lock().unwrap() = None;
        cluster.revive(0).await;
        eventually("the new unit runs", async || {
            cluster.active().await.contains(&unit)
        })
        .await;
    }
    assert_eq!(cluster.starts("u0.service"), 1, "nothing was bounced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_daemon_waits_for_units_that_are_busy_or_only_coming() {
    let etcd = EtcdServer::start().await;
    let registry = registry(Arc::new(etcd.client()));
    let mut cluster = Cluster::start(&etcd, 2).await;
    let here = cluster.ids()[0].clone();
    let on_first = |service: &str| format!("{service}[X-Fleet]\nMachineID={here}\n");
    let slow_stop = on_first("[Service]\nExecStart=/x\nTimeoutStopSec=1\n");
    cluster.put("busy.service", &slow_stop, "launched").await;
    let manager = cluster.daemons[0].manager.clone();
    eventually("it runs", async || manager.is_active("busy.service")).await;
    let coming = on_first("[Service]\nExecStart=slow-link\n");
    cluster.put("coming.service", &coming, "launched").await;
    registry
        .ask_restart(&name("busy.service"), 7)
        .await
        .unwrap();
    eventually("the one is stopped, the other linked", async || {
        let log = manager.log();
        ["stop busy.service", "linking coming.service"]
            .iter()
            .all(|line| log.iter().any(|l| l == line))
    })
    .await;
    manager.set_own_job(Some("stop"));
    cluster.end(0).await;
    assert!(manager.main_pids().is_empty(), "{:?}", manager.log());
    assert!(manager.names().is_empty(), "{:?}", manager.names());
    assert!(
        unit_keys(registry.kv())
            .await
            .iter()
            .all(|k| !k.contains("/state/"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_unit_of_a_lone_machine_is_tried_there_again() {
    let etcd = EtcdServer::start().await;
    let registry = registry(Arc::new(etcd.client()));
    let cluster = Cluster::start(&etcd, 1).await;
    let text = "[Service]\nType=oneshot\nExecStart=/bin/false\n[X-Fleet]\nBatch=yes\nRetries=3\n";
    cluster.put("bad.service", text, "launched").await;
    let result = async || {
        let key = format!("{PREFIX}v3/job/bad.service/result");
        let kv = registry.kv().get(key).await.unwrap()?;
        serde_json::from_slice::<fleet_model::BatchResult>(&kv.value).ok()
    };
    let tried = async |attempts: u32| result().await.is_some_and(|r| r.attempts == attempts);
    eventually("all attempts were made", async || tried(4).await).await;
    assert_eq!(cluster.starts("bad.service"), 4);
    let failures: Vec<u32> = result().await.unwrap().failures.into_values().collect();
    assert_eq!(failures, [4]);
    // Started anew, it has as many attempts again.
    cluster.target("bad.service", "launched").await;
    eventually("all were made once more", async || {
        cluster.starts("bad.service") == 8 && tried(4).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_units_run_to_their_end_and_the_result_stays() {
    let etcd = EtcdServer::start().await;
    let registry = registry(Arc::new(etcd.client()));
    let cluster = Cluster::start(&etcd, 3).await;
    let batch = |program: &str, retries: u32| {
        format!(
            "[Service]\nType=oneshot\nExecStart={program}\n[X-Fleet]\nBatch=yes\nRetries={retries}\n"
        )
    };
    cluster
        .put("good.service", &batch("/bin/true", 0), "launched")
        .await;
    cluster
        .put("bad.service", &batch("/bin/false", 1), "launched")
        .await;
    let result = async |unit: &str| {
        let key = format!("{PREFIX}v3/job/{unit}/result");
        let kv = registry.kv().get(key).await.unwrap()?;
        serde_json::from_slice::<fleet_model::BatchResult>(&kv.value).ok()
    };
    eventually("both have ended", async || {
        result("good.service").await.is_some()
            && result("bad.service").await.is_some_and(|r| r.attempts == 2)
    })
    .await;
    let good = result("good.service").await.unwrap();
    assert_eq!(
        (good.outcome, good.exit_status, good.attempts),
        (Outcome::Success, 0, 1)
    );
    assert!(good.finished.ends_with('Z'), "{}", good.finished);
    let bad = result("bad.service").await.unwrap();
    assert_eq!(
        (bad.outcome, bad.exit_status, bad.attempts),
        (Outcome::Failure, 1, 2)
    );
    // Nobody starts them again.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(
        (
            cluster.starts("good.service"),
            cluster.starts("bad.service")
        ),
        (1, 2)
    );
    // Both attempts were not made on one machine.
    assert_eq!(bad.failures.len(), 2, "{bad:?}");
    // Launching it again runs it anew.
    cluster.target("good.service", "launched").await;
    eventually("it has run twice", async || {
        cluster.starts("good.service") == 2 && result("good.service").await.is_some()
    })
    .await;
    assert_eq!(result("good.service").await.unwrap().attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_only_units_that_must_not_run_twice_stop_and_in_time() {
    let mut etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 1).await;
    let stop = format!("{PLAIN}[X-Fleet]\nPartition=stop\n");
    cluster.put("keep.service", PLAIN, "launched").await;
    cluster.put("stop.service", &stop, "launched").await;
    let manager = &cluster.daemons[0].manager;
    eventually("both run", async || {
        manager.is_active("keep.service") && manager.is_active("stop.service")
    })
    .await;
    assert!(
        manager.is_active("fleet-guard.service"),
        "the guard watches"
    );
    let lost = Instant::now();
    etcd.kill().await;
    eventually("the one stops", async || !manager.is_active("stop.service")).await;
    assert!(
        lost.elapsed() < Duration::from_secs(2),
        "{:?} is longer than the lease",
        lost.elapsed()
    );
    sleep(Duration::from_secs(1)).await;
    assert!(manager.is_active("keep.service"));
    assert_eq!(cluster.starts("keep.service"), 1);
    etcd.resume().await;
    eventually("it runs again", async || {
        manager.is_active("stop.service") && cluster.active().await.contains("stop.service")
    })
    .await;
    assert_eq!(cluster.starts("keep.service"), 1);
    let (status, _) = cluster
        .request(0, "DELETE", "/fleet/v1/units/stop.service", None)
        .await;
    assert_eq!(status, 204);
    eventually("the guard goes with the last unit", async || {
        !manager.is_active("fleet-guard.service")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_machine_empties_and_units_come_back_when_asked_to() {
    let etcd = EtcdServer::start().await;
    let registry = registry(Arc::new(etcd.client()));
    let cluster = Cluster::start(&etcd, 2).await;
    for i in 0..4 {
        cluster
            .put(&format!("u{i}.service"), PLAIN, "launched")
            .await;
    }
    let running = |index: usize| cluster.daemons[index].manager.main_pids();
    eventually("two run on each", async || {
        running(0).len() == 2 && running(1).len() == 2
    })
    .await;
    let machine = fleet_model::MachineId::parse(&cluster.ids()[0]).unwrap();
    let drain = fleetd::registry::Cordon {
        drain: true,
        ..Default::default()
    };
    registry.set_cordon(&machine, Some(&drain)).await.unwrap();
    eventually("all run on the other", async || {
        let (first, second) = (running(0), running(1));
        assert!(first.keys().all(|name| !second.contains_key(name)), "twice");
        first.is_empty() && second.len() == 4
    })
    .await;
    cluster.put("u4.service", PLAIN, "launched").await;
    eventually("a new one does, too", async || running(1).len() == 5).await;
    registry.set_cordon(&machine, None).await.unwrap();
    let request = fleetd::registry::Rebalance {
        budget: 1,
        requested: String::new(),
    };
    registry.ask_rebalance(&request).await.unwrap();
    eventually("one comes back, and the request is gone", async || {
        running(0).len() == 1
            && running(1).len() == 4
            && registry.rebalancing().await.unwrap().0.is_none()
    })
    .await;
    let (_, moves, _) = registry.rebalancing().await.unwrap();
    let from = moves.units.values().map(String::as_str);
    assert_eq!(moves.moved, 1);
    assert_eq!(from.collect::<Vec<_>>(), [&cluster.ids()[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_units_that_were_destroyed() {
    let etcd = EtcdServer::start().await;
    let registry = registry(Arc::new(etcd.client()));
    let cluster = Cluster::start(&etcd, 2).await;
    let texts = [
        PLAIN.to_owned(),
        format!("{PLAIN}[X-Fleet]\nGlobal=true\n"),
        "[Service]\nType=oneshot\nExecStart=/bin/true\n[X-Fleet]\nBatch=yes\n".into(),
        "[Service]\nExecStart=/bin/false\n".into(),
        format!("{PLAIN}[X-Fleet]\nPartition=stop\n"),
        "[Service]\nExecStart=refuse-link\n".into(),
    ];
    for i in 0..18 {
        let target = ["launched", "loaded", "inactive"][i / 6];
        let text = &texts[i % 6];
        cluster.put(&format!("u{i}.service"), text, target).await;
    }
    eventually("most are active", async || {
        // Plain, global and fenced ones; the batch unit has ended.
        cluster.active().await.len() == 3
            && unit_keys(registry.kv())
                .await
                .iter()
                .any(|k| k.ends_with("/result"))
    })
    .await;
    registry.ask_restart(&name("u0.service"), 3).await.unwrap();
    for i in 0..18 {
        let path = format!("/fleet/v1/units/u{i}.service");
        assert_eq!(cluster.request(0, "DELETE", &path, None).await.0, 204);
    }
    eventually("no key is left", async || {
        unit_keys(registry.kv()).await.is_empty()
    })
    .await;
    eventually("and no unit", async || {
        cluster
            .daemons
            .iter()
            .all(|d| d.manager.main_pids().is_empty())
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(unit_keys(registry.kv()).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_cluster_only_renews_its_leases() {
    const UNITS: usize = 300;
    let counting = Counting::default();
    let kv: Arc<dyn Kv> = Arc::new(counting.clone());
    let cluster = Cluster::start_on(kv.clone(), 3).await;
    let registry = registry(kv.clone());
    let file = fleet_model::UnitFile::parse(PLAIN).unwrap();
    for i in 0..UNITS {
        let unit = name(&format!("u{i:03}.service"));
        let launched = fleet_model::TargetState::Launched;
        registry.create(&unit, &file, launched).await.unwrap();
    }
    let active = || -> usize {
        let pids = cluster.daemons.iter().map(|d| d.manager.main_pids().len());
        pids.sum()
    };
    eventually("all run", async || active() == UNITS).await;
    // Until what they told of it has been written.
    let revision = async || kv.list(PREFIX).await.unwrap().revision;
    let mut last = 0;
    eventually("it is quiet", async || {
        sleep(Duration::from_millis(300)).await;
        let now = revision().await;
        std::mem::replace(&mut last, now) == now
    })
    .await;
    let before = counting.counts.read();
    // Longer than the time to live, in which three daemons renew nine times or more.
    sleep(Duration::from_secs(3)).await;
    let after = counting.counts.read();
    assert_eq!(after.0, before.0, "nothing else is asked of the store");
    let renewals = after.1 - before.1;
    assert!((6..=18).contains(&renewals), "{renewals} renewals");
    assert_eq!(revision().await, last, "and nothing written");
}
