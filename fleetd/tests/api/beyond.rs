//! What is beyond the original: live changes, logs, who one is.

use fleetd::api::JournalReader;
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
    let machine = json!({"id": "m1", "primaryIP": "10.0.0.1", "metadata": {"a": "1"}});
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
async fn a_units_log_is_read_where_it_runs() {
    // A program that shows what it was asked stands where journalctl would.
    let journal = JournalReader {
        command: vec!["/bin/echo".into(), "asked".into()],
        user: false,
    };
    let options = Options {
        journal,
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
    let elsewhere = log("").await;
    assert_eq!(elsewhere.status, 409);
    let message = "the unit runs on machine m2 (10.0.0.2): ask there";
    assert_eq!(elsewhere.json()["error"]["message"], message);
    server.set("job/a.service/schedule", ME).await;
    let here = log("?lines=7").await;
    assert_eq!(here.status, 200);
    assert_eq!(
        here.body,
        "asked --unit=a.service --lines=7 --no-pager --output=short-iso\n"
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
