//! For tests: a private etcd server, and the suite that every [`Kv`](crate::Kv) must pass.

mod conformance;
mod server;

pub use conformance::conformance;
pub use server::{EtcdServer, ServerOptions};
