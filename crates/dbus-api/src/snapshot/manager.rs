//! The interface `org.freedesktop.systemd1.Manager`: its properties.

use init_control::{ManagerSnapshot, Stamp};

use crate::wire::Value;

/// The systemd version whose interface this is. Clients (go-systemd, runc, kubelet) read the number in front.
const COMPATIBLE_WITH: &str = "252";

/// Properties of the manager, in systemd's order.
pub fn manager_properties(manager: &ManagerSnapshot) -> Vec<(&'static str, Value)> {
    let mut out = vec![
        (
            "Version",
            Value::str(format!("{COMPATIBLE_WITH} ({})", manager.version)),
        ),
        (
            "Features",
            Value::str("+SECCOMP +KMOD default-hierarchy=unified"),
        ),
        ("Virtualization", Value::str(&*manager.virtualization)),
        ("Architecture", Value::str(&*manager.architecture)),
        ("Tainted", Value::str(&*manager.tainted)),
    ];
    let times = &manager.times;
    for (realtime, monotonic, at) in [
        (
            "FirmwareTimestamp",
            "FirmwareTimestampMonotonic",
            times.firmware,
        ),
        ("LoaderTimestamp", "LoaderTimestampMonotonic", times.loader),
        ("KernelTimestamp", "KernelTimestampMonotonic", times.kernel),
        ("InitRDTimestamp", "InitRDTimestampMonotonic", times.initrd),
        (
            "UserspaceTimestamp",
            "UserspaceTimestampMonotonic",
            times.userspace,
        ),
        ("FinishTimestamp", "FinishTimestampMonotonic", times.finish),
        (
            "SecurityStartTimestamp",
            "SecurityStartTimestampMonotonic",
            times.security_start,
        ),
        (
            "SecurityFinishTimestamp",
            "SecurityFinishTimestampMonotonic",
            times.security_finish,
        ),
        (
            "GeneratorsStartTimestamp",
            "GeneratorsStartTimestampMonotonic",
            times.generators_start,
        ),
        (
            "GeneratorsFinishTimestamp",
            "GeneratorsFinishTimestampMonotonic",
            times.generators_finish,
        ),
        (
            "UnitsLoadStartTimestamp",
            "UnitsLoadStartTimestampMonotonic",
            times.units_load_start,
        ),
        (
            "UnitsLoadFinishTimestamp",
            "UnitsLoadFinishTimestampMonotonic",
            times.units_load_finish,
        ),
        (
            "UnitsLoadTimestamp",
            "UnitsLoadTimestampMonotonic",
            times.units_load_start,
        ),
        (
            "InitRDSecurityStartTimestamp",
            "InitRDSecurityStartTimestampMonotonic",
            Stamp::default(),
        ),
        (
            "InitRDSecurityFinishTimestamp",
            "InitRDSecurityFinishTimestampMonotonic",
            Stamp::default(),
        ),
        (
            "InitRDGeneratorsStartTimestamp",
            "InitRDGeneratorsStartTimestampMonotonic",
            Stamp::default(),
        ),
        (
            "InitRDGeneratorsFinishTimestamp",
            "InitRDGeneratorsFinishTimestampMonotonic",
            Stamp::default(),
        ),
        (
            "InitRDUnitsLoadStartTimestamp",
            "InitRDUnitsLoadStartTimestampMonotonic",
            Stamp::default(),
        ),
        (
            "InitRDUnitsLoadFinishTimestamp",
            "InitRDUnitsLoadFinishTimestampMonotonic",
            Stamp::default(),
        ),
    ] {
        out.push((realtime, Value::U64(at.realtime)));
        out.push((monotonic, Value::U64(at.monotonic)));
    }
    out.extend([
        ("LogLevel", Value::str(&*manager.log_level)),
        ("LogTarget", Value::str(&*manager.log_target)),
        ("NNames", Value::U32(manager.unit_names)),
        ("NFailedUnits", Value::U32(manager.failed_units)),
        ("NJobs", Value::U32(manager.jobs)),
        ("NInstalledJobs", Value::U32(manager.installed_jobs)),
        ("NFailedJobs", Value::U32(manager.failed_jobs)),
        ("Progress", Value::F64(progress(manager))),
        (
            "Environment",
            Value::strings(manager.environment.iter().map(String::as_str)),
        ),
        ("ConfirmSpawn", Value::Bool(false)),
        ("ShowStatus", Value::Bool(true)),
        (
            "UnitPath",
            Value::strings(manager.unit_path.iter().map(String::as_str)),
        ),
        ("DefaultStandardOutput", Value::str("journal")),
        ("DefaultStandardError", Value::str("inherit")),
    ]);
    for (name, unset) in [
        ("RuntimeWatchdogUSec", 0),
        ("RebootWatchdogUSec", 600_000_000),
        ("KExecWatchdogUSec", 0),
        ("DefaultTimerAccuracyUSec", 60_000_000),
        ("DefaultTimeoutStartUSec", 90_000_000),
        ("DefaultTimeoutStopUSec", 90_000_000),
        ("DefaultTimeoutAbortUSec", 90_000_000),
        ("DefaultRestartUSec", 100_000),
        ("DefaultStartLimitIntervalUSec", 10_000_000),
    ] {
        out.push((name, Value::U64(default(manager, name).unwrap_or(unset))));
    }
    let burst = default(manager, "DefaultStartLimitBurst")
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(5);
    out.extend([
        ("ServiceWatchdogs", Value::Bool(true)),
        ("ControlGroup", Value::str(&*manager.control_group)),
        ("SystemState", Value::str(manager.state.as_str())),
        ("ExitCode", Value::Byte(0)),
        ("DefaultStartLimitBurst", Value::U32(burst)),
        ("DefaultCPUAccounting", Value::Bool(true)),
        ("DefaultMemoryAccounting", Value::Bool(true)),
        ("DefaultTasksAccounting", Value::Bool(true)),
        (
            "DefaultTasksMax",
            Value::U64(default(manager, "DefaultTasksMax").unwrap_or(u64::MAX)),
        ),
        ("DefaultOOMPolicy", Value::str("stop")),
        ("DefaultOOMScoreAdjust", Value::I32(0)),
        ("CtrlAltDelBurstAction", Value::str("reboot-force")),
    ]);
    out
}

fn progress(manager: &ManagerSnapshot) -> f64 {
    if manager.installed_jobs == 0 || manager.jobs == 0 {
        return 1.0;
    }
    1.0 - f64::from(manager.jobs) / f64::from(manager.installed_jobs.max(manager.jobs))
}

fn default(manager: &ManagerSnapshot, name: &str) -> Option<u64> {
    manager
        .defaults
        .iter()
        .find(|(key, _)| key == name)?
        .1
        .parse()
        .ok()
}
