//! The way from one machine to the store: slow, lossy, cut.
//!
//! Each life of a daemon has a wire of its own. When that life ends, whatever it still asks is never
//! answered: it stands where a killed process would have stood.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_kv::{
    BoxFuture, Keys, Kv, KvError, Lease, LeaseInfo, MemKv, Member, Op, Range, RangeReply, Txn,
    TxnReply, Watch, WatchBatch, WatchRequest,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use crate::rng::Rng;

/// How long a request waits for its answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// What is wrong with a machine's connection at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Weather {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// Requests and answers get lost, so many in a hundred.
    pub(crate) loss: u64,
    /// Watches deliver late, by up to so many milliseconds.
    pub(crate) lag: u64,
    /// Counts: each time it grows, all watches break.
    pub(crate) broken: u64,
}

/// Shared by all lives of a machine.
#[derive(Debug)]
pub(crate) struct Port {
    weather: Mutex<Weather>,
    changed: Notify,
    /// Which life is the present one.
    life: AtomicU64,
    seed: u64,
    begin: Instant,
}

impl Port {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            weather: Mutex::default(),
            changed: Notify::new(),
            life: AtomicU64::new(0),
            seed,
            begin: Instant::now(),
        })
    }

    pub(crate) fn weather(&self) -> Weather {
        *self.weather.lock().unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Weather)) -> Weather {
        let mut weather = self.weather.lock().unwrap();
        change(&mut weather);
        self.changed.notify_waiters();
        *weather
    }

    /// Waits for such weather.
    async fn until(&self, such: impl Fn(&Weather) -> bool) {
        loop {
            let changed = self.changed.notified();
            if such(&self.weather()) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn life(&self) -> u64 {
        self.life.load(Ordering::SeqCst)
    }

    /// Begins another life.
    pub(crate) fn reborn(&self) -> u64 {
        self.life.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A number from 0 to `end`, exclusive. It depends on what it is for and when, not on how many
    /// were asked for before: tasks that wake in the same moment may run in any order.
    pub(crate) fn below(&self, label: &[u8], end: u64) -> u64 {
        let at = u64::try_from(self.begin.elapsed().as_millis()).unwrap();
        let mut hash = self.seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in label {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Rng::new(hash).below(end)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) store: MemKv,
    pub(crate) port: Arc<Port>,
    pub(crate) life: u64,
}

impl Wire {
    /// Never comes back in a life that is over.
    async fn live(&self) {
        if self.port.life() != self.life {
            std::future::pending::<()>().await;
        }
    }

    async fn late<T>(&self, what: &'static str, sent: bool) -> Result<T, KvError> {
        sleep(DEADLINE).await;
        self.live().await;
        Err(KvError::Timeout {
            what,
            after: DEADLINE,
            sent,
        })
    }

    async fn pass<T>(
        &self,
        what: &'static str,
        label: Vec<u8>,
        request: BoxFuture<'_, Result<T, KvError>>,
    ) -> Result<T, KvError> {
        self.live().await;
        let weather = self.port.weather();
        if weather.cut || self.port.below(&label, 100) < weather.loss {
            return self.late(what, false).await;
        }
        sleep(Duration::from_millis(self.port.below(&label, 8))).await;
        self.live().await;
        let answer = request.await;
        sleep(Duration::from_millis(1 + self.port.below(&label, 8))).await;
        self.live().await;
        // It has happened, and nobody here knows.
        if self.port.weather().cut || self.port.below(&label, 100) < weather.loss {
            return self.late(what, true).await;
        }
        answer
    }

    /// Carries batches over, until the watch breaks.
    async fn carry(
        self,
        label: Vec<u8>,
        mut from: Watch,
        to: mpsc::Sender<Result<WatchBatch, KvError>>,
    ) {
        let broken = self.port.weather().broken;
        loop {
            let item = tokio::select! {
                biased;
                () = to.closed() => return,
                () = self.port.until(|w| w.broken != broken) => {
                    self.live().await;
                    let error = KvError::Unavailable {
                        what: "watch",
                        endpoints: String::new(),
                        reason: "broken".into(),
                        sent: false,
                    };
                    let _ = to.send(Err(error)).await;
                    return;
                }
                item = from.next() => item,
            };
            let lag = self.port.weather().lag;
            sleep(Duration::from_millis(1 + self.port.below(&label, 5 + lag))).await;
            // What cannot pass now passes later: a watch resumes.
            self.port.until(|w| !w.cut || w.broken != broken).await;
            self.live().await;
            if self.port.weather().broken == broken && to.send(item).await.is_err() {
                return;
            }
        }
    }
}

fn label(keys: &Keys) -> Vec<u8> {
    match keys {
        Keys::One(k) | Keys::Prefix(k) | Keys::Between(k, _) | Keys::From(k) => k.clone(),
    }
}

/// Of the first key that it is about.
fn label_of(txn: &Txn) -> Vec<u8> {
    let op = txn.then.first().map(|op| match op {
        Op::Put { key, .. } => key.clone(),
        Op::Delete { keys, .. } => label(keys),
        Op::Range(range) => label(&range.keys),
    });
    op.or_else(|| txn.when.last().map(|c| c.key.clone()))
        .unwrap_or_default()
}

impl Kv for Wire {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        Box::pin(self.pass("read", label(&range.keys), self.store.range(range)))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(self.pass("write", label_of(&txn), self.store.txn(txn)))
    }

    fn compact(&self, revision: i64) -> BoxFuture<'_, Result<(), KvError>> {
        self.store.compact(revision)
    }

    fn lease_grant(
        &self,
        ttl: Duration,
        id: Option<Lease>,
    ) -> BoxFuture<'_, Result<(Lease, Duration), KvError>> {
        Box::pin(self.pass(
            "grant a lease",
            b"gra".to_vec(),
            self.store.lease_grant(ttl, id),
        ))
    }

    fn lease_keep_alive(&self, lease: Lease) -> BoxFuture<'_, Result<Duration, KvError>> {
        Box::pin(self.pass(
            "renew a lease",
            b"ren".to_vec(),
            self.store.lease_keep_alive(lease),
        ))
    }

    fn lease_revoke(&self, lease: Lease) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(self.pass(
            "revoke a lease",
            b"rev".to_vec(),
            self.store.lease_revoke(lease),
        ))
    }

    fn lease_info(&self, lease: Lease, keys: bool) -> BoxFuture<'_, Result<LeaseInfo, KvError>> {
        Box::pin(self.pass(
            "look at a lease",
            b"inf".to_vec(),
            self.store.lease_info(lease, keys),
        ))
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>> {
        Box::pin(async move {
            let label = label(&request.keys);
            let from = self
                .pass("watch", label.clone(), self.store.watch(request))
                .await?;
            let (tx, watch) = Watch::channel();
            tokio::spawn(self.clone().carry(label, from, tx));
            Ok(watch)
        })
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>> {
        self.store.members()
    }
}
