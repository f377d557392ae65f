//! HTTP API v1, below `/fleet/v1` and, the same, `/v1-alpha`; our own additions below
//! `/flotilla/v1`; the dashboard at `/ui`.
//!
//! Listeners come from socket activation only; without any the daemon works and serves nobody.
//! While the machine is not registered, or has not read the registry yet, every path of the
//! original says 503. Wishes are answered from the mirror, which waits for this daemon's own
//! writes, so a client reads what it wrote; states and machines are read from etcd.
//!
//! A request passes, in this order: the limits of its connection (`serve`), the caller's role
//! (`access`), the checks of its resource, the registry. Whatever a client sends is a checked value
//! before the registry sees it. Each write leaves one line in the audit log.

mod access;
mod beyond;
mod machines;
mod original;
mod paging;
mod reply;
mod request;
mod serve;
mod states;
mod units;

use std::sync::Arc;

use fleet_model::MachineId;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, watch};

pub use access::{Access, Caller, ParseRoleError, Role, Via};
pub use beyond::Hub;
pub use original::Original;
pub use paging::page_number;
pub use serve::{Listener, Tls, serve_metrics};
pub use states::Listings;

use self::reply::Body;
pub(crate) use self::reply::Reply;
use self::request::{is_foreign, is_led_astray, segments};
use crate::audit::Audit;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::presence::Standing;
use crate::registry::{Mirror, Registry};
use crate::ui;

/// Longest path and query.
const MAX_URL: usize = 8 << 10;
/// Bytes of all header fields.
const MAX_HEADERS: usize = 16 << 10;

/// Explanations made at once.
pub const EXPLAIN_TURNS: usize = 2;

/// The description that clients are generated from.
const DISCOVERY: &str = include_str!("discovery.json");

/// What the API answers from.
#[derive(Debug)]
pub struct Api {
    /// The registry.
    pub registry: Registry,
    /// The wishes.
    pub mirror: Mirror,
    /// This machine's standing.
    pub standing: watch::Receiver<Standing>,
    /// This machine.
    pub me: MachineId,
    /// Page size.
    pub page_limit: u16,
    /// Who may do what.
    pub access: Access,
    /// Where writes are noted.
    pub audit: Audit,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Live changes.
    pub hub: Hub,
    /// Turns at explaining, which is work.
    pub explaining: Semaphore,
    /// What the original's client must see.
    pub original: Original,
    /// Lists of states being read page by page.
    pub listings: Listings,
    /// Where logs are read.
    pub logs: Logs,
    /// Why units cannot be loaded or started here, if they cannot.
    pub no_manager: Option<String>,
}

/// All metrics as an answer.
fn metrics_reply(metrics: &Metrics) -> Reply {
    let text = metrics.text().into();
    Reply::Text("text/plain; version=0.0.4; charset=utf-8", text, &[])
}

impl Api {
    /// Answers, counts and notes.
    async fn respond(&self, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.answer(caller, request).await.into_response();
        let status = response.status().as_u16();
        self.metrics.request(status);
        self.audit.note(caller, &method, &path, status);
        response
    }

    /// Why a caller may not do this, if so.
    fn refusal(&self, caller: &Caller, request: &Request<Incoming>) -> Option<Reply> {
        let forbidden = |message: String| Some(Reply::error(StatusCode::FORBIDDEN, message));
        let needed = access::needed(request.method(), request.uri().path());
        let Some(role) = caller.role else {
            return forbidden(format!(
                "{} is neither root nor in the group {}",
                caller.name,
                access::GROUP
            ));
        };
        if role < needed {
            return forbidden(format!(
                "{} has the role {role}, this needs {needed}",
                caller.name
            ));
        }
        if caller.via != Via::Tls && is_led_astray(request.headers()) {
            return forbidden(
                "browsers must name this machine by its address or as localhost".into(),
            );
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && is_foreign(request.headers()) {
            return forbidden("not for pages of other origins".into());
        }
        None
    }

    async fn answer(&self, caller: &Caller, request: Request<Incoming>) -> Reply {
        let uri = request.uri();
        if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URL {
            return Reply::error(StatusCode::URI_TOO_LONG, "");
        }
        let fields = request.headers().iter();
        if fields
            .map(|(k, v)| k.as_str().len() + v.len())
            .sum::<usize>()
            > MAX_HEADERS
        {
            return Reply::error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "");
        }
        if let Some(refusal) = self.refusal(caller, &request) {
            return refusal;
        }
        let Some(segments) = segments(uri.path()) else {
            return Reply::bad_request("the path is broken");
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["ui", ref rest @ ..] => return ui::answer(request.method(), rest),
            // What helps to find out what is wrong works while something is.
            ["flotilla", "v1", "whoami"] => return beyond::whoami(caller, request.method()),
            _ => {}
        }
        let healthy = self.standing.borrow().healthy;
        if !healthy || !self.mirror.is_ready() {
            return Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "fleet server unable to communicate with etcd",
            );
        }
        match segments[..] {
            [""] => Reply::not_allowed(),
            ["metrics"] => metrics_reply(&self.metrics),
            ["fleet", "v1", ref rest @ ..] | ["v1-alpha", ref rest @ ..] => {
                self.original(rest, request).await
            }
            ["flotilla", "v1", ref rest @ ..] => self.beyond(caller, rest, request).await,
            _ => Reply::not_found(),
        }
    }

    /// API v1.
    async fn original(&self, segments: &[&str], request: Request<Incoming>) -> Reply {
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or("").to_owned();
        match (segments, &method) {
            ([], _) => Reply::not_allowed(),
            (segments, _) if segments.contains(&"") => Reply::not_found(),
            (["units"], &Method::GET) => self.list_units(&query).await,
            (["units", name], &Method::GET) => self.get_unit(name, request.headers()).await,
            (["units", name], &Method::PUT) => self.put_unit(name, request).await,
            (["units", name], &Method::DELETE) => self.delete_unit(name).await,
            (["state"], &Method::GET) => self.list_states(&query).await,
            (["state", name], &Method::GET) => self.get_state(name).await,
            (["machines"], &Method::GET) => self.list_machines(&query).await,
            (["machines"], &Method::PATCH) => self.patch_machines(request).await,
            (["discovery"], &Method::GET) => Reply::Json(DISCOVERY.as_bytes().to_vec()),
            (["discovery"], _) => Reply::bad_request("only GET is supported"),
            (["units" | "state" | "machines"] | ["units" | "state", _], _) => Reply::not_allowed(),
            _ => Reply::not_found(),
        }
    }
}
