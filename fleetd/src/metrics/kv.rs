//! The store, with every operation on the registry counted and timed. Leases and watches are not
//! operations on the registry and pass through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_kv::{
    BoxFuture, Keys, Kv, KvError, Lease, LeaseInfo, Member, Op, Range, RangeReply, Txn, TxnReply,
    Watch, WatchRequest,
};

use super::Metrics;

/// A store that counts.
#[derive(Debug)]
pub struct MeteredKv {
    inner: Arc<dyn Kv>,
    metrics: Arc<Metrics>,
}

impl MeteredKv {
    /// Counts what is asked of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Kv>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    fn counted<'a, T: 'a>(
        &'a self,
        kind: &'static str,
        work: BoxFuture<'a, Result<T, KvError>>,
    ) -> BoxFuture<'a, Result<T, KvError>> {
        Box::pin(async move {
            let start = Instant::now();
            let result = work.await;
            self.metrics
                .operation(kind, start.elapsed(), result.is_ok());
            result
        })
    }
}

/// The words of the original.
fn kind_of_txn(txn: &Txn) -> &'static str {
    let reads = |ops: &[Op]| ops.iter().all(|op| matches!(op, Op::Range(_)));
    if reads(&txn.then) && reads(&txn.otherwise) {
        "get"
    } else {
        "set"
    }
}

impl Kv for MeteredKv {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        let kind = match range.keys {
            Keys::One(_) => "get",
            _ => "get_all",
        };
        self.counted(kind, self.inner.range(range))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        self.counted(kind_of_txn(&txn), self.inner.txn(txn))
    }

    fn compact(&self, revision: i64) -> BoxFuture<'_, Result<(), KvError>> {
        self.inner.compact(revision)
    }

    fn lease_grant(
        &self,
        ttl: Duration,
        id: Option<Lease>,
    ) -> BoxFuture<'_, Result<(Lease, Duration), KvError>> {
        self.inner.lease_grant(ttl, id)
    }

    fn lease_keep_alive(&self, lease: Lease) -> BoxFuture<'_, Result<Duration, KvError>> {
        self.inner.lease_keep_alive(lease)
    }

    fn lease_revoke(&self, lease: Lease) -> BoxFuture<'_, Result<(), KvError>> {
        self.inner.lease_revoke(lease)
    }

    fn lease_info(&self, lease: Lease, keys: bool) -> BoxFuture<'_, Result<LeaseInfo, KvError>> {
        self.inner.lease_info(lease, keys)
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>> {
        self.inner.watch(request)
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>> {
        self.inner.members()
    }
}

#[cfg(test)]
mod tests {
    use etcd_kv::MemKv;

    use super::*;

    #[tokio::test]
    async fn operations_are_counted_by_kind_failures_too() {
        let metrics = Arc::new(Metrics::default());
        let memory = Arc::new(MemKv::new());
        let kv: Arc<dyn Kv> = Arc::new(MeteredKv::new(memory.clone(), metrics.clone()));
        kv.put("a", "1", None).await.unwrap();
        kv.get("a").await.unwrap();
        kv.list("").await.unwrap();
        memory.set_offline(true);
        kv.get("a").await.unwrap_err();
        let text = metrics.text();
        for line in [
            "fleet_registry_operation_count_total{type=\"set\"} 1",
            "fleet_registry_operation_count_total{type=\"get\"} 2",
            "fleet_registry_operation_count_total{type=\"get_all\"} 1",
            "fleet_registry_operation_failed_count_total{type=\"get\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
