//! Whole daemons on a real etcd, each with a pretended service manager: scheduling, life of a unit,
//! loss and return of machines and of etcd, and the HTTP API.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod counting;
mod discovery;
mod failures;
mod harness;
mod life;
mod placing;
mod pretend;
mod restore;
mod secured;
mod trial;
mod turns;

use std::time::Duration;

use etcd_kv::testing::EtcdServer;
use harness::{Cluster, eventually};
use serde_json::{Value, json};

const WEB: &str = "[Service]\nExecStart=/bin/web\n[X-Fleet]\nConflicts=web@*.service\n";
const SIDEKICK: &str = "[Service]\nExecStart=/bin/announce\n[X-Fleet]\nMachineOf=web@%i.service\n";

#[tokio::test(flavor = "multi_thread")]
async fn units_are_placed_started_stopped_and_destroyed() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 3).await;
    for i in 1..=4 {
        cluster
            .put(&format!("web@{i}.service"), WEB, "launched")
            .await;
        cluster
            .put(&format!("side@{i}.service"), SIDEKICK, "launched")
            .await;
    }
    // Three run, each with its sidekick beside it; the fourth pair waits.
    eventually("three pairs are active", async || {
        cluster.active().await.len() == 6
    })
    .await;
    for i in 1..=3 {
        let (web, side) = (format!("web@{i}.service"), format!("side@{i}.service"));
        assert_eq!(
            cluster.machine_of(&web).await,
            cluster.machine_of(&side).await
        );
    }
    let (_, four) = cluster
        .request(0, "GET", "/fleet/v1/units/web@4.service", None)
        .await;
    assert_eq!(four["currentState"], "inactive");
    assert_eq!(four.get("machineID"), None);

    // A place is freed: destroy stops the unit, and the waiting one takes over.
    let (status, _) = cluster
        .request(1, "DELETE", "/fleet/v1/units/web@2.service", None)
        .await;
    assert_eq!(status, 204);
    eventually("web@4 takes the place", async || {
        let active = cluster.active().await;
        active.contains("web@4.service")
            && active.contains("side@4.service")
            && !active.contains("web@2.service")
            && !active.contains("side@2.service")
    })
    .await;

    // Stop and start leave the unit where it is.
    let before = cluster.machine_of("web@1.service").await;
    cluster.target("web@1.service", "loaded").await;
    eventually("web@1 is stopped", async || {
        !cluster.active().await.contains("web@1.service")
    })
    .await;
    let (_, one) = cluster
        .request(2, "GET", "/fleet/v1/units/web@1.service", None)
        .await;
    assert_eq!(
        (&one["currentState"], &one["desiredState"]),
        (&json!("loaded"), &json!("loaded"))
    );
    cluster.target("web@1.service", "launched").await;
    eventually("web@1 runs again", async || {
        cluster.active().await.contains("web@1.service")
    })
    .await;
    assert_eq!(cluster.machine_of("web@1.service").await, before);

    // Inactive takes it off, its sidekick included.
    cluster.target("web@1.service", "inactive").await;
    eventually("web@1 and its sidekick are gone", async || {
        let active = cluster.active().await;
        !active.contains("web@1.service") && !active.contains("side@1.service")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_machines_units_move_and_the_rest_stays() {
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 3).await;
    cluster.put("web@1.service", WEB, "launched").await;
    cluster.put("web@2.service", WEB, "launched").await;
    cluster
        .put(
            "all.service",
            "[Service]\nExecStart=/x\n[X-Fleet]\nGlobal=true\n",
            "launched",
        )
        .await;
    eventually("all run", async || {
        cluster.active().await.len() == 3 && cluster.states_of("all.service").await.len() == 3
    })
    .await;
    let victim = cluster.machine_of("web@1.service").await.unwrap();
    let other = cluster.machine_of("web@2.service").await;
    let starts = cluster.starts("web@2.service");
    let index = cluster.index(&victim);
    // One that nobody else can run.
    let text = format!("[Service]\nExecStart=/x\n[X-Fleet]\nMachineID={victim}\n");
    cluster.put("own.service", &text, "launched").await;
    eventually("it runs", async || {
        cluster.active().await.contains("own.service")
    })
    .await;
    cluster.kill(index);
    let before = cluster.daemons[index].manager.log();
    let pids = cluster.daemons[index].manager.main_pids();
    let killed = std::time::Instant::now();
    let survivor = usize::from(index == 0);
    eventually("web@1 runs elsewhere", async || {
        let place = cluster.machine_from(survivor, "web@1.service").await;
        place.is_some_and(|m| m != victim)
            && cluster
                .active_from(survivor)
                .await
                .contains("web@1.service")
    })
    .await;
    // The time to live is 2 s.
    assert!(
        killed.elapsed() < Duration::from_secs(6),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(cluster.machine_from(survivor, "web@2.service").await, other);
    assert_eq!(
        cluster.starts("web@2.service"),
        starts,
        "web@2 was not touched"
    );
    let path = "/fleet/v1/state?unitName=all.service";
    let (_, page) = cluster.request(survivor, "GET", path, None).await;
    let left = page["states"].as_array().unwrap().len();
    assert_eq!(left, 2, "states go with their machine's lease");
    // The machine comes back with an old copy running, and lets go of it, and of nothing else.
    cluster.revive(index).await;
    eventually("the old copy is stopped", async || {
        !cluster.daemons[index].manager.is_active("web@1.service")
            && cluster.states_of("all.service").await.len() == 3
    })
    .await;
    eventually("all that shall run does", async || {
        let active = cluster.active().await;
        active.contains("web@1.service") && active.contains("own.service")
    })
    .await;
    let log = cluster.daemons[index].manager.log();
    let new: Vec<_> = log[before.len()..]
        .iter()
        // The leader took it off a machine that was gone, and had no other: it comes back anew.
        .filter(|l| *l != "reload" && !l.ends_with(" own.service"))
        .collect();
    assert_eq!(new, ["stop web@1.service"], "nothing else was touched");
    let now = cluster.daemons[index].manager.main_pids();
    assert_eq!(now["all.service"], pids["all.service"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_restarted_daemon_adopts_everything() {
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 1).await;
    cluster
        .put("a.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    cluster
        .put("b.service", "[Service]\nExecStart=/x\n", "loaded")
        .await;
    eventually("a runs and b is loaded", async || {
        cluster.active().await.contains("a.service")
            && !cluster.states_of("b.service").await.is_empty()
    })
    .await;
    let before = cluster.daemons[0].manager.log();
    cluster.kill(0);
    cluster.revive(0).await;
    cluster
        .put("c.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    eventually("c runs", async || {
        cluster.active().await.contains("c.service")
    })
    .await;
    let log = cluster.daemons[0].manager.log();
    let new: Vec<_> = log[before.len()..]
        .iter()
        .filter(|l| !l.contains("c.service"))
        .collect();
    assert!(new.iter().all(|l| l.as_str() == "reload"), "{new:?}");
    assert!(cluster.active().await.contains("a.service"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_stops_at_its_old_place_before_it_starts_at_the_new_one() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 2).await;
    // The pretended manager takes as long to stop it as the unit says.
    let text = "[Service]\nExecStart=/x\nTimeoutStopSec=1\n[X-Fleet]\nMachineMetadata=role=b\n";
    let (ids, patch) = (
        cluster.ids(),
        |id: &str, op: &str, value: &str| json!([{"op": op, "path": format!("/{id}/metadata/role"), "value": value}]),
    );
    let (status, _) = cluster
        .request(
            0,
            "PATCH",
            "/fleet/v1/machines",
            Some(patch(&ids[0], "add", "b")),
        )
        .await;
    assert_eq!(status, 204);
    cluster.put("m.service", text, "launched").await;
    eventually("m runs", async || {
        cluster.active().await.contains("m.service")
    })
    .await;
    assert_eq!(
        cluster.machine_of("m.service").await.as_deref(),
        Some(ids[0].as_str())
    );
    for (id, op) in [(&ids[1], "add"), (&ids[0], "remove")] {
        cluster
            .request(0, "PATCH", "/fleet/v1/machines", Some(patch(id, op, "b")))
            .await;
    }
    let (first, second) = (&cluster.daemons[0].manager, &cluster.daemons[1].manager);
    eventually("m runs at its new place", async || {
        assert!(
            !(first.is_active("m.service") && second.is_active("m.service")),
            "twice at once"
        );
        second.is_active("m.service")
    })
    .await;
    eventually("that is published", async || {
        cluster.states_of("m.service").await.len() == 1
            && cluster.active().await.contains("m.service")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_etcd_stops_nothing_and_the_api_says_so() {
    let mut etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 2).await;
    cluster
        .put("a.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    cluster
        .put(
            "g.service",
            "[Service]\nExecStart=/x\n[X-Fleet]\nGlobal=true\n",
            "launched",
        )
        .await;
    eventually("both run", async || {
        cluster.active().await.len() == 2 && cluster.states_of("g.service").await.len() == 2
    })
    .await;
    let logs: Vec<_> = cluster.daemons.iter().map(|d| d.manager.log()).collect();
    etcd.kill().await;
    eventually("the API says 503", async || {
        cluster.request(0, "GET", "/fleet/v1/units", None).await.0 == 503
    })
    .await;
    // Longer than the time to live.
    tokio::time::sleep(Duration::from_secs(3)).await;
    etcd.resume().await;
    eventually("all is back", async || {
        cluster.request(0, "GET", "/fleet/v1/units", None).await.0 == 200
            && cluster.active().await.len() == 2
            && cluster.states_of("g.service").await.len() == 2
    })
    .await;
    for (daemon, before) in cluster.daemons.iter().zip(logs) {
        assert_eq!(
            daemon.manager.log(),
            before,
            "nothing was stopped or started"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_unit_does_not_starve_the_others() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 1).await;
    cluster
        .put(
            "a-refused.service",
            "[Service]\nExecStart=refuse-link\n",
            "launched",
        )
        .await;
    cluster
        .put(
            "b-fails.service",
            "[Service]\nExecStart=/bin/false\n",
            "launched",
        )
        .await;
    let enabled = "[Service]\nExecStart=/x\n[Install]\nWantedBy=refuse-enable\n";
    cluster.put("b-enabled.service", enabled, "launched").await;
    cluster
        .put("c-good.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    eventually("c runs and b has failed", async || {
        cluster.active().await.contains("c-good.service")
            && cluster
                .states_of("b-fails.service")
                .await
                .first()
                .is_some_and(|s| s["systemdActiveState"] == "failed")
    })
    .await;
    // Launched means that the start was asked for.
    let (_, b) = cluster
        .request(0, "GET", "/fleet/v1/units/b-fails.service", None)
        .await;
    assert_eq!(b["currentState"], "launched");
    let (_, a) = cluster
        .request(0, "GET", "/fleet/v1/units/a-refused.service", None)
        .await;
    assert_eq!(a["currentState"], "inactive");
    // What cannot be enabled is taken back and not started.
    eventually("its file is gone", async || {
        let manager = &cluster.daemons[0].manager;
        cluster.asked(0, "enable b-enabled.service") > 0
            && !cluster.file(0, "b-enabled.service").exists()
            && !manager.is_active("b-enabled.service")
    })
    .await;
    assert_eq!(cluster.starts("b-enabled.service"), 0);
    use std::os::unix::fs::PermissionsExt as _;
    let good = std::fs::metadata(cluster.file(0, "c-good.service")).unwrap();
    assert_eq!(good.permissions().mode() & 0o777, 0o644);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_text_and_an_install_section_take_effect() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 1).await;
    cluster
        .put(
            "a.service",
            "[Service]\nExecStart=/one\n[Install]\nWantedBy=x.target\n",
            "launched",
        )
        .await;
    eventually("a runs", async || {
        cluster.active().await.contains("a.service")
    })
    .await;
    assert!(
        cluster.daemons[0]
            .manager
            .log()
            .contains(&"enable a.service".to_owned())
    );
    let hash = cluster.states_of("a.service").await[0]["hash"].clone();
    let status = cluster
        .put("a.service", "[Service]\nExecStart=/two\n", "launched")
        .await;
    assert_eq!(status, 201);
    eventually("the new one runs", async || {
        let states = cluster.states_of("a.service").await;
        states
            .first()
            .is_some_and(|s| s["hash"] != hash && s["systemdActiveState"] == "active")
    })
    .await;
    assert_eq!(cluster.starts("a.service"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_machine_with_the_same_id_stays_out() {
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 1).await;
    cluster.add_with_id(&cluster.ids()[0].clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        cluster
            .request(1, "GET", "/fleet/v1/machines", None)
            .await
            .0,
        503
    );
    assert_eq!(
        cluster
            .request(0, "GET", "/fleet/v1/machines", None)
            .await
            .0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_daemon_unloads_and_leaves_and_a_restarted_one_does_not() {
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 2).await;
    cluster
        .put("a.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    eventually("a runs", async || {
        cluster.active().await.contains("a.service")
    })
    .await;
    let index = cluster.index(&cluster.machine_of("a.service").await.unwrap());
    let starts = cluster.starts("a.service");
    cluster.daemons[index].manager.set_own_job(Some("restart"));
    cluster.end(index).await;
    assert!(cluster.daemons[index].manager.is_active("a.service"));
    cluster.revive(index).await;
    eventually("a still runs", async || {
        cluster.active().await.contains("a.service")
    })
    .await;
    assert_eq!(cluster.starts("a.service"), starts);

    cluster.daemons[index].manager.set_own_job(Some("stop"));
    cluster.end(index).await;
    assert!(!cluster.daemons[index].manager.is_active("a.service"));
    let other = 1 - index;
    let stopped = std::time::Instant::now();
    eventually("a runs on the other machine", async || {
        cluster.active_from(other).await.contains("a.service")
    })
    .await;
    assert!(
        stopped.elapsed() < Duration::from_secs(1),
        "no time to live to wait for"
    );
    let (_, machines) = cluster
        .request(other, "GET", "/fleet/v1/machines", None)
        .await;
    assert_eq!(machines["machines"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_keeps_to_its_contract() {
    let etcd = EtcdServer::start().await;
    let cluster = Cluster::start(&etcd, 1).await;
    let options = |text: &str| {
        let file = fleet_model::UnitFile::parse(text).unwrap();
        serde_json::to_value(file.options()).unwrap()
    };
    let simple = options("[Service]\nExecStart=/x\n");
    let put = async |name: &str, body: Value| {
        cluster
            .request(0, "PUT", &format!("/fleet/v1/units/{name}"), Some(body))
            .await
            .0
    };
    for (name, body, expect) in [
        ("new.service", json!({"desiredState": "launched"}), 409),
        (
            "new.service",
            json!({"name": "other.service", "options": simple}),
            400,
        ),
        ("bad", json!({"options": simple}), 400),
        ("b%20d.service", json!({"options": simple}), 400),
        (
            "new.service",
            json!({"options": simple, "desiredState": "nonsense"}),
            400,
        ),
        (
            "new.service",
            json!({"options": options("[X-Fleet]\nGlobal=true\nMachineID=x\n")}),
            400,
        ),
        (
            "new.service",
            json!({"options": [{"section": "S", "name": "a", "value": "b\nc=d"}]}),
            400,
        ),
        (
            "new@.service",
            json!({"options": simple, "desiredState": "launched"}),
            400,
        ),
        (
            "new@.service",
            json!({"options": simple, "desiredState": "inactive"}),
            201,
        ),
        ("new@.service", json!({"desiredState": "loaded"}), 400),
        (
            "new.service",
            json!({"options": simple, "desiredState": "inactive"}),
            201,
        ),
        (
            "new.service",
            json!({"options": simple, "desiredState": "inactive"}),
            204,
        ),
        ("new.service", json!({"options": simple}), 409),
        ("new.service", json!({}), 409),
        ("new.service", json!({"desiredState": "x"}), 400),
        ("new.service", json!({"desiredState": "inactive"}), 204),
        (
            "new.service",
            json!({"options": options("[Service]\nExecStart=/y\n")}),
            201,
        ),
        ("new.service", json!("nonsense"), 400),
    ] {
        assert_eq!(put(name, body.clone()).await, expect, "PUT {name} {body}");
    }
    for (method, path, expect) in [
        ("GET", "/", 405),
        ("GET", "/fleet/v1", 405),
        ("GET", "/fleet/v1/", 404),
        ("GET", "/fleet/v1/units/", 404),
        ("GET", "/fleet/v1/units/a/b", 404),
        ("GET", "/nonsense", 404),
        ("POST", "/fleet/v1/units", 405),
        ("POST", "/fleet/v1/units/new.service", 405),
        ("PUT", "/fleet/v1/machines", 405),
        ("DELETE", "/fleet/v1/state", 405),
        ("GET", "/v1-alpha/units/new.service", 200),
        ("GET", "/fleet/v1/units/none.service", 404),
        ("DELETE", "/fleet/v1/units/none.service", 404),
        ("GET", "/fleet/v1/state/none.service", 404),
        ("GET", "/fleet/v1/units?nextPageToken=x", 400),
        ("DELETE", "/fleet/v1/units/new%40.service", 204),
    ] {
        let (status, body) = cluster.request(0, method, path, None).await;
        assert_eq!(status, expect, "{method} {path}");
        if expect >= 400 {
            assert_eq!(body["error"]["code"], expect, "{method} {path}");
        }
    }
    // A PUT needs to say that it is JSON.
    let raw = cluster
        .raw(
            0,
            "PUT /fleet/v1/units/n.service HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
        )
        .await;
    assert!(
        raw.starts_with("HTTP/1.0 415") && raw.contains("server: fleetd/"),
        "{raw}"
    );

    // Pages.
    for i in 0..105 {
        cluster
            .put(
                &format!("p{i:03}.service"),
                "[Service]\nExecStart=/x\n",
                "inactive",
            )
            .await;
    }
    let (_, first) = cluster.request(0, "GET", "/fleet/v1/units", None).await;
    assert_eq!(first["units"].as_array().unwrap().len(), 100);
    let token = first["nextPageToken"].as_str().unwrap().replace('=', "%3D");
    let path = format!("/fleet/v1/units?nextPageToken={token}");
    let (_, second) = cluster.request(0, "GET", &path, None).await;
    assert_eq!(second["units"].as_array().unwrap().len(), 6);
    assert_eq!(second.get("nextPageToken"), None);

    // Metadata, in both forms; wrong ones change nothing.
    let id = &cluster.ids()[0];
    let patch = |value: Value| {
        json!([
            {"op": "add", "path": format!("/{id}/metadata/a"), "value": value},
        ])
    };
    for (body, expect) in [
        (patch(json!("1")), 204),
        (patch(json!({"value": "2"})), 204),
        (patch(json!("")), 400),
        (
            json!([{"op": "remove", "path": format!("/{id}/metadata/index")}]),
            204,
        ),
        (
            json!([{"op": "nonsense", "path": format!("/{id}/metadata/a")}]),
            400,
        ),
    ] {
        let status = cluster
            .request(0, "PATCH", "/fleet/v1/machines", Some(body.clone()))
            .await
            .0;
        assert_eq!(status, expect, "{body}");
    }
    let (_, machines) = cluster.request(0, "GET", "/fleet/v1/machines", None).await;
    assert_eq!(machines["machines"][0]["metadata"], json!({"a": "2"}));
    assert_eq!(machines["machines"][0]["primaryIP"], "10.0.0.1");
}
