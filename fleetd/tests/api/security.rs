//! Who may do what: peer credentials, mutual TLS, roles, the audit log; and the limits.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fleetd::api::{Tls, serve_metrics};
use fleetd::config::ApiTls;
use fleetd::tls::acceptor;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::harness::{Answer, Options, Server, eventually, exchange, request, unit_body};

/// An authority and what it has signed.
struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, name: &str, dns: &[&str]) -> (String, String, Identity) {
        let dns: Vec<String> = dns.iter().map(|d| (*d).to_owned()).collect();
        let mut params = CertificateParams::new(dns).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let identity = (vec![certificate.der().clone()], der);
        (certificate.pem(), key.serialize_pem(), identity)
    }
}

/// The server's end, with files in `dir`.
fn server_tls(dir: &Path, authority: &Authority) -> Tls {
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key, _) = authority.sign("server", &["localhost"]);
    let files = ApiTls {
        certificate: write("cert.pem", &certificate),
        key: write("key.pem", &key),
        ca: write("ca.pem", &authority.pem),
    };
    Tls(acceptor(&files).unwrap())
}

async fn ask_tls(
    address: std::net::SocketAddr,
    authority: &Authority,
    identity: Option<Identity>,
    raw: &[u8],
) -> Option<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let answer = exchange(stream, raw).await;
    (answer.status != 0).then_some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_give_roles_and_nothing_else_gets_in() {
    let server = Server::start().await;
    let authority = Authority::new();
    let tls = server_tls(server.dir.path(), &authority);
    let address = server.listen_tcp(Some(&tls));
    let identity = |name: &str, dns: &[&str]| Some(authority.sign(name, dns).2);
    let get = request("GET", "/fleet/v1/units", None);
    let body = unit_body("[Service]\nExecStart=/x\n", "");
    let patch = request("PATCH", "/fleet/v1/machines", Some("[]"));
    for (name, dns, may) in [
        ("viewer", &[][..], [true, false, false]),
        ("ci", &[], [true, true, false]),
        ("ops", &[], [true, true, true]),
        ("other", &["ops"], [true, true, true]),
    ] {
        let put = request(
            "PUT",
            &format!("/fleet/v1/units/{name}.service"),
            Some(&body),
        );
        for (raw, may) in [&get, &put, &patch].into_iter().zip(may) {
            let identity = identity(name, dns);
            let answer = ask_tls(address, &authority, identity, raw).await.unwrap();
            assert_eq!(answer.status != 403, may, "{name}: {answer:?}");
            if !may {
                let said = answer.json()["error"]["message"].to_string();
                assert!(said.contains(name) && said.contains("this needs"), "{said}");
            }
        }
    }
    let who = request("GET", "/flotilla/v1/whoami", None);
    let answer = ask_tls(address, &authority, identity("ci", &[]), &who)
        .await
        .unwrap();
    let expect = serde_json::json!({"name": "ci", "role": "operate", "via": "tls"});
    assert_eq!(answer.json(), expect);

    // No certificate, one of somebody else's authority, and no TLS at all.
    assert_eq!(ask_tls(address, &authority, None, &get).await, None);
    let stranger = Authority::new().sign("ops", &[]).2;
    assert_eq!(
        ask_tls(address, &authority, Some(stranger), &get).await,
        None
    );
    let plain = exchange(TcpStream::connect(address).await.unwrap(), &get).await;
    assert_eq!(plain.status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_certificates_the_role_is_the_configured_one() {
    let server = Server::start().await;
    let address = server.listen_tcp(None);
    let ask = async |raw: &[u8]| exchange(TcpStream::connect(address).await.unwrap(), raw).await;
    let get = ask(&request("GET", "/fleet/v1/units", None)).await;
    assert_eq!(get.status, 200);
    let body = unit_body("[Service]\nExecStart=/x\n", "");
    let put = ask(&request("PUT", "/fleet/v1/units/a.service", Some(&body))).await;
    assert_eq!(put.status, 403, "{put:?}");
    let log = ask(&request(
        "GET",
        "/flotilla/v1/units/a.service/journal",
        None,
    ))
    .await;
    assert_eq!(log.status, 403, "logs need more than read: {log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_cannot_write() {
    let server = Server::start().await;
    for (origin, status) in [("http://test", 204), ("http://evil", 403), ("null", 403)] {
        let raw = format!(
            "PATCH /fleet/v1/machines HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
             Origin: {origin}\r\nContent-Length: 2\r\n\r\n[]"
        );
        assert_eq!(server.raw(raw.as_bytes()).await.status, status, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_point_here_by_now_do_not_open_the_door_to_pages() {
    let server = Server::start().await;
    for (host, status) in [("localhost:8080", 200), ("evil.example:8080", 403)] {
        let raw = format!(
            "GET /fleet/v1/units HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             User-Agent: Mozilla/5.0 (X11; Linux)\r\n\r\n"
        );
        assert_eq!(server.raw(raw.as_bytes()).await.status, status, "{host}");
    }
}

/// When this test binary runs as the client of another user, this variable names the socket.
const SOCKET: &str = "FLEETD_TEST_SOCKET";

#[test]
fn client_of_another_user() {
    let Ok(socket) = std::env::var(SOCKET) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answer = runtime.block_on(async {
        let stream = UnixStream::connect(socket).await.unwrap();
        exchange(stream, &request("GET", "/fleet/v1/units", None)).await
    });
    println!("status={} {}", answer.status, answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_of_the_machine_are_turned_away() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else; the rule itself is tested as a table in `access`.
        return;
    }
    let server = Server::start().await;
    // Even where the operator has opened the socket to all.
    for (path, mode) in [(server.dir.path(), 0o755), (&server.socket, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // A copy that the other user can reach.
    let program = server.dir.path().join("client");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let socket = server.socket.clone();
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(program)
            .args(["--exact", "security::client_of_another_user", "--nocapture"])
            .env(SOCKET, socket)
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("status=403"), "{said} {output:?}");
    assert!(
        said.contains("is neither root nor in the group fleet"),
        "{said}"
    );
    assert_eq!(server.ask("GET", "/fleet/v1/units", None).await.status, 200);
}

/// Keeps what the audit log says.
#[derive(Debug, Default)]
struct Ear {
    lines: Mutex<Vec<String>>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl Subscriber for &'static Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "fleetd::audit"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn ear() -> &'static Ear {
    static EAR: OnceLock<&'static Ear> = OnceLock::new();
    EAR.get_or_init(|| {
        let ear: &'static Ear = Box::leak(Box::default());
        tracing::subscriber::set_global_default(ear).unwrap();
        ear
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_leaves_a_line_and_no_secret() {
    let ear = ear();
    let server = Server::start().await;
    let heard = || {
        let lines = ear.lines.lock().unwrap();
        lines
            .iter()
            .filter(|l| l.contains("audited.service"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let path = "/fleet/v1/units/audited.service";
    let body = unit_body("[Service]\nEnvironment=TOKEN=swordfish\nExecStart=/x\n", "");
    server.ask("PUT", path, Some(&body)).await;
    server.ask("GET", path, None).await;
    server
        .ask("DELETE", &format!("{path}?secret=swordfish"), None)
        .await;
    server.ask("DELETE", path, None).await;
    let plain = server.listen_tcp(None);
    exchange(
        TcpStream::connect(plain).await.unwrap(),
        &request("DELETE", path, None),
    )
    .await;
    let lines = heard();
    let statuses: Vec<&str> = lines
        .iter()
        .map(|l| {
            l.split("status=")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
        })
        .collect();
    assert_eq!(statuses, ["201", "204", "404", "403"], "{lines:#?}");
    let first = &lines[0];
    for part in [
        "role=\"admin\"",
        "via=\"unix\"",
        "method=PUT",
        "path=\"/fleet/v1/units/audited",
    ] {
        assert!(first.contains(part), "{first}");
    }
    assert!(
        lines[3].contains("who=127.0.0.1") && lines[3].contains("role=\"read\""),
        "{lines:?}"
    );
    assert!(!lines.concat().contains("swordfish"), "{lines:?}");
    // Unless nobody wants it.
    let silent = Server::with(Options {
        audit: false,
        ..Options::default()
    })
    .await;
    silent.ask("PUT", path, Some(&body)).await;
    assert_eq!(lines.len(), heard().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    let server = Server::start().await;
    let path = "/fleet/v1/units/big.service";
    let large = "x".repeat((1 << 20) + 1);
    let answer = server.ask("PUT", path, Some(&large)).await;
    assert_eq!(answer.status, 413, "{}", answer.head);
    // Without a length, too.
    let chunked = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    assert_eq!(server.raw(chunked.as_bytes()).await.status, 413);
    let option = |value: &str| serde_json::json!({"section": "S", "name": "n", "value": value});
    let many = serde_json::json!({"options": vec![option("v"); 5000]}).to_string();
    let answer = server.ask("PUT", path, Some(&many)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let long = serde_json::json!({"options": vec![option(&"v".repeat(1000)); 600]}).to_string();
    let answer = server.ask("PUT", path, Some(&long)).await;
    assert!(
        answer.status == 400 && answer.body.contains("larger than"),
        "{answer:?}"
    );
    let patch = serde_json::json!({"op": "remove", "path": "/m/metadata/k"});
    let patches = serde_json::json!(vec![patch; 300]).to_string();
    let answer = server
        .ask("PATCH", "/fleet/v1/machines", Some(&patches))
        .await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = server
        .ask("GET", &format!("/fleet/v1/{}", "x".repeat(9000)), None)
        .await;
    assert_eq!(answer.status, 414, "{answer:?}");
    let path_of_query = format!("/fleet/v1/state?unitName={}", "x".repeat(9000));
    assert_eq!(server.ask("GET", &path_of_query, None).await.status, 414);
    for headers in [
        "A: b\r\n".repeat(100),
        format!("A: {}\r\n", "b".repeat(40_000)),
    ] {
        let raw = format!(
            "GET /fleet/v1/units HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        );
        let answer = server.raw(raw.as_bytes()).await;
        assert_eq!(answer.status, 431, "{answer:?}");
    }
    assert_eq!(
        server.ask("GET", path, None).await.status,
        404,
        "nothing was stored"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_and_others_wait_their_turn() {
    let server = Server::start().await;
    let connections = || {
        let text = server.metrics.text();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("fleet_api_connections "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let mut idle = Vec::new();
    for _ in 0..260 {
        idle.push(UnixStream::connect(&server.socket).await.unwrap());
    }
    eventually("as many as may be are open", async || connections() == 256).await;
    let waiting = tokio::spawn({
        let stream = UnixStream::connect(&server.socket).await.unwrap();
        async move { exchange(stream, &request("GET", "/fleet/v1/units", None)).await }
    });
    tokio::time::timeout(Duration::from_millis(50), async {
        while connections() <= 256 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect_err("there were more");
    assert!(!waiting.is_finished());
    idle.clear();
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_a_socket_of_their_own() {
    let server = Server::start().await;
    let path = server.dir.path().join("metrics/fleetd.sock");
    // One that was left behind is no obstacle.
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    tokio::spawn({
        let (path, metrics) = (path.clone(), server.metrics.clone());
        async move { serve_metrics(&path, metrics).await }
    });
    server.ask("GET", "/nosuch", None).await;
    server.standing.send_modify(|s| s.healthy = false);
    eventually("metrics are served while etcd is away", async || {
        let Ok(stream) = UnixStream::connect(&path).await else {
            return false;
        };
        let answer = exchange(stream, &request("GET", "/metrics", None)).await;
        answer.status == 200
            && answer
                .body
                .contains("fleet_api_request_count_total{class=\"4xx\"} 1")
    })
    .await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}
