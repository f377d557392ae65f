//! A store that counts what is asked of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_kv::{
    BoxFuture, Kv, KvError, Lease, LeaseInfo, MemKv, Member, Op, Range, RangeReply, Txn, TxnReply,
    Watch, WatchRequest,
};

/// What was asked of it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) transactions: AtomicUsize,
    pub(crate) readings: AtomicUsize,
    pub(crate) watches: AtomicUsize,
    pub(crate) leases: AtomicUsize,
    pub(crate) renewals: AtomicUsize,
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
        self.kv.range(range)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        for op in &txn.then {
            if let Op::Put { key, .. } = op {
                self.may_panic(&String::from_utf8_lossy(key));
            }
        }
        count(&self.counts.transactions);
        self.kv.txn(txn)
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
