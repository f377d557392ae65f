//! Containers as users know them, without a daemon.
//!
//! ```text
//!  docker run ──spawn──▶ container-monitor (one a container: one thread, a poll loop)
//!     ▲  seqpacket           ├─ helper ▶ the engine (oci-runtime), ends at once
//!     └──────────────────────┘    └▶ the container's processes
//! ```
//!
//! The `docker` command locks the store, does the work, starts a monitor and ends (or stays attached). The
//! monitor owns one container from start to end: streams, logs, exit status, restarts, ports, removal.
//! `dockerd` resolves the service's options and answers version questions; stopping it touches no container.
//!
//! - [`options`]: daemon.json and DOCKER_OPTS; [`host`]: where things are on this machine.
//! - [`container`]: the record of a container on disk and what is true of it now.
//! - [`cli`]: the `docker` command; [`monitor`]: the monitor; [`protocol`]: what they say to each other.
//! - [`place`]: which control group a container lives in; [`network`]: bridge, addresses, ports.
//! - [`relay`]: commands of users who are not root, run by dockerd.
//! - [`template`]: `--format`; [`time`]: times as docker prints them.
//!
//! What must stay true: no state lives in a process only. A killed monitor, command or dockerd loses nothing:
//! streams are FIFOs that the container holds itself, the exit status is kept by the kernel until somebody
//! adopts the container.
#![forbid(unsafe_code)]
// inspect prints objects of some thirty fields; json! counts each.
#![recursion_limit = "256"]

pub mod cli;
pub mod container;
pub mod daemon;
pub mod host;
pub mod monitor;
pub mod network;
pub mod options;
pub mod place;
pub mod protocol;
pub mod relay;
pub mod template;
pub mod time;
