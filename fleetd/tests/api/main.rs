//! The API over real sockets, on a store in memory: conformance with the contract row by row,
//! access, limits, and what is beyond the original.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod beyond;
mod conformance;
#[allow(dead_code, reason = "the cluster tests use the rest")]
#[path = "../cluster/counting.rs"]
mod counting;
mod harness;
mod hostile;
mod pages;
#[allow(dead_code, reason = "the cluster tests use the rest")]
#[path = "../cluster/pretend.rs"]
mod pretend;
mod security;
mod whole;
