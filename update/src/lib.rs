//! The running slot: is this boot healthy, and what the boot loader is told about it.
//!
//! Owns: the checks of boot-and-update.md §6.3 ([`health`], [`units`]) and the one way to the slot state on the ESP ([`esp`]).
//! Does not decide which slot boots: that is `boot-slots` and the selector script. No downloads, no reboot locks.

#![forbid(unsafe_code)]

pub mod boot;
pub mod esp;
pub mod health;
pub mod units;
