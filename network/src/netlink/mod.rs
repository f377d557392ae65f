//! Routing netlink: links, addresses, routes and neighbours of the kernel.
//!
//! `wire` knows bytes, `route` knows what the messages mean, `socket` talks to the kernel. Nothing here decides anything.
//! A codec of our own, because only four message families are needed, both programs run for the machine's whole life, and
//! total parsing of them is a page of code.

pub mod route;
pub mod socket;
pub mod wire;

pub use route::{Address, Link, Mac, Neighbour, Route, RouteKind, Scope};
pub use socket::{Handle, Monitor, NetlinkError};
