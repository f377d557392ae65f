//! A store that counts what is asked of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_kv::{
    BoxFuture, Kv, KvError, Lease, LeaseInfo, MemKv, Member, OpReply, Range, RangeReply, Txn,
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
