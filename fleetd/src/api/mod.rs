//! HTTP API v1, below `/fleet/v1` and, the same, `/v1-alpha`.
//!
//! Listeners come from socket activation only; without any the daemon works and serves nobody.
//! While the machine is not registered, or has not read the registry yet, every path says 503.
//! Wishes are answered from the mirror, which waits for this daemon's own writes, so a client
//! reads what it wrote; states and machines are read from etcd.

mod machines;
mod paging;
mod states;
mod units;

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_model::wire;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::presence::Standing;
use crate::registry::{Mirror, Registry, RegistryError};

/// Largest request body. etcd takes no more than 1.5 MiB in one request.
const MAX_BODY: usize = 1 << 20;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the API answers from.
#[derive(Debug, Clone)]
pub struct Api {
    /// The registry.
    pub registry: Registry,
    /// The wishes.
    pub mirror: Mirror,
    /// This machine's standing.
    pub standing: watch::Receiver<Standing>,
    /// Page size.
    pub page_limit: u16,
}

/// An answer, in parts.
#[derive(Debug)]
enum Reply {
    /// 200 with JSON.
    Json(Vec<u8>),
    /// A status without a body.
    Empty(StatusCode),
    /// An error body.
    Error(StatusCode, String),
}

impl Reply {
    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::Json(body),
            Err(error) => Self::Error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn error(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Error(status, message.into())
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, message)
    }

    fn not_allowed() -> Self {
        Self::error(StatusCode::METHOD_NOT_ALLOWED, "")
    }

    fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "")
    }

    fn failed(error: &RegistryError) -> Self {
        let text = telemetry::chain(error);
        tracing::warn!("API: {text}");
        let status = if error.is_unavailable() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::error(status, text)
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let (status, body) = match self {
            Self::Json(body) => (StatusCode::OK, Some(body)),
            Self::Empty(status) => (status, None),
            Self::Error(status, message) => {
                let error = wire::ErrorEntity {
                    code: status.as_u16(),
                    message,
                };
                let body = serde_json::to_vec(&wire::ErrorBody { error });
                (status, Some(body.expect("plain strings always serialise")))
            }
        };
        let json = body.is_some();
        let mut response = Response::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let server = HeaderValue::from_static(concat!("fleetd/", env!("CARGO_PKG_VERSION")));
        headers.insert(SERVER, server);
        if json {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        response
    }
}

/// A listener of either kind.
#[derive(Debug)]
pub enum Listener {
    /// A path or an abstract name.
    Unix(UnixListener),
    /// An address and port.
    Tcp(TcpListener),
}

impl Listener {
    /// Takes a passed descriptor over. A TCP one is worth a warning: it has no authentication.
    pub fn from_fd(fd: OwnedFd, name: &str) -> std::io::Result<Self> {
        use rustix::net::{AddressFamily, getsockname};

        let family = getsockname(&fd)?.address_family();
        if family == AddressFamily::UNIX {
            let listener = std::os::unix::net::UnixListener::from(fd);
            listener.set_nonblocking(true)?;
            return Ok(Self::Unix(UnixListener::from_std(listener)?));
        }
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        tracing::warn!(
            "socket {name}: the API on {address} has neither TLS nor authentication; \
             whoever reaches it controls the cluster"
        );
        Ok(Self::Tcp(TcpListener::from_std(listener)?))
    }

    /// Serves until the runtime ends.
    pub async fn serve(self, api: Arc<Api>) {
        loop {
            let accepted = match &self {
                Self::Unix(l) => l.accept().await.map(|(s, _)| drop(spawn(s, api.clone()))),
                Self::Tcp(l) => l.accept().await.map(|(s, _)| drop(spawn(s, api.clone()))),
            };
            if let Err(error) = accepted {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!("API: failed to accept: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn spawn(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    api: Arc<Api>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await.into_response()) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!("API: connection ended: {error}");
        }
    })
}

impl Api {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let standing = self.standing.borrow().clone();
        if !standing.healthy || !self.mirror.is_ready() {
            return Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "fleet server unable to communicate with etcd",
            );
        }
        let path = request.uri().path().to_owned();
        if path == "/" {
            return Reply::not_allowed();
        }
        let rest = ["/fleet/v1", "/v1-alpha"]
            .iter()
            .find_map(|p| path.strip_prefix(p));
        let Some(rest) = rest else {
            return Reply::not_found();
        };
        let Some(segments) = segments(rest) else {
            return Reply::not_found();
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or("").to_owned();
        match (&segments[..], &method) {
            ([], _) => Reply::not_allowed(),
            (["units"], &Method::GET) => self.list_units(&query).await,
            (["units", name], &Method::GET) => self.get_unit(name).await,
            (["units", name], &Method::PUT) => self.put_unit(name, request).await,
            (["units", name], &Method::DELETE) => self.delete_unit(name).await,
            (["state"], &Method::GET) => self.list_states(&query).await,
            (["state", name], &Method::GET) => self.get_state(name).await,
            (["machines"], &Method::GET) => self.list_machines(&query).await,
            (["machines"], &Method::PATCH) => self.patch_machines(request).await,
            (["units" | "state" | "machines"] | ["units" | "state", _], _) => Reply::not_allowed(),
            _ => Reply::not_found(),
        }
    }
}

/// The segments of a path below the prefix, decoded. `None` for an empty segment anywhere.
fn segments(rest: &str) -> Option<Vec<String>> {
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let rest = rest.strip_prefix('/')?;
    let decoded: Vec<String> = rest.split('/').map(percent_decode).collect::<Option<_>>()?;
    decoded.iter().all(|s| !s.is_empty()).then_some(decoded)
}

/// `%40` and the like; `None` if the result is not text.
fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = text
            .get(i + 1..i + 3)
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// Values of a key in a query string, in order.
fn query_values(query: &str, key: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(k, _)| *k == key);
    values
        .filter_map(|(_, v)| percent_decode(&v.replace('+', " ")))
        .collect()
}

/// Reads a JSON body of limited size.
async fn read_json<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Reply> {
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|e| Reply::bad_request(format!("unable to read body: {e}")))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|e| Reply::bad_request(format!("unable to decode body: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_and_decoded() {
        assert_eq!(segments(""), Some(vec![]));
        assert_eq!(segments("/"), None);
        assert_eq!(segments("/units/"), None);
        assert_eq!(segments("x"), None);
        assert_eq!(
            segments("/units/a%401.service").unwrap(),
            ["units", "a@1.service"]
        );
        assert_eq!(percent_decode("%"), Some("%".into()));
        assert_eq!(percent_decode("%ff"), None);
        assert_eq!(percent_decode("%é"), Some("%é".into()));
    }

    #[test]
    fn queries_are_read() {
        assert_eq!(query_values("a=1&b=x%20y&a=2&c", "a"), ["1", "2"]);
        assert_eq!(query_values("a=1&b=x%20y", "b"), ["x y"]);
    }
}
