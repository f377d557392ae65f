//! Scopes: processes that somebody else started, in a control group of their own.

use std::sync::Arc;

use unit_file::settings::ScopeSettings;

use crate::api::{Action, LogLevel};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{Begun, JobResult};
use crate::process::KillStage;
use crate::state::{ScopeState as S, UnitResult};
use crate::unit::{Kind, Process, Scope, TimerKind};

impl Engine {
    fn scope(&self, id: UnitId) -> &Scope {
        match &self.unit(id).run.kind {
            Kind::Scope(s) => s,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn scope_mut(&mut self, id: UnitId) -> &mut Scope {
        match &mut self.unit_mut(id).run.kind {
            Kind::Scope(s) => s,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn scope_settings(&self, id: UnitId) -> Arc<ScopeSettings> {
        self.scope(id).settings.clone()
    }

    fn scope_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        let old = self.unit(id).active();
        let before = std::mem::replace(&mut self.scope_mut(id).state, state);
        if before != state {
            self.state_changed(cx, id, old, true);
        }
    }

    pub(super) fn scope_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.scope(id).state {
            S::Dead | S::Failed => {}
            S::StopSigterm | S::StopSigkill => return Begun::Again,
            _ => return Begun::Already,
        }
        let pids = std::mem::take(&mut self.scope_mut(id).pids);
        if pids.is_empty() {
            return Begun::Ends(JobResult::Invalid);
        }
        self.new_invocation(cx, id);
        self.scope_mut(id).result = UnitResult::Success;
        self.realise_cgroup(cx, id);
        let cgroup = self.unit(id).cgroup_path.clone().unwrap_or_default();
        cx.out.push(Action::AttachProcesses { cgroup, pids });
        let span = self.scope_settings(id).runtime_max_usec;
        self.arm(cx, id, TimerKind::State, span);
        self.scope_set(cx, id, S::Running);
        Begun::Running
    }

    pub(super) fn scope_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.scope(id).state {
            S::Dead | S::Failed => Begun::Already,
            S::Running | S::Abandoned => {
                self.scope_signal(cx, id, S::StopSigterm, UnitResult::Success);
                Begun::Running
            }
            _ => Begun::Running,
        }
    }

    fn scope_signal(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S, result: UnitResult) {
        let settings = self.scope_settings(id);
        let s = self.scope_mut(id);
        if s.result == UnitResult::Success {
            s.result = result;
        }
        let stage = if state == S::StopSigkill {
            KillStage::Kill
        } else {
            KillStage::Terminate
        };
        let none = Process::default();
        if self.kill_processes(cx, id, &settings.kill, stage, (none, false), none) {
            self.arm(
                cx,
                id,
                TimerKind::State,
                settings.timeout_stop_usec.min(1 << 50),
            );
            self.scope_set(cx, id, state);
        } else if state == S::StopSigterm && settings.kill.send_sigkill {
            self.scope_signal(cx, id, S::StopSigkill, UnitResult::Success);
        } else {
            self.scope_dead(cx, id);
        }
    }

    fn scope_dead(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        self.disarm_state(id);
        let fine = self.scope(id).result == UnitResult::Success;
        if self.unit(id).transient {
            let path = format!("/run/systemd/transient/{}", self.unit(id).name);
            cx.out.push(Action::RemoveFile { path });
        }
        self.scope_set(cx, id, if fine { S::Dead } else { S::Failed });
    }

    pub(crate) fn scope_cgroup_empty(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let perpetual = self.unit(id).perpetual;
        if !perpetual && !matches!(self.scope(id).state, S::Dead | S::Failed) {
            self.scope_dead(cx, id);
        }
    }

    pub(crate) fn scope_timed_out(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let name = self.unit(id).name.clone();
        match self.scope(id).state {
            S::Running => {
                let text = format!("{name}: Scope reached runtime time limit. Stopping.");
                self.log(cx, LogLevel::Warning, Some(name), text);
                self.scope_signal(cx, id, S::StopSigterm, UnitResult::Timeout);
            }
            S::StopSigterm if self.scope_settings(id).kill.send_sigkill => {
                self.log(
                    cx,
                    LogLevel::Warning,
                    Some(name.clone()),
                    format!("{name}: Stopping timed out. Killing."),
                );
                self.scope_signal(cx, id, S::StopSigkill, UnitResult::Timeout);
            }
            S::StopSigterm | S::StopSigkill => {
                self.scope_mut(id).result = UnitResult::Timeout;
                self.scope_dead(cx, id);
            }
            _ => {}
        }
    }

    /// Stops watching over it; false when it does not run.
    pub(crate) fn scope_abandon(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        if !matches!(self.scope(id).state, S::Running | S::Abandoned) {
            return false;
        }
        self.scope_mut(id).controller.clear();
        self.disarm_state(id);
        self.scope_set(cx, id, S::Abandoned);
        true
    }
}
