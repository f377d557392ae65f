//! fleetctl against real daemons: conversations with exact output ([`scripts`]), and what takes more
//! than that.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod deeds;
mod front;
mod harness;
mod import;
#[path = "../../../fleetd/tests/cluster/pretend.rs"]
#[allow(dead_code, reason = "shared with fleetd's tests, which use more of it")]
mod pretend;
mod scripts;
mod secure;
mod ssh;
mod sshd;
