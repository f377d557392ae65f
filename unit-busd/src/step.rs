//! What a handler wants: an answer now, a question to PID 1 first, or something done to the connection.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use dbus_api::wire::Value;
use init_control::{ControlError, ErrorKind, PowerAction, Reply, Request};
use syscalls::socket::Credentials;

/// Goes on when PID 1 has answered.
pub(crate) type Next = Box<dyn FnOnce(Reply) -> Step>;

/// What to do next for a call.
pub(crate) enum Step {
    /// Answer with these values.
    Reply(Vec<Value>),
    /// Answer with these values and descriptors.
    ReplyWithFd(Vec<Value>, OwnedFd),
    /// Refuse: error name, text.
    Refuse(String, String),
    /// Ask PID 1, then go on; a refusal of PID 1 is passed on.
    Ask(Request, Next),
    /// Something the server keeps for the connection.
    Act(Act),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(values) => f.debug_tuple("Reply").field(values).finish(),
            Self::ReplyWithFd(values, fd) => f
                .debug_tuple("ReplyWithFd")
                .field(values)
                .field(fd)
                .finish(),
            Self::Refuse(name, text) => f.debug_tuple("Refuse").field(name).field(text).finish(),
            Self::Ask(request, _) => f.debug_tuple("Ask").field(request).finish(),
            Self::Act(act) => f.debug_tuple("Act").field(act).finish(),
        }
    }
}

/// State of the server that a call changes; each answers the call.
#[derive(Debug)]
pub(crate) enum Act {
    /// Unit signals for this connection, or no longer.
    Subscribe(bool),
    /// Keep a unit loaded while the connection lives, or no longer.
    Reference { unit: String, add: bool },
    /// End the machine through login1: inhibitors are looked at first.
    Power {
        action: PowerAction,
        check_inhibitors: bool,
    },
    /// Take an inhibitor lock.
    Inhibit {
        what: String,
        who: String,
        why: String,
        mode: String,
        peer: Credentials,
    },
    /// End the machine at a time (microseconds since 1970), none = cancel.
    Schedule(Option<(String, u64)>),
    /// Read the list of inhibitors.
    ListInhibitors,
    /// Read a property of login1, or all with an empty name.
    LoginProperty(String),
}

impl Step {
    /// An answer without values.
    pub(crate) fn done() -> Self {
        Self::Reply(Vec::new())
    }

    /// Refuse with an error of this kind.
    pub(crate) fn refuse(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self::Refuse(kind.dbus_name().to_owned(), text.into())
    }

    /// Refuse as PID 1 refused.
    pub(crate) fn refused(error: &ControlError) -> Self {
        Self::refuse(error.kind, &*error.message)
    }

    /// Refuse with an error of `org.freedesktop.DBus.Error`.
    pub(crate) fn bus_error(name: &str, text: impl Into<String>) -> Self {
        Self::Refuse(format!("org.freedesktop.DBus.Error.{name}"), text.into())
    }

    /// Ask PID 1; the answer carries nothing that the caller wants.
    pub(crate) fn ask_done(request: Request) -> Self {
        Self::Ask(request, Box::new(|_| Self::done()))
    }

    /// Ask PID 1 and go on with its answer.
    pub(crate) fn ask(request: Request, next: impl FnOnce(Reply) -> Self + 'static) -> Self {
        Self::Ask(request, Box::new(next))
    }

    /// PID 1 answered with another kind of reply than the request has: the two are not of one build.
    pub(crate) fn mismatch() -> Self {
        Self::refuse(
            ErrorKind::Failed,
            "PID 1 and unit-busd disagree; are they of one build?",
        )
    }
}

/// Facts that handlers read.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Where the control group hierarchy is mounted.
    pub(crate) cgroups: PathBuf,
    /// Root of the configuration files (`/`, another one in tests).
    pub(crate) root: PathBuf,
}
