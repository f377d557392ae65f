//! What can fail, with what to do about it.

use std::io;

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The endpoint is no URL that can be used.
    #[error("bad endpoint \"{endpoint}\": {reason}")]
    Endpoint {
        endpoint: String,
        reason: &'static str,
    },
    /// Nobody answers.
    #[error("failed to connect to fleetd at {endpoint}")]
    Connect { endpoint: String, source: io::Error },
    /// The connection broke.
    #[error("failed to {what}: the connection to fleetd at {endpoint} broke")]
    Exchange {
        what: String,
        endpoint: String,
        source: io::Error,
    },
    /// The answer is not HTTP, or not the API's.
    #[error("failed to {what}: {endpoint} does not answer like fleetd: {reason}")]
    Answer {
        what: String,
        endpoint: String,
        reason: String,
    },
    /// The API said no.
    #[error("failed to {what}: {message}")]
    Api {
        what: String,
        status: u16,
        message: String,
    },
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read { path: String, source: io::Error },
    /// A file is no unit.
    #[error("{path}: {reason}")]
    UnitFile { path: String, reason: String },
    /// No file, and no template, for a unit that the cluster does not know.
    #[error(
        "unable to find unit {name}: neither the cluster nor a local file has it or its template"
    )]
    NoSource { name: String },
    /// The cluster does not know a unit.
    #[error("unit {name} not found")]
    NotFound { name: String },
    /// Waiting took too long.
    #[error("timed out waiting for unit {name} to report state {state}")]
    TimedOut { name: String, state: String },
    /// A unit did not become active.
    #[error("unit {name} did not become active: it is {state}")]
    NotActive { name: String, state: String },
    /// What was asked for cannot be done with this unit, or this request makes no sense.
    #[error("{0}")]
    Refused(String),
    /// A program cannot be run.
    #[error("failed to run {program}")]
    Spawn { program: String, source: io::Error },
}

impl Failure {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("members of the group fleet may use the socket; or use sudo")
            }
            Self::Connect { .. } => Some(
                "is fleet.socket started here (systemctl status fleet.socket fleet.service)? \
                    --endpoint chooses another machine",
            ),
            Self::Api { status: 503, .. } => Some(
                "this machine has no contact with etcd (systemctl status etcd; \
                    journalctl -u fleet)",
            ),
            Self::NoSource { .. } => Some("name a unit file, or submit the template first"),
            Self::NotActive { .. } => {
                Some("fleetctl status UNIT and fleetctl journal UNIT say more")
            }
            Self::TimedOut { .. } => {
                Some("the leader's log says why a unit waits (journalctl -u fleet on its machine)")
            }
            _ => None,
        }
    }

    /// A word for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Endpoint { .. } => "bad-endpoint",
            Self::Connect { .. } | Self::Exchange { .. } | Self::Answer { .. } => "no-connection",
            Self::Api { .. } => "api",
            Self::NotFound { .. } => "not-found",
            _ => "failed",
        }
    }
}
