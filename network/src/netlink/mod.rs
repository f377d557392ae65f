//! Routing netlink: links, addresses, routes and neighbours of the kernel.
//!
//! `wire` knows bytes, `link`, `address`, `route` and `neighbour` know what messages mean, `socket` talks to the kernel. Nothing here decides anything.
//! A codec of our own, because only four message families are needed, both programs run for the machine's whole life, and
//! total parsing of them is a page of code.

pub mod address;
pub mod link;
pub mod neighbour;
pub mod route;
pub mod socket;
mod value;
pub mod wire;

pub use address::Address;
pub use link::{Link, Vxlan};
pub use neighbour::Neighbour;
pub use route::{Route, RouteKind};
pub use socket::{Handle, Monitor, NetlinkError};
pub use value::{Mac, Scope};
