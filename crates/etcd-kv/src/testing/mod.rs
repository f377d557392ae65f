//! For tests: a private etcd server, certificates, and the suite that every [`Kv`](crate::Kv) must pass.

mod conformance;
mod pki;
mod server;

pub use conformance::conformance;
pub use pki::Pki;
pub use server::{EtcdServer, ServerOptions};
