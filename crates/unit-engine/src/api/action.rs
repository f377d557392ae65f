//! What the engine asks of the shell.

use std::sync::Arc;

use init_control::{ControlError, PowerAction, Reply, Signal, UnitFileRequest};
use unit_file::UnitName;
use unit_file::settings::{CgroupSettings, ExecDirectories, PathSettings, SocketSettings};

use super::{FdToken, RequestId, SpawnSpec};

/// What a request is answered with.
pub type ReplyResult = Result<Reply, ControlError>;

/// All actions of one call, in the order in which they must be done.
pub type Output = Vec<Action>;

/// Which processes of a control group a signal goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupSignal {
    /// The group, from the root of the hierarchy; its descendants too.
    pub cgroup: String,
    /// The signal; 9 without exceptions is done by `cgroup.kill`.
    pub signal: i32,
    /// Followed by SIGCONT (after SIGTERM and SIGHUP, so that stopped processes see it).
    pub then_continue: bool,
    /// Also SIGHUP (SendSIGHUP=).
    pub also_hangup: bool,
    /// Processes left out.
    pub except: Vec<u32>,
    /// Spare child groups named `payload-*`: their supervisor ends them itself (first stage of a stop).
    pub spare_payloads: bool,
}

/// Severity of a log line, as in syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "syslog's words")]
pub enum LogLevel {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLog {
    /// Severity.
    pub level: LogLevel,
    /// `UNIT=`; `None` for the manager itself.
    pub unit: Option<UnitName>,
    /// `MESSAGE_ID=`.
    pub message_id: Option<&'static str>,
    /// `INVOCATION_ID=`.
    pub invocation_id: Option<[u8; 16]>,
    /// `MESSAGE=`.
    pub text: String,
    /// Further fields (`JOB_RESULT`, `UNIT_RESULT`, `EXIT_CODE`, `EXIT_STATUS` …).
    pub fields: Vec<(&'static str, String)>,
}

/// Kind of a status line on the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusKind {
    /// `[  OK  ]`
    Ok,
    /// `[FAILED]`
    Failed,
    /// `[DEPEND]`
    Depend,
    /// Indented: something is being started or stopped.
    Plain,
}

/// One thing to do. Actions never fail towards the engine but by the event named with them.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a process: answered by `Spawned` (then `ExecDone` or `ExecFailed`) or `SpawnFailed`.
    Spawn(Box<SpawnSpec>),
    /// kill(2) of one process of ours.
    Signal {
        /// The process.
        pid: u32,
        /// The signal.
        signal: i32,
        /// Followed by SIGCONT.
        then_continue: bool,
    },
    /// Signal the processes of a control group.
    SignalCgroup(CgroupSignal),
    /// Make the control group (parents are realised before) and write its settings; watch cgroup.events and
    /// memory.events when `watch`.
    RealiseCgroup {
        /// The unit, for the xattr and logs.
        unit: UnitName,
        /// Path from the root of the hierarchy.
        cgroup: String,
        /// What to write. A delegated group is only chowned and never touched inside.
        settings: Arc<CgroupSettings>,
        /// User to chown a delegated group to.
        owner: Option<String>,
        /// Id of the run, for the xattr.
        invocation_id: Option<[u8; 16]>,
        /// Report when it becomes empty.
        watch: bool,
    },
    /// Move processes into a realised group (scopes, AttachProcesses).
    AttachProcesses {
        /// Path from the root of the hierarchy.
        cgroup: String,
        /// The processes.
        pids: Vec<u32>,
    },
    /// Mark a group as delegated (xattr trusted.delegate); from now on nothing is written below it.
    DelegateCgroup {
        /// Path from the root of the hierarchy.
        cgroup: String,
    },
    /// Remove an empty group and its empty descendants; not an error when it is busy or gone.
    RemoveCgroup {
        /// Path from the root of the hierarchy.
        cgroup: String,
    },
    /// Open the Listen* lines; answered by `SocketsOpened`. Descriptors already held for the unit, and those
    /// PID 1 bound before any unit, are used again.
    OpenSockets {
        /// The socket unit.
        unit: UnitName,
        /// Its settings.
        settings: Arc<SocketSettings>,
    },
    /// Report readiness (Accept=no) or accept (Accept=yes) from now on.
    WatchSockets {
        /// The socket unit.
        unit: UnitName,
        /// Its descriptors.
        tokens: Vec<FdToken>,
        /// Accept here and report connections.
        accept: bool,
    },
    /// Stop reporting.
    UnwatchSockets {
        /// The socket unit.
        unit: UnitName,
    },
    /// Throw away what waits on the descriptors (FlushPending=).
    FlushSockets {
        /// Its descriptors.
        tokens: Vec<FdToken>,
    },
    /// Close the listening descriptors of a unit; remove the files when asked (RemoveOnStop=) and its symlinks.
    CloseSockets {
        /// The socket unit.
        unit: UnitName,
        /// Its settings.
        settings: Arc<SocketSettings>,
        /// Its descriptors.
        tokens: Vec<FdToken>,
    },
    /// Close descriptors (connections refused, stored fds given up).
    CloseFds(Vec<FdToken>),
    /// Keep a descriptor for a unit; report `StoredFdGone` on hang-up when `poll`.
    StoreFd {
        /// Which.
        token: FdToken,
        /// Watch for hang-up.
        poll: bool,
    },
    /// Watch the paths of a path unit (inotify on the path or its nearest existing parent).
    WatchPaths {
        /// The path unit.
        unit: UnitName,
        /// Its settings (MakeDirectory= is done first).
        settings: Arc<PathSettings>,
    },
    /// Stop watching.
    UnwatchPaths {
        /// The path unit.
        unit: UnitName,
    },
    /// Write the stamp file of a persistent timer.
    WriteTimerStamp {
        /// The timer.
        unit: UnitName,
        /// Its time, microseconds since 1970.
        realtime: u64,
    },
    /// Remove directories of a stopped unit (RuntimeDirectory=), its private /tmp and credentials.
    CleanUp {
        /// The unit.
        unit: UnitName,
        /// The run that is over.
        invocation_id: [u8; 16],
        /// Directories to remove.
        directories: Vec<ExecDirectories>,
    },
    /// Remove a file that a unit left (its PID file, a transient unit's file).
    RemoveFile {
        /// Its path.
        path: String,
    },
    /// Write a unit file or drop-in below /run or /etc (transient units, set-property).
    WriteUnitFile {
        /// Absolute path.
        path: String,
        /// Contents.
        text: String,
    },
    /// Answer a request.
    Reply {
        /// The request.
        id: RequestId,
        /// The answer.
        result: Box<ReplyResult>,
    },
    /// A request about files on disk: the shell plans with `unit_file::install`, acts and replies.
    UnitFiles {
        /// The request.
        id: RequestId,
        /// What.
        request: UnitFileRequest,
    },
    /// A request that only the shell can answer (Subscribe, ManagerSnapshot's outer facts, log level …).
    Forward {
        /// The request.
        id: RequestId,
        /// What.
        request: Box<init_control::Request>,
    },
    /// Tell subscribers. Already coalesced by unit within one call.
    Broadcast(Signal),
    /// Write to the journal.
    Log(Box<UnitLog>),
    /// A line for the console at boot and shutdown.
    Status {
        /// Its kind.
        kind: StatusKind,
        /// Its text.
        text: String,
    },
    /// All units are down (or an emergency action asks for it): run the final shutdown.
    Power {
        /// Which end.
        action: PowerAction,
        /// Skip everything: sync and reboot(2) at once.
        immediate: bool,
        /// Argument of reboot(2).
        argument: Option<String>,
    },
    /// Run the generators again and forget cached unit directories; units are read after that in the same call
    /// through the host, so this is only a notice that the engine begins a reload.
    ReloadBegun,
    /// Execute PID 1 anew with the state of [`Engine::serialise`](crate::Engine::serialise).
    Reexec,
    /// Boot is over.
    StartupFinished,
}
