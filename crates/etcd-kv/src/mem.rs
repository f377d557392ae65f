//! The store in memory: etcd v3's semantics, kept honest by the conformance suite.
//!
//! All state is behind one mutex that is never held across an await. The whole history since the
//! last compaction is kept, so watches can begin in the past and readings at old revisions work.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::error::KvError;
use crate::kv::{BoxFuture, Kv, Watch, WatchBatch};
use crate::model::{
    Compare, Condition, DeleteReply, Event, KeyValue, Keys, Lease, LeaseInfo, Member, Op, OpReply,
    Order, PutReply, Range, RangeReply, Txn, TxnReply, WatchRequest,
};

/// etcd's default limit of operations in one list of a transaction.
const MAX_TXN_OPS: usize = 128;

/// The store in memory. Cloning is cheap and shares the contents. Leases need a tokio runtime.
#[derive(Debug, Clone, Default)]
pub struct MemKv {
    store: Arc<Mutex<Store>>,
}

/// A lease in whole seconds, at least one, as etcd counts.
pub(crate) fn whole_seconds(ttl: Duration) -> i64 {
    let up = u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(ttl.as_secs().saturating_add(up))
        .unwrap_or(i64::MAX)
        .max(1)
}

#[derive(Debug)]
struct Store {
    revision: i64,
    /// Oldest revision that can still be read.
    compacted: i64,
    /// Every kept state of every key, oldest first. `None` is a deletion.
    history: BTreeMap<Vec<u8>, Vec<(i64, Option<KeyValue>)>>,
    /// Changes in order.
    log: Vec<Event>,
    leases: BTreeMap<Lease, LeaseState>,
    next_lease: i64,
    watchers: Vec<Watcher>,
    offline: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            history: BTreeMap::new(),
            log: Vec::new(),
            leases: BTreeMap::new(),
            next_lease: 0x1000,
            watchers: Vec::new(),
            offline: false,
        }
    }
}

#[derive(Debug)]
struct LeaseState {
    granted: i64,
    deadline: Instant,
    keys: BTreeSet<Vec<u8>>,
}

#[derive(Debug)]
struct Watcher {
    keys: Keys,
    previous: bool,
    feed: mpsc::UnboundedSender<WatchBatch>,
}

impl MemKv {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every operation fail as unavailable, as if the cluster could not be reached, until
    /// called with `false`. Time goes on and leases expire; watches stay silent and then catch up.
    pub fn set_offline(&self, offline: bool) {
        self.lock().offline = offline;
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // A panic while locked can only come from a bug in this file; the data is still usable.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on the store unless it plays dead.
    fn with<T>(
        &self,
        what: &'static str,
        f: impl FnOnce(&mut Store) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let mut store = self.lock();
        store.expire(Instant::now());
        if store.offline {
            return Err(KvError::Unavailable {
                what,
                endpoints: "memory".into(),
                reason: "set offline".into(),
                sent: false,
            });
        }
        f(&mut store)
    }
}

impl Store {
    fn rejected(what: &'static str, message: &str) -> KvError {
        KvError::Rejected {
            what,
            code: 3,
            message: format!("etcdserver: {message}"),
        }
    }

    /// The state of a key at a revision.
    fn at(states: &[(i64, Option<KeyValue>)], revision: i64) -> Option<&KeyValue> {
        let after = states.partition_point(|(r, _)| *r <= revision);
        states[..after].last().and_then(|(_, kv)| kv.as_ref())
    }

    fn now(&self, key: &[u8]) -> Option<&KeyValue> {
        self.history.get(key)?.last()?.1.as_ref()
    }

    fn matching<'a>(
        &'a self,
        keys: &'a Keys,
        revision: i64,
    ) -> impl Iterator<Item = &'a KeyValue> + 'a {
        let start = match keys {
            Keys::One(k) | Keys::Prefix(k) | Keys::Between(k, _) | Keys::From(k) => k.clone(),
        };
        self.history
            .range((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(k, _)| keys.contains(k))
            .filter_map(move |(_, states)| Self::at(states, revision))
    }

    fn range(&self, range: &Range) -> Result<RangeReply, KvError> {
        if matches!(&range.keys, Keys::One(k) if k.is_empty()) {
            return Err(Self::rejected("read", "key is not provided"));
        }
        let revision = match range.revision {
            Some(r) if r > self.revision => return Err(KvError::FutureRevision),
            Some(r) if r < self.compacted => {
                return Err(KvError::Compacted {
                    oldest: self.compacted,
                });
            }
            Some(r) if r > 0 => r,
            // Also what the same transaction wrote before this reading.
            _ => i64::MAX,
        };
        let mut kvs: Vec<KeyValue> = self.matching(&range.keys, revision).cloned().collect();
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        if range.order == Order::Created {
            kvs.sort_by_key(|kv| kv.create_revision);
        }
        let mut more = false;
        if range.count_only {
            kvs.clear();
        } else if let Some(limit) = range.limit.and_then(|l| usize::try_from(l).ok())
            && limit > 0
            && kvs.len() > limit
        {
            kvs.truncate(limit);
            more = true;
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(RangeReply {
            revision: self.revision,
            kvs,
            more,
            count,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.now(&compare.key);
        let number = |f: fn(&KeyValue) -> i64| kv.map_or(0, f);
        match &compare.condition {
            Condition::Version(v) => number(|kv| kv.version) == *v,
            Condition::VersionAbove(v) => number(|kv| kv.version) > *v,
            Condition::Created(r) => number(|kv| kv.create_revision) == *r,
            Condition::Modified(r) => number(|kv| kv.mod_revision) == *r,
            Condition::ModifiedBefore(r) => number(|kv| kv.mod_revision) < *r,
            Condition::Value(v) => kv.is_some_and(|kv| kv.value == *v),
            Condition::ValueNot(v) => kv.is_some_and(|kv| kv.value != *v),
            Condition::Lease(l) => kv.and_then(|kv| kv.lease) == *l,
        }
    }

    /// What etcd refuses before it looks at any key.
    fn check_ops(&self, ops: &[Op]) -> Result<(), KvError> {
        if ops.len() > MAX_TXN_OPS {
            return Err(Self::rejected(
                "write",
                "too many operations in txn request",
            ));
        }
        let mut put = HashSet::new();
        for op in ops {
            match op {
                Op::Put { key, .. } if key.is_empty() => {
                    return Err(Self::rejected("write", "key is not provided"));
                }
                Op::Put { key, .. } if !put.insert(key.as_slice()) => {
                    return Err(Self::rejected(
                        "write",
                        "duplicate key given in txn request",
                    ));
                }
                _ => {}
            }
        }
        for op in ops {
            if let Op::Delete { keys, .. } = op
                && put.iter().any(|key| keys.contains(key))
            {
                return Err(Self::rejected(
                    "write",
                    "duplicate key given in txn request",
                ));
            }
        }
        Ok(())
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnReply, KvError> {
        if txn.when.len() > MAX_TXN_OPS {
            return Err(Self::rejected(
                "write",
                "too many operations in txn request",
            ));
        }
        self.check_ops(&txn.then)?;
        self.check_ops(&txn.otherwise)?;
        let succeeded = txn.when.iter().all(|c| self.holds(c));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        // Everything that can fail is tried first, so a transaction happens whole or not at all.
        for op in ops {
            match op {
                Op::Range(range) => drop(self.range(range)?),
                Op::Put {
                    lease: Some(lease), ..
                } if !self.leases.contains_key(lease) => {
                    return Err(KvError::LeaseNotFound { lease: *lease });
                }
                _ => {}
            }
        }
        let revision = self.revision + 1;
        let mut events = Vec::new();
        let mut replies = Vec::new();
        for op in ops {
            replies.push(match op {
                Op::Range(range) => OpReply::Range(self.range(range)?),
                Op::Put {
                    key,
                    value,
                    lease,
                    previous,
                } => {
                    let before = self.put(revision, key, value, *lease, &mut events);
                    OpReply::Put(PutReply {
                        revision,
                        previous: before.filter(|_| *previous),
                    })
                }
                Op::Delete { keys, previous } => {
                    let gone = self.delete(revision, keys, &mut events);
                    OpReply::Delete(DeleteReply {
                        revision,
                        deleted: i64::try_from(gone.len()).unwrap_or(i64::MAX),
                        previous: if *previous { gone } else { Vec::new() },
                    })
                }
            });
        }
        self.commit(revision, events);
        for reply in &mut replies {
            match reply {
                OpReply::Range(r) => r.revision = self.revision,
                OpReply::Put(r) => r.revision = self.revision,
                OpReply::Delete(r) => r.revision = self.revision,
            }
        }
        Ok(TxnReply {
            succeeded,
            revision: self.revision,
            replies,
        })
    }

    fn put(
        &mut self,
        revision: i64,
        key: &[u8],
        value: &[u8],
        lease: Option<Lease>,
        events: &mut Vec<Event>,
    ) -> Option<KeyValue> {
        let before = self.now(key).cloned();
        let kv = KeyValue {
            key: key.to_vec(),
            value: value.to_vec(),
            create_revision: before.as_ref().map_or(revision, |b| b.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |b| b.version + 1),
            lease,
        };
        if let Some(old) = before.as_ref().and_then(|b| b.lease)
            && let Some(state) = self.leases.get_mut(&old)
        {
            state.keys.remove(key);
        }
        if let Some(state) = lease.and_then(|l| self.leases.get_mut(&l)) {
            state.keys.insert(key.to_vec());
        }
        self.history
            .entry(key.to_vec())
            .or_default()
            .push((revision, Some(kv.clone())));
        events.push(Event::Put {
            kv,
            previous: before.clone(),
        });
        before
    }

    fn delete(&mut self, revision: i64, keys: &Keys, events: &mut Vec<Event>) -> Vec<KeyValue> {
        let gone: Vec<KeyValue> = self.matching(keys, i64::MAX).cloned().collect();
        for kv in &gone {
            if let Some(state) = kv.lease.and_then(|l| self.leases.get_mut(&l)) {
                state.keys.remove(&kv.key);
            }
            self.history
                .entry(kv.key.clone())
                .or_default()
                .push((revision, None));
            events.push(Event::Delete {
                key: kv.key.clone(),
                revision,
                previous: Some(kv.clone()),
            });
        }
        gone
    }

    /// Makes changes visible; without changes the revision stays.
    fn commit(&mut self, revision: i64, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision = revision;
        self.watchers
            .retain(|w| match pick(&events, &w.keys, w.previous) {
                Some(batch) => w.feed.send(batch).is_ok(),
                None => !w.feed.is_closed(),
            });
        self.log.extend(events);
    }

    fn expire(&mut self, now: Instant) {
        let over: Vec<Lease> = self
            .leases
            .iter()
            .filter(|(_, s)| s.deadline <= now)
            .map(|(l, _)| *l)
            .collect();
        for lease in over {
            self.end_lease(lease);
        }
    }

    fn end_lease(&mut self, lease: Lease) {
        let Some(state) = self.leases.remove(&lease) else {
            return;
        };
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for key in state.keys {
            self.delete(revision, &Keys::One(key), &mut events);
        }
        self.commit(revision, events);
    }

    fn compact(&mut self, revision: i64) -> Result<(), KvError> {
        if revision > self.revision {
            return Err(KvError::FutureRevision);
        }
        if revision <= self.compacted {
            return Err(KvError::Compacted {
                oldest: self.compacted,
            });
        }
        self.compacted = revision;
        self.history.retain(|_, states| {
            // The last state at or before the revision is still readable, if it is not a deletion.
            let keep = states
                .partition_point(|(r, _)| *r <= revision)
                .saturating_sub(1);
            states.drain(..keep);
            if states
                .first()
                .is_some_and(|(r, kv)| *r <= revision && kv.is_none())
            {
                states.remove(0);
            }
            !states.is_empty()
        });
        self.log.retain(|e| e.revision() >= revision);
        Ok(())
    }
}

/// The changes that concern a watcher.
fn pick(events: &[Event], keys: &Keys, previous: bool) -> Option<WatchBatch> {
    let mut events: Vec<Event> = events
        .iter()
        .filter(|e| keys.contains(e.key()))
        .cloned()
        .collect();
    if !previous {
        for event in &mut events {
            match event {
                Event::Put { previous, .. } | Event::Delete { previous, .. } => *previous = None,
            }
        }
    }
    let revision = events.last()?.revision();
    Some(WatchBatch { revision, events })
}

/// Ends leases when their time comes, also when nobody calls.
async fn expire_later(store: Weak<Mutex<Store>>, lease: Lease) {
    loop {
        let deadline = {
            let Some(store) = store.upgrade() else { return };
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.expire(Instant::now());
            let Some(state) = store.leases.get(&lease) else {
                return;
            };
            state.deadline
        };
        sleep_until(deadline).await;
    }
}

impl Kv for MemKv {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        Box::pin(async move { self.with("read", |s| s.range(&range)) })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(async move { self.with("write", |s| s.txn(&txn)) })
    }

    fn compact(&self, revision: i64) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move { self.with("compact", |s| s.compact(revision)) })
    }

    fn lease_grant(
        &self,
        ttl: Duration,
        id: Option<Lease>,
    ) -> BoxFuture<'_, Result<(Lease, Duration), KvError>> {
        Box::pin(async move {
            let granted = whole_seconds(ttl);
            let time = Duration::from_secs(granted.unsigned_abs());
            let lease = self.with("grant a lease", |s| {
                let lease = id.unwrap_or_else(|| {
                    s.next_lease += 1;
                    Lease(s.next_lease)
                });
                if s.leases.contains_key(&lease) {
                    return Err(KvError::LeaseExists { lease });
                }
                let deadline = Instant::now() + time;
                s.leases.insert(
                    lease,
                    LeaseState {
                        granted,
                        deadline,
                        keys: BTreeSet::new(),
                    },
                );
                Ok(lease)
            })?;
            tokio::spawn(expire_later(Arc::downgrade(&self.store), lease));
            Ok((lease, time))
        })
    }

    fn lease_keep_alive(&self, lease: Lease) -> BoxFuture<'_, Result<Duration, KvError>> {
        Box::pin(async move {
            self.with("renew a lease", |s| {
                let state = s
                    .leases
                    .get_mut(&lease)
                    .ok_or(KvError::LeaseNotFound { lease })?;
                let time = Duration::from_secs(state.granted.unsigned_abs());
                state.deadline = Instant::now() + time;
                Ok(time)
            })
        })
    }

    fn lease_revoke(&self, lease: Lease) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            self.with("revoke a lease", |s| {
                if !s.leases.contains_key(&lease) {
                    return Err(KvError::LeaseNotFound { lease });
                }
                s.end_lease(lease);
                Ok(())
            })
        })
    }

    fn lease_info(&self, lease: Lease, keys: bool) -> BoxFuture<'_, Result<LeaseInfo, KvError>> {
        Box::pin(async move {
            self.with("look at a lease", |s| {
                let state = s
                    .leases
                    .get(&lease)
                    .ok_or(KvError::LeaseNotFound { lease })?;
                let left = state.deadline.saturating_duration_since(Instant::now());
                Ok(LeaseInfo {
                    lease,
                    ttl: whole_seconds(left),
                    granted: state.granted,
                    keys: if keys {
                        state.keys.iter().cloned().collect()
                    } else {
                        Vec::new()
                    },
                })
            })
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>> {
        Box::pin(async move {
            let (tx, watch) = Watch::channel();
            let (feed, mut fed) = mpsc::unbounded_channel();
            let compacted = self.with("watch", |s| {
                if let Some(from) = request.from {
                    if from < s.compacted {
                        return Ok(Some(s.compacted));
                    }
                    let past: Vec<Event> = s
                        .log
                        .iter()
                        .filter(|e| e.revision() >= from)
                        .cloned()
                        .collect();
                    for revision in past.chunk_by(|a, b| a.revision() == b.revision()) {
                        if let Some(batch) = pick(revision, &request.keys, request.previous) {
                            // The receiver is right here.
                            let _ = feed.send(batch);
                        }
                    }
                }
                s.watchers.push(Watcher {
                    keys: request.keys,
                    previous: request.previous,
                    feed,
                });
                Ok(None)
            })?;
            if let Some(oldest) = compacted {
                // The channel is new and has room.
                let _ = tx.try_send(Err(KvError::Compacted { oldest }));
                return Ok(watch);
            }
            let store = Arc::downgrade(&self.store);
            tokio::spawn(async move {
                while let Some(batch) = tokio::select! {
                    batch = fed.recv() => batch,
                    () = tx.closed() => None,
                } {
                    wait_online(&store).await;
                    // A watch in the future stays silent until its revision.
                    if request.from.is_some_and(|from| batch.revision < from) {
                        continue;
                    }
                    if tx.send(Ok(batch)).await.is_err() {
                        break;
                    }
                }
            });
            Ok(watch)
        })
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>> {
        Box::pin(async move {
            self.with("list members", |_| {
                Ok(vec![Member {
                    id: 1,
                    name: "memory".into(),
                    peer_urls: Vec::new(),
                    client_urls: Vec::new(),
                    learner: false,
                }])
            })
        })
    }
}

/// Holds back what a watch delivers while the store plays dead.
async fn wait_online(store: &Weak<Mutex<Store>>) {
    loop {
        match store.upgrade() {
            Some(s) if s.lock().unwrap_or_else(PoisonError::into_inner).offline => {}
            _ => return,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
