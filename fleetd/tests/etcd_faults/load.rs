//! What runs while something breaks: a writer, and three who look on. Afterwards they are compared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_kv::{Event, Keys, Kv, Lease, WatchRequest};
use fleet_model::{Machine, MachineId, TargetState, UnitFile, UnitName};
use fleetd::clock::MachineClock;
use fleetd::presence::{Presence, Standing};
use fleetd::registry::{Mirror, Registry};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Each load has keys and a machine of its own.
static NUMBER: AtomicUsize = AtomicUsize::new(1);
/// Pause between two writes.
const PACE: Duration = Duration::from_millis(20);
/// Time to live of the machine's lease.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// Writes that were acknowledged.
#[derive(Debug, Default)]
struct Written {
    /// When, by unit.
    units: BTreeMap<UnitName, Instant>,
    /// Errors that were met on the way.
    errors: Vec<String>,
}

/// A unit's key, and the revision at which it was written.
type Seen = Vec<(String, i64)>;

/// A daemon's eyes and hands on the cluster, in a runtime of its own, which ends with it.
pub(crate) struct Load {
    pub(crate) registry: Registry,
    pub(crate) prefix: String,
    pub(crate) mirror: Mirror,
    pub(crate) standing: watch::Receiver<Standing>,
    written: Arc<Mutex<Written>>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
    _dir: TempDir,
}

pub(crate) async fn eventually(what: &str, limit: Duration, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !so().await {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

impl Load {
    /// Starts everything on one client, as in a daemon, and waits until all of it works.
    pub(crate) async fn start(kv: Arc<dyn Kv>) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("/f{number}/");
        let registry = Registry::new(kv.clone(), &prefix);
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine {
            public_ip: "10.0.0.1".into(),
            ..Machine::default()
        };
        let runtime = Runtime::new().unwrap();
        let (mirror, standing) = {
            let _inside = runtime.enter();
            let (told, standing) = watch::channel(Standing::default());
            let presence = Presence {
                registry: registry.clone(),
                id: MachineId::parse(&format!("m{number}")).unwrap(),
                machine,
                detect_address: false,
                ttl: TTL,
                lease_file: dir.path().join("lease"),
                clock: Arc::new(MachineClock),
                standing: told,
                validity: watch::channel(None).0,
            };
            presence.start();
            (Mirror::start(registry.clone()), standing)
        };
        let (written, seen) = (
            Arc::<Mutex<Written>>::default(),
            Arc::<Mutex<Seen>>::default(),
        );
        let stop = Arc::<AtomicBool>::default();
        let request = WatchRequest::now(Keys::prefix(format!("{prefix}v3/job/")));
        let watch = runtime.spawn(async move { kv.watch(request).await });
        let mut watch = watch.await.unwrap().unwrap();
        runtime.spawn({
            let seen = seen.clone();
            async move {
                // The end of a watch is for the comparison to find.
                while let Ok(batch) = watch.next().await {
                    for event in batch.events {
                        if let Event::Put { kv, .. } = event
                            && kv.key.ends_with(b"/unit")
                        {
                            let key = kv.key_str().into_owned();
                            seen.lock().unwrap().push((key, kv.mod_revision));
                        }
                    }
                }
            }
        });
        let writer = runtime.spawn(write(registry.clone(), written.clone(), stop.clone()));
        let load = Self {
            registry,
            prefix,
            mirror,
            standing,
            written,
            seen,
            stop,
            writer: Some(writer),
            runtime: Some(runtime),
            _dir: dir,
        };
        eventually("everything runs", Duration::from_secs(30), async || {
            load.acknowledged() > 5
                && load.mirror.read().units.len() > 5
                && load.standing.borrow().healthy
                && load.seen.lock().unwrap().len() > 5
        })
        .await;
        load
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.written.lock().unwrap().units.len()
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        self.written.lock().unwrap().errors.clone()
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.standing.borrow().lease
    }

    /// Waits until more writes are acknowledged; returns how long that took.
    pub(crate) async fn goes_on(&self, limit: Duration) -> Duration {
        let (before, started) = (self.acknowledged(), Instant::now());
        eventually("writes go on", limit, async || {
            self.acknowledged() > before + 3
        })
        .await;
        started.elapsed()
    }

    /// The longest pause between two acknowledged writes since `since`.
    pub(crate) fn longest_gap(&self, since: Instant) -> Duration {
        let written = self.written.lock().unwrap();
        let mut times: Vec<_> = written.units.values().copied().collect();
        times.sort();
        let gaps = times.windows(2).filter(|pair| pair[1] > since);
        gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ends the writer and compares: what was acknowledged is there, what is there was seen by the
    /// watch once and in order, and the mirror is the same as the store.
    pub(crate) async fn nothing_lost(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            writer.await.unwrap();
        }
        let kvs = self.units().await;
        let names: Vec<String> = kvs.iter().map(|(name, _)| name.clone()).collect();
        for name in self.written.lock().unwrap().units.keys() {
            assert!(
                names.contains(&name.to_string()),
                "{name} was acknowledged and is lost"
            );
        }
        eventually(
            "the mirror is the same",
            Duration::from_secs(20),
            async || {
                let mirror = self.mirror.read();
                mirror.units.len() == names.len()
                    && mirror.units.iter().all(|(name, unit)| {
                        names.contains(&name.to_string()) && unit.target == TargetState::Launched
                    })
            },
        )
        .await;
        eventually(
            "the watch has seen all",
            Duration::from_secs(20),
            async || self.seen.lock().unwrap().last().map(|s| s.1) >= kvs.iter().map(|k| k.1).max(),
        )
        .await;
        let seen = self.seen.lock().unwrap().clone();
        let first = seen.first().map_or(0, |s| s.1);
        let mut expect: Vec<(String, i64)> = kvs
            .iter()
            .filter(|(_, revision)| *revision >= first)
            .map(|(name, revision)| (format!("{}v3/job/{name}/unit", self.prefix), *revision))
            .collect();
        expect.sort_by_key(|(_, revision)| *revision);
        assert_eq!(seen, expect, "each change once, and in order");
    }

    /// Names and revisions of the units in the store.
    pub(crate) async fn units(&self) -> Vec<(String, i64)> {
        let reply = self
            .registry
            .kv()
            .list(format!("{}v3/job/", self.prefix))
            .await
            .unwrap();
        let units = reply.kvs.iter().filter(|kv| kv.key.ends_with(b"/unit"));
        units
            .map(|kv| {
                let key = kv.key_str().into_owned();
                (key.split('/').nth(4).unwrap().to_owned(), kv.mod_revision)
            })
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Creates one unit after the other, each until it is there.
async fn write(registry: Registry, written: Arc<Mutex<Written>>, stop: Arc<AtomicBool>) {
    let file = UnitFile::parse("[Service]\nExecStart=/x\n").unwrap();
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = UnitName::parse(&format!("u{i:06}.service")).unwrap();
        // "There is one already" means that a write which seemed to fail has happened.
        while let Err(error) = registry.create(&name, &file, TargetState::Launched).await {
            written
                .lock()
                .unwrap()
                .errors
                .push(telemetry::chain(&error));
            sleep(PACE).await;
        }
        written.lock().unwrap().units.insert(name, Instant::now());
        sleep(PACE).await;
    }
}
