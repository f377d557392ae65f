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
    /// Certificates cannot be used.
    #[error("failed to set up TLS: {file}: {reason}")]
    Tls { file: String, reason: String },
    /// The tunnel cannot be used.
    #[error("bad tunnel \"{host}\": {reason}")]
    Tunnel { host: String, reason: String },
    /// Nobody answers.
    #[error("failed to connect to fleetd at {endpoint}")]
    Connect { endpoint: String, source: io::Error },
    /// The connection broke.
    #[error("failed to {what}: the connection to {endpoint} broke")]
    Exchange {
        what: String,
        endpoint: String,
        source: io::Error,
    },
    /// The answer is not HTTP, or not the API's.
    #[error("failed to {what}: {endpoint} does not answer as expected: {reason}")]
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
    /// This fleetd cannot do that.
    #[error("failed to {what}: this fleetd has no {resource}")]
    TooOld { what: String, resource: String },
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
    #[error("timed out waiting for unit {name} to report state {state}{}", because(.reason))]
    TimedOut {
        name: String,
        state: String,
        /// Why it has not come so far, where that is known.
        reason: Option<String>,
    },
    /// A unit did not become active.
    #[error("unit {name} did not become active: it is {state}")]
    NotActive { name: String, state: String },
    /// A batch unit has failed for good.
    #[error("unit {name} has failed with exit status {exit}")]
    BatchFailed { name: String, exit: i32 },
    /// Waiting failed for several units.
    #[error("{first} (and {others} more {})", if *.others == 1 { "unit" } else { "units" })]
    Several { first: Box<Failure>, others: usize },
    /// A rolling replace ended early.
    #[error("stopped replacing at unit {name}; {standing}")]
    Rolling {
        name: String,
        /// What has been replaced and what has not.
        standing: String,
        source: Box<Failure>,
    },
    /// A drain ended with units left.
    #[error("machine {machine} still has units: {units}")]
    NotDrained { machine: String, units: String },
    /// Nobody leads, or the leader has other things to do.
    #[error("timed out waiting for the leader to begin with rebalancing")]
    NoLeader,
    /// What was asked for cannot be done with this unit, or this request makes no sense.
    #[error("{0}")]
    Refused(String),
    /// A program cannot be run.
    #[error("failed to run {program}")]
    Spawn { program: String, source: io::Error },
    /// The old cluster's registry cannot be read.
    #[error("failed to read the registry in etcd at {url}: {reason}")]
    Registry { url: String, reason: String },
    /// Its etcd gives it to certain users only.
    #[error(
        "failed to read the registry in etcd at {url}: it wants a user who may read it, and the password"
    )]
    RegistryUser { url: String },
}

fn because(reason: &Option<String>) -> String {
    reason
        .as_ref()
        .map(|r| format!(": {r}"))
        .unwrap_or_default()
}

impl Failure {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect { source, endpoint } => connect_hint(source, endpoint),
            Self::Exchange { source, .. } => exchange_hint(source),
            Self::Api { status: 503, .. } => Some(
                "this machine has no contact with etcd (systemctl status etcd; \
                    journalctl -u fleet)",
            ),
            Self::Api {
                status: 401 | 403, ..
            } => Some(
                "the API gives this user or certificate a lesser role (api_roles in fleet.conf)",
            ),
            Self::TooOld { .. } => Some("it is older than this fleetctl, or not Flotilla's"),
            Self::NoSource { .. } => Some("name a unit file, or submit the template first"),
            Self::NotFound { .. } => Some("fleetctl list-unit-files shows what there is"),
            Self::NotActive { .. } | Self::BatchFailed { .. } => {
                Some("fleetctl status UNIT and fleetctl journal UNIT say more")
            }
            Self::TimedOut { .. } | Self::NotDrained { .. } => {
                Some("fleetctl explain UNIT says what it waits for")
            }
            Self::NoLeader => Some("some fleetd must run with its engine enabled, and reach etcd"),
            Self::Several { first, .. } => first.hint(),
            Self::Rolling { source, .. } => source.hint(),
            Self::Registry { .. } => Some(
                "the old etcd must answer its v2 API: etcd 2, or etcd 3 up to 3.5 with --enable-v2",
            ),
            Self::RegistryUser { .. } => Some("--etcd2-username and --etcd2-password-file"),
            Self::Spawn { program, .. } if program == "ssh" => Some("install openssh-client"),
            _ => None,
        }
    }

    /// A word for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Endpoint { .. } => "bad-endpoint",
            Self::Tls { .. } => "bad-tls",
            Self::Connect { .. } | Self::Exchange { .. } | Self::Answer { .. } => "no-connection",
            Self::Api {
                status: 403 | 401, ..
            }
            | Self::RegistryUser { .. } => "forbidden",
            Self::Api { .. } => "api",
            Self::TooOld { .. } => "not-supported",
            Self::NotFound { .. } | Self::NoSource { .. } => "not-found",
            Self::TimedOut { .. } | Self::NoLeader => "timed-out",
            Self::NotActive { .. } => "not-active",
            Self::BatchFailed { .. } => "batch-failed",
            Self::Several { first, .. } => first.code(),
            Self::Rolling { source, .. } => source.code(),
            Self::NotDrained { .. } => "not-drained",
            _ => "failed",
        }
    }
}

fn connect_hint(source: &io::Error, endpoint: &str) -> Option<&'static str> {
    Some(match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "members of the group fleet may use the socket; or use sudo"
        }
        _ if endpoint.starts_with("unix:") => {
            "is fleet.socket started here (systemctl status fleet.socket fleet.service)? \
             --endpoint chooses another machine"
        }
        _ => "does a fleet.socket there listen on that port (ListenStream=)?",
    })
}

fn exchange_hint(source: &io::Error) -> Option<&'static str> {
    match source.kind() {
        io::ErrorKind::InvalidData => Some(
            "--ca-file names the authority of fleetd's certificate; --cert-file and --key-file ours",
        ),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Some("--request-timeout gives it more time")
        }
        _ => None,
    }
}
