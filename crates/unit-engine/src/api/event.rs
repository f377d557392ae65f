//! What the shell tells the engine.

use init_control::Request;
use unit_file::UnitName;

use super::{FdToken, RequestId, SpawnId};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ExitStatus {
    /// exit(code).
    Exited(i32),
    /// Killed by this signal.
    Killed(i32),
    /// Killed by this signal, core dumped.
    Dumped(i32),
    /// Nobody knows (it was not our child).
    Unknown,
}

/// The step at which the executor gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecFailure {
    /// The exit code that names the step (200–245); the child then exits with it.
    pub step: i32,
    /// errno, 0 if none.
    pub errno: i32,
    /// What was being done, for the journal (`cannot open /x`).
    pub what: String,
}

/// Why the sockets of a unit could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOpenError {
    /// Index of the Listen* line.
    pub index: usize,
    /// Text with address and cause.
    pub message: String,
}

/// The other end of an accepted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// IP.
    Inet {
        /// Local address and port.
        local: (String, u16),
        /// Remote address and port.
        remote: (String, u16),
    },
    /// AF_UNIX.
    Unix {
        /// Process at the other end.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// Anything else.
    Other,
}

/// One line of `/proc/self/mountinfo`, unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Mount id.
    pub id: u64,
    /// Source.
    pub what: String,
    /// Mount point.
    pub where_: String,
    /// Type.
    pub fs_type: String,
    /// Mount and super-block options joined by commas.
    pub options: String,
}

/// A device that the shell has finished looking at (links in /dev exist already).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceInfo {
    /// Path below `/sys`, with it.
    pub sysfs_path: String,
    /// Device node and its links (`/dev/vda1`, `/dev/disk/by-label/ROOT` …): a unit for each.
    pub nodes: Vec<String>,
    /// Human-readable name.
    pub description: String,
    /// Units that it wants (SYSTEMD_WANTS).
    pub wants: Vec<String>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// First event of a fresh manager: perpetual units, then the boot transaction.
    Boot {
        /// Candidates, first that loads is started (`default.target`, `rescue.target`, `emergency.target`).
        targets: Vec<String>,
        /// Further units to want (`systemd.wants=`).
        wants: Vec<String>,
        /// When things happened before PID 1 began.
        times: Box<init_control::BootTimes>,
    },
    /// A spawn got its pid. Follows every successful [`Action::Spawn`](super::Action::Spawn) before any other
    /// event about that process.
    Spawned {
        /// Which spawn.
        id: SpawnId,
        /// Its pid.
        pid: u32,
    },
    /// A spawn failed before there was a process (fork, cgroup).
    SpawnFailed {
        /// Which spawn.
        id: SpawnId,
        /// Cause.
        message: String,
    },
    /// The executor has called execve with success (its pipe closed).
    ExecDone {
        /// Which spawn.
        id: SpawnId,
    },
    /// The executor failed; the process exits with `failure.step` right after.
    ExecFailed {
        /// Which spawn.
        id: SpawnId,
        /// Where and why.
        failure: ExecFailure,
    },
    /// A child was reaped. Also for orphans that nobody knows.
    ChildExited {
        /// Its pid.
        pid: u32,
        /// How it ended.
        status: ExitStatus,
    },
    /// A datagram on the notify socket.
    Notify {
        /// Sender.
        pid: u32,
        /// Its user.
        uid: u32,
        /// Its control group from the root of the hierarchy, when it could still be read.
        cgroup: Option<String>,
        /// The text, newline separated.
        text: String,
        /// Descriptors that came with it.
        fds: Vec<FdToken>,
    },
    /// A control group became empty (cgroup.events populated 0).
    CgroupEmpty {
        /// Its path from the root of the hierarchy.
        cgroup: String,
    },
    /// The kernel killed a process of the group for memory.
    OomKill {
        /// Its path.
        cgroup: String,
    },
    /// Answer to [`Action::OpenSockets`](super::Action::OpenSockets), one token per Listen* line.
    SocketsOpened {
        /// The socket unit.
        unit: UnitName,
        /// Tokens in the order of the lines.
        result: Result<Vec<FdToken>, SocketOpenError>,
    },
    /// A watched listening descriptor is readable (Accept=no). The shell stops watching the unit's descriptors
    /// until it is told to again.
    SocketReady {
        /// The socket unit.
        unit: UnitName,
    },
    /// A connection was accepted (Accept=yes).
    Accepted {
        /// The socket unit.
        unit: UnitName,
        /// The connection.
        token: FdToken,
        /// Who.
        peer: PeerAddress,
    },
    /// A stored descriptor hung up and was closed (FDSTORE with FDPOLL).
    StoredFdGone {
        /// Which.
        token: FdToken,
    },
    /// The mount table, whole, after a change.
    MountTable(Vec<MountEntry>),
    /// A device is there and its links are made.
    DeviceAppeared(Box<DeviceInfo>),
    /// A device went.
    DeviceGone {
        /// Path below `/sys`.
        sysfs_path: String,
    },
    /// Something happened at a watched path.
    PathTriggered {
        /// The path unit.
        unit: UnitName,
        /// Index of its line.
        index: usize,
    },
    /// The deadline of [`Engine::next_deadline`](crate::Engine::next_deadline) has passed.
    TimerElapsed,
    /// The real-time clock was set.
    ClockChanged,
    /// Somebody asks on the control socket.
    Request {
        /// Goes into the reply.
        id: RequestId,
        /// What.
        request: Request,
    },
    /// PID 1 got a signal or a key that asks for a unit: start it with the mode.
    StartByManager {
        /// The unit (`reboot.target`, `ctrl-alt-del.target` …).
        unit: String,
        /// The job mode.
        mode: init_control::JobMode,
    },
    /// SIGHUP: read all unit files again.
    Reload,
}
