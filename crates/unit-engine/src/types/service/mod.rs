//! Services.
//!
//! ```text
//! dead ─▶ condition ─▶ start-pre ─▶ start ─▶ start-post ─▶ running / exited ◀─▶ reload
//!   ▲                     │           │          │             │ stop job, end of the main process
//!   │                     ▼           ▼          ▼             ▼
//!   │  auto-restart   stop-sigterm ◀──────────────────────── stop
//!   │      ▲          stop-sigkill ─▶ stop-post ─▶ final-sigterm ─▶ final-sigkill
//!   └──────┴───────────────────── dead / failed ◀──────────────────────┘
//! ```
//!
//! A stage without commands is passed through at once. Every other state waits for a process, an empty
//! control group or its time-out.

mod exits;
mod notify;
mod start;

use std::sync::Arc;

use unit_file::settings::{ExecCommand, INFINITY, ServiceSettings, ServiceType};

use crate::api::{Action, LogLevel, SpawnRole, UnitLog};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{Begun, JobResult, JobType};
use crate::process::KillStage;
use crate::state::{ServiceState as S, UnitResult};
use crate::unit::{CommandKind, Kind, NotifyPhase, Process, Service, TimerKind};

pub(super) fn commands(settings: &ServiceSettings, kind: CommandKind) -> &[ExecCommand] {
    match kind {
        CommandKind::Condition => &settings.exec_condition,
        CommandKind::StartPre => &settings.exec_start_pre,
        CommandKind::Start => &settings.exec_start,
        CommandKind::StartPost => &settings.exec_start_post,
        CommandKind::Reload => &settings.exec_reload,
        CommandKind::Stop => &settings.exec_stop,
        CommandKind::StopPost => &settings.exec_stop_post,
    }
}

impl Engine {
    pub(super) fn service(&self, id: UnitId) -> &Service {
        match &self.unit(id).run.kind {
            Kind::Service(s) => s,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    pub(super) fn service_mut(&mut self, id: UnitId) -> &mut Service {
        match &mut self.unit_mut(id).run.kind {
            Kind::Service(s) => s,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    pub(super) fn service_settings(&self, id: UnitId) -> Arc<ServiceSettings> {
        self.service(id).settings.clone()
    }

    /// Moves to a state and tells everybody.
    pub(super) fn service_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        let old = self.unit(id).active();
        let before = self.service(id).state;
        self.service_mut(id).state = state;
        if !matches!(
            state,
            S::Start | S::Running | S::Exited | S::Reload | S::StartPost
        ) {
            self.disarm(id, TimerKind::Watchdog);
            self.disarm(id, TimerKind::Poll);
        }
        if state != before {
            let reload_ok = self.service(id).reload_result == UnitResult::Success;
            self.state_changed(cx, id, old, reload_ok);
        }
    }

    /// Arms the time-out of the state just entered.
    pub(super) fn service_arm(&mut self, cx: &mut Cx<'_>, id: UnitId, span: u64) {
        self.arm(cx, id, TimerKind::State, span);
    }

    pub(super) fn note_result(&mut self, id: UnitId, result: UnitResult) {
        let s = self.service_mut(id);
        if s.result == UnitResult::Success {
            s.result = result;
        }
    }

    // ----- jobs ---------------------------------------------------------------------------------

    pub(super) fn service_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.service(id).state {
            S::Dead | S::Failed => {}
            S::Condition | S::StartPre | S::Start | S::StartPost => return Begun::Running,
            // Waits for the restart that is due, or for the stop that is under way.
            _ => return Begun::Again,
        }
        if !self.allow_start(cx, id) {
            self.service_mut(id).restart_pending = false;
            self.service_dead(cx, id, UnitResult::StartLimitHit, false);
            return Begun::Ends(JobResult::Failed);
        }
        self.new_invocation(cx, id);
        let s = self.service_mut(id);
        s.result = UnitResult::Success;
        s.reload_result = UnitResult::Success;
        s.forbid_restart = false;
        s.will_restart = false;
        s.main_known = false;
        s.main_alien = false;
        s.main_index = 0;
        s.status_text.clear();
        s.status_errno = 0;
        s.phase = NotifyPhase::Unknown;
        s.reload_by_notify = false;
        s.watchdog_override = None;
        s.exec_done = false;
        s.main_record = Default::default();
        s.records.clear();
        if !std::mem::take(&mut s.restart_pending) {
            s.restarts = 0;
        }
        self.service_enter_list(cx, id, CommandKind::Condition);
        Begun::Running
    }

    pub(super) fn service_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        let restart_job = self
            .unit(id)
            .job
            .and_then(|j| self.jobs.get(&j))
            .is_some_and(|j| j.job_type == JobType::Restart);
        let s = self.service_mut(id);
        s.forbid_restart = true;
        if !restart_job {
            s.restart_pending = false;
        }
        match s.state {
            S::Dead | S::Failed => Begun::Already,
            S::AutoRestart => {
                s.will_restart = false;
                if !s.restart_pending {
                    s.restarts = 0;
                }
                self.disarm_state(id);
                self.service_set(cx, id, S::Dead);
                Begun::Already
            }
            S::Condition | S::StartPre | S::Start | S::StartPost | S::Reload => {
                self.service_signal(cx, id, S::StopSigterm, UnitResult::Success);
                Begun::Running
            }
            S::Running | S::Exited => {
                self.service_enter_stop(cx, id, UnitResult::Success);
                Begun::Running
            }
            _ => Begun::Running,
        }
    }

    pub(super) fn service_reload(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        if !matches!(self.service(id).state, S::Running | S::Exited) {
            return Begun::Again;
        }
        let settings = self.service_settings(id);
        self.service_mut(id).reload_result = UnitResult::Success;
        let by_notify = settings.service_type == ServiceType::NotifyReload;
        if by_notify && let Some(pid) = self.service(id).main.pid {
            let signal = settings.reload_signal;
            cx.out.push(Action::Signal {
                pid,
                signal,
                then_continue: false,
            });
            self.service_mut(id).reload_by_notify = true;
        }
        if settings.exec_reload.is_empty() {
            self.service_set(cx, id, S::Reload);
            self.service_arm(cx, id, settings.timeout_start_usec);
            return Begun::Running;
        }
        self.service_run_control(cx, id, CommandKind::Reload, 0, S::Reload);
        Begun::Running
    }

    // ----- going down ---------------------------------------------------------------------------

    pub(super) fn service_enter_stop(&mut self, cx: &mut Cx<'_>, id: UnitId, result: UnitResult) {
        self.note_result(id, result);
        if self.service_settings(id).exec_stop.is_empty() {
            self.service_signal(cx, id, S::StopSigterm, UnitResult::Success);
        } else {
            self.service_run_control(cx, id, CommandKind::Stop, 0, S::Stop);
        }
    }

    pub(super) fn service_enter_stop_post(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        result: UnitResult,
    ) {
        self.note_result(id, result);
        if self.service_settings(id).exec_stop_post.is_empty() {
            self.service_signal(cx, id, S::FinalSigterm, UnitResult::Success);
        } else {
            self.service_run_control(cx, id, CommandKind::StopPost, 0, S::StopPost);
        }
    }

    /// Signals the processes for one of the killing states, or passes on when there are none.
    pub(super) fn service_signal(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        state: S,
        result: UnitResult,
    ) {
        self.note_result(id, result);
        let settings = self.service_settings(id);
        let restarting = self
            .unit(id)
            .job
            .and_then(|j| self.jobs.get(&j))
            .is_some_and(|j| j.job_type == JobType::Restart);
        let stage = match state {
            S::StopWatchdog => KillStage::Watchdog,
            S::StopSigkill | S::FinalSigkill => KillStage::Kill,
            _ if restarting => KillStage::Restart,
            _ => KillStage::Terminate,
        };
        let s = self.service(id);
        let (main, control) = ((s.main, s.main_alien), s.control);
        self.service_mut(id).idle_waiting = false;
        if self.kill_processes(cx, id, &settings.kill, stage, main, control) {
            let span = match state {
                S::StopWatchdog => settings
                    .timeout_abort_usec
                    .unwrap_or(settings.timeout_stop_usec),
                // Nothing survives SIGKILL for long; a process stuck in the kernel must not hold the job.
                S::StopSigkill | S::FinalSigkill => settings.timeout_stop_usec.min(90_000_000),
                _ => settings.timeout_stop_usec,
            };
            self.service_arm(cx, id, span);
            self.service_set(cx, id, state);
            return;
        }
        let kill = settings.kill.send_sigkill;
        match state {
            S::StopWatchdog | S::StopSigterm if kill => {
                self.service_signal(cx, id, S::StopSigkill, UnitResult::Success);
            }
            S::StopWatchdog | S::StopSigterm | S::StopSigkill => {
                self.service_enter_stop_post(cx, id, UnitResult::Success);
            }
            S::FinalSigterm if kill => {
                self.service_signal(cx, id, S::FinalSigkill, UnitResult::Success);
            }
            _ => self.service_dead(cx, id, UnitResult::Success, true),
        }
    }

    /// The end of a run: dead or failed, then maybe auto-restart.
    pub(super) fn service_dead(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        result: UnitResult,
        allow_restart: bool,
    ) {
        self.note_result(id, result);
        let settings = self.service_settings(id);
        self.disarm_state(id);
        let s = self.service_mut(id);
        s.main = Process::default();
        s.control = Process::default();
        s.control_command = None;
        let final_result = s.result;
        let fine = matches!(
            final_result,
            UnitResult::Success | UnitResult::SkipCondition
        );
        let restart = allow_restart && self.service_shall_restart(id);
        let was_dead = matches!(self.service(id).state, S::Dead | S::Failed);
        if !was_dead || final_result == UnitResult::StartLimitHit {
            self.log_result(cx, id, final_result);
        }
        self.service_mut(id).will_restart = restart;
        if restart {
            self.service_mut(id).phase = NotifyPhase::Unknown;
        }
        let end = if fine { S::Dead } else { S::Failed };
        if let Some(path) = settings.pid_file.clone()
            && !was_dead
        {
            cx.out.push(Action::RemoveFile { path });
        }
        self.service_set(cx, id, end);
        if self.get(id).is_none() {
            return;
        }
        // A handler of the change (a stop job that waited, a limit) may have decided otherwise.
        if self.service(id).will_restart && self.service(id).state == end {
            let delay = self.restart_delay(id);
            self.service_set(cx, id, S::AutoRestart);
            self.service_arm(cx, id, delay);
            return;
        }
        let s = self.service_mut(id);
        s.will_restart = false;
        s.forbid_restart = false;
        s.monitor.clear();
        let stored: Vec<_> = std::mem::take(&mut s.fd_store)
            .into_iter()
            .map(|(_, t)| t)
            .collect();
        let job_starts = self
            .unit(id)
            .job
            .and_then(|j| self.jobs.get(&j))
            .is_some_and(|j| matches!(j.job_type, JobType::Start | JobType::Restart));
        if job_starts && !stored.is_empty() {
            // A restart is queued: the next run gets the store.
            let names = self.service_mut(id);
            names.fd_store = stored.iter().map(|t| ("stored".to_owned(), *t)).collect();
        } else if !stored.is_empty() {
            cx.out.push(Action::CloseFds(stored));
        }
        self.close_connection(cx, id);
    }

    /// Gives up the connection of an Accept=yes instance.
    fn close_connection(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let Some(connection) = self.service_mut(id).connection.take() else {
            return;
        };
        cx.out.push(Action::CloseFds(vec![connection.token]));
        if let Some(socket) = self.names.get(&connection.socket).copied() {
            self.socket_connection_closed(cx, socket);
        }
    }

    fn restart_delay(&self, id: UnitId) -> u64 {
        let s = self.service(id);
        let settings = &s.settings;
        let (base, steps, most) = (
            settings.restart_usec,
            settings.restart_steps,
            settings.restart_max_delay_usec,
        );
        if steps == 0 || most == INFINITY || most <= base {
            return base;
        }
        if s.restarts >= steps {
            return most;
        }
        let ratio = most as f64 / (base.max(1)) as f64;
        (base as f64 * ratio.powf(f64::from(s.restarts) / f64::from(steps))) as u64
    }

    fn log_result(&mut self, cx: &mut Cx<'_>, id: UnitId, result: UnitResult) {
        let unit = self.unit(id);
        let name = unit.name.clone();
        let (level, message_id, text) = match result {
            UnitResult::Success => (
                LogLevel::Debug,
                "7ad2d189f7e94e70a38c781354912448",
                format!("{name}: Deactivated successfully."),
            ),
            UnitResult::SkipCondition => (
                LogLevel::Info,
                "0e4284a0caca4bfc81c0bb6786972673",
                format!("{name}: Skipped due to 'exec-condition'."),
            ),
            _ => (
                LogLevel::Warning,
                "d9b373ed55a64feb8242e02dbe79a49c",
                format!("{name}: Failed with result '{}'.", result.word()),
            ),
        };
        let log = UnitLog {
            level,
            unit: Some(name),
            message_id: Some(message_id),
            invocation_id: None,
            text,
            fields: vec![("UNIT_RESULT", result.word().to_owned())],
        };
        self.log_with(cx, log, false);
    }

    // ----- time-outs ----------------------------------------------------------------------------

    pub(crate) fn service_timed_out(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.service_settings(id);
        let kill = settings.kill.send_sigkill;
        let name = self.unit(id).name.clone();
        let state = self.service(id).state;
        if !matches!(state, S::AutoRestart) {
            let text = match state {
                S::Running => format!("{name}: Service reached runtime time limit. Stopping."),
                _ => format!("{name}: State '{}' timed out.", state.word()),
            };
            self.log(cx, LogLevel::Warning, Some(name), text);
        }
        match state {
            S::Condition | S::StartPre | S::Start | S::StartPost => {
                self.service_signal(cx, id, S::StopSigterm, UnitResult::Timeout);
            }
            S::Running => self.service_enter_stop(cx, id, UnitResult::Timeout),
            S::Reload => {
                if let Some(pid) = self.service(id).control.pid {
                    cx.out.push(Action::Signal {
                        pid,
                        signal: 9,
                        then_continue: false,
                    });
                }
                let s = self.service_mut(id);
                s.reload_result = UnitResult::Timeout;
                s.reload_by_notify = false;
                s.control_command = None;
                s.control = Process::default();
                self.service_enter_running(cx, id, UnitResult::Success);
            }
            S::Stop => self.service_signal(cx, id, S::StopSigterm, UnitResult::Timeout),
            S::StopWatchdog => self.service_signal(cx, id, S::StopSigkill, UnitResult::Timeout),
            S::StopSigterm if kill => {
                self.service_signal(cx, id, S::StopSigkill, UnitResult::Timeout);
            }
            S::StopSigterm | S::StopSigkill => {
                self.service_enter_stop_post(cx, id, UnitResult::Timeout);
            }
            S::StopPost => self.service_signal(cx, id, S::FinalSigterm, UnitResult::Timeout),
            S::FinalSigterm if kill => {
                self.service_signal(cx, id, S::FinalSigkill, UnitResult::Timeout);
            }
            S::FinalSigterm => self.service_dead(cx, id, UnitResult::Timeout, false),
            S::FinalSigkill => self.service_dead(cx, id, UnitResult::Timeout, true),
            S::AutoRestart => self.service_restart_due(cx, id),
            S::Dead | S::Failed | S::Exited => {}
        }
    }

    /// The wait of auto-restart is over: a restart job.
    fn service_restart_due(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let stopping = self
            .unit(id)
            .job
            .and_then(|j| self.jobs.get(&j))
            .is_some_and(|j| j.job_type == JobType::Stop);
        if stopping {
            return;
        }
        let s = self.service_mut(id);
        s.restarts += 1;
        s.restart_pending = true;
        let (count, name) = (s.restarts, self.unit(id).name.clone());
        let text = format!("{name}: Scheduled restart job, restart counter is at {count}.");
        let log = UnitLog {
            level: LogLevel::Info,
            unit: Some(name),
            message_id: Some("5eb03494b6584870a536b337290809b3"),
            invocation_id: None,
            text,
            fields: vec![("N_RESTARTS", count.to_string())],
        };
        self.log_with(cx, log, false);
        let mode = init_control::JobMode::Replace;
        if self.add_own_job(cx, id, JobType::Restart, mode).is_none() {
            let s = self.service_mut(id);
            s.will_restart = false;
            s.restart_pending = false;
            s.result = UnitResult::Resources;
            self.service_set(cx, id, S::Failed);
        }
    }

    pub(crate) fn watchdog_timed_out(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if self
            .get(id)
            .is_none_or(|u| !matches!(u.run.kind, Kind::Service(_)))
        {
            return;
        }
        let name = self.unit(id).name.clone();
        self.log(
            cx,
            LogLevel::Error,
            Some(name.clone()),
            format!("{name}: Watchdog timeout!"),
        );
        self.service_signal(cx, id, S::StopWatchdog, UnitResult::Watchdog);
    }

    /// A process could not be made.
    pub(crate) fn service_process_lost(&mut self, cx: &mut Cx<'_>, id: UnitId, role: SpawnRole) {
        let state = self.service(id).state;
        let s = self.service_mut(id);
        match role {
            SpawnRole::Main => s.main = Process::default(),
            SpawnRole::Control => {
                s.control = Process::default();
                s.control_command = None;
            }
        }
        self.service_resources(cx, id, state);
    }

    /// What `resources` means in a state.
    pub(super) fn service_resources(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        match state {
            S::Condition | S::StartPre | S::Start => {
                self.service_signal(cx, id, S::StopSigterm, UnitResult::Resources);
            }
            S::StartPost => self.service_enter_stop(cx, id, UnitResult::Resources),
            S::Reload => {
                self.service_mut(id).reload_result = UnitResult::Resources;
                self.service_enter_running(cx, id, UnitResult::Success);
            }
            S::Stop => self.service_signal(cx, id, S::StopSigterm, UnitResult::Resources),
            _ => self.service_signal(cx, id, S::FinalSigterm, UnitResult::Resources),
        }
    }
}
