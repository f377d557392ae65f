//! What can go wrong with a store, in terms a caller can act on.

use std::time::Duration;

use crate::model::Lease;

/// Failure of one operation on the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// An endpoint is not a URL this crate can use.
    #[error("bad etcd endpoint \"{endpoint}\": {reason}")]
    BadEndpoint {
        /// The text as given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No endpoint could take the request, or the cluster has no leader.
    #[error("{what}: etcd is unavailable at {endpoints}: {reason}")]
    Unavailable {
        /// The operation.
        what: &'static str,
        /// The endpoints tried.
        endpoints: String,
        /// The last cause seen.
        reason: String,
        /// Whether a write may have happened nevertheless.
        sent: bool,
    },
    /// The deadline passed before an answer came.
    #[error("{what}: no answer from etcd within {} ms", after.as_millis())]
    Timeout {
        /// The operation.
        what: &'static str,
        /// The deadline.
        after: Duration,
        /// Whether a write may have happened nevertheless.
        sent: bool,
    },
    /// The revision asked for is no longer kept.
    #[error("revision is compacted; the oldest one kept is {oldest}")]
    Compacted {
        /// Oldest revision that can still be read, 0 where the server did not say.
        oldest: i64,
    },
    /// The store is not the one it was: an older copy was restored, or it is another cluster. What
    /// was read before must be read afresh.
    #[error(
        "etcd has lost its history: revision {seen} was seen, now it is {now}; was an older copy restored?"
    )]
    Rewound {
        /// Newest revision seen before.
        seen: i64,
        /// Revision it has now.
        now: i64,
    },
    /// The revision asked for does not exist yet.
    #[error("revision is in the future")]
    FutureRevision,
    /// The lease does not exist or has expired.
    #[error("lease {lease} not found")]
    LeaseNotFound {
        /// Its number.
        lease: Lease,
    },
    /// A lease with the number asked for exists.
    #[error("lease {lease} exists already")]
    LeaseExists {
        /// Its number.
        lease: Lease,
    },
    /// User name, password or permission is not enough.
    #[error("{what}: etcd refused access: {message}")]
    Denied {
        /// The operation.
        what: &'static str,
        /// The server's words.
        message: String,
    },
    /// The server understood and refused, for example a transaction with too many operations.
    #[error("{what}: etcd refused the request: {message}")]
    Rejected {
        /// The operation.
        what: &'static str,
        /// The gRPC status code.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The answer cannot be understood.
    #[error("{what}: malformed answer from etcd: {reason}")]
    Malformed {
        /// The operation.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl KvError {
    /// The store could not be reached or could not decide in time; trying later makes sense.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Timeout { .. })
    }

    /// A write failed in a way that leaves open whether it took effect.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unavailable { sent, .. } | Self::Timeout { sent, .. } => *sent,
            Self::Malformed { .. } => true,
            _ => false,
        }
    }
}
