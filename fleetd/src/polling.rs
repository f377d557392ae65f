//! The store without watches (`disable_watches`): whoever watches is told of changes by looking again
//! and again, at an interval, and after each write of this daemon's own.
//!
//! A look asks for the number of keys only, which also tells whether the store has changed at all;
//! only then are the keys read. What came and went between two looks is not told, and of several
//! writes of one key only the last is; a key that was made anew is told as gone first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{
    BoxFuture, Event, KeyValue, Keys, Kv, KvError, Lease, LeaseInfo, Member, Op, Range, RangeReply,
    Txn, TxnReply, Watch, WatchBatch, WatchRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// A store that is never watched.
#[derive(Debug)]
pub struct PollingKv {
    inner: Arc<dyn Kv>,
    interval: Duration,
    /// Counts our own writes.
    writes: watch::Sender<u64>,
}

impl PollingKv {
    /// Looks at `inner` so often.
    #[must_use]
    pub fn new(inner: Arc<dyn Kv>, interval: Duration) -> Self {
        let (writes, _) = watch::channel(0);
        Self {
            inner,
            interval,
            writes,
        }
    }
}

/// What was seen last.
struct Seen {
    revision: i64,
    /// When each key was made, and written last.
    keys: BTreeMap<Vec<u8>, (i64, i64)>,
}

impl Seen {
    fn of(kvs: &[KeyValue], revision: i64) -> Self {
        let key = |kv: &KeyValue| (kv.key.clone(), (kv.create_revision, kv.mod_revision));
        Self {
            revision,
            keys: kvs.iter().map(key).collect(),
        }
    }

    /// What has become of it since.
    fn changes(&self, now: &Self, kvs: Vec<KeyValue>) -> Vec<Event> {
        let delete = |key: &Vec<u8>| Event::Delete {
            key: key.clone(),
            revision: now.revision,
            previous: None,
        };
        let gone = self.keys.keys().filter(|key| !now.keys.contains_key(*key));
        let mut events: Vec<Event> = gone.map(delete).collect();
        for kv in kvs {
            match self.keys.get(&kv.key) {
                Some((_, modified)) if *modified == kv.mod_revision => continue,
                Some((created, _)) if *created != kv.create_revision => {
                    events.push(delete(&kv.key));
                }
                _ => {}
            }
            events.push(Event::Put { kv, previous: None });
        }
        events
    }
}

/// Looks until nobody listens or something fails for good.
async fn poll(
    kv: Arc<dyn Kv>,
    keys: Keys,
    mut seen: Seen,
    interval: Duration,
    mut writes: watch::Receiver<u64>,
    out: mpsc::Sender<Result<WatchBatch, KvError>>,
) {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = writes.changed() => {}
            () = out.closed() => return,
        }
        let news = match look(&*kv, &keys, &mut seen).await {
            Ok(events) if events.is_empty() => continue,
            Ok(events) => Ok(WatchBatch {
                revision: seen.revision,
                events,
            }),
            // A watch, too, would wait.
            Err(error) if error.is_unavailable() => continue,
            Err(error) => Err(error),
        };
        let failed = news.is_err();
        if out.send(news).await.is_err() || failed {
            return;
        }
    }
}

/// What has changed since the last look.
async fn look(kv: &dyn Kv, keys: &Keys, seen: &mut Seen) -> Result<Vec<Event>, KvError> {
    let count = Range {
        count_only: true,
        ..Range::new(keys.clone())
    };
    let now = kv.range(count).await?.revision;
    if now < seen.revision {
        let seen = seen.revision;
        return Err(KvError::Rewound { seen, now });
    }
    if now == seen.revision {
        return Ok(Vec::new());
    }
    let all = kv.range(Range::new(keys.clone())).await?;
    let fresh = Seen::of(&all.kvs, all.revision);
    let events = seen.changes(&fresh, all.kvs);
    *seen = fresh;
    Ok(events)
}

impl Kv for PollingKv {
    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>> {
        Box::pin(async move {
            let (out, watch) = Watch::channel();
            let before = request.from.map(|from| from - 1);
            let seen = if before.is_some_and(|before| before < 1) {
                Seen::of(&[], 0)
            } else {
                let range = Range {
                    revision: before,
                    ..Range::new(request.keys.clone())
                };
                let base = self.inner.range(range).await?;
                Seen::of(&base.kvs, before.unwrap_or(base.revision))
            };
            let mut writes = self.writes.subscribe();
            // What was written since then is found by the first look.
            writes.mark_changed();
            let kv = self.inner.clone();
            tokio::spawn(poll(kv, request.keys, seen, self.interval, writes, out));
            Ok(watch)
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(async move {
            let mut ops = txn.then.iter().chain(&txn.otherwise);
            let writes = !ops.all(|op| matches!(op, Op::Range(_)));
            let reply = self.inner.txn(txn).await;
            if writes {
                self.writes.send_modify(|count| *count += 1);
            }
            reply
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        self.inner.range(range)
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

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>> {
        self.inner.members()
    }
}

#[cfg(test)]
mod tests {
    use etcd_kv::MemKv;
    use etcd_kv::testing::EtcdServer;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3600);

    async fn next(watch: &mut Watch) -> Vec<String> {
        let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        let batch = batch.expect("news").expect("no failure");
        let text = |event: &Event| match event {
            Event::Put { kv, .. } => format!("{}={}", kv.key_str(), kv.value_str()),
            Event::Delete { key, .. } => format!("{} gone", String::from_utf8_lossy(key)),
        };
        batch.events.iter().map(text).collect()
    }

    async fn story(inner: Arc<dyn Kv>) {
        let other: &dyn Kv = &*inner;
        for (key, value) in [("p/a", "1"), ("p/b", "1"), ("q", "1")] {
            other.put(key, value, None).await.unwrap();
        }
        let polling = PollingKv::new(inner.clone(), SOON);
        let keys = Keys::prefix("p/");
        let read = polling.range(Range::new(keys.clone())).await.unwrap();
        // What is written between reading and watching is not lost.
        other.delete(Keys::one("p/b")).await.unwrap();
        let request = WatchRequest::from(keys.clone(), read.revision + 1);
        let mut watch = polling.watch(request).await.unwrap();
        assert_eq!(next(&mut watch).await, ["p/b gone"]);
        other.put("q", "2", None).await.unwrap();
        other.put("p/a", "2", None).await.unwrap();
        assert_eq!(next(&mut watch).await, ["p/a=2"]);
        let anew = Txn::new().then(Op::delete("p/a"));
        other.txn(anew).await.unwrap();
        other.put("p/a", "3", None).await.unwrap();
        let mut told = next(&mut watch).await;
        if told == ["p/a gone"] {
            // A look fell between the two.
            told.extend(next(&mut watch).await);
        }
        assert_eq!(told, ["p/a gone", "p/a=3"]);

        // Our own writes do not wait for the next look.
        let polling: Arc<dyn Kv> = Arc::new(PollingKv::new(inner.clone(), NEVER));
        let mut watch = polling.watch(WatchRequest::now(keys)).await.unwrap();
        polling.put("p/c", "1", None).await.unwrap();
        assert_eq!(next(&mut watch).await, ["p/c=1"]);
    }

    #[tokio::test]
    async fn changes_are_told_by_looking_in_memory() {
        story(Arc::new(MemKv::new())).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_are_told_by_looking_in_etcd() {
        let server = EtcdServer::start().await;
        story(Arc::new(server.client())).await;
    }

    #[tokio::test]
    async fn outages_are_waited_out_and_lost_history_is_said() {
        let memory = Arc::new(MemKv::new());
        let kv: Arc<dyn Kv> = memory.clone();
        for _ in 0..9 {
            kv.put("k", "1", None).await.unwrap();
        }
        let polling = PollingKv::new(memory.clone(), SOON);
        let mut watch = polling
            .watch(WatchRequest::now(Keys::one("k")))
            .await
            .unwrap();
        memory.set_offline(true);
        // Time for a look or two that fail; nothing tells of them.
        tokio::time::sleep(SOON * 3).await;
        memory.set_offline(false);
        kv.put("k", "2", None).await.unwrap();
        assert_eq!(next(&mut watch).await, ["k=2"]);
        let mut seen = Seen::of(&[], 1000);
        let error = look(&*kv, &Keys::one("k"), &mut seen).await.unwrap_err();
        assert!(
            matches!(error, KvError::Rewound { seen: 1000, .. }),
            "{error:?}"
        );
        let past = WatchRequest::from(Keys::one("k"), 3);
        kv.compact(8).await.unwrap();
        let error = polling.watch(past).await.unwrap_err();
        assert!(matches!(error, KvError::Compacted { .. }), "{error:?}");
    }
}
