//! The interfaces of the unit types.

use init_control::{
    ExecSnapshot, ServiceSnapshot, SocketSnapshot, TimerSnapshot, TypeSnapshot, UnitSnapshot,
};

use super::usage::Usage;
use super::{tables, text};
use crate::wire::Value;

type Out = Vec<(&'static str, Value)>;

/// Last part of the interface's name, and its properties.
pub(super) fn properties(unit: &UnitSnapshot, usage: &Usage) -> (&'static str, Out) {
    let mut out = Out::new();
    let kind = match &unit.kind {
        TypeSnapshot::Service(service) => {
            service_part(unit, service, &mut out);
            cgroup(unit, "Service", usage, &mut out);
            exec(unit, "Service", &mut out);
            "Service"
        }
        TypeSnapshot::Socket(socket) => {
            socket_part(unit, socket, &mut out);
            cgroup(unit, "Socket", usage, &mut out);
            exec(unit, "Socket", &mut out);
            "Socket"
        }
        TypeSnapshot::Timer(timer) => {
            timer_part(unit, timer, &mut out);
            "Timer"
        }
        TypeSnapshot::Mount(mount) => {
            out.extend([
                ("Where", Value::str(&*mount.where_)),
                ("What", Value::str(&*mount.what)),
                ("Options", Value::str(&*mount.options)),
                ("Type", Value::str(&*mount.fs_type)),
                ("ControlPID", Value::U32(mount.control_pid)),
                ("Result", Value::str(&*mount.result)),
            ]);
            tables::derive(unit, "Mount", tables::MOUNT, &mut out);
            cgroup(unit, "Mount", usage, &mut out);
            exec(unit, "Mount", &mut out);
            "Mount"
        }
        TypeSnapshot::Automount(automount) => {
            out.extend([
                ("Where", Value::str(&*automount.where_)),
                ("TimeoutIdleUSec", Value::U64(automount.timeout_idle_usec)),
                ("Result", Value::str("success")),
            ]);
            "Automount"
        }
        TypeSnapshot::Path(path) => {
            out.push(("Unit", Value::str(&*path.unit)));
            out.push(("Paths", pairs(&path.paths)));
            tables::derive(unit, "Path", tables::PATH, &mut out);
            out.push(("Result", Value::str("success")));
            "Path"
        }
        TypeSnapshot::Scope(scope) => {
            let result = if scope.result.is_empty() {
                "success"
            } else {
                &scope.result
            };
            out.extend([
                ("Controller", Value::str(&*scope.controller)),
                ("TimeoutStopUSec", Value::U64(scope.timeout_stop_usec)),
                ("RuntimeMaxUSec", Value::U64(u64::MAX)),
                ("Result", Value::str(result)),
            ]);
            cgroup(unit, "Scope", usage, &mut out);
            tables::derive(unit, "Scope", tables::KILL, &mut out);
            "Scope"
        }
        TypeSnapshot::Slice => {
            cgroup(unit, "Slice", usage, &mut out);
            "Slice"
        }
        TypeSnapshot::Target => "Target",
        TypeSnapshot::Device(device) => {
            out.push(("SysFSPath", Value::str(&*device.sysfs_path)));
            "Device"
        }
        TypeSnapshot::Swap(swap) => {
            out.push(("What", Value::str(&*swap.what)));
            out.push(("Priority", Value::I32(swap.priority)));
            out.push(("Result", Value::str("success")));
            "Swap"
        }
    };
    (kind, out)
}

fn pairs(list: &[(String, String)]) -> Value {
    let items = list
        .iter()
        .map(|(a, b)| Value::Struct(vec![Value::str(&**a), Value::str(&**b)]))
        .collect();
    Value::array("(ss)", items)
}

fn service_part(unit: &UnitSnapshot, service: &ServiceSnapshot, out: &mut Out) {
    let notify = if service.service_type.starts_with("notify") {
        "main"
    } else {
        "none"
    };
    let access = unit
        .setting("Service", "NotifyAccess")
        .filter(|text| !text.is_empty())
        .unwrap_or(notify);
    out.extend([
        ("Type", Value::str(&*service.service_type)),
        ("Restart", Value::str(&*service.restart)),
        ("NotifyAccess", Value::str(access)),
        ("RestartUSec", Value::U64(service.restart_usec)),
        ("TimeoutStartUSec", Value::U64(service.timeout_start_usec)),
        ("TimeoutStopUSec", Value::U64(service.timeout_stop_usec)),
        ("WatchdogUSec", Value::U64(service.watchdog_usec)),
        (
            "WatchdogTimestamp",
            Value::U64(service.watchdog_time.realtime),
        ),
        (
            "WatchdogTimestampMonotonic",
            Value::U64(service.watchdog_time.monotonic),
        ),
        ("MainPID", Value::U32(service.main_pid)),
        ("ControlPID", Value::U32(service.control_pid)),
        ("NFileDescriptorStore", Value::U32(service.fd_store_used)),
        ("StatusText", Value::str(&*service.status_text)),
        ("StatusErrno", Value::I32(service.status_errno)),
        ("Result", Value::str(&*service.result)),
        ("ReloadResult", Value::str(&*service.reload_result)),
        ("CleanResult", Value::str("success")),
        ("UID", Value::U32(service.uid.unwrap_or(u32::MAX))),
        ("GID", Value::U32(service.gid.unwrap_or(u32::MAX))),
        ("NRestarts", Value::U32(service.restarts)),
        (
            "ExecMainStartTimestamp",
            Value::U64(service.exec_main_start.realtime),
        ),
        (
            "ExecMainStartTimestampMonotonic",
            Value::U64(service.exec_main_start.monotonic),
        ),
        (
            "ExecMainExitTimestamp",
            Value::U64(service.exec_main_exit.realtime),
        ),
        (
            "ExecMainExitTimestampMonotonic",
            Value::U64(service.exec_main_exit.monotonic),
        ),
        ("ExecMainPID", Value::U32(service.exec_main_pid)),
        ("ExecMainCode", Value::I32(service.exec_main_code)),
        ("ExecMainStatus", Value::I32(service.exec_main_status)),
    ]);
    tables::derive(unit, "Service", tables::SERVICE, out);
    for (key, properties) in [
        ("ExecCondition", ["ExecCondition", "ExecConditionEx"]),
        ("ExecStartPre", ["ExecStartPre", "ExecStartPreEx"]),
        ("ExecStart", ["ExecStart", "ExecStartEx"]),
        ("ExecStartPost", ["ExecStartPost", "ExecStartPostEx"]),
        ("ExecReload", ["ExecReload", "ExecReloadEx"]),
        ("ExecStop", ["ExecStop", "ExecStopEx"]),
        ("ExecStopPost", ["ExecStopPost", "ExecStopPostEx"]),
    ] {
        out.push((properties[0], commands(&service.commands, key, false)));
        out.push((properties[1], commands(&service.commands, key, true)));
    }
}

/// `a(sasbttttuii)`; the extended form has flags as words in place of the boolean.
fn commands(all: &[ExecSnapshot], setting: &str, extended: bool) -> Value {
    let items = all
        .iter()
        .filter(|command| command.setting == setting)
        .map(|c| {
            let flags = if extended {
                Value::strings(c.ignore_failure.then_some("ignore-failure"))
            } else {
                Value::Bool(c.ignore_failure)
            };
            Value::Struct(vec![
                Value::str(&*c.path),
                Value::strings(c.argv.iter().map(String::as_str)),
                flags,
                Value::U64(c.started.realtime),
                Value::U64(c.started.monotonic),
                Value::U64(c.exited.realtime),
                Value::U64(c.exited.monotonic),
                Value::U32(c.pid),
                Value::I32(c.code),
                Value::I32(c.status),
            ])
        })
        .collect();
    Value::array(
        if extended {
            "(sasasttttuii)"
        } else {
            "(sasbttttuii)"
        },
        items,
    )
}

fn socket_part(unit: &UnitSnapshot, socket: &SocketSnapshot, out: &mut Out) {
    out.extend([
        ("Listen", pairs(&socket.listen)),
        ("Accept", Value::Bool(socket.accept)),
        ("ControlPID", Value::U32(socket.control_pid)),
        ("Result", Value::str(&*socket.result)),
        ("NConnections", Value::U32(socket.connections)),
        ("NAccepted", Value::U32(socket.accepted)),
        ("NRefused", Value::U32(socket.refused)),
    ]);
    tables::derive(unit, "Socket", tables::SOCKET, out);
    for key in [
        "ExecStartPre",
        "ExecStartPost",
        "ExecStopPre",
        "ExecStopPost",
    ] {
        out.push((key, commands(&socket.commands, key, false)));
    }
}

fn timer_part(unit: &UnitSnapshot, timer: &TimerSnapshot, out: &mut Out) {
    let monotonic = timer
        .monotonic
        .iter()
        .map(|t| {
            Value::Struct(vec![
                Value::str(&*t.base),
                Value::U64(t.usec),
                Value::U64(t.next_usec),
            ])
        })
        .collect();
    let calendar = timer
        .calendar
        .iter()
        .map(|t| {
            Value::Struct(vec![
                Value::str("OnCalendar"),
                Value::str(&*t.spec),
                Value::U64(t.next_usec),
            ])
        })
        .collect();
    out.extend([
        ("Unit", Value::str(&*timer.unit)),
        ("TimersMonotonic", Value::array("(stt)", monotonic)),
        ("TimersCalendar", Value::array("(sst)", calendar)),
        (
            "NextElapseUSecRealtime",
            Value::U64(timer.next_realtime_usec),
        ),
        (
            "NextElapseUSecMonotonic",
            Value::U64(timer.next_monotonic_usec),
        ),
        ("LastTriggerUSec", Value::U64(timer.last_trigger.realtime)),
        (
            "LastTriggerUSecMonotonic",
            Value::U64(timer.last_trigger.monotonic),
        ),
        ("Result", Value::str(&*timer.result)),
    ]);
    tables::derive(unit, "Timer", tables::TIMER, out);
}

/// Control group: where it is, what it uses, what it may.
fn cgroup(unit: &UnitSnapshot, section: &str, usage: &Usage, out: &mut Out) {
    let group = unit.cgroup.clone().unwrap_or_default();
    let last_cpu = group.last_cpu_usage_nsec;
    out.extend([
        ("Slice", Value::str(&*group.slice)),
        ("ControlGroup", Value::str(&*group.path)),
        (
            "MemoryCurrent",
            Value::U64(usage.memory_current.unwrap_or(u64::MAX)),
        ),
        (
            "MemoryPeak",
            Value::U64(
                usage
                    .memory_peak
                    .or(group.last_memory_peak)
                    .unwrap_or(u64::MAX),
            ),
        ),
        ("MemoryAvailable", Value::U64(u64::MAX)),
        (
            "CPUUsageNSec",
            Value::U64(usage.cpu_usage_nsec.or(last_cpu).unwrap_or(u64::MAX)),
        ),
        (
            "TasksCurrent",
            Value::U64(usage.tasks_current.unwrap_or(u64::MAX)),
        ),
        ("IPIngressBytes", Value::U64(u64::MAX)),
        ("IPIngressPackets", Value::U64(u64::MAX)),
        ("IPEgressBytes", Value::U64(u64::MAX)),
        ("IPEgressPackets", Value::U64(u64::MAX)),
        (
            "IOReadBytes",
            Value::U64(usage.io_read_bytes.unwrap_or(u64::MAX)),
        ),
        ("IOReadOperations", Value::U64(u64::MAX)),
        (
            "IOWriteBytes",
            Value::U64(usage.io_write_bytes.unwrap_or(u64::MAX)),
        ),
        ("IOWriteOperations", Value::U64(u64::MAX)),
        ("Delegate", Value::Bool(group.delegated)),
        (
            "DelegateControllers",
            Value::strings(delegated(unit, section)),
        ),
        ("CPUQuotaPerSecUSec", Value::U64(quota(unit, section))),
        (
            "TasksMax",
            Value::U64(
                usage
                    .tasks_max
                    .or_else(|| tasks_max(unit, section))
                    .unwrap_or(u64::MAX),
            ),
        ),
    ]);
    tables::derive(unit, section, tables::CGROUP, out);
    let allow = unit
        .setting_list(section, "DeviceAllow")
        .filter_map(|line| {
            let (node, rights) = line.split_once(' ').unwrap_or((line, "rwm"));
            (!node.is_empty()).then(|| Value::Struct(vec![Value::str(node), Value::str(rights)]))
        })
        .collect();
    out.push(("DeviceAllow", Value::array("(ss)", allow)));
}

fn delegated(unit: &UnitSnapshot, section: &str) -> Vec<String> {
    match unit.setting(section, "Delegate") {
        Some(text) => match text::boolean(text) {
            Some(true) => ["cpu", "cpuset", "io", "memory", "pids"]
                .map(str::to_owned)
                .to_vec(),
            Some(false) => Vec::new(),
            None => text::words(text),
        },
        None => Vec::new(),
    }
}

/// `CPUQuota=20%` is 200 ms per second.
fn quota(unit: &UnitSnapshot, section: &str) -> u64 {
    unit.setting(section, "CPUQuota")
        .and_then(|text| text.trim().strip_suffix('%')?.parse::<f64>().ok())
        .map_or(u64::MAX, |percent| (percent * 10_000.0) as u64)
}

fn tasks_max(unit: &UnitSnapshot, section: &str) -> Option<u64> {
    unit.setting(section, "TasksMax").and_then(text::bytes)
}

fn exec(unit: &UnitSnapshot, section: &str, out: &mut Out) {
    let files = unit
        .setting_list(section, "EnvironmentFile")
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (optional, path) = line
                .strip_prefix('-')
                .map_or((false, line), |path| (true, path));
            Value::Struct(vec![Value::str(path), Value::Bool(optional)])
        })
        .collect();
    out.push((
        "Environment",
        Value::strings(
            unit.setting_list(section, "Environment")
                .flat_map(text::words),
        ),
    ));
    out.push(("EnvironmentFiles", Value::array("(sb)", files)));
    for (hard_name, soft_name, key, unset_hard, unset_soft) in tables::LIMITS {
        let (hard, soft) = limit(unit.setting(section, key)).unwrap_or((*unset_hard, *unset_soft));
        out.push((hard_name, Value::U64(hard)));
        out.push((soft_name, Value::U64(soft)));
    }
    let bounding = unit.setting_list(section, "CapabilityBoundingSet");
    out.push((
        "CapabilityBoundingSet",
        Value::U64(text::capabilities(bounding, unit_file::capability::ALL)),
    ));
    let ambient = unit.setting_list(section, "AmbientCapabilities");
    out.push((
        "AmbientCapabilities",
        Value::U64(text::capabilities(ambient, 0)),
    ));
    tables::derive(unit, section, tables::EXEC, out);
    tables::derive(unit, section, tables::KILL, out);
}

/// `soft:hard` or both in one: hard, soft.
fn limit(set: Option<&str>) -> Option<(u64, u64)> {
    let text = set?;
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    Some((text::bytes(hard)?, text::bytes(soft)?))
}
