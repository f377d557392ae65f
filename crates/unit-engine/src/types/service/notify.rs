//! sd_notify messages and the watchdog.

use unit_file::settings::{NotifyAccess, ServiceType};

use crate::api::{Action, FdToken, LogLevel, SpawnRole};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::state::{ServiceState as S, UnitResult};
use crate::unit::{CommandKind, Kind, NotifyPhase, TimerKind};

impl Engine {
    /// A datagram on the notify socket.
    pub(crate) fn notify_message(
        &mut self,
        cx: &mut Cx<'_>,
        pid: u32,
        uid: u32,
        cgroup: Option<&str>,
        text: &str,
        fds: Vec<FdToken>,
    ) {
        let known = self.pids.get(&pid).map(|(id, _)| *id);
        let unit = known
            .or_else(|| cgroup.and_then(|c| self.unit_of_cgroup(c)))
            .or_else(|| self.unit_of_pid(cx, pid))
            .filter(|id| matches!(self.unit(*id).run.kind, Kind::Service(_)));
        let Some(id) = unit else {
            if !fds.is_empty() {
                cx.out.push(Action::CloseFds(fds));
            }
            return;
        };
        if !self.notify_allowed(id, pid, uid) {
            let name = self.unit(id).name.clone();
            let text = format!(
                "{name}: Got notification message from PID {pid}, but reception is not permitted for it"
            );
            self.log(cx, LogLevel::Debug, Some(name), text);
            if !fds.is_empty() {
                cx.out.push(Action::CloseFds(fds));
            }
            return;
        }
        self.notify_lines(cx, id, uid, text);
        self.notify_fds(cx, id, text, fds);
        self.changed.insert(id);
    }

    fn notify_allowed(&self, id: UnitId, pid: u32, _uid: u32) -> bool {
        let role = self.service_role(id, pid);
        match self.service(id).settings.notify_access {
            NotifyAccess::None => false,
            NotifyAccess::Main => role == Some(SpawnRole::Main),
            NotifyAccess::Exec => role.is_some(),
            NotifyAccess::All => true,
        }
    }

    fn notify_lines(&mut self, cx: &mut Cx<'_>, id: UnitId, uid: u32, text: &str) {
        let has = |line: &str| text.lines().any(|l| l == line);
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key));
        // The main process may hand over to another one of the same unit.
        if let Some(pid) = value("MAINPID=").and_then(|v| v.parse::<u32>().ok())
            && pid > 1
            && cx.host.process_exists(pid)
            && matches!(
                self.service(id).state,
                S::Start | S::StartPost | S::Running | S::Reload | S::Stop | S::StopSigterm
            )
        {
            let inside = cx
                .host
                .cgroup_of_process(pid)
                .and_then(|c| self.unit_of_cgroup(&c))
                == Some(id);
            if inside || uid == 0 {
                self.service_set_main(cx, id, pid);
            }
        }
        if let Some(status) = value("STATUS=") {
            self.service_mut(id).status_text = status.to_owned();
        }
        if let Some(errno) = value("ERRNO=").and_then(|v| v.parse().ok()) {
            self.service_mut(id).status_errno = errno;
        }
        if let Some(span) = value("EXTEND_TIMEOUT_USEC=").and_then(|v| v.parse::<u64>().ok()) {
            let wanted = cx.now.monotonic.saturating_add(span);
            let armed = self.unit(id).run.deadlines[TimerKind::State as usize];
            if armed != 0 && wanted > armed {
                self.arm_at(id, TimerKind::State, wanted);
            }
        }
        if let Some(span) = value("WATCHDOG_USEC=").and_then(|v| v.parse::<u64>().ok()) {
            self.service_mut(id).watchdog_override = Some(span);
            self.watchdog_touch(cx, id);
        }
        if has("WATCHDOG=1") {
            self.watchdog_touch(cx, id);
        }
        if has("WATCHDOG=trigger") {
            self.watchdog_timed_out(cx, id);
        }
        if has("RELOADING=1") {
            self.service_mut(id).phase = NotifyPhase::Reloading;
            if self.service(id).state == S::Running {
                self.service_reload_by_notify(cx, id);
            }
        }
        if has("READY=1") {
            self.notify_ready(cx, id);
        }
        if has("STOPPING=1") {
            self.service_mut(id).phase = NotifyPhase::Stopping;
            if self.service(id).state == S::Running {
                self.service_stop_by_notify(cx, id);
            }
        }
    }

    fn notify_ready(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let settings = self.service_settings(id);
        let s = self.service_mut(id);
        s.phase = NotifyPhase::Ready;
        let notifies = matches!(
            settings.service_type,
            ServiceType::Notify | ServiceType::NotifyReload
        );
        match s.state {
            S::Start if notifies && !s.control.alive() => {
                self.service_enter_list(cx, id, CommandKind::StartPost);
            }
            S::Reload if s.reload_by_notify && !s.control.alive() => {
                s.reload_by_notify = false;
                self.service_enter_running(cx, id, UnitResult::Success);
            }
            S::Reload => s.reload_by_notify = false,
            _ => {}
        }
    }

    pub(super) fn service_reload_by_notify(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let span = self.service_settings(id).timeout_start_usec;
        self.service_mut(id).reload_by_notify = true;
        self.service_mut(id).reload_result = UnitResult::Success;
        self.service_set(cx, id, S::Reload);
        self.service_arm(cx, id, span);
    }

    pub(super) fn service_stop_by_notify(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let span = self.service_settings(id).timeout_stop_usec;
        self.service_set(cx, id, S::StopSigterm);
        self.service_arm(cx, id, span);
    }

    fn notify_fds(&mut self, cx: &mut Cx<'_>, id: UnitId, text: &str, fds: Vec<FdToken>) {
        let has = |line: &str| text.lines().any(|l| l == line);
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key));
        let name = value("FDNAME=").filter(|n| valid_fd_name(n));
        if has("FDSTOREREMOVE=1")
            && let Some(name) = name
        {
            let s = self.service_mut(id);
            let (gone, kept) = std::mem::take(&mut s.fd_store)
                .into_iter()
                .partition(|(n, _)| n == name);
            s.fd_store = kept;
            let gone: Vec<(String, FdToken)> = gone;
            if !gone.is_empty() {
                cx.out
                    .push(Action::CloseFds(gone.into_iter().map(|(_, t)| t).collect()));
            }
        }
        if fds.is_empty() {
            return;
        }
        if !has("FDSTORE=1") {
            // BARRIER=1 and anything else: closing says that all before was handled.
            cx.out.push(Action::CloseFds(fds));
            return;
        }
        let most = self.service_settings(id).file_descriptor_store_max as usize;
        let poll = !has("FDPOLL=0");
        let mut refused = Vec::new();
        for token in fds {
            let s = self.service_mut(id);
            if s.fd_store.len() >= most {
                refused.push(token);
                continue;
            }
            s.fd_store
                .push((name.unwrap_or("stored").to_owned(), token));
            cx.out.push(Action::StoreFd { token, poll });
        }
        if !refused.is_empty() {
            let unit = self.unit(id).name.clone();
            let text = format!(
                "{unit}: {} descriptors refused, the store holds at most {most}",
                refused.len()
            );
            self.log(cx, LogLevel::Warning, Some(unit), text);
            cx.out.push(Action::CloseFds(refused));
        }
    }

    /// A keep-alive: the next one is due within the interval.
    pub(super) fn watchdog_touch(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let stamp = cx.stamp();
        let s = self.service_mut(id);
        let span = s.watchdog_override.unwrap_or(s.settings.watchdog_usec);
        s.watchdog_time = stamp;
        let watched = matches!(s.state, S::Start | S::StartPost | S::Running | S::Reload);
        if span == 0 || span == u64::MAX || !watched {
            self.disarm(id, TimerKind::Watchdog);
        } else {
            self.arm(cx, id, TimerKind::Watchdog, span);
        }
    }
}

fn valid_fd_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}
