//! The fleet daemon: one process per machine that is agent, API server and, on one machine of the
//! cluster, engine.
//!
//! ```text
//!   HTTP ─▶ api ─▶ registry (etcd) ─▶ engine (leader) ─▶ registry ─▶ agent ─▶ service manager
//!                      ▲                                                │
//!                      └──────────── states, presence (leased) ◀────────┘
//! ```
//!
//! - [`config`]: `fleet.conf` and `FLEET_*`.
//! - [`registry`]: the only code that knows the keys in etcd; follows changes, never polls.
//! - [`presence`]: the machine's lease and record. A restarted daemon takes its old lease over, so a
//!   restart is not seen by the cluster. Here is the rule by which a unit with `Partition=stop` never
//!   runs twice.
//! - [`engine`]: performs the plans of `fleet_model::engine` while this machine leads.
//! - [`agent`]: performs the plans of `fleet_model::agent` through a [`agent::ServiceManager`].
//! - [`announce`]: writes what this machine's units serve into the registry; [`dns`] answers from it.
//! - [`api`]: HTTP API v1 and what is beyond it, on the sockets that the service manager passes;
//!   [`tls`], roles, [`audit`] and [`metrics`] belong to it, and so does the dashboard.
//! - [`logs`]: the tails of units' logs, also of units on other machines.
//! - [`dev`]: one machine with a store in memory, for a first try.
//! - [`daemon`]: puts the parts together, and what happens at the end.
//!
//! Decisions are in `fleet-model`; here is only what carries them out. Losing etcd stops nothing:
//! the last known wishes stay in force until newer ones arrive.

#![forbid(unsafe_code)]

pub mod agent;
pub mod announce;
pub mod api;
pub mod audit;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dev;
pub mod dns;
mod dump;
pub mod engine;
mod host;
pub mod logs;
pub mod metrics;
mod polling;
pub mod presence;
pub mod registry;
pub mod tls;
mod ui;

/// Version of the daemon, as machines and the API tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
