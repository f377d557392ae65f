//! Listeners and connections: where they come from, who is at the other end, and their limits.
//!
//! Listeners come from the service manager (or, for `fleetd dev`, from the command line). A unix
//! listener asks the kernel for the caller; a TCP one demands a certificate where certificates are
//! configured and is open where not. Each listener has a limited number of connections; more wait
//! in the kernel's queue, so that a flood on one does not lock out the others.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Api;
use super::access::{Caller, Process};
use super::reply::Reply;
use crate::metrics::Metrics;
use crate::tls;

/// How long a client may take to send its request's head, and may keep a connection idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to show its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of one listener.
const MAX_CONNECTIONS: usize = 256;
/// Bytes and lines of a request's head.
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 64;

/// A listener of either kind.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
    Tls(TcpListener, Tls),
}

/// The server's end of TLS.
#[derive(Clone)]
pub struct Tls(pub TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Listener {
    /// Takes a passed descriptor over. A TCP one without `tls` is worth a warning.
    pub fn from_fd(fd: OwnedFd, name: &str, tls: Option<&Tls>) -> std::io::Result<Self> {
        use rustix::net::{AddressFamily, getsockname};

        let family = getsockname(&fd)?.address_family();
        if family == AddressFamily::UNIX {
            let listener = std::os::unix::net::UnixListener::from(fd);
            listener.set_nonblocking(true)?;
            let kind = Kind::Unix(UnixListener::from_std(listener)?);
            return Ok(Self { kind });
        }
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let kind = match tls {
            Some(tls) => Kind::Tls(listener, tls.clone()),
            None => {
                tracing::warn!(
                    "socket {name}: the API on {address} has neither TLS nor authentication; \
                     whoever reaches it has the role in plain_role \
                     (set api_certfile, api_keyfile and api_cafile)"
                );
                Kind::Tcp(listener)
            }
        };
        Ok(Self { kind })
    }

    /// The address, if it is a TCP one without TLS.
    #[must_use]
    pub fn plain_address(&self) -> Option<String> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok().map(|a| a.to_string()),
            _ => None,
        }
    }

    /// Serves until the runtime ends.
    pub async fn serve(self, api: Arc<Api>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let slot = Slot::new(slot, api.metrics.clone());
            let accepted = match &self.kind {
                Kind::Unix(l) => l.accept().await.map(|(stream, _)| {
                    tokio::spawn(unix(stream, api.clone(), slot));
                }),
                Kind::Tcp(l) => l.accept().await.map(|(stream, from)| {
                    let caller = api.access.plain(from.ip().to_string());
                    tokio::spawn(connection(stream, caller, api.clone(), slot));
                }),
                Kind::Tls(l, tls) => l.accept().await.map(|(stream, _)| {
                    tokio::spawn(encrypted(stream, tls.clone(), api.clone(), slot));
                }),
            };
            if let Err(error) = accepted {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!("API: failed to accept: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// One of a listener's connections.
struct Slot {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
    counted: bool,
}

impl Slot {
    fn new(permit: OwnedSemaphorePermit, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            _permit: permit,
            counted: false,
        }
    }

    fn count(&mut self) {
        self.counted = true;
        self.metrics.connection(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.counted {
            self.metrics.connection(false);
        }
    }
}

async fn unix(stream: UnixStream, api: Arc<Api>, slot: Slot) {
    let process = match peer(&stream) {
        Ok(process) => process,
        Err(error) => {
            tracing::warn!("API: failed to ask who calls: {error}");
            return;
        }
    };
    // Read at each connection: groups change while a daemon runs.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let caller = api.access.unix(&process, &passwd, &group);
    connection(stream, caller, api, slot).await;
}

fn peer(stream: &UnixStream) -> std::io::Result<Process> {
    let credentials = syscalls::socket::peer_credentials(stream)?;
    Ok(Process {
        uid: credentials.uid,
        gid: credentials.gid,
        groups: syscalls::socket::peer_groups(stream)?,
    })
}

async fn encrypted(stream: TcpStream, acceptor: Tls, api: Arc<Api>, slot: Slot) {
    let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.0.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!("API: a TLS client was refused: {error}");
            return;
        }
        Err(_) => return,
    };
    let names = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| tls::names(certificate))
        .unwrap_or_default();
    let caller = api.access.certificate(&names);
    connection(stream, caller, api, slot).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    api: Arc<Api>,
    mut slot: Slot,
) {
    slot.count();
    let caller = Arc::new(caller);
    let service = service_fn(move |request| {
        let (api, caller) = (api.clone(), caller.clone());
        async move { Ok::<_, Infallible>(api.respond(&caller, request).await) }
    });
    let served = builder()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("API: connection ended: {error}");
    }
}

fn builder() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    builder
}

/// Serves the metrics at a socket of their own, for whoever may open that.
pub async fn serve_metrics(path: &Path, metrics: Arc<Metrics>) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // One that a daemon before this one left behind.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Some(gid) = super::access::group_id("systemd-journal") {
        std::os::unix::fs::chown(path, None, Some(gid))?;
    }
    let slots = Arc::new(Semaphore::new(8));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return Ok(());
        };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let reply = match request.uri().path() {
                    "/" | "/metrics" => super::metrics_reply(&metrics),
                    _ => Reply::error(StatusCode::NOT_FOUND, ""),
                };
                async move { Ok::<_, Infallible>(reply.into_response()) }
            });
            let _ = builder()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(slot);
        });
    }
}
