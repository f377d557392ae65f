//! Live changes as server-sent events.
//!
//! ```text
//!   registry ─ one watch, while somebody listens ─▶ hub ─ broadcast ─▶ each listener
//! ```
//!
//! A listener first gets `reset`: it (re)reads what it shows, and from then on `units`, `states`
//! and `machines` carry each changed thing, or its name and `"removed":true`. A listener that is
//! too slow, or a registry that must be read afresh, gives another `reset`. When the listener reads
//! after a `reset`, the mirror has seen all that the hub had seen, so no change falls between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fleet_model::{Machine, MachineId, Phase, UnitName, UnitState};
use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::reply::Reply;
use super::super::{states, units};
use super::machines;
use crate::registry::{Desired, Follow, Key, Mirror, Registry, Update};

/// Changes that a slow listener may be behind.
const BACKLOG: usize = 1024;
/// Listeners at once.
const MAX_LISTENERS: usize = 64;
/// Pause between signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a mirror may differ from the hub.
const AGREE: Duration = Duration::from_secs(1);

/// Spreads changes to listeners; watches the registry only while there are some.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    sender: broadcast::Sender<Bytes>,
    running: Mutex<bool>,
    /// The last wish that the hub has seen.
    wish: AtomicI64,
    listeners: Arc<Semaphore>,
}

impl Hub {
    /// A hub that nobody listens to yet.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(Shared {
            registry,
            sender: broadcast::Sender::new(BACKLOG),
            running: Mutex::new(false),
            wish: AtomicI64::new(0),
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
        }))
    }

    /// A stream of changes from now on.
    pub(crate) async fn answer(&self, mirror: &Mirror) -> Reply {
        let Ok(slot) = self.0.listeners.clone().try_acquire_owned() else {
            let message = format!("more than {MAX_LISTENERS} listen already");
            return Reply::error(StatusCode::SERVICE_UNAVAILABLE, message);
        };
        let (mut changes, started) = self.subscribe(mirror);
        let (out, body) = mpsc::channel(16);
        let (shared, mirror) = (self.0.clone(), mirror.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let mut first = Bytes::from_static(b": listening\n\n");
            if !started {
                // A hub that was just started says so itself, when it has read everything.
                mirror.caught_up(shared.wish.load(Ordering::Acquire)).await;
                first = Bytes::from_static(RESET);
            }
            if out.send(first).await.is_err() {
                return;
            }
            let mut alive = interval(KEEP_ALIVE);
            alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
            alive.reset();
            loop {
                let chunk = tokio::select! {
                    change = changes.recv() => match change {
                        Ok(change) => change,
                        Err(broadcast::error::RecvError::Lagged(_)) => Bytes::from_static(RESET),
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                    _ = alive.tick() => Bytes::from_static(b": keep-alive\n\n"),
                    () = out.closed() => return,
                };
                if out.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        Reply::Events(body)
    }

    /// Also whether the hub had to be started for it.
    fn subscribe(&self, mirror: &Mirror) -> (broadcast::Receiver<Bytes>, bool) {
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let receiver = self.0.sender.subscribe();
        let started = !std::mem::replace(&mut *running, true);
        if started {
            tokio::spawn(run(self.0.clone(), mirror.clone()));
        }
        (receiver, started)
    }
}

const RESET: &[u8] = b"event: reset\ndata: {}\n\n";

async fn run(shared: Arc<Shared>, mirror: Mirror) {
    let mut follow = Follow::new(shared.registry.everything());
    let mut seen = Seen::default();
    let mut look = interval(KEEP_ALIVE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.reset();
    loop {
        let update = tokio::select! {
            update = follow.next(shared.registry.kv()) => Some(update),
            _ = look.tick() => None,
        };
        let wishes = shared.registry.wishes();
        let wish = match update {
            None => {
                let mut running = shared
                    .running
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if shared.sender.receiver_count() == 0 {
                    *running = false;
                    return;
                }
                continue;
            }
            Some(Update::All(kvs, _)) => {
                seen = Seen::default();
                let mut wish = 0;
                for kv in kvs {
                    if wishes.contains(&kv.key) {
                        wish = wish.max(kv.mod_revision);
                    }
                    seen.set(shared.registry.read_key(&kv.key), Some(&kv.value));
                }
                agree(&mirror, &seen, wish).await;
                let _ = shared.sender.send(Bytes::from_static(RESET));
                wish
            }
            Some(Update::Changes(events, revision)) => {
                let mut touched = Touched::default();
                let mut wish = shared.wish.load(Ordering::Acquire);
                for event in &events {
                    if wishes.contains(event.key()) {
                        wish = revision;
                    }
                    let key = shared.registry.read_key(event.key());
                    let value = match event {
                        etcd_kv::Event::Put { kv, .. } => Some(&kv.value[..]),
                        etcd_kv::Event::Delete { .. } => None,
                    };
                    touched.note(&key, &seen);
                    seen.set(key, value);
                }
                touched.settle(&seen);
                for change in seen.changes(&touched) {
                    // Nobody there is no failure.
                    let _ = shared.sender.send(change);
                }
                wish
            }
        };
        shared.wish.store(wish, Ordering::Release);
    }
}

/// Waits until the mirror has what the hub has read: its last wish, and no unit that is gone.
async fn agree(mirror: &Mirror, seen: &Seen, wish: i64) {
    mirror.caught_up(wish).await;
    let same = || {
        let desired = mirror.read();
        desired.units.keys().eq(seen.desired.units.keys())
    };
    let mut changes = mirror.clone();
    let agreed = async {
        while !same() {
            changes.changed().await;
        }
    };
    // A mirror that is ahead differs, too; the hub hears of that soon, and so do its listeners.
    let _ = timeout(AGREE, agreed).await;
}

/// The registry as the hub has seen it.
#[derive(Debug, Default)]
struct Seen {
    desired: Desired,
    states: BTreeMap<(UnitName, MachineId), UnitState>,
    machines: BTreeMap<MachineId, Machine>,
}

/// What a batch of changes is about.
#[derive(Debug, Default)]
struct Touched {
    units: BTreeSet<UnitName>,
    /// And whether clients have been told of the state.
    states: BTreeMap<(UnitName, MachineId), bool>,
    machines: BTreeSet<MachineId>,
    /// Units whose wishes have changed, and with them what is reserved on machines.
    wishes: BTreeSet<UnitName>,
}

impl Touched {
    /// To be called before the change is applied.
    fn note(&mut self, key: &Key, seen: &Seen) {
        match key {
            Key::Unit(name) | Key::Target(name) | Key::Schedule(name) => {
                self.units.insert(name.clone());
                self.wishes.insert(name.clone());
                self.machine_of(name, seen);
            }
            Key::State(name, machine) => {
                let key = (name.clone(), machine.clone());
                let visible = seen.states.get(&key).is_some_and(is_visible);
                self.states.entry(key).or_insert(visible);
                self.units.insert(name.clone());
            }
            Key::Presence(machine) | Key::Overlay(machine, _) | Key::Cordon(machine) => {
                self.machines.insert(machine.clone());
            }
            _ => {}
        }
    }

    /// To be called after all changes are applied.
    fn settle(&mut self, seen: &Seen) {
        for name in self.wishes.clone() {
            self.machine_of(&name, seen);
        }
    }

    /// What is reserved there changes with the unit, so this is called before and after.
    fn machine_of(&mut self, name: &UnitName, seen: &Seen) {
        let there = seen
            .desired
            .units
            .get(name)
            .and_then(|u| u.scheduled.clone());
        self.machines.extend(there);
    }
}

fn is_visible(state: &UnitState) -> bool {
    state.phase != Phase::Claimed
}

impl Seen {
    fn set(&mut self, key: Key, value: Option<&[u8]>) {
        match key {
            Key::State(name, machine) => match value.and_then(|v| serde_json::from_slice(v).ok()) {
                Some(state) => drop(self.states.insert((name, machine), state)),
                None => drop(self.states.remove(&(name, machine))),
            },
            Key::Presence(id) => match value.and_then(|v| serde_json::from_slice(v).ok()) {
                Some(machine) => drop(self.machines.insert(id, machine)),
                None => drop(self.machines.remove(&id)),
            },
            key => self.desired.set(key, value),
        }
    }

    fn changes(&self, touched: &Touched) -> Vec<Bytes> {
        let mut out = Vec::new();
        if !touched.machines.is_empty() {
            let burdens = machines::burdens(&self.desired);
            for id in &touched.machines {
                out.push(match self.machines.get(id) {
                    Some(machine) => {
                        let burden = burdens.get(id);
                        let machine = machines::to_wire(&self.desired, id, machine, burden);
                        event("machines", &machine)
                    }
                    None => removed("machines", "id", id.as_str(), None),
                });
            }
        }
        for name in &touched.units {
            out.push(match self.desired.units.get(name) {
                Some(unit) => {
                    let on = unit.scheduled.clone().map(|m| (name.clone(), m));
                    let record = on.as_ref().and_then(|key| self.states.get(key));
                    // Listeners read the text when they need it.
                    event("units", &units::summary(name, unit, record))
                }
                None => removed("units", "name", name.as_str(), None),
            });
        }
        for ((name, machine), told) in &touched.states {
            let key = (name.clone(), machine.clone());
            match self.states.get(&key).filter(|s| is_visible(s)) {
                Some(state) => {
                    let state = states::to_wire(&(key.0, key.1, state.clone()));
                    out.push(event("states", &state));
                }
                None if *told => {
                    out.push(removed(
                        "states",
                        "name",
                        name.as_str(),
                        Some(machine.as_str()),
                    ));
                }
                None => {}
            }
        }
        out
    }
}

fn event(kind: &str, value: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(value).unwrap_or_else(|_| "{}".into());
    Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
}

fn removed(kind: &str, key: &str, name: &str, machine: Option<&str>) -> Bytes {
    let mut value = serde_json::json!({key: name, "removed": true});
    if let Some(machine) = machine {
        value["machineID"] = machine.into();
    }
    event(kind, &value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_kv::MemKv;

    use super::*;

    #[test]
    fn each_batch_tells_of_each_thing_once() {
        let registry = Registry::new(Arc::new(MemKv::new()), "/");
        let mut seen = Seen::default();
        let mut batch = |changes: &[(&str, Option<&str>)]| {
            let mut touched = Touched::default();
            for (key, value) in changes {
                let key = registry.read_key(format!("/v3/{key}").as_bytes());
                touched.note(&key, &seen);
                seen.set(key, value.map(str::as_bytes));
            }
            touched.settle(&seen);
            let texts = seen.changes(&touched);
            texts
                .iter()
                .map(|b| String::from_utf8(b.to_vec()).unwrap().replace('\n', "|"))
                .collect::<Vec<_>>()
        };
        let state = |phase: &str| {
            format!(
                r#"{{"hash":"h","load":"loaded","active":"active","sub":"running","phase":"{phase}"}}"#
            )
        };
        let unit = "[Service]\nExecStart=/x\n";
        assert_eq!(
            batch(&[
                ("job/a.service/unit", Some(unit)),
                ("job/a.service/target", Some("launched"))
            ]),
            [
                r#"event: units|data: {"name":"a.service","desiredState":"launched","currentState":"inactive"}||"#
            ]
        );
        assert_eq!(
            batch(&[("presence/m1", Some(r#"{"public_ip":"10.0.0.1"}"#))]).len(),
            1
        );
        // A claim is nobody's business.
        let claimed = batch(&[
            ("job/a.service/schedule", Some("m1")),
            ("state/a.service/m1", Some(&state("claimed"))),
        ]);
        assert_eq!(claimed.len(), 2);
        assert!(claimed[0].starts_with("event: machines|") && claimed[0].contains(r#""units":1"#));
        assert!(claimed[1].contains(r#""currentState":"inactive","machineID":"m1""#));
        let launched = batch(&[("state/a.service/m1", Some(&state("launched")))]);
        assert!(
            launched[0].contains(r#""currentState":"launched""#),
            "{launched:?}"
        );
        assert!(launched[1].contains(r#""systemdSubState":"running""#));
        let gone = batch(&[
            ("state/a.service/m1", None),
            ("job/a.service/unit", None),
            ("presence/m1", None),
        ]);
        assert_eq!(
            gone,
            [
                r#"event: machines|data: {"id":"m1","removed":true}||"#,
                r#"event: units|data: {"name":"a.service","removed":true}||"#,
                r#"event: states|data: {"machineID":"m1","name":"a.service","removed":true}||"#,
            ]
        );
    }
}
