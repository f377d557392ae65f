//! The unit manager's decisions: dependency graph, transactions, jobs, per-type state machines.
//!
//! ```text
//!            Event ──▶ Engine::handle(now, event, host) ──▶ Vec<Action>
//!                          │ next_deadline()                   │
//!                          ▼                                   ▼
//!                 one timerfd of the shell          spawn, kill, mount, reply, log …
//! ```
//!
//! The engine owns what the units are and what becomes of them. It does no I/O and reads no clock: the shell
//! (`init`) hands events over, answers the questions of [`Host`], and performs the [`Action`]s in order.
//! Every job ends: it waits for another job, a process, a control group, a device or a deadline, never for
//! nothing. A bad unit file becomes `LoadState` error or bad-setting, never a panic.
#![forbid(unsafe_code)]

pub mod api;
mod engine;
mod graph;
mod implicit;
mod job;
mod load;
mod notify;
mod persist;
mod process;
mod report;
mod request;
mod snapshot;
mod state;
mod transaction;
mod transient;
mod types;
mod unit;

pub use api::{
    Action, Event, ExitStatus, FdToken, Host, Now, Output, RequestId, SpawnId, SpawnSpec,
};
pub use engine::{Config, Engine};
pub use persist::StateError;
