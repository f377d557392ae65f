//! The way to fleetd: where it is, how it is reached, and one HTTP exchange at a time.
//!
//! - [`endpoint`]: what `--endpoint` names.
//! - [`transport`]: a connection to it: socket, TCP, TLS, or any of these through ssh.
//! - [`tls`]: certificates; the server's is always verified.
//! - [`ssh`]: the system's ssh client, which carries tunnels and remote commands.
//! - [`http`]: requests and answers.
//! - [`news`]: a stream of changes, to wait for.

pub(crate) mod endpoint;
pub(crate) mod http;
pub(crate) mod news;
pub(crate) mod ssh;
pub(crate) mod tls;
pub(crate) mod transport;

pub(crate) use endpoint::Endpoint;
pub(crate) use http::Answer;
pub(crate) use news::News;
pub(crate) use transport::{Login, Transport};
