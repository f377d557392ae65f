//! Hostile requests: whatever is sent, the answer is an answer, and the store holds only what a
//! correct client could have put there.

use std::sync::OnceLock;

use etcd_kv::{Keys, Kv, Range};
use fleet_model::{UnitFile, validate_options};
use fleetd::registry::Key;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use crate::harness::{Answer, Server, request};

/// One server for all cases of all properties.
fn server() -> &'static (Runtime, Server) {
    static SERVER: OnceLock<(Runtime, Server)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Server::start());
        (runtime, server)
    })
}

/// Sends a request and judges answer and store.
fn survives(raw: &[u8]) -> Result<Answer, TestCaseError> {
    let (runtime, server) = server();
    runtime.block_on(async {
        let answer = server.raw(raw).await;
        prop_assert!((200..500).contains(&answer.status), "{answer:?}");
        let kv: &dyn Kv = &*server.kv;
        let all = kv.range(Range::new(Keys::prefix(""))).await.unwrap();
        for kv in all.kvs {
            let key = kv.key_str().into_owned();
            match server.registry.read_key(&kv.key) {
                Key::Unit(name) => {
                    // What a file of that name may be called.
                    prop_assert!(!name.as_str().contains('/') && name.as_str().len() > 2);
                    let text = kv.value_str();
                    let file = UnitFile::parse(&text);
                    prop_assert!(file.is_ok(), "{key}: {text}");
                    let file = file.unwrap();
                    prop_assert_eq!(file.to_string(), text.as_ref());
                    prop_assert!(validate_options(&file).is_ok());
                }
                Key::Target(_) => {
                    let target = kv.value_str();
                    prop_assert!(["inactive", "loaded", "launched"].contains(&target.as_ref()));
                }
                Key::Overlay(_, metadata) => {
                    prop_assert!(metadata.bytes().all(|b| b.is_ascii_graphic()));
                    prop_assert!(!kv.value_str().contains(char::is_control));
                }
                Key::Cordon(_) | Key::Restart(_) | Key::Rebalance => {}
                other => prop_assert!(
                    key.starts_with("/v3/format") || key.starts_with("/v3/engine"),
                    "{key} {other:?}"
                ),
            }
        }
        // The next case begins with nothing.
        kv.delete(Keys::prefix("/v3/job/")).await.unwrap();
        kv.delete(Keys::prefix("/v3/metadata/")).await.unwrap();
        Ok(answer)
    })
}

/// Unit names, nearly.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c@.%/\\\\]{0,6}(\\.service|\\.socket|\\.target)?",
        "[a-z]{1,3}(%2e%2e|%2F|%00|%0a|\\.\\.|@|%25){0,3}\\.service",
        "\\PC{0,10}",
    ]
}

fn path_of(name: &str) -> String {
    // What cannot stand in a request line is escaped, as a client would.
    let legal = |b: u8| b.is_ascii_graphic() && !b"\"<>?#{}|^`".contains(&b);
    let bytes = name.bytes();
    bytes
        .map(|b| {
            if legal(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02x}")
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn names(name in name(), method in "GET|PUT|DELETE|POST", state in "inactive|launched|x|") {
        let body = serde_json::json!({
            "options": [{"section": "Service", "name": "ExecStart", "value": "/x"}],
            "desiredState": state,
        });
        for prefix in ["/fleet/v1/units/", "/fleet/v1/state/", "/flotilla/v1/units/"] {
            let path = format!("{prefix}{}", path_of(&name));
            survives(&request(&method, &path, Some(&body.to_string())))?;
        }
    }

    #[test]
    fn options(
        options in prop::collection::vec(
            ("\\PC{0,3}|Service|X-Fleet", "\\PC{0,4}|ExecStart|Conflicts|MachineOf|Global",
             prop_oneof!["\\PC{0,12}", "[a-b\\\\\n\r\u{0}=\\[\\]]{0,12}"]),
            0..5,
        ),
        name in "[a-b]{1}\\.service",
    ) {
        let options: Vec<_> = options.into_iter()
            .map(|(s, n, v)| serde_json::json!({"section": s, "name": n, "value": v}))
            .collect();
        let body = serde_json::json!({"options": options, "desiredState": "inactive"});
        let path = format!("/fleet/v1/units/{name}");
        survives(&request("PUT", &path, Some(&body.to_string())))?;
    }

    #[test]
    fn bodies(
        body in prop_oneof!["\\PC{0,60}", "[\\[\\]{}\":,a-z0-9]{0,40}"],
        (method, path) in prop_oneof![
            Just(("PUT", "/fleet/v1/units/c.service")),
            Just(("PATCH", "/fleet/v1/machines")),
            Just(("POST", "/flotilla/v1/rebalance")),
        ],
    ) {
        survives(&request(method, path, Some(&body)))?;
    }

    #[test]
    fn patches(
        op in "add|remove|replace|x", machine in "[a-c/.]{0,3}|\\PC{0,3}",
        key in "[a-c/._-]{0,4}|\\PC{0,3}", value in "\\PC{0,5}|\n",
    ) {
        let path = format!("/{machine}/metadata/{key}");
        let body = serde_json::json!([{"op": op, "path": path, "value": value}]);
        survives(&request("PATCH", "/fleet/v1/machines", Some(&body.to_string())))?;
    }

    #[test]
    fn tokens_and_filters(
        token in "[A-Za-z0-9_=-]{0,10}|\\PC{0,6}", filter in "\\PC{0,6}|[%&=+a-f0-9]{0,8}",
        resource in "units|state|machines",
    ) {
        let (token, filter) = (path_of(&token), path_of(&filter));
        let path = format!("/fleet/v1/{resource}?nextPageToken={token}&machineID={filter}&unitName={filter}");
        survives(&request("GET", &path, None))?;
    }

    #[test]
    fn anything_below_the_prefixes(
        path in "(/fleet/v1|/v1-alpha|/flotilla/v1|/ui)?(/[a-z%0-9.@]{0,8}){0,4}",
        method in "[A-Z]{3,6}",
    ) {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        survives(&request(&method, &path, None))?;
    }
}

#[test]
fn bytes_that_are_no_request_harm_nobody() {
    let (runtime, server) = server();
    runtime.block_on(async {
        for raw in [
            &b"\0\0\0\0"[..],
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            b"PUT /fleet/v1/units/a.service HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
            b"PUT /fleet/v1/units/a.service HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n",
        ] {
            let answer = server.raw(raw).await;
            assert!(answer.status == 0 || (400..500).contains(&answer.status), "{answer:?}");
        }
        assert_eq!(server.ask("GET", "/fleet/v1/discovery", None).await.status, 200);
    });
}
