//! networkd and flanneld: the machine's links and the cluster's overlay.
//!
//! Start reading at [`plan`] (what a link needs) and [`networkd`] (the loop around it). Decisions are in modules without
//! I/O: [`config`] (files and which link they are for), [`dhcp`] (the client's state machine), [`link_local`] (IPv4 without a server), [`plan`], [`status`]
//! (when the machine is online), [`resolv`]. [`netlink`] is the way to the kernel, [`networkd`] the daemon.
//! [`flannel`] is the other program: it shares [`netlink`] and nothing else.
//!
//! What this is not: no DNS resolver, no DHCPv6, no `.netdev` or `.link` files.
#![forbid(unsafe_code)]

pub mod config;
pub mod dhcp;
mod files;
pub mod flannel;
pub mod link_local;
pub mod netlink;
pub mod networkd;
mod nft;
pub mod plan;
pub mod resolv;
pub mod status;

pub(crate) use networkd::cli::version_line;
