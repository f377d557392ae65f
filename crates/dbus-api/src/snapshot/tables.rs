//! Settings to properties: name, key, type and default of each.

use init_control::UnitSnapshot;

use super::text;
use crate::wire::Value;

/// How a setting becomes a value; the argument is the default.
#[derive(Debug, Clone, Copy)]
pub(super) enum As {
    /// `b`
    Bool(bool),
    /// `t`, microseconds.
    Usec(u64),
    /// `t`, bytes or a plain number.
    Size(u64),
    /// `s`
    Text(&'static str),
    /// `as`, words of all its lines.
    Words,
    /// `i`
    Int(i32),
    /// `u`
    Uint(u32),
    /// `u`, from octal.
    Mode(u32),
    /// `i`, from a signal's name.
    Signal(i32),
}

/// Property, key, type.
pub(super) type Row = (&'static str, &'static str, As);

/// The properties of the rows, from one section.
pub(super) fn derive(
    unit: &UnitSnapshot,
    section: &str,
    rows: &[Row],
    out: &mut Vec<(&'static str, Value)>,
) {
    for (property, key, kind) in rows {
        out.push((property, value(unit, section, key, *kind)));
    }
}

fn value(unit: &UnitSnapshot, section: &str, key: &str, kind: As) -> Value {
    let set = unit.setting(section, key).filter(|text| !text.is_empty());
    match kind {
        As::Bool(unset) => Value::Bool(set.and_then(text::boolean).unwrap_or(unset)),
        As::Usec(unset) => Value::U64(set.and_then(text::microseconds).unwrap_or(unset)),
        As::Size(unset) => Value::U64(set.and_then(text::bytes).unwrap_or(unset)),
        As::Text(unset) => Value::str(set.unwrap_or(unset)),
        As::Words => Value::strings(unit.setting_list(section, key).flat_map(text::words)),
        As::Int(unset) => Value::I32(
            set.and_then(|text| text.trim().parse().ok())
                .unwrap_or(unset),
        ),
        As::Uint(unset) => Value::U32(
            set.and_then(|text| text.trim().parse().ok())
                .unwrap_or(unset),
        ),
        As::Mode(unset) => Value::U32(set.and_then(text::mode).unwrap_or(unset)),
        As::Signal(unset) => Value::I32(
            set.and_then(unit_file::value::parse_signal)
                .unwrap_or(unset),
        ),
    }
}

const INFINITY: u64 = u64::MAX;

/// `[Unit]`
pub(super) const UNIT: &[Row] = &[
    ("RequiresMountsFor", "RequiresMountsFor", As::Words),
    ("StopWhenUnneeded", "StopWhenUnneeded", As::Bool(false)),
    ("RefuseManualStart", "RefuseManualStart", As::Bool(false)),
    ("RefuseManualStop", "RefuseManualStop", As::Bool(false)),
    ("AllowIsolate", "AllowIsolate", As::Bool(false)),
    ("DefaultDependencies", "DefaultDependencies", As::Bool(true)),
    ("OnSuccessJobMode", "OnSuccessJobMode", As::Text("fail")),
    ("OnFailureJobMode", "OnFailureJobMode", As::Text("replace")),
    ("IgnoreOnIsolate", "IgnoreOnIsolate", As::Bool(false)),
    ("JobTimeoutUSec", "JobTimeoutSec", As::Usec(INFINITY)),
    (
        "JobRunningTimeoutUSec",
        "JobRunningTimeoutSec",
        As::Usec(INFINITY),
    ),
    ("JobTimeoutAction", "JobTimeoutAction", As::Text("none")),
    (
        "JobTimeoutRebootArgument",
        "JobTimeoutRebootArgument",
        As::Text(""),
    ),
    (
        "StartLimitIntervalUSec",
        "StartLimitIntervalSec",
        As::Usec(10_000_000),
    ),
    ("StartLimitBurst", "StartLimitBurst", As::Uint(5)),
    ("StartLimitAction", "StartLimitAction", As::Text("none")),
    ("FailureAction", "FailureAction", As::Text("none")),
    ("SuccessAction", "SuccessAction", As::Text("none")),
    (
        "FailureActionExitStatus",
        "FailureActionExitStatus",
        As::Int(-1),
    ),
    (
        "SuccessActionExitStatus",
        "SuccessActionExitStatus",
        As::Int(-1),
    ),
    ("RebootArgument", "RebootArgument", As::Text("")),
    ("CollectMode", "CollectMode", As::Text("inactive")),
];

/// `[Service]`, what is not in the snapshot's own part.
pub(super) const SERVICE: &[Row] = &[
    ("ExitType", "ExitType", As::Text("main")),
    ("PIDFile", "PIDFile", As::Text("")),
    ("TimeoutAbortUSec", "TimeoutAbortSec", As::Usec(90_000_000)),
    (
        "TimeoutStartFailureMode",
        "TimeoutStartFailureMode",
        As::Text("terminate"),
    ),
    (
        "TimeoutStopFailureMode",
        "TimeoutStopFailureMode",
        As::Text("terminate"),
    ),
    ("RuntimeMaxUSec", "RuntimeMaxSec", As::Usec(INFINITY)),
    (
        "RuntimeRandomizedExtraUSec",
        "RuntimeRandomizedExtraSec",
        As::Usec(0),
    ),
    (
        "RootDirectoryStartOnly",
        "RootDirectoryStartOnly",
        As::Bool(false),
    ),
    ("RemainAfterExit", "RemainAfterExit", As::Bool(false)),
    ("GuessMainPID", "GuessMainPID", As::Bool(true)),
    ("BusName", "BusName", As::Text("")),
    (
        "FileDescriptorStoreMax",
        "FileDescriptorStoreMax",
        As::Uint(0),
    ),
    ("OOMPolicy", "OOMPolicy", As::Text("stop")),
    (
        "USBFunctionDescriptors",
        "USBFunctionDescriptors",
        As::Text(""),
    ),
    ("USBFunctionStrings", "USBFunctionStrings", As::Text("")),
    (
        "PermissionsStartOnly",
        "PermissionsStartOnly",
        As::Bool(false),
    ),
];

/// Settings of what is executed: services, sockets, mounts, swaps.
pub(super) const EXEC: &[Row] = &[
    ("PassEnvironment", "PassEnvironment", As::Words),
    ("UnsetEnvironment", "UnsetEnvironment", As::Words),
    ("UMask", "UMask", As::Mode(0o022)),
    ("WorkingDirectory", "WorkingDirectory", As::Text("")),
    ("RootDirectory", "RootDirectory", As::Text("")),
    ("RootImage", "RootImage", As::Text("")),
    ("OOMScoreAdjust", "OOMScoreAdjust", As::Int(0)),
    ("Nice", "Nice", As::Int(0)),
    ("TimerSlackNSec", "TimerSlackNSec", As::Size(50_000)),
    (
        "CPUSchedulingResetOnFork",
        "CPUSchedulingResetOnFork",
        As::Bool(false),
    ),
    ("NonBlocking", "NonBlocking", As::Bool(false)),
    ("StandardInput", "StandardInput", As::Text("null")),
    (
        "StandardInputFileDescriptorName",
        "StandardInputFileDescriptorName",
        As::Text(""),
    ),
    ("StandardOutput", "StandardOutput", As::Text("journal")),
    ("StandardError", "StandardError", As::Text("inherit")),
    ("TTYPath", "TTYPath", As::Text("")),
    ("TTYReset", "TTYReset", As::Bool(false)),
    ("TTYVHangup", "TTYVHangup", As::Bool(false)),
    ("TTYVTDisallocate", "TTYVTDisallocate", As::Bool(false)),
    ("SyslogIdentifier", "SyslogIdentifier", As::Text("")),
    ("SyslogLevelPrefix", "SyslogLevelPrefix", As::Bool(true)),
    ("LogLevelMax", "LogLevelMax", As::Int(-1)),
    (
        "LogRateLimitIntervalUSec",
        "LogRateLimitIntervalSec",
        As::Usec(0),
    ),
    ("LogRateLimitBurst", "LogRateLimitBurst", As::Uint(0)),
    ("User", "User", As::Text("")),
    ("Group", "Group", As::Text("")),
    ("DynamicUser", "DynamicUser", As::Bool(false)),
    ("RemoveIPC", "RemoveIPC", As::Bool(false)),
    ("SupplementaryGroups", "SupplementaryGroups", As::Words),
    ("PAMName", "PAMName", As::Text("")),
    ("ReadWritePaths", "ReadWritePaths", As::Words),
    ("ReadOnlyPaths", "ReadOnlyPaths", As::Words),
    ("InaccessiblePaths", "InaccessiblePaths", As::Words),
    ("ExecPaths", "ExecPaths", As::Words),
    ("NoExecPaths", "NoExecPaths", As::Words),
    ("PrivateTmp", "PrivateTmp", As::Bool(false)),
    ("PrivateDevices", "PrivateDevices", As::Bool(false)),
    ("ProtectClock", "ProtectClock", As::Bool(false)),
    (
        "ProtectKernelTunables",
        "ProtectKernelTunables",
        As::Bool(false),
    ),
    (
        "ProtectKernelModules",
        "ProtectKernelModules",
        As::Bool(false),
    ),
    ("ProtectKernelLogs", "ProtectKernelLogs", As::Bool(false)),
    (
        "ProtectControlGroups",
        "ProtectControlGroups",
        As::Bool(false),
    ),
    ("PrivateNetwork", "PrivateNetwork", As::Bool(false)),
    ("PrivateUsers", "PrivateUsers", As::Bool(false)),
    ("PrivateMounts", "PrivateMounts", As::Bool(false)),
    ("PrivateIPC", "PrivateIPC", As::Bool(false)),
    ("ProtectHome", "ProtectHome", As::Text("no")),
    ("ProtectSystem", "ProtectSystem", As::Text("no")),
    ("ProtectProc", "ProtectProc", As::Text("default")),
    ("ProcSubset", "ProcSubset", As::Text("all")),
    ("ProtectHostname", "ProtectHostname", As::Bool(false)),
    ("UtmpIdentifier", "UtmpIdentifier", As::Text("")),
    ("UtmpMode", "UtmpMode", As::Text("init")),
    ("IgnoreSIGPIPE", "IgnoreSIGPIPE", As::Bool(true)),
    ("NoNewPrivileges", "NoNewPrivileges", As::Bool(false)),
    ("LockPersonality", "LockPersonality", As::Bool(false)),
    (
        "MemoryDenyWriteExecute",
        "MemoryDenyWriteExecute",
        As::Bool(false),
    ),
    ("RestrictRealtime", "RestrictRealtime", As::Bool(false)),
    ("RestrictSUIDSGID", "RestrictSUIDSGID", As::Bool(false)),
    (
        "RuntimeDirectoryPreserve",
        "RuntimeDirectoryPreserve",
        As::Text("no"),
    ),
    (
        "RuntimeDirectoryMode",
        "RuntimeDirectoryMode",
        As::Mode(0o755),
    ),
    ("RuntimeDirectory", "RuntimeDirectory", As::Words),
    ("StateDirectoryMode", "StateDirectoryMode", As::Mode(0o755)),
    ("StateDirectory", "StateDirectory", As::Words),
    ("CacheDirectoryMode", "CacheDirectoryMode", As::Mode(0o755)),
    ("CacheDirectory", "CacheDirectory", As::Words),
    ("LogsDirectoryMode", "LogsDirectoryMode", As::Mode(0o755)),
    ("LogsDirectory", "LogsDirectory", As::Words),
    (
        "ConfigurationDirectoryMode",
        "ConfigurationDirectoryMode",
        As::Mode(0o755),
    ),
    (
        "ConfigurationDirectory",
        "ConfigurationDirectory",
        As::Words,
    ),
    ("MountFlags", "MountFlags", As::Size(0)),
    ("KeyringMode", "KeyringMode", As::Text("private")),
    ("NetworkNamespacePath", "NetworkNamespacePath", As::Text("")),
    ("IPCNamespacePath", "IPCNamespacePath", As::Text("")),
];

/// How processes are ended.
pub(super) const KILL: &[Row] = &[
    ("KillMode", "KillMode", As::Text("control-group")),
    ("KillSignal", "KillSignal", As::Signal(15)),
    ("RestartKillSignal", "RestartKillSignal", As::Signal(15)),
    ("FinalKillSignal", "FinalKillSignal", As::Signal(9)),
    ("SendSIGKILL", "SendSIGKILL", As::Bool(true)),
    ("SendSIGHUP", "SendSIGHUP", As::Bool(false)),
    ("WatchdogSignal", "WatchdogSignal", As::Signal(6)),
];

/// Control group settings.
pub(super) const CGROUP: &[Row] = &[
    ("CPUAccounting", "CPUAccounting", As::Bool(true)),
    ("CPUWeight", "CPUWeight", As::Size(INFINITY)),
    ("StartupCPUWeight", "StartupCPUWeight", As::Size(INFINITY)),
    ("CPUShares", "CPUShares", As::Size(INFINITY)),
    (
        "CPUQuotaPeriodUSec",
        "CPUQuotaPeriodSec",
        As::Usec(INFINITY),
    ),
    ("IOAccounting", "IOAccounting", As::Bool(false)),
    ("IOWeight", "IOWeight", As::Size(INFINITY)),
    ("StartupIOWeight", "StartupIOWeight", As::Size(INFINITY)),
    ("MemoryAccounting", "MemoryAccounting", As::Bool(true)),
    ("MemoryMin", "MemoryMin", As::Size(0)),
    ("MemoryLow", "MemoryLow", As::Size(0)),
    ("MemoryHigh", "MemoryHigh", As::Size(INFINITY)),
    ("MemoryMax", "MemoryMax", As::Size(INFINITY)),
    ("MemorySwapMax", "MemorySwapMax", As::Size(INFINITY)),
    ("MemoryZSwapMax", "MemoryZSwapMax", As::Size(INFINITY)),
    ("MemoryLimit", "MemoryLimit", As::Size(INFINITY)),
    ("DevicePolicy", "DevicePolicy", As::Text("auto")),
    ("TasksAccounting", "TasksAccounting", As::Bool(true)),
    ("IPAccounting", "IPAccounting", As::Bool(false)),
    ("DisableControllers", "DisableControllers", As::Words),
];

/// `[Socket]`
pub(super) const SOCKET: &[Row] = &[
    ("BindIPv6Only", "BindIPv6Only", As::Text("default")),
    ("Backlog", "Backlog", As::Uint(4096)),
    ("TimeoutUSec", "TimeoutSec", As::Usec(90_000_000)),
    ("BindToDevice", "BindToDevice", As::Text("")),
    ("SocketUser", "SocketUser", As::Text("")),
    ("SocketGroup", "SocketGroup", As::Text("")),
    ("SocketMode", "SocketMode", As::Mode(0o666)),
    ("DirectoryMode", "DirectoryMode", As::Mode(0o755)),
    ("FlushPending", "FlushPending", As::Bool(false)),
    ("Writable", "Writable", As::Bool(false)),
    ("KeepAlive", "KeepAlive", As::Bool(false)),
    ("NoDelay", "NoDelay", As::Bool(false)),
    ("Priority", "Priority", As::Int(-1)),
    ("ReceiveBuffer", "ReceiveBuffer", As::Size(0)),
    ("SendBuffer", "SendBuffer", As::Size(0)),
    ("IPTOS", "IPTOS", As::Int(-1)),
    ("IPTTL", "IPTTL", As::Int(-1)),
    ("PipeSize", "PipeSize", As::Size(0)),
    ("FreeBind", "FreeBind", As::Bool(false)),
    ("Transparent", "Transparent", As::Bool(false)),
    ("Broadcast", "Broadcast", As::Bool(false)),
    ("PassCredentials", "PassCredentials", As::Bool(false)),
    ("PassSecurity", "PassSecurity", As::Bool(false)),
    ("RemoveOnStop", "RemoveOnStop", As::Bool(false)),
    ("Symlinks", "Symlinks", As::Words),
    ("Mark", "Mark", As::Int(-1)),
    ("MaxConnections", "MaxConnections", As::Uint(64)),
    (
        "MaxConnectionsPerSource",
        "MaxConnectionsPerSource",
        As::Uint(0),
    ),
    ("TCPCongestion", "TCPCongestion", As::Text("")),
    ("ReusePort", "ReusePort", As::Bool(false)),
    ("FileDescriptorName", "FileDescriptorName", As::Text("")),
    (
        "TriggerLimitIntervalUSec",
        "TriggerLimitIntervalSec",
        As::Usec(2_000_000),
    ),
    ("TriggerLimitBurst", "TriggerLimitBurst", As::Uint(20)),
];

/// `[Timer]`
pub(super) const TIMER: &[Row] = &[
    ("OnClockChange", "OnClockChange", As::Bool(false)),
    ("OnTimezoneChange", "OnTimezoneChange", As::Bool(false)),
    ("AccuracyUSec", "AccuracySec", As::Usec(60_000_000)),
    ("RandomizedDelayUSec", "RandomizedDelaySec", As::Usec(0)),
    ("FixedRandomDelay", "FixedRandomDelay", As::Bool(false)),
    ("Persistent", "Persistent", As::Bool(false)),
    ("WakeSystem", "WakeSystem", As::Bool(false)),
    ("RemainAfterElapse", "RemainAfterElapse", As::Bool(true)),
];

/// `[Mount]`
pub(super) const MOUNT: &[Row] = &[
    ("TimeoutUSec", "TimeoutSec", As::Usec(90_000_000)),
    ("DirectoryMode", "DirectoryMode", As::Mode(0o755)),
    ("SloppyOptions", "SloppyOptions", As::Bool(false)),
    ("LazyUnmount", "LazyUnmount", As::Bool(false)),
    ("ForceUnmount", "ForceUnmount", As::Bool(false)),
    ("ReadWriteOnly", "ReadWriteOnly", As::Bool(false)),
];

/// `[Path]`
pub(super) const PATH: &[Row] = &[
    ("MakeDirectory", "MakeDirectory", As::Bool(false)),
    ("DirectoryMode", "DirectoryMode", As::Mode(0o755)),
    (
        "TriggerLimitIntervalUSec",
        "TriggerLimitIntervalSec",
        As::Usec(2_000_000),
    ),
    ("TriggerLimitBurst", "TriggerLimitBurst", As::Uint(200)),
];

/// Resource limits: property, property of the soft limit, key, default hard and soft.
pub(super) const LIMITS: &[(&str, &str, &str, u64, u64)] = &[
    ("LimitCPU", "LimitCPUSoft", "LimitCPU", INFINITY, INFINITY),
    (
        "LimitFSIZE",
        "LimitFSIZESoft",
        "LimitFSIZE",
        INFINITY,
        INFINITY,
    ),
    (
        "LimitDATA",
        "LimitDATASoft",
        "LimitDATA",
        INFINITY,
        INFINITY,
    ),
    (
        "LimitSTACK",
        "LimitSTACKSoft",
        "LimitSTACK",
        INFINITY,
        8 * 1024 * 1024,
    ),
    ("LimitCORE", "LimitCORESoft", "LimitCORE", INFINITY, 0),
    ("LimitRSS", "LimitRSSSoft", "LimitRSS", INFINITY, INFINITY),
    (
        "LimitNOFILE",
        "LimitNOFILESoft",
        "LimitNOFILE",
        524_288,
        1024,
    ),
    ("LimitAS", "LimitASSoft", "LimitAS", INFINITY, INFINITY),
    (
        "LimitNPROC",
        "LimitNPROCSoft",
        "LimitNPROC",
        INFINITY,
        INFINITY,
    ),
    (
        "LimitMEMLOCK",
        "LimitMEMLOCKSoft",
        "LimitMEMLOCK",
        8 * 1024 * 1024,
        8 * 1024 * 1024,
    ),
    (
        "LimitLOCKS",
        "LimitLOCKSSoft",
        "LimitLOCKS",
        INFINITY,
        INFINITY,
    ),
    (
        "LimitSIGPENDING",
        "LimitSIGPENDINGSoft",
        "LimitSIGPENDING",
        INFINITY,
        INFINITY,
    ),
    (
        "LimitMSGQUEUE",
        "LimitMSGQUEUESoft",
        "LimitMSGQUEUE",
        819_200,
        819_200,
    ),
    ("LimitNICE", "LimitNICESoft", "LimitNICE", 0, 0),
    ("LimitRTPRIO", "LimitRTPRIOSoft", "LimitRTPRIO", 0, 0),
    (
        "LimitRTTIME",
        "LimitRTTIMESoft",
        "LimitRTTIME",
        INFINITY,
        INFINITY,
    ),
];
