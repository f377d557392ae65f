//! Where and when units start: after others on other machines, on machines that join, under a leader
//! of the right version; and units of the types that the original took and did not know.

use std::sync::Arc;
use std::time::Duration;

use etcd_kv::testing::EtcdServer;
use etcd_kv::{Kv, MemKv};
use fleet_model::MachineId;
use fleetd::engine::Engine;
use fleetd::metrics::Metrics;
use fleetd::presence::Standing;
use fleetd::registry::Registry;
use tokio::sync::watch;

use crate::harness::{Cluster, eventually};

const PLAIN: &str = "[Service]\nExecStart=/x\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_starts_when_what_it_requires_on_another_machine_is_active() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 2).await;
    let data_base = |program: &str| {
        format!("[Service]\nExecStart={program}\n[X-Fleet]\nMachineMetadata=index=1\n")
    };
    let app = "[Unit]\nRequires=db.service\nAfter=db.service log.service\n[Service]\nExecStart=/x\n\
               [X-Fleet]\nMachineMetadata=index=2\n";
    // One that it starts after and does not need may fail; the other must be active.
    let log = "[Service]\nExecStart=/bin/false\n";
    cluster.put("log.service", log, "launched").await;
    let broken = data_base("/bin/false");
    cluster.put("db.service", &broken, "launched").await;
    cluster.put("app.service", app, "launched").await;
    eventually("app waits, and says for what", async || {
        let path = "/flotilla/v1/explain/app.service";
        let (_, why) = cluster.request(0, "GET", path, None).await;
        let why = why.to_string();
        cluster.starts("db.service") == 1
            && cluster.starts("log.service") == 1
            && why.contains("starts after db.service, which it requires and which is not active")
    })
    .await;
    assert_eq!(cluster.machine_of("app.service").await, None);
    assert_eq!(cluster.starts("app.service"), 0);

    cluster
        .put("db.service", &data_base("/x"), "launched")
        .await;
    let [first, second] = [0, 1].map(|i| &cluster.daemons[i].manager);
    eventually("app runs", async || {
        let runs = second.is_active("app.service");
        assert!(!runs || first.is_active("db.service"), "app came first");
        runs
    })
    .await;
    // What runs goes on when the other one fails.
    cluster.put("db.service", &broken, "launched").await;
    eventually("db has failed again", async || {
        let states = cluster.states_of("db.service").await;
        cluster.starts("db.service") == 3
            && states.iter().any(|s| s["systemdActiveState"] == "failed")
    })
    .await;
    cluster.put("later.service", PLAIN, "launched").await;
    eventually("a later one runs", async || {
        cluster.active().await.contains("later.service")
    })
    .await;
    assert!(second.is_active("app.service"));
    assert_eq!(cluster.starts("app.service"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_joins_gets_as_many_units_as_the_budget_says() {
    for (budget, settings) in [(0, ""), (2, "rebalance_on_join=2\n")] {
        let etcd = EtcdServer::start().await;
        let mut cluster = Cluster::configured(&etcd, 1, settings).await;
        for i in 0..8 {
            cluster
                .put(&format!("u{i}.service"), PLAIN, "launched")
                .await;
        }
        let running = |cluster: &Cluster, index: usize| cluster.daemons[index].manager.main_pids();
        eventually("all run on the only machine", async || {
            running(&cluster, 0).len() == 8
        })
        .await;
        cluster.join().await;
        eventually("the budget is spent", async || {
            running(&cluster, 1).len() == budget && running(&cluster, 0).len() == 8 - budget
        })
        .await;
        // It is still the less loaded one, and nothing moves any more.
        cluster.put("v.service", PLAIN, "launched").await;
        eventually("a new unit goes there", async || {
            running(&cluster, 1).contains_key("v.service")
        })
        .await;
        assert_eq!(running(&cluster, 0).len(), 8 - budget, "budget {budget}");
        assert_eq!(running(&cluster, 1).len(), budget + 1, "budget {budget}");
        for i in 0..8 {
            let name = format!("u{i}.service");
            let moved = usize::from(running(&cluster, 1).contains_key(&name));
            assert_eq!(cluster.starts(&name), 1 + moved, "{name}, budget {budget}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_every_type_are_loaded_once() {
    // Those after the original's own list were loaded anew in each of its agent's passes.
    let types = [
        "service",
        "socket",
        "timer",
        "path",
        "device",
        "mount",
        "automount",
        "target",
        "slice",
        "swap",
        "scope",
        "snapshot",
        "busname",
    ];
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 1).await;
    let name = |kind: &str| format!("x.{kind}");
    for kind in types {
        let text = "[Unit]\nDescription=any\n";
        cluster.put(&name(kind), text, "launched").await;
    }
    eventually("all are active", async || {
        cluster.active().await.len() == types.len()
    })
    .await;
    // Two more passes of the agent, and a new daemon's first one.
    for later in ["y.service", "z.service"] {
        cluster.put(later, PLAIN, "launched").await;
        eventually("a later one runs", async || {
            cluster.active().await.contains(later)
        })
        .await;
        if later == "y.service" {
            cluster.kill(0);
            cluster.revive(0).await;
        }
    }
    for kind in types {
        for verb in ["link", "start"] {
            let what = format!("{verb} {}", name(kind));
            assert_eq!(cluster.asked(0, &what), 1, "{what}");
        }
        assert_eq!(cluster.asked(0, &format!("stop {}", name(kind))), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_of_a_lower_engine_version_does_not_lead() {
    let kv: Arc<dyn Kv> = Arc::new(MemKv::new());
    let registry = Registry::new(kv.clone(), "/f/");
    kv.put("/f/v3/engine/version", "2", None).await.unwrap();
    let hour = Duration::from_secs(3600);
    let (lease, _) = kv.lease_grant(hour, None).await.unwrap();
    let standing = Standing {
        lease: Some(lease),
        healthy: true,
    };
    let (_tell, standing) = watch::channel(standing);
    let engine = Engine {
        registry: registry.clone(),
        me: MachineId::parse("m1").unwrap(),
        standing,
        pause: Duration::from_secs(1),
        join_budget: 0,
        metrics: Arc::new(Metrics::default()),
    };
    tokio::spawn(engine.run());
    let leader = async || kv.get(registry.leader_key()).await.unwrap();
    // Time is simulated: the daemon has looked more than once.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(leader().await, None);
    kv.put("/f/v3/engine/version", "1", None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let held = leader().await.unwrap();
    assert_eq!(held.lease, Some(lease));
    assert!(held.value_str().contains("\"m1\""), "{}", held.value_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_starts_after_a_oneshot_that_it_requires_has_ended() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 2).await;
    let app = "[Unit]\nRequires=migrate.service\nAfter=migrate.service\n[Service]\nExecStart=/x\n";
    // It takes a while, then it has ended; its machine's manager knows it as inactive before and after.
    let migrate = "[Service]\nType=oneshot\nTimeoutStartSec=1\nExecStart=/bin/true\n";
    cluster.put("migrate.service", migrate, "loaded").await;
    eventually("it is loaded", async || {
        cluster.states_of("migrate.service").await.len() == 1
    })
    .await;
    cluster.put("app.service", app, "launched").await;
    eventually("app waits", async || {
        let path = "/flotilla/v1/explain/app.service";
        let (_, why) = cluster.request(0, "GET", path, None).await;
        why.to_string().contains("starts after migrate.service")
    })
    .await;
    assert_eq!(cluster.machine_of("app.service").await, None);
    cluster.target("migrate.service", "launched").await;
    eventually("app runs", async || {
        cluster.active().await.contains("app.service")
    })
    .await;
    let ended = async || {
        let states = cluster.states_of("migrate.service").await;
        states[0]["systemdActiveState"] == "inactive"
    };
    assert!(cluster.starts("migrate.service") == 1 && ended().await);
}
