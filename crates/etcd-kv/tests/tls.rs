//! TLS, client certificates, users and passwords against a real etcd.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::testing::{EtcdServer, Pki, ServerOptions, conformance};
use etcd_kv::{
    Credentials, EtcdConfig, EtcdKv, Keys, Kv, KvError, Tls, TlsError, TlsFiles, WatchRequest,
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn client(url: &str, files: &TlsFiles, user: Option<(&str, &str)>) -> Arc<dyn Kv> {
    let mut config = EtcdConfig::new(&[url]).unwrap();
    config.tls = files.is_set().then(|| Tls::load(files).unwrap());
    config.credentials = user.map(|(user, password)| Credentials {
        user: user.into(),
        password: password.into(),
    });
    Arc::new(EtcdKv::new(config))
}

const ROOT: &str = "--user=root:secret";

#[tokio::test]
async fn etcd_conforms_over_tls_with_certificate_user_and_password() {
    let pki = Pki::new("authority");
    let server = EtcdServer::start_strict(&pki).await;
    let url = server.url();
    let files = pki.files(Some("client"));
    server.enable_auth(&files, "app", "app/").await;
    let kv = client(&url, &pki.files(Some("client")), Some(("root", "secret")));
    conformance(kv).await;
}

#[tokio::test]
async fn a_connection_that_cannot_be_trusted_is_not_used_and_says_why() {
    let (pki, other) = (Pki::new("authority"), Pki::new("other"));
    let strict = EtcdServer::start_strict(&pki).await;
    other.issue("client", "client", |_| {});
    pki.issue("elsewhere", "10.9.9.9", |_| {});
    pki.issue("old", "127.0.0.1", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    // These serve anybody, with certificates that must not be accepted; our client would get in by
    // another name only, so wait for the port instead of for an answer.
    let doubtful = async |name: &str| BareServer::start(pki.server(name, false)).await;
    let (elsewhere, old) = (doubtful("elsewhere").await, doubtful("old").await);
    let plain = EtcdServer::start().await;
    let plain_as_tls = plain.url().replace("http://", "https://");
    let strict_as_plain = strict.url().replace("https://", "http://");

    let stranger = TlsFiles {
        ca: Some(pki.path("ca.pem")),
        ..other.files(Some("client"))
    };
    let ca = pki.text("ca.pem");
    for (case, url, files, expect) in [
        (
            "other authority",
            strict.url(),
            other.files(None),
            "UnknownIssuer",
        ),
        (
            "system's authorities",
            strict.url(),
            TlsFiles::default(),
            "UnknownIssuer",
        ),
        (
            "other host",
            elsewhere.url.clone(),
            pki.files(None),
            "NotValidForName",
        ),
        ("expired", old.url.clone(), pki.files(None), "Expired"),
        (
            "which authorities",
            old.url.clone(),
            pki.files(None),
            ca.as_str(),
        ),
        (
            "no certificate",
            strict.url(),
            pki.files(None),
            "may want a client certificate",
        ),
        (
            "a stranger's certificate",
            strict.url(),
            stranger,
            "may refuse our certificate",
        ),
        (
            "no TLS there",
            plain_as_tls,
            pki.files(None),
            "does not speak TLS",
        ),
        ("TLS there", strict_as_plain, pki.files(None), "unavailable"),
    ] {
        let started = Instant::now();
        let error = client(&url, &files, None).get("k").await.unwrap_err();
        assert!(
            error.is_unavailable() && error.to_string().contains(expect),
            "{case}: {error}"
        );
        assert!(error.to_string().contains(&url), "{case}: {error}");
        assert!(started.elapsed() < 4 * SECOND, "{case}: slow");
    }
    let kv = client(&strict.url(), &pki.files(Some("client")), None);
    kv.put("k", "v", None).await.unwrap();
}

/// A server that no client of ours accepts.
struct BareServer {
    url: String,
    _dir: TempDir,
    _child: tokio::process::Child,
}

impl BareServer {
    async fn start(args: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = [(); 2].map(|()| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            listener.local_addr().unwrap().port()
        });
        let url = format!("https://127.0.0.1:{}", ports[0]);
        let peer = format!("http://127.0.0.1:{}", ports[1]);
        let child = Command::new("etcd")
            .args(["--name=t", "--log-level=error", "--unsafe-no-fsync"])
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .args([
                format!("--listen-client-urls={url}"),
                format!("--advertise-client-urls={url}"),
            ])
            .args([format!("--listen-peer-urls={peer}")])
            .args([format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=t={peer}"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + 30 * SECOND;
        while tokio::net::TcpStream::connect(("127.0.0.1", ports[0]))
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "etcd does not listen");
            tokio::time::sleep(SECOND / 20).await;
        }
        Self {
            url,
            _dir: dir,
            _child: child,
        }
    }
}

#[test]
fn bad_files_are_named_with_what_is_wrong() {
    let pki = Pki::new("authority");
    pki.issue("a", "a", |_| {});
    pki.issue("b", "b", |_| {});
    std::fs::write(pki.path("empty"), "").unwrap();
    std::fs::write(pki.path("garbage"), "\x00\u{fffd}-----BEGIN nothing").unwrap();
    let cut = std::fs::read_to_string(pki.path("a.pem")).unwrap();
    std::fs::write(pki.path("cut"), &cut[..cut.len() / 2]).unwrap();
    let not_base64 = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    std::fs::write(pki.path("not-base64"), not_base64).unwrap();
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(pki.path("not-der"), not_der).unwrap();
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(pki.path("locked"), locked).unwrap();

    for (ca, cert, key, named, expect) in [
        ("none", None, None, "none", "failed to read"),
        ("empty", None, None, "empty", "holds no certificate"),
        ("garbage", None, None, "garbage", ""),
        ("cut", None, None, "cut", ""),
        ("not-base64", None, None, "not-base64", "not PEM"),
        (
            "not-der",
            None,
            None,
            "not-der",
            "not usable as an authority",
        ),
        ("a.key", None, None, "a.key", "holds no certificate"),
        ("ca.pem", Some("a.pem"), None, "a.pem", "without a key file"),
        (
            "ca.pem",
            None,
            Some("a.key"),
            "a.key",
            "without a certificate file",
        ),
        (
            "ca.pem",
            Some("a.pem"),
            Some("b.key"),
            "b.key",
            "does not belong",
        ),
        (
            "ca.pem",
            Some("a.pem"),
            Some("b.key"),
            "a.pem",
            "does not belong",
        ),
        (
            "ca.pem",
            Some("a.pem"),
            Some("none"),
            "none",
            "failed to read",
        ),
        (
            "ca.pem",
            Some("a.pem"),
            Some("a.pem"),
            "a.pem",
            "holds no private key",
        ),
        (
            "ca.pem",
            Some("a.pem"),
            Some("locked"),
            "locked",
            "encrypted",
        ),
        (
            "ca.pem",
            Some("not-der"),
            Some("a.key"),
            "not-der",
            "not usable with",
        ),
    ] {
        let files = TlsFiles {
            ca: Some(pki.path(ca)),
            cert: cert.map(|c| pki.path(c)),
            key: key.map(|k| pki.path(k)),
        };
        let error: TlsError = Tls::load(&files).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(expect) && text.contains(&pki.text(named)),
            "{ca} {cert:?} {key:?}: {text}"
        );
    }
}

#[tokio::test]
async fn users_get_what_they_may_and_a_token_that_is_no_longer_good_is_renewed() {
    let mut server = EtcdServer::start().await;
    let url = server.url();
    let none = TlsFiles::default();
    // Credentials are no obstacle where nobody asks for them, nor when it begins to.
    let app = client(&url, &none, Some(("app", "word")));
    app.put("app/k", "0", None).await.unwrap();
    server
        .enable_auth(&TlsFiles::default(), "app", "app/")
        .await;
    app.put("app/k", "1", None).await.unwrap();
    let mut watch = app
        .watch(WatchRequest::now(Keys::prefix("app/")))
        .await
        .unwrap();

    for (case, user, key) in [
        ("wrong password", Some(("app", "wrong")), "app/k"),
        ("unknown user", Some(("nobody", "x")), "app/k"),
        ("nobody at all", None, "app/k"),
        ("not permitted", Some(("app", "word")), "other/k"),
    ] {
        let kv = client(&url, &none, user);
        for error in [
            kv.get(key).await.unwrap_err(),
            kv.put(key, "x", None).await.unwrap_err(),
            kv.watch(WatchRequest::now(Keys::one(key)))
                .await
                .unwrap_err(),
        ] {
            assert!(matches!(error, KvError::Denied { .. }), "{case}: {error:?}");
            assert!(!error.outcome_unknown(), "{case}");
        }
    }

    // The server forgets the tokens of a user whose password is set; this client does not know.
    let mut last = 0;
    for i in 2..5 {
        server
            .etcdctl(
                &TlsFiles::default(),
                &[ROOT, "user", "passwd", "app", "--interactive=false"],
            )
            .await;
        let value = i.to_string();
        last = match i {
            // Each kind of call is the one that finds out.
            2 => app.put("app/k", value, None).await.unwrap().revision,
            3 => {
                app.get("app/k").await.unwrap().unwrap();
                app.put("app/k", value, None).await.unwrap().revision
            }
            _ => {
                let from = last + 1;
                let mut more = app
                    .watch(WatchRequest::from(Keys::prefix("app/"), from))
                    .await
                    .unwrap();
                let revision = app.put("app/k", value, None).await.unwrap().revision;
                let batch = timeout(5 * SECOND, more.next()).await.unwrap().unwrap();
                assert_eq!(batch.revision, revision);
                revision
            }
        };
    }

    // A restart forgets all tokens; the watch resumes with a new one and has missed nothing.
    server.kill().await;
    server.resume().await;
    last = last.max(app.put("app/k", "5", None).await.unwrap().revision);
    let mut values = Vec::new();
    while values.last().is_none_or(|(_, revision)| *revision < last) {
        let batch = timeout(10 * SECOND, watch.next()).await.unwrap().unwrap();
        for event in batch.events {
            let etcd_kv::Event::Put { kv, .. } = &event else {
                panic!("{event:?}");
            };
            values.push((kv.value_str().into_owned(), kv.mod_revision));
        }
    }
    let seen: Vec<&str> = values.iter().map(|(v, _)| v.as_str()).collect();
    assert_eq!(seen, ["2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_token_that_expired_in_idleness_is_renewed() {
    let server = EtcdServer::start_with(ServerOptions {
        args: vec!["--auth-token-ttl=1".into()],
        tls: None,
    })
    .await;
    server
        .enable_auth(&TlsFiles::default(), "app", "app/")
        .await;
    let app = client(&server.url(), &TlsFiles::default(), Some(("app", "word")));
    app.put("app/k", "1", None).await.unwrap();
    // The server looks for expired tokens once a second; only time makes one expire.
    tokio::time::sleep(3 * SECOND).await;
    app.put("app/k", "2", None).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(app.get("app/k").await.unwrap().unwrap().value, b"2");
    tokio::time::sleep(3 * SECOND).await;
    app.watch(WatchRequest::now(Keys::one("app/k")))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_name_in_a_client_certificate_is_a_user() {
    let pki = Pki::new("authority");
    let server = EtcdServer::start_strict(&pki).await;
    pki.issue("app", "app", |_| {});
    let root = client(&server.url(), &pki.files(Some("client")), None);
    root.put("other/k", "1", None).await.unwrap();
    let files = pki.files(Some("client"));
    server.enable_auth(&files, "app", "app/").await;
    let app = client(&server.url(), &pki.files(Some("app")), None);
    app.put("app/k", "1", None).await.unwrap();
    let error = app.get("other/k").await.unwrap_err();
    assert!(matches!(error, KvError::Denied { .. }), "{error:?}");
}
