//! What belongs to one unit type.

use serde::{Deserialize, Serialize};

use crate::unit::Stamp;

/// The part of a snapshot that only one unit type has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypeSnapshot {
    /// `.service`
    Service(Box<ServiceSnapshot>),
    /// `.socket`
    Socket(Box<SocketSnapshot>),
    /// `.timer`
    Timer(Box<TimerSnapshot>),
    /// `.mount`
    Mount(Box<MountSnapshot>),
    /// `.automount`
    Automount(AutomountSnapshot),
    /// `.path`
    Path(PathSnapshot),
    /// `.scope`
    Scope(ScopeSnapshot),
    /// `.slice`
    Slice,
    /// `.target`
    Target,
    /// `.device`
    Device(DeviceSnapshot),
    /// `.swap`
    Swap(SwapSnapshot),
}

impl TypeSnapshot {
    /// The empty snapshot for a unit of this name; a name without a known suffix counts as a service.
    pub fn for_name(name: &str) -> Self {
        match name.rsplit_once('.').map_or("", |(_, suffix)| suffix) {
            "socket" => Self::Socket(Box::default()),
            "timer" => Self::Timer(Box::default()),
            "mount" => Self::Mount(Box::default()),
            "automount" => Self::Automount(AutomountSnapshot::default()),
            "path" => Self::Path(PathSnapshot::default()),
            "scope" => Self::Scope(ScopeSnapshot::default()),
            "slice" => Self::Slice,
            "target" => Self::Target,
            "device" => Self::Device(DeviceSnapshot::default()),
            "swap" => Self::Swap(SwapSnapshot::default()),
            _ => Self::Service(Box::default()),
        }
    }
}

/// One command line with its last run. `a(sasbttttuii)` on D-Bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSnapshot {
    /// The setting it comes from: `ExecStart`, `ExecStartPre` …
    pub setting: String,
    /// The program.
    pub path: String,
    /// Its arguments, the zeroth included.
    pub argv: Vec<String>,
    /// Prefix `-`.
    pub ignore_failure: bool,
    /// Last start.
    pub started: Stamp,
    /// Last end.
    pub exited: Stamp,
    /// Last process.
    pub pid: u32,
    /// `CLD_*`: 0 none, 1 exited, 2 killed, 3 dumped.
    pub code: i32,
    /// Exit status or signal.
    pub status: i32,
}

/// A service. Text values are systemd's words; `result` is `success` before the first run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSnapshot {
    /// `Type=`, the default resolved.
    pub service_type: String,
    /// `Restart=`, the default resolved.
    pub restart: String,
    /// `RestartSec=` in microseconds.
    pub restart_usec: u64,
    /// Start timeout in microseconds, `u64::MAX` = none.
    pub timeout_start_usec: u64,
    /// Stop timeout in microseconds, `u64::MAX` = none.
    pub timeout_stop_usec: u64,
    /// Watchdog interval, 0 = none.
    pub watchdog_usec: u64,
    /// Last keep-alive.
    pub watchdog_time: Stamp,
    /// Main process, 0 = none.
    pub main_pid: u32,
    /// Control process, 0 = none.
    pub control_pid: u32,
    /// Last main process, also after its end.
    pub exec_main_pid: u32,
    /// Its start.
    pub exec_main_start: Stamp,
    /// Its end.
    pub exec_main_exit: Stamp,
    /// `CLD_*` of its end, 0 while it runs.
    pub exec_main_code: i32,
    /// Exit status or signal.
    pub exec_main_status: i32,
    /// `STATUS=` of sd_notify.
    pub status_text: String,
    /// `ERRNO=` of sd_notify.
    pub status_errno: i32,
    /// Result of the last run.
    pub result: String,
    /// Result of the last reload.
    pub reload_result: String,
    /// Automatic restarts since the last manual start.
    pub restarts: u32,
    /// Descriptors in the store.
    pub fd_store_used: u32,
    /// User id it runs as, if set by `User=`.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// All commands of all Exec settings.
    pub commands: Vec<ExecSnapshot>,
}

impl Default for ServiceSnapshot {
    fn default() -> Self {
        Self {
            service_type: "simple".to_owned(),
            restart: "no".to_owned(),
            restart_usec: 100_000,
            timeout_start_usec: 90_000_000,
            timeout_stop_usec: 90_000_000,
            watchdog_usec: 0,
            watchdog_time: Stamp::default(),
            main_pid: 0,
            control_pid: 0,
            exec_main_pid: 0,
            exec_main_start: Stamp::default(),
            exec_main_exit: Stamp::default(),
            exec_main_code: 0,
            exec_main_status: 0,
            status_text: String::new(),
            status_errno: 0,
            result: "success".to_owned(),
            reload_result: "success".to_owned(),
            restarts: 0,
            fd_store_used: 0,
            uid: None,
            gid: None,
            commands: Vec::new(),
        }
    }
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSnapshot {
    /// Kind (`Stream`, `Datagram`, `SequentialPacket`, `FIFO`, `Special`, `Netlink`) and address.
    pub listen: Vec<(String, String)>,
    /// `Accept=`.
    pub accept: bool,
    /// Connections open.
    pub connections: u32,
    /// Connections taken.
    pub accepted: u32,
    /// Connections refused.
    pub refused: u32,
    /// Control process, 0 = none.
    pub control_pid: u32,
    /// Result of the last run.
    pub result: String,
    /// Commands.
    pub commands: Vec<ExecSnapshot>,
}

impl Default for SocketSnapshot {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            accept: false,
            connections: 0,
            accepted: 0,
            refused: 0,
            control_pid: 0,
            result: "success".to_owned(),
            commands: Vec::new(),
        }
    }
}

/// `OnBootSec=` and its kin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonotonicTimer {
    /// `OnBootUSec`, `OnActiveUSec`, `OnStartupUSec`, `OnUnitActiveUSec`, `OnUnitInactiveUSec`.
    pub base: String,
    /// The span in microseconds.
    pub usec: u64,
    /// Next time on the monotonic clock, 0 = none.
    pub next_usec: u64,
}

/// `OnCalendar=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarTimer {
    /// The normalised specification.
    pub spec: String,
    /// Next time on the real-time clock, 0 = none.
    pub next_usec: u64,
}

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSnapshot {
    /// The unit it starts.
    pub unit: String,
    /// Monotonic lines.
    pub monotonic: Vec<MonotonicTimer>,
    /// Calendar lines.
    pub calendar: Vec<CalendarTimer>,
    /// Next time on the real-time clock, 0 = none.
    pub next_realtime_usec: u64,
    /// Next time on the monotonic clock, 0 = none.
    pub next_monotonic_usec: u64,
    /// Last time it fired.
    pub last_trigger: Stamp,
    /// Result of the last run.
    pub result: String,
}

impl Default for TimerSnapshot {
    fn default() -> Self {
        Self {
            unit: String::new(),
            monotonic: Vec::new(),
            calendar: Vec::new(),
            next_realtime_usec: 0,
            next_monotonic_usec: 0,
            last_trigger: Stamp::default(),
            result: "success".to_owned(),
        }
    }
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSnapshot {
    /// The mount point.
    pub where_: String,
    /// What is mounted (from the kernel while mounted, else from the file).
    pub what: String,
    /// File system type.
    pub fs_type: String,
    /// Options.
    pub options: String,
    /// Control process, 0 = none.
    pub control_pid: u32,
    /// Result of the last run.
    pub result: String,
}

impl Default for MountSnapshot {
    fn default() -> Self {
        Self {
            where_: String::new(),
            what: String::new(),
            fs_type: String::new(),
            options: String::new(),
            control_pid: 0,
            result: "success".to_owned(),
        }
    }
}

/// An automount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutomountSnapshot {
    /// The mount point.
    pub where_: String,
    /// `TimeoutIdleSec=` in microseconds.
    pub timeout_idle_usec: u64,
}

/// A path unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSnapshot {
    /// Kind (`PathExists`, `PathChanged` …) and path.
    pub paths: Vec<(String, String)>,
    /// The unit it starts.
    pub unit: String,
}

/// A scope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeSnapshot {
    /// Bus name of its maker, else empty.
    pub controller: String,
    /// Stop timeout in microseconds.
    pub timeout_stop_usec: u64,
    /// Result; empty counts as `success`.
    pub result: String,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSnapshot {
    /// Path in /sys, empty while it is not there.
    pub sysfs_path: String,
}

/// A swap area.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapSnapshot {
    /// Device or file.
    pub what: String,
    /// Priority.
    pub priority: i32,
}
