//! Simulated agents: each machine has its lease, its presence, and does with etcd for every unit what
//! a real agent does (a claim, then its state). They share one copy of the wishes, where real ones
//! have one each, and they start no processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_kv::{Lease, Op, Txn};
use fleet_model::{Machine, MachineId, Phase, TargetState, UnitName, UnitState};
use fleetd::registry::{Mirror, Registry};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::plan::metadata;

/// Time to live of the machines' leases; longer than a daemon's, as one process cares for all.
const TTL: Duration = Duration::from_secs(60);
/// Requests under way at once.
const AT_ONCE: usize = 64;

#[derive(Debug, Default)]
struct State {
    machines: BTreeMap<MachineId, Lease>,
    launched: BTreeMap<UnitName, MachineId>,
}

/// All simulated agents.
pub(crate) struct Swarm {
    registry: Registry,
    state: Arc<Mutex<State>>,
}

impl Swarm {
    /// Starts with no machine.
    pub(crate) fn start(registry: Registry) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let mirror = Mirror::start(registry.clone());
        tokio::spawn(work(registry.clone(), mirror, state.clone()));
        tokio::spawn(keep_alive(registry.clone(), state.clone()));
        Self { registry, state }
    }

    /// Adds machines number `from` to `to`.
    pub(crate) async fn add(&self, from: usize, to: usize) {
        let limit = Arc::new(Semaphore::new(AT_ONCE));
        let mut set = JoinSet::new();
        for i in from..to {
            let (registry, state, limit) =
                (self.registry.clone(), self.state.clone(), limit.clone());
            set.spawn(async move {
                let _turn = limit.acquire().await.unwrap();
                let id = MachineId::parse(&crate::cluster::machine(i)).unwrap();
                let (lease, _) = registry.kv().lease_grant(TTL, None).await.unwrap();
                let machine = Machine {
                    public_ip: format!("10.{}.{}.1", i / 250, i % 250),
                    metadata: metadata(i),
                    version: fleetd::VERSION.into(),
                    ..Machine::default()
                };
                // Known before it is present, so that no unit is missed.
                state.lock().unwrap().machines.insert(id.clone(), lease);
                let value = serde_json::to_vec(&machine).unwrap();
                let put = Op::put_leased(registry.presence_key(&id), value, lease);
                registry.kv().txn(Txn::new().then(put)).await.unwrap();
            });
        }
        set.join_all().await;
    }

    /// How many units run.
    pub(crate) fn launched(&self) -> usize {
        self.state.lock().unwrap().launched.len()
    }
}

async fn keep_alive(registry: Registry, state: Arc<Mutex<State>>) {
    loop {
        let leases: Vec<Lease> = state.lock().unwrap().machines.values().copied().collect();
        let pause = (TTL / 3) / u32::try_from(leases.len().max(1)).unwrap();
        for lease in leases {
            // One that is late is renewed in the next round.
            let _ = registry.kv().lease_keep_alive(lease).await;
            sleep(pause).await;
        }
        sleep(pause.min(Duration::from_secs(1))).await;
    }
}

/// What is to be done on one machine.
#[derive(Debug, Default)]
struct Todo {
    launch: Vec<(UnitName, String)>,
    unload: Vec<UnitName>,
}

async fn work(registry: Registry, mut mirror: Mirror, state: Arc<Mutex<State>>) {
    let limit = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        mirror.changed().await;
        let todo = todo(&mirror, &state.lock().unwrap());
        let mut set = JoinSet::new();
        for (machine, (lease, todo)) in todo {
            let (registry, state, limit) = (registry.clone(), state.clone(), limit.clone());
            set.spawn(async move {
                let _turn = limit.acquire().await.unwrap();
                carry_out(&registry, &machine, lease, todo, &state).await;
            });
        }
        set.join_all().await;
    }
}

fn todo(mirror: &Mirror, state: &State) -> BTreeMap<MachineId, (Lease, Todo)> {
    let desired = mirror.read();
    let mut out: BTreeMap<MachineId, (Lease, Todo)> = BTreeMap::new();
    let entry = |machine: &MachineId| Some((machine.clone(), *state.machines.get(machine)?));
    let mut running: BTreeSet<&UnitName> = BTreeSet::new();
    for (name, unit) in &desired.units {
        let Some(machine) = unit.scheduled.as_ref() else {
            continue;
        };
        if unit.target != TargetState::Launched {
            continue;
        }
        if state.launched.get(name) == Some(machine) {
            running.insert(name);
        } else if let Some((machine, lease)) = entry(machine) {
            let todo = &mut out.entry(machine).or_insert((lease, Todo::default())).1;
            todo.launch.push((name.clone(), unit.hash.to_string()));
        }
    }
    for (name, machine) in &state.launched {
        if !running.contains(name)
            && let Some((machine, lease)) = entry(machine)
        {
            let todo = &mut out.entry(machine).or_insert((lease, Todo::default())).1;
            todo.unload.push(name.clone());
        }
    }
    out
}

async fn carry_out(
    registry: &Registry,
    machine: &MachineId,
    lease: Lease,
    todo: Todo,
    state: &Mutex<State>,
) {
    let mut changes = Vec::new();
    for name in todo.unload {
        changes.push((name, None));
    }
    for (name, hash) in todo.launch {
        // What fails is seen again with the next change.
        if matches!(
            registry.claim(&name, machine, false, &hash, lease).await,
            Ok(true)
        ) {
            let launched = UnitState {
                load: "loaded".into(),
                active: "active".into(),
                sub: "running".into(),
                phase: Phase::Launched,
                ..UnitState::claim(&hash)
            };
            changes.push((name, Some(launched)));
        }
    }
    for batch in changes.chunks(100) {
        if registry.publish(machine, batch, lease).await.is_err() {
            continue;
        }
        let mut state = state.lock().unwrap();
        for (name, change) in batch {
            match change {
                Some(_) => drop(state.launched.insert(name.clone(), machine.clone())),
                None => drop(state.launched.remove(name)),
            }
        }
    }
}
