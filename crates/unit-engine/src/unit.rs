//! One loaded unit: what its files say, and what it is doing.

use std::sync::{Arc, LazyLock};

use init_control::{ActiveState, ErrorKind, LoadState, Stamp};
use serde::{Deserialize, Serialize};
use unit_file::load::RawSetting;
use unit_file::settings::{
    CgroupSettings, ExecSettings, MountSettings, PathSettings, ScopeSettings, ServiceSettings,
    SocketSettings, TimerSettings, UnitSettings,
};
use unit_file::{UnitName, UnitType};

use crate::api::{FdToken, FileRef, SpawnId};
use crate::graph::Edges;
use crate::state::{
    DeviceState, MountState, PathState, RateLimit, ScopeState, ServiceState, SocketState,
    TimerState, UnitResult,
};

/// A process that was asked for: known by its spawn until the pid comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) spawn: Option<SpawnId>,
    pub(crate) pid: Option<u32>,
}

impl Process {
    pub(crate) fn alive(&self) -> bool {
        self.spawn.is_some() || self.pid.is_some()
    }

    pub(crate) fn pid_or_zero(&self) -> u32 {
        self.pid.unwrap_or(0)
    }
}

/// When a process ran and how it ended (`ExecMain…`, `ExecStart…` properties).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecRecord {
    pub(crate) pid: u32,
    pub(crate) started: StampState,
    pub(crate) exited: StampState,
    /// CLD_* code.
    pub(crate) code: i32,
    pub(crate) status: i32,
}

/// A moment, storable.
pub(crate) type StampState = Stamp;

/// Which list of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum CommandKind {
    Condition,
    StartPre,
    Start,
    StartPost,
    Reload,
    Stop,
    StopPost,
}

impl CommandKind {
    pub(crate) const ALL: [CommandKind; 7] = [
        CommandKind::Condition,
        CommandKind::StartPre,
        CommandKind::Start,
        CommandKind::StartPost,
        CommandKind::Reload,
        CommandKind::Stop,
        CommandKind::StopPost,
    ];

    pub(crate) fn setting(self) -> &'static str {
        match self {
            CommandKind::Condition => "ExecCondition",
            CommandKind::StartPre => "ExecStartPre",
            CommandKind::Start => "ExecStart",
            CommandKind::StartPost => "ExecStartPost",
            CommandKind::Reload => "ExecReload",
            CommandKind::Stop => "ExecStop",
            CommandKind::StopPost => "ExecStopPost",
        }
    }
}

/// What sd_notify said last about the phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NotifyPhase {
    #[default]
    Unknown,
    Ready,
    Reloading,
    Stopping,
}

/// A connection that this instance of an Accept=yes socket serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    pub(crate) token: FdToken,
    pub(crate) socket: UnitName,
    /// REMOTE_ADDR and REMOTE_PORT.
    pub(crate) remote: Option<(String, u16)>,
}

/// Runtime of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Service {
    #[serde(skip)]
    pub(crate) settings: Arc<ServiceSettings>,
    pub(crate) state: ServiceState,
    pub(crate) result: UnitResult,
    pub(crate) reload_result: UnitResult,
    pub(crate) main: Process,
    /// The main process is not our child: its end is noticed by other means.
    pub(crate) main_alien: bool,
    /// A main process was known in this run.
    pub(crate) main_known: bool,
    pub(crate) main_record: ExecRecord,
    /// Index of the running ExecStart= of a oneshot.
    pub(crate) main_index: usize,
    pub(crate) control: Process,
    pub(crate) control_command: Option<(CommandKind, usize)>,
    pub(crate) records: Vec<(CommandKind, u32, ExecRecord)>,
    pub(crate) forbid_restart: bool,
    pub(crate) will_restart: bool,
    pub(crate) restarts: u32,
    /// The start being run is an automatic restart.
    pub(crate) restart_pending: bool,
    pub(crate) status_text: String,
    pub(crate) status_errno: i32,
    pub(crate) phase: NotifyPhase,
    /// Reload began by SIGHUP or RELOADING=1, ends by READY=1.
    pub(crate) reload_by_notify: bool,
    pub(crate) watchdog_override: Option<u64>,
    pub(crate) watchdog_time: Stamp,
    pub(crate) fd_store: Vec<(String, FdToken)>,
    pub(crate) connection: Option<Connection>,
    /// Type=idle: the spawn waits for the queue to empty.
    pub(crate) idle_waiting: bool,
    /// MONITOR_* of the unit that triggered us by OnFailure=/OnSuccess=.
    pub(crate) monitor: Vec<String>,
    /// Exec of the main process has succeeded (Type=exec).
    pub(crate) exec_done: bool,
}

impl Service {
    pub(crate) fn new(settings: Arc<ServiceSettings>) -> Service {
        Service {
            settings,
            state: ServiceState::Dead,
            result: UnitResult::Success,
            reload_result: UnitResult::Success,
            main: Process::default(),
            main_alien: false,
            main_known: false,
            main_record: ExecRecord::default(),
            main_index: 0,
            control: Process::default(),
            control_command: None,
            records: Vec::new(),
            forbid_restart: false,
            will_restart: false,
            restarts: 0,
            restart_pending: false,
            status_text: String::new(),
            status_errno: 0,
            phase: NotifyPhase::Unknown,
            reload_by_notify: false,
            watchdog_override: None,
            watchdog_time: Stamp::default(),
            fd_store: Vec::new(),
            connection: None,
            idle_waiting: false,
            monitor: Vec::new(),
            exec_done: false,
        }
    }
}

/// Runtime of a socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Socket {
    #[serde(skip)]
    pub(crate) settings: Arc<SocketSettings>,
    pub(crate) state: SocketState,
    pub(crate) result: UnitResult,
    pub(crate) tokens: Vec<FdToken>,
    pub(crate) control: Process,
    pub(crate) control_command: Option<(CommandKind, usize)>,
    pub(crate) trigger_limit: RateLimit,
    pub(crate) accepted: u32,
    pub(crate) refused: u32,
    pub(crate) connections: u32,
}

/// Runtime of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mount {
    #[serde(skip)]
    pub(crate) settings: Arc<MountSettings>,
    pub(crate) state: MountState,
    pub(crate) result: UnitResult,
    pub(crate) reload_result: UnitResult,
    pub(crate) control: Process,
    /// As the kernel has it while mounted: what, type, options.
    pub(crate) kernel: Option<(String, String, String)>,
    pub(crate) retries: u32,
}

/// Runtime of a timer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timer {
    #[serde(skip)]
    pub(crate) settings: Arc<TimerSettings>,
    pub(crate) state: TimerState,
    pub(crate) result: UnitResult,
    pub(crate) last_trigger: Stamp,
    /// Next elapse of each monotonic line (0 = none or over).
    pub(crate) monotonic_next: Vec<u64>,
    /// Next elapse of each calendar line (0 = none).
    pub(crate) calendar_next: Vec<u64>,
    pub(crate) next_monotonic: u64,
    pub(crate) next_realtime: u64,
}

/// Runtime of a path unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Path {
    #[serde(skip)]
    pub(crate) settings: Arc<PathSettings>,
    pub(crate) state: PathState,
    pub(crate) result: UnitResult,
    pub(crate) trigger_limit: RateLimit,
}

/// Runtime of a scope.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scope {
    #[serde(skip)]
    pub(crate) settings: Arc<ScopeSettings>,
    pub(crate) state: ScopeState,
    pub(crate) result: UnitResult,
    pub(crate) pids: Vec<u32>,
    pub(crate) controller: String,
}

/// Runtime of a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) state: DeviceState,
    pub(crate) sysfs_path: String,
    pub(crate) description: String,
}

/// What is special to a type.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Kind {
    Service(Box<Service>),
    Socket(Box<Socket>),
    Mount(Box<Mount>),
    Timer(Box<Timer>),
    Path(Box<Path>),
    Scope(Box<Scope>),
    Device(Box<Device>),
    /// True = active.
    Target(bool),
    /// True = active.
    Slice(bool),
    /// A type that this manager does not run (automount, swap): never active.
    Unsupported,
}

impl Kind {
    pub(crate) fn new(unit_type: UnitType) -> Kind {
        match unit_type {
            UnitType::Service => Kind::Service(Box::new(Service::new(Arc::default()))),
            UnitType::Socket => Kind::Socket(Box::new(Socket {
                settings: Arc::default(),
                state: SocketState::Dead,
                result: UnitResult::Success,
                tokens: Vec::new(),
                control: Process::default(),
                control_command: None,
                trigger_limit: RateLimit::default(),
                accepted: 0,
                refused: 0,
                connections: 0,
            })),
            UnitType::Mount => Kind::Mount(Box::new(Mount {
                settings: Arc::default(),
                state: MountState::Dead,
                result: UnitResult::Success,
                reload_result: UnitResult::Success,
                control: Process::default(),
                kernel: None,
                retries: 0,
            })),
            UnitType::Timer => Kind::Timer(Box::new(Timer {
                settings: Arc::default(),
                state: TimerState::Dead,
                result: UnitResult::Success,
                last_trigger: Stamp::default(),
                monotonic_next: Vec::new(),
                calendar_next: Vec::new(),
                next_monotonic: 0,
                next_realtime: 0,
            })),
            UnitType::Path => Kind::Path(Box::new(Path {
                settings: Arc::default(),
                state: PathState::Dead,
                result: UnitResult::Success,
                trigger_limit: RateLimit::default(),
            })),
            UnitType::Scope => Kind::Scope(Box::new(Scope {
                settings: Arc::default(),
                state: ScopeState::Dead,
                result: UnitResult::Success,
                pids: Vec::new(),
                controller: String::new(),
            })),
            UnitType::Device => Kind::Device(Box::new(Device {
                state: DeviceState::Dead,
                sysfs_path: String::new(),
                description: String::new(),
            })),
            UnitType::Target => Kind::Target(false),
            UnitType::Slice => Kind::Slice(false),
            UnitType::Automount | UnitType::Swap => Kind::Unsupported,
        }
    }

    pub(crate) fn active(&self) -> ActiveState {
        match self {
            Kind::Service(s) => s.state.active(),
            Kind::Socket(s) => s.state.active(),
            Kind::Mount(m) => m.state.active(),
            Kind::Timer(t) => t.state.active(),
            Kind::Path(p) => p.state.active(),
            Kind::Scope(s) => s.state.active(),
            Kind::Device(d) if d.state == DeviceState::Dead => ActiveState::Inactive,
            Kind::Device(_) => ActiveState::Active,
            Kind::Target(true) | Kind::Slice(true) => ActiveState::Active,
            Kind::Target(false) | Kind::Slice(false) | Kind::Unsupported => ActiveState::Inactive,
        }
    }

    pub(crate) fn sub(&self) -> &'static str {
        match self {
            Kind::Service(s) => s.state.word(),
            Kind::Socket(s) => s.state.word(),
            Kind::Mount(m) => m.state.word(),
            Kind::Timer(t) => t.state.word(),
            Kind::Path(p) => p.state.word(),
            Kind::Scope(s) => s.state.word(),
            Kind::Device(d) => d.state.word(),
            Kind::Target(true) | Kind::Slice(true) => "active",
            Kind::Target(false) | Kind::Slice(false) | Kind::Unsupported => "dead",
        }
    }
}

/// The unit's deadlines, one slot each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum TimerKind {
    /// Time-out of the state.
    State,
    /// Watchdog of a service.
    Watchdog,
    /// PID file to be looked for again, idle start.
    Poll,
    /// Elapse of a timer unit.
    Elapse,
    /// Time-out of the job since it was queued.
    Job,
    /// Time-out of the job since it runs.
    JobRunning,
}

pub(crate) const TIMER_KINDS: [TimerKind; 6] = [
    TimerKind::State,
    TimerKind::Watchdog,
    TimerKind::Poll,
    TimerKind::Elapse,
    TimerKind::Job,
    TimerKind::JobRunning,
];

/// What must outlive daemon-reexec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Runtime {
    pub(crate) kind: Kind,
    pub(crate) state_change: Stamp,
    pub(crate) inactive_exit: Stamp,
    pub(crate) active_enter: Stamp,
    pub(crate) active_exit: Stamp,
    pub(crate) inactive_enter: Stamp,
    pub(crate) condition_time: Stamp,
    pub(crate) assert_time: Stamp,
    pub(crate) condition_result: bool,
    pub(crate) assert_result: bool,
    /// Per condition: 0 unchecked, 1 held, -1 did not.
    pub(crate) condition_states: Vec<i8>,
    pub(crate) assert_states: Vec<i8>,
    pub(crate) invocation_id: Option<[u8; 16]>,
    /// The control group exists.
    pub(crate) cgroup_realised: bool,
    pub(crate) delegated: bool,
    pub(crate) start_limit: RateLimit,
    /// The last start was refused by it.
    pub(crate) start_limit_hit: bool,
    pub(crate) deadlines: [u64; 6],
    pub(crate) client_refs: u32,
    /// The processes of the last run were killed for memory.
    pub(crate) oom_killed: bool,
}

impl Runtime {
    pub(crate) fn new(unit_type: UnitType) -> Runtime {
        Runtime {
            kind: Kind::new(unit_type),
            state_change: Stamp::default(),
            inactive_exit: Stamp::default(),
            active_enter: Stamp::default(),
            active_exit: Stamp::default(),
            inactive_enter: Stamp::default(),
            condition_time: Stamp::default(),
            assert_time: Stamp::default(),
            condition_result: false,
            assert_result: false,
            condition_states: Vec::new(),
            assert_states: Vec::new(),
            invocation_id: None,
            cgroup_realised: false,
            delegated: false,
            start_limit: RateLimit::default(),
            start_limit_hit: false,
            deadlines: [0; 6],
            client_refs: 0,
            oom_killed: false,
        }
    }
}

// A unit that is only mentioned has these; there are many of them.
static UNIT: LazyLock<Arc<UnitSettings>> = LazyLock::new(Arc::default);
static EXEC: LazyLock<Arc<ExecSettings>> = LazyLock::new(Arc::default);
static CGROUP: LazyLock<Arc<CgroupSettings>> = LazyLock::new(Arc::default);

/// All assignments of a unit, for properties. In one piece: a loaded unit keeps them for ever, and most are short.
#[derive(Debug, Default)]
pub(crate) struct Assignments {
    text: Box<str>,
    /// Where section, key and value of each end.
    ends: Box<[[u32; 3]]>,
}

impl Assignments {
    pub(crate) fn new(list: &[RawSetting]) -> Assignments {
        let mut text = String::new();
        let mut put = |part: &str| {
            text.push_str(part);
            text.len() as u32
        };
        let ends = list
            .iter()
            .map(|r| [put(&r.section), put(&r.key), put(&r.value)])
            .collect();
        Assignments {
            text: text.into_boxed_str(),
            ends,
        }
    }

    /// Section, key and value of each, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let starts = [0].into_iter().chain(self.ends.iter().map(|e| e[2]));
        starts
            .zip(&self.ends)
            .map(|(start, [section, key, value])| {
                let part = |from: u32, to: u32| &self.text[from as usize..to as usize];
                (
                    part(start, *section),
                    part(*section, *key),
                    part(*key, *value),
                )
            })
    }
}

/// A loaded unit.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) name: UnitName,
    pub(crate) aliases: Vec<UnitName>,
    pub(crate) load: LoadState,
    pub(crate) load_error: Option<(ErrorKind, String)>,
    pub(crate) fragment: Option<FileRef>,
    pub(crate) drop_ins: Vec<FileRef>,
    pub(crate) transient: bool,
    pub(crate) perpetual: bool,
    /// `Description=`.
    pub(crate) description: Option<Box<str>>,
    /// The rest of [Unit]; dependencies are edges, and no longer in here. Equal ones are shared, like the next two.
    pub(crate) settings: Arc<UnitSettings>,
    pub(crate) exec: Arc<ExecSettings>,
    pub(crate) cgroup: Arc<CgroupSettings>,
    pub(crate) raw: Assignments,
    pub(crate) edges: Edges,
    /// Its slice, for units with a control group.
    pub(crate) slice: Option<UnitName>,
    /// Path of its control group, for types that have one.
    pub(crate) cgroup_path: Option<String>,
    pub(crate) job: Option<u32>,
    /// Clients have been told that it exists: they hear of its changes and of its end, too.
    pub(crate) announced: bool,
    pub(crate) run: Runtime,
}

impl Unit {
    pub(crate) fn new(name: UnitName) -> Unit {
        let run = Runtime::new(name.unit_type());
        Unit {
            name,
            aliases: Vec::new(),
            load: LoadState::Stub,
            load_error: None,
            fragment: None,
            drop_ins: Vec::new(),
            transient: false,
            perpetual: false,
            description: None,
            settings: UNIT.clone(),
            exec: EXEC.clone(),
            cgroup: CGROUP.clone(),
            raw: Assignments::default(),
            edges: Edges::default(),
            slice: None,
            cgroup_path: None,
            job: None,
            announced: false,
            run,
        }
    }

    pub(crate) fn active(&self) -> ActiveState {
        self.run.kind.active()
    }

    /// `Description=`, else the name.
    pub(crate) fn description(&self) -> &str {
        if let Kind::Device(d) = &self.run.kind
            && self.description.is_none()
            && !d.description.is_empty()
        {
            return &d.description;
        }
        self.description.as_deref().unwrap_or(self.name.as_str())
    }

    /// Isolate leaves it alone.
    pub(crate) fn ignore_on_isolate(&self) -> bool {
        self.settings.ignore_on_isolate.unwrap_or(matches!(
            self.name.unit_type(),
            UnitType::Mount | UnitType::Device | UnitType::Slice | UnitType::Scope | UnitType::Swap
        ))
    }

    /// It has a way to reload.
    pub(crate) fn can_reload(&self) -> bool {
        match &self.run.kind {
            Kind::Service(s) => {
                !s.settings.exec_reload.is_empty()
                    || s.settings.service_type == unit_file::settings::ServiceType::NotifyReload
            }
            Kind::Mount(_) => true,
            _ => false,
        }
    }
}
