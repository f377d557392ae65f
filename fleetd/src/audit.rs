//! The audit log: one structured line in the journal for every write through the API, done or
//! refused, and for every caller who was turned away.
//!
//! Fields: `who`, `role`, `via`, `method`, `path`, `status`. Bodies, queries and headers are never
//! part of it, so no secret of a unit file gets there.

use hyper::Method;

use crate::api::Caller;

/// Where the lines go, if anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Whether lines are written at all.
    pub enabled: bool,
}

/// Longest part of a path that is written.
const PATH_SHOWN: usize = 512;

impl Audit {
    /// Notes a request that was answered.
    pub fn note(self, caller: &Caller, method: &Method, path: &str, status: u16) {
        let reading = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !self.enabled || (reading && status != 403) {
            return;
        }
        let path = path.get(..PATH_SHOWN).unwrap_or(path);
        let role = caller.role.map_or("none", super::api::Role::as_str);
        let via = caller.via.as_str();
        tracing::info!(
            target: "fleetd::audit",
            who = %caller.name,
            role,
            via,
            method = %method,
            path,
            status,
            "audit: {} ({role}, {via}) {method} {path}: {status}",
            caller.name,
        );
    }
}
