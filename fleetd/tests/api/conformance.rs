//! The contract of API v1, one row per rule. `cargo test -p fleetd --test api -- --nocapture`
//! prints the table.

use serde_json::{Value, json};

use crate::harness::{Answer, ME, Server, request, unit_body};

const WEB: &str = "[Service]\nExecStart=/bin/web\n";
const OTHER: &str = "[Service]\nExecStart=/bin/other\n";

/// What an answer must be.
enum Expect {
    /// No body at all.
    Empty,
    /// Exactly this.
    Json(Value),
    /// An error whose message contains this.
    Error(&'static str),
    /// An error with an empty message.
    NoMessage,
    /// A body that contains this.
    Text(&'static str),
}
use Expect::{Empty, Error, Json, NoMessage, Text};

/// Runs rows in order and keeps the table.
struct Table<'a> {
    server: &'a Server,
    lines: Vec<String>,
}

impl Table<'_> {
    async fn row(
        &mut self,
        section: &str,
        rule: &str,
        (method, path, body): (&str, &str, Option<&str>),
        status: u16,
        expect: Expect,
    ) {
        let raw = request(method, path, body);
        let answer = self.raw(section, rule, &raw, status, expect).await;
        // The older prefix is the same thing.
        if method == "GET" && path.starts_with("/fleet/v1") {
            let older = path.replacen("/fleet/v1", "/v1-alpha", 1);
            let same = self.server.ask(method, &older, body).await;
            assert_eq!(
                (same.status, same.body),
                (answer.status, answer.body),
                "{older}"
            );
        }
    }

    async fn raw(
        &mut self,
        section: &str,
        rule: &str,
        raw: &[u8],
        status: u16,
        expect: Expect,
    ) -> Answer {
        let answer = self.server.raw(raw).await;
        let line = String::from_utf8_lossy(raw);
        let line = line
            .lines()
            .next()
            .unwrap_or("")
            .trim_end_matches(" HTTP/1.1");
        let context = format!("§{section} {rule}: {line}\n{answer:?}");
        assert_eq!(answer.status, status, "{context}");
        let server = format!("server: fleetd/{}", fleetd::VERSION);
        assert!(answer.head.contains(&server), "{context}");
        let head = line.starts_with("HEAD");
        let error = |message: &str| {
            let value = answer.json();
            assert_eq!(value["error"]["code"], status, "{context}");
            let said = value["error"]["message"].as_str().unwrap_or("?").to_owned();
            assert!(said.contains(message), "{context}");
            said
        };
        match expect {
            _ if head => assert_eq!(answer.body, "", "{context}"),
            Empty => assert_eq!(answer.body, "", "{context}"),
            Json(value) => {
                assert_eq!(answer.json(), value, "{context}");
                assert!(
                    answer.head.contains("content-type: application/json"),
                    "{context}"
                );
            }
            Error(message) => drop(error(message)),
            NoMessage => assert_eq!(error(""), "", "{context}"),
            Text(part) => assert!(answer.body.contains(part), "{context}"),
        }
        self.lines
            .push(format!("| {section} | {rule} | `{line}` | {status} |"));
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_as_the_contract_says() {
    let server = Server::start().await;
    let mut table = Table {
        server: &server,
        lines: Vec::new(),
    };
    paths(&mut table).await;
    content(&mut table).await;
    names(&mut table).await;
    units(&mut table).await;
    states(&mut table).await;
    machines(&mut table).await;
    discovery(&mut table).await;
    paging(&mut table).await;
    unhealthy(&mut table).await;
    println!("| § | rule | request | status |\n|---|---|---|---|");
    table.lines.iter().for_each(|line| println!("{line}"));
}

async fn paths(t: &mut Table<'_>) {
    for method in ["GET", "PUT", "POST", "DELETE", "HEAD"] {
        t.row(
            "9",
            "the root allows nothing",
            (method, "/", None),
            405,
            NoMessage,
        )
        .await;
        t.row(
            "9",
            "nor does the prefix",
            (method, "/fleet/v1", None),
            405,
            NoMessage,
        )
        .await;
    }
    for path in [
        "/x",
        "/fleet",
        "/fleet/v1/",
        "/fleet/v1/nosuch",
        "/fleet/v1/units/",
        "/fleet/v1/units/a.service/b",
        "/fleet/v1/units/a%2Fb.service",
        "/fleet/v1/state/a/b",
        "/fleet/v1//units",
        "/fleet/v2/units",
        "/v1-alpha/",
    ] {
        t.row(
            "9",
            "any unknown path is 404",
            ("GET", path, None),
            404,
            NoMessage,
        )
        .await;
    }
    for (path, methods) in [
        (
            "units",
            &["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"][..],
        ),
        ("units/a.service", &["POST", "PATCH", "HEAD", "OPTIONS"]),
        ("state", &["POST", "PUT", "DELETE", "HEAD"]),
        ("state/a.service", &["POST", "PUT", "DELETE", "HEAD"]),
        ("machines", &["POST", "PUT", "DELETE", "HEAD"]),
    ] {
        for method in methods {
            let path = format!("/fleet/v1/{path}");
            t.row(
                "9",
                "other methods are 405",
                (method, &path, None),
                405,
                NoMessage,
            )
            .await;
        }
    }
    for path in ["units", "state", "machines"] {
        let path = format!("/fleet/v1/{path}");
        t.row(
            "9",
            "an empty page is {}",
            ("GET", &path, None),
            200,
            Json(json!({})),
        )
        .await;
    }
    let metrics = Text("# TYPE fleet_engine_leader_start_time gauge");
    t.row(
        "8",
        "metrics as text",
        ("GET", "/metrics", None),
        200,
        metrics,
    )
    .await;
}

async fn content(t: &mut Table<'_>) {
    let put = |headers: &str, body: &str| {
        format!(
            "PUT /fleet/v1/units/a.service HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let json = "Content-Type: application/json\r\n";
    for (rule, headers, body, status, message) in [
        ("no Content-Type", "", "{}", 415, "application/json"),
        (
            "another Content-Type",
            "Content-Type: text/plain\r\n",
            "{}",
            415,
            "application/json",
        ),
        (
            "two Content-Types",
            &format!("{json}{json}"),
            "{}",
            415,
            "application/json",
        ),
        (
            "415 comes before the body",
            "",
            "nonsense",
            415,
            "application/json",
        ),
        (
            "parameters are allowed",
            "Content-Type: application/json; charset=utf-8\r\n",
            "{}",
            409,
            "options field empty",
        ),
        (
            "a body that does not decode",
            json,
            "nonsense",
            400,
            "unable to decode body",
        ),
        (
            "a body of another shape",
            json,
            r#"{"options":7}"#,
            400,
            "unable to decode body",
        ),
        (
            "the body's name is the path's",
            json,
            r#"{"name":"b.service","desiredState":"inactive"}"#,
            400,
            "differs from unit name",
        ),
    ] {
        let raw = put(headers, body);
        t.raw("9 PUT", rule, raw.as_bytes(), status, Error(message))
            .await;
    }
}

async fn names(t: &mut Table<'_>) {
    let long = format!("{}.service", "a".repeat(249));
    for (name, message) in [
        (long.as_str(), "exceeds maximum length (256)"),
        ("foo", "must contain \".\""),
        ("foo.", "cannot end in \".\""),
        ("foo.nope", "invalid unit type: \"nope\""),
        ("foo@1.mount", "invalid unit type for template: \"mount\""),
        ("fo%20o.service", "invalid character ' '"),
        ("f%C3%A9.service", "invalid character"),
        ("@x.service", "cannot start in \"@\""),
    ] {
        let path = format!("/fleet/v1/units/{name}");
        let body = unit_body(WEB, "inactive");
        t.row(
            "2",
            "names are checked",
            ("PUT", &path, Some(&body)),
            400,
            Error(message),
        )
        .await;
        let missing = Error("unit does not exist");
        t.row(
            "9",
            "nobody has a bad name",
            ("DELETE", &path, None),
            404,
            missing,
        )
        .await;
    }
    let body = unit_body(WEB, "");
    for name in [".service", "a.target", "b.slice", "a@1@2.timer"] {
        let path = format!("/fleet/v1/units/{name}");
        t.row(
            "2",
            "odd names that are fine",
            ("PUT", &path, Some(&body)),
            201,
            Empty,
        )
        .await;
        t.row(
            "9",
            "a unit is destroyed",
            ("DELETE", &path, None),
            204,
            Empty,
        )
        .await;
    }
}

async fn units(t: &mut Table<'_>) {
    const A: &str = "/fleet/v1/units/a.service";
    let put = |body: &str| body.to_owned();
    let missing = || Error("unit does not exist");
    t.row("9", "an unknown unit", ("GET", A, None), 404, missing())
        .await;
    t.row("9", "an unknown unit", ("DELETE", A, None), 404, missing())
        .await;
    let launch = put(r#"{"desiredState":"launched"}"#);
    let empty = Error("unit does not exist and options field empty");
    t.row(
        "9 PUT (a)",
        "unknown, no options",
        ("PUT", A, Some(&launch)),
        409,
        empty,
    )
    .await;
    for (options, message) in [
        (
            "MachineOf=b.service\nConflicts=b*",
            "unresolvable requirements",
        ),
        (
            "MachineOf=b.service\nReplaces=b*",
            "unresolvable requirements",
        ),
        ("MachineID=x\nMachineOf=b.service", "Peers"),
        ("MachineID=x\nConflicts=b", "Conflicts"),
        ("MachineID=x\nGlobal=true", "Global"),
        ("MachineID=x\nReplaces=b", "Replaces"),
        ("Global=true\nMachineOf=b.service", "Peers"),
        ("Global=true\nReplaces=b", "Replaces"),
        ("Conflicts=b\nReplaces=c", "Replaces"),
    ] {
        let body = unit_body(&format!("[X-Fleet]\n{options}\n"), "inactive");
        let rule = "combinations that cannot be";
        t.row("3", rule, ("PUT", A, Some(&body)), 400, Error(message))
            .await;
    }
    let body = put(r#"{"options":[{"section":"S","name":"n","value":"v"}],"desiredState":"up"}"#);
    let bad = || Error("invalid state \"up\"");
    t.row(
        "9 PUT FIX",
        "create with a bad state",
        ("PUT", A, Some(&body)),
        400,
        bad(),
    )
    .await;
    let hostile = put(r#"{"options":[{"section":"S","name":"n","value":"v\n[Service]"}]}"#);
    let refused = Error("a line end in a value");
    t.row(
        "1",
        "options must survive as text",
        ("PUT", A, Some(&hostile)),
        400,
        refused,
    )
    .await;

    let create = unit_body(WEB, "");
    t.row("9 PUT (a)", "create", ("PUT", A, Some(&create)), 201, Empty)
        .await;
    let unit = |desired: &str, command: &str| {
        json!({"name": "a.service", "desiredState": desired, "currentState": "inactive",
               "options": [{"section": "Service", "name": "ExecStart", "value": command}]})
    };
    let web = Json(unit("inactive", "/bin/web"));
    t.row(
        "9",
        "no state given is inactive",
        ("GET", A, None),
        200,
        web,
    )
    .await;
    let none = Error("must provide desiredState");
    t.row(
        "9 PUT (c)",
        "same options, no state",
        ("PUT", A, Some(&create)),
        409,
        none,
    )
    .await;
    t.row(
        "9 PUT (c)",
        "only a state",
        ("PUT", A, Some(&launch)),
        204,
        Empty,
    )
    .await;
    let web = Json(unit("launched", "/bin/web"));
    t.row(
        "9 PUT (c)",
        "the state is stored",
        ("GET", A, None),
        200,
        web,
    )
    .await;
    let same = unit_body(WEB, "loaded");
    t.row(
        "9 PUT (c)",
        "same options, a state",
        ("PUT", A, Some(&same)),
        204,
        Empty,
    )
    .await;
    let cosmetic = put(
        r#"{"options":[{"section":"Service","name":"ExecStart","value":" /bin/web "}],"desiredState":"launched"}"#,
    );
    t.row(
        "1",
        "cosmetic edits change no hash",
        ("PUT", A, Some(&cosmetic)),
        204,
        Empty,
    )
    .await;
    let body = put(r#"{"desiredState":"up"}"#);
    t.row(
        "9 PUT FIX",
        "update with a bad state",
        ("PUT", A, Some(&body)),
        400,
        bad(),
    )
    .await;
    let web = Json(unit("launched", "/bin/web"));
    t.row(
        "9 PUT FIX",
        "and the unit is unharmed",
        ("GET", A, None),
        200,
        web,
    )
    .await;
    let other = unit_body(OTHER, "");
    t.row(
        "9 PUT (b)",
        "other options replace",
        ("PUT", A, Some(&other)),
        201,
        Empty,
    )
    .await;
    let replaced = Json(unit("inactive", "/bin/other"));
    t.row(
        "9 PUT (b)",
        "and reset the state",
        ("GET", A, None),
        200,
        replaced,
    )
    .await;
    let bad = unit_body("[X-Fleet]\nMachineID=x\nGlobal=true\n", "");
    let combination = Error("Global");
    t.row(
        "9 PUT FIX",
        "combinations here too",
        ("PUT", A, Some(&bad)),
        400,
        combination,
    )
    .await;
    let unknown = unit_body("[X-Fleet]\nNoSuch=1\nMachineBootID=x\n", "");
    t.row(
        "3",
        "unknown keys are taken silently",
        ("PUT", A, Some(&unknown)),
        201,
        Empty,
    )
    .await;
    t.row("9", "DELETE", ("DELETE", A, None), 204, Empty).await;
    t.row("9", "only once", ("DELETE", A, None), 404, missing())
        .await;

    const T: &str = "/fleet/v1/units/t@.service";
    let template = || Error("cannot activate template");
    let body = unit_body(WEB, "launched");
    t.row(
        "3 FIX",
        "no template is created launched",
        ("PUT", T, Some(&body)),
        400,
        template(),
    )
    .await;
    t.row(
        "3",
        "a template may be stored",
        ("PUT", T, Some(&create)),
        201,
        Empty,
    )
    .await;
    for state in ["loaded", "launched"] {
        let body = format!(r#"{{"desiredState":"{state}"}}"#);
        t.row(
            "3",
            "and not activated",
            ("PUT", T, Some(&body)),
            400,
            template(),
        )
        .await;
    }
    let instance = "/fleet/v1/units/t@1.service";
    let empty = Error("options field empty");
    t.row(
        "3",
        "the API makes no instances",
        ("PUT", instance, Some(&launch)),
        409,
        empty,
    )
    .await;
    t.row("9", "DELETE", ("DELETE", T, None), 204, Empty).await;

    // What the current state is made of.
    t.row(
        "9",
        "create",
        ("PUT", A, Some(&body_of("launched"))),
        201,
        Empty,
    )
    .await;
    let current = |state: &str, machine: Option<&str>| {
        let mut unit = unit("launched", "/bin/web");
        unit["currentState"] = state.into();
        if let Some(machine) = machine {
            unit["machineID"] = machine.into();
        }
        Json(unit)
    };
    t.server.set("job/a.service/schedule", ME).await;
    let here = current("inactive", Some(ME));
    t.row(
        "1",
        "scheduled, no state: inactive",
        ("GET", A, None),
        200,
        here,
    )
    .await;
    t.server.set_state("a.service", ME, "loaded").await;
    let here = current("loaded", Some(ME));
    t.row("1", "a state: loaded", ("GET", A, None), 200, here)
        .await;
    t.server.set_state("a.service", ME, "launched").await;
    let here = current("launched", Some(ME));
    t.row("1", "started: launched", ("GET", A, None), 200, here)
        .await;
    t.server.set("job/a.service/schedule", "m9").await;
    let there = current("inactive", Some("m9"));
    t.row(
        "1",
        "another's state does not count",
        ("GET", A, None),
        200,
        there,
    )
    .await;
    let global = unit_body("[X-Fleet]\nGlobal=true\n", "launched");
    t.row(
        "1",
        "create",
        ("PUT", "/fleet/v1/units/g.service", Some(&global)),
        201,
        Empty,
    )
    .await;
    let unit = json!({"name": "g.service", "desiredState": "launched",
        "options": [{"section": "X-Fleet", "name": "Global", "value": "true"}]});
    let path = "/fleet/v1/units/g.service";
    t.row(
        "1",
        "global units have no current state",
        ("GET", path, None),
        200,
        Json(unit),
    )
    .await;
    for path in [A, path] {
        t.row("9", "DELETE", ("DELETE", path, None), 204, Empty)
            .await;
    }
}

fn body_of(target: &str) -> String {
    unit_body(WEB, target)
}

async fn states(t: &mut Table<'_>) {
    let state = |unit: &str, machine: &str| {
        json!({"name": unit, "hash": "abc", "machineID": machine, "systemdLoadState": "loaded",
               "systemdActiveState": "active", "systemdSubState": "running"})
    };
    for (unit, machine) in [
        ("b.service", "m2"),
        ("b.service", "m1"),
        ("c.service", "m1"),
    ] {
        t.server.set_state(unit, machine, "launched").await;
    }
    // A machine that is about to take a unit has said nothing of it yet.
    t.server.set_state("a.service", "m0", "claimed").await;
    let kv: &dyn etcd_kv::Kv = &*t.server.kv;
    kv.delete(etcd_kv::Keys::one(format!("/v3/state/a.service/{ME}")))
        .await
        .unwrap();
    let page = |states: &[(&str, &str)]| json!({"states": states.iter().map(|(u, m)| state(u, m)).collect::<Vec<_>>()});
    let mut first = page(&[("b.service", "m1"), ("b.service", "m2")]);
    first["nextPageToken"] = "AgACAA==".into();
    const S: &str = "/fleet/v1/state";
    t.row(
        "9",
        "sorted by unit, then machine",
        ("GET", S, None),
        200,
        Json(first.clone()),
    )
    .await;
    let second = page(&[("c.service", "m1")]);
    let path = format!("{S}?nextPageToken=AgACAA%3D%3D");
    t.row(
        "9",
        "the next page",
        ("GET", &path, None),
        200,
        Json(second),
    )
    .await;
    let mut m1 = page(&[("b.service", "m1"), ("c.service", "m1")]);
    m1["nextPageToken"] = "AgACAA==".into();
    let empty = json!({});
    for (query, expect) in [
        ("machineID=m1", m1),
        ("machineID=m2", page(&[("b.service", "m2")])),
        ("machineID=m2&machineID=m1", page(&[("b.service", "m2")])),
        ("unitName=c.service", page(&[("c.service", "m1")])),
        (
            "unitName=b.service&machineID=m2",
            page(&[("b.service", "m2")]),
        ),
        ("unitName=b.serv", empty.clone()),
        ("unitName=nonsense", empty.clone()),
        ("unitName=x.service", empty.clone()),
        ("machineID=m", empty),
        ("unitName=&machineID=", first),
    ] {
        let path = format!("{S}?{query}");
        t.row(
            "9",
            "exact filters before paging",
            ("GET", &path, None),
            200,
            Json(expect),
        )
        .await;
    }
    let first = Json(state("b.service", "m1"));
    t.row(
        "9",
        "the first machine's",
        ("GET", "/fleet/v1/state/b.service", None),
        200,
        first,
    )
    .await;
    for name in ["x.service", "nonsense", "a.service"] {
        let path = format!("/fleet/v1/state/{name}");
        let missing = Error("unit state does not exist");
        t.row(
            "9 FIX",
            "an unknown unit is 404",
            ("GET", &path, None),
            404,
            missing,
        )
        .await;
    }
}

async fn machines(t: &mut Table<'_>) {
    let record = r#"{"public_ip":"10.0.0.2","metadata":{"a":"1","b":"2"},"version":"1"}"#;
    t.server.set("presence/m2", record).await;
    t.server
        .set("presence/m1", r#"{"public_ip":"10.0.0.1"}"#)
        .await;
    const M: &str = "/fleet/v1/machines";
    let page = |metadata: Value| {
        let mut two = json!({"id": "m2", "primaryIP": "10.0.0.2"});
        if metadata != json!({}) {
            two["metadata"] = metadata;
        }
        let one = json!({"id": "m1", "primaryIP": "10.0.0.1"});
        Json(json!({"machines": [one, two], "nextPageToken": "AgACAA=="}))
    };
    let before = page(json!({"a": "1", "b": "2"}));
    t.row("9", "machines by ID", ("GET", M, None), 200, before)
        .await;
    for (patch, message) in [
        (r#"{"op":"add"}"#, "unable to decode body"),
        (
            r#"[{"op":"move","path":"/m2/metadata/a","value":"1"}]"#,
            "invalid op",
        ),
        (
            r#"[{"op":"add","path":"/m2/other/a","value":"1"}]"#,
            "invalid path",
        ),
        (
            r#"[{"op":"add","path":"/m2/metadata/a/b","value":"1"}]"#,
            "invalid path",
        ),
        (
            r#"[{"op":"add","path":"/m2/metadata/a b","value":"1"}]"#,
            "invalid path",
        ),
        (
            r#"[{"op":"add","path":"/m2/metadata/","value":"1"}]"#,
            "invalid path",
        ),
        (
            r#"[{"op":"add","path":"/m2/metadata/a","value":""}]"#,
            "invalid value",
        ),
        (
            r#"[{"op":"replace","path":"/m2/metadata/a"}]"#,
            "invalid value",
        ),
        (
            r#"[{"op":"add","path":"/m2/metadata/a","value":"x"},{"op":"x","path":"/m2/metadata/a"}]"#,
            "invalid op",
        ),
    ] {
        t.row(
            "9 PATCH",
            "all are validated first",
            ("PATCH", M, Some(patch)),
            400,
            Error(message),
        )
        .await;
    }
    let unchanged = page(json!({"a": "1", "b": "2"}));
    t.row(
        "9 PATCH",
        "and nothing was applied",
        ("GET", M, None),
        200,
        unchanged,
    )
    .await;
    let wrapped = r#"[{"op":"add","path":"/m2/metadata/c.d_-","value":{"value":"3"}}]"#;
    t.row(
        "9 PATCH",
        "the value wrapped",
        ("PATCH", M, Some(wrapped)),
        204,
        Empty,
    )
    .await;
    let bare = r#"[{"op":"replace","path":"/m2/metadata/a","value":"x"},
                   {"op":"add","path":"/m2/metadata/a","value":"y"},
                   {"op":"remove","path":"/m2/metadata/b"}]"#;
    t.row(
        "9 PATCH FIX",
        "the value as documented",
        ("PATCH", M, Some(bare)),
        204,
        Empty,
    )
    .await;
    let after = page(json!({"a": "y", "c.d_-": "3"}));
    t.row(
        "9 PATCH",
        "in order; remove hides",
        ("GET", M, None),
        200,
        after,
    )
    .await;
    let absent = r#"[{"op":"add","path":"/m7/metadata/a","value":"1"}]"#;
    t.row(
        "9 PATCH",
        "the machine need not exist",
        ("PATCH", M, Some(absent)),
        204,
        Empty,
    )
    .await;
    // What was said of it holds when it comes, and when it has gone and comes again.
    let key = "/v3/presence/m7";
    for rule in ["and has it when it comes", "and when it comes again"] {
        t.server
            .set("presence/m7", r#"{"public_ip":"10.0.0.7"}"#)
            .await;
        let m7 = json!({"id": "m7", "primaryIP": "10.0.0.7", "metadata": {"a": "1"}});
        let path = format!("{M}?nextPageToken=AgACAA==");
        let page = Json(json!({"machines": [m7]}));
        t.row("1", rule, ("GET", &path, None), 200, page).await;
        let kv: &dyn etcd_kv::Kv = &*t.server.kv;
        kv.delete(etcd_kv::Keys::one(key)).await.unwrap();
    }
    let raw = format!(
        "PATCH {M} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]"
    );
    t.raw(
        "9 PATCH",
        "no Content-Type is asked for",
        raw.as_bytes(),
        204,
        Empty,
    )
    .await;
}

async fn discovery(t: &mut Table<'_>) {
    const D: &str = "/fleet/v1/discovery";
    for method in ["POST", "PUT", "DELETE", "HEAD"] {
        t.row(
            "9",
            "discovery: other methods are 400",
            (method, D, None),
            400,
            Error(""),
        )
        .await;
    }
    t.row(
        "9",
        "discovery",
        ("GET", D, None),
        200,
        Text("\"rootUrl\": \"$ENDPOINT/\""),
    )
    .await;
    let document = t.server.ask("GET", D, None).await.json();
    assert_eq!(document["id"], "fleet:v1");
    let methods = |resource: &str| {
        let methods = document["resources"][resource]["methods"]
            .as_object()
            .unwrap();
        methods.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(methods("Machines"), ["List"]);
    assert_eq!(methods("Units"), ["Delete", "Get", "List", "Set"]);
    assert_eq!(methods("UnitState"), ["Get", "List"]);
    // What it describes is there, and what it refers to is in it.
    let text = document.to_string();
    for name in text
        .split("\"$ref\":\"")
        .skip(1)
        .filter_map(|r| r.split('"').next())
    {
        assert!(document["schemas"][name].is_object(), "{name}");
    }
    for resource in document["resources"].as_object().unwrap().values() {
        for method in resource["methods"].as_object().unwrap().values() {
            let path = method["path"]
                .as_str()
                .unwrap()
                .replace("{unitName}", "none.service");
            let path = format!("{}{path}", document["basePath"].as_str().unwrap());
            let answer = t
                .server
                .ask(method["httpMethod"].as_str().unwrap(), &path, None)
                .await;
            assert_ne!(answer.status, 405, "{path}");
            assert!(
                answer.status != 404 || answer.body.contains("does not exist"),
                "{path}"
            );
        }
    }
}

async fn paging(t: &mut Table<'_>) {
    for name in ["p1", "p2", "p3", "p4"] {
        t.server.put(&format!("{name}.service"), WEB, "").await;
    }
    const U: &str = "/fleet/v1/units";
    let page = async |path: &str| {
        let answer = t.server.ask("GET", path, None).await;
        let value = answer.json();
        let names: Vec<String> = value["units"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|u| {
                u["name"]
                    .as_str()
                    .unwrap()
                    .trim_end_matches(".service")
                    .to_owned()
            })
            .collect();
        let token = value["nextPageToken"].as_str().unwrap_or("").to_owned();
        (names.join(" "), token)
    };
    let (mut path, mut pages) = (U.to_owned(), Vec::new());
    loop {
        let (names, token) = page(&path).await;
        pages.push(names);
        if token.is_empty() {
            break;
        }
        path = format!("{U}?nextPageToken={token}");
    }
    assert_eq!(
        pages,
        ["p1 p2", "p3 p4", ""],
        "a full page has a successor, even if empty"
    );
    let beyond = format!("{U}?nextPageToken=AgAJAA==");
    t.row(
        "9 paging",
        "beyond the end is empty",
        ("GET", &beyond, None),
        200,
        Json(json!({})),
    )
    .await;
    for resource in ["units", "state", "machines"] {
        for (query, rule) in [
            ("nextPageToken=", "an empty token"),
            ("nextPageToken", "a token without a value"),
            ("nextPageToken=!!", "a token that does not decode"),
            ("nextPageToken=AgACAA", "a token without its padding"),
            ("nextPageToken=AgACAAA=", "a token of another length"),
            ("nextPageToken=AwACAA==", "another limit"),
            ("nextPageToken=AgAAAA==", "page 0"),
            (
                "nextPageToken=AgACAA==&nextPageToken=AgACAA==",
                "two tokens",
            ),
        ] {
            let path = format!("/fleet/v1/{resource}?{query}");
            let error = Error("nextPageToken");
            t.row("9 paging", rule, ("GET", &path, None), 400, error)
                .await;
        }
    }
}

async fn unhealthy(t: &mut Table<'_>) {
    t.server.standing.send_modify(|s| s.healthy = false);
    let lost = || Error("fleet server unable to communicate with etcd");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/fleet/v1/units"),
        ("DELETE", "/fleet/v1/units/p1.service"),
        ("GET", "/fleet/v1/discovery"),
        ("GET", "/metrics"),
        ("GET", "/nosuch"),
    ] {
        t.row(
            "9",
            "503 while not registered",
            (method, path, None),
            503,
            lost(),
        )
        .await;
    }
    t.server.standing.send_modify(|s| s.healthy = true);
    t.server.kv.set_offline(true);
    let answer = t.server.ask("GET", "/fleet/v1/state", None).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    t.server.kv.set_offline(false);
}
