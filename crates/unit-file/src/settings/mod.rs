//! The typed sections: what a unit file says after parsing, drop-ins and specifiers.

mod cgroup;
mod exec;
mod others;
mod service;
mod socket;
mod types;
mod unit;

pub use cgroup::{CgroupSettings, Delegate, DevicePolicy, IoDevice};
pub use exec::{
    BindPath, Credential, DirectoryKind, EnvironmentFile, ExecDirectories, ExecSettings,
    NameFilter, Preserve, ProtectHome, ProtectProc, ProtectSystem, StdInput, StdOutput,
    WorkingDirectory,
};
pub use others::{
    MountSettings, PathKind, PathSettings, PathSpec, ScopeSettings, TimerBase, TimerSettings,
};
pub use service::{
    ExitStatusSet, KillMode, KillSettings, NotifyAccess, OomPolicy, Restart, ServiceSettings,
    ServiceType,
};
pub use socket::{BindIpv6Only, Listen, ListenKind, SocketSettings};
pub use types::{
    Amount, ExecCommand, INFINITY, Limit, LimitKind, PathEntry, Privilege, SignalNumber, Usec,
};
pub use unit::{
    CollectMode, Condition, ConditionKind, EmergencyAction, InstallSettings, UnitSettings,
};
