//! The store as a trait object, the conveniences on it, and the receiving end of a watch.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::KvError;
use crate::model::{
    DeleteReply, Event, KeyValue, Keys, Lease, LeaseInfo, Member, Op, OpReply, PutReply, Range,
    RangeReply, Txn, TxnReply, WatchRequest,
};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key-value store with revisions, leases and watches, as etcd v3 defines them.
///
/// Used as `Arc<dyn Kv>`; the shorter forms for daily use (`get`, `put`, `delete`, …) are inherent
/// methods of `dyn Kv`.
pub trait Kv: std::fmt::Debug + Send + Sync + 'static {
    /// Reads keys.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>>;

    /// Runs a transaction.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>>;

    /// Forgets the history before `revision`.
    fn compact(&self, revision: i64) -> BoxFuture<'_, Result<(), KvError>>;

    /// Makes a lease of at least `ttl` (whole seconds; the server may lengthen it) and returns it
    /// with the time granted. `id` asks for a certain number.
    fn lease_grant(
        &self,
        ttl: Duration,
        id: Option<Lease>,
    ) -> BoxFuture<'_, Result<(Lease, Duration), KvError>>;

    /// Renews a lease to its full time and returns that time.
    fn lease_keep_alive(&self, lease: Lease) -> BoxFuture<'_, Result<Duration, KvError>>;

    /// Ends a lease; its keys are deleted.
    fn lease_revoke(&self, lease: Lease) -> BoxFuture<'_, Result<(), KvError>>;

    /// Looks at a lease without renewing it.
    fn lease_info(&self, lease: Lease, keys: bool) -> BoxFuture<'_, Result<LeaseInfo, KvError>>;

    /// Begins a watch; when this returns, no later change is missed.
    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>>;

    /// Lists the members of the cluster.
    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>>;
}

/// Forms for daily use.
impl dyn Kv {
    /// Reads one key.
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<KeyValue>, KvError> {
        Ok(self.range(Range::new(Keys::one(key))).await?.kvs.pop())
    }

    /// Reads all keys that begin with `prefix`.
    pub async fn list(&self, prefix: impl Into<Vec<u8>>) -> Result<RangeReply, KvError> {
        self.range(Range::new(Keys::prefix(prefix))).await
    }

    /// Writes one key.
    pub async fn put(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        lease: Option<Lease>,
    ) -> Result<PutReply, KvError> {
        let op = Op::Put {
            key: key.into(),
            value: value.into(),
            lease,
            previous: true,
        };
        match self.txn(Txn::new().then(op)).await?.replies.pop() {
            Some(OpReply::Put(reply)) => Ok(reply),
            _ => Err(malformed("put")),
        }
    }

    /// Deletes keys.
    pub async fn delete(&self, keys: Keys) -> Result<DeleteReply, KvError> {
        let op = Op::Delete {
            keys,
            previous: true,
        };
        match self.txn(Txn::new().then(op)).await?.replies.pop() {
            Some(OpReply::Delete(reply)) => Ok(reply),
            _ => Err(malformed("delete")),
        }
    }
}

fn malformed(what: &'static str) -> KvError {
    KvError::Malformed {
        what,
        reason: "answer of another kind than the request".into(),
    }
}

/// Changes of one or more revisions, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Revision of the last change in it; a revision is never split over batches.
    pub revision: i64,
    /// The changes.
    pub events: Vec<Event>,
}

/// The receiving end of a watch. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    rx: mpsc::Receiver<Result<WatchBatch, KvError>>,
}

/// Batches that may wait for a slow reader before the sender stops reading.
const WATCH_BUFFER: usize = 64;

impl Watch {
    /// A watch of whatever is sent; for stores, and for wrappers of stores.
    #[must_use]
    pub fn channel() -> (mpsc::Sender<Result<WatchBatch, KvError>>, Self) {
        let (tx, rx) = mpsc::channel(WATCH_BUFFER);
        (tx, Self { rx })
    }

    /// The next changes. Waits as long as it takes, also over lost connections; an error is final.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Result<WatchBatch, KvError> {
        self.rx.recv().await.unwrap_or_else(|| {
            Err(KvError::Unavailable {
                what: "watch",
                endpoints: String::new(),
                reason: "the watch has ended".into(),
                sent: false,
            })
        })
    }

    /// Changes that have already arrived; `None` if there are none yet.
    pub fn try_next(&mut self) -> Option<Result<WatchBatch, KvError>> {
        self.rx.try_recv().ok()
    }
}
