//! TLS, client certificates, users and passwords against a real etcd.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::testing::{EtcdServer, ServerOptions, conformance};
use etcd_kv::{
    Credentials, EtcdConfig, EtcdKv, Keys, Kv, KvError, Tls, TlsError, TlsFiles, WatchRequest,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// An authority, and certificates that it has issued, as files.
struct Pki {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        Self { dir, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes `NAME.pem` and `NAME.key` for a server or client of that name.
    fn issue(&self, name: &str, address: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec![address.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn files(&self, identity: Option<&str>) -> TlsFiles {
        TlsFiles {
            ca: Some(self.path("ca.pem")),
            cert: identity.map(|name| self.path(&format!("{name}.pem"))),
            key: identity.map(|name| self.path(&format!("{name}.key"))),
        }
    }

    /// Arguments of a server with the certificate `name`.
    fn server(&self, name: &str, wants_client: bool) -> Vec<String> {
        let mut args = vec![
            format!("--cert-file={}", self.text(&format!("{name}.pem"))),
            format!("--key-file={}", self.text(&format!("{name}.key"))),
        ];
        if wants_client {
            args.push("--client-cert-auth".into());
            args.push(format!("--trusted-ca-file={}", self.text("ca.pem")));
        }
        args
    }
}

/// A server of which every client must show a certificate.
async fn strict_server(pki: &Pki) -> EtcdServer {
    pki.issue("server", "127.0.0.1", |_| {});
    pki.issue("client", "client", |_| {});
    EtcdServer::start_with(ServerOptions {
        args: pki.server("server", true),
        tls: Some(Tls::load(&pki.files(Some("client"))).unwrap()),
    })
    .await
}

fn client(url: &str, files: &TlsFiles, user: Option<(&str, &str)>) -> Arc<dyn Kv> {
    let mut config = EtcdConfig::new(&[url]).unwrap();
    config.tls = files.is_set().then(|| Tls::load(files).unwrap());
    config.credentials = user.map(|(user, password)| Credentials {
        user: user.into(),
        password: password.into(),
    });
    Arc::new(EtcdKv::new(config))
}

/// Debian's own client, as the operator who turns authentication on; asked for a password, it is
/// given `word`.
async fn etcdctl(url: &str, args: &[&str]) {
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", url])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl is installed (Debian: etcd-client)");
    // Most verbs do not read it.
    let _ = child.stdin.take().unwrap().write_all(b"word\n").await;
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "etcdctl {args:?}: {said}");
}

const ROOT: &str = "--user=root:secret";

/// Turns authentication on: root, and `app` that may touch `app/` only.
async fn enable_auth(url: &str) {
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "app:word"],
        &["role", "add", "app"],
        &[
            "role",
            "grant-permission",
            "app",
            "--prefix=true",
            "readwrite",
            "app/",
        ],
        &["user", "grant-role", "app", "app"],
        &["auth", "enable"],
    ] {
        etcdctl(url, args).await;
    }
}

#[tokio::test]
async fn etcd_conforms_over_tls_with_certificate_user_and_password() {
    let pki = Pki::new("authority");
    let server = strict_server(&pki).await;
    let url = server.url();
    let with_files = |args: &[&str]| {
        let mut all = vec![
            format!("--cacert={}", pki.text("ca.pem")),
            format!("--cert={}", pki.text("client.pem")),
            format!("--key={}", pki.text("client.key")),
        ];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        all
    };
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        let args = with_files(args);
        etcdctl(&url, &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let kv = client(&url, &pki.files(Some("client")), Some(("root", "secret")));
    conformance(kv).await;
}

#[tokio::test]
async fn a_connection_that_cannot_be_trusted_is_not_used_and_says_why() {
    let (pki, other) = (Pki::new("authority"), Pki::new("other"));
    let strict = strict_server(&pki).await;
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
    enable_auth(&url).await;
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
        etcdctl(
            &url,
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
    enable_auth(&server.url()).await;
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
    let server = strict_server(&pki).await;
    pki.issue("app", "app", |_| {});
    let root = client(&server.url(), &pki.files(Some("client")), None);
    root.put("other/k", "1", None).await.unwrap();
    let files = [
        format!("--cacert={}", pki.text("ca.pem")),
        format!("--cert={}", pki.text("client.pem")),
        format!("--key={}", pki.text("client.key")),
    ];
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "app:word"],
        &["role", "add", "app"],
        &[
            "role",
            "grant-permission",
            "app",
            "--prefix=true",
            "readwrite",
            "app/",
        ],
        &["user", "grant-role", "app", "app"],
        &["auth", "enable"],
    ] {
        let all: Vec<&str> = files
            .iter()
            .map(String::as_str)
            .chain(args.iter().copied())
            .collect();
        etcdctl(&server.url(), &all).await;
    }
    let app = client(&server.url(), &pki.files(Some("app")), None);
    app.put("app/k", "1", None).await.unwrap();
    let error = app.get("other/k").await.unwrap_err();
    assert!(matches!(error, KvError::Denied { .. }), "{error:?}");
}
