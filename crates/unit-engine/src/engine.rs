//! The engine's front door: one event in, the actions that follow out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use init_control::{BootTimes, JobMode, Signal, Stamp, SystemState};
use unit_file::settings::{CgroupSettings, ExecSettings, UnitSettings};
use unit_file::specifier::MachineInfo;
use unit_file::{UnitName, UnitType};

use crate::api::{
    Action, Event, FdToken, Host, LogLevel, Now, Output, SpawnId, SpawnRole, StatusKind, UnitLog,
};
use crate::graph::UnitId;
use crate::job::{Job, JobResult};
use crate::unit::{Kind, TimerKind, Unit};

/// Manager-wide settings (the `[Manager]` section of systemd's system.conf, built in here).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Path of the notify socket, put into NOTIFY_SOCKET.
    pub notify_socket: String,
    /// The manager's environment block, `NAME=value`.
    pub environment: Vec<String>,
    /// Print status lines (`show_status`).
    pub status_lines: bool,
    /// Version text of the manager.
    pub version: String,
    /// Runs in the initramfs.
    pub in_initrd: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            notify_socket: "/run/systemd/notify".to_owned(),
            environment: vec![
                "LANG=C.UTF-8".to_owned(),
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ],
            status_lines: true,
            version: String::new(),
            in_initrd: false,
        }
    }
}

/// What one call of [`Engine::handle`] works with.
pub(crate) struct Cx<'a> {
    pub(crate) now: Now,
    pub(crate) host: &'a dyn Host,
    pub(crate) out: Output,
}

impl Cx<'_> {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            realtime: self.now.realtime,
            monotonic: self.now.monotonic,
        }
    }
}

/// All units, jobs and timers.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) units: Vec<Option<Box<Unit>>>,
    pub(crate) free: Vec<UnitId>,
    pub(crate) names: HashMap<UnitName, UnitId>,
    pub(crate) jobs: BTreeMap<u32, Job>,
    pub(crate) run_queue: BTreeSet<u32>,
    pub(crate) empty_jobs: Vec<(u32, String)>,
    pub(crate) timers: BTreeSet<(u64, UnitId, TimerKind)>,
    pub(crate) pids: HashMap<u32, (UnitId, SpawnRole)>,
    pub(crate) spawns: HashMap<SpawnId, (UnitId, SpawnRole)>,
    pub(crate) cgroups: HashMap<String, UnitId>,
    /// Units of a device by its path in /sys.
    pub(crate) devices: BTreeMap<String, Vec<UnitId>>,
    /// x-systemd.device-timeout= of mounts, by device unit.
    pub(crate) device_timeouts: HashMap<UnitName, u64>,
    pub(crate) load_queue: Vec<UnitId>,
    pub(crate) target_queue: Vec<UnitId>,
    pub(crate) new_units: Vec<UnitId>,
    pub(crate) gc_queue: BTreeSet<UnitId>,
    pub(crate) unneeded_queue: BTreeSet<UnitId>,
    pub(crate) bound_queue: BTreeSet<UnitId>,
    pub(crate) uphold_queue: BTreeSet<UnitId>,
    pub(crate) changed: BTreeSet<UnitId>,
    /// Services of Type=idle that wait for the queue to empty.
    pub(crate) idle_queue: Vec<UnitId>,
    /// Texts of transient units whose files are being written in this turn.
    pub(crate) transient_texts: HashMap<UnitName, String>,
    /// Which mount units have files (valid for one turn).
    pub(crate) mount_files: HashMap<UnitName, bool>,
    pub(crate) machine: Option<Arc<MachineInfo>>,
    pub(crate) unit_cache: Vec<Arc<UnitSettings>>,
    pub(crate) exec_cache: Vec<Arc<ExecSettings>>,
    pub(crate) cgroup_cache: Vec<Arc<CgroupSettings>>,
    pub(crate) environment: Vec<String>,
    pub(crate) next_job: u32,
    pub(crate) next_spawn: u64,
    pub(crate) installed_jobs: u32,
    pub(crate) failed_jobs: u32,
    pub(crate) boot: BootTimes,
    pub(crate) boot_finished: bool,
    pub(crate) finish_check: bool,
    pub(crate) reloading: bool,
    pub(crate) power_argument: Option<String>,
    pub(crate) last_system_state: Option<SystemState>,
    pub(crate) log_level: String,
}

impl Engine {
    /// An engine without units; send [`Event::Boot`] first.
    pub fn new(config: Config) -> Engine {
        let environment = config.environment.clone();
        Engine {
            config,
            units: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            jobs: BTreeMap::new(),
            run_queue: BTreeSet::new(),
            empty_jobs: Vec::new(),
            timers: BTreeSet::new(),
            pids: HashMap::new(),
            spawns: HashMap::new(),
            cgroups: HashMap::new(),
            devices: BTreeMap::new(),
            device_timeouts: HashMap::new(),
            load_queue: Vec::new(),
            target_queue: Vec::new(),
            new_units: Vec::new(),
            gc_queue: BTreeSet::new(),
            unneeded_queue: BTreeSet::new(),
            bound_queue: BTreeSet::new(),
            uphold_queue: BTreeSet::new(),
            changed: BTreeSet::new(),
            idle_queue: Vec::new(),
            transient_texts: HashMap::new(),
            mount_files: HashMap::new(),
            machine: None,
            unit_cache: Vec::new(),
            exec_cache: Vec::new(),
            cgroup_cache: Vec::new(),
            environment,
            next_job: 1,
            next_spawn: 1,
            installed_jobs: 0,
            failed_jobs: 0,
            boot: BootTimes::default(),
            boot_finished: false,
            finish_check: false,
            reloading: false,
            power_argument: None,
            last_system_state: None,
            log_level: "info".to_owned(),
        }
    }

    /// Handles one event.
    pub fn handle(&mut self, now: Now, event: Event, host: &dyn Host) -> Output {
        let mut cx = Cx {
            now,
            host,
            out: Vec::new(),
        };
        self.mount_files.clear();
        self.dispatch(&mut cx, event);
        self.settle_down(&mut cx);
        cx.out
    }

    /// When [`Event::TimerElapsed`] is due next, on the monotonic clock in microseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|(at, _, _)| *at)
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, event: Event) {
        match event {
            Event::Boot {
                targets,
                wants,
                times,
            } => self.boot(cx, &targets, &wants, *times),
            Event::Spawned { id, pid } => self.spawned(cx, id, pid),
            Event::SpawnFailed { id, message } => self.spawn_failed(cx, id, &message),
            Event::ExecDone { id } => self.exec_done(cx, id),
            Event::ExecFailed { id, failure } => self.exec_failed(cx, id, &failure),
            Event::ChildExited { pid, status } => self.child_exited(cx, pid, status),
            Event::Notify {
                pid,
                uid,
                cgroup,
                text,
                fds,
            } => {
                self.notify_message(cx, pid, uid, cgroup.as_deref(), &text, fds);
            }
            Event::CgroupEmpty { cgroup } => {
                if let Some(id) = self.cgroups.get(&cgroup).copied() {
                    self.cgroup_empty(cx, id);
                }
            }
            Event::OomKill { cgroup } => {
                if let Some(id) = self.unit_of_cgroup(&cgroup) {
                    self.oom_kill(cx, id);
                }
            }
            Event::SocketsOpened { unit, result } => {
                if let Some(id) = self.names.get(&unit).copied() {
                    self.sockets_opened(cx, id, result);
                }
            }
            Event::SocketReady { unit } => {
                if let Some(id) = self.names.get(&unit).copied() {
                    self.socket_ready(cx, id);
                }
            }
            Event::Accepted { unit, token, peer } => match self.names.get(&unit).copied() {
                Some(id) => self.socket_accepted(cx, id, token, &peer),
                None => cx.out.push(Action::CloseFds(vec![token])),
            },
            Event::StoredFdGone { token } => self.stored_fd_gone(token),
            Event::MountTable(entries) => self.mount_table(cx, &entries),
            Event::DeviceAppeared(info) => self.device_appeared(cx, &info),
            Event::DeviceGone { sysfs_path } => self.device_gone(cx, &sysfs_path),
            Event::PathTriggered { unit, index } => {
                if let Some(id) = self.names.get(&unit).copied() {
                    self.path_triggered(cx, id, index);
                }
            }
            Event::TimerElapsed => self.timers_elapsed(cx),
            Event::ClockChanged => self.clock_changed(cx),
            Event::Request { id, request } => self.request(cx, id, request),
            Event::StartByManager { unit, mode } => {
                self.start_by_name(cx, &unit, mode);
            }
            Event::Reload => self.reload(cx),
        }
    }

    /// Does what follows until nothing more does, then tells about it.
    pub(crate) fn settle_down(&mut self, cx: &mut Cx<'_>) {
        // A unit that another one upholds and that fails at once could go on for ever in one turn: what is
        // left over after this many rounds is done after the next event.
        for _ in 0..64 {
            self.drain_load_queue(cx);
            self.run_jobs(cx);
            let started = self.start_idle_services(cx);
            let followed = self.run_follow_ups(cx);
            let quiet = self.run_queue.is_empty() && !started && !followed;
            if quiet && !self.break_deadlock(cx) {
                break;
            }
        }
        for (id, unit) in std::mem::take(&mut self.empty_jobs) {
            let result = JobResult::Done.word().to_owned();
            cx.out
                .push(Action::Broadcast(Signal::JobRemoved { id, unit, result }));
        }
        self.collect_garbage(cx);
        self.check_boot_finished(cx);
        self.announce(cx);
        self.transient_texts.clear();
    }

    fn announce(&mut self, cx: &mut Cx<'_>) {
        for id in std::mem::take(&mut self.new_units) {
            if let Some(unit) = self.get_mut(id)
                && !std::mem::replace(&mut unit.announced, true)
            {
                cx.out.push(Action::Broadcast(Signal::UnitNew {
                    unit: unit.name.to_string(),
                }));
            }
        }
        for id in std::mem::take(&mut self.changed) {
            if let Some(unit) = self.get(id) {
                cx.out.push(Action::Broadcast(Signal::UnitChanged {
                    unit: unit.name.to_string(),
                    active: unit.active(),
                    sub: unit.run.kind.sub().to_owned(),
                }));
            }
        }
    }

    fn boot(&mut self, cx: &mut Cx<'_>, targets: &[String], wants: &[String], times: BootTimes) {
        self.boot = times;
        self.boot.units_load_start = cx.stamp();
        self.make_perpetual(cx);
        let mut started = false;
        for target in targets {
            let Ok(name) = UnitName::parse(target) else {
                continue;
            };
            let id = self.load_unit(cx, &name);
            self.boot.units_load_finish = cx.stamp();
            match self.add_job(cx, id, crate::job::JobType::Start, JobMode::Replace) {
                Ok(_) => {
                    started = true;
                    break;
                }
                Err(error) => {
                    let text = format!("cannot boot into {target}: {}", error.message);
                    if self.config.status_lines {
                        cx.out.push(Action::Status {
                            kind: StatusKind::Failed,
                            text: text.clone(),
                        });
                    }
                    self.log(cx, LogLevel::Error, None, text);
                }
            }
        }
        if !started {
            let text = "no target could be started: the machine stays without services".to_owned();
            self.log(cx, LogLevel::Error, None, text);
        }
        for name in wants {
            self.start_by_name(cx, name, JobMode::Fail);
        }
        self.finish_check = true;
    }

    /// Units that always are: the root of the control groups, PID 1's own place, the root file system.
    pub(crate) fn make_perpetual(&mut self, cx: &mut Cx<'_>) {
        for name in ["-.slice", "system.slice", "init.scope", "-.mount"] {
            let Ok(name) = UnitName::parse(name) else {
                continue;
            };
            let id = self.unit_or_stub(&name);
            self.unit_mut(id).perpetual = true;
            let unit = self.unit_mut(id);
            unit.run.cgroup_realised = name.unit_type() != UnitType::Mount;
            match &mut unit.run.kind {
                Kind::Slice(active) => *active = true,
                Kind::Scope(s) => s.state = crate::state::ScopeState::Running,
                Kind::Mount(m) => {
                    m.state = crate::state::MountState::Mounted;
                    m.kernel.get_or_insert_with(Default::default);
                }
                _ => {}
            }
            let stamp = cx.stamp();
            unit.run.active_enter = stamp;
            unit.run.inactive_exit = stamp;
            unit.run.state_change = stamp;
        }
        self.drain_load_queue(cx);
    }

    fn check_boot_finished(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::take(&mut self.finish_check) {
            return;
        }
        if self.jobs.is_empty()
            && !self.boot_finished
            && self.boot.units_load_start != Stamp::default()
        {
            self.boot_finished = true;
            self.boot.finish = cx.stamp();
            let userspace = self.boot.userspace.monotonic;
            let initrd = self.boot.initrd.monotonic;
            let finish = self.boot.finish.monotonic;
            let kernel = if initrd > 0 { initrd } else { userspace };
            cx.out.push(Action::StartupFinished);
            cx.out.push(Action::Broadcast(Signal::StartupFinished {
                firmware: self
                    .boot
                    .firmware
                    .monotonic
                    .saturating_sub(self.boot.loader.monotonic),
                loader: self.boot.loader.monotonic,
                kernel,
                initrd: if initrd > 0 {
                    userspace.saturating_sub(initrd)
                } else {
                    0
                },
                userspace: finish.saturating_sub(userspace),
                total: finish + self.boot.firmware.monotonic,
            }));
            let text = format!(
                "Startup finished in {:.3}s (userspace {:.3}s).",
                finish as f64 / 1e6,
                finish.saturating_sub(userspace) as f64 / 1e6
            );
            self.log(cx, LogLevel::Info, None, text);
        }
        let state = self.system_state();
        if self.last_system_state.replace(state) != Some(state) {
            cx.out
                .push(Action::Broadcast(Signal::SystemStateChanged { state }));
        }
    }

    /// `systemctl is-system-running`.
    pub fn system_state(&self) -> SystemState {
        let active = |name: &str| {
            self.names
                .get(name)
                .and_then(|id| self.get(*id))
                .is_some_and(|u| {
                    crate::state::is_active_or_reloading(u.active())
                        || u.job.and_then(|j| self.jobs.get(&j)).is_some_and(|j| {
                            j.job_type == crate::job::JobType::Start && name == "shutdown.target"
                        })
                })
        };
        if active("shutdown.target") {
            SystemState::Stopping
        } else if !self.boot_finished && !active("basic.target") {
            SystemState::Initializing
        } else if !self.boot_finished {
            SystemState::Starting
        } else if active("rescue.target") || active("emergency.target") {
            SystemState::Maintenance
        } else if self.failed_count() > 0 {
            SystemState::Degraded
        } else {
            SystemState::Running
        }
    }

    pub(crate) fn failed_count(&self) -> u32 {
        let failed = init_control::ActiveState::Failed;
        self.units
            .iter()
            .flatten()
            .filter(|u| u.active() == failed)
            .count() as u32
    }

    /// Re-reads all files (SIGHUP, daemon-reload).
    pub(crate) fn reload(&mut self, cx: &mut Cx<'_>) {
        cx.out.push(Action::ReloadBegun);
        cx.out
            .push(Action::Broadcast(Signal::Reloading { active: true }));
        self.reloading = true;
        self.reload_all(cx);
        self.reloading = false;
        self.rearm_after_reload(cx);
        cx.out
            .push(Action::Broadcast(Signal::Reloading { active: false }));
    }

    fn timers_elapsed(&mut self, cx: &mut Cx<'_>) {
        while let Some((at, unit, kind)) = self.timers.first().copied() {
            if at > cx.now.monotonic {
                break;
            }
            self.disarm(unit, kind);
            match kind {
                TimerKind::State => self.state_timed_out(cx, unit),
                TimerKind::Watchdog => self.watchdog_timed_out(cx, unit),
                TimerKind::Poll => self.poll(cx, unit),
                TimerKind::Elapse => self.timer_elapsed(cx, unit),
                TimerKind::Job | TimerKind::JobRunning => self.job_timed_out(cx, unit),
            }
        }
    }

    /// Arms a deadline `span` from now; infinity disarms.
    pub(crate) fn arm(&mut self, cx: &Cx<'_>, unit: UnitId, kind: TimerKind, span: u64) {
        if span == u64::MAX {
            self.disarm(unit, kind);
        } else {
            self.arm_at(unit, kind, cx.now.monotonic.saturating_add(span));
        }
    }

    /// Arms a deadline on the monotonic clock.
    pub(crate) fn arm_at(&mut self, unit: UnitId, kind: TimerKind, at: u64) {
        self.disarm(unit, kind);
        let at = at.max(1);
        if let Some(u) = self.get_mut(unit) {
            u.run.deadlines[kind as usize] = at;
            self.timers.insert((at, unit, kind));
        }
    }

    pub(crate) fn disarm(&mut self, unit: UnitId, kind: TimerKind) {
        if let Some(u) = self.get_mut(unit) {
            let at = std::mem::take(&mut u.run.deadlines[kind as usize]);
            if at != 0 {
                self.timers.remove(&(at, unit, kind));
            }
        }
    }

    /// The loaded unit with this id. Ids are only kept while their unit is loaded.
    pub(crate) fn unit(&self, id: UnitId) -> &Unit {
        self.get(id)
            .expect("a unit id is dropped together with its unit")
    }

    pub(crate) fn unit_mut(&mut self, id: UnitId) -> &mut Unit {
        self.get_mut(id)
            .expect("a unit id is dropped together with its unit")
    }

    pub(crate) fn get(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(id.0 as usize).and_then(|u| u.as_deref())
    }

    pub(crate) fn get_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.units
            .get_mut(id.0 as usize)
            .and_then(|u| u.as_deref_mut())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = UnitId> + '_ {
        self.units
            .iter()
            .enumerate()
            .filter(|(_, u)| u.is_some())
            .map(|(i, _)| UnitId(i as u32))
    }

    pub(crate) fn new_job_id(&mut self) -> u32 {
        let id = self.next_job;
        self.next_job = self.next_job.checked_add(1).unwrap_or(1);
        self.installed_jobs += 1;
        id
    }

    pub(crate) fn machine(&mut self, cx: &Cx<'_>) -> Arc<MachineInfo> {
        self.machine
            .get_or_insert_with(|| Arc::new(cx.host.machine()))
            .clone()
    }

    pub(crate) fn log(
        &self,
        cx: &mut Cx<'_>,
        level: LogLevel,
        unit: Option<UnitName>,
        text: String,
    ) {
        let log = UnitLog {
            level,
            unit,
            message_id: None,
            invocation_id: None,
            text,
            fields: Vec::new(),
        };
        self.log_with(cx, log, false);
    }

    pub(crate) fn log_with(&self, cx: &mut Cx<'_>, mut log: UnitLog, status: bool) {
        if let Some(unit) = &log.unit
            && log.invocation_id.is_none()
        {
            log.invocation_id = self
                .names
                .get(unit)
                .and_then(|i| self.get(*i))
                .and_then(|u| u.run.invocation_id);
        }
        if status && self.config.status_lines {
            cx.out.push(Action::Status {
                kind: StatusKind::Plain,
                text: log.text.clone(),
            });
        }
        cx.out.push(Action::Log(Box::new(log)));
    }

    fn stored_fd_gone(&mut self, token: FdToken) {
        for unit in self.units.iter_mut().flatten() {
            if let Kind::Service(s) = &mut unit.run.kind {
                s.fd_store.retain(|(_, t)| *t != token);
            }
        }
    }
}
