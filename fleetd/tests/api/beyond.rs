//! What is beyond the original: live changes, logs, who one is.

use std::time::Duration;

use etcd_kv::{Keys, Kv as _, Range};
use fleet_model::MachineId;
use fleetd::logs::{Answerer, JournalReader};
use fleetd::registry::{Mirror, Tail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::harness::{ME, Options, Server, eventually};

const WEB: &str = "[Service]\nExecStart=/bin/web\n";

/// An open stream of events.
struct Events(BufReader<UnixStream>);

impl Events {
    async fn open(server: &Server) -> Self {
        let mut stream = UnixStream::connect(&server.socket).await.unwrap();
        let request = b"GET /flotilla/v1/events HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut events = Self(BufReader::new(stream));
        let (mut head, mut line) = (String::new(), events.line().await);
        while !line.is_empty() {
            head += &line.to_lowercase();
            line = events.line().await;
        }
        assert!(
            head.contains("200 ok") && head.contains("text/event-stream"),
            "{head}"
        );
        events
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The next event; comments and the marks of chunks are skipped.
    async fn next(&mut self) -> (String, Value) {
        loop {
            let line = self.line().await;
            if let Some(kind) = line.strip_prefix("event: ") {
                let data = self.line().await;
                let data = data.strip_prefix("data: ").unwrap();
                return (kind.to_owned(), serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_as_they_happen() {
    let server = Server::start().await;
    let mut first = Events::open(&server).await;
    assert_eq!(first.next().await.0, "reset");
    server.put("a.service", WEB, "launched").await;
    let created =
        json!({"name": "a.service", "desiredState": "launched", "currentState": "inactive"});
    assert_eq!(first.next().await, ("units".into(), created));
    // One who comes later begins with a reset, too, and both go on.
    let mut second = Events::open(&server).await;
    assert_eq!(second.next().await.0, "reset");
    server
        .set(
            "presence/m1",
            r#"{"public_ip":"10.0.0.1","metadata":{"a":"1"}}"#,
        )
        .await;
    let machine = json!({"id": "m1", "ip": "10.0.0.1", "metadata": {"a": "1"}, "cordoned": false,
        "draining": false, "reserved_memory_bytes": 0, "reserved_cpus": 0, "units": 0});
    for events in [&mut first, &mut second] {
        assert_eq!(events.next().await, ("machines".into(), machine.clone()));
    }
    drop(first);
    server
        .ask("DELETE", "/fleet/v1/units/a.service", None)
        .await;
    let removed = json!({"name": "a.service", "removed": true});
    assert_eq!(second.next().await, ("units".into(), removed));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_limited_and_make_room() {
    let server = Server::start().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Events::open(&server).await);
    }
    let refused = server.ask("GET", "/flotilla/v1/events", None).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    open.clear();
    eventually("there is room again", async || {
        let mut stream = UnixStream::connect(&server.socket).await.unwrap();
        let request = b"GET /flotilla/v1/events HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.unwrap();
        line.contains("200")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_units_log_is_read_wherever_it_runs() {
    // A program that shows what it was asked stands where journalctl would.
    let journal = |who: &str| JournalReader {
        command: vec!["/bin/echo".into(), who.into()],
        user: false,
    };
    let options = Options {
        journal: journal("here"),
        ..Options::default()
    };
    let server = Server::with(options).await;
    let log = async |query: &str| {
        let path = format!("/flotilla/v1/units/a.service/journal{query}");
        server.ask("GET", &path, None).await
    };
    assert_eq!(log("").await.status, 404);
    server.put("a.service", WEB, "launched").await;
    assert_eq!(log("").await.status, 409);
    server
        .set("presence/m2", r#"{"public_ip":"10.0.0.2"}"#)
        .await;
    server.set("job/a.service/schedule", "m2").await;
    // A machine whose daemon does not answer; the question does not stay.
    let silent = log("").await;
    assert_eq!(silent.status, 504);
    let message = "machine m2 did not answer within 10 s: ask there (10.0.0.2)";
    assert_eq!(silent.json()["error"]["message"], message);
    let m2 = MachineId::parse("m2").unwrap();
    let left = server.kv.range(Range::new(Keys::prefix("/v3-tail/"))).await;
    assert_eq!(left.unwrap().kvs, []);
    let answerer = Answerer {
        registry: server.registry.clone(),
        mirror: Mirror::start(server.registry.clone()),
        me: m2.clone(),
        journal: journal("there"),
    };
    eventually("m2 is ready", async || answerer.mirror.is_ready()).await;
    tokio::spawn(answerer.run());
    let elsewhere = log("?lines=9").await;
    assert_eq!(elsewhere.status, 200, "{elsewhere:?}");
    assert_eq!(
        elsewhere.body,
        "there --unit=a.service --lines=9 --no-pager --output=short-iso\n"
    );
    // Others' units, what is no unit and what is no question are not answered with anything.
    server.put("b.service", WEB, "launched").await;
    server.set("job/b.service/schedule", ME).await;
    for (unit, lines, why) in [
        ("b.service", 1, "the unit is not here"),
        ("ssh.service", 1, "the unit is not here"),
        ("a.service", 0, "lines is not a number from 1 to 5000"),
        ("a.service", 5001, "lines is not a number from 1 to 5000"),
    ] {
        let tail = Tail {
            unit: unit.into(),
            lines,
        };
        let patience = Duration::from_secs(20);
        let answer = server.registry.ask_tail(&m2, &tail, patience).await;
        assert_eq!(answer.unwrap(), Some(Err(why.into())), "{unit} {lines}");
    }
    server.set("job/a.service/schedule", ME).await;
    let here = log("?lines=7").await;
    assert_eq!(here.status, 200);
    assert_eq!(
        here.body,
        "here --unit=a.service --lines=7 --no-pager --output=short-iso\n"
    );
    for query in ["?lines=0", "?lines=x", "?lines=999999", "?lines="] {
        assert_eq!(log(query).await.status, 400, "{query}");
    }
    server
        .put("g.service", "[X-Fleet]\nGlobal=true\n", "launched")
        .await;
    let global = server
        .ask("GET", "/flotilla/v1/units/g.service/journal", None)
        .await;
    assert_eq!(global.status, 200, "{global:?}");
    assert!(global.body.starts_with("here "), "{global:?}");
    // Of a global unit any machine's; of another one that of its machine.
    for machine in [ME, "machine2"] {
        server.set(&format!("presence/{machine}"), "{}").await;
    }
    let of = async |unit: &str, machine: &str| {
        let path = format!("/flotilla/v1/units/{unit}/journal?machine={machine}");
        server.ask("GET", &path, None).await.status
    };
    assert_eq!(of("g.service", ME).await, 200);
    assert_eq!(of("g.service", "nowhere1").await, 404);
    assert_eq!(of("a.service", ME).await, 200);
    assert_eq!(of("a.service", "machine2").await, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_tells_even_while_etcd_is_away() {
    let server = Server::start().await;
    server.standing.send_modify(|s| s.healthy = false);
    let answer = server.ask("GET", "/flotilla/v1/whoami", None).await;
    assert_eq!(answer.json()["role"], "admin", "{answer:?}");
    assert_eq!(answer.json()["via"], "unix");
    assert_eq!(
        server.ask("POST", "/flotilla/v1/whoami", None).await.status,
        405
    );
    assert_eq!(server.ask("GET", "/ui", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_manager_units_are_kept_and_not_started() {
    let options = Options {
        no_manager: Some("nothing can start it".into()),
        ..Options::default()
    };
    let server = Server::with(options).await;
    let refused = server.put("a.service", WEB, "launched").await;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.json()["error"]["message"], "nothing can start it");
    assert_eq!(server.put("a.service", WEB, "inactive").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_cordoned_drained_and_show_what_they_carry() {
    let server = Server::start().await;
    const M: &str = "/flotilla/v1/machines";
    let machine = async |index: usize| {
        let answer = server.ask("GET", M, None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["machines"][index].clone()
    };
    assert_eq!(
        server.ask("GET", M, None).await.json(),
        json!({"machines": []})
    );
    let record = r#"{"public_ip":"10.0.0.1","metadata":{"a":"1"},"version":"9","memory_bytes":4096,"cpus":2}"#;
    server.set(&format!("presence/{ME}"), record).await;
    server.set("presence/22222222bbbb", "{}").await;
    server.set("presence/22222222cccc", "{}").await;
    let text = "[Service]\nExecStart=/x\n[X-Fleet]\nMemory=1K\nCPU=0.5\n";
    server.put("a.service", text, "launched").await;
    server.put("b.service", text, "inactive").await;
    let global = "[X-Fleet]\nGlobal=true\nMemory=1K\nMachineMetadata=a=1\n";
    server.put("g.service", global, "launched").await;
    for unit in ["a", "b"] {
        server
            .set(&format!("job/{unit}.service/schedule"), ME)
            .await;
    }
    let expect = json!({"id": ME, "ip": "10.0.0.1", "metadata": {"a": "1"}, "version": "9",
        "cordoned": false, "draining": false, "memory_bytes": 4096, "cpus": 2,
        "reserved_memory_bytes": 2048, "reserved_cpus": 0.5, "units": 2});
    assert_eq!(machine(0).await, expect);
    assert_eq!(
        machine(1).await["units"],
        0,
        "a global unit only where it fits"
    );

    let order = async |id: &str, order: &str| {
        server
            .ask("POST", &format!("{M}/{id}/{order}"), None)
            .await
            .status
    };
    for (id, what, status, cordoned, draining) in [
        (ME, "cordon", 204, true, false),
        (&ME[..8], "drain", 204, true, true),
        (&ME[..9], "cordon", 204, true, false),
        (&ME[..7], "uncordon", 404, true, false),
        ("22222222", "drain", 400, true, false),
        ("33333333", "drain", 404, true, false),
        (ME, "uncordon", 204, false, false),
    ] {
        assert_eq!(order(id, what).await, status, "{id} {what}");
        let now = machine(0).await;
        assert_eq!(
            (&now["cordoned"], &now["draining"]),
            (&json!(cordoned), &json!(draining))
        );
    }
    order(ME, "drain").await;
    let kv: &dyn etcd_kv::Kv = &*server.kv;
    let record = kv.get(format!("/v3/cordon/{ME}")).await.unwrap().unwrap();
    let record: Value = serde_json::from_slice(&record.value).unwrap();
    assert!(
        record["by"].as_str().is_some_and(|by| !by.is_empty()),
        "{record}"
    );
    assert!(
        record["since"].as_str().is_some_and(|s| s.ends_with('Z')),
        "{record}"
    );
    // One that has gone while it was cordoned can be let in again.
    kv.delete(etcd_kv::Keys::one(format!("/v3/presence/{ME}")))
        .await
        .unwrap();
    assert_eq!(order(ME, "uncordon").await, 204);
    assert_eq!(order(ME, "cordon").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_to_units_and_to_the_engine() {
    let server = Server::start().await;
    let post = async |path: &str, body: Option<&str>| {
        server
            .ask("POST", &format!("/flotilla/v1/{path}"), body)
            .await
            .status
    };
    let kv: &dyn etcd_kv::Kv = &*server.kv;
    let value = async |key: &str| {
        let kv = kv.get(format!("/v3/{key}")).await.unwrap();
        kv.map(|kv| kv.value_str().into_owned())
    };
    for (body, status, budget) in [
        (None, 202, Some(10)),
        (Some(r#"{"budget":3}"#), 202, Some(3)),
        (Some("{}"), 202, Some(10)),
        (Some(r#"{"budget":0}"#), 400, None),
        (Some(r#"{"budget":-1}"#), 400, None),
        (Some(r#"{"bugdet":1}"#), 400, None),
    ] {
        assert_eq!(post("rebalance", body).await, status, "{body:?}");
        if let Some(budget) = budget {
            let asked: Value = serde_json::from_str(&value("rebalance").await.unwrap()).unwrap();
            assert_eq!(asked["budget"], budget, "{body:?}");
        }
    }
    // Nobody leads here, so the test does what a leader does.
    let asked = async || {
        server
            .ask("GET", "/flotilla/v1/rebalance", None)
            .await
            .json()
    };
    let expect = serde_json::json!({"pending":true,"moved":0,"units":{}});
    assert_eq!(asked().await, expect);
    let record = r#"{"moved":1,"units":{"b.service":"m1"}}"#;
    server.set("moves", record).await;
    kv.delete(etcd_kv::Keys::one("/v3/rebalance"))
        .await
        .unwrap();
    let expect = serde_json::json!({"pending":false,"moved":1,"units":{"b.service":"m1"}});
    assert_eq!(asked().await, expect);
    assert_eq!(post("units/a.service/restart", None).await, 404);
    server.put("a.service", WEB, "launched").await;
    assert_eq!(post("units/a.service/restart", None).await, 202);
    let nonce = value("job/a.service/restart").await.unwrap();
    assert!(nonce.parse::<u64>().unwrap() > 1_000_000_000_000, "{nonce}");

    let result = async || {
        server
            .ask("GET", "/flotilla/v1/units/a.service/result", None)
            .await
    };
    assert_eq!(result().await.status, 404);
    let record = r#"{"outcome":"failure","exit_status":3,"attempts":2,"machine":"m1","finished":"2026-01-01T00:00:00Z"}"#;
    server.set("job/a.service/result", record).await;
    let answer = result().await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        serde_json::from_str::<Value>(record).unwrap()
    );
    for (method, path) in [
        ("PUT", "rebalance"),
        ("POST", "machines"),
        ("GET", "machines/m/cordon"),
        ("GET", "units/a.service/restart"),
        ("POST", "units/a.service/result"),
        ("POST", "events"),
    ] {
        let answer = server
            .ask(method, &format!("/flotilla/v1/{path}"), None)
            .await;
        assert_eq!(answer.status, 405, "{method} {path}");
    }
    for path in [
        "",
        "/",
        "/nosuch",
        "/units",
        "/units/a.service",
        "/machines/m/x",
    ] {
        let answer = server
            .ask("GET", &format!("/flotilla/v1{path}"), None)
            .await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_units_place_is_explained() {
    let server = Server::start().await;
    let explain = async |name: &str| {
        let answer = server
            .ask("GET", &format!("/flotilla/v1/explain/{name}"), None)
            .await;
        (answer.status, answer.json())
    };
    assert_eq!(explain("a.service").await.0, 404);
    assert_eq!(explain("nonsense").await.0, 404);
    server
        .put(
            "a.service",
            "[X-Fleet]\nMachineMetadata=disk=ssd\n",
            "launched",
        )
        .await;
    let (status, nowhere) = explain("a.service").await;
    assert_eq!(status, 200);
    assert_eq!(nowhere["scheduled"], false);
    assert_eq!(nowhere["waiting"], "there are no machines");
    let record = r#"{"public_ip":"10.0.0.1","metadata":{"disk":"ssd"}}"#;
    server.set("presence/m1", record).await;
    server
        .set("presence/m2", r#"{"public_ip":"10.0.0.2"}"#)
        .await;
    server.set("presence/m3", record).await;
    server.set("cordon/m3", "{}").await;
    server.set("job/a.service/schedule", "m1").await;
    server.set_state("a.service", "m1", "launched").await;
    let (_, there) = explain("a.service").await;
    assert_eq!(
        (&there["target"], &there["machine"]),
        (&json!("launched"), &json!("m1"))
    );
    assert!(
        there["reason"].as_str().is_some_and(|r| !r.is_empty()),
        "{there}"
    );
    let verdicts: Vec<_> = there["machines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (
                m["id"].as_str().unwrap(),
                m["fits"] == true,
                m["obstacle"].is_string(),
            )
        })
        .collect();
    assert_eq!(verdicts[0], ("m1", true, false), "{there}");
    let mut rest = verdicts[1..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, [("m2", false, true), ("m3", false, true)], "{there}");
    assert_eq!(there["machines"][0]["ip"], "10.0.0.1");
    // Without a place to go to, it waits, and says for what.
    server
        .put(
            "b.service",
            "[X-Fleet]\nMachineOf=none.service\n",
            "launched",
        )
        .await;
    let (_, waits) = explain("b.service").await;
    assert!(
        waits["waiting"].as_str().unwrap().contains("none.service"),
        "{waits}"
    );
}
