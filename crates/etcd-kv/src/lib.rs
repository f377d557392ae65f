//! A key-value store with leases and watches: etcd v3, and an in-memory twin under one conformance
//! suite.
//!
//! What is here:
//!
//! - [`Kv`]: the store as a trait object (`Arc<dyn Kv>`). Everything is expressed in etcd v3's own
//!   terms (revisions, leases, guarded transactions, watches from a revision), so nothing is lost
//!   between the trait and the real thing.
//! - [`EtcdKv`]: etcd v3 over gRPC. One HTTP/2 connection to one of several endpoints; a failure
//!   moves on to the next endpoint; every call has a deadline; watches resume by themselves where
//!   they stopped. The gRPC client is our own few hundred lines over `h2` and `prost`: it needs no
//!   `protoc`, and failover and deadlines are exactly the ones described here.
//! - [`MemKv`]: the same behaviour in memory, for tests and for programs that run without etcd.
//! - `testing` (feature): a private etcd server for tests, and the conformance suite that both
//!   stores pass.
//!
//! - [`Tls`]: authorities, certificate and key for `https://` endpoints. The server is always
//!   verified. User and password are exchanged for a token, which is renewed when the server no
//!   longer takes it.
//!
//! What is not here: key layouts (each program owns its own), retry loops above a single call
//! (policy of the program).
//!
//! Rules a caller can rely on:
//!
//! - Reads are tried on every endpoint within the deadline. Writes are sent at most once: when a
//!   write fails after it was sent, [`KvError::outcome_unknown`] is true and the caller must look.
//! - A watch delivers every change exactly once and in order, over reconnects and failovers, until
//!   it returns an error; after [`KvError::Compacted`], or [`KvError::Rewound`] where an older copy
//!   of the store was restored, the caller must read afresh and watch again.
//! - A call that got no answer in time leads to a look at its connection: if nobody is there, watches
//!   on it move on at once.

#![forbid(unsafe_code)]

mod error;
mod etcd;
mod kv;
mod mem;
mod model;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::KvError;
pub use etcd::{Credentials, Endpoint, EtcdConfig, EtcdKv, Tls, TlsError, TlsFiles};
pub use kv::{BoxFuture, Kv, Watch, WatchBatch};
pub use mem::MemKv;
pub use model::{
    Compare, Condition, DeleteReply, Event, KeyValue, Keys, Lease, LeaseInfo, Member, Op, OpReply,
    Order, PutReply, Range, RangeReply, ServerStatus, Txn, TxnReply, WatchRequest,
};
