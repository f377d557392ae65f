//! The machine's lease and its record in the registry.
//!
//! All that this machine publishes hangs on one lease; keeping that alive is its only steady cost.
//! The lease's number is kept in a file, so that a daemon that was restarted, upgraded or killed
//! takes its lease over and the cluster sees nothing. Another machine with the same ID has no such
//! file: it must wait until the record is gone, and says so.
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
        let mut kept = self.read_lease();
        let mut last_complaint = String::new();
        loop {
            match self.register(kept.take()).await {
                Ok(lease) => {
                    (pause, last_complaint) = (FIRST_PAUSE, String::new());
                    tracing::info!(machine = %self.id, lease = %lease, "registered");
                    self.keep_alive(lease).await;
                    kept = Some(lease);
                }
                Err(error) => {
                    let complaint = telemetry::chain(&error);
                    if complaint != last_complaint {
                        tracing::warn!("cannot register: {complaint}");
                        last_complaint = complaint;
                    }
                    kept = self.read_lease();
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Takes the lease over or makes one, and writes the record under it.
    async fn register(&mut self, kept: Option<Lease>) -> Result<Lease, RegisterError> {
        self.registry.check_format().await?;
        if self.detect_address {
            self.look_up_address();
        }
        let kv = self.registry.kv();
        let (lease, fresh) = match kept {
            Some(lease) => match self.renew(lease).await {
                Ok(()) => (lease, false),
                Err(KvError::LeaseNotFound { .. }) => (self.grant().await?, true),
                Err(error) => return Err(error.into()),
            },
            None => (self.grant().await?, true),
        };
        if let Err(error) = self.write_record(lease).await {
            if fresh {
                // Best effort: it expires by itself.
                let _ = kv.lease_revoke(lease).await;
            }
            return Err(error);
        }
        self.write_lease(lease);
        self.standing.send_replace(Standing {
            lease: Some(lease),
            healthy: true,
        });
        Ok(lease)
    }

    async fn grant(&self) -> Result<Lease, KvError> {
        let sent = self.clock.now();
        let (lease, ttl) = self.registry.kv().lease_grant(self.ttl, None).await?;
        self.is_valid(sent, ttl);
        Ok(lease)
    }

    async fn renew(&self, lease: Lease) -> Result<(), KvError> {
        let sent = self.clock.now();
        let ttl = self.registry.kv().lease_keep_alive(lease).await?;
        self.is_valid(sent, ttl);
        Ok(())
    }

    /// Counts from the sending: when the answer comes, the lease is younger than that.
    fn is_valid(&self, sent: Duration, ttl: Duration) {
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
    async fn keep_alive(&mut self, lease: Lease) {
        let interval = self.ttl / 3;
        let mut last_sign = Instant::now();
        let mut pause = interval;
        let mut address_due = Instant::now() + ADDRESS_INTERVAL;
        loop {
            sleep(pause).await;
            pause = interval;
            let healthy = match self.renew(lease).await {
                Ok(()) => {
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

    fn read_lease(&self) -> Option<Lease> {
        let text = std::fs::read_to_string(&self.lease_file).ok()?;
        let (machine, lease) = text.trim().split_once(' ')?;
        (machine == self.id.as_str()).then_some(Lease(i64::from_str_radix(lease, 16).ok()?))
    }

    fn write_lease(&self, lease: Lease) {
        let write = || {
            if let Some(dir) = self.lease_file.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let temporary = self.lease_file.with_extension("new");
            std::fs::write(&temporary, format!("{} {lease}\n", self.id))?;
            std::fs::rename(&temporary, &self.lease_file)
        };
        if let Err(error) = write() {
            let path = self.lease_file.display();
            tracing::warn!("failed to write {path}: {error}; a restart will be noticed");
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
