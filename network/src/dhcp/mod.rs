//! A DHCPv4 client without I/O: messages, frames, leases, and the state machine of RFC 2131.
//!
//! The daemon owns sockets and timers; `client` is told what arrived and what time it is, and says what to send.

pub mod client;
pub mod frame;
pub mod lease;
pub mod message;

pub use client::{Action, Client, Event, Note, Params, Via};
pub use lease::Lease;
pub use message::Message;
