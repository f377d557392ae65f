//! What the original never had, below `/flotilla/v1`: who one is, live changes, logs.

mod events;
mod journal;

use fleet_model::UnitName;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

pub use events::Hub;
pub use journal::JournalReader;

use super::reply::Reply;
use super::{Api, Caller};

/// Answers with who the caller is.
pub(super) fn whoami(caller: &Caller, method: &Method) -> Reply {
    #[derive(Serialize)]
    struct Who<'a> {
        name: &'a str,
        role: &'a str,
        via: &'a str,
    }
    if method != Method::GET {
        return Reply::not_allowed();
    }
    Reply::json(&Who {
        name: &caller.name,
        role: caller.role.map_or("none", super::Role::as_str),
        via: caller.via.as_str(),
    })
}

impl Api {
    pub(super) async fn beyond(&self, segments: &[&str], request: Request<Incoming>) -> Reply {
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or("").to_owned();
        match (segments, &method) {
            (["events"], &Method::GET) => self.hub.answer(&self.mirror).await,
            (["units", name, "journal"], &Method::GET) => self.unit_journal(name, &query).await,
            (["events"] | ["units", _, "journal"], _) => Reply::not_allowed(),
            _ => Reply::not_found(),
        }
    }

    /// A unit that exists, by the name in a path.
    fn known(&self, name: &str) -> Result<UnitName, Reply> {
        let desired = self.mirror.read();
        let found = desired.units.get_key_value(name).map(|(n, _)| n.clone());
        found.ok_or_else(|| Reply::error(StatusCode::NOT_FOUND, "unit does not exist"))
    }
}
