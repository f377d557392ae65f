//! A store that counts what is asked of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_kv::{
    BoxFuture, Kv, KvError, Lease, LeaseInfo, MemKv, Member, Op, OpReply, Range, RangeReply, Txn,
    TxnReply, Watch, WatchRequest,
};

/// What was asked of it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) transactions: AtomicUsize,
    pub(crate) readings: AtomicUsize,
    pub(crate) watches: AtomicUsize,
    pub(crate) leases: AtomicUsize,
    pub(crate) renewals: AtomicUsize,
    /// Keys and values that came back.
    pub(crate) keys: AtomicUsize,
    pub(crate) values: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Counting {
    pub(crate) kv: MemKv,
    /// Whoever writes a key with this in it panics, as after a mistake of ours; a renewal is `lease`.
    pub(crate) panic_at: Arc<Mutex<Option<&'static str>>>,
    pub(crate) counts: Arc<Counts>,
}

impl Counts {
    /// Everything but signs of life, and those.
    pub(crate) fn read(&self) -> (usize, usize) {
        let counters = [
            &self.transactions,
            &self.readings,
            &self.watches,
            &self.leases,
        ];
        let sum = counters.iter().map(|c| c.load(Ordering::SeqCst)).sum();
        (sum, self.renewals.load(Ordering::SeqCst))
    }
}

impl Counts {
    fn note(&self, reply: &RangeReply) {
        let values = reply.kvs.iter().filter(|kv| !kv.value.is_empty());
        self.values.fetch_add(values.count(), Ordering::SeqCst);
        self.keys.fetch_add(reply.kvs.len(), Ordering::SeqCst);
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Counting {
    fn may_panic(&self, what: &str) {
        let at = *self.panic_at.lock().unwrap();
        assert!(!at.is_some_and(|at| what.contains(at)), "as the test wants");
    }
}

impl Kv for Counting {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        count(&self.counts.readings);
        Box::pin(async move {
            let reply = self.kv.range(range).await?;
            self.counts.note(&reply);
            Ok(reply)
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        for op in &txn.then {
            if let Op::Put { key, .. } = op {
                self.may_panic(&String::from_utf8_lossy(key));
            }
        }
        count(&self.counts.transactions);
        Box::pin(async move {
            let reply = self.kv.txn(txn).await?;
            for reply in &reply.replies {
                if let OpReply::Range(reply) = reply {
                    self.counts.note(reply);
                }
            }
            Ok(reply)
        })
    }

    fn compact(&self, revision: i64) -> BoxFuture<'_, Result<(), KvError>> {
        self.kv.compact(revision)
    }

    fn lease_grant(
        &self,
        ttl: Duration,
        id: Option<Lease>,
    ) -> BoxFuture<'_, Result<(Lease, Duration), KvError>> {
        count(&self.counts.leases);
        self.kv.lease_grant(ttl, id)
    }

    fn lease_keep_alive(&self, lease: Lease) -> BoxFuture<'_, Result<Duration, KvError>> {
        self.may_panic("lease");
        count(&self.counts.renewals);
        self.kv.lease_keep_alive(lease)
    }

    fn lease_revoke(&self, lease: Lease) -> BoxFuture<'_, Result<(), KvError>> {
        count(&self.counts.leases);
        self.kv.lease_revoke(lease)
    }

    fn lease_info(&self, lease: Lease, keys: bool) -> BoxFuture<'_, Result<LeaseInfo, KvError>> {
        self.kv.lease_info(lease, keys)
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>> {
        count(&self.counts.watches);
        self.kv.watch(request)
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>> {
        self.kv.members()
    }
}
