//! Publishing this machine's unit states: on change only, many in one write, and all of them again
//! after the lease has changed or an older copy of the store was restored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_kv::Lease;
use fleet_model::{MachineId, UnitName, UnitState};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::announce::Change;
use crate::presence::Standing;
use crate::registry::Registry;

/// States in one write; etcd allows 128.
const BATCH: usize = 100;
const PAUSE: Duration = Duration::from_millis(500);

/// The task that publishes.
#[derive(Debug)]
pub struct Publisher {
    registry: Registry,
    me: MachineId,
    standing: watch::Receiver<Standing>,
    rewinds: watch::Receiver<u64>,
    changes: mpsc::UnboundedReceiver<Change>,
    current: BTreeMap<UnitName, UnitState>,
    dirty: BTreeSet<UnitName>,
    lease: Option<Lease>,
    /// Units whose record is gone for good.
    dropped: mpsc::UnboundedSender<UnitName>,
}

impl Publisher {
    /// Starts it; what is sent to the channel gets published when it can be. Names of units whose
    /// record is gone come back.
    #[must_use]
    pub fn start(
        registry: Registry,
        me: MachineId,
        standing: watch::Receiver<Standing>,
        rewinds: watch::Receiver<u64>,
    ) -> (
        mpsc::UnboundedSender<Change>,
        mpsc::UnboundedReceiver<UnitName>,
    ) {
        let (tx, changes) = mpsc::unbounded_channel();
        let (dropped, gone) = mpsc::unbounded_channel();
        let publisher = Self {
            registry,
            me,
            standing,
            rewinds,
            changes,
            current: BTreeMap::new(),
            dirty: BTreeSet::new(),
            lease: None,
            dropped,
        };
        tokio::spawn(publisher.run());
        (tx, gone)
    }

    async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                change = self.changes.recv() => {
                    let Some(change) = change else { return };
                    self.note(change);
                    // Whatever else has happened in the same moment goes with it.
                    while let Ok(change) = self.changes.try_recv() {
                        self.note(change);
                    }
                }
                changed = self.standing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                changed = self.rewinds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.dirty.extend(self.current.keys().cloned());
                }
            }
            self.check_lease();
            while let Some(lease) = self.lease.filter(|_| !self.dirty.is_empty()) {
                if !self.write(lease).await {
                    sleep(PAUSE).await;
                }
                while let Ok(change) = self.changes.try_recv() {
                    self.note(change);
                }
                self.check_lease();
            }
        }
    }

    fn note(&mut self, (name, state): Change) {
        let changed = match state {
            Some(state) => {
                self.current.get(&name) != Some(&state) && {
                    self.current.insert(name.clone(), state);
                    true
                }
            }
            None => {
                self.current.remove(&name);
                true
            }
        };
        if changed {
            self.dirty.insert(name);
        }
    }

    /// What hung on another lease is gone with it.
    fn check_lease(&mut self) {
        let lease = self.standing.borrow_and_update().lease;
        if lease != self.lease {
            self.lease = lease;
            self.dirty.extend(self.current.keys().cloned());
        }
    }

    async fn write(&mut self, lease: Lease) -> bool {
        let batch: Vec<Change> = self
            .dirty
            .iter()
            .take(BATCH)
            .map(|name| (name.clone(), self.current.get(name).cloned()))
            .collect();
        match self.registry.publish(&self.me, &batch, lease).await {
            Ok(()) => {
                for (name, state) in batch {
                    self.dirty.remove(&name);
                    if state.is_none() {
                        // The agent may have ended.
                        let _ = self.dropped.send(name);
                    }
                }
                true
            }
            Err(error) => {
                tracing::debug!("publishing waits: {}", telemetry::chain(&error));
                false
            }
        }
    }
}
