//! Ends of processes, empty control groups, and whether to restart.

use unit_file::settings::{ExitStatusSet, OomPolicy, Restart, ServiceSettings, ServiceType};

use super::commands;
use super::start::exit_words;
use crate::api::{ExitStatus, LogLevel, SpawnRole, UnitLog};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::state::{ServiceState as S, UnitResult};
use crate::unit::{CommandKind, Process};

/// CLD_* code and status of an end.
pub(super) fn record_of(status: ExitStatus) -> (i32, i32) {
    match status {
        ExitStatus::Exited(code) => (1, code),
        ExitStatus::Killed(signal) => (2, signal),
        ExitStatus::Dumped(signal) => (3, signal),
        ExitStatus::Unknown => (0, 0),
    }
}

fn in_set(set: &ExitStatusSet, status: ExitStatus) -> bool {
    match status {
        ExitStatus::Exited(code) => u8::try_from(code).is_ok_and(|c| set.codes.contains(&c)),
        ExitStatus::Killed(s) | ExitStatus::Dumped(s) => set.signals.contains(&s),
        ExitStatus::Unknown => false,
    }
}

/// What an end of the main process (`daemon`) or of a command means.
pub(super) fn judge(status: ExitStatus, daemon: bool, success: &ExitStatusSet) -> UnitResult {
    if in_set(success, status) {
        return UnitResult::Success;
    }
    match status {
        ExitStatus::Exited(0) | ExitStatus::Unknown => UnitResult::Success,
        ExitStatus::Exited(_) => UnitResult::ExitCode,
        ExitStatus::Killed(1 | 2 | 13 | 15) if daemon => UnitResult::Success,
        ExitStatus::Killed(_) => UnitResult::Signal,
        ExitStatus::Dumped(_) => UnitResult::CoreDump,
    }
}

/// Restart= as a table. `last` is the end of the main process, if it ended.
pub(super) fn shall_restart(
    settings: &ServiceSettings,
    result: UnitResult,
    last: Option<ExitStatus>,
) -> bool {
    use UnitResult as R;
    if let Some(last) = last {
        if in_set(&settings.restart_prevent_exit_status, last) {
            return false;
        }
        if in_set(&settings.restart_force_exit_status, last) {
            return true;
        }
    }
    match settings.restart {
        Restart::No => false,
        Restart::OnSuccess => result == R::Success,
        Restart::OnFailure => !matches!(result, R::Success | R::SkipCondition),
        Restart::OnAbnormal => !matches!(result, R::Success | R::ExitCode | R::SkipCondition),
        Restart::OnWatchdog => result == R::Watchdog,
        Restart::OnAbort => matches!(result, R::Signal | R::CoreDump),
        Restart::Always => result != R::SkipCondition,
    }
}

impl Engine {
    pub(super) fn service_shall_restart(&self, id: UnitId) -> bool {
        let s = self.service(id);
        if s.forbid_restart || s.result == UnitResult::StartLimitHit {
            return false;
        }
        let last = match s.main_record.code {
            1 => Some(ExitStatus::Exited(s.main_record.status)),
            2 => Some(ExitStatus::Killed(s.main_record.status)),
            3 => Some(ExitStatus::Dumped(s.main_record.status)),
            _ => None,
        };
        shall_restart(&s.settings, s.result, last)
    }

    pub(crate) fn service_child_exited(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        pid: u32,
        status: ExitStatus,
    ) {
        let s = self.service(id);
        if s.main.pid == Some(pid) {
            self.main_exited(cx, id, status);
        } else if s.control.pid == Some(pid) {
            self.control_exited(cx, id, status);
        }
    }

    fn main_exited(&mut self, cx: &mut Cx<'_>, id: UnitId, status: ExitStatus) {
        let settings = self.service_settings(id);
        let oneshot = settings.service_type == ServiceType::Oneshot;
        let mut result = judge(status, !oneshot, &settings.success_exit_status);
        let (code, value) = record_of(status);
        let stamp = cx.stamp();
        let s = self.service_mut(id);
        s.main = Process::default();
        s.main_record.code = code;
        s.main_record.status = value;
        s.main_record.exited = stamp;
        let index = s.main_index;
        let record = s.main_record;
        if let Some(kept) = s
            .records
            .iter_mut()
            .find(|(k, i, _)| *k == CommandKind::Start && *i as usize == index)
        {
            kept.2 = record;
        }
        if settings
            .exec_start
            .get(index)
            .is_some_and(|c| c.ignore_failure)
        {
            result = UnitResult::Success;
        }
        let forgiven = result == UnitResult::Success;
        self.log_exit(cx, id, "Main process", status, forgiven);
        if result != UnitResult::Success && self.unit(id).run.oom_killed {
            result = UnitResult::OomKill;
        }
        if result != UnitResult::Success {
            self.note_result(id, result);
        }
        let state = self.service(id).state;
        let control = self.service(id).control.alive();
        if state == S::Start
            && oneshot
            && result == UnitResult::Success
            && index + 1 < settings.exec_start.len()
        {
            self.service_run_main(cx, id, index + 1);
            return;
        }
        match state {
            S::Start if oneshot => {
                if result == UnitResult::Success {
                    self.service_enter_list(cx, id, CommandKind::StartPost);
                } else {
                    self.service_signal(cx, id, S::StopSigterm, result);
                }
            }
            S::Start
                if matches!(
                    settings.service_type,
                    ServiceType::Notify | ServiceType::NotifyReload | ServiceType::Dbus
                ) =>
            {
                let result = match result {
                    UnitResult::Success => UnitResult::Protocol,
                    other => other,
                };
                self.service_signal(cx, id, S::StopSigterm, result);
            }
            S::Start | S::Running => self.service_enter_running(cx, id, result),
            S::StartPost | S::Reload if !control => {
                self.service_mut(id).reload_by_notify = false;
                self.service_enter_stop(cx, id, result);
            }
            S::Stop if !control => self.service_signal(cx, id, S::StopSigterm, result),
            S::StopWatchdog | S::StopSigterm | S::StopSigkill if !control => {
                self.service_enter_stop_post(cx, id, result);
            }
            S::FinalSigterm | S::FinalSigkill if !control => {
                self.service_final_check(cx, id, result);
            }
            _ => {}
        }
    }

    /// In a final state with all known processes gone: over, unless the group still holds some.
    fn service_final_check(&mut self, cx: &mut Cx<'_>, id: UnitId, result: UnitResult) {
        self.note_result(id, result);
        let settings = self.service_settings(id);
        if settings.kill.kill_mode == unit_file::settings::KillMode::ControlGroup
            && self.service(id).state == S::FinalSigterm
        {
            let left = self
                .unit(id)
                .cgroup_path
                .as_deref()
                .map(|p| cx.host.cgroup_processes(p));
            if left.is_some_and(|l| !l.is_empty()) {
                return;
            }
        }
        self.service_dead(cx, id, result, true);
    }

    fn control_exited(&mut self, cx: &mut Cx<'_>, id: UnitId, status: ExitStatus) {
        let settings = self.service_settings(id);
        let stamp = cx.stamp();
        let (code, value) = record_of(status);
        let s = self.service_mut(id);
        s.control = Process::default();
        let Some((kind, index)) = s.control_command else {
            return;
        };
        if let Some(kept) = s
            .records
            .iter_mut()
            .find(|(k, i, _)| (*k, *i as usize) == (kind, index))
        {
            kept.2.code = code;
            kept.2.status = value;
            kept.2.exited = stamp;
        }
        let list = commands(&settings, kind);
        let ignore = list.get(index).is_some_and(|c| c.ignore_failure);
        let mut result = judge(status, false, &ExitStatusSet::default());
        if kind == CommandKind::Condition
            && let ExitStatus::Exited(1..=254) = status
        {
            result = UnitResult::SkipCondition;
        }
        if ignore {
            result = UnitResult::Success;
        }
        if result != UnitResult::SkipCondition {
            self.log_exit(
                cx,
                id,
                "Control process",
                status,
                result == UnitResult::Success,
            );
        }
        let state = self.service(id).state;
        let next = index + 1;
        if result == UnitResult::Success && next < list.len() && state_of(kind) == Some(state) {
            self.service_run_control(cx, id, kind, next, state);
            return;
        }
        self.service_mut(id).control_command = None;
        self.control_list_over(cx, id, state, result);
    }

    fn control_list_over(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S, result: UnitResult) {
        let fine = result == UnitResult::Success;
        let main = self.service(id).main.alive();
        match state {
            S::Condition if fine => self.service_enter_list(cx, id, CommandKind::StartPre),
            S::StartPre if fine => self.service_enter_start(cx, id),
            S::Start if fine => self.service_forked(cx, id),
            S::Condition | S::StartPre | S::Start => {
                self.service_signal(cx, id, S::StopSigterm, result);
            }
            S::StartPost if fine => self.service_enter_running(cx, id, UnitResult::Success),
            S::StartPost => self.service_signal(cx, id, S::StopSigterm, result),
            S::Reload => {
                self.service_mut(id).reload_result = result;
                self.service_load_pid_file(cx, id);
                if !self.service(id).reload_by_notify || !fine {
                    self.service_mut(id).reload_by_notify = false;
                    self.service_enter_running(cx, id, UnitResult::Success);
                }
            }
            S::Stop => self.service_signal(cx, id, S::StopSigterm, result),
            S::StopWatchdog | S::StopSigterm | S::StopSigkill if !main => {
                self.service_enter_stop_post(cx, id, result);
            }
            S::StopPost => self.service_signal(cx, id, S::FinalSigterm, result),
            S::FinalSigterm | S::FinalSigkill if !main => {
                self.service_final_check(cx, id, result);
            }
            _ => {}
        }
    }

    pub(crate) fn service_cgroup_empty(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let s = self.service(id);
        if s.main.alive() || s.control.alive() {
            // The end of these is told by itself.
            return;
        }
        // The report may be older than the processes of a new start.
        let empty = self
            .unit(id)
            .cgroup_path
            .as_deref()
            .is_none_or(|p| cx.host.cgroup_processes(p).is_empty());
        if !empty {
            return;
        }
        let forking = s.settings.service_type == ServiceType::Forking;
        match s.state {
            // Nobody is left who could write the PID file.
            S::Start if forking && !s.idle_waiting => {
                self.service_enter_stop_post(cx, id, UnitResult::Protocol);
            }
            S::Running => self.service_enter_running(cx, id, UnitResult::Success),
            S::StopWatchdog | S::StopSigterm | S::StopSigkill => {
                self.service_enter_stop_post(cx, id, UnitResult::Success);
            }
            S::FinalSigterm | S::FinalSigkill => {
                self.service_dead(cx, id, UnitResult::Success, true);
            }
            _ => {}
        }
    }

    pub(crate) fn service_oom_kill(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.service_settings(id);
        if settings.oom_policy.unwrap_or_default() == OomPolicy::Continue {
            return;
        }
        match self.service(id).state {
            S::Condition | S::StartPre | S::Start | S::StartPost | S::Stop => {
                self.service_signal(cx, id, S::StopSigterm, UnitResult::OomKill);
            }
            S::Running | S::Exited | S::Reload => {
                self.service_enter_stop(cx, id, UnitResult::OomKill);
            }
            _ => self.note_result(id, UnitResult::OomKill),
        }
    }

    fn log_exit(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        who: &str,
        status: ExitStatus,
        forgiven: bool,
    ) {
        let (code, value) = record_of(status);
        if code == 0 {
            return;
        }
        let name = self.unit(id).name.clone();
        let (word, text) = exit_words(code, value);
        let step = match (code, init_control::exit_step(value)) {
            (1, Some(step)) => format!("/{step}"),
            (1, None) if value == 0 => "/SUCCESS".to_owned(),
            (1, None) if value == 1 => "/FAILURE".to_owned(),
            _ => String::new(),
        };
        let shown = if code == 1 {
            format!("{text}{step}")
        } else {
            format!("{value}/{text}")
        };
        let level = match (forgiven, value) {
            (true, 0) if code == 1 => LogLevel::Debug,
            (true, _) => LogLevel::Info,
            (false, _) => LogLevel::Notice,
        };
        let log = UnitLog {
            level,
            unit: Some(name.clone()),
            message_id: Some("98e322203f7a4ed290d09fe03c09fe15"),
            invocation_id: None,
            text: format!("{name}: {who} exited, code={word}, status={shown}"),
            fields: vec![("EXIT_CODE", word.to_owned()), ("EXIT_STATUS", text)],
        };
        self.log_with(cx, log, false);
    }

    /// The role a pid plays for a service, when it is a process of its.
    pub(super) fn service_role(&self, id: UnitId, pid: u32) -> Option<SpawnRole> {
        let s = self.service(id);
        if s.main.pid == Some(pid) {
            Some(SpawnRole::Main)
        } else if s.control.pid == Some(pid) {
            Some(SpawnRole::Control)
        } else {
            None
        }
    }
}

/// The state in which a list is run.
fn state_of(kind: CommandKind) -> Option<S> {
    Some(match kind {
        CommandKind::Condition => S::Condition,
        CommandKind::StartPre => S::StartPre,
        CommandKind::StartPost => S::StartPost,
        CommandKind::Reload => S::Reload,
        CommandKind::Stop => S::Stop,
        CommandKind::StopPost => S::StopPost,
        CommandKind::Start => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{judge, shall_restart};
    use crate::api::ExitStatus as E;
    use crate::state::UnitResult as R;
    use unit_file::settings::{ExitStatusSet, Restart, ServiceSettings};

    #[test]
    fn clean_and_unclean() {
        let none = ExitStatusSet::default();
        let some = ExitStatusSet {
            codes: vec![7],
            signals: vec![9],
        };
        for (status, daemon, set, want) in [
            (E::Exited(0), true, &none, R::Success),
            (E::Exited(1), true, &none, R::ExitCode),
            (E::Exited(7), true, &some, R::Success),
            (E::Killed(15), true, &none, R::Success),
            (E::Killed(15), false, &none, R::Signal),
            (E::Killed(9), true, &none, R::Signal),
            (E::Killed(9), true, &some, R::Success),
            (E::Dumped(6), true, &none, R::CoreDump),
        ] {
            assert_eq!(judge(status, daemon, set), want, "{status:?}");
        }
    }

    /// The matrix of the contract: rows are Restart=, columns are ends.
    #[test]
    fn restart_matrix() {
        let ends = [R::Success, R::ExitCode, R::Signal, R::Timeout, R::Watchdog];
        for (rule, want) in [
            (Restart::No, [false, false, false, false, false]),
            (Restart::OnSuccess, [true, false, false, false, false]),
            (Restart::OnFailure, [false, true, true, true, true]),
            (Restart::OnAbnormal, [false, false, true, true, true]),
            (Restart::OnAbort, [false, false, true, false, false]),
            (Restart::OnWatchdog, [false, false, false, false, true]),
            (Restart::Always, [true, true, true, true, true]),
        ] {
            let settings = ServiceSettings {
                restart: rule,
                ..ServiceSettings::default()
            };
            for (end, want) in ends.into_iter().zip(want) {
                assert_eq!(
                    shall_restart(&settings, end, None),
                    want,
                    "{rule:?} {end:?}"
                );
            }
        }
    }

    #[test]
    fn prevent_beats_force_beats_rule() {
        let set = |codes: &[u8]| ExitStatusSet {
            codes: codes.to_vec(),
            signals: Vec::new(),
        };
        let mut settings = ServiceSettings {
            restart: Restart::Always,
            ..Default::default()
        };
        settings.restart_prevent_exit_status = set(&[3]);
        settings.restart_force_exit_status = set(&[3, 0]);
        assert!(!shall_restart(&settings, R::ExitCode, Some(E::Exited(3))));
        settings.restart = Restart::No;
        assert!(shall_restart(&settings, R::Success, Some(E::Exited(0))));
    }
}
