//! The language of PID 1's control socket: requests, replies, signals and the snapshots they carry.
//!
//! PID 1 listens on [`SOCKET_PATH`] (`SOCK_SEQPACKET`, 0600 root). Two programs speak to it: `unit-busd`,
//! which turns D-Bus calls into these frames, and our `systemctl`. Both ends come from one build, so the
//! encoding is compact (postcard) and carries a version only to refuse a stranger with a clear error.
//!
//! ```text
//! client ── ClientFrame { id, Request } ──▶ PID 1
//! client ◀── ServerFrame::Reply { id, Result<Reply, ControlError> } ── PID 1
//! client ◀── ServerFrame::Signal(Signal)  (after Request::Subscribe) ── PID 1
//! ```
//!
//! Rules of the conversation:
//!
//! - Every request gets exactly one reply with its id; only [`Request::Reexec`] and an immediate
//!   [`Request::Power`] may end the connection instead.
//! - Replies may come in another order than the requests.
//! - The reply that names a job is sent before the [`Signal::JobRemoved`] of that job, also when the job
//!   ends at once.
//! - A frame larger than one packet travels as several ([`frame`]); packets of two frames are never mixed.
//! - Whoever reaches the socket is root; deciding *who may* is `unit-busd`'s duty.
//!
//! The crate owns types and bytes. It does no I/O, reads no clock, and does not decide anything about units.
//! What a client can read by itself from the kernel (processes of a control group, live counters) is not
//! asked of PID 1: a snapshot names the control group, the client walks it.
#![forbid(unsafe_code)]

mod error;
mod exit_step;
pub mod frame;
mod manager;
mod message;
mod request;
mod unit;
mod unit_files;
mod unit_types;

pub use error::{ControlError, ErrorKind};
pub use exit_step::exit_step;
pub use manager::{BootTimes, ManagerSnapshot, SystemState};
pub use message::{
    ClientFrame, JobEntry, Reply, ServerFrame, Signal, SubscribeLevel, UnitListEntry,
};
pub use request::{JobMode, KillWho, PowerAction, Request, TransientUnit, Verb};
pub use unit::{
    ActiveState, CgroupSnapshot, ConditionSnapshot, DependencyKind, JobRef, LoadState, Setting,
    Stamp, UnitSnapshot,
};
pub use unit_files::{
    EnableFlags, PresetMode, UnitFileChange, UnitFileEntry, UnitFileRequest, UnitFileState,
};
pub use unit_types::{
    AutomountSnapshot, CalendarTimer, DeviceSnapshot, ExecSnapshot, MonotonicTimer, MountSnapshot,
    PathSnapshot, ScopeSnapshot, ServiceSnapshot, SocketSnapshot, SwapSnapshot, TimerSnapshot,
    TypeSnapshot,
};

/// Where PID 1 listens.
pub const SOCKET_PATH: &str = "/run/flotilla/init.sock";
