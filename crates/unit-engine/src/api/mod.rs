//! The border between the engine and the shell that acts for it: events in, actions out, questions asked.

mod action;
mod event;
mod host;
mod spawn;

pub use action::{Action, CgroupSignal, LogLevel, Output, ReplyResult, StatusKind, UnitLog};
pub use event::{
    DeviceInfo, Event, ExecFailure, ExitStatus, MountEntry, PeerAddress, SocketOpenError,
};
pub use host::{FileError, FileRef, Host, MaskState, UnitFiles, UserInfo};
pub use spawn::{MountOperation, PassedFd, Program, SpawnRole, SpawnSpec};

use serde::{Deserialize, Serialize};

/// The clocks at the moment an event is handled, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub monotonic: u64,
    /// CLOCK_REALTIME, since 1970.
    pub realtime: u64,
    /// CLOCK_BOOTTIME.
    pub boottime: u64,
}

/// Names one spawn; chosen by the engine, given back in the events about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpawnId(pub u64);

/// Names a descriptor that the shell holds for the engine (listening socket, connection, stored fd).
/// Chosen by the shell, never reused within one boot, kept over daemon-reexec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FdToken(pub u64);

/// Names a request until its reply. Chosen by the shell; opaque to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);
