//! The machine's lease and its record in the registry.
//!
//! All that this machine publishes hangs on one lease; keeping that alive is its only steady cost.
//! The lease's number is kept in a file, so that a daemon that was restarted, upgraded or killed
//! takes its lease over and the cluster sees nothing. Another machine with the same ID has no such
//! file: it must wait until the record is gone, and says so.
//!
//! A lease keeps its time to live. When the setting has changed, all that hangs on the old lease is
//! moved to a new one, and only then is the old one given back; until then the file names both, so
//! that a daemon that dies in between is succeeded by one that goes on. When the prefix of the keys
//! has changed, the machine goes to another cluster: it registers there when the old lease has run
//! out, not before, because until then units that must not run twice may still run here.
//!
//! Every renewal tells until when the lease is certain to last ([`Validity`]). That is the one rule
//! both sides of a partition go by: etcd ends the lease no earlier than a whole time to live after
//! the renewal was *sent*, and the leader gives the machine's units to others only when the lease
//! has ended; the machine itself stops the units that must not run twice at two thirds of that time
//! and kills what is left at five sixths, by its own clock. So it may take a sixth of the time to
//! live to kill, or its clock may be slow by as much, and still nothing runs twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::{Compare, KvError, Lease, Op, Txn};
use fleet_model::{Machine, MachineId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::registry::{Registry, RegistryError};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Pause after a sign of life that did not arrive.
const AGAIN: Duration = Duration::from_millis(500);
/// Keys moved in one transaction; etcd allows 128.
const BATCH: usize = 100;
/// How often the address is looked up again where none is configured.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(60);

/// How the machine stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The lease that what is published hangs on.
    pub lease: Option<Lease>,
    /// Registered, and the last sign of life arrived.
    pub healthy: bool,
}

/// Until when the lease is certain to last, on the machine's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When it may end.
    pub until: Duration,
    /// How long it lasts when it is renewed.
    pub ttl: Duration,
}

/// What is due for units that must not run twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// They may run and be started.
    Open,
    /// They must be stopped.
    Stop,
    /// What has not stopped must be killed.
    Kill,
}

impl Validity {
    /// When units must be stopped.
    #[must_use]
    pub fn stop_at(self) -> Duration {
        self.until.saturating_sub(self.ttl / 3)
    }

    /// When what has not stopped must be killed.
    #[must_use]
    pub fn kill_at(self) -> Duration {
        self.until.saturating_sub(self.ttl / 6)
    }

    /// What is due now.
    #[must_use]
    pub fn stage(self, now: Duration) -> Stage {
        if now < self.stop_at() {
            Stage::Open
        } else if now < self.kill_at() {
            Stage::Stop
        } else {
            Stage::Kill
        }
    }
}

/// What the machine publishes of itself, and how.
#[derive(Debug)]
pub struct Presence {
    /// Where.
    pub registry: Registry,
    /// This machine.
    pub id: MachineId,
    /// What it says of itself.
    pub machine: Machine,
    /// Find the address anew now and then.
    pub detect_address: bool,
    /// How long the lease lasts without a sign of life.
    pub ttl: Duration,
    /// Where a successor finds the lease.
    pub lease_file: PathBuf,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Where the standing goes.
    pub standing: watch::Sender<Standing>,
    /// Where the lease's validity goes.
    pub validity: watch::Sender<Option<Validity>>,
}

impl Presence {
    /// Registers and stays registered until the runtime ends.
    pub fn start(self) {
        tokio::spawn(self.run());
    }

    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut last_complaint = String::new();
        loop {
            match self.register().await {
                Ok(held) => {
                    (pause, last_complaint) = (FIRST_PAUSE, String::new());
                    tracing::info!(machine = %self.id, lease = %held.lease, "registered");
                    self.keep_alive(held).await;
                }
                Err(error) => {
                    let complaint = telemetry::chain(&error);
                    if complaint != last_complaint {
                        tracing::warn!("cannot register: {complaint}");
                        last_complaint = complaint;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Takes the lease over or makes one, and writes the record under it.
    async fn register(&mut self) -> Result<Held, RegisterError> {
        self.registry.check_format().await?;
        if self.detect_address {
            self.look_up_address();
        }
        let kept = self.read_kept();
        let mut left = Vec::new();
        let mut current = None;
        if let Some(kept) = &kept {
            if kept.prefix != self.registry.prefix() {
                self.have_run_out(kept).await?;
            } else {
                for lease in &kept.leases {
                    match self.renew(*lease).await {
                        Ok(held) if kept.ttl == self.ttl && kept.leases[0] == *lease => {
                            current = Some(held);
                        }
                        Ok(held) => left.push(held.lease),
                        Err(KvError::LeaseNotFound { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        let fresh = current.is_none() && left.is_empty();
        let held = match current {
            Some(held) => held,
            None => self.grant().await?,
        };
        if !left.is_empty() {
            self.write_kept(std::iter::once(held.lease).chain(left.iter().copied()));
        }
        for old in left {
            tracing::info!(lease = %old, to = %held.lease, "moving to a lease of {:?}", held.ttl);
            self.move_keys(old, held.lease).await?;
            // Nothing hangs on it any more: it may as well run out.
            let _ = self.registry.kv().lease_revoke(old).await;
        }
        if let Err(error) = self.write_record(held.lease).await {
            if fresh {
                // Best effort: it expires by itself.
                let _ = self.registry.kv().lease_revoke(held.lease).await;
            }
            return Err(error);
        }
        self.write_kept([held.lease]);
        // Not before: what was left behind would have gone with the old lease.
        self.is_valid(held);
        self.standing.send_replace(Standing {
            lease: Some(held.lease),
            healthy: true,
        });
        Ok(held)
    }

    /// Makes sure that no lease with which this machine was in another cluster is left.
    async fn have_run_out(&self, kept: &Kept) -> Result<(), RegisterError> {
        for lease in &kept.leases {
            match self.registry.kv().lease_info(*lease, false).await {
                Err(KvError::LeaseNotFound { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    return Err(RegisterError::Elsewhere {
                        prefix: kept.prefix.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Moves all keys that hang on one lease to another. Nobody sees anything of that: the values
    /// stay, and so does what is known of when they were made.
    async fn move_keys(&self, from: Lease, to: Lease) -> Result<(), RegisterError> {
        let kv = self.registry.kv();
        let keys = kv.lease_info(from, true).await?.keys;
        for keys in keys.chunks(BATCH) {
            let mut read = Txn::new();
            read.then.extend(keys.iter().cloned().map(Op::get));
            let reply = kv.txn(read).await?;
            let mut write = Txn::new();
            for there in (0..keys.len()).flat_map(|index| reply.kvs(index)) {
                if there.lease == Some(from) {
                    let (key, value) = (there.key.clone(), there.value.clone());
                    let unchanged = Compare::unchanged(key.clone(), there.mod_revision);
                    write = write.when(unchanged).then(Op::put_leased(key, value, to));
                }
            }
            if !write.then.is_empty() && !kv.txn(write).await?.succeeded {
                return Err(RegisterError::Restless);
            }
        }
        Ok(())
    }

    async fn grant(&self) -> Result<Held, KvError> {
        let sent = self.clock.now();
        let (lease, ttl) = self.registry.kv().lease_grant(self.ttl, None).await?;
        Ok(Held { lease, ttl, sent })
    }

    async fn renew(&self, lease: Lease) -> Result<Held, KvError> {
        let sent = self.clock.now();
        let ttl = self.registry.kv().lease_keep_alive(lease).await?;
        Ok(Held { lease, ttl, sent })
    }

    /// Counts from the sending: when the answer comes, the lease is younger than that.
    fn is_valid(&self, Held { ttl, sent, .. }: Held) {
        let until = sent + ttl;
        self.validity.send_replace(Some(Validity { until, ttl }));
    }

    async fn write_record(&self, lease: Lease) -> Result<(), RegisterError> {
        let key = self.registry.presence_key(&self.id);
        let value = serde_json::to_vec(&self.machine).expect("plain strings always serialise");
        let put = Op::put_leased(key.as_str(), value, lease);
        let create = Txn::new()
            .when(Compare::missing(key.as_str()))
            .then(put.clone())
            .otherwise(Op::get(key.as_str()));
        let reply = self.registry.kv().txn(create).await?;
        let Some(there) = reply.kvs(0).first().filter(|_| !reply.succeeded) else {
            return Ok(());
        };
        if there.lease != Some(lease) {
            return Err(RegisterError::Taken {
                machine: self.id.clone(),
            });
        }
        let Op::Put { value, .. } = &put else {
            return Ok(());
        };
        if there.value == *value {
            return Ok(());
        }
        let update = Txn::new()
            .when(Compare::unchanged(key, there.mod_revision))
            .then(put);
        self.registry.kv().txn(update).await?;
        Ok(())
    }

    /// Gives signs of life until the lease is lost.
    async fn keep_alive(&mut self, Held { lease, ttl, .. }: Held) {
        // As granted, which may be more than was asked for.
        let interval = ttl / 3;
        let mut last_sign = Instant::now();
        let mut pause = interval;
        let mut address_due = Instant::now() + ADDRESS_INTERVAL;
        loop {
            sleep(pause).await;
            pause = interval;
            let healthy = match self.renew(lease).await {
                Ok(held) => {
                    self.is_valid(held);
                    last_sign = Instant::now();
                    true
                }
                Err(KvError::LeaseNotFound { .. }) => {
                    tracing::warn!("the lease has expired; registering again");
                    self.standing.send_replace(Standing::default());
                    return;
                }
                Err(error) => {
                    pause = interval.min(AGAIN);
                    // One that is late does no harm yet.
                    let healthy = last_sign.elapsed() < interval * 2;
                    if !healthy && self.standing.borrow().healthy {
                        tracing::warn!("no sign of life could be given: {error}");
                    }
                    healthy
                }
            };
            let news = Standing {
                lease: Some(lease),
                healthy,
            };
            self.standing
                .send_if_modified(|old| std::mem::replace(old, news.clone()) != news);
            if self.detect_address && Instant::now() >= address_due {
                address_due = Instant::now() + ADDRESS_INTERVAL;
                if self.look_up_address()
                    && let Err(error) = self.write_record(lease).await
                {
                    tracing::warn!(
                        "failed to publish the new address: {}",
                        telemetry::chain(&error)
                    );
                }
            }
        }
    }

    /// Whether the address has changed.
    fn look_up_address(&mut self) -> bool {
        let address = crate::host::default_address()
            .map(|a| a.to_string())
            .unwrap_or_default();
        let changed = address != self.machine.public_ip && !address.is_empty();
        if changed {
            self.machine.public_ip = address;
        }
        changed
    }

    fn read_kept(&self) -> Option<Kept> {
        let text = std::fs::read_to_string(&self.lease_file).ok()?;
        Kept::parse(&text, &self.id)
    }

    fn write_kept(&self, leases: impl IntoIterator<Item = Lease>) {
        let kept = Kept {
            ttl: self.ttl,
            leases: leases.into_iter().collect(),
            prefix: self.registry.prefix().to_owned(),
        };
        let write = || {
            if let Some(dir) = self.lease_file.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let temporary = self.lease_file.with_extension("new");
            std::fs::write(&temporary, kept.text(&self.id))?;
            std::fs::rename(&temporary, &self.lease_file)
        };
        if let Err(error) = write() {
            let path = self.lease_file.display();
            tracing::warn!("failed to write {path}: {error}; a restart will be noticed");
        }
    }
}

/// A lease that lasts.
#[derive(Debug, Clone, Copy)]
struct Held {
    lease: Lease,
    /// As granted.
    ttl: Duration,
    /// When it was asked for or renewed last.
    sent: Duration,
}

/// What a daemon leaves to its successor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// The time to live that was asked for.
    ttl: Duration,
    /// The lease, and after it those from which not everything may have been moved to it yet.
    leases: Vec<Lease>,
    /// What the keys that hang on it begin with.
    prefix: String,
}

impl Kept {
    /// Reads it, unless it is another machine's.
    fn parse(text: &str, id: &MachineId) -> Option<Self> {
        let rest = text.trim_end().strip_prefix(id.as_str())?;
        let mut words = rest.strip_prefix(' ')?.splitn(3, ' ');
        let ttl = Duration::from_millis(words.next()?.parse().ok()?);
        let leases = words.next()?.split(',');
        let leases: Result<Vec<Lease>, _> = leases
            .map(|lease| i64::from_str_radix(lease, 16).map(Lease))
            .collect();
        Some(Self {
            ttl,
            leases: leases.ok()?,
            prefix: words.next()?.to_owned(),
        })
    }

    fn text(&self, id: &MachineId) -> String {
        let leases: Vec<String> = self.leases.iter().map(Lease::to_string).collect();
        let (ttl, leases) = (self.ttl.as_millis(), leases.join(","));
        format!("{id} {ttl} {leases} {}\n", self.prefix)
    }
}

/// Why the machine could not be registered.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error(
        "a machine with the ID {machine} is registered already; if none is, this ends within the time to live"
    )]
    Taken { machine: MachineId },
    #[error("the machine is still registered below {prefix}; that ends within the time to live")]
    Elsewhere { prefix: String },
    #[error("what hangs on the old lease has changed while it was moved")]
    Restless,
}

#[cfg(test)]
mod tests {
    use etcd_kv::{Kv, MemKv};

    use super::*;
    use crate::clock::MachineClock;

    #[test]
    fn what_is_kept_is_read_as_written_and_nonsense_is_nothing() {
        let id = MachineId::parse("m1").unwrap();
        let kept = Kept {
            ttl: Duration::from_millis(2500),
            leases: vec![Lease(0x1f), Lease(7)],
            prefix: "/a b/v3/".into(),
        };
        assert_eq!(Kept::parse(&kept.text(&id), &id), Some(kept));
        for text in [
            "",
            "m1",
            "m1 1f",
            "m1 1000 1f",
            "m1 x 1f /f/",
            "m1 1000  /f/",
            "m11 1000 1f /f/",
        ] {
            assert_eq!(Kept::parse(text, &id), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_between_leases_is_finished_by_the_successor() {
        let store = MemKv::new();
        let kv: &dyn Kv = &store;
        let registry = Registry::new(Arc::new(store.clone()), "/f/");
        let id = MachineId::parse("m1").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ttl = Duration::from_secs(10);
        let (old, _) = kv.lease_grant(Duration::from_secs(60), None).await.unwrap();
        let (new, _) = kv.lease_grant(ttl, None).await.unwrap();
        let mut keys = vec![registry.presence_key(&id)];
        keys.extend((0..250).map(|i| format!("/f/v3/state/u{i}.service/m1")));
        for (index, key) in keys.iter().enumerate() {
            // The daemon before has died in the middle.
            let lease = if index % 2 == 0 { old } else { new };
            kv.put(key.as_str(), "{}", Some(lease)).await.unwrap();
        }
        let (standing, mut news) = watch::channel(Standing::default());
        let presence = Presence {
            registry,
            id: id.clone(),
            machine: Machine::default(),
            detect_address: false,
            ttl,
            lease_file: dir.path().join("lease"),
            clock: Arc::new(MachineClock),
            standing,
            validity: watch::channel(None).0,
        };
        presence.write_kept([new, old]);
        presence.start();
        let registered = news.wait_for(|s| s.healthy).await.unwrap().lease;
        assert_eq!(registered, Some(new));
        for key in &keys {
            let there = kv.get(key.as_str()).await.unwrap().unwrap();
            assert_eq!(there.lease, Some(new), "{key}");
        }
        assert!(
            kv.lease_info(old, false).await.is_err(),
            "it was given back"
        );
        let kept = std::fs::read_to_string(dir.path().join("lease")).unwrap();
        assert_eq!(Kept::parse(&kept, &id).unwrap().leases, [new]);
    }

    #[test]
    fn units_stop_well_before_the_lease_can_have_ended() {
        let seconds = Duration::from_secs;
        let validity = Validity {
            until: seconds(112),
            ttl: seconds(12),
        };
        for (now, expect) in [
            (0, Stage::Open),
            (107, Stage::Open),
            (108, Stage::Stop),
            (109, Stage::Stop),
            (110, Stage::Kill),
            (112, Stage::Kill),
            (9999, Stage::Kill),
        ] {
            assert_eq!(validity.stage(seconds(now)), expect, "{now}");
        }
    }
}
