//! Jobs: what is queued for units, when a job may run, and how it ends.

use init_control::{ActiveState, LoadState, Signal};
use serde::{Deserialize, Serialize};

use crate::api::{Action, LogLevel, UnitLog};
use crate::engine::{Cx, Engine};
use crate::graph::{
    AFTER, BEFORE, BINDS_TO, CONFLICTED_BY, Deps, PROPAGATE_START_FAILURE, REQUISITE_OF,
    TRIGGERED_BY, UnitId,
};
use crate::state::{is_active_or_reloading, is_inactive_or_failed};
use crate::unit::{Kind, TimerKind};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum JobType {
    Start,
    VerifyActive,
    Stop,
    Reload,
    Restart,
    /// Collapses to restart or nothing when queued.
    TryRestart,
    /// Collapses to reload or nothing.
    TryReload,
    /// Collapses to reload or start.
    ReloadOrStart,
}

impl JobType {
    pub(crate) fn word(self) -> &'static str {
        match self {
            JobType::Start => "start",
            JobType::VerifyActive => "verify-active",
            JobType::Stop => "stop",
            JobType::Reload => "reload",
            JobType::Restart => "restart",
            JobType::TryRestart => "try-restart",
            JobType::TryReload => "try-reload",
            JobType::ReloadOrStart => "reload-or-start",
        }
    }

    /// Goes before other kinds of jobs whichever way the order points.
    fn stops_first(self) -> bool {
        matches!(self, JobType::Stop | JobType::Restart)
    }
}

/// The one job that does both; `None` when they conflict.
pub(crate) fn merge_types(a: JobType, b: JobType) -> Option<JobType> {
    use JobType as T;
    if a == b {
        return Some(a);
    }
    Some(match (a, b) {
        (T::Start, T::VerifyActive) | (T::VerifyActive, T::Start) => T::Start,
        (T::Start, T::Reload) | (T::Reload, T::Start) => T::ReloadOrStart,
        (T::Start, T::Restart) | (T::Restart, T::Start) => T::Restart,
        (T::VerifyActive, T::Reload) | (T::Reload, T::VerifyActive) => T::Reload,
        (T::VerifyActive, T::Restart) | (T::Restart, T::VerifyActive) => T::Restart,
        (T::Reload, T::Restart) | (T::Restart, T::Reload) => T::Restart,
        (T::ReloadOrStart, T::Restart) | (T::Restart, T::ReloadOrStart) => T::Restart,
        (T::ReloadOrStart, x) | (x, T::ReloadOrStart) if x != T::Stop => T::ReloadOrStart,
        _ => return None,
    })
}

/// Resolves the kinds that depend on the unit's state; `None` = nothing to do.
pub(crate) fn collapse(job: JobType, state: ActiveState) -> Option<JobType> {
    let down = crate::state::is_inactive_or_deactivating(state);
    match job {
        JobType::TryRestart => (!down).then_some(JobType::Restart),
        JobType::TryReload => (!down).then_some(JobType::Reload),
        JobType::ReloadOrStart => Some(if down {
            JobType::Start
        } else {
            JobType::Reload
        }),
        other => Some(other),
    }
}

/// Is the unit where the job would bring it?
pub(crate) fn is_redundant(job: JobType, state: ActiveState) -> bool {
    match job {
        JobType::Start | JobType::VerifyActive => is_active_or_reloading(state),
        JobType::Stop => is_inactive_or_failed(state),
        JobType::Reload => state == ActiveState::Reloading,
        JobType::Restart => state == ActiveState::Activating,
        _ => false,
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobResult {
    Done,
    Canceled,
    Timeout,
    Failed,
    Dependency,
    Skipped,
    Invalid,
    Assert,
    Unsupported,
}

impl JobResult {
    pub(crate) fn word(self) -> &'static str {
        match self {
            JobResult::Done => "done",
            JobResult::Canceled => "canceled",
            JobResult::Timeout => "timeout",
            JobResult::Failed => "failed",
            JobResult::Dependency => "dependency",
            JobResult::Skipped => "skipped",
            JobResult::Invalid => "invalid",
            JobResult::Assert => "assert",
            JobResult::Unsupported => "unsupported",
        }
    }
}

/// What a unit type says when it is told to start, stop or reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Under way; a state change will end the job.
    Running,
    /// Nothing to do: the job is done.
    Already,
    /// Not now: the job waits for the unit's next change.
    Again,
    /// The job ends so.
    Ends(JobResult),
}

/// A queued or running job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: u32,
    pub(crate) job_type: JobType,
    pub(crate) running: bool,
    pub(crate) irreversible: bool,
    pub(crate) ignore_order: bool,
    #[serde(skip, default = "no_unit")]
    pub(crate) unit: UnitId,
}

fn no_unit() -> UnitId {
    UnitId(u32::MAX)
}

/// With `a` before `b`: must `a`'s job wait for `b`'s?
pub(crate) fn waits_when_before(b: &Job) -> bool {
    b.job_type.stops_first()
}

impl Engine {
    /// Must the job wait for another one?
    fn is_blocked(&self, job: &Job) -> bool {
        if job.ignore_order {
            return false;
        }
        let unit = self.unit(job.unit);
        unit.edges.all().iter().any(|edge| {
            if !edge.deps.has(AFTER.or(BEFORE)) {
                return false;
            }
            let Some(other) = self
                .get(edge.other)
                .and_then(|u| u.job)
                .and_then(|j| self.jobs.get(&j))
            else {
                return false;
            };
            if other.ignore_order {
                return false;
            }
            // Before: the other waits unless it stops. After: we wait unless we stop.
            (edge.deps.has(BEFORE) && waits_when_before(other))
                || (edge.deps.has(AFTER) && !job.job_type.stops_first())
        })
    }

    /// Jobs of different transactions may come to wait for each other in a ring (a restart that has become a
    /// start). When all jobs are blocked, the order of the newest is given up. True when that helped.
    pub(crate) fn break_deadlock(&mut self, cx: &mut Cx<'_>) -> bool {
        let stuck =
            !self.jobs.is_empty() && self.jobs.values().all(|j| !j.running && self.is_blocked(j));
        if !stuck {
            return false;
        }
        let Some((id, job)) = self.jobs.iter_mut().next_back() else {
            return false;
        };
        let (id, unit) = (*id, job.unit);
        job.ignore_order = true;
        self.run_queue.insert(id);
        let name = self.unit(unit).name.clone();
        let text =
            format!("{name}: its job waits for itself by way of others, it runs without order");
        self.log(cx, LogLevel::Error, Some(name), text);
        true
    }

    /// Runs what can run until nothing more can.
    pub(crate) fn run_jobs(&mut self, cx: &mut Cx<'_>) {
        while let Some(id) = self.run_queue.pop_first() {
            let Some(job) = self.jobs.get(&id) else {
                continue;
            };
            if job.running || self.is_blocked(job) {
                continue;
            }
            self.run_job(cx, id);
        }
    }

    fn run_job(&mut self, cx: &mut Cx<'_>, id: u32) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.running = true;
        let (unit, job_type) = (job.unit, job.job_type);
        self.changed.insert(unit);
        let span = self.unit(unit).settings.job_running_timeout_usec;
        let span = span.or_else(|| {
            // A device that never comes must not hold up what waits for it.
            let unit = self.unit(unit);
            let known = self.device_timeouts.get(&unit.name).copied();
            matches!(unit.run.kind, Kind::Device(_)).then(|| known.unwrap_or(90_000_000))
        });
        if let Some(span) = span.filter(|s| *s != u64::MAX) {
            self.arm(cx, unit, TimerKind::JobRunning, span);
        }
        let begun = match job_type {
            JobType::Start => self.start_unit(cx, unit),
            JobType::VerifyActive => match self.unit(unit).active() {
                s if is_active_or_reloading(s) => Begun::Already,
                ActiveState::Activating => Begun::Again,
                _ => Begun::Ends(JobResult::Skipped),
            },
            JobType::Stop | JobType::Restart => self.stop_unit(cx, unit),
            _ => self.reload_unit(cx, unit),
        };
        // The change may have ended the job already, or turned a restart into its start half.
        let same = self
            .jobs
            .get(&id)
            .is_some_and(|j| j.running && j.job_type == job_type);
        if !same {
            return;
        }
        match begun {
            Begun::Running => {}
            Begun::Already => self.finish_job(cx, id, JobResult::Done, true, true),
            Begun::Ends(result) => self.finish_job(cx, id, result, true, false),
            Begun::Again => {
                // The job may have ended meanwhile.
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.running = false;
                }
            }
        }
    }

    fn start_unit(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        let state = self.unit(id).active();
        if is_active_or_reloading(state) {
            return Begun::Already;
        }
        match self.unit(id).load {
            LoadState::Loaded => {}
            _ => return Begun::Ends(JobResult::Invalid),
        }
        if state != ActiveState::Activating {
            if !self.check_conditions(cx, id, false) {
                return Begun::Already;
            }
            if !self.check_conditions(cx, id, true) {
                let name = self.unit(id).name.clone();
                let text = format!("Starting of {name} aborted: an assertion failed.");
                self.log(cx, LogLevel::Notice, Some(name), text);
                return Begun::Ends(JobResult::Assert);
            }
        }
        let unit = self.unit(id);
        let bound_missing = unit
            .edges
            .all()
            .iter()
            .filter(|e| e.deps.has(BINDS_TO) && e.deps.has(AFTER))
            .any(|e| {
                !self
                    .get(e.other)
                    .is_some_and(|o| is_active_or_reloading(o.active()))
            });
        if bound_missing {
            return Begun::Ends(JobResult::Dependency);
        }
        if state != ActiveState::Activating {
            let name = self.unit(id).name.clone();
            let text = format!("Starting {}...", self.title(id));
            self.log_with(
                cx,
                UnitLog {
                    level: LogLevel::Info,
                    unit: Some(name),
                    message_id: Some("7d4958e842da4a758f6c1cdc7b36dcc5"),
                    invocation_id: None,
                    text,
                    fields: Vec::new(),
                },
                matches!(self.unit(id).run.kind, Kind::Service(_) | Kind::Mount(_)),
            );
        }
        self.begin_start(cx, id)
    }

    fn stop_unit(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        let unit = self.unit(id);
        if is_inactive_or_failed(unit.active()) {
            return Begun::Already;
        }
        if unit.perpetual {
            return Begun::Ends(JobResult::Failed);
        }
        let quiet = !matches!(unit.run.kind, Kind::Service(_) | Kind::Mount(_));
        let text = match &unit.run.kind {
            Kind::Mount(_) => format!("Unmounting {}...", self.title(id)),
            _ => format!("Stopping {}...", self.title(id)),
        };
        let name = unit.name.clone();
        self.log_with(
            cx,
            UnitLog {
                level: LogLevel::Info,
                unit: Some(name),
                message_id: Some("de5b426a63be47a7b6ac3eaac82e2f6f"),
                invocation_id: None,
                text,
                fields: Vec::new(),
            },
            !quiet,
        );
        self.begin_stop(cx, id)
    }

    fn reload_unit(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        let unit = self.unit(id);
        match unit.active() {
            ActiveState::Reloading => return Begun::Again,
            ActiveState::Activating | ActiveState::Deactivating => return Begun::Again,
            ActiveState::Active => {}
            _ => return Begun::Ends(JobResult::Invalid),
        }
        if !unit.can_reload() {
            return Begun::Already;
        }
        let text = format!("Reloading {}...", self.title(id));
        let name = unit.name.clone();
        self.log(cx, LogLevel::Info, Some(name), text);
        self.begin_reload(cx, id)
    }

    /// `name - description` as in status lines.
    pub(crate) fn title(&self, id: UnitId) -> String {
        let unit = self.unit(id);
        match &unit.description {
            Some(d) => format!("{} - {d}", unit.name),
            None => unit.name.to_string(),
        }
    }

    /// Ends a job: tells everybody, fails what depends on it, wakes what waited for it.
    pub(crate) fn finish_job(
        &mut self,
        cx: &mut Cx<'_>,
        id: u32,
        result: JobResult,
        recursive: bool,
        already: bool,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let (unit, job_type) = (job.unit, job.job_type);
        if result == JobResult::Done && job_type == JobType::Restart {
            // The stop half is over, the start half begins.
            job.job_type = JobType::Start;
            job.running = false;
            self.run_queue.insert(id);
            self.changed.insert(unit);
            self.disarm(unit, TimerKind::JobRunning);
            self.wake_neighbours(unit);
            return;
        }
        self.jobs.remove(&id);
        self.run_queue.remove(&id);
        self.disarm(unit, TimerKind::Job);
        self.disarm(unit, TimerKind::JobRunning);
        let Some(u) = self.get_mut(unit) else { return };
        u.job = None;
        let name = u.name.to_string();
        self.changed.insert(unit);
        self.gc_queue.insert(unit);
        if result != JobResult::Done
            && result != JobResult::Skipped
            && result != JobResult::Canceled
        {
            self.failed_jobs += 1;
        }
        self.report_job(cx, unit, job_type, result, already);
        cx.out.push(Action::Broadcast(Signal::JobRemoved {
            id,
            unit: name,
            result: result.word().to_owned(),
        }));
        if recursive && result != JobResult::Done {
            match job_type {
                JobType::Start | JobType::VerifyActive => {
                    self.fail_dependents(cx, unit, PROPAGATE_START_FAILURE);
                }
                JobType::Stop => self.fail_dependents(cx, unit, CONFLICTED_BY),
                _ => {}
            }
        }
        if recursive
            && result == JobResult::Done
            && job_type == JobType::Start
            && is_inactive_or_failed(self.unit(unit).active())
        {
            // A start that a condition turned into nothing does not satisfy Requisite=.
            self.fail_dependents(cx, unit, REQUISITE_OF);
        }
        if matches!(result, JobResult::Timeout | JobResult::Dependency) {
            self.trigger_handlers(cx, unit, true);
        }
        if matches!(job_type, JobType::Start) && result == JobResult::Done && !already {
            self.uphold_queue.insert(unit);
        }
        self.wake_neighbours(unit);
        self.finish_check = true;
        for trigger in self.unit(unit).edges.list(TRIGGERED_BY) {
            self.trigger_notified(cx, trigger, unit);
        }
    }

    /// Lets waiting jobs of units with an order to this one look again.
    pub(crate) fn wake_neighbours(&mut self, unit: UnitId) {
        let Some(u) = self.get(unit) else { return };
        let waiting: Vec<u32> = u
            .edges
            .with(AFTER.or(BEFORE))
            .filter_map(|o| self.get(o).and_then(|u| u.job))
            .collect();
        let own = u.job;
        self.run_queue.extend(waiting);
        self.run_queue.extend(own);
    }

    fn fail_dependents(&mut self, cx: &mut Cx<'_>, unit: UnitId, deps: Deps) {
        for other in self.unit(unit).edges.list(deps) {
            let Some(job) = self.get(other).and_then(|u| u.job) else {
                continue;
            };
            let starts = self
                .jobs
                .get(&job)
                .is_some_and(|j| matches!(j.job_type, JobType::Start | JobType::VerifyActive));
            if starts {
                self.finish_job(cx, job, JobResult::Dependency, true, false);
            }
        }
    }

    /// A job took too long.
    pub(crate) fn job_timed_out(&mut self, cx: &mut Cx<'_>, unit: UnitId) {
        let Some(job) = self.get(unit).and_then(|u| u.job) else {
            return;
        };
        let action = self.unit(unit).settings.job_timeout_action;
        self.finish_job(cx, job, JobResult::Timeout, true, false);
        self.emergency(cx, unit, action, "job timed out");
    }
}

#[cfg(test)]
mod tests {
    use super::{JobType, collapse, is_redundant, merge_types};
    use init_control::ActiveState;

    const TYPES: [JobType; 5] = [
        JobType::Start,
        JobType::VerifyActive,
        JobType::Stop,
        JobType::Reload,
        JobType::Restart,
    ];

    #[test]
    fn merging() {
        use JobType as T;
        for (a, b, want) in [
            (T::Start, T::VerifyActive, Some(T::Start)),
            (T::Start, T::Reload, Some(T::ReloadOrStart)),
            (T::Start, T::Restart, Some(T::Restart)),
            (T::Start, T::Stop, None),
            (T::Stop, T::Restart, None),
        ] {
            assert_eq!(merge_types(a, b), want);
        }
        for a in TYPES {
            for b in TYPES {
                assert_eq!(merge_types(a, b), merge_types(b, a));
                let conflict = (a == T::Stop) != (b == T::Stop);
                assert_eq!(merge_types(a, b).is_none(), conflict);
            }
        }
    }

    #[test]
    fn collapsing() {
        assert_eq!(collapse(JobType::TryRestart, ActiveState::Inactive), None);
        assert_eq!(
            collapse(JobType::TryRestart, ActiveState::Active),
            Some(JobType::Restart)
        );
        assert_eq!(
            collapse(JobType::ReloadOrStart, ActiveState::Failed),
            Some(JobType::Start)
        );
        assert!(is_redundant(JobType::Stop, ActiveState::Failed));
        assert!(!is_redundant(JobType::Start, ActiveState::Activating));
    }
}
