//! What can go wrong between us and a service.

use std::io;

use crate::wire::DecodeError;

/// Why a call or a connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bus address cannot be understood.
    #[error("bus address {address:?} has no usable transport (unix:path= or unix:abstract=)")]
    Address {
        /// The address.
        address: String,
    },
    /// Nobody listens there.
    #[error("failed to connect to {address}")]
    Connect {
        /// The socket.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The server does not let us in.
    #[error("failed to authenticate at {address}: {reason}")]
    Auth {
        /// The socket.
        address: String,
        /// The server's line, or what was wrong with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("connection to the bus failed")]
    Io(#[source] io::Error),
    /// The other side closed the connection.
    #[error("connection to the bus was closed")]
    Closed,
    /// What came is no D-Bus message.
    #[error("malformed message from the bus")]
    Decode(#[source] DecodeError),
    /// The service refused.
    #[error("{member}: {message}")]
    Remote {
        /// The method.
        member: String,
        /// The error's D-Bus name.
        name: String,
        /// The service's words.
        message: String,
    },
    /// No answer in time.
    #[error("no answer to {member} in {seconds} s")]
    Timeout {
        /// The method, or what was waited for.
        member: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The answer has another shape than the interface says.
    #[error("answer to {member} has unexpected signature {found:?}")]
    UnexpectedReply {
        /// The method.
        member: String,
        /// What came.
        found: String,
    },
}

impl Error {
    /// The D-Bus error name, where a service refused.
    pub fn name(&self) -> Option<&str> {
        if let Self::Remote { name, .. } = self {
            Some(name)
        } else {
            None
        }
    }

    /// Does the unit not exist?
    pub fn is_no_such_unit(&self) -> bool {
        matches!(
            self.name(),
            Some("org.freedesktop.systemd1.NoSuchUnit" | "org.freedesktop.systemd1.NoUnitForPID")
        )
    }

    /// Is the method, interface or service absent (e.g. `org.flotilla.Init1` on stock systemd), or a service that the
    /// bus cannot start?
    pub fn is_unsupported(&self) -> bool {
        let Some(error) = self
            .name()
            .and_then(|name| name.strip_prefix("org.freedesktop.DBus.Error."))
        else {
            return false;
        };
        error.starts_with("Spawn.")
            || matches!(
                error,
                "UnknownMethod"
                    | "UnknownInterface"
                    | "UnknownObject"
                    | "ServiceUnknown"
                    | "NameHasNoOwner"
                    | "NotSupported"
            )
    }

    /// Did the connection end (the service or the bus restarts)? Connect again and repeat what is safe to repeat.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_) | Self::Connect { .. })
            || self.name() == Some("org.freedesktop.DBus.Error.NoReply")
    }
}
