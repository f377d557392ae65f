//! An API server on a store in memory, without engine and agent: the tests write what those would.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{Kv, MemKv};
use fleet_model::{MachineId, UnitFile};
use fleetd::api::{Access, Api, Hub, Listener, Listings, Original, Role, Tls};
use fleetd::audit::Audit;
use fleetd::logs::{JournalReader, Logs};
use fleetd::metrics::Metrics;
use fleetd::presence::Standing;
use fleetd::registry::{Mirror, Registry};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

use crate::counting::{Counting, Counts};

pub(crate) const PAGE: u16 = 2;
pub(crate) const ME: &str = "11111111aaaaaaaaaaaaaaaaaaaaaaaa";

pub(crate) struct Server {
    pub(crate) kv: Arc<MemKv>,
    /// What the API asked of it.
    pub(crate) counts: Arc<Counts>,
    pub(crate) registry: Registry,
    pub(crate) api: Arc<Api>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) socket: PathBuf,
    pub(crate) dir: TempDir,
}

/// What may differ between servers.
pub(crate) struct Options {
    pub(crate) access: Access,
    pub(crate) journal: JournalReader,
    pub(crate) no_manager: Option<String>,
    pub(crate) audit: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access {
                own_uid: rustix::process::geteuid().as_raw(),
                roles: [("ci", Role::Operate), ("ops", Role::Admin)]
                    .map(|(n, r)| (n.to_owned(), r))
                    .into(),
                plain: Role::Read,
            },
            journal: JournalReader::default(),
            no_manager: None,
            audit: true,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let counting = Counting::default();
        let kv = Arc::new(counting.kv.clone());
        let counts = counting.counts.clone();
        let registry = Registry::new(Arc::new(counting), "/");
        registry.check_format().await.unwrap();
        let mirror = Mirror::start(registry.clone());
        let healthy = Standing {
            lease: None,
            healthy: true,
        };
        let (standing, receiver) = watch::channel(healthy);
        let metrics = Arc::new(Metrics::default());
        let api = Arc::new(Api {
            hub: Hub::new(registry.clone()),
            explaining: Semaphore::new(2),
            original: Original::default(),
            listings: Listings::default(),
            registry: registry.clone(),
            mirror,
            standing: receiver,
            me: MachineId::parse(ME).unwrap(),
            page_limit: PAGE,
            access: options.access,
            audit: Audit {
                enabled: options.audit,
            },
            metrics: metrics.clone(),
            logs: Logs::new(options.journal),
            no_manager: options.no_manager,
        });
        let socket = dir.path().join("fleet.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let listener = Listener::from_fd(listener.into(), "test", None).unwrap();
        tokio::spawn(listener.serve(api.clone()));
        let server = Self {
            kv,
            counts,
            registry,
            api,
            metrics,
            standing,
            socket,
            dir,
        };
        eventually("the mirror is ready", async || server.api.mirror.is_ready()).await;
        server
    }

    /// Another listener, on a free port of the loopback.
    pub(crate) fn listen_tcp(&self, tls: Option<&Tls>) -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::from_fd(listener.into(), "test", tls).unwrap();
        tokio::spawn(listener.serve(self.api.clone()));
        address
    }

    /// Writes a key as engine or agents would, and waits until the API knows.
    pub(crate) async fn set(&self, key: &str, value: &str) {
        let kv: &dyn Kv = &*self.kv;
        let reply = kv.put(format!("/v3/{key}"), value, None).await.unwrap();
        // The mirror hears of wishes only.
        let full = format!("/v3/{key}");
        if self.registry.wishes().contains(full.as_bytes()) {
            self.api.mirror.caught_up(reply.revision).await;
        }
    }

    pub(crate) async fn set_state(&self, unit: &str, machine: &str, phase: &str) {
        let value = serde_json::json!({
            "hash": "abc", "load": "loaded", "active": "active", "sub": "running", "phase": phase,
        });
        self.set(&format!("state/{unit}/{machine}"), &value.to_string())
            .await;
    }

    /// Sends bytes and reads until the end.
    pub(crate) async fn raw(&self, request: &[u8]) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        exchange(stream, request).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        self.raw(&request(method, path, body)).await
    }

    pub(crate) async fn put(&self, name: &str, text: &str, target: &str) -> Answer {
        let body = unit_body(text, target);
        let path = format!("/fleet/v1/units/{name}");
        self.ask("PUT", &path, Some(&body)).await
    }
}

/// A request with a JSON body, if any.
pub(crate) fn request(method: &str, path: &str, body: Option<&str>) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    if let Some(body) = body {
        head += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    } else {
        head += "\r\n";
    }
    head.into_bytes()
}

/// The body that submits a unit.
pub(crate) fn unit_body(text: &str, target: &str) -> String {
    let file = UnitFile::parse(text).unwrap();
    let mut body = serde_json::json!({});
    if !file.options().is_empty() {
        body["options"] = serde_json::to_value(file.options()).unwrap();
    }
    if !target.is_empty() {
        body["desiredState"] = target.into();
    }
    body.to_string()
}

pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Answer {
    // A server that has had enough does not read on.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}
