//! Machines in QEMU: the virtual cluster of `cargo xtask up` and of the whole-system tests.
//!
//! Owns: accelerator choice, the LAN without root, seed drives, machine processes, ssh, the local registry. Every
//! process is a child that is ended by its own pid; files live in one directory per cluster. Does not build the image.
//!
//! Waiting is always for a condition with a deadline; a guest panic is a result of its own and carries the console.

#![forbid(unsafe_code)]

pub mod accel;
pub mod debian;
pub mod examples;
pub mod image;
pub mod machine;
pub mod members;
pub mod process;
pub mod registry;
pub mod seed;
pub mod segment;
pub mod world;

pub use debian::Debian;
pub use machine::{Firmware, Machine, MachineSpec};
pub use segment::Segment;
pub use world::World;
