//! What clients see of units and of the manager.

use init_control::{
    AutomountSnapshot, CalendarTimer, CgroupSnapshot, ConditionSnapshot, DependencyKind,
    DeviceSnapshot, ExecSnapshot, LoadState, ManagerSnapshot, MonotonicTimer, MountSnapshot,
    PathSnapshot, ScopeSnapshot, ServiceSnapshot, Setting, SocketSnapshot, TimerSnapshot,
    TypeSnapshot, UnitSnapshot,
};
use unit_file::settings::{Condition, ConditionKind, ExecCommand, ListenKind, SocketSettings};

use crate::engine::{Cx, Engine};
use crate::graph::{IN_SLICE, PUBLIC, UnitId};
use crate::unit::{CommandKind, ExecRecord, Kind, Mount, Service, Socket, Timer, Unit};

impl Engine {
    pub(crate) fn snapshot(&mut self, cx: &Cx<'_>, id: UnitId) -> UnitSnapshot {
        let need_daemon_reload = self.needs_reload(cx, id);
        let unit = self.unit(id);
        let run = &unit.run;
        let name = unit.name.to_string();
        let mut names: Vec<String> = unit.aliases.iter().map(ToString::to_string).collect();
        names.insert(0, name.clone());
        let (unit_file_state, unit_file_preset) = match &unit.fragment {
            Some(_) => cx.host.unit_file_state(&unit.name),
            None => (None, String::new()),
        };
        let loaded = unit.load == LoadState::Loaded;
        let stoppable = !unit.perpetual && !matches!(run.kind, Kind::Device(_) | Kind::Unsupported);
        let startable = !matches!(run.kind, Kind::Unsupported);
        let settings = unit
            .raw
            .iter()
            .map(|(section, key, value)| Setting::new(section, key, value));
        UnitSnapshot {
            id: name,
            names,
            following: self.following(id),
            description: unit.description().to_owned(),
            load: unit.load,
            load_error: unit
                .load_error
                .as_ref()
                .map(|(k, t)| (k.dbus_name().to_owned(), t.clone())),
            active: unit.active(),
            sub: run.kind.sub().to_owned(),
            fragment_path: unit
                .fragment
                .as_ref()
                .map_or_else(String::new, |f| f.path.clone()),
            source_path: unit.settings.source_path.clone().unwrap_or_default(),
            drop_in_paths: unit.drop_ins.iter().map(|f| f.path.clone()).collect(),
            unit_file_state,
            unit_file_preset,
            state_change: run.state_change,
            inactive_exit: run.inactive_exit,
            active_enter: run.active_enter,
            active_exit: run.active_exit,
            inactive_enter: run.inactive_enter,
            can_start: loaded && startable && !unit.settings.refuse_manual_start,
            can_stop: stoppable && !unit.settings.refuse_manual_stop,
            can_reload: unit.can_reload(),
            can_isolate: loaded && unit.settings.allow_isolate,
            job: self.job_ref(unit),
            transient: unit.transient,
            perpetual: unit.perpetual,
            need_daemon_reload,
            condition_result: run.condition_result,
            assert_result: run.assert_result,
            condition_time: run.condition_time,
            assert_time: run.assert_time,
            conditions: conditions(
                &unit.settings.conditions,
                &run.condition_states,
                "Condition",
            ),
            asserts: conditions(&unit.settings.asserts, &run.assert_states, "Assert"),
            invocation_id: run.invocation_id,
            dependencies: self.dependencies(unit),
            cgroup: cgroup(unit),
            settings: settings.collect(),
            kind: self.type_snapshot(cx, unit),
        }
    }

    fn dependencies(&self, unit: &Unit) -> Vec<(DependencyKind, Vec<String>)> {
        let mut out = Vec::new();
        for (deps, kind) in PUBLIC {
            if *deps == IN_SLICE
                || matches!(
                    kind,
                    DependencyKind::References | DependencyKind::ReferencedBy
                )
            {
                continue;
            }
            let mut names: Vec<String> = unit
                .edges
                .with(*deps)
                .filter_map(|o| self.get(o))
                .map(|u| u.name.to_string())
                .collect();
            if !names.is_empty() {
                names.sort();
                out.push((*kind, names));
            }
        }
        out
    }

    fn type_snapshot(&self, cx: &Cx<'_>, unit: &Unit) -> TypeSnapshot {
        match &unit.run.kind {
            Kind::Service(s) => TypeSnapshot::Service(Box::new(service(cx, unit, s))),
            Kind::Socket(s) => TypeSnapshot::Socket(Box::new(socket(s))),
            Kind::Timer(t) => TypeSnapshot::Timer(Box::new(self.timer_snapshot(unit, t))),
            Kind::Mount(m) => TypeSnapshot::Mount(Box::new(mount(unit, m))),
            Kind::Path(p) => TypeSnapshot::Path(PathSnapshot {
                paths: p
                    .settings
                    .specs
                    .iter()
                    .map(|s| (s.kind.word().to_owned(), s.path.clone()))
                    .collect(),
                unit: self.triggered_name(unit),
            }),
            Kind::Scope(s) => TypeSnapshot::Scope(ScopeSnapshot {
                controller: s.controller.clone(),
                timeout_stop_usec: s.settings.timeout_stop_usec,
                result: s.result.word().to_owned(),
            }),
            Kind::Device(d) => TypeSnapshot::Device(DeviceSnapshot {
                sysfs_path: d.sysfs_path.clone(),
            }),
            Kind::Target(_) => TypeSnapshot::Target,
            Kind::Slice(_) => TypeSnapshot::Slice,
            Kind::Unsupported => {
                let place = unit.name.to_path().unwrap_or_default();
                match TypeSnapshot::for_name(unit.name.as_str()) {
                    TypeSnapshot::Automount(a) => {
                        TypeSnapshot::Automount(AutomountSnapshot { where_: place, ..a })
                    }
                    other => other,
                }
            }
        }
    }

    fn triggered_name(&self, unit: &Unit) -> String {
        let first = unit
            .edges
            .with(crate::graph::TRIGGERS)
            .find_map(|o| self.get(o));
        first.map_or_else(String::new, |u| u.name.to_string())
    }

    fn timer_snapshot(&self, unit: &Unit, t: &Timer) -> TimerSnapshot {
        let next = |list: &[u64], i: usize| list.get(i).copied().unwrap_or(0);
        TimerSnapshot {
            unit: self.triggered_name(unit),
            monotonic: t
                .settings
                .monotonic
                .iter()
                .enumerate()
                .map(|(i, (base, usec))| MonotonicTimer {
                    base: base.property().to_owned(),
                    usec: *usec,
                    next_usec: next(&t.monotonic_next, i),
                })
                .collect(),
            calendar: t
                .settings
                .calendar
                .iter()
                .enumerate()
                .map(|(i, spec)| CalendarTimer {
                    spec: spec.to_string(),
                    next_usec: next(&t.calendar_next, i),
                })
                .collect(),
            next_realtime_usec: t.next_realtime,
            next_monotonic_usec: t.next_monotonic,
            last_trigger: t.last_trigger,
            result: t.result.word().to_owned(),
        }
    }

    pub(crate) fn manager_snapshot(&mut self, cx: &Cx<'_>) -> ManagerSnapshot {
        const HYPERVISORS: [&str; 14] = [
            "kvm",
            "qemu",
            "amazon",
            "vmware",
            "microsoft",
            "oracle",
            "xen",
            "bhyve",
            "google",
            "parallels",
            "docker",
            "podman",
            "lxc",
            "systemd-nspawn",
        ];
        let virtualization = HYPERVISORS
            .iter()
            .find(|v| cx.host.check_condition(ConditionKind::Virtualization, v))
            .map_or_else(String::new, |v| (*v).to_owned());
        ManagerSnapshot {
            version: self.config.version.clone(),
            architecture: self.machine(cx).architecture.clone(),
            virtualization,
            tainted: String::new(),
            state: self.system_state(),
            times: self.boot,
            log_level: self.log_level.clone(),
            log_target: "journal-or-kmsg".to_owned(),
            unit_names: self.names.len() as u32,
            failed_units: self.failed_count(),
            jobs: self.jobs.len() as u32,
            installed_jobs: self.installed_jobs,
            failed_jobs: self.failed_jobs,
            environment: self.environment.clone(),
            unit_path: unit_file::dropin::SEARCH_PATH
                .iter()
                .map(|p| (*p).to_owned())
                .collect(),
            control_group: String::new(),
            defaults: [
                ("DefaultTimeoutStartUSec", "90000000"),
                ("DefaultTimeoutStopUSec", "90000000"),
                ("DefaultTimeoutAbortUSec", "90000000"),
                ("DefaultRestartUSec", "100000"),
                ("DefaultStartLimitIntervalUSec", "10000000"),
                ("DefaultStartLimitBurst", "5"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        }
    }
}

fn conditions(list: &[Condition], states: &[i8], prefix: &str) -> Vec<ConditionSnapshot> {
    list.iter()
        .enumerate()
        .map(|(i, c)| ConditionSnapshot {
            kind: format!("{prefix}{}", c.kind.word()),
            trigger: c.trigger,
            negate: c.negate,
            parameter: c.parameter.clone(),
            state: states.get(i).copied().unwrap_or(0).into(),
        })
        .collect()
}

fn cgroup(unit: &Unit) -> Option<CgroupSnapshot> {
    let path = unit.cgroup_path.as_ref()?;
    Some(CgroupSnapshot {
        path: if unit.run.cgroup_realised {
            path.clone()
        } else {
            String::new()
        },
        slice: unit
            .slice
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        delegated: unit.run.delegated,
        last_cpu_usage_nsec: None,
        last_memory_peak: None,
    })
}

fn service(cx: &Cx<'_>, unit: &Unit, s: &Service) -> ServiceSnapshot {
    let settings = &s.settings;
    let user = unit.exec.user.as_deref().and_then(|u| cx.host.user(u));
    let lists = CommandKind::ALL.into_iter().flat_map(|kind| {
        let list: &[ExecCommand] = match kind {
            CommandKind::Condition => &settings.exec_condition,
            CommandKind::StartPre => &settings.exec_start_pre,
            CommandKind::Start => &settings.exec_start,
            CommandKind::StartPost => &settings.exec_start_post,
            CommandKind::Reload => &settings.exec_reload,
            CommandKind::Stop => &settings.exec_stop,
            CommandKind::StopPost => &settings.exec_stop_post,
        };
        list.iter().enumerate().map(move |(i, command)| {
            let record = s
                .records
                .iter()
                .find(|(k, n, _)| *k == kind && *n as usize == i);
            exec_snapshot(
                kind.setting(),
                command,
                record.map(|(_, _, r)| *r).unwrap_or_default(),
            )
        })
    });
    ServiceSnapshot {
        service_type: settings.service_type.word().to_owned(),
        restart: settings.restart.word().to_owned(),
        restart_usec: settings.restart_usec,
        timeout_start_usec: settings.timeout_start_usec,
        timeout_stop_usec: settings.timeout_stop_usec,
        watchdog_usec: s.watchdog_override.unwrap_or(settings.watchdog_usec),
        watchdog_time: s.watchdog_time,
        main_pid: s.main.pid_or_zero(),
        control_pid: s.control.pid_or_zero(),
        exec_main_pid: s.main_record.pid,
        exec_main_start: s.main_record.started,
        exec_main_exit: s.main_record.exited,
        exec_main_code: s.main_record.code,
        exec_main_status: s.main_record.status,
        status_text: s.status_text.clone(),
        status_errno: s.status_errno,
        result: s.result.word().to_owned(),
        reload_result: s.reload_result.word().to_owned(),
        restarts: s.restarts,
        fd_store_used: s.fd_store.len() as u32,
        uid: user.as_ref().map(|u| u.uid),
        gid: user.as_ref().map(|u| u.gid),
        commands: lists.collect(),
    }
}

fn exec_snapshot(setting: &str, command: &ExecCommand, record: ExecRecord) -> ExecSnapshot {
    ExecSnapshot {
        setting: setting.to_owned(),
        path: command.path.clone(),
        argv: command.argv.clone(),
        ignore_failure: command.ignore_failure,
        started: record.started,
        exited: record.exited,
        pid: record.pid,
        code: record.code,
        status: record.status,
    }
}

fn socket(s: &Socket) -> SocketSnapshot {
    let settings: &SocketSettings = &s.settings;
    let kind = |k: ListenKind| match k {
        ListenKind::Stream => "Stream",
        ListenKind::Datagram => "Datagram",
        ListenKind::SequentialPacket => "SequentialPacket",
        ListenKind::Fifo => "FIFO",
        ListenKind::Netlink => "Netlink",
        ListenKind::Special => "Special",
    };
    let lists = [
        ("ExecStartPre", &settings.exec_start_pre),
        ("ExecStartPost", &settings.exec_start_post),
        ("ExecStopPre", &settings.exec_stop_pre),
        ("ExecStopPost", &settings.exec_stop_post),
    ];
    SocketSnapshot {
        listen: settings
            .listen
            .iter()
            .map(|l| (kind(l.kind).to_owned(), shown_address(&l.address)))
            .collect(),
        accept: settings.accept,
        connections: s.connections,
        accepted: s.accepted,
        refused: s.refused,
        control_pid: s.control.pid_or_zero(),
        result: s.result.word().to_owned(),
        commands: lists
            .into_iter()
            .flat_map(|(setting, list)| {
                list.iter()
                    .map(move |c| exec_snapshot(setting, c, ExecRecord::default()))
            })
            .collect(),
    }
}

/// A bare port listens on all addresses and is shown so.
fn shown_address(address: &str) -> String {
    if address.parse::<u16>().is_ok() {
        format!("[::]:{address}")
    } else {
        address.to_owned()
    }
}

fn mount(unit: &Unit, m: &Mount) -> MountSnapshot {
    let settings = &m.settings;
    let place = match settings.where_.as_str() {
        "" => unit.name.to_path().unwrap_or_default(),
        place => place.to_owned(),
    };
    let (what, fs_type, options) = m.kernel.clone().unwrap_or_else(|| {
        (
            settings.what.clone(),
            settings.fs_type.clone().unwrap_or_default(),
            settings.options.clone().unwrap_or_default(),
        )
    });
    MountSnapshot {
        where_: place,
        what,
        fs_type,
        options,
        control_pid: m.control.pid_or_zero(),
        result: m.result.word().to_owned(),
    }
}
