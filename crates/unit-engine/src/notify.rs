//! What follows from a unit's change of state: jobs end, dependents react, handlers start.

use std::collections::BTreeSet;

use init_control::{ActiveState, JobMode, LoadState, PowerAction, Signal};
use unit_file::settings::CollectMode;

use crate::api::{Action, LogLevel};
use crate::engine::{Cx, Engine};
use crate::graph::{
    AFTER, BINDS_TO, BOUND_BY, CONFLICTED_BY, CONFLICTS, Deps, ON_FAILURE, ON_SUCCESS,
    PULL_IN_START, REFERENCED_BY, REQUIRED_BY, TRIGGERED_BY, UPHELD_BY, UPHOLDS, UnitId, WANTED_BY,
    WANTS,
};
use crate::job::{JobResult, JobType};
use crate::state::{
    is_active_or_activating, is_active_or_reloading, is_inactive_or_deactivating,
    is_inactive_or_failed,
};
use crate::unit::{Kind, TimerKind};

impl Engine {
    /// A unit went from one state to another (maybe the same with another sub-state).
    pub(crate) fn state_changed(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        old: ActiveState,
        reload_ok: bool,
    ) {
        let new = self.unit(id).active();
        self.changed.insert(id);
        self.stamp_change(cx, id, old, new);
        let expected = self.settle_job(cx, id, new, reload_ok);
        if self.get(id).is_none() {
            return;
        }
        if !expected && old != new && !self.reloading {
            if is_inactive_or_failed(old) && is_active_or_activating(new) {
                self.start_belated(cx, id);
            } else if is_active_or_activating(old) && is_inactive_or_deactivating(new) {
                self.stop_bound(cx, id);
            }
        }
        if old == new {
            return;
        }
        let will_restart = matches!(&self.unit(id).run.kind, Kind::Service(s) if s.will_restart);
        if new == ActiveState::Failed && old != ActiveState::Failed {
            if !will_restart {
                self.trigger_handlers(cx, id, true);
            }
            let name = self.unit(id).name.to_string();
            if name == "default.target" || name == "multi-user.target" {
                self.log(cx, LogLevel::Warning, None, format!("{name} failed"));
            }
        }
        if new == ActiveState::Inactive && !is_inactive_or_failed(old) && !will_restart {
            self.trigger_handlers(cx, id, false);
        }
        if is_inactive_or_failed(new) && !is_inactive_or_failed(old) {
            self.unit_went_down(cx, id, new, will_restart);
        }
        if is_active_or_reloading(new) && !is_active_or_reloading(old) {
            self.check_power_target(cx, id);
            self.unneeded_queue.insert(id);
            self.uphold_queue.insert(id);
            self.bound_queue.insert(id);
        }
        for trigger in self.unit(id).edges.list(TRIGGERED_BY) {
            self.trigger_notified(cx, trigger, id);
        }
        self.gc_queue.insert(id);
    }

    fn stamp_change(&mut self, cx: &Cx<'_>, id: UnitId, old: ActiveState, new: ActiveState) {
        let stamp = cx.stamp();
        let run = &mut self.unit_mut(id).run;
        run.state_change = stamp;
        if is_inactive_or_failed(old) && !is_inactive_or_failed(new) {
            run.inactive_exit = stamp;
        } else if !is_inactive_or_failed(old) && is_inactive_or_failed(new) {
            run.inactive_enter = stamp;
        }
        if !is_active_or_reloading(old) && is_active_or_reloading(new) {
            run.active_enter = stamp;
        } else if is_active_or_reloading(old) && !is_active_or_reloading(new) {
            run.active_exit = stamp;
        }
    }

    /// Ends the unit's job if the state is what it wanted (or never can be). False: nobody asked for this.
    fn settle_job(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        new: ActiveState,
        reload_ok: bool,
    ) -> bool {
        let Some(job) = self.unit(id).job.and_then(|j| self.jobs.get(&j)) else {
            return false;
        };
        let (job_id, job_type, running) = (job.id, job.job_type, job.running);
        if !running {
            self.run_queue.insert(job_id);
        }
        let ended = match new {
            ActiveState::Failed => JobResult::Failed,
            _ => JobResult::Done,
        };
        match job_type {
            JobType::Start | JobType::VerifyActive => {
                if is_active_or_reloading(new) {
                    self.finish_job(cx, job_id, JobResult::Done, true, false);
                } else if running && new != ActiveState::Activating {
                    if is_inactive_or_failed(new) {
                        self.finish_job(cx, job_id, ended, true, false);
                    }
                    return false;
                }
            }
            JobType::Stop | JobType::Restart | JobType::TryRestart => {
                if is_inactive_or_failed(new) {
                    self.finish_job(cx, job_id, JobResult::Done, true, false);
                } else if running && new != ActiveState::Deactivating {
                    self.finish_job(cx, job_id, JobResult::Failed, true, false);
                    return false;
                }
            }
            JobType::Reload | JobType::ReloadOrStart | JobType::TryReload => {
                if running {
                    if new == ActiveState::Active {
                        let result = if reload_ok {
                            JobResult::Done
                        } else {
                            JobResult::Failed
                        };
                        self.finish_job(cx, job_id, result, true, false);
                    } else if !matches!(new, ActiveState::Activating | ActiveState::Reloading) {
                        if is_inactive_or_failed(new) {
                            self.finish_job(cx, job_id, ended, true, false);
                        }
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Came up unasked: start what it needs beside it, stop what conflicts.
    fn start_belated(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let edges: Vec<(UnitId, Deps)> = self
            .unit(id)
            .edges
            .all()
            .iter()
            .map(|e| (e.other, e.deps))
            .collect();
        for (other, deps) in edges {
            let Some(state) = self.get(other).map(|u| u.active()) else {
                continue;
            };
            if deps.has(PULL_IN_START) && !deps.has(AFTER) && !is_active_or_activating(state) {
                self.add_own_job(cx, other, JobType::Start, JobMode::Replace);
            } else if deps.has(WANTS.or(UPHOLDS))
                && !deps.has(AFTER)
                && !is_active_or_activating(state)
            {
                self.add_own_job(cx, other, JobType::Start, JobMode::Fail);
            }
            if deps.has(CONFLICTS.or(CONFLICTED_BY)) && !is_inactive_or_deactivating(state) {
                self.add_own_job(cx, other, JobType::Stop, JobMode::Replace);
            }
        }
    }

    /// Went down unasked: stop what is bound to it.
    fn stop_bound(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        for other in self.unit(id).edges.list(BOUND_BY) {
            if self
                .get(other)
                .is_some_and(|u| !is_inactive_or_deactivating(u.active()))
            {
                self.add_own_job(cx, other, JobType::Stop, JobMode::Replace);
            }
        }
    }

    fn unit_went_down(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        new: ActiveState,
        will_restart: bool,
    ) {
        self.release_cgroup(cx, id);
        let settings = &self.unit(id).settings;
        let (failure, success) = (settings.failure_action, settings.success_action);
        if new == ActiveState::Failed && !will_restart {
            self.emergency(cx, id, failure, "unit failed");
        } else if new == ActiveState::Inactive && !will_restart {
            self.emergency(cx, id, success, "unit finished");
        }
        let edges = &self.unit(id).edges;
        let queue: Vec<UnitId> = edges.list(PULL_IN_START.or(WANTS).or(UPHOLDS));
        let upholders: Vec<UnitId> = edges.list(UPHELD_BY);
        let bound: Vec<UnitId> = edges.list(BOUND_BY);
        self.unneeded_queue.extend(queue);
        self.uphold_queue.extend(upholders);
        self.bound_queue.extend(bound);
    }

    /// `reboot.target` and its kin without a service of theirs: reaching them ends the machine.
    fn check_power_target(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let unit = self.unit(id);
        let action = match unit.name.as_str() {
            "reboot.target" => PowerAction::Reboot,
            "poweroff.target" => PowerAction::PowerOff,
            "halt.target" => PowerAction::Halt,
            "kexec.target" => PowerAction::Kexec,
            _ => return,
        };
        let service_does_it = unit.edges.with(PULL_IN_START).any(|o| {
            self.get(o).is_some_and(|u| {
                u.load == LoadState::Loaded
                    && (u.settings.success_action != unit_file::settings::EmergencyAction::None
                        || u.name.as_str().starts_with("systemd-"))
            })
        });
        if !service_does_it {
            let argument = self.power_argument.take();
            cx.out.push(Action::Power {
                action,
                immediate: false,
                argument,
            });
        }
    }

    /// Starts OnFailure= or OnSuccess= units.
    pub(crate) fn trigger_handlers(&mut self, cx: &mut Cx<'_>, id: UnitId, failed: bool) {
        let deps = if failed { ON_FAILURE } else { ON_SUCCESS };
        let handlers = self.unit(id).edges.list(deps);
        if handlers.is_empty() {
            return;
        }
        let unit = self.unit(id);
        let word = if failed {
            &unit.settings.on_failure_job_mode
        } else {
            &unit.settings.on_success_job_mode
        };
        let mode = JobMode::from_word(word).unwrap_or(JobMode::Replace);
        let name = unit.name.clone();
        let monitor = self.monitor_environment(id);
        let text = format!(
            "{name}: Triggering {} dependencies.",
            if failed { "OnFailure=" } else { "OnSuccess=" }
        );
        self.log(cx, LogLevel::Info, Some(name), text);
        for handler in handlers {
            if let Some(monitor) = &monitor
                && let Kind::Service(s) = &mut self.unit_mut(handler).run.kind
            {
                s.monitor.clone_from(monitor);
            }
            self.add_own_job(cx, handler, JobType::Start, mode);
        }
    }

    /// Work put off to the end of an event: StopWhenUnneeded=, BindsTo=, Upholds=, PropagatesStop.
    pub(crate) fn run_follow_ups(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut worked = false;
        while let Some(id) = self.unneeded_queue.pop_first() {
            worked |= self.stop_if_unneeded(cx, id);
        }
        while let Some(id) = self.bound_queue.pop_first() {
            worked |= self.stop_if_unbound(cx, id);
        }
        while let Some(id) = self.uphold_queue.pop_first() {
            worked |= self.uphold(cx, id);
        }
        worked
    }

    fn stop_if_unneeded(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let Some(unit) = self.get(id) else {
            return false;
        };
        if !unit.settings.stop_when_unneeded
            || !is_active_or_reloading(unit.active())
            || unit.job.is_some()
        {
            return false;
        }
        let needers = REQUIRED_BY.or(WANTED_BY).or(BOUND_BY).or(UPHELD_BY);
        let needed = unit.edges.with(needers).any(|o| {
            self.get(o)
                .is_some_and(|u| u.job.is_some() || !is_inactive_or_failed(u.active()))
        });
        if needed {
            return false;
        }
        let name = unit.name.clone();
        self.log(
            cx,
            LogLevel::Info,
            Some(name.clone()),
            format!("{name}: Unit not needed anymore. Stopping."),
        );
        self.add_own_job(cx, id, JobType::Stop, JobMode::Fail)
            .is_some()
    }

    fn stop_if_unbound(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let Some(unit) = self.get(id) else {
            return false;
        };
        if !is_active_or_reloading(unit.active()) || unit.job.is_some() {
            return false;
        }
        let lost = unit.edges.with(BINDS_TO).any(|o| {
            self.get(o)
                .is_some_and(|u| u.job.is_none() && is_inactive_or_failed(u.active()))
        });
        if !lost {
            return false;
        }
        let name = unit.name.clone();
        let text = format!("{name}: Unit is bound to inactive unit. Stopping, too.");
        self.log(cx, LogLevel::Info, Some(name), text);
        self.add_own_job(cx, id, JobType::Stop, JobMode::Fail)
            .is_some()
    }

    /// Starts what an active unit upholds and finds dead. A start that fails at its limit is not retried at once.
    fn uphold(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let Some(unit) = self.get(id) else {
            return false;
        };
        if !is_active_or_reloading(unit.active()) {
            return false;
        }
        let mut worked = false;
        for other in unit.edges.list(UPHOLDS) {
            let Some(u) = self.get(other) else { continue };
            let dead = is_inactive_or_failed(u.active()) && u.job.is_none();
            let limited = u.run.start_limit_hit;
            let restarting = matches!(&u.run.kind, Kind::Service(s) if s.will_restart);
            if dead && !limited && !restarting && u.load == LoadState::Loaded {
                worked |= self
                    .add_own_job(cx, other, JobType::Start, JobMode::Fail)
                    .is_some();
            }
        }
        worked
    }

    /// Forgets inactive units that nothing refers to.
    pub(crate) fn collect_garbage(&mut self, cx: &mut Cx<'_>) {
        let mut keep: BTreeSet<UnitId> = BTreeSet::new();
        while let Some(id) = self.gc_queue.pop_first() {
            if self.get(id).is_none() || self.is_held(id, &mut keep) {
                continue;
            }
            let unit = self.unit(id);
            let name = unit.name.to_string();
            let neighbours: Vec<UnitId> = unit.edges.all().iter().map(|e| e.other).collect();
            let announced = unit.announced;
            self.forget_unit(id);
            self.gc_queue
                .extend(neighbours.into_iter().filter(|n| !keep.contains(n)));
            if announced {
                cx.out
                    .push(Action::Broadcast(Signal::UnitRemoved { unit: name }));
            }
        }
    }

    /// Must the unit stay for its own sake?
    fn is_root(&self, id: UnitId) -> bool {
        let unit = self.unit(id);
        let state = unit.active();
        let inactive = match unit.settings.collect_mode {
            CollectMode::Inactive => state == ActiveState::Inactive,
            CollectMode::InactiveOrFailed => is_inactive_or_failed(state),
        };
        let stored = match &unit.run.kind {
            Kind::Service(s) => !s.fd_store.is_empty() || s.main.alive() || s.control.alive(),
            Kind::Socket(s) => !s.tokens.is_empty(),
            Kind::Mount(m) => m.kernel.is_some(),
            _ => false,
        };
        !inactive || unit.perpetual || unit.job.is_some() || unit.run.client_refs > 0 || stored
    }

    /// Is there a unit that must stay and refers to this one, directly or not?
    fn is_held(&self, id: UnitId, keep: &mut BTreeSet<UnitId>) -> bool {
        let mut seen = BTreeSet::from([id]);
        let mut stack = vec![id];
        while let Some(at) = stack.pop() {
            if keep.contains(&at) || self.is_root(at) {
                keep.insert(id);
                keep.insert(at);
                return true;
            }
            for other in self.unit(at).edges.with(REFERENCED_BY) {
                if seen.insert(other) {
                    stack.push(other);
                }
            }
        }
        false
    }

    /// Everything about a unit that is to be forgotten.
    fn forget_unit(&mut self, id: UnitId) {
        let others: Vec<UnitId> = self.unit(id).edges.all().iter().map(|e| e.other).collect();
        for other in others {
            if let Some(u) = self.get_mut(other) {
                u.edges.remove_unit(id);
            }
        }
        for kind in crate::unit::TIMER_KINDS {
            self.disarm(id, kind);
        }
        let unit = self.unit(id);
        let names: Vec<_> = unit.aliases.iter().chain([&unit.name]).cloned().collect();
        for name in names {
            if self.names.get(&name) == Some(&id) {
                self.names.remove(&name);
            }
        }
        if let Some(path) = self.unit(id).cgroup_path.clone()
            && self.cgroups.get(&path) == Some(&id)
        {
            self.cgroups.remove(&path);
        }
        self.forget_id(id);
    }

    /// Frees the slot of a unit whose names and edges are gone already.
    pub(crate) fn forget_id(&mut self, id: UnitId) {
        self.units[id.0 as usize] = None;
        self.free.push(id);
        self.changed.remove(&id);
        self.unneeded_queue.remove(&id);
        self.uphold_queue.remove(&id);
        self.bound_queue.remove(&id);
        self.gc_queue.remove(&id);
        self.load_queue.retain(|q| *q != id);
        self.target_queue.retain(|q| *q != id);
        self.new_units.retain(|q| *q != id);
        self.idle_queue.retain(|q| *q != id);
        self.pids.retain(|_, (unit, _)| *unit != id);
        self.spawns.retain(|_, (unit, _)| *unit != id);
        self.timers.retain(|(_, unit, _)| *unit != id);
        for units in self.devices.values_mut() {
            units.retain(|u| *u != id);
        }
    }

    /// A unit that this one starts has changed.
    pub(crate) fn trigger_notified(&mut self, cx: &mut Cx<'_>, trigger: UnitId, id: UnitId) {
        match self.get(trigger).map(|u| &u.run.kind) {
            Some(Kind::Socket(_)) => self.socket_triggered_changed(cx, trigger, id),
            Some(Kind::Timer(_)) => self.timer_triggered_changed(cx, trigger, id),
            Some(Kind::Path(_)) => self.path_triggered_changed(cx, trigger, id),
            _ => {}
        }
    }

    /// State time-outs belong to one state: leaving it disarms.
    pub(crate) fn disarm_state(&mut self, id: UnitId) {
        self.disarm(id, TimerKind::State);
    }
}
