//! Transactions: from one wish to a consistent set of jobs, then into the queue.
//!
//! Steps: expand the wish along requirements, mark what it really needs, drop what is redundant, break
//! cycles at jobs that are not needed, merge jobs on one unit (dropping the less needed of two that
//! conflict), apply. Nothing is changed before the last step.

mod solve;

use std::collections::BTreeMap;

use init_control::{ControlError, ErrorKind, JobMode, LoadState, Signal};

use crate::api::{Action, LogLevel};
use crate::engine::{Cx, Engine};
use crate::graph::{
    CONFLICTED_BY, CONFLICTS, PROPAGATE_STOP, PROPAGATES_RELOAD_TO, PULL_IN_START,
    PULL_IN_START_IGNORED, REQUISITE, TRIGGERED_BY, UnitId,
};
use crate::job::{Job, JobResult, JobType, collapse, merge_types};
use crate::state::is_inactive_or_failed;
use crate::unit::TimerKind;

/// A job of the transaction; dead ones stay in the list so that indices keep their meaning.
#[derive(Debug)]
struct Planned {
    unit: UnitId,
    job_type: JobType,
    alive: bool,
    needed: bool,
    ignore_order: bool,
}

/// Why a job is in the transaction.
#[derive(Debug, Clone, Copy)]
struct Link {
    subject: usize,
    object: usize,
    must: bool,
    conflicts: bool,
}

/// A transaction under construction.
#[derive(Debug, Default)]
struct Transaction {
    jobs: Vec<Planned>,
    by_unit: BTreeMap<UnitId, Vec<usize>>,
    links: Vec<Link>,
    /// Links by object and by subject, as indices into `links`.
    into: Vec<Vec<usize>>,
    out_of: Vec<Vec<usize>>,
}

impl Transaction {
    fn find(&self, unit: UnitId, job_type: JobType) -> Option<usize> {
        self.by_unit
            .get(&unit)?
            .iter()
            .copied()
            .find(|j| self.jobs[*j].alive && self.jobs[*j].job_type == job_type)
    }

    fn alive_of(&self, unit: UnitId) -> impl Iterator<Item = usize> + '_ {
        let list = self.by_unit.get(&unit).map_or(&[][..], Vec::as_slice);
        list.iter().copied().filter(|j| self.jobs[*j].alive)
    }

    fn add(&mut self, unit: UnitId, job_type: JobType, ignore_order: bool) -> (usize, bool) {
        if let Some(known) = self.find(unit, job_type) {
            return (known, false);
        }
        self.jobs.push(Planned {
            unit,
            job_type,
            alive: true,
            needed: false,
            ignore_order,
        });
        self.into.push(Vec::new());
        self.out_of.push(Vec::new());
        let index = self.jobs.len() - 1;
        self.by_unit.entry(unit).or_default().push(index);
        (index, true)
    }

    fn link(&mut self, link: Link) {
        self.links.push(link);
        let index = self.links.len() - 1;
        self.into[link.object].push(index);
        self.out_of[link.subject].push(index);
    }

    /// Deletes a job and, unless told otherwise, those that must have it.
    fn delete(&mut self, job: usize, dependents: bool) {
        let mut stack = vec![job];
        while let Some(job) = stack.pop() {
            if !self.jobs[job].alive {
                continue;
            }
            self.jobs[job].alive = false;
            if dependents {
                let subjects = self.into[job].iter().map(|l| self.links[*l]);
                stack.extend(subjects.filter(|l| l.must).map(|l| l.subject));
            }
        }
    }

    /// Marks what the anchor cannot do without.
    fn mark_needed(&mut self, anchor: usize) {
        let mut stack = vec![anchor];
        while let Some(job) = stack.pop() {
            if self.jobs[job].needed {
                continue;
            }
            self.jobs[job].needed = true;
            let objects = self.out_of[job].iter().map(|l| self.links[*l]);
            stack.extend(objects.filter(|l| l.must).map(|l| l.object));
        }
    }

    /// Deletes jobs that nothing in the transaction asks for any more.
    fn collect_garbage(&mut self, anchor: usize) {
        let mut queue: Vec<usize> = (0..self.jobs.len()).collect();
        while let Some(job) = queue.pop() {
            if job == anchor || !self.jobs[job].alive {
                continue;
            }
            let wanted = self.into[job]
                .iter()
                .any(|l| self.jobs[self.links[*l].subject].alive);
            if !wanted {
                self.jobs[job].alive = false;
                queue.extend(self.out_of[job].iter().map(|l| self.links[*l].object));
            }
        }
    }
}

/// How dependencies are followed.
#[derive(Debug, Clone, Copy)]
struct Rules {
    ignore_requirements: bool,
    ignore_order: bool,
}

impl Engine {
    /// Builds and applies a transaction; the id of the job for the wish itself.
    pub(crate) fn add_job(
        &mut self,
        cx: &mut Cx<'_>,
        unit: UnitId,
        job_type: JobType,
        mode: JobMode,
    ) -> Result<u32, ControlError> {
        if mode == JobMode::Isolate && job_type != JobType::Start {
            return Err(ControlError::invalid("Isolate is only valid for start."));
        }
        if mode == JobMode::Isolate && !self.unit(unit).settings.allow_isolate {
            let text = "Operation refused, unit may not be isolated.";
            return Err(ControlError::new(ErrorKind::NoIsolation, text));
        }
        if mode == JobMode::Triggering && job_type != JobType::Stop {
            return Err(ControlError::invalid(
                "--job-mode=triggering is only valid for stop.",
            ));
        }
        let Some(job_type) = collapse(job_type, self.unit(unit).active()) else {
            // Nothing to do for the unit as it is: a job that ends at once.
            return Ok(self.install_empty(cx, unit));
        };
        let rules = Rules {
            ignore_requirements: matches!(
                mode,
                JobMode::IgnoreDependencies | JobMode::IgnoreRequirements
            ),
            ignore_order: mode == JobMode::IgnoreDependencies,
        };
        let mut tr = Transaction::default();
        self.expand(cx, &mut tr, job_type, unit, None, rules)?;
        let anchor = 0;
        match mode {
            JobMode::Isolate => self.expand_isolate(cx, &mut tr, anchor, rules),
            JobMode::Triggering => {
                for other in self.unit(unit).edges.list(TRIGGERED_BY) {
                    self.expand_may(cx, &mut tr, JobType::Stop, other, anchor, rules);
                }
            }
            _ => {}
        }
        self.settle(cx, &mut tr, anchor, mode)?;
        self.check_destructive(&tr, mode)?;
        Ok(self.apply(cx, &tr, anchor, mode))
    }

    fn validate(&self, unit: UnitId, job_type: JobType) -> Result<(), ControlError> {
        let u = self.unit(unit);
        if job_type != JobType::Stop && u.load != LoadState::Loaded {
            let (kind, text) = match &u.load_error {
                Some((kind, text)) => (*kind, text.clone()),
                None => (
                    ErrorKind::LoadFailed,
                    format!("Unit {} is not loaded.", u.name),
                ),
            };
            let text = match kind {
                ErrorKind::BadUnitSetting => {
                    format!("Unit {} has a bad unit file setting.", u.name)
                }
                _ => text,
            };
            return Err(ControlError::new(kind, text));
        }
        let applicable = match job_type {
            JobType::Start | JobType::VerifyActive | JobType::ReloadOrStart => true,
            JobType::Stop | JobType::Restart | JobType::TryRestart => {
                let device = matches!(u.run.kind, crate::unit::Kind::Device(_));
                !device && !u.perpetual
            }
            JobType::Reload | JobType::TryReload => u.can_reload(),
        };
        if !applicable {
            let text = format!(
                "Job type {} is not applicable for unit {}.",
                job_type.word(),
                u.name
            );
            return Err(ControlError::new(ErrorKind::JobTypeNotApplicable, text));
        }
        Ok(())
    }

    /// Adds a job and what it pulls in. `by`: who asks, must it, and is it for a conflict.
    fn expand(
        &mut self,
        cx: &mut Cx<'_>,
        tr: &mut Transaction,
        job_type: JobType,
        unit: UnitId,
        by: Option<(usize, bool, bool)>,
        rules: Rules,
    ) -> Result<(), ControlError> {
        // Depth first with an own stack: chains of units may be long.
        let mut stack = vec![(job_type, unit, by)];
        while let Some((job_type, unit, by)) = stack.pop() {
            // An optional job that cannot be is left out together with what must have it.
            if let Err(error) = self.validate(unit, job_type) {
                let lenient = error.kind == ErrorKind::JobTypeNotApplicable
                    && by.is_some_and(|(_, _, conflicts)| conflicts || job_type != JobType::Start);
                match by {
                    Some(_) if lenient => continue,
                    Some((subject, must, _)) => {
                        if !must {
                            continue;
                        }
                        if self.prune_optional(tr, subject) {
                            let name = &self.unit(unit).name;
                            let text = format!(
                                "{name}: {}, so what must have it is left out",
                                error.message
                            );
                            self.log(cx, LogLevel::Debug, None, text);
                            continue;
                        }
                        return Err(error);
                    }
                    None => return Err(error),
                }
            }
            let (index, new) = tr.add(unit, job_type, rules.ignore_order);
            if let Some((subject, must, conflicts)) = by {
                tr.link(Link {
                    subject,
                    object: index,
                    must,
                    conflicts,
                });
            }
            if !new || rules.ignore_requirements {
                continue;
            }
            let edges = &self.unit(unit).edges;
            let mut push = |job_type, other, must, conflicts| {
                stack.push((job_type, other, Some((index, must, conflicts))));
            };
            match job_type {
                JobType::Start => {
                    for other in edges.with(PULL_IN_START_IGNORED) {
                        push(JobType::Start, other, false, false);
                    }
                    for other in edges.with(PULL_IN_START) {
                        push(JobType::Start, other, true, false);
                    }
                    for other in edges.with(REQUISITE) {
                        push(JobType::VerifyActive, other, true, false);
                    }
                    for other in edges.with(CONFLICTS) {
                        push(JobType::Stop, other, true, true);
                    }
                    for other in edges.with(CONFLICTED_BY) {
                        push(JobType::Stop, other, false, false);
                    }
                }
                JobType::Stop => {
                    for other in edges.with(PROPAGATE_STOP) {
                        push(JobType::Stop, other, true, false);
                    }
                }
                JobType::Restart => {
                    for other in edges.with(PROPAGATE_STOP) {
                        let state = self.unit(other).active();
                        if let Some(job_type) = collapse(JobType::TryRestart, state) {
                            push(job_type, other, true, false);
                        }
                    }
                }
                JobType::Reload => {
                    for other in edges.with(PROPAGATES_RELOAD_TO) {
                        let state = self.unit(other).active();
                        if let Some(job_type) = collapse(JobType::TryReload, state) {
                            push(job_type, other, false, false);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `job` cannot be done. Deletes it with all that must have it; false when that reaches the anchor.
    fn prune_optional(&self, tr: &mut Transaction, job: usize) -> bool {
        let mut reach = vec![job];
        let mut seen = vec![false; tr.jobs.len()];
        while let Some(j) = reach.pop() {
            if j == 0 {
                return false;
            }
            if std::mem::replace(&mut seen[j], true) {
                continue;
            }
            reach.extend(
                tr.into[j]
                    .iter()
                    .map(|l| tr.links[*l])
                    .filter(|l| l.must)
                    .map(|l| l.subject),
            );
        }
        tr.delete(job, true);
        true
    }

    fn expand_may(
        &mut self,
        cx: &mut Cx<'_>,
        tr: &mut Transaction,
        job_type: JobType,
        unit: UnitId,
        anchor: usize,
        rules: Rules,
    ) {
        if let Err(error) = self.expand(cx, tr, job_type, unit, Some((anchor, false, false)), rules)
        {
            self.log(cx, LogLevel::Debug, None, error.message);
        }
    }

    /// Isolate: stop everything that runs and is not part of the wish.
    fn expand_isolate(
        &mut self,
        cx: &mut Cx<'_>,
        tr: &mut Transaction,
        anchor: usize,
        rules: Rules,
    ) {
        let ids: Vec<UnitId> = self.ids().collect();
        for id in ids {
            let unit = self.unit(id);
            let idle = is_inactive_or_failed(unit.active()) && unit.job.is_none();
            if unit.ignore_on_isolate()
                || unit.perpetual
                || idle
                || tr.alive_of(id).next().is_some()
            {
                continue;
            }
            let kept_by_trigger = unit
                .edges
                .with(TRIGGERED_BY)
                .any(|t| tr.find(t, JobType::Start).is_some());
            if kept_by_trigger {
                continue;
            }
            // Not by way of the requirements: they are looked at one by one here.
            let rules = Rules {
                ignore_requirements: true,
                ..rules
            };
            self.expand_may(cx, tr, JobType::Stop, id, anchor, rules);
        }
    }

    fn check_destructive(&self, tr: &Transaction, mode: JobMode) -> Result<(), ControlError> {
        for job in tr.jobs.iter().filter(|j| j.alive) {
            let Some(queued) = self.unit(job.unit).job.and_then(|j| self.jobs.get(&j)) else {
                continue;
            };
            let conflict = merge_types(queued.job_type, job.job_type).is_none();
            if conflict && (mode == JobMode::Fail || queued.irreversible) {
                let text = format!(
                    "Transaction for {}/{} is destructive ({} has '{}' job queued, but '{}' is included in transaction).",
                    self.unit(tr.jobs[0].unit).name,
                    tr.jobs[0].job_type.word(),
                    self.unit(job.unit).name,
                    queued.job_type.word(),
                    job.job_type.word()
                );
                return Err(ControlError::new(ErrorKind::TransactionIsDestructive, text));
            }
        }
        Ok(())
    }

    fn apply(&mut self, cx: &mut Cx<'_>, tr: &Transaction, anchor: usize, mode: JobMode) -> u32 {
        if matches!(mode, JobMode::Isolate | JobMode::Flush) {
            let others: Vec<u32> = self
                .jobs
                .values()
                .filter(|j| !j.irreversible && tr.alive_of(j.unit).next().is_none())
                .map(|j| j.id)
                .collect();
            for id in others {
                self.finish_job(cx, id, JobResult::Canceled, false, false);
            }
        }
        let irreversible = mode == JobMode::ReplaceIrreversibly;
        let mut anchor_id = 0;
        for (index, planned) in tr.jobs.iter().enumerate() {
            if !planned.alive {
                continue;
            }
            let state = self.unit(planned.unit).active();
            let job_type = collapse(planned.job_type, state).unwrap_or(planned.job_type);
            let id = self.install(
                cx,
                planned.unit,
                job_type,
                irreversible,
                planned.ignore_order,
            );
            if index == anchor {
                anchor_id = id;
            }
        }
        anchor_id
    }

    /// Puts a job into the unit's slot: merged with what is there, or in its place.
    fn install(
        &mut self,
        cx: &mut Cx<'_>,
        unit: UnitId,
        job_type: JobType,
        irreversible: bool,
        ignore_order: bool,
    ) -> u32 {
        if let Some(old) = self.unit(unit).job {
            let queued = self.jobs.get(&old).map(|j| (j.job_type, j.running));
            match queued.and_then(|(t, running)| Some((merge_types(t, job_type)?, t, running))) {
                Some((merged, before, running)) => {
                    let state = self.unit(unit).active();
                    let merged = collapse(merged, state).unwrap_or(merged);
                    let safe = !running || (merged == before && merged != JobType::Reload);
                    if let Some(job) = self.jobs.get_mut(&old) {
                        job.irreversible |= irreversible;
                        job.job_type = merged;
                        if !safe {
                            job.running = false;
                        }
                    }
                    self.run_queue.insert(old);
                    return old;
                }
                None => self.finish_job(cx, old, JobResult::Canceled, false, false),
            }
        }
        let id = self.new_job_id();
        self.jobs.insert(
            id,
            Job {
                id,
                job_type,
                running: false,
                irreversible,
                ignore_order,
                unit,
            },
        );
        self.unit_mut(unit).job = Some(id);
        self.run_queue.insert(id);
        self.changed.insert(unit);
        let name = self.unit(unit).name.to_string();
        cx.out
            .push(Action::Broadcast(Signal::JobNew { id, unit: name }));
        let span = self.unit(unit).settings.job_timeout_usec;
        if span != u64::MAX {
            self.arm(cx, unit, TimerKind::Job, span);
        }
        id
    }

    /// A job that has nothing to do and ends in this turn.
    fn install_empty(&mut self, cx: &mut Cx<'_>, unit: UnitId) -> u32 {
        let id = self.new_job_id();
        let name = self.unit(unit).name.to_string();
        cx.out.push(Action::Broadcast(Signal::JobNew {
            id,
            unit: name.clone(),
        }));
        self.empty_jobs.push((id, name));
        id
    }

    /// As [`Engine::add_job`], for wishes of the manager's own: failure is only logged.
    pub(crate) fn add_own_job(
        &mut self,
        cx: &mut Cx<'_>,
        unit: UnitId,
        job_type: JobType,
        mode: JobMode,
    ) -> Option<u32> {
        match self.add_job(cx, unit, job_type, mode) {
            Ok(id) => Some(id),
            Err(error) => {
                let name = self.unit(unit).name.clone();
                let text = format!(
                    "{name}: cannot queue its {} job: {}",
                    job_type.word(),
                    error.message
                );
                self.log(cx, LogLevel::Warning, Some(name), text);
                None
            }
        }
    }

    /// Loads and starts a unit by name.
    pub(crate) fn start_by_name(
        &mut self,
        cx: &mut Cx<'_>,
        name: &str,
        mode: JobMode,
    ) -> Option<u32> {
        let name = match unit_file::UnitName::parse(name) {
            Ok(name) => name,
            Err(error) => {
                self.log(
                    cx,
                    LogLevel::Warning,
                    None,
                    format!("cannot start {name:?}: {error}"),
                );
                return None;
            }
        };
        let id = self.load_unit(cx, &name);
        self.add_own_job(cx, id, JobType::Start, mode)
    }
}
