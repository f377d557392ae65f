//! The agent: makes this machine run what it shall, through the service manager, and tells the
//! registry what runs.
//!
//! One task owns all that is known of the local units. It wakes when the wishes change, when the
//! service manager has news, when a piece of work is done, or when something that failed is due
//! again; then it plans (`fleet_model::agent`) and starts work for units that have none under way.
//! Work runs beside it, so a unit that takes long to stop holds up nobody else, and a unit that
//! fails fails alone.
//!
//! ```text
//!   load:    claim in the registry ─▶ write file ─▶ link ─▶ reload ─▶ start
//!   unload:  stop, wait ─▶ forget failure, unlink, remove file ─▶ drop own record (reload)
//! ```
//!
//! The claim comes first and the record goes last: while this machine has a record of a unit, the
//! engine gives the unit to nobody else. A unit is not loaded again before its old record is gone.
//!
//! Units with `Partition=stop` are behind the [`fence`]: they are started only while this machine
//! holds their record under its lease and that is sure to last. A batch unit that is down after its
//! start has run to its end: how is written into the registry, and the leader does the rest.

pub mod fence;
mod files;
mod finish;
mod manager;
mod publisher;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fleet_model::agent::{AgentTask, LocalUnit, Step, Wanted, plan, wanted};
use fleet_model::engine::Population;
use fleet_model::{
    MachineId, Metadata, Offer, Partition, Phase, Requirements, TargetState, UnitName, UnitState,
    merge_metadata,
};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use fence::Fence;
pub use files::{FileError, Files, Found};
pub use manager::{ActualState, ManagerError, News, RunEnd, ServiceManager, Systemd};
use publisher::Publisher;
use work::{Done, Launch, Load};

use crate::announce::{Announcer, Tell};
use crate::clock::{Clock, rfc3339};
use crate::presence::Standing;
use crate::registry::{Mirror, Registry};

/// First pause before failed work is tried again, doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How often everything local is looked at though there was no news: of a file that somebody removes
/// the service manager tells nothing.
const RESCAN: Duration = Duration::from_secs(60);

/// LoadState of a unit without a file.
const NOT_FOUND: &str = "not-found";

/// What an agent needs.
#[derive(Debug)]
pub struct Context {
    /// The registry.
    pub registry: Registry,
    /// The wishes.
    pub mirror: Mirror,
    /// This machine.
    pub me: MachineId,
    /// Its own metadata.
    pub metadata: Metadata,
    /// Its address as configured; empty: looked up.
    pub public_ip: String,
    /// What it offers to units.
    pub offer: Offer,
    /// Its standing.
    pub standing: watch::Receiver<Standing>,
    /// The service manager.
    pub manager: Arc<dyn ServiceManager>,
    /// Where unit files go.
    pub files: Files,
    /// What keeps units from running twice.
    pub fence: Fence,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
}

/// A unit that is in place.
#[derive(Debug)]
struct Local {
    unit: LocalUnit,
    requirements: Arc<Requirements>,
    state: Option<ActualState>,
    /// When it came into this state, if we were there.
    since: Option<String>,
    /// There was news of it since it was looked at whether it has run to its end.
    news: bool,
    /// It has run to its end, and that is recorded.
    ended: bool,
    /// Its file, or the link to that, is gone.
    lost: bool,
}

impl Local {
    fn new(unit: LocalUnit, requirements: Arc<Requirements>, state: Option<ActualState>) -> Self {
        let lost = state.as_ref().is_some_and(|s| s.load == NOT_FOUND);
        Self {
            unit,
            requirements,
            state,
            since: None,
            news: true,
            ended: false,
            lost,
        }
    }

    /// Whether its processes are gone, as far as its state tells.
    fn is_down(&self) -> bool {
        self.state.as_ref().is_some_and(|state| {
            matches!(state.active.as_str(), "inactive" | "failed") || state.sub == "exited"
        })
    }
}

/// When failed work is due again.
#[derive(Debug)]
struct Retry {
    /// `None`: now. The entry stays until the work succeeds, so that the pauses grow.
    at: Option<Instant>,
    pause: Duration,
}

/// The running agent.
#[derive(Debug)]
struct Agent {
    context: Context,
    publish: Tell,
    local: BTreeMap<UnitName, Local>,
    busy: BTreeSet<UnitName>,
    retries: BTreeMap<UnitName, Retry>,
    /// Units that are being loaded.
    coming: BTreeMap<UnitName, Arc<Requirements>>,
    /// Units whose record is being taken out of the registry.
    dropping: BTreeSet<UnitName>,
    work: JoinSet<Done>,
    /// Units of which the service manager may know something new.
    ask: BTreeSet<UnitName>,
    /// Units have gone since the service manager last read its files.
    reload: bool,
    /// Records of ours in the registry have been compared with what is here.
    swept: bool,
}

/// Asks the agent to stop: unload everything (`true`) or leave everything as it is.
pub type Stop = oneshot::Receiver<bool>;

/// Runs the agent until it is asked to stop. Whether it has unloaded everything: then no unit is
/// here any more, and none is coming.
pub async fn run(context: Context, mut stop: Stop) -> bool {
    let registry = context.registry.clone();
    let (publisher, mut dropped) = Publisher::start(
        registry,
        context.me.clone(),
        context.standing.clone(),
        context.mirror.rewinds(),
    );
    let (publish, told) = Tell::new(publisher);
    let mut news = context.manager.news();
    let mut opened = context.fence.opened();
    let mut agent = Agent {
        context,
        publish,
        local: BTreeMap::new(),
        busy: BTreeSet::new(),
        retries: BTreeMap::new(),
        coming: BTreeMap::new(),
        dropping: BTreeSet::new(),
        work: JoinSet::new(),
        ask: BTreeSet::new(),
        reload: false,
        swept: false,
    };
    if !agent.adopt(&mut stop).await {
        return false;
    }
    Announcer::start(
        agent.context.registry.clone(),
        agent.context.me.clone(),
        agent.context.mirror.clone(),
        agent.context.standing.clone(),
        agent.context.public_ip.clone(),
        told,
    );
    let mut rescan = Instant::now() + RESCAN;
    loop {
        let due = agent.next_retry();
        tokio::select! {
            // Always in this order, so that a simulated run can be run again.
            biased;
            unload = &mut stop => {
                return unload.unwrap_or(false) && agent.unload_everything().await;
            }
            () = agent.context.mirror.changed() => {}
            changed = agent.context.standing.changed() => {
                if changed.is_err() {
                    return false;
                }
                // Whatever failed for want of the registry may work now.
                agent.retries.values_mut().for_each(|r| r.at = None);
            }
            Ok(()) = opened.changed() => agent.note(&News::Everything),
            name = dropped.recv() => match name {
                Some(name) => drop(agent.dropping.remove(&name)),
                // Without a publisher nobody sees what we do; the daemon ends with us.
                None => return false,
            },
            Some(item) = news.recv() => agent.note(&item),
            Some(done) = agent.work.join_next() => match done {
                Ok(done) => agent.finish(done),
                Err(error) => match error.try_into_panic() {
                    // Its unit would be taken for busy for ever. The next daemon looks afresh.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => tracing::error!("work on a unit broke off: {error}"),
                },
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                agent.end_rests();
            }
            () = sleep_until(rescan) => {
                rescan = Instant::now() + RESCAN;
                agent.note(&News::Everything);
            }
        }
        while let Ok(item) = news.try_recv() {
            agent.note(&item);
        }
        agent.refresh().await;
        agent.reconcile();
    }
}

impl Agent {
    /// Takes over what a daemon before this one left. False if asked to stop meanwhile.
    async fn adopt(&mut self, stop: &mut Stop) -> bool {
        let found = self.context.files.scan().unwrap_or_else(|error| {
            tracing::error!("{}", telemetry::chain(&error));
            BTreeMap::new()
        });
        let names: Vec<UnitName> = found.keys().cloned().collect();
        let mut pause = FIRST_RETRY;
        let states: BTreeMap<_, _> = loop {
            if names.is_empty() {
                break BTreeMap::new();
            }
            match self.context.manager.states(names.clone()).await {
                Ok(states) => break states.into_iter().collect(),
                Err(error) => {
                    tracing::warn!("cannot look at running units: {}", telemetry::chain(&error));
                }
            }
            tokio::select! {
                biased;
                _ = &mut *stop => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_RETRY);
        };
        for (name, Found { mut unit, unsure }) in found {
            let state = states.get(&name).cloned();
            if unsure && state.as_ref().is_some_and(|s| s.active == "inactive") {
                unit.launched = false;
            }
            tracing::info!(unit = %name, launched = unit.launched, "adopted {name}");
            let file = self.context.files.read(&name);
            let requirements = file.map(|file| Requirements::of(&name, &file));
            let requirements = Arc::new(requirements.unwrap_or_default());
            if unit.launched
                && requirements.partition == Partition::Stop
                && let Err(error) = self.context.fence.guard(&name).await
            {
                tracing::error!(unit = %name, "{name}: {}", telemetry::chain(&error));
            }
            let local = Local::new(unit, requirements, state);
            self.local.insert(name.clone(), local);
            self.ask.insert(name.clone());
            self.tell(&name);
        }
        true
    }

    fn note(&mut self, news: &News) {
        match news {
            News::Unit(name) => {
                if let Some((name, _)) = self.local.get_key_value(name.as_str()) {
                    self.ask.insert(name.clone());
                }
            }
            News::Everything => self.ask.extend(self.local.keys().cloned()),
        }
    }

    /// Asks the service manager for the states in question.
    async fn refresh(&mut self) {
        if self.ask.is_empty() {
            return;
        }
        let names: Vec<UnitName> = self.ask.iter().cloned().collect();
        match self.context.manager.states(names).await {
            Ok(states) => {
                self.ask.clear();
                for (name, state) in states {
                    self.note_state(&name, state);
                }
            }
            // The news task says "everything" when the manager is back.
            Err(error) => tracing::debug!("states: {}", telemetry::chain(&error)),
        }
    }

    fn note_state(&mut self, name: &UnitName, state: ActualState) {
        let Some(local) = self.local.get_mut(name) else {
            return;
        };
        local.news = true;
        let lost = state.load == NOT_FOUND || !self.context.files.has(name);
        if std::mem::replace(&mut local.lost, lost) && !lost {
            // Mended: what is next need not wait.
            self.retries.remove(name);
        }
        let mut changed = false;
        if local.state.as_ref() != Some(&state) {
            let before = local.state.as_ref();
            if !before.is_some_and(|before| before.is_like(&state)) {
                local.since = before.map(|_| rfc3339(self.context.clock.wall()));
            }
            local.state = Some(state);
            changed = true;
        }
        // The guard may have stopped it behind our back.
        if local.unit.launched
            && local.is_down()
            && self.context.fence.holds(name)
            && !self.context.files.is_marked(name)
        {
            local.unit.launched = false;
            changed = true;
        }
        if changed {
            self.tell(name);
        }
    }

    /// Publishes what is known of a unit.
    fn tell(&self, name: &UnitName) {
        let Some(Local {
            unit,
            state: Some(state),
            since,
            ..
        }) = self.local.get(name)
        else {
            return;
        };
        let phase = if unit.launched {
            Phase::Launched
        } else {
            Phase::Loaded
        };
        let state = UnitState {
            hash: unit.hash.to_string(),
            load: state.load.clone(),
            active: state.active.clone(),
            sub: state.sub.clone(),
            phase,
            since: since.clone(),
            restart: Some(unit.restart).filter(|nonce| *nonce > 0),
            ready: (state.active == "active").then_some(true),
            ended: (unit.launched && state.active == "inactive").then_some(!state.job),
        };
        // The publisher lives as long as we do.
        let _ = self.publish.send((name.clone(), Some(state)));
    }

    fn wanted(&self) -> BTreeMap<UnitName, Wanted> {
        let desired = self.context.mirror.read();
        let none = Metadata::new();
        let overlay = desired.overlays.get(&self.context.me).unwrap_or(&none);
        let metadata = merge_metadata(&self.context.metadata, overlay);
        let Context { me, offer, .. } = &self.context;
        let mut wanted = wanted(me, &metadata, offer, &desired.units);
        if !self.context.fence.is_open() {
            for unit in wanted.values_mut() {
                if unit.partition == Partition::Stop {
                    unit.target = unit.target.min(TargetState::Loaded);
                }
            }
        }
        wanted
    }

    /// Plans, and starts work for all units that have none under way and are not to wait.
    fn reconcile(&mut self) {
        if !self.context.mirror.is_ready() {
            return;
        }
        self.sweep();
        let wanted = self.wanted();
        self.retries
            .retain(|name, _| wanted.contains_key(name) || self.local.contains_key(name));
        self.mend(&wanted);
        let have = self
            .local
            .iter()
            .map(|(n, l)| (n.clone(), l.unit.clone()))
            .collect();
        let tasks = self.ready(plan(&wanted, &have));
        let mut loads: BTreeMap<UnitName, Load> = BTreeMap::new();
        for task in tasks {
            let loading = loads.contains_key(&task.unit);
            tracing::info!(unit = %task.unit, reason = %task.why, "{} {}: {}",
                task.step.as_str(), task.unit, task.why);
            match task.step {
                Step::Load => {
                    let desired = self.context.mirror.read();
                    if let Some(unit) = desired.units.get(&task.unit) {
                        let global = wanted[&task.unit].global;
                        loads.insert(task.unit.clone(), Load::new(unit, global));
                    }
                }
                Step::Start if loading => {
                    if let Some(load) = loads.get_mut(&task.unit) {
                        load.start = true;
                    }
                }
                Step::Start | Step::Restart => {
                    let launch = {
                        let desired = self.context.mirror.read();
                        let Some(unit) = desired.units.get(&task.unit) else {
                            continue;
                        };
                        Launch::new(unit, wanted[&task.unit].global)
                    };
                    let parts = self.parts();
                    self.begin(&task.unit.clone(), async move {
                        if task.step == Step::Restart {
                            parts.restart(task.unit, launch).await
                        } else {
                            parts.start(task.unit, launch).await
                        }
                    });
                }
                Step::Stop => {
                    let parts = self.parts();
                    self.begin(
                        &task.unit.clone(),
                        async move { parts.stop(task.unit).await },
                    );
                }
                Step::Unload => {
                    let parts = self.parts();
                    self.begin(
                        &task.unit.clone(),
                        async move { parts.unload(task.unit).await },
                    );
                }
            }
        }
        self.load(loads);
        self.settle(&wanted);
        if self.reload && self.busy.is_empty() {
            // Once for all that have gone; a load in between would have done it as well.
            self.reload = false;
            let parts = self.parts();
            self.work.spawn(async move { parts.reload().await });
        }
    }

    /// Puts back what was lost of units that shall stay. If they shall not, or not so, the plan deals
    /// with them.
    fn mend(&mut self, wanted: &BTreeMap<UnitName, Wanted>) {
        let lost: Vec<_> = {
            let desired = self.context.mirror.read();
            let lost = self.local.iter().filter(|(_, local)| local.lost);
            lost.filter(|(name, _)| wanted.contains_key(*name) && !self.waits(name))
                .filter_map(|(name, local)| {
                    let unit = desired.units.get(name)?;
                    (unit.hash == local.unit.hash).then(|| (name.clone(), unit.file.clone()))
                })
                .collect()
        };
        for (name, file) in lost {
            tracing::warn!(unit = %name, "the file of {name}, or its link, is gone: put back");
            let parts = self.parts();
            self.begin(&name.clone(), async move { parts.mend(name, file).await });
        }
    }

    /// The tasks that need not wait.
    fn ready(&self, tasks: Vec<AgentTask>) -> Vec<AgentTask> {
        let desired = self.context.mirror.read();
        let mut here = Population::default();
        let local = self.local.iter().map(|(name, l)| (name, &l.requirements));
        for (name, requirements) in local.chain(&self.coming) {
            here.add(name, requirements);
        }
        let mut is_ready = |task: &AgentTask| {
            let unit = &task.unit;
            if self.waits(unit) {
                return false;
            }
            let local = self.local.get(unit).map(|local| &local.requirements);
            if local.is_some() && task.step != Step::Start {
                return true;
            }
            if local.is_none() && self.dropping.contains(unit) {
                return false;
            }
            // The leader may have put it in the place of one that has not stopped here yet, or may
            // not have seen yet that a new text makes them rivals.
            let wish = desired.units.get(unit).map(|unit| &unit.requirements);
            let Some(requirements) = local.or(wish) else {
                return false;
            };
            let free = here.conflicts(unit, requirements).next().is_none();
            if free {
                here.add(unit, requirements);
            }
            free
        };
        tasks.into_iter().filter(|task| is_ready(task)).collect()
    }

    /// Whether nothing is to be begun on a unit now.
    fn waits(&self, name: &UnitName) -> bool {
        self.busy.contains(name) || self.retries.get(name).is_some_and(|r| r.at.is_some())
    }

    /// Looks at batch units of which there was news: have they run to their end?
    fn settle(&mut self, wanted: &BTreeMap<UnitName, Wanted>) {
        let candidates: Vec<UnitName> = self
            .local
            .iter()
            .filter(|(name, local)| {
                let done = local.ended || local.lost;
                local.news && local.unit.launched && !done && !self.waits(name)
            })
            .filter(|(name, local)| {
                local.is_down() && wanted.get(*name).is_some_and(|wanted| !wanted.ended)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in candidates {
            let before = {
                let desired = self.context.mirror.read();
                match desired.units.get(&name) {
                    Some(unit) if unit.requirements.batch.is_some() => unit.result.clone(),
                    _ => continue,
                }
            };
            if let Some(local) = self.local.get_mut(&name) {
                local.news = false;
            }
            let parts = self.parts();
            let finished = rfc3339(self.context.clock.wall());
            self.begin(&name.clone(), async move {
                parts.settle(name, before.as_deref(), finished).await
            });
        }
    }

    fn begin(&mut self, name: &UnitName, work: impl Future<Output = Done> + Send + 'static) {
        self.busy.insert(name.clone());
        self.work.spawn(work);
    }

    fn load(&mut self, loads: BTreeMap<UnitName, Load>) {
        // Without a lease nothing can be claimed; standing wakes us when there is one.
        let Some(lease) = self.context.standing.borrow().lease else {
            return;
        };
        if loads.is_empty() {
            return;
        }
        for (name, load) in &loads {
            self.busy.insert(name.clone());
            self.coming.insert(name.clone(), load.requirements.clone());
        }
        let parts = self.parts();
        self.work
            .spawn(async move { parts.load(loads, lease).await });
    }

    fn parts(&self) -> work::Parts {
        work::Parts {
            registry: self.context.registry.clone(),
            me: self.context.me.clone(),
            manager: self.context.manager.clone(),
            files: self.context.files.clone(),
            fence: self.context.fence.clone(),
            lease: self.context.standing.borrow().lease,
        }
    }
}
