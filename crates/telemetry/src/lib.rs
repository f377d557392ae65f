//! Logging set-up and error chains for all programs.
//!
//! * [`init`] makes one [`Sink`] the place where `tracing` events of the process go: the journal (native protocol, every
//!   `tracing` field becomes a journal field), standard error, or the kernel log. [`Sink::detect`] chooses the journal
//!   when standard error is connected to it (`JOURNAL_STREAM`).
//! * [`chain`] prints an error with its causes; [`report`] is the one-line form that every command ends with.
//! * [`quiet_broken_pipe`] makes `journalctl | head` end as people expect.
//!
//! The level is `info` for daemons; `FLOTILLA_LOG=debug` or `FLOTILLA_LOG=info,fleetd::engine=trace` changes it, and a
//! command's `-v` raises it; [`set_steps`] changes that while the process runs. No configuration file, no rotation, no colours: the journal does the rest. The subscriber
//! is our own, because `tracing-subscriber`'s filter brings a regular expression engine into every program.
//!
//! Never log secrets: whatever is a field here can be read by the group `systemd-journal`.

#![forbid(unsafe_code)]

mod error;
mod filter;
mod format;
mod sink;
mod subscriber;

pub use error::{EXIT_BROKEN_PIPE, chain, is_broken_pipe, quiet_broken_pipe, report};
pub use filter::{Filter, FilterError};
pub use sink::{Sink, send_to_journal};
pub use subscriber::{init, set_steps};
