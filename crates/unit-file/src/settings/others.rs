//! The [Timer], [Mount], [Path] and [Scope] sections.

use serde::{Deserialize, Serialize};

use super::service::{KillSettings, OomPolicy};
use super::types::{INFINITY, Usec};
use crate::calendar::Calendar;

/// What a monotonic timer counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the directive of the same name, without Sec")]
pub enum TimerBase {
    OnActive,
    OnBoot,
    OnStartup,
    OnUnitActive,
    OnUnitInactive,
}

impl TimerBase {
    /// The D-Bus spelling, as in `OnBootUSec`.
    pub fn property(self) -> &'static str {
        match self {
            TimerBase::OnActive => "OnActiveUSec",
            TimerBase::OnBoot => "OnBootUSec",
            TimerBase::OnStartup => "OnStartupUSec",
            TimerBase::OnUnitActive => "OnUnitActiveUSec",
            TimerBase::OnUnitInactive => "OnUnitInactiveUSec",
        }
    }
}

/// [Timer].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct TimerSettings {
    pub monotonic: Vec<(TimerBase, Usec)>,
    /// OnCalendar= lines.
    pub calendar: Vec<Calendar>,
    pub accuracy_usec: Usec,
    pub randomized_delay_usec: Usec,
    pub fixed_random_delay: bool,
    pub persistent: bool,
    pub wake_system: bool,
    pub remain_after_elapse: bool,
    pub on_clock_change: bool,
    pub on_timezone_change: bool,
    pub unit: Option<String>,
}

impl Default for TimerSettings {
    fn default() -> Self {
        TimerSettings {
            monotonic: Vec::new(),
            calendar: Vec::new(),
            accuracy_usec: 60_000_000,
            randomized_delay_usec: 0,
            fixed_random_delay: false,
            persistent: false,
            wake_system: false,
            remain_after_elapse: true,
            on_clock_change: false,
            on_timezone_change: false,
            unit: None,
        }
    }
}

/// [Mount].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct MountSettings {
    pub what: String,
    pub where_: String,
    pub fs_type: Option<String>,
    pub options: Option<String>,
    pub sloppy_options: bool,
    pub lazy_unmount: bool,
    pub force_unmount: bool,
    pub read_write_only: bool,
    pub directory_mode: u32,
    pub timeout_usec: Usec,
    pub kill: KillSettings,
}

impl Default for MountSettings {
    fn default() -> Self {
        MountSettings {
            what: String::new(),
            where_: String::new(),
            fs_type: None,
            options: None,
            sloppy_options: false,
            lazy_unmount: false,
            force_unmount: false,
            read_write_only: false,
            directory_mode: 0o755,
            timeout_usec: 90_000_000,
            kill: KillSettings::default(),
        }
    }
}

/// What a [Path] line watches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the directive of the same name")]
pub enum PathKind {
    PathExists,
    PathExistsGlob,
    PathChanged,
    PathModified,
    DirectoryNotEmpty,
}

impl PathKind {
    /// The directive's name.
    pub fn word(self) -> &'static str {
        match self {
            PathKind::PathExists => "PathExists",
            PathKind::PathExistsGlob => "PathExistsGlob",
            PathKind::PathChanged => "PathChanged",
            PathKind::PathModified => "PathModified",
            PathKind::DirectoryNotEmpty => "DirectoryNotEmpty",
        }
    }
}

/// One line of [Path].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSpec {
    /// What is watched for.
    pub kind: PathKind,
    /// The path or glob.
    pub path: String,
}

/// [Path].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct PathSettings {
    pub specs: Vec<PathSpec>,
    pub unit: Option<String>,
    pub make_directory: bool,
    pub directory_mode: u32,
    pub trigger_limit_interval_usec: Usec,
    pub trigger_limit_burst: u32,
}

impl Default for PathSettings {
    fn default() -> Self {
        PathSettings {
            specs: Vec::new(),
            unit: None,
            make_directory: false,
            directory_mode: 0o755,
            trigger_limit_interval_usec: 2_000_000,
            trigger_limit_burst: 200,
        }
    }
}

/// [Scope].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct ScopeSettings {
    pub timeout_stop_usec: Usec,
    pub runtime_max_usec: Usec,
    pub oom_policy: Option<OomPolicy>,
    pub kill: KillSettings,
}

impl Default for ScopeSettings {
    fn default() -> Self {
        ScopeSettings {
            timeout_stop_usec: 90_000_000,
            runtime_max_usec: INFINITY,
            oom_policy: None,
            kill: KillSettings::default(),
        }
    }
}
