//! Path units: watched by the shell, judged here.

use std::sync::Arc;

use unit_file::settings::{ConditionKind, PathKind, PathSettings};

use crate::api::{Action, LogLevel};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{Begun, JobResult};
use crate::state::{PathState as S, UnitResult, is_inactive_or_failed};
use crate::unit::{Kind, Path};

impl Engine {
    fn path(&self, id: UnitId) -> &Path {
        match &self.unit(id).run.kind {
            Kind::Path(p) => p,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn path_mut(&mut self, id: UnitId) -> &mut Path {
        match &mut self.unit_mut(id).run.kind {
            Kind::Path(p) => p,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn path_settings(&self, id: UnitId) -> Arc<PathSettings> {
        self.path(id).settings.clone()
    }

    fn path_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        let old = self.unit(id).active();
        let before = std::mem::replace(&mut self.path_mut(id).state, state);
        if matches!(state, S::Dead | S::Failed) {
            let unit = self.unit(id).name.clone();
            cx.out.push(Action::UnwatchPaths { unit });
        }
        if before != state {
            self.state_changed(cx, id, old, true);
        }
    }

    pub(super) fn path_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        if !matches!(self.path(id).state, S::Dead | S::Failed) {
            return Begun::Already;
        }
        if !self.trigger_is_loaded(cx, id) {
            return Begun::Ends(JobResult::Failed);
        }
        if !self.allow_start(cx, id) {
            self.path_mut(id).result = UnitResult::StartLimitHit;
            self.path_set(cx, id, S::Failed);
            return Begun::Ends(JobResult::Failed);
        }
        self.new_invocation(cx, id);
        let p = self.path_mut(id);
        p.result = UnitResult::Success;
        p.trigger_limit.reset();
        let (unit, settings) = (self.unit(id).name.clone(), self.path_settings(id));
        cx.out.push(Action::WatchPaths { unit, settings });
        self.path_wait(cx, id);
        // Failed before and failed at once again is no change of state that would end the job.
        match self.path(id).state {
            S::Failed => Begun::Ends(JobResult::Failed),
            _ => Begun::Running,
        }
    }

    pub(super) fn path_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        self.path_set(cx, id, S::Dead);
        Begun::Running
    }

    /// Waits, or runs at once when what it waits for is there.
    fn path_wait(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if self.path_holds(cx, id) {
            self.path_run(cx, id);
        } else {
            self.path_set(cx, id, S::Waiting);
        }
    }

    fn path_holds(&self, cx: &Cx<'_>, id: UnitId) -> bool {
        self.path(id).settings.specs.iter().any(|spec| {
            let kind = match spec.kind {
                PathKind::PathExists => ConditionKind::PathExists,
                PathKind::PathExistsGlob => ConditionKind::PathExistsGlob,
                PathKind::DirectoryNotEmpty => ConditionKind::DirectoryNotEmpty,
                PathKind::PathChanged | PathKind::PathModified => return false,
            };
            cx.host.check_condition(kind, &spec.path)
        })
    }

    fn path_run(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let Some(target) = self.triggered_unit(id) else {
            return;
        };
        let settings = self.path_settings(id);
        let (interval, burst) = (
            settings.trigger_limit_interval_usec,
            settings.trigger_limit_burst,
        );
        if !self
            .path_mut(id)
            .trigger_limit
            .allow(cx.now.monotonic, interval, burst)
        {
            let name = self.unit(id).name.clone();
            let text = format!("{name}: Trigger limit hit, refusing further activation.");
            self.log(cx, LogLevel::Error, Some(name), text);
            self.path_mut(id).result = UnitResult::TriggerLimitHit;
            self.path_set(cx, id, S::Failed);
            return;
        }
        match self.pull_trigger(cx, id, target) {
            Ok(()) => self.path_set(cx, id, S::Running),
            Err(result) => {
                self.path_mut(id).result = result;
                self.path_set(cx, id, S::Failed);
            }
        }
    }

    pub(crate) fn path_triggered(&mut self, cx: &mut Cx<'_>, id: UnitId, index: usize) {
        if !self
            .get(id)
            .is_some_and(|u| matches!(&u.run.kind, Kind::Path(p) if p.state == S::Waiting))
        {
            return;
        }
        let kind = self.path(id).settings.specs.get(index).map(|s| s.kind);
        let changed = matches!(kind, Some(PathKind::PathChanged | PathKind::PathModified));
        if changed || self.path_holds(cx, id) {
            self.path_run(cx, id);
        }
    }

    pub(crate) fn path_triggered_changed(&mut self, cx: &mut Cx<'_>, id: UnitId, target: UnitId) {
        let unit = self.unit(target);
        if unit.job.is_some() || !is_inactive_or_failed(unit.active()) {
            return;
        }
        let limited = unit.run.start_limit_hit;
        if self.path(id).state != S::Running {
            return;
        }
        if limited {
            self.path_mut(id).result = UnitResult::UnitStartLimitHit;
            self.path_set(cx, id, S::Failed);
        } else {
            self.path_wait(cx, id);
        }
    }

    pub(super) fn path_rearm(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if matches!(self.path(id).state, S::Waiting | S::Running) {
            let (unit, settings) = (self.unit(id).name.clone(), self.path_settings(id));
            cx.out.push(Action::WatchPaths { unit, settings });
        }
    }
}
