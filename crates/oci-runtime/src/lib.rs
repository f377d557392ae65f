//! OCI containers: what a container's environment shall be, as a value, and the engine that makes it.
//!
//! ```text
//!  Plan --spec()--> OCI runtime configuration --Engine::run--> init process (stopped before exec, checked, let go)
//!   |--devices::program()--> eBPF for the container's control group (attached by the caller before)
//! ```
//!
//! Owns: [`plan`] (namespaces, mounts, masked paths, limits), [`caps`], [`seccomp`], [`devices`], and
//! [`engine`]: the `Engine` trait over libcontainer. Does not own: images, networks, control groups'
//! places, logs, restarts.
//!
//! What must stay true:
//! - libcontainer is called only in a process that does nothing else and has one thread
//!   ([`helper`]): it clones with the raw system call and allocates in the child, and it leaves the caller
//!   non-dumpable.
//! - A container whose plan asks for seccomp never runs without a filter: the engine reads the kernel's word
//!   for it (`Seccomp: 2`) before it lets the process go.
//! - Device rules are ours: libcontainer ignores them on cgroup v2.
#![forbid(unsafe_code)]

pub mod caps;
mod complaints;
pub mod devices;
pub mod engine;
pub mod helper;
pub mod plan;
pub mod seccomp;
pub mod users;

pub use engine::{Engine, EngineError, ErrorKind, ExecRequest, RunRequest};
pub use plan::Plan;
