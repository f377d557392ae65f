//! The wishes, mirrored: every daemon has them at hand, for its agent and for reading by the API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use etcd_kv::Event;
use fleet_model::agent::AgentUnit;
use fleet_model::{
    BatchResult, MachineId, Metadata, Requirements, TargetState, UnitFile, UnitName,
};
use tokio::sync::watch;
use tokio::time::timeout;

use super::orders::{read_number, read_record};
use super::{Cordon, Follow, Key, Registry, Turns, Update};

/// How long a reader waits for its own write to come round.
const OWN_WRITE: Duration = Duration::from_secs(2);
/// Longest text of a unit. No daemon stores a longer one: etcd takes no more than 1.5 MiB at once.
const LONGEST_TEXT: usize = 1 << 20;

/// What is wished for.
#[derive(Debug, Default)]
pub struct Desired {
    /// Units by name.
    pub units: BTreeMap<UnitName, AgentUnit>,
    /// Metadata overlays by machine.
    pub overlays: BTreeMap<MachineId, Metadata>,
    /// Machines that get no new units.
    pub cordons: BTreeMap<MachineId, Cordon>,
    /// What came of batch units.
    pub results: BTreeMap<UnitName, Arc<BatchResult>>,
    /// Restarts asked for, by unit.
    restarts: BTreeMap<UnitName, u64>,
    /// Failed attempts that the leader has answered, by unit.
    answered: BTreeMap<UnitName, u32>,
    /// Machines whose turn has come, by unit that is being rolled out.
    turns: BTreeMap<UnitName, Arc<BTreeSet<MachineId>>>,
    /// Parts of units whose text has not been seen.
    loose: BTreeMap<UnitName, (Option<TargetState>, Option<MachineId>)>,
}

impl Desired {
    /// Takes one key's value, or its absence, over.
    pub fn set(&mut self, key: Key, value: Option<&[u8]>) {
        let text = value.map(String::from_utf8_lossy);
        let put = value.is_some();
        match key {
            Key::Unit(name) => self.set_unit(name, text.as_deref()),
            Key::Target(name) => {
                let target = text.and_then(|t| t.parse().ok());
                if put && target.is_none() {
                    tracing::warn!(unit = %name, "the registry's target of {name} is ignored");
                }
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.target = target.unwrap_or(TargetState::Inactive);
                } else {
                    self.loose.entry(name).or_default().0 = target;
                }
            }
            Key::Schedule(name) => {
                let machine = text.and_then(|t| MachineId::parse(&t));
                if put && machine.is_none() {
                    tracing::warn!(unit = %name, "the registry's schedule of {name} is ignored");
                }
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.scheduled = machine;
                } else {
                    self.loose.entry(name).or_default().1 = machine;
                }
            }
            Key::Overlay(machine, key) => {
                let overlay = self.overlays.entry(machine).or_default();
                match text {
                    Some(value) => drop(overlay.insert(key, value.into_owned())),
                    None => drop(overlay.remove(&key)),
                }
            }
            Key::Restart(name) => {
                let nonce = value.and_then(|value| read_number("restart", &name, value));
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.restart = nonce.unwrap_or(0);
                }
                put_or_remove(&mut self.restarts, name, nonce);
            }
            Key::Result(name) => {
                let result = value
                    .and_then(|value| read_record(&name, value))
                    .map(Arc::new);
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.result = result.clone();
                }
                put_or_remove(&mut self.results, name, result);
            }
            Key::Answered(name) => {
                let answered = value.and_then(|value| read_number("answer", &name, value));
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.answered = answered.unwrap_or(0);
                }
                put_or_remove(&mut self.answered, name, answered);
            }
            Key::Turns(name) => {
                let turns = value
                    .and_then(|value| read_record::<Turns>(&name, value))
                    .map(|turns| Arc::new(turns.machines()));
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.turns = turns.clone();
                }
                put_or_remove(&mut self.turns, name, turns);
            }
            Key::Cordon(machine) => {
                let cordon = value
                    .and_then(|value| read_record(format_args!("the cordon of {machine}"), value));
                put_or_remove(&mut self.cordons, machine, cordon);
            }
            Key::Presence(_)
            | Key::State(..)
            | Key::Rebalance
            | Key::Announcement(..)
            | Key::Other => {}
        }
    }

    fn set_unit(&mut self, name: UnitName, text: Option<&str>) {
        let old = self.units.remove(&name);
        let loose = self.loose.remove(&name).unwrap_or_default();
        let (target, scheduled) = old.map_or(loose, |unit| (Some(unit.target), unit.scheduled));
        let Some(text) = text else { return };
        if text.len() > LONGEST_TEXT {
            tracing::warn!(unit = %name, "the registry's text of {name} is ignored: too long");
            return;
        }
        match UnitFile::parse(text) {
            Ok(file) => {
                let unit = AgentUnit {
                    hash: file.hash().into(),
                    requirements: Arc::new(Requirements::of(&name, &file)),
                    file: Arc::new(file),
                    target: target.unwrap_or(TargetState::Inactive),
                    scheduled,
                    restart: self.restarts.get(&name).copied().unwrap_or(0),
                    result: self.results.get(&name).cloned(),
                    answered: self.answered.get(&name).copied().unwrap_or(0),
                    turns: self.turns.get(&name).cloned(),
                };
                self.units.insert(name, unit);
            }
            Err(error) => {
                tracing::warn!(unit = %name, %error, "the registry holds a bad unit file");
            }
        }
    }

    /// Whether a unit has run to completion: nothing is to be done about it until it is started
    /// anew.
    #[must_use]
    pub fn is_finished(&self, name: &UnitName) -> bool {
        self.results.contains_key(name)
    }

    /// Takes an event over.
    pub fn apply(&mut self, registry: &Registry, event: &Event) {
        match event {
            Event::Put { kv, .. } => self.set(registry.read_key(&kv.key), Some(&kv.value)),
            Event::Delete { key, .. } => self.set(registry.read_key(key), None),
        }
    }
}

fn put_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// The mirror: readers share it, one task keeps it up to date.
#[derive(Debug, Clone)]
pub struct Mirror {
    desired: Arc<RwLock<Desired>>,
    revision: watch::Receiver<i64>,
    rewinds: watch::Receiver<u64>,
}

impl Mirror {
    /// Starts mirroring. The task ends with the runtime.
    #[must_use]
    pub fn start(registry: Registry) -> Self {
        let desired = Arc::new(RwLock::new(Desired::default()));
        let (tx, revision) = watch::channel(0);
        let (rewound, rewinds) = watch::channel(0);
        let mirror = Self {
            desired: desired.clone(),
            revision,
            rewinds,
        };
        tokio::spawn(async move {
            let mut follow = Follow::new(registry.wishes());
            loop {
                let at = match follow.next(registry.kv()).await {
                    Update::All(kvs, at) => {
                        let mut fresh = Desired::default();
                        for kv in &kvs {
                            fresh.set(registry.read_key(&kv.key), Some(&kv.value));
                        }
                        *desired.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                        at
                    }
                    Update::Changes(events, at) => {
                        let mut desired = desired.write().unwrap_or_else(PoisonError::into_inner);
                        events
                            .iter()
                            .for_each(|event| desired.apply(&registry, event));
                        at
                    }
                };
                rewound.send_if_modified(|old| {
                    std::mem::replace(old, follow.rewinds()) != follow.rewinds()
                });
                if tx.send(at).is_err() {
                    return;
                }
            }
        });
        mirror
    }

    /// The wishes as last seen. Not to be held across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Desired> {
        self.desired.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything has been read yet.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.revision.borrow() > 0
    }

    /// How often the store turned out to be an older copy of itself: whoever has published anything
    /// publishes it anew.
    #[must_use]
    pub fn rewinds(&self) -> watch::Receiver<u64> {
        self.rewinds.clone()
    }

    /// Waits until nothing is mirrored any more, which is never unless the task has panicked.
    pub(crate) async fn ended(mut self) {
        while self.revision.changed().await.is_ok() {}
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) {
        if self.revision.changed().await.is_err() {
            // The task is gone with its runtime; so will be the caller.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until a write at `revision` has come round, so that whoever wrote it reads it.
    pub async fn caught_up(&self, revision: i64) {
        let mut receiver = self.revision.clone();
        // Late is not wrong: the write has happened, and reading may lag after a failover.
        let _ = timeout(OWN_WRITE, receiver.wait_for(|at| *at >= revision)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_kv::MemKv;

    use super::*;

    #[test]
    fn orders_are_kept_whatever_comes_first_and_hostile_values_change_nothing() {
        let registry = Registry::new(Arc::new(MemKv::new()), "/");
        let mut desired = Desired::default();
        let mut set = |key: &str, value: Option<&str>| {
            let key = registry.read_key(format!("/v3/{key}").as_bytes());
            desired.set(key, value.map(str::as_bytes));
            let unit = desired.units.get("a.service").cloned();
            (
                unit.map(|u| (u.target, u.scheduled.map(|m| m.to_string()), u.restart)),
                desired.results.len(),
                desired.cordons.len(),
            )
        };
        use TargetState::{Inactive, Launched};
        let on = |machine: &str| Some(machine.to_owned());
        for (key, value, expect) in [
            ("job/a.service/restart", Some("5"), (None, 0, 0)),
            ("job/a.service/target", Some("launched"), (None, 0, 0)),
            (
                "job/a.service/unit",
                Some("[Service]\nExecStart=/x\n"),
                (Some((Launched, None, 5)), 0, 0),
            ),
            (
                "job/a.service/schedule",
                Some("m1"),
                (Some((Launched, on("m1"), 5)), 0, 0),
            ),
            (
                "job/a.service/schedule",
                Some("no/machine"),
                (Some((Launched, None, 5)), 0, 0),
            ),
            (
                "job/a.service/target",
                Some("nonsense"),
                (Some((Inactive, None, 5)), 0, 0),
            ),
            (
                "job/a.service/restart",
                Some("x"),
                (Some((Inactive, None, 0)), 0, 0),
            ),
            (
                "job/a.service/result",
                Some(r#"{"outcome":"success","exit_status":0,"attempts":1,"machine":"m1"}"#),
                (Some((Inactive, None, 0)), 1, 0),
            ),
            (
                "job/a.service/result",
                Some("{}"),
                (Some((Inactive, None, 0)), 0, 0),
            ),
            ("cordon/m1", Some("{}"), (Some((Inactive, None, 0)), 0, 1)),
            ("cordon/m1", Some("!"), (Some((Inactive, None, 0)), 0, 0)),
            ("cordon/m1", Some("{}"), (Some((Inactive, None, 0)), 0, 1)),
            ("cordon/m1", None, (Some((Inactive, None, 0)), 0, 0)),
            ("job/a.service/unit", Some("[broken"), (None, 0, 0)),
        ] {
            assert_eq!(set(key, value), expect, "{key} {value:?}");
        }
    }
}
