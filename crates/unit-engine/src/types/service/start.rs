//! The way up: lists of commands, the main process, what makes a service "running".

use unit_file::settings::{INFINITY, NotifyAccess, ServiceType, StdInput, StdOutput};

use super::commands;
use crate::api::{LogLevel, PassedFd, SpawnId, SpawnRole};
use crate::engine::{Cx, Engine};
use crate::graph::{TRIGGERED_BY, UnitId};
use crate::process::SpawnExtra;
use crate::state::{ServiceState as S, UnitResult};
use crate::unit::{CommandKind, Kind, Process, TimerKind};

/// How long Type=idle waits for the queue.
const IDLE_WAIT: u64 = 5_000_000;
/// How often a PID file is looked for.
const PID_FILE_POLL: u64 = 50_000;

impl Engine {
    /// Goes to the stage of a list, or past it when the list is empty.
    pub(super) fn service_enter_list(&mut self, cx: &mut Cx<'_>, id: UnitId, kind: CommandKind) {
        let settings = self.service_settings(id);
        let empty = commands(&settings, kind).is_empty();
        match kind {
            CommandKind::Condition if empty => {
                self.service_enter_list(cx, id, CommandKind::StartPre);
            }
            CommandKind::Condition => {
                self.service_run_control(cx, id, kind, 0, S::Condition);
            }
            CommandKind::StartPre if empty => self.service_enter_start(cx, id),
            CommandKind::StartPre => self.service_run_control(cx, id, kind, 0, S::StartPre),
            CommandKind::StartPost if empty => {
                self.service_enter_running(cx, id, UnitResult::Success);
            }
            CommandKind::StartPost => self.service_run_control(cx, id, kind, 0, S::StartPost),
            _ => {}
        }
    }

    /// Runs one command of a list as control process, in its state.
    pub(super) fn service_run_control(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        kind: CommandKind,
        index: usize,
        state: S,
    ) {
        let settings = self.service_settings(id);
        let Some(command) = commands(&settings, kind).get(index) else {
            return;
        };
        let extra = self.service_extra(id, SpawnRole::Control, kind);
        let spawned = self.spawn_command(cx, id, SpawnRole::Control, command, extra);
        let span = match state {
            S::Stop | S::StopPost => settings.timeout_stop_usec,
            _ => settings.timeout_start_usec,
        };
        match spawned {
            Ok(process) => {
                let s = self.service_mut(id);
                s.control = process;
                s.control_command = Some((kind, index));
                self.note_started(cx, id, kind, index);
                if index == 0 {
                    self.service_arm(cx, id, span);
                }
                self.service_set(cx, id, state);
            }
            Err(message) => {
                self.service_mut(id).control_command = None;
                self.service_failed_to_run(cx, id, &message);
                self.service_resources(cx, id, state);
            }
        }
    }

    fn service_failed_to_run(&mut self, cx: &mut Cx<'_>, id: UnitId, message: &str) {
        let name = self.unit(id).name.clone();
        let text = format!("{name}: Failed to run a command: {message}");
        self.log(cx, LogLevel::Error, Some(name), text);
    }

    fn note_started(&mut self, cx: &Cx<'_>, id: UnitId, kind: CommandKind, index: usize) {
        let stamp = cx.stamp();
        let record = crate::unit::ExecRecord {
            started: stamp,
            ..Default::default()
        };
        let s = self.service_mut(id);
        let key = (kind, index as u32);
        s.records.retain(|(k, i, _)| (*k, *i) != key);
        // Most services have one command.
        s.records.reserve_exact(1);
        s.records.push((kind, index as u32, record));
    }

    pub(super) fn service_enter_start(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.service_settings(id);
        if settings.exec_start.is_empty() {
            self.service_enter_list(cx, id, CommandKind::StartPost);
            return;
        }
        if settings.service_type == ServiceType::Idle && !self.only_own_job(id) {
            self.service_mut(id).idle_waiting = true;
            self.idle_queue.push(id);
            self.arm(cx, id, TimerKind::Poll, IDLE_WAIT);
            self.service_set(cx, id, S::Start);
            return;
        }
        self.service_mut(id).main_index = 0;
        self.service_run_main(cx, id, 0);
    }

    /// Is no job left but those of idle services?
    fn only_own_job(&self, id: UnitId) -> bool {
        self.jobs.values().all(|j| {
            j.unit == id
                || self.get(j.unit).is_some_and(|u| match &u.run.kind {
                    Kind::Service(s) => s.idle_waiting,
                    // These wait for the services below them, maybe for this one.
                    Kind::Target(_) => true,
                    _ => false,
                })
        })
    }

    /// Starts the idle services when nothing else is queued.
    pub(crate) fn start_idle_services(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.idle_queue.is_empty() {
            return false;
        }
        let waiting = std::mem::take(&mut self.idle_queue);
        let mut started = false;
        for id in waiting {
            if self.get(id).is_none() || !self.service(id).idle_waiting {
                continue;
            }
            if self.only_own_job(id) {
                self.service_start_idle(cx, id);
                started = true;
            } else {
                self.idle_queue.push(id);
            }
        }
        started
    }

    fn service_start_idle(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        self.disarm(id, TimerKind::Poll);
        self.service_mut(id).idle_waiting = false;
        self.service_mut(id).main_index = 0;
        self.service_run_main(cx, id, 0);
    }

    /// Starts an ExecStart= command.
    pub(super) fn service_run_main(&mut self, cx: &mut Cx<'_>, id: UnitId, index: usize) {
        let settings = self.service_settings(id);
        let Some(command) = settings.exec_start.get(index) else {
            return;
        };
        let forking = settings.service_type == ServiceType::Forking;
        let role = if forking {
            SpawnRole::Control
        } else {
            SpawnRole::Main
        };
        let extra = self.service_extra(id, role, CommandKind::Start);
        match self.spawn_command(cx, id, role, command, extra) {
            Ok(process) => {
                let stamp = cx.stamp();
                self.note_started(cx, id, CommandKind::Start, index);
                let s = self.service_mut(id);
                if forking {
                    s.control = process;
                    s.control_command = Some((CommandKind::Start, index));
                } else {
                    s.main = process;
                    s.main_known = true;
                    s.main_index = index;
                    s.main_record = crate::unit::ExecRecord {
                        started: stamp,
                        ..Default::default()
                    };
                }
                if index == 0 {
                    self.service_arm(cx, id, settings.timeout_start_usec);
                }
                self.service_set(cx, id, S::Start);
            }
            Err(message) => {
                self.service_failed_to_run(cx, id, &message);
                self.service_set(cx, id, S::Start);
                self.service_resources(cx, id, S::Start);
            }
        }
    }

    /// Variables and descriptors of a service's process.
    fn service_extra(&self, id: UnitId, role: SpawnRole, kind: CommandKind) -> SpawnExtra {
        let s = self.service(id);
        let settings = &s.settings;
        let mut extra = SpawnExtra {
            notify: settings.notify_access != NotifyAccess::None,
            non_blocking: settings.non_blocking,
            ignore_root: kind != CommandKind::Start
                && (settings.root_directory_start_only || settings.permissions_start_only),
            ..SpawnExtra::default()
        };
        let mut set = |name: &str, value: String| extra.environment.push((name.to_owned(), value));
        if let Some(pid) = s.main.pid.filter(|_| kind != CommandKind::Start) {
            set("MAINPID", pid.to_string());
        }
        if kind == CommandKind::StopPost || kind == CommandKind::Stop {
            for (name, value) in self.result_environment(id) {
                set(name, value);
            }
        }
        if kind == CommandKind::Start {
            let watchdog = s.watchdog_override.unwrap_or(settings.watchdog_usec);
            if watchdog > 0 {
                set("WATCHDOG_USEC", watchdog.to_string());
            }
            if let Some(path) = &settings.pid_file {
                set("PIDFILE", path.clone());
            }
            if let Some((address, port)) = s.connection.as_ref().and_then(|c| c.remote.clone()) {
                set("REMOTE_ADDR", address);
                set("REMOTE_PORT", port.to_string());
            }
        }
        for variable in &s.monitor {
            if let Some((name, value)) = variable.split_once('=') {
                set(name, value.to_owned());
            }
        }
        let delegated = self.unit(id).run.delegated;
        if role == SpawnRole::Control && delegated && kind != CommandKind::Start {
            extra.subgroup = Some(".control".to_owned());
        } else if role == SpawnRole::Main || kind == CommandKind::Start {
            extra
                .subgroup
                .clone_from(&self.unit(id).cgroup.delegate_subgroup);
        }
        if kind == CommandKind::Start {
            self.service_descriptors(id, &mut extra);
        } else if let Some(connection) = &s.connection {
            extra.stdio_socket = Some(connection.token);
        }
        extra
    }

    /// The connection, the sockets that trigger the service, then its store.
    fn service_descriptors(&self, id: UnitId, extra: &mut SpawnExtra) {
        let s = self.service(id);
        if let Some(connection) = &s.connection {
            extra.stdio_socket = Some(connection.token);
            let name = "connection".to_owned();
            extra.fds.push(PassedFd {
                name,
                token: connection.token,
            });
        }
        for socket in self.unit(id).edges.with(TRIGGERED_BY) {
            let Some(unit) = self.get(socket) else {
                continue;
            };
            let Kind::Socket(socket) = &unit.run.kind else {
                continue;
            };
            let name = socket.settings.file_descriptor_name.clone();
            let name = name.unwrap_or_else(|| unit.name.to_string());
            for token in &socket.tokens {
                extra.fds.push(PassedFd {
                    name: name.clone(),
                    token: *token,
                });
            }
        }
        if extra.stdio_socket.is_none() && extra.fds.len() == 1 {
            extra.stdio_socket = Some(extra.fds[0].token);
        }
        for (name, token) in &s.fd_store {
            extra.fds.push(PassedFd {
                name: name.clone(),
                token: *token,
            });
        }
        // inetd style: the socket is the standard input or output, and no LISTEN_FDS says otherwise (sshd -i
        // would take fd 3 for a listener).
        let exec = &self.unit(id).exec;
        let output = [&exec.standard_output, &exec.standard_error];
        if exec.standard_input == StdInput::Socket || output.contains(&&StdOutput::Socket) {
            extra.fds.clear();
        }
    }

    /// SERVICE_RESULT, EXIT_CODE, EXIT_STATUS.
    pub(super) fn result_environment(&self, id: UnitId) -> Vec<(&'static str, String)> {
        let s = self.service(id);
        let mut out = vec![("SERVICE_RESULT", s.result.word().to_owned())];
        if s.main_record.code != 0 {
            let (code, status) = exit_words(s.main_record.code, s.main_record.status);
            out.push(("EXIT_CODE", code.to_owned()));
            out.push(("EXIT_STATUS", status));
        }
        out
    }

    /// MONITOR_* for the handlers of this unit.
    pub(crate) fn monitor_environment(&self, id: UnitId) -> Option<Vec<String>> {
        let unit = self.unit(id);
        if !matches!(unit.run.kind, Kind::Service(_)) {
            return None;
        }
        let mut out: Vec<String> = self
            .result_environment(id)
            .into_iter()
            .map(|(name, value)| format!("MONITOR_{name}={value}"))
            .collect();
        if let Some(invocation) = unit.run.invocation_id {
            out.push(format!(
                "MONITOR_INVOCATION_ID={}",
                crate::process::hex(&invocation)
            ));
        }
        out.push(format!("MONITOR_UNIT={}", unit.name));
        Some(out)
    }

    pub(crate) fn service_spawned(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        role: SpawnRole,
        spawn: SpawnId,
        pid: u32,
    ) {
        let settings = self.service_settings(id);
        let s = self.service_mut(id);
        let process = match role {
            SpawnRole::Main => &mut s.main,
            SpawnRole::Control => &mut s.control,
        };
        if process.spawn != Some(spawn) {
            return;
        }
        process.pid = Some(pid);
        if role == SpawnRole::Main {
            s.main_record.pid = pid;
        }
        let command = match role {
            SpawnRole::Main => Some((CommandKind::Start, s.main_index)),
            SpawnRole::Control => s.control_command,
        };
        if let Some((kind, index)) = command
            && let Some(record) = s
                .records
                .iter_mut()
                .find(|(k, i, _)| (*k, *i as usize) == (kind, index))
        {
            record.2.pid = pid;
        }
        let state = s.state;
        if role == SpawnRole::Main && state == S::Start {
            let watchdog = settings.watchdog_usec > 0;
            match settings.service_type {
                ServiceType::Simple | ServiceType::Idle => {
                    self.service_enter_list(cx, id, CommandKind::StartPost);
                }
                _ if watchdog => self.watchdog_touch(cx, id),
                _ => {}
            }
        } else if matches!(
            state,
            S::StopSigterm | S::StopSigkill | S::FinalSigterm | S::FinalSigkill | S::StopWatchdog
        ) {
            // It was told to end before it had a number.
            let signal = match state {
                S::StopSigkill | S::FinalSigkill => settings.kill.final_kill_signal,
                _ => settings.kill.kill_signal,
            };
            cx.out.push(crate::api::Action::Signal {
                pid,
                signal,
                then_continue: true,
            });
        }
    }

    pub(crate) fn service_exec_done(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        role: SpawnRole,
        spawn: SpawnId,
    ) {
        let exec = self.service_settings(id).service_type == ServiceType::Exec;
        let s = self.service_mut(id);
        if role != SpawnRole::Main || s.main.spawn != Some(spawn) {
            return;
        }
        s.exec_done = true;
        if exec && s.state == S::Start {
            self.service_enter_list(cx, id, CommandKind::StartPost);
        }
    }

    /// The start is complete: running, exited, or down again.
    pub(super) fn service_enter_running(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        result: UnitResult,
    ) {
        self.note_result(id, result);
        let settings = self.service_settings(id);
        if self.service(id).result != UnitResult::Success {
            self.service_signal(cx, id, S::StopSigterm, UnitResult::Success);
        } else if self.service_is_good(cx, id) {
            match self.service(id).phase {
                crate::unit::NotifyPhase::Reloading => self.service_reload_by_notify(cx, id),
                crate::unit::NotifyPhase::Stopping => self.service_stop_by_notify(cx, id),
                _ => {
                    self.service_arm(cx, id, settings.runtime_max_usec);
                    if settings.runtime_max_usec == INFINITY {
                        self.disarm_state(id);
                    }
                    self.service_set(cx, id, S::Running);
                    self.watchdog_touch(cx, id);
                }
            }
        } else if settings.remain_after_exit {
            self.disarm_state(id);
            self.service_set(cx, id, S::Exited);
        } else {
            self.service_enter_stop(cx, id, UnitResult::Success);
        }
    }

    /// Is there still something of the service that runs?
    fn service_is_good(&self, cx: &Cx<'_>, id: UnitId) -> bool {
        let s = self.service(id);
        if s.main.alive() {
            return true;
        }
        if s.main_known || s.settings.exec_start.is_empty() {
            return false;
        }
        // The main process is not known: as long as something is in the group, the service is up.
        self.unit(id)
            .cgroup_path
            .as_deref()
            .is_some_and(|path| !cx.host.cgroup_processes(path).is_empty())
    }

    // ----- Type=forking -------------------------------------------------------------------------

    /// The parent of a forking service has exited well: who is the main process?
    pub(super) fn service_forked(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.service_settings(id);
        if settings.pid_file.is_some() {
            if self.service_load_pid_file(cx, id) {
                self.service_enter_list(cx, id, CommandKind::StartPost);
            } else {
                let name = self.unit(id).name.clone();
                let text = format!("{name}: PID file not yet there after start. Waiting for it.");
                self.log(cx, LogLevel::Debug, Some(name), text);
                self.arm(cx, id, TimerKind::Poll, PID_FILE_POLL);
            }
            return;
        }
        if settings.guess_main_pid
            && let Some(path) = self.unit(id).cgroup_path.clone()
            && let [pid] = cx.host.cgroup_processes(&path)[..]
        {
            self.service_set_main(cx, id, pid);
        }
        self.service_enter_list(cx, id, CommandKind::StartPost);
    }

    pub(super) fn service_load_pid_file(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let Some(path) = self.service_settings(id).pid_file.clone() else {
            return false;
        };
        let Some(pid) = cx.host.read_pid_file(&path) else {
            return false;
        };
        let ours = cx.host.process_exists(pid)
            && cx
                .host
                .cgroup_of_process(pid)
                .and_then(|c| self.unit_of_cgroup(&c))
                == Some(id);
        if ours {
            self.service_set_main(cx, id, pid);
        }
        ours
    }

    pub(super) fn service_set_main(&mut self, cx: &mut Cx<'_>, id: UnitId, pid: u32) {
        let stamp = cx.stamp();
        if let Some(old) = self.service(id).main.pid.filter(|old| *old != pid) {
            self.pids.remove(&old);
        }
        self.pids.insert(pid, (id, SpawnRole::Main));
        let s = self.service_mut(id);
        if s.main.pid != Some(pid) {
            s.main = Process {
                spawn: None,
                pid: Some(pid),
            };
            s.main_record = crate::unit::ExecRecord {
                pid,
                started: stamp,
                ..Default::default()
            };
        }
        s.main_known = true;
        self.changed.insert(id);
    }

    /// The poll deadline: idle start, PID file.
    pub(crate) fn poll(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if let Some(Kind::Mount(_)) = self.get(id).map(|u| &u.run.kind) {
            self.mount_poll(cx, id);
            return;
        }
        if self
            .get(id)
            .is_none_or(|u| !matches!(u.run.kind, Kind::Service(_)))
        {
            return;
        }
        if self.service(id).idle_waiting {
            self.idle_queue.retain(|q| *q != id);
            self.service_start_idle(cx, id);
            return;
        }
        let s = self.service(id);
        let waiting = s.state == S::Start
            && s.settings.service_type == ServiceType::Forking
            && !s.control.alive();
        if !waiting {
            return;
        }
        if self.service_load_pid_file(cx, id) {
            self.service_enter_list(cx, id, CommandKind::StartPost);
        } else {
            self.arm(cx, id, TimerKind::Poll, PID_FILE_POLL);
        }
    }
}

/// EXIT_CODE and EXIT_STATUS of a CLD_* code.
pub(super) fn exit_words(code: i32, status: i32) -> (&'static str, String) {
    match code {
        1 => ("exited", status.to_string()),
        2 => ("killed", unit_file::value::signal_name(status)),
        _ => ("dumped", unit_file::value::signal_name(status)),
    }
}
