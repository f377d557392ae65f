//! Leading: while this machine holds the leader's key, it keeps an index of the cluster up to date
//! by one watch over the whole registry and carries out what the planner says.
//!
//! The leader's key hangs on the machine's own lease, so a machine that dies loses presence and
//! leadership in the same moment, and the next leader can act at once. Every write is guarded by
//! the key being the one that was won: a leader that was deposed without noticing writes nothing.
//!
//! A failed write ends the term; the next one begins with a fresh look at everything. Reasons are
//! logged with every decision, and for every unit that has to wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use etcd_kv::{Compare, Event, Keys, Lease, Op, Txn, WatchRequest};
use fleet_model::engine::{EngineTask, Plan, Reason, Scheduler, Step};
use fleet_model::{Activity, Machine, MachineId, Metadata, UnitName, UnitState, merge_metadata};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::metrics::{Metrics, PassFailure, Task};
use crate::presence::Standing;
use crate::registry::{
    Desired, ENGINE_VERSION, Follow, Key, Moves, Rebalance, Registry, RegistryError, Update,
    read_record,
};

/// Changes of the schedule in one transaction. Each has up to four guards; etcd allows 128 of them.
const BATCH: usize = 30;

/// What an engine needs to know.
#[derive(Debug)]
pub struct Engine {
    /// The registry.
    pub registry: Registry,
    /// This machine.
    pub me: MachineId,
    /// Its standing.
    pub standing: watch::Receiver<Standing>,
    /// Pause after a failure.
    pub pause: Duration,
    /// How many units may move to a machine that joins.
    pub join_budget: u32,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Why a term ended.
enum TermEnd {
    /// Another one leads, or the lease changed.
    Deposed,
    /// The registry failed.
    Failed(RegistryError),
}

impl From<RegistryError> for TermEnd {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error)
    }
}

impl Engine {
    /// Campaigns and leads, for ever.
    pub async fn run(mut self) {
        loop {
            let lease = self.registered().await;
            match self.campaign(lease).await {
                Ok(Some(term)) => {
                    tracing::info!(machine = %self.me, "this machine leads the engine");
                    self.metrics.leading(Some(SystemTime::now()));
                    let end = self.lead(lease, term).await;
                    self.metrics.leading(None);
                    match end {
                        TermEnd::Deposed => tracing::info!("this machine leads no longer"),
                        TermEnd::Failed(error) => {
                            self.metrics.pass_failed(PassFailure::Run);
                            tracing::warn!("engine: {}", telemetry::chain(&error));
                            sleep(self.pause).await;
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("engine: {}", telemetry::chain(&error));
                    sleep(self.pause).await;
                }
            }
        }
    }

    /// Does not lead, for ever.
    pub async fn stand_aside(mut self) {
        loop {
            let lease = self.registered().await;
            match self.abdicate(lease).await {
                Ok(()) => lease_changed(&mut self.standing, lease).await,
                Err(error) => {
                    tracing::debug!("engine: {}", telemetry::chain(&error));
                    sleep(self.pause).await;
                }
            }
        }
    }

    /// Gives back a lead that the daemon before this one has won with the lease that we took over:
    /// the key would last as long as the lease, and nobody else would lead.
    async fn abdicate(&self, lease: Lease) -> Result<(), RegistryError> {
        let key = self.registry.leader_key();
        let ours = Compare {
            key: key.as_str().into(),
            condition: etcd_kv::Condition::Lease(Some(lease)),
        };
        let txn = Txn::new().when(ours).then(Op::delete(key));
        let failed = |source| RegistryError::Kv {
            what: "give the engine's lead back",
            source,
        };
        self.registry.kv().txn(txn).await.map_err(failed)?;
        Ok(())
    }

    /// Waits for a lease.
    async fn registered(&mut self) -> Lease {
        match self
            .standing
            .wait_for(|s| s.lease.is_some())
            .await
            .map(|s| s.lease)
        {
            Ok(Some(lease)) => lease,
            // The presence task is gone with its runtime.
            _ => std::future::pending().await,
        }
    }

    /// Tries to take the leader's key. The revision of its creation names the term; `None` after
    /// another leader has left, or the lease has changed.
    async fn campaign(&mut self, lease: Lease) -> Result<Option<i64>, RegistryError> {
        if self.registry.engine_version().await? > ENGINE_VERSION {
            tracing::warn!("the cluster wants a newer engine; this machine does not lead");
            self.abdicate(lease).await?;
            sleep(Duration::from_secs(60)).await;
            return Ok(None);
        }
        let failed = |source| RegistryError::Kv {
            what: "campaign for the engine's lead",
            source,
        };
        let key = self.registry.leader_key();
        let value = serde_json::json!({"machine": self.me.as_str(), "version": ENGINE_VERSION});
        let txn = Txn::new()
            .when(Compare::missing(key.as_str()))
            .then(Op::put_leased(key.as_str(), value.to_string(), lease))
            .otherwise(Op::get(key.as_str()));
        let reply = self.registry.kv().txn(txn).await.map_err(failed)?;
        if reply.succeeded {
            return Ok(Some(reply.revision));
        }
        if let Some(held) = reply.kvs(0).first()
            && held.lease == Some(lease)
        {
            // Ours already: won by the daemon before this one.
            return Ok(Some(held.create_revision));
        }
        if let Some(held) = reply.kvs(0).first()
            && version_of(&held.value) < u64::from(ENGINE_VERSION)
        {
            tracing::info!("the leader's engine is older than ours: it is ousted");
            let unchanged = Compare::unchanged(key.as_str(), held.mod_revision);
            let oust = Txn::new().when(unchanged).then(Op::delete(key));
            self.registry.kv().txn(oust).await.map_err(failed)?;
            return Ok(None);
        }
        let request = WatchRequest::from(Keys::one(key), reply.revision + 1);
        let mut watch = self.registry.kv().watch(request).await.map_err(failed)?;
        loop {
            tokio::select! {
                biased;
                batch = watch.next() => {
                    let batch = batch.map_err(failed)?;
                    if batch.events.iter().any(|e| matches!(e, Event::Delete { .. })) {
                        return Ok(None);
                    }
                }
                () = lease_changed(&mut self.standing, lease) => return Ok(None),
            }
        }
    }

    async fn lead(&mut self, lease: Lease, term: i64) -> TermEnd {
        let mut cluster = Cluster::default();
        let mut follow = Follow::new(self.registry.everything());
        let leader_key = self.registry.leader_key();
        let version_key = self.registry.engine_version_key();
        loop {
            let update = tokio::select! {
                biased;
                () = lease_changed(&mut self.standing, lease) => return TermEnd::Deposed,
                update = follow.next(self.registry.kv()) => update,
            };
            match update {
                Update::All(kvs, _) => {
                    cluster = Cluster::default();
                    for kv in kvs {
                        cluster.set(self.registry.read_key(&kv.key), Some(&kv.value));
                    }
                    // These were there before.
                    cluster.joined = false;
                }
                Update::Changes(events, _) => {
                    for event in events {
                        // With another version wanted we may not be the right one any more.
                        if [&leader_key, &version_key]
                            .iter()
                            .any(|k| event.key() == k.as_bytes())
                        {
                            return TermEnd::Deposed;
                        }
                        let key = self.registry.read_key(event.key());
                        match &event {
                            Event::Put { kv, .. } => cluster.set(key, Some(&kv.value)),
                            Event::Delete { .. } => cluster.set(key, None),
                        }
                    }
                }
            }
            if std::mem::take(&mut cluster.joined) && self.join_budget > 0 {
                cluster.scheduler.rebalance(self.join_budget);
            }
            let start = Instant::now();
            let plan = cluster.scheduler.plan();
            let done = self.execute(plan, &mut cluster, term).await;
            self.metrics.pass(start.elapsed());
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Carries a plan out and takes note of what that means.
    async fn execute(&self, plan: Plan, cluster: &mut Cluster, term: i64) -> Result<(), TermEnd> {
        let outdated = self.carry_out(&plan, term).await?;
        let moves = moves(&plan, &outdated);
        // The scheduler has taken them for done.
        for task in outdated {
            let from = match task.step {
                Step::Schedule { from, .. } => from,
                Step::Unschedule { from } => Some(from),
            };
            cluster.scheduler.set_schedule(&task.unit, from);
            cluster.set_result(&task.unit);
        }
        if let Some(moved) = plan.rebalanced {
            tracing::info!("the load is evened out: {moved} units move");
            let request = cluster.request.take();
            self.rebalanced(request, &moves, term).await?;
        }
        Ok(())
    }

    /// Writes the schedule. Returns the tasks that were outdated.
    async fn carry_out(&self, plan: &Plan, term: i64) -> Result<Vec<EngineTask>, TermEnd> {
        let mut outdated = Vec::new();
        for tasks in plan.tasks.chunks(BATCH) {
            if !self.write(tasks, term).await? {
                // One of them is outdated; the others need not wait for it.
                for task in tasks {
                    if self.write(std::slice::from_ref(task), term).await? {
                        self.done(task);
                    } else if !self.still_leading(term).await? {
                        return Err(TermEnd::Deposed);
                    } else {
                        // What made it so is on its way to us as a change.
                        self.metrics.task(kind(task), false);
                        self.metrics.pass_failed(PassFailure::Schedule);
                        tracing::debug!(unit = %task.unit, "the schedule has changed meanwhile");
                        outdated.push(task.clone());
                    }
                }
                continue;
            }
            tasks.iter().for_each(|task| self.done(task));
        }
        for (unit, why) in &plan.waits {
            tracing::info!(unit = %unit, reason = %why, "{unit} waits: {why}");
        }
        Ok(outdated)
    }

    fn done(&self, task: &EngineTask) {
        self.metrics.task(kind(task), true);
        if matches!(task.why, Reason::MachineGone) {
            self.metrics.pass_failed(PassFailure::MachineAway);
        }
        log_task(task);
    }

    async fn write(&self, tasks: &[EngineTask], term: i64) -> Result<bool, RegistryError> {
        let mut txn = Txn::new().when(self.guard(term));
        for task in tasks {
            let (guards, ops) = self.registry.schedule_change(task);
            txn.when.extend(guards);
            txn.then.extend(ops);
        }
        let reply = self.registry.kv().txn(txn).await;
        let failed = |source| RegistryError::Kv {
            what: "write the schedule",
            source,
        };
        Ok(reply.map_err(failed)?.succeeded)
    }

    /// Takes the request away that has been dealt with, and keeps what was done.
    async fn rebalanced(
        &self,
        request: Option<Vec<u8>>,
        moves: &Moves,
        term: i64,
    ) -> Result<(), TermEnd> {
        let Some(request) = request else {
            return Ok(());
        };
        let (unchanged, ops) = self.registry.rebalance_done(&request, moves);
        let mut txn = Txn::new().when(self.guard(term)).when(unchanged);
        txn.then.extend(ops);
        let failed = |source| RegistryError::Kv {
            what: "take the request to rebalance away",
            source,
        };
        // Made anew meanwhile: then that is dealt with next.
        self.registry.kv().txn(txn).await.map_err(failed)?;
        Ok(())
    }

    async fn still_leading(&self, term: i64) -> Result<bool, RegistryError> {
        let reply = self
            .registry
            .kv()
            .txn(Txn::new().when(self.guard(term)))
            .await;
        let failed = |source| RegistryError::Kv {
            what: "check the engine's lead",
            source,
        };
        Ok(reply.map_err(failed)?.succeeded)
    }

    fn guard(&self, term: i64) -> Compare {
        let condition = etcd_kv::Condition::Created(term);
        Compare {
            key: self.registry.leader_key().into(),
            condition,
        }
    }
}

/// Version of the engine of the leader with this record; one that cannot be read is not older.
fn version_of(record: &[u8]) -> u64 {
    let record = serde_json::from_slice::<serde_json::Value>(record);
    let version = record.ok().and_then(|record| record["version"].as_u64());
    version.unwrap_or(u64::MAX)
}

/// Waits until the lease is another one, or none.
async fn lease_changed(standing: &mut watch::Receiver<Standing>, lease: Lease) {
    if standing.wait_for(|s| s.lease != Some(lease)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The moves of a plan that even out the load, as far as they were written.
fn moves(plan: &Plan, outdated: &[EngineTask]) -> Moves {
    let written = plan.tasks.iter().filter(|task| !outdated.contains(task));
    Moves::new(written.filter_map(|task| match &task.step {
        Step::Unschedule { from } if task.why == Reason::Rebalanced => Some((&task.unit, from)),
        _ => None,
    }))
}

fn kind(task: &EngineTask) -> Task {
    match task.step {
        Step::Schedule { .. } => Task::Schedule,
        Step::Unschedule { .. } => Task::Unschedule,
    }
}

fn log_task(task: &EngineTask) {
    let EngineTask { unit, why, .. } = task;
    match &task.step {
        Step::Schedule { to, .. } => {
            tracing::info!(unit = %unit, machine = %to, reason = %why,
                "{unit} scheduled on {}: {why}", to.short());
        }
        Step::Unschedule { from } => {
            tracing::info!(unit = %unit, machine = %from, reason = %why,
                "{unit} unscheduled from {}: {why}", from.short());
        }
    }
}

/// The registry as the leader sees it, key by key, turned into facts for the scheduler.
#[derive(Debug, Default)]
struct Cluster {
    desired: Desired,
    machines: BTreeMap<MachineId, Metadata>,
    scheduler: Scheduler,
    /// A machine has come since this was looked at.
    joined: bool,
    /// The request to rebalance that the next plan deals with.
    request: Option<Vec<u8>>,
}

impl Cluster {
    fn set(&mut self, key: Key, value: Option<&[u8]>) {
        match &key {
            Key::Unit(name)
            | Key::Target(name)
            | Key::Schedule(name)
            | Key::Result(name)
            | Key::Answered(name) => {
                let name = name.clone();
                self.desired.set(key, value);
                match self.desired.units.get(&name) {
                    Some(unit) => {
                        let requirements = unit.requirements.clone();
                        self.scheduler.set_unit(&name, requirements, unit.target);
                        self.scheduler.set_schedule(&name, unit.scheduled.clone());
                        self.set_result(&name);
                    }
                    None => self.scheduler.remove_unit(&name),
                }
            }
            Key::Overlay(machine, _) => {
                let machine = machine.clone();
                self.desired.set(key, value);
                self.set_metadata(&machine);
            }
            Key::Presence(id) => {
                match value.and_then(|v| serde_json::from_slice::<Machine>(v).ok()) {
                    Some(machine) => {
                        let offer = machine.offer();
                        self.joined |= self.machines.insert(id.clone(), machine.metadata).is_none();
                        self.set_metadata(id);
                        self.scheduler.set_offer(id, offer);
                    }
                    None => {
                        self.machines.remove(id);
                        self.scheduler.remove_machine(id);
                    }
                }
            }
            Key::State(name, machine) => {
                let state = value.map(|value| {
                    let what = format_args!("{name} on {machine}");
                    // Whatever it says, the machine has not let go of the unit.
                    read_record::<UnitState>(what, value)
                        .map_or(Activity::default(), |state| state.activity())
                });
                self.scheduler.set_state(name, machine, state);
            }
            Key::Cordon(machine) => {
                let machine = machine.clone();
                self.desired.set(key, value);
                let access = self.desired.access(&machine);
                self.scheduler.set_access(&machine, access);
            }
            Key::Rebalance => {
                self.request = value.map(<[u8]>::to_vec);
                let request = value.and_then(|value| read_record("rebalancing", value));
                if let Some(Rebalance { budget, .. }) = request {
                    self.scheduler.rebalance(budget);
                }
            }
            // Agents deal with restarts, and clients with announcements.
            Key::Restart(_) | Key::Turns(_) | Key::Announcement(..) | Key::Other => {}
        }
    }

    fn set_result(&mut self, name: &UnitName) {
        if let Some(unit) = self.desired.units.get(name) {
            let (result, answered) = (unit.result.clone(), unit.answered);
            self.scheduler.set_result(name, result, answered);
        }
    }

    fn set_metadata(&mut self, id: &MachineId) {
        let Some(own) = self.machines.get(id) else {
            return;
        };
        let none = Metadata::new();
        let overlay = self.desired.overlays.get(id).unwrap_or(&none);
        self.scheduler.set_machine(id, merge_metadata(own, overlay));
    }
}
