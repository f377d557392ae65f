//! The daemon: one thread, one `poll`, over the kernel's netlink events, signals, and the sockets of DHCP clients.
//!
//! `manager` owns all state and turns events into plans; `kernel` mirrors the kernel; `facts` reads what netlink does not
//! tell; `port` and `claim` own the sockets of DHCP clients and of link-local
//! addresses; `steps` does what a plan says; `publish` makes what others read, `outlets` writes it. Every decision is made in [`crate::plan`],
//! [`crate::config::matching`], [`crate::dhcp::client`], [`crate::status`] and [`crate::resolv`].

mod claim;
pub mod cli;
mod facts;
mod hostname;
mod identity;
mod kernel;
mod manager;
mod masquerade;
mod networkctl;
mod outlets;
mod port;
mod publish;
mod steps;
mod wait_online;

pub use manager::{Manager, ManagerError};
