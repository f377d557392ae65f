//! DNS for announced services, answered on each machine from what it has mirrored of the registry.
//!
//! ```text
//!   registry announce/ ─▶ directory (follows) ─▶ zone (names and records)
//!                                                   ▲
//!   resolver ─UDP, TCP─▶ server ─▶ message (bytes in, bytes out)
//! ```
//!
//! - [`zone`]: which names there are, and what they stand for. Pure.
//! - [`message`]: a query's bytes to an answer's bytes. Pure; never panics on any bytes.
//! - `directory`: keeps the zone up to date by one watch.
//! - `server`: the sockets.
//!
//! No question ever waits for etcd. While etcd cannot be reached, the last known answers stay; before
//! anything has been read, answers are "server failure", so that a resolver asks elsewhere. Names
//! outside the zone are refused, for the same reason. Nothing is forwarded and nothing is cached.

mod directory;
pub mod message;
mod server;
pub mod zone;

pub use directory::Directory;
pub use server::{ListenError, Server};
