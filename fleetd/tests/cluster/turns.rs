//! A global unit's new text, taken over machine by machine.

use etcd_kv::testing::EtcdServer;
use fleet_model::UnitFile;
use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};

const PATH: &str = "/fleet/v1/units/g.service";
const TURNS: &str = "/flotilla/v1/units/g.service/turns";

fn text(version: u32) -> String {
    format!("[Service]\nExecStart=/x {version}\n[X-Fleet]\nGlobal=true\n")
}

fn body(text: &str) -> Value {
    let file = UnitFile::parse(text).unwrap();
    json!({"options": file.options(), "desiredState": "launched"})
}

/// Starts of the unit on each machine.
fn starts(cluster: &Cluster) -> Vec<usize> {
    let count = |log: Vec<String>| log.iter().filter(|l| *l == "start g.service").count();
    let daemons = cluster.daemons.iter();
    daemons.map(|d| count(d.manager.log())).collect()
}

async fn fresh(cluster: &Cluster, version: u32) -> usize {
    let hash = UnitFile::parse(&text(version)).unwrap().hash();
    let states = cluster.states_of("g.service").await;
    let active = states
        .iter()
        .filter(|s| s["systemdActiveState"] == "active");
    active.filter(|s| s["hash"] == hash.as_str()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_text_that_is_rolled_out_waits_for_each_machines_turn() {
    let etcd = EtcdServer::start().await;
    let mut cluster = Cluster::start(&etcd, 3).await;
    let ids = cluster.ids();
    cluster.put("g.service", &text(1), "launched").await;
    eventually("all run the first", async || fresh(&cluster, 1).await == 3).await;
    assert_eq!(cluster.request(0, "GET", TURNS, None).await.0, 404);

    let rolling = format!("{PATH}?rolling=true");
    let (status, answer) = cluster
        .request(0, "PUT", &rolling, Some(body(&text(2))))
        .await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(
        cluster.request(0, "GET", TURNS, None).await.1["machines"],
        json!([])
    );
    let give = async |cluster: &Cluster, machine: &str| {
        let turn = json!({"machines": [machine]});
        let (status, answer) = cluster.request(0, "POST", TURNS, Some(turn)).await;
        assert_eq!(status, 204, "{answer}");
    };
    give(&cluster, &ids[1]).await;
    eventually("one has it", async || fresh(&cluster, 2).await == 1).await;
    assert_eq!(starts(&cluster), [1, 2, 1]);

    // Neither a daemon that comes back nor a wish of another kind is a turn.
    cluster.kill(2);
    cluster.revive(2).await;
    cluster
        .put("later.service", "[Service]\nExecStart=/x\n", "launched")
        .await;
    eventually("a later one runs", async || {
        cluster.active().await.contains("later.service")
    })
    .await;
    assert_eq!(starts(&cluster), [1, 2, 1]);
    assert_eq!(fresh(&cluster, 1).await, 2);
    // A machine without it takes the new text at once.
    cluster.add_with_id(&format!("{:08}{:024}", 9, 9));
    eventually("the new machine has it", async || {
        fresh(&cluster, 2).await == 2
    })
    .await;

    give(&cluster, &ids[2]).await;
    eventually("the next has it", async || fresh(&cluster, 2).await == 3).await;
    assert_eq!(starts(&cluster), [1, 2, 2, 1]);
    assert_eq!(cluster.request(0, "DELETE", TURNS, None).await.0, 204);
    eventually("the rest has it", async || fresh(&cluster, 2).await == 4).await;
    assert_eq!(starts(&cluster), [2, 2, 2, 1]);
    assert_eq!(cluster.request(0, "DELETE", TURNS, None).await.0, 404);

    // A text that is not rolled out ends one that is.
    let (status, _) = cluster
        .request(0, "PUT", &rolling, Some(body(&text(3))))
        .await;
    assert_eq!(status, 201);
    cluster.put("g.service", &text(4), "launched").await;
    eventually("all have the fourth", async || {
        fresh(&cluster, 4).await == 4
    })
    .await;
    assert_eq!(starts(&cluster), [3, 3, 3, 2]);

    for (method, path, body, status) in [
        (
            "PUT",
            "/fleet/v1/units/g.service?rolling=perhaps",
            body(&text(5)),
            400,
        ),
        (
            "PUT",
            "/fleet/v1/units/one.service?rolling=true",
            body("[Service]\nExecStart=/x\n"),
            400,
        ),
        ("PUT", &rolling, json!({"desiredState": "launched"}), 400),
        ("POST", TURNS, json!({"machines": [ids[0]]}), 404),
        (
            "POST",
            "/flotilla/v1/units/none.service/turns",
            json!({"machines": []}),
            404,
        ),
        ("POST", TURNS, json!({"machines": ["../x"]}), 400),
        ("POST", TURNS, json!({"machine": ids[0]}), 400),
    ] {
        let said = format!("{method} {path} {body}");
        assert_eq!(
            cluster.request(0, method, path, Some(body)).await.0,
            status,
            "{said}"
        );
    }
}
