//! systemd1, login1 and hostname1 on D-Bus, for programs that ask a service manager to do something.
//!
//! It works the same on Flotilla (where `unit-busd` answers) and on a stock Debian (where systemd and a bus
//! daemon do), so fleetd, cloudinit, the runtime and locksmith run on both.
//!
//! - [`wire`] is the D-Bus format as pure functions; `unit-busd` uses it for the serving side.
//! - [`Call`] is one method call as a value: where it goes and how its answer is read. [`systemd1`],
//!   [`login1`], [`hostname1`] and [`bus`] make them.
//! - [`blocking::Connection`] and (feature `tokio`) [`asynchronous::Connection`] carry calls out; both can
//!   also run a job and wait for its end ([`blocking::Connection::run_job`]).
//!
//! ```no_run
//! use dbus_api::{blocking::Connection, systemd1::{self, JobMode, Verb}};
//! let mut bus = Connection::system()?;
//! let end = bus.run_job(Verb::Start, "etcd.service", JobMode::Replace, None)?;
//! assert!(end.is_done(), "etcd did not start: {end}");
//! let pid = bus.call(systemd1::unit_property("etcd.service", "Service", "MainPID"))?;
//! # Ok::<(), dbus_api::Error>(())
//! ```
//!
//! Not here: retries and back-off (the caller's `run` loop), the private socket's server, other services.
#![forbid(unsafe_code)]

pub mod address;
#[cfg(feature = "tokio")]
pub mod asynchronous;
pub mod blocking;
pub mod bus;
mod call;
mod error;
pub mod hostname1;
pub mod login1;
pub mod names;
pub mod properties;
#[cfg(feature = "snapshot")]
pub mod snapshot;
pub mod systemd1;
pub mod wire;

pub use call::Call;
pub use error::Error;
pub use properties::Properties;
