//! Mounts: units from files, from the kernel's table, or both.
//!
//! ```text
//! dead ─▶ mounting ─▶ mounting-done ─▶ mounted ◀─▶ remounting
//!   ▲                                     │ stop
//!   └──────────── unmounting ◀────────────┘          the table decides what is mounted
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use unit_file::settings::{MountSettings, Privilege};
use unit_file::{UnitName, UnitType};

use crate::api::{Action, ExitStatus, LogLevel, MountEntry, MountOperation, Program, SpawnRole};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::implicit::is_api_mount;
use crate::job::{Begun, JobResult};
use crate::process::SpawnExtra;
use crate::state::{MountState as S, UnitResult};
use crate::unit::{Kind, Mount, Process, TimerKind};

/// An unmount is tried again so often when stacked mounts or late users keep it.
const RETRIES: u32 = 32;

impl Engine {
    fn mount(&self, id: UnitId) -> &Mount {
        match &self.unit(id).run.kind {
            Kind::Mount(m) => m,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    fn mount_mut(&mut self, id: UnitId) -> &mut Mount {
        match &mut self.unit_mut(id).run.kind {
            Kind::Mount(m) => m,
            _ => unreachable!("callers dispatch on the kind"),
        }
    }

    /// Does the kernel show it?
    pub(crate) fn is_mounted(&self, id: UnitId) -> bool {
        matches!(&self.unit(id).run.kind, Kind::Mount(m) if m.kernel.is_some())
    }

    fn mount_settings(&self, id: UnitId) -> Arc<MountSettings> {
        self.mount(id).settings.clone()
    }

    fn mount_place(&self, id: UnitId) -> String {
        let settings = &self.mount(id).settings;
        match settings.where_.as_str() {
            "" => self.unit(id).name.to_path().unwrap_or_default(),
            place => place.to_owned(),
        }
    }

    fn mount_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S) {
        let old = self.unit(id).active();
        let before = std::mem::replace(&mut self.mount_mut(id).state, state);
        if matches!(state, S::Dead | S::Failed | S::Mounted) {
            self.disarm_state(id);
            self.disarm(id, TimerKind::Poll);
        }
        if before != state {
            let reload_ok = self.mount(id).reload_result == UnitResult::Success;
            self.state_changed(cx, id, old, reload_ok);
        }
    }

    fn mount_run(&mut self, cx: &mut Cx<'_>, id: UnitId, operation: MountOperation, state: S) {
        let exec = self.unit(id).exec.clone();
        let span = self.mount(id).settings.timeout_usec;
        let environment = self.environment.clone();
        let process = self.spawn(
            cx,
            id,
            SpawnRole::Control,
            Program::Mount(operation),
            environment,
            Privilege::Full,
            exec,
            SpawnExtra::default(),
        );
        self.mount_mut(id).control = process;
        self.arm(cx, id, TimerKind::State, span);
        self.mount_set(cx, id, state);
    }

    pub(super) fn mount_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.mount(id).state {
            S::Dead | S::Failed => {}
            S::Mounting | S::MountingDone => return Begun::Running,
            _ => return Begun::Again,
        }
        let settings = self.mount_settings(id);
        if settings.what.is_empty() {
            return Begun::Ends(JobResult::Invalid);
        }
        if !self.allow_start(cx, id) {
            self.mount_mut(id).result = UnitResult::StartLimitHit;
            self.mount_set(cx, id, S::Failed);
            return Begun::Ends(JobResult::Failed);
        }
        self.new_invocation(cx, id);
        let m = self.mount_mut(id);
        m.result = UnitResult::Success;
        m.reload_result = UnitResult::Success;
        m.retries = 0;
        let operation = MountOperation::Mount {
            what: settings.what.clone(),
            where_: self.mount_place(id),
            fs_type: settings.fs_type.clone(),
            options: settings.options.clone().unwrap_or_default(),
            directory_mode: settings.directory_mode,
            read_write_only: settings.read_write_only,
        };
        self.mount_run(cx, id, operation, S::Mounting);
        Begun::Running
    }

    pub(super) fn mount_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.mount(id).state {
            S::Dead | S::Failed => Begun::Already,
            S::Mounting | S::MountingDone | S::Remounting => {
                // The helper is ended, then what it may have done is undone.
                self.mount_kill(cx, id, 15);
                let span = self.mount(id).settings.timeout_usec;
                self.arm(cx, id, TimerKind::State, span);
                let alive = self.mount(id).control.alive();
                if alive {
                    self.mount_set(cx, id, S::UnmountingSigterm);
                } else {
                    self.mount_unmount(cx, id);
                }
                Begun::Running
            }
            S::Mounted => {
                if is_api_mount(&self.mount_place(id)) {
                    return Begun::Ends(JobResult::Failed);
                }
                self.mount_mut(id).retries = 0;
                self.mount_unmount(cx, id);
                Begun::Running
            }
            _ => Begun::Running,
        }
    }

    fn mount_unmount(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if self.mount(id).kernel.is_none() {
            self.mount_dead(cx, id, UnitResult::Success);
            return;
        }
        let settings = self.mount_settings(id);
        let operation = MountOperation::Unmount {
            where_: self.mount_place(id),
            lazy: settings.lazy_unmount,
            force: settings.force_unmount,
        };
        self.mount_run(cx, id, operation, S::Unmounting);
    }

    pub(super) fn mount_remount(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        if self.mount(id).state != S::Mounted {
            return Begun::Again;
        }
        self.mount_mut(id).reload_result = UnitResult::Success;
        let options = self.mount_settings(id).options.clone().unwrap_or_default();
        let operation = MountOperation::Remount {
            where_: self.mount_place(id),
            options,
        };
        self.mount_run(cx, id, operation, S::Remounting);
        Begun::Running
    }

    fn mount_kill(&mut self, cx: &mut Cx<'_>, id: UnitId, signal: i32) {
        if let Some(pid) = self.mount(id).control.pid {
            cx.out.push(Action::Signal {
                pid,
                signal,
                then_continue: signal == 15,
            });
        }
    }

    fn mount_dead(&mut self, cx: &mut Cx<'_>, id: UnitId, result: UnitResult) {
        let m = self.mount_mut(id);
        if m.result == UnitResult::Success {
            m.result = result;
        }
        m.control = Process::default();
        let (fine, result) = (m.result == UnitResult::Success, m.result);
        if !fine {
            let name = self.unit(id).name.clone();
            let text = format!("{name}: Failed with result '{}'.", result.word());
            self.log(cx, LogLevel::Warning, Some(name), text);
        }
        self.mount_set(cx, id, if fine { S::Dead } else { S::Failed });
    }

    /// The helper ended; `None`: it could not be started.
    pub(crate) fn mount_control_exited(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        status: Option<ExitStatus>,
    ) {
        let result = match status {
            None => UnitResult::Resources,
            Some(ExitStatus::Exited(0) | ExitStatus::Unknown) => UnitResult::Success,
            Some(ExitStatus::Exited(_)) => UnitResult::ExitCode,
            Some(ExitStatus::Killed(_)) => UnitResult::Signal,
            Some(ExitStatus::Dumped(_)) => UnitResult::CoreDump,
        };
        let mounted = self.is_mounted(id);
        let m = self.mount_mut(id);
        m.control = Process::default();
        match m.state {
            S::Mounting if mounted => self.mount_set(cx, id, S::Mounted),
            S::Mounting if result == UnitResult::Success => {
                // The table follows; the time-out of the state stands for the case that it does not.
                self.mount_set(cx, id, S::MountingDone);
            }
            S::Mounting => self.mount_dead(cx, id, result),
            S::Remounting | S::RemountingSigterm | S::RemountingSigkill => {
                m.reload_result = result;
                self.mount_set(cx, id, S::Mounted);
            }
            S::Unmounting if !mounted => self.mount_dead(cx, id, UnitResult::Success),
            S::Unmounting if result == UnitResult::Success => {
                // Gone, and the table will say so; or one of a stack, then there is more to do.
                self.arm(cx, id, TimerKind::Poll, 100_000);
            }
            S::Unmounting => {
                let name = self.unit(id).name.clone();
                let text = format!("{name}: Unmounting failed, it stays mounted.");
                self.log(cx, LogLevel::Warning, Some(name), text);
                self.mount_set(cx, id, S::Mounted);
            }
            S::UnmountingSigterm | S::UnmountingSigkill => self.mount_unmount(cx, id),
            _ => {}
        }
    }

    /// After an unmount that worked: still in the table?
    pub(crate) fn mount_poll(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        if self.mount(id).state != S::Unmounting || self.mount(id).control.alive() {
            return;
        }
        let m = self.mount_mut(id);
        m.retries += 1;
        if m.kernel.is_some() && m.retries < RETRIES {
            self.mount_unmount(cx, id);
        } else if m.kernel.is_some() {
            self.mount_set(cx, id, S::Mounted);
        } else {
            self.mount_dead(cx, id, UnitResult::Success);
        }
    }

    pub(crate) fn mount_timed_out(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let name = self.unit(id).name.clone();
        let state = self.mount(id).state;
        let text = format!("{name}: State '{}' timed out.", state.word());
        self.log(cx, LogLevel::Warning, Some(name), text);
        let span = self.mount(id).settings.timeout_usec.min(90_000_000);
        let kill = |engine: &mut Engine, cx: &mut Cx<'_>, signal, next| {
            engine.mount_kill(cx, id, signal);
            engine.arm(cx, id, TimerKind::State, span);
            engine.mount_set(cx, id, next);
        };
        match state {
            S::Mounting => {
                self.mount_mut(id).result = UnitResult::Timeout;
                kill(self, cx, 15, S::UnmountingSigterm);
            }
            S::MountingDone => self.mount_dead(cx, id, UnitResult::Protocol),
            S::Remounting => {
                self.mount_mut(id).reload_result = UnitResult::Timeout;
                kill(self, cx, 15, S::RemountingSigterm);
            }
            S::RemountingSigterm => kill(self, cx, 9, S::RemountingSigkill),
            S::RemountingSigkill => self.mount_set(cx, id, S::Mounted),
            S::Unmounting => kill(self, cx, 15, S::UnmountingSigterm),
            S::UnmountingSigterm => kill(self, cx, 9, S::UnmountingSigkill),
            S::UnmountingSigkill if self.is_mounted(id) => {
                self.mount_mut(id).control = Process::default();
                self.mount_set(cx, id, S::Mounted);
            }
            S::UnmountingSigkill => self.mount_dead(cx, id, UnitResult::Timeout),
            _ => {}
        }
    }

    /// The whole table after a change.
    pub(crate) fn mount_table(&mut self, cx: &mut Cx<'_>, entries: &[MountEntry]) {
        let mut now: BTreeMap<&str, &MountEntry> = BTreeMap::new();
        for entry in entries {
            // The last one on a place is on top.
            now.insert(&entry.where_, entry);
        }
        let mut fresh = Vec::new();
        for (place, entry) in &now {
            let Ok(name) = UnitName::from_path(place, UnitType::Mount) else {
                continue;
            };
            let known = self.names.contains_key(&name);
            let id = self.unit_or_stub(&name);
            let m = match &mut self.unit_mut(id).run.kind {
                Kind::Mount(m) => m,
                _ => continue,
            };
            let new = (
                entry.what.clone(),
                entry.fs_type.clone(),
                entry.options.clone(),
            );
            if m.kernel.as_ref() != Some(&new) {
                m.kernel = Some(new);
                self.changed.insert(id);
                fresh.push((id, known));
            }
        }
        self.drain_load_queue(cx);
        for (id, known) in fresh {
            if self.get(id).is_none() {
                continue;
            }
            if !known || self.unit(id).load == init_control::LoadState::NotFound {
                let name = self.unit(id).name.clone();
                self.load_unit(cx, &name);
            }
            self.mount_is_there(cx, id);
        }
        let gone: Vec<UnitId> = self
            .ids()
            .filter(|id| {
                self.is_mounted(*id)
                    && !self.unit(*id).perpetual
                    && !now.contains_key(self.mount_place(*id).as_str())
            })
            .collect();
        for id in gone {
            self.mount_is_gone(cx, id);
        }
    }

    fn mount_is_there(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        match self.mount(id).state {
            S::Dead | S::Failed => {
                self.mount_mut(id).result = UnitResult::Success;
                self.mount_set(cx, id, S::Mounted);
            }
            S::MountingDone => self.mount_set(cx, id, S::Mounted),
            // The helper is still running: its end decides.
            _ => {}
        }
    }

    fn mount_is_gone(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        self.mount_mut(id).kernel = None;
        self.changed.insert(id);
        match self.mount(id).state {
            S::Mounted => self.mount_dead(cx, id, UnitResult::Success),
            S::Unmounting if !self.mount(id).control.alive() => {
                self.mount_dead(cx, id, UnitResult::Success);
            }
            _ => {}
        }
    }
}
