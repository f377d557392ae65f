//! The programs against a real etcd: the output and exit status of each verb are those measured on etcd 3.4's v2 mode.
//! Needs /usr/bin/etcd (package etcd-server).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Output, Stdio};

use etcd_kv::testing::{EtcdServer, Pki};

const CTL: &str = env!("CARGO_BIN_EXE_etcdctl");
const LAUNCH: &str = env!("CARGO_BIN_EXE_etcd-launch");

fn run(url: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(CTL)
        .args(["--endpoints", url])
        .args(args)
        .env_remove("ETCDCTL_API")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl");
    // It may not want any.
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    child.wait_with_output().expect("wait")
}

/// Runs a line; `[N]` at the end of an error stands for the store's revision.
#[track_caller]
fn check(url: &str, line: &str, code: i32, stdout: &str, stderr: &str) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let output = run(url, &args, "");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut err = String::from_utf8_lossy(&output.stderr)
        .trim_end()
        .to_owned();
    if let Some((text, revision)) = err.rsplit_once(" [")
        && revision
            .strip_suffix(']')
            .is_some_and(|r| r.parse::<u64>().is_ok())
    {
        err = format!("{text} [N]");
    }
    assert_eq!(
        (output.status.code(), out.as_str(), err.as_str()),
        (Some(code), stdout, stderr),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_wants_certificate_and_user_lets_us_in() {
    let pki = Pki::new("authority");
    let server = EtcdServer::start_strict(&pki).await;
    server
        .enable_auth(&pki.files(Some("client")), "app", "/app")
        .await;
    let url = server.url();
    let file = |kind: &str, name: &str| format!("--{kind}-file={}", pki.text(name));
    let (ca, cert, key) = (
        file("ca", "ca.pem"),
        file("cert", "client.pem"),
        file("key", "client.key"),
    );
    let all = format!("{ca} {cert} {key}");
    let root = format!("{all} --username root:secret");
    check(&url, &format!("{root} set /app/k 1"), 0, "1\n", "");
    check(&url, &format!("get /app/k {all} -u app:word"), 0, "1\n", "");
    let healthy = run(
        &url,
        &root
            .split(' ')
            .chain(["cluster-health"])
            .collect::<Vec<_>>(),
        "",
    );
    assert!(healthy.status.success(), "{healthy:?}");
    let mut by_environment = Command::new(CTL);
    by_environment
        .args(["--endpoints", &url, "get", "/app/k"])
        .env("ETCDCTL_CA_FILE", pki.path("ca.pem"))
        .env("ETCDCTL_CERT_FILE", pki.path("client.pem"))
        .env("ETCDCTL_KEY_FILE", pki.path("client.key"))
        .env("ETCDCTL_USERNAME", "app:word");
    assert_eq!(by_environment.output().expect("run").stdout, b"1\n");

    let refused = |line: &str, code: i32, what: &str| {
        let args: Vec<&str> = line.split(' ').collect();
        let output = run(&url, &args, "");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {err}");
        assert!(err.contains(what), "{line}: {err}");
    };
    refused(
        &format!("get /other/k {all} -u app:word"),
        4,
        "permission denied",
    );
    refused(
        &format!("get /app/k {all} -u app:wrong"),
        4,
        "authentication failed",
    );
    refused(&format!("get /app/k {ca}"), 2, "want a client certificate");
    refused("get /app/k", 2, "the server's certificate is refused");
    refused(
        &format!("get /app/k {ca} {cert}"),
        1,
        "is of no use without a key file",
    );
    let other = Pki::new("other");
    let stranger = format!("--ca-file={}", other.text("ca.pem"));
    refused(&format!("get /app/k {stranger}"), 2, "UnknownIssuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_are_those_of_v2() {
    let server = EtcdServer::start().await;
    let url = server.url();
    let ok = |line: &str, out: &str| check(&url, line, 0, out, "");
    let no = |line: &str, text: &str| check(&url, line, 4, "", &format!("Error:  {text} [N]"));
    ok("set /a 1", "1\n");
    ok("set b/c 2", "2\n");
    ok("get a", "1\n");
    ok("get /b/c --quorum", "2\n");
    no("get nope", "100: Key not found (/nope)");
    check(&url, "get b", 1, "", "/b: is a directory");
    ok("set a 2 --ttl 100", "2\n");
    no("set b x", "102: Not a file (/b)");
    no("set a/b x", "104: Not a directory (/a)");
    no(
        "set a 3 --swap-with-value 9",
        "101: Compare failed ([9 != 2])",
    );
    ok("set a 3 --swap-with-value 2", "3\n");
    no("mk a 1", "105: Key already exists (/a)");
    ok("mk n 5", "5\n");
    ok("mk n2 5 --ttl 10", "5\n");
    ok("update n 6", "6\n");
    no("update zz 1", "100: Key not found (/zz)");
    ok("ls", "/a\n/b\n/n\n/n2\n");
    ok("ls b", "/b/c\n");
    ok("ls -p", "/a\n/b/\n/n\n/n2\n");
    ok("ls -r -p", "/a\n/b/\n/b/c\n/n\n/n2\n");
    ok("ls --sort --recursive /", "/a\n/b\n/b/c\n/n\n/n2\n");
    no("ls nope", "100: Key not found (/nope)");
    ok("ls a", "/a\n");
    ok("mkdir dd", "");
    no("mkdir dd", "105: Key already exists (/dd)");
    no("mkdir b/c", "105: Key already exists (/b/c)");
    no("setdir dd", "102: Not a file (/dd)");
    ok("setdir d3", "");
    ok("setdir b/c", "");
    ok("updatedir dd --ttl 50", "");
    no("updatedir nope --ttl 5", "100: Key not found (/nope)");
    ok("ls -p", "/a\n/b/\n/d3/\n/dd/\n/n\n/n2\n");
    ok("rm a", "PrevNode.Value: 3\n");
    no("rm a", "100: Key not found (/a)");
    no("rm b", "102: Not a file (/b)");
    ok("rm -r b", "");
    no("rm d3", "102: Not a file (/d3)");
    ok("rm d3 --dir", "");
    ok("rmdir dd", "");
    no("rm n --with-value 9", "101: Compare failed ([9 != 6])");
    ok("rmdir n", "PrevNode.Value: 6\n");
    no("rmdir nope", "100: Key not found (/nope)");
    ok("set q/w/e 1", "1\n");
    no("rmdir q", "108: Directory not empty (/q)");
    no("rm q", "102: Not a file (/q)");
    no("rm -r nope", "100: Key not found (/nope)");
    ok("set x -5", "-5\n");
    ok("set -- x --y", "--y\n");
    ok("ls q/w", "/q/w/e\n");
    check(&url, "set", 1, "", "Error:  key required");
    check(&url, "set x", 1, "", "Error:  value required");
    check(&url, "get", 1, "", "Error:  key required");
    check(&url, "nosuch", 3, "", "No help topic for 'nosuch'");
    assert_eq!(run(&url, &["set", "fromstdin"], "5\n").stdout, b"5\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_formats_and_the_cluster() {
    let server = EtcdServer::start().await;
    let url = server.url();
    let text = |args: &[&str]| String::from_utf8(run(&url, args, "").stdout).expect("text");
    assert_eq!(
        text(&["-o", "extended", "set", "x", "1"]),
        "Key: /x\nCreated-Index: 2\nModified-Index: 2\nTTL: 0\nIndex: 2\n\n1\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&text(&["-o", "json", "set", "x", "2", "--ttl", "60"])).expect("JSON");
    assert_eq!(
        (json["action"].as_str(), json["node"]["value"].as_str()),
        (Some("set"), Some("2"))
    );
    assert_eq!(json["prevNode"]["value"], "1");
    assert!(
        json["node"]["ttl"]
            .as_i64()
            .is_some_and(|ttl| (50..=60).contains(&ttl)),
        "{json}"
    );
    let json: serde_json::Value = serde_json::from_str(&text(&["-o", "json", "ls"])).expect("JSON");
    assert_eq!(json["node"]["nodes"][0]["key"], "/x");
    assert!(text(&["mk", "--in-order", "queue", "job"]).starts_with("job"));
    assert_eq!(text(&["ls", "queue"]).trim().len(), "/queue/".len() + 20);
    let members = text(&["member", "list"]);
    assert!(
        members.contains(" clientURLs=") && members.trim_end().ends_with("isLeader=true"),
        "{members}"
    );
    let health = text(&["cluster-health"]);
    assert!(
        health.ends_with("cluster is healthy\n") && health.contains("got healthy result from"),
        "{health}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_ttl_leaves_one_lease() {
    let server = EtcdServer::start().await;
    let url = server.url();
    let kv = std::sync::Arc::new(server.client()) as std::sync::Arc<dyn etcd_kv::Kv>;
    let mut before = None;
    for n in 0..3 {
        assert!(
            run(&url, &["set", "/s/1", &n.to_string(), "--ttl", "60"], "")
                .status
                .success()
        );
        let lease = kv
            .get("/s/1")
            .await
            .expect("get")
            .expect("there")
            .lease
            .expect("leased");
        if let Some(before) = before {
            assert_ne!(lease, before);
            let old = kv.lease_info(before, false).await;
            assert!(
                old.is_err() || old.is_ok_and(|info| info.ttl <= 0),
                "the old lease is gone"
            );
        }
        before = Some(lease);
    }
    // A lease that has other keys is somebody's.
    let (shared, _) = kv
        .lease_grant(std::time::Duration::from_secs(60), None)
        .await
        .expect("grant");
    kv.put("/mine", "1", Some(shared)).await.expect("put");
    kv.put("/s/2", "1", Some(shared)).await.expect("put");
    assert!(run(&url, &["set", "/s/2", "2"], "").status.success());
    assert!(kv.get("/mine").await.expect("get").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_print_and_run() {
    let server = EtcdServer::start().await;
    let url = server.url();
    let start = |args: &[&str]| -> Child {
        Command::new(CTL)
            .args(["--endpoints", &url])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("etcdctl")
    };
    // From an index on, so that the test need not know when the watch has begun.
    run(&url, &["set", "/w/a", "1"], "");
    run(&url, &["set", "/wx", "no"], "");
    run(&url, &["rm", "/w/a"], "");
    let one = start(&["watch", "/w/a", "--after-index", "2"])
        .wait_with_output()
        .expect("wait");
    assert_eq!(
        (
            one.status.code(),
            String::from_utf8_lossy(&one.stdout).as_ref()
        ),
        (Some(0), "1\n")
    );
    let mut all = start(&["watch", "-r", "-f", "/w", "--after-index", "2"]);
    let mut lines = BufReader::new(all.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("read");
    assert_eq!(
        [next(), next(), next(), next()],
        ["[set] /w/a", "1", "[delete] /w/a", "PrevNode.Value: 1"]
    );
    all.kill().expect("kill");
    all.wait().expect("wait");
    let script =
        "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_MODIFIED_INDEX";
    let mut exec = start(&[
        "exec-watch",
        "-r",
        "--after-index",
        "2",
        "/w",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let mut lines = BufReader::new(exec.stdout.take().expect("piped")).lines();
    // One command for each change, side by side.
    let mut both = [(); 2].map(|()| lines.next().expect("a line").expect("read"));
    both.sort();
    assert_eq!(both, ["delete /w/a 4", "set /w/a 1 2"]);
    exec.kill().expect("kill");
    exec.wait().expect("wait");
}

#[test]
fn without_a_server_the_status_is_2() {
    // A port that nobody listens on: bound and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("port")
        .port();
    let output = run(&format!("http://127.0.0.1:{port}"), &["get", "x"], "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.starts_with("Error:  client: etcd cluster is unavailable or misconfigured"),
        "{error}"
    );
    assert!(
        error.contains(&format!("127.0.0.1:{port}")) && error.contains("\nhint: is etcd running"),
        "{error}"
    );
    // Nobody there is nobody there, over TLS too.
    let output = run(&format!("https://127.0.0.1:{port}"), &["get", "x"], "");
    assert_eq!(output.status.code(), Some(2));
}

/// What etcd-launch says and how it exits, on settings that cannot be and on a port that is taken.
#[test]
fn bad_settings_are_named_with_their_variable() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = taken.local_addr().expect("address");
    let url = format!("http://{taken}");
    for (settings, words) in [
        (
            &[("ETCD_PROXY", "on")][..],
            "ETCD_PROXY=on needs ETCD_INITIAL_CLUSTER",
        ),
        (
            &[("ETCD_PROXY", "maybe")],
            "ETCD_PROXY=maybe: one of on, readonly, off",
        ),
        (
            &[("ETCD_LISTEN_CLIENT_URLS", "foo")],
            "ETCD_LISTEN_CLIENT_URLS: \"foo\" is not an URL",
        ),
        (
            &[
                ("ETCD_PROXY", "on"),
                ("ETCD_INITIAL_CLUSTER", "a=http://127.0.0.1:1"),
                ("ETCD_LISTEN_CLIENT_URLS", &url),
            ],
            &format!("failed to listen on {taken}: Address already in use"),
        ),
    ] {
        let mut command = Command::new(LAUNCH);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let output = command
            .envs(settings.iter().copied())
            .output()
            .expect("etcd-launch");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{settings:?}: {error}");
        assert!(
            error.contains(words) && error.contains("\nhint: "),
            "{settings:?}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_finds_the_members_through_a_peer() {
    let port = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("port")
            .port()
    };
    let dir = tempfile::tempdir().expect("temp dir");
    let notify = UnixDatagram::bind(dir.path().join("notify")).expect("bind");
    notify
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .expect("timeout");
    let (client, peer, front) = (port(), port(), port());
    let ready = |what: &str| {
        let mut buffer = [0; 1024];
        loop {
            match notify.recv(&mut buffer) {
                Ok(n) if buffer[..n].windows(7).any(|w| w == b"READY=1") => return,
                Ok(_) => {}
                // A socket with a time-out is never waited on again by the kernel after a signal, and the servers of
                // other tests end in this process too.
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(err) => panic!("{what} is not ready: {err}"),
            }
        }
    };
    let start = |settings: &[(&str, String)]| -> Stopped {
        let mut command = Command::new(LAUNCH);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.env("NOTIFY_SOCKET", dir.path().join("notify"));
        for (name, value) in settings {
            command.env(name, value);
        }
        Stopped(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("etcd-launch"),
        )
    };
    // A member, by names of 0.4.
    let member = start(&[
        ("ETCD_ADDR", format!("127.0.0.1:{client}")),
        ("ETCD_PEER_ADDR", format!("127.0.0.1:{peer}")),
        (
            "ETCD_DATA_DIR",
            dir.path().join("data").display().to_string(),
        ),
        ("ETCD_TRACE", "x".to_owned()),
    ]);
    ready("the member");
    // It is etcd by now, and keeps its history short.
    let environment = std::fs::read(format!("/proc/{}/environ", member.0.id())).expect("environ");
    let kept = |pair: &[u8]| pair == b"ETCD_AUTO_COMPACTION_RETENTION=1h";
    assert!(environment.split(|b| *b == 0).any(kept));
    let proxy = start(&[
        ("ETCD_PROXY", "on".to_owned()),
        (
            "ETCD_INITIAL_CLUSTER",
            format!("gone=http://127.0.0.1:1,a=http://127.0.0.1:{peer}"),
        ),
        (
            "ETCD_LISTEN_CLIENT_URLS",
            format!("http://127.0.0.1:{front}"),
        ),
    ]);
    ready("the proxy");
    let url = format!("http://127.0.0.1:{front}");
    check(&url, "set /through/the proxy", 0, "proxy\n", "");
    check(
        &format!("http://127.0.0.1:{client}"),
        "get /through/the",
        0,
        "proxy\n",
        "",
    );
    drop((member, proxy));
}

/// A child that ends with the test.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
