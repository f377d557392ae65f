//! Keys of the sections that only one unit type has.

use super::cgroup::apply_kill;
use super::exec::exit_status_set;
use super::line::{Line, Taken, list, set};
use crate::calendar::Calendar;
use crate::command::parse_commands;
use crate::settings::{
    BindIpv6Only, ExecCommand, Listen, ListenKind, MountSettings, NotifyAccess, OomPolicy,
    PathKind, PathSettings, PathSpec, Restart, ScopeSettings, ServiceSettings, ServiceType,
    SocketSettings, TimerBase, TimerSettings, UnitSettings,
};

/// Marks an error after which the unit cannot be used.
pub(super) const FATAL: &str = "\u{1}";

/// Appends commands; an empty value resets. A line that does not parse spoils the unit.
fn commands(slot: &mut Vec<ExecCommand>, l: Line<'_>) -> Taken {
    if l.is_empty() {
        slot.clear();
        return Ok(true);
    }
    match parse_commands(l.value, l.specifiers) {
        Ok(new) => {
            slot.extend(new);
            Ok(true)
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|c| format!(": {c}"));
            Err(format!("{FATAL}{error}{}", cause.unwrap_or_default()))
        }
    }
}

fn oom_policy(l: Line<'_>) -> Result<Option<OomPolicy>, String> {
    l.word(&[
        ("continue", OomPolicy::Continue),
        ("stop", OomPolicy::Stop),
        ("kill", OomPolicy::Kill),
    ])
    .map(Some)
}

/// [Service] without exec and cgroup keys.
pub(super) fn service(
    s: &mut ServiceSettings,
    unit: &mut UnitSettings,
    key: &str,
    l: Line<'_>,
) -> Taken {
    match key {
        "Type" => set(
            &mut s.service_type,
            ServiceType::from_word(l.value)
                .ok_or_else(|| format!("{:?} is not a service type", l.value)),
        ),
        "ExecCondition" => commands(&mut s.exec_condition, l),
        "ExecStartPre" => commands(&mut s.exec_start_pre, l),
        "ExecStart" => commands(&mut s.exec_start, l),
        "ExecStartPost" => commands(&mut s.exec_start_post, l),
        "ExecReload" => commands(&mut s.exec_reload, l),
        "ExecStop" => commands(&mut s.exec_stop, l),
        "ExecStopPost" => commands(&mut s.exec_stop_post, l),
        "Restart" => set(
            &mut s.restart,
            Restart::from_word(l.value)
                .ok_or_else(|| format!("{:?} is not a restart rule", l.value)),
        ),
        "RestartSec" => set(&mut s.restart_usec, l.span()),
        "RestartSteps" => set(&mut s.restart_steps, l.number()),
        "RestartMaxDelaySec" => set(&mut s.restart_max_delay_usec, l.span()),
        "RestartMode" => set(
            &mut s.restart_direct,
            l.word(&[("normal", false), ("direct", true), ("debug", false)]),
        ),
        "RestartPreventExitStatus" => exit_status_set(&mut s.restart_prevent_exit_status, l),
        "RestartForceExitStatus" => exit_status_set(&mut s.restart_force_exit_status, l),
        "SuccessExitStatus" => exit_status_set(&mut s.success_exit_status, l),
        "TimeoutSec" => {
            s.timeout_start_usec = l.timeout()?;
            s.timeout_stop_usec = s.timeout_start_usec;
            s.timeout_start_set = true;
            Ok(true)
        }
        "TimeoutStartSec" => {
            s.timeout_start_usec = l.timeout()?;
            s.timeout_start_set = true;
            Ok(true)
        }
        "TimeoutStopSec" => set(&mut s.timeout_stop_usec, l.timeout()),
        "TimeoutAbortSec" => set(&mut s.timeout_abort_usec, l.timeout().map(Some)),
        "RuntimeMaxSec" => set(&mut s.runtime_max_usec, l.timeout()),
        "WatchdogSec" => set(
            &mut s.watchdog_usec,
            l.span()
                .map(|v| if v == crate::settings::INFINITY { 0 } else { v }),
        ),
        "RemainAfterExit" => set(&mut s.remain_after_exit, l.boolean()),
        "GuessMainPID" => set(&mut s.guess_main_pid, l.boolean()),
        "RootDirectoryStartOnly" => set(&mut s.root_directory_start_only, l.boolean()),
        "PermissionsStartOnly" => set(&mut s.permissions_start_only, l.boolean()),
        "PIDFile" => {
            let path = l.text()?.map(|p| {
                if p.starts_with('/') {
                    p
                } else {
                    format!("/run/{p}")
                }
            });
            set(
                &mut s.pid_file,
                Ok(path.and_then(|p| crate::name::clean_path(&p))),
            )
        }
        "BusName" => set(&mut s.bus_name, l.text()),
        "NotifyAccess" => set(
            &mut s.notify_access,
            l.word(&[
                ("none", NotifyAccess::None),
                ("main", NotifyAccess::Main),
                ("exec", NotifyAccess::Exec),
                ("all", NotifyAccess::All),
            ]),
        ),
        "Sockets" => list(&mut s.sockets, l),
        "FileDescriptorStoreMax" => set(&mut s.file_descriptor_store_max, l.number()),
        "OOMPolicy" => set(&mut s.oom_policy, oom_policy(l)),
        "NonBlocking" => set(&mut s.non_blocking, l.boolean()),
        "ReloadSignal" => set(&mut s.reload_signal, l.signal()),
        "FileDescriptorStorePreserve"
        | "TimeoutStartFailureMode"
        | "TimeoutStopFailureMode"
        | "RuntimeRandomizedExtraSec"
        | "USBFunctionDescriptors"
        | "USBFunctionStrings"
        | "SysVStartPriority"
        | "OpenFile" => Ok(true),
        // Where [Unit] keys stood once.
        "StartLimitInterval" | "StartLimitBurst" | "StartLimitAction" | "FailureAction"
        | "SuccessAction" | "RebootArgument" => super::unit::apply(unit, key, l),
        _ => apply_kill(&mut s.kill, key, l),
    }
}

/// [Socket] without exec, kill and cgroup keys.
pub(super) fn socket(s: &mut SocketSettings, key: &str, l: Line<'_>) -> Taken {
    let listen = match key {
        "ListenStream" => Some(ListenKind::Stream),
        "ListenDatagram" => Some(ListenKind::Datagram),
        "ListenSequentialPacket" => Some(ListenKind::SequentialPacket),
        "ListenFIFO" => Some(ListenKind::Fifo),
        "ListenNetlink" => Some(ListenKind::Netlink),
        "ListenSpecial" => Some(ListenKind::Special),
        _ => None,
    };
    if let Some(kind) = listen {
        match l.text()? {
            None => s.listen.clear(),
            Some(address) => s.listen.push(Listen {
                kind,
                address: address_of(kind, address)?,
            }),
        }
        return Ok(true);
    }
    match key {
        "Accept" => set(&mut s.accept, l.boolean()),
        "Service" => set(&mut s.service, l.text()),
        "SocketUser" => set(&mut s.socket_user, l.text()),
        "SocketGroup" => set(&mut s.socket_group, l.text()),
        "SocketMode" => set(&mut s.socket_mode, l.mode()),
        "DirectoryMode" => set(&mut s.directory_mode, l.mode()),
        "Backlog" => set(&mut s.backlog, l.number()),
        "BindIPv6Only" => set(
            &mut s.bind_ipv6_only,
            l.word(&[
                ("default", BindIpv6Only::Default),
                ("both", BindIpv6Only::Both),
                ("ipv6-only", BindIpv6Only::Ipv6Only),
            ]),
        ),
        "BindToDevice" => set(&mut s.bind_to_device, l.text()),
        "FreeBind" => set(&mut s.free_bind, l.boolean()),
        "ReusePort" => set(&mut s.reuse_port, l.boolean()),
        "Transparent" => set(&mut s.transparent, l.boolean()),
        "Broadcast" => set(&mut s.broadcast, l.boolean()),
        "KeepAlive" => set(&mut s.keep_alive, l.boolean()),
        "NoDelay" => set(&mut s.no_delay, l.boolean()),
        "PassCredentials" => set(&mut s.pass_credentials, l.boolean()),
        "PassSecurity" => set(&mut s.pass_security, l.boolean()),
        "Timestamping" => set(
            &mut s.timestamping,
            Ok(!matches!(l.value, "off" | "no" | "0" | "false" | "")),
        ),
        "Priority" => set(&mut s.priority, l.number().map(Some)),
        "ReceiveBuffer" => set(&mut s.receive_buffer, l.size().map(Some)),
        "SendBuffer" => set(&mut s.send_buffer, l.size().map(Some)),
        "Mark" => set(&mut s.mark, l.number().map(Some)),
        "PipeSize" => set(&mut s.pipe_size, l.size().map(Some)),
        "Symlinks" => list(&mut s.symlinks, l),
        "RemoveOnStop" => set(&mut s.remove_on_stop, l.boolean()),
        "Writable" => set(&mut s.writable, l.boolean()),
        "FlushPending" => set(&mut s.flush_pending, l.boolean()),
        "FileDescriptorName" => set(&mut s.file_descriptor_name, l.text()),
        "MaxConnections" => set(&mut s.max_connections, l.number()),
        "MaxConnectionsPerSource" => set(&mut s.max_connections_per_source, l.number()),
        "TriggerLimitIntervalSec" => set(&mut s.trigger_limit_interval_usec, l.span()),
        "TriggerLimitBurst" => set(&mut s.trigger_limit_burst, l.number()),
        "TimeoutSec" => set(&mut s.timeout_usec, l.timeout()),
        "ExecStartPre" => commands(&mut s.exec_start_pre, l),
        "ExecStartPost" => commands(&mut s.exec_start_post, l),
        "ExecStopPre" => commands(&mut s.exec_stop_pre, l),
        "ExecStopPost" => commands(&mut s.exec_stop_post, l),
        "KeepAliveTimeSec"
        | "KeepAliveIntervalSec"
        | "KeepAliveProbes"
        | "DeferAcceptSec"
        | "IPTOS"
        | "IPTTL"
        | "TCPCongestion"
        | "PassPacketInfo"
        | "SELinuxContextFromNet"
        | "SmackLabel"
        | "SmackLabelIPIn"
        | "SmackLabelIPOut"
        | "SocketProtocol"
        | "MessageQueueMaxMessages"
        | "MessageQueueMessageSize"
        | "PollLimitIntervalSec"
        | "PollLimitBurst" => Ok(true),
        _ => Ok(false),
    }
}

/// Normalises an address: paths are cleaned, ports and `address:port` are checked.
fn address_of(kind: ListenKind, address: String) -> Result<String, String> {
    let bad = || format!("{address:?} is not a socket address");
    if matches!(kind, ListenKind::Netlink) {
        return Ok(address);
    }
    if address.starts_with('/') {
        return crate::name::clean_path(&address).ok_or_else(bad);
    }
    if matches!(kind, ListenKind::Fifo | ListenKind::Special) {
        return Err(bad());
    }
    if address.starts_with('@') && address.len() > 1 {
        return Ok(address);
    }
    if address.starts_with("vsock:") {
        return Ok(address);
    }
    let port = match address.rsplit_once(':') {
        None => address.as_str(),
        Some((host, port)) => {
            let host = host
                .strip_prefix('[')
                .and_then(|h| h.strip_suffix(']'))
                .unwrap_or(host);
            host.parse::<std::net::IpAddr>().map_err(|_| bad())?;
            port
        }
    };
    match port.parse::<u16>() {
        Ok(p) if p > 0 => Ok(address),
        _ => Err(bad()),
    }
}

/// [Timer].
pub(super) fn timer(t: &mut TimerSettings, key: &str, l: Line<'_>) -> Taken {
    let base = match key {
        "OnActiveSec" => Some(TimerBase::OnActive),
        "OnBootSec" => Some(TimerBase::OnBoot),
        "OnStartupSec" => Some(TimerBase::OnStartup),
        "OnUnitActiveSec" => Some(TimerBase::OnUnitActive),
        "OnUnitInactiveSec" => Some(TimerBase::OnUnitInactive),
        _ => None,
    };
    if (base.is_some() || key == "OnCalendar") && l.is_empty() {
        t.monotonic.clear();
        t.calendar.clear();
        return Ok(true);
    }
    if let Some(base) = base {
        let expanded = l.expand(l.value)?;
        t.monotonic.push((
            base,
            Line {
                value: &expanded,
                ..l
            }
            .span()?,
        ));
        return Ok(true);
    }
    match key {
        "OnCalendar" => {
            t.calendar
                .push(Calendar::parse(&l.expand(l.value)?).map_err(|e| e.to_string())?);
            Ok(true)
        }
        "AccuracySec" => set(&mut t.accuracy_usec, l.span().map(|v| v.max(1))),
        "RandomizedDelaySec" => set(&mut t.randomized_delay_usec, l.span()),
        "FixedRandomDelay" => set(&mut t.fixed_random_delay, l.boolean()),
        "Persistent" => set(&mut t.persistent, l.boolean()),
        "WakeSystem" => set(&mut t.wake_system, l.boolean()),
        "RemainAfterElapse" => set(&mut t.remain_after_elapse, l.boolean()),
        "OnClockChange" => set(&mut t.on_clock_change, l.boolean()),
        "OnTimezoneChange" => set(&mut t.on_timezone_change, l.boolean()),
        "Unit" => set(&mut t.unit, l.text()),
        _ => Ok(false),
    }
}

/// [Mount] without exec and cgroup keys.
pub(super) fn mount(m: &mut MountSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "What" => set(&mut m.what, l.text().map(Option::unwrap_or_default)),
        "Where" => set(&mut m.where_, l.path().map(Option::unwrap_or_default)),
        "Type" => set(&mut m.fs_type, l.text()),
        "Options" => set(&mut m.options, l.text()),
        "SloppyOptions" => set(&mut m.sloppy_options, l.boolean()),
        "LazyUnmount" => set(&mut m.lazy_unmount, l.boolean()),
        "ForceUnmount" => set(&mut m.force_unmount, l.boolean()),
        "ReadWriteOnly" => set(&mut m.read_write_only, l.boolean()),
        "DirectoryMode" => set(&mut m.directory_mode, l.mode()),
        "TimeoutSec" => set(&mut m.timeout_usec, l.timeout()),
        _ => apply_kill(&mut m.kill, key, l),
    }
}

/// [Path].
pub(super) fn path(p: &mut PathSettings, key: &str, l: Line<'_>) -> Taken {
    let kind = match key {
        "PathExists" => Some(PathKind::PathExists),
        "PathExistsGlob" => Some(PathKind::PathExistsGlob),
        "PathChanged" => Some(PathKind::PathChanged),
        "PathModified" => Some(PathKind::PathModified),
        "DirectoryNotEmpty" => Some(PathKind::DirectoryNotEmpty),
        _ => None,
    };
    if let Some(kind) = kind {
        match l.path()? {
            None => p.specs.clear(),
            Some(path) => p.specs.push(PathSpec { kind, path }),
        }
        return Ok(true);
    }
    match key {
        "Unit" => set(&mut p.unit, l.text()),
        "MakeDirectory" => set(&mut p.make_directory, l.boolean()),
        "DirectoryMode" => set(&mut p.directory_mode, l.mode()),
        "TriggerLimitIntervalSec" => set(&mut p.trigger_limit_interval_usec, l.span()),
        "TriggerLimitBurst" => set(&mut p.trigger_limit_burst, l.number()),
        _ => Ok(false),
    }
}

/// [Scope] without cgroup keys.
pub(super) fn scope(s: &mut ScopeSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "TimeoutStopSec" => set(&mut s.timeout_stop_usec, l.timeout()),
        "RuntimeMaxSec" => set(&mut s.runtime_max_usec, l.timeout()),
        "OOMPolicy" => set(&mut s.oom_policy, oom_policy(l)),
        _ => apply_kill(&mut s.kill, key, l),
    }
}
