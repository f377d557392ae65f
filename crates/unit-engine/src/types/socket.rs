//! Sockets.
//!
//! ```text
//! dead ─▶ start-pre ─▶ start-chown (opening) ─▶ start-post ─▶ listening ─▶ running (Accept=no)
//!   ▲                                                            │ ▲──────────┘ service is down
//!   └── stop-post ◀─ stop-pre ◀────────────────────── stop ──────┘
//! ```

use std::sync::Arc;

use init_control::JobMode;
use unit_file::settings::{ExecCommand, SocketSettings};
use unit_file::{UnitName, UnitType};

use crate::api::{Action, ExitStatus, FdToken, LogLevel, PeerAddress, SocketOpenError, SpawnRole};
use crate::engine::{Cx, Engine};
use crate::graph::{BEFORE, TRIGGERS, UnitId};
use crate::job::{Begun, JobResult, JobType};
use crate::process::SpawnExtra;
use crate::state::{ServiceState, SocketState as S, UnitResult, is_inactive_or_failed};
use crate::unit::{CommandKind, Connection, Kind, Process, Socket, TimerKind};

fn commands(settings: &SocketSettings, kind: CommandKind) -> &[ExecCommand] {
    match kind {
        CommandKind::StartPre => &settings.exec_start_pre,
        CommandKind::StartPost => &settings.exec_start_post,
        CommandKind::Stop => &settings.exec_stop_pre,
        CommandKind::StopPost => &settings.exec_stop_post,
        _ => &[],
    }
}

impl Engine {
    fn socket(&self, id: UnitId) -> &Socket {
        match &self.unit(id).run.kind {
            Kind::Socket(s) => s,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn socket_mut(&mut self, id: UnitId) -> &mut Socket {
        match &mut self.unit_mut(id).run.kind {
            Kind::Socket(s) => s,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn is_socket(&self, id: UnitId) -> bool {
        self.get(id)
            .is_some_and(|u| matches!(u.run.kind, Kind::Socket(_)))
    }

    fn socket_settings(&self, id: UnitId) -> Arc<SocketSettings> {
        self.socket(id).settings.clone()
    }

    fn socket_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        let old = self.unit(id).active();
        let before = std::mem::replace(&mut self.socket_mut(id).state, state);
        if matches!(state, S::Dead | S::Failed | S::Listening | S::Running) {
            self.disarm_state(id);
        }
        if before != state {
            self.state_changed(cx, id, old, true);
        }
    }

    fn socket_note(&mut self, id: UnitId, result: UnitResult) {
        let s = self.socket_mut(id);
        if s.result == UnitResult::Success {
            s.result = result;
        }
    }

    /// The service that gets the sockets (Accept=no).
    fn socket_service(&self, id: UnitId) -> Option<UnitId> {
        self.unit(id)
            .edges
            .with(TRIGGERS)
            .find(|o| self.get(*o).is_some())
    }

    pub(super) fn socket_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.socket(id).state {
            S::Dead | S::Failed => {}
            S::StartPre | S::StartChown | S::StartPost => return Begun::Running,
            _ => return Begun::Again,
        }
        let settings = self.socket_settings(id);
        if !settings.accept
            && let Some(service) = self.socket_service(id)
            && let Kind::Service(s) = &self.unit(service).run.kind
            && !matches!(
                s.state,
                ServiceState::Dead | ServiceState::Failed | ServiceState::AutoRestart
            )
        {
            let (name, other) = (self.unit(id).name.clone(), self.unit(service).name.clone());
            let text = format!("{name}: Socket service {other} already active, refusing.");
            self.log(cx, LogLevel::Error, Some(name), text);
            return Begun::Ends(JobResult::Failed);
        }
        if !self.allow_start(cx, id) {
            self.socket_note(id, UnitResult::StartLimitHit);
            self.socket_set(cx, id, S::Failed);
            return Begun::Ends(JobResult::Failed);
        }
        self.new_invocation(cx, id);
        let s = self.socket_mut(id);
        s.result = UnitResult::Success;
        s.trigger_limit.reset();
        self.socket_list(cx, id, CommandKind::StartPre);
        Begun::Running
    }

    /// Goes to a stage with commands, or past it.
    fn socket_list(&mut self, cx: &mut Cx<'_>, id: UnitId, kind: CommandKind) {
        let settings = self.socket_settings(id);
        if commands(&settings, kind).is_empty() {
            self.socket_stage_over(cx, id, kind);
        } else {
            self.socket_run(cx, id, kind, 0);
        }
    }

    fn socket_run(&mut self, cx: &mut Cx<'_>, id: UnitId, kind: CommandKind, index: usize) {
        let settings = self.socket_settings(id);
        let Some(command) = commands(&settings, kind).get(index) else {
            return;
        };
        let state = match kind {
            CommandKind::StartPre => S::StartPre,
            CommandKind::StartPost => S::StartPost,
            CommandKind::Stop => S::StopPre,
            _ => S::StopPost,
        };
        match self.spawn_command(cx, id, SpawnRole::Control, command, SpawnExtra::default()) {
            Ok(process) => {
                let s = self.socket_mut(id);
                s.control = process;
                s.control_command = Some((kind, index));
                self.arm(cx, id, TimerKind::State, settings.timeout_usec);
                self.socket_set(cx, id, state);
            }
            Err(message) => {
                let name = self.unit(id).name.clone();
                self.log(
                    cx,
                    LogLevel::Error,
                    Some(name.clone()),
                    format!("{name}: {message}"),
                );
                self.socket_stage_failed(cx, id, kind, UnitResult::Resources);
            }
        }
    }

    fn socket_stage_over(&mut self, cx: &mut Cx<'_>, id: UnitId, kind: CommandKind) {
        match kind {
            CommandKind::StartPre => {
                let settings = self.socket_settings(id);
                self.arm(cx, id, TimerKind::State, settings.timeout_usec);
                self.socket_set(cx, id, S::StartChown);
                let unit = self.unit(id).name.clone();
                cx.out.push(Action::OpenSockets { unit, settings });
            }
            CommandKind::StartPost => self.socket_listen(cx, id),
            CommandKind::Stop => {
                self.socket_close(cx, id);
                self.socket_list(cx, id, CommandKind::StopPost);
            }
            _ => self.socket_dead(cx, id),
        }
    }

    fn socket_stage_failed(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        kind: CommandKind,
        result: UnitResult,
    ) {
        self.socket_note(id, result);
        match kind {
            CommandKind::StartPre | CommandKind::StartPost => {
                self.socket_list(cx, id, CommandKind::Stop);
            }
            other => self.socket_stage_over(cx, id, other),
        }
    }

    fn socket_dead(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        self.socket_close(cx, id);
        let s = self.socket_mut(id);
        s.control = Process::default();
        s.control_command = None;
        let (fine, result) = (s.result == UnitResult::Success, s.result);
        if !fine {
            let name = self.unit(id).name.clone();
            let text = format!("{name}: Failed with result '{}'.", result.word());
            self.log(cx, LogLevel::Warning, Some(name), text);
        }
        self.socket_set(cx, id, if fine { S::Dead } else { S::Failed });
    }

    fn socket_close(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.socket_settings(id);
        let tokens = std::mem::take(&mut self.socket_mut(id).tokens);
        if !tokens.is_empty() {
            let unit = self.unit(id).name.clone();
            cx.out.push(Action::UnwatchSockets { unit: unit.clone() });
            cx.out.push(Action::CloseSockets {
                unit,
                settings,
                tokens,
            });
        }
    }

    pub(crate) fn sockets_opened(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        result: Result<Vec<FdToken>, SocketOpenError>,
    ) {
        if !self.is_socket(id) {
            return;
        }
        match result {
            Ok(tokens) if self.socket(id).state == S::StartChown => {
                self.socket_mut(id).tokens = tokens;
                self.socket_list(cx, id, CommandKind::StartPost);
            }
            Ok(tokens) => {
                // Stopped meanwhile: they are not wanted any more.
                let (unit, settings) = (self.unit(id).name.clone(), self.socket_settings(id));
                cx.out.push(Action::CloseSockets {
                    unit,
                    settings,
                    tokens,
                });
            }
            Err(error) => {
                let name = self.unit(id).name.clone();
                let text = format!("{name}: Failed to listen: {}", error.message);
                self.log(cx, LogLevel::Error, Some(name), text);
                if self.socket(id).state == S::StartChown {
                    self.socket_stage_failed(cx, id, CommandKind::StartPost, UnitResult::Resources);
                }
            }
        }
    }

    fn socket_listen(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.socket_settings(id);
        let (unit, tokens) = (self.unit(id).name.clone(), self.socket(id).tokens.clone());
        if settings.flush_pending && !settings.accept {
            cx.out.push(Action::FlushSockets {
                tokens: tokens.clone(),
            });
        }
        cx.out.push(Action::WatchSockets {
            unit,
            tokens,
            accept: settings.accept,
        });
        self.socket_set(cx, id, S::Listening);
    }

    /// The job that stops the unit is queued.
    fn stop_queued(&self, id: UnitId) -> bool {
        let job = self.unit(id).job.and_then(|j| self.jobs.get(&j));
        job.is_some_and(|j| j.job_type == JobType::Stop)
    }

    /// False: too many triggers, the socket gives up.
    fn socket_trigger_allowed(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let settings = self.socket_settings(id);
        let (interval, burst) = (
            settings.trigger_limit_interval_usec,
            settings.trigger_limit_burst,
        );
        if self
            .socket_mut(id)
            .trigger_limit
            .allow(cx.now.monotonic, interval, burst)
        {
            return true;
        }
        let name = self.unit(id).name.clone();
        let text = format!("{name}: Trigger limit hit, refusing further activation.");
        self.log(cx, LogLevel::Error, Some(name), text);
        self.socket_note(id, UnitResult::TriggerLimitHit);
        self.socket_list(cx, id, CommandKind::Stop);
        false
    }

    pub(crate) fn socket_ready(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if !self.is_socket(id) || self.socket(id).state != S::Listening {
            return;
        }
        let Some(service) = self.socket_service(id) else {
            return;
        };
        if self.stop_queued(service) || self.stop_queued(id) {
            // On the way down: drop what came, listen on.
            let (unit, tokens) = (self.unit(id).name.clone(), self.socket(id).tokens.clone());
            cx.out.push(Action::FlushSockets {
                tokens: tokens.clone(),
            });
            cx.out.push(Action::WatchSockets {
                unit,
                tokens,
                accept: false,
            });
            return;
        }
        if !self.socket_trigger_allowed(cx, id) {
            return;
        }
        match self.add_job(cx, service, JobType::Start, JobMode::Replace) {
            Ok(_) => self.socket_set(cx, id, S::Running),
            Err(error) => {
                let name = self.unit(id).name.clone();
                let text = format!(
                    "{name}: Failed to queue service startup job: {}",
                    error.message
                );
                self.log(cx, LogLevel::Error, Some(name), text);
                self.socket_note(id, UnitResult::Resources);
                self.socket_list(cx, id, CommandKind::Stop);
            }
        }
    }

    pub(crate) fn socket_accepted(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        token: FdToken,
        peer: &PeerAddress,
    ) {
        let wanted = self.is_socket(id)
            && self.socket(id).settings.accept
            && matches!(self.socket(id).state, S::Listening | S::Running)
            && !self.stop_queued(id);
        if !wanted {
            cx.out.push(Action::CloseFds(vec![token]));
            return;
        }
        let settings = self.socket_settings(id);
        let name = self.unit(id).name.clone();
        if self.socket(id).connections >= settings.max_connections {
            let text = format!(
                "{name}: Too many incoming connections ({}), dropping connection.",
                settings.max_connections
            );
            self.log(cx, LogLevel::Warning, Some(name), text);
            self.socket_mut(id).refused += 1;
            cx.out.push(Action::CloseFds(vec![token]));
            return;
        }
        if !self.socket_trigger_allowed(cx, id) {
            cx.out.push(Action::CloseFds(vec![token]));
            return;
        }
        let number = self.socket(id).accepted;
        self.socket_mut(id).accepted = number.wrapping_add(1);
        let (label, remote) = peer_label(peer);
        let instance = format!("{}@{number}-{label}.{}", name.prefix(), UnitType::Service);
        match self.socket_instance(cx, id, &instance, token, remote) {
            Ok(()) => self.socket_mut(id).connections += 1,
            Err(message) => {
                self.log(
                    cx,
                    LogLevel::Error,
                    Some(name.clone()),
                    format!("{name}: {message}"),
                );
                cx.out.push(Action::CloseFds(vec![token]));
            }
        }
    }

    fn socket_instance(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        instance: &str,
        token: FdToken,
        remote: Option<(String, u16)>,
    ) -> Result<(), String> {
        let name = UnitName::parse(instance).map_err(|e| e.to_string())?;
        let service = self.load_unit(cx, &name);
        let socket = self.unit(id).name.clone();
        if let Kind::Service(s) = &mut self.unit_mut(service).run.kind {
            s.connection = Some(Connection {
                token,
                socket,
                remote,
            });
        }
        self.link_weakly(id, service, BEFORE.or(TRIGGERS));
        let queued = self.add_job(cx, service, JobType::Start, JobMode::Replace);
        queued.map(|_| ()).map_err(|error| {
            if let Kind::Service(s) = &mut self.unit_mut(service).run.kind {
                s.connection = None;
            }
            format!("cannot start {instance}: {}", error.message)
        })
    }

    /// An instance of an Accept=yes socket is down.
    pub(crate) fn socket_connection_closed(&mut self, _cx: &mut Cx<'_>, id: UnitId) {
        if self.is_socket(id) {
            let s = self.socket_mut(id);
            s.connections = s.connections.saturating_sub(1);
            self.changed.insert(id);
        }
    }

    pub(crate) fn socket_triggered_changed(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        service: UnitId,
    ) {
        let accept = self.socket(id).settings.accept;
        if accept || !matches!(self.socket(id).state, S::Listening | S::Running) {
            return;
        }
        let unit = self.unit(service);
        if unit.job.is_some() {
            return;
        }
        let Kind::Service(s) = &unit.run.kind else {
            return;
        };
        let limited = unit.run.start_limit_hit && s.state == ServiceState::Failed;
        let (state, down) = (s.state, is_inactive_or_failed(unit.active()));
        if limited {
            self.socket_note(id, UnitResult::ServiceStartLimitHit);
            self.socket_list(cx, id, CommandKind::Stop);
        } else if down || state == ServiceState::AutoRestart {
            if self.socket(id).state == S::Running {
                self.socket_listen(cx, id);
            }
        } else if state == ServiceState::Running && self.socket(id).state == S::Listening {
            let unit = self.unit(id).name.clone();
            cx.out.push(Action::UnwatchSockets { unit });
            self.socket_set(cx, id, S::Running);
        }
    }

    pub(super) fn socket_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.socket(id).state {
            S::Dead | S::Failed => Begun::Already,
            S::StartPre | S::StartPost => {
                self.socket_kill(cx, id, 15);
                self.arm(cx, id, TimerKind::State, 90_000_000);
                self.socket_set(cx, id, S::StopPreSigterm);
                Begun::Running
            }
            S::StartChown | S::Listening | S::Running => {
                self.socket_list(cx, id, CommandKind::Stop);
                Begun::Running
            }
            _ => Begun::Running,
        }
    }

    fn socket_kill(&mut self, cx: &mut Cx<'_>, id: UnitId, signal: i32) {
        if let Some(pid) = self.socket(id).control.pid {
            cx.out.push(Action::Signal {
                pid,
                signal,
                then_continue: signal == 15,
            });
        }
    }

    /// A command ended; `None`: it could not be started.
    pub(crate) fn socket_control_exited(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        status: Option<ExitStatus>,
    ) {
        let settings = self.socket_settings(id);
        let s = self.socket_mut(id);
        s.control = Process::default();
        let state = s.state;
        let Some((kind, index)) = s.control_command.take() else {
            return;
        };
        let list = commands(&settings, kind);
        let ignore = list.get(index).is_some_and(|c| c.ignore_failure);
        let result = match status {
            None => UnitResult::Resources,
            Some(ExitStatus::Exited(0) | ExitStatus::Unknown) => UnitResult::Success,
            Some(_) if ignore => UnitResult::Success,
            Some(ExitStatus::Exited(_)) => UnitResult::ExitCode,
            Some(ExitStatus::Killed(_)) => UnitResult::Signal,
            Some(ExitStatus::Dumped(_)) => UnitResult::CoreDump,
        };
        match state {
            S::StopPreSigterm | S::StopPreSigkill => {
                self.socket_close(cx, id);
                self.socket_list(cx, id, CommandKind::StopPost);
            }
            S::FinalSigterm | S::FinalSigkill => self.socket_dead(cx, id),
            _ if result != UnitResult::Success => self.socket_stage_failed(cx, id, kind, result),
            _ if index + 1 < list.len() => self.socket_run(cx, id, kind, index + 1),
            _ => self.socket_stage_over(cx, id, kind),
        }
    }

    pub(crate) fn socket_timed_out(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        self.socket_note(id, UnitResult::Timeout);
        let next = match self.socket(id).state {
            S::StartPre | S::StartPost | S::StopPre => (S::StopPreSigterm, 15),
            S::StopPreSigterm => (S::StopPreSigkill, 9),
            S::StopPost => (S::FinalSigterm, 15),
            S::FinalSigterm => (S::FinalSigkill, 9),
            S::StartChown => {
                self.socket_list(cx, id, CommandKind::Stop);
                return;
            }
            _ => {
                self.socket_dead(cx, id);
                return;
            }
        };
        self.socket_kill(cx, id, next.1);
        self.arm(cx, id, TimerKind::State, 90_000_000);
        self.socket_set(cx, id, next.0);
    }
}

/// The part of an instance name that tells the connection, and REMOTE_ADDR, REMOTE_PORT.
fn peer_label(peer: &PeerAddress) -> (String, Option<(String, u16)>) {
    match peer {
        PeerAddress::Inet { local, remote } => {
            let label = format!("{}:{}-{}:{}", local.0, local.1, remote.0, remote.1);
            (label.replace('%', "_"), Some(remote.clone()))
        }
        PeerAddress::Unix { pid, uid } => (format!("{pid}-{uid}"), None),
        PeerAddress::Other => ("connection".to_owned(), None),
    }
}
