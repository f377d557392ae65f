//! The serving side of PID 1's control socket, scripted: a handful of units that start and stop at once.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use init_control::frame::{self, Assembler};
use init_control::{
    ActiveState, BootTimes, CalendarTimer, CgroupSnapshot, ClientFrame, ControlError,
    DependencyKind, ErrorKind, ExecSnapshot, LoadState, ManagerSnapshot, Reply, Request,
    ServerFrame, Setting, Signal, Stamp, SubscribeLevel, SystemState, TypeSnapshot, UnitFileChange,
    UnitFileEntry, UnitFileRequest, UnitFileState, UnitListEntry, UnitSnapshot, Verb,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

#[derive(Debug, Default)]
struct State {
    units: BTreeMap<String, UnitSnapshot>,
    asked: Vec<String>,
    jobs: u32,
}

#[derive(Debug)]
pub(crate) struct Engine {
    state: Arc<Mutex<State>>,
    connections: Arc<Mutex<Vec<Arc<OwnedFd>>>>,
}

impl Engine {
    pub(crate) fn start(path: &Path) -> Self {
        let listener = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 16).unwrap();
        let state = Arc::new(Mutex::new(State {
            units: units(),
            ..State::default()
        }));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let engine = Self {
            state: Arc::clone(&state),
            connections: Arc::clone(&connections),
        };
        thread::spawn(move || {
            while let Ok(socket) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                let socket = Arc::new(socket);
                connections.lock().unwrap().push(Arc::clone(&socket));
                let state = Arc::clone(&state);
                thread::spawn(move || serve(&socket, &state));
            }
        });
        engine
    }

    /// Was a request made whose debug text holds this?
    pub(crate) fn saw(&self, text: &str) -> bool {
        self.state
            .lock()
            .unwrap()
            .asked
            .iter()
            .any(|asked| asked.contains(text))
    }

    /// End all connections, as a re-execution does.
    pub(crate) fn hang_up(&self) {
        for socket in self.connections.lock().unwrap().drain(..) {
            let _ = rustix::net::shutdown(&*socket, Shutdown::Both);
        }
    }
}

fn serve(socket: &OwnedFd, state: &Mutex<State>) {
    let mut assembler = Assembler::new();
    let mut buffer = vec![0; frame::MAX_PACKET];
    let mut level = SubscribeLevel::Off;
    loop {
        let Ok((count, _)) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())
        else {
            return;
        };
        if count == 0 {
            return;
        }
        let Some(ClientFrame { id, request }) = assembler.push(&buffer[..count]).unwrap() else {
            continue;
        };
        if let Request::Subscribe { level: wanted } = request {
            level = wanted;
        }
        let (result, signals) = state.lock().unwrap().answer(request);
        send(socket, &ServerFrame::Reply { id, result });
        for signal in signals {
            let wanted = match signal {
                Signal::UnitChanged { .. } => level >= SubscribeLevel::Units,
                _ => level >= SubscribeLevel::Jobs,
            };
            if wanted {
                send(socket, &ServerFrame::Signal(signal));
            }
        }
    }
}

fn send(socket: &OwnedFd, frame: &ServerFrame) {
    for packet in frame::encode(frame).unwrap() {
        if rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}

type Answer = (Result<Reply, ControlError>, Vec<Signal>);

impl State {
    fn answer(&mut self, request: Request) -> Answer {
        self.asked.push(format!("{request:?}"));
        let reply = match request {
            Request::StartUnit { name, verb, .. } => return self.job(&name, verb),
            Request::StartTransient { unit, .. } => {
                let mut snapshot = loaded(&unit.name, "transient");
                snapshot.settings = unit.settings;
                self.units.insert(unit.name.clone(), snapshot);
                return self.job(&unit.name, Verb::Start);
            }
            Request::UnitSnapshot { name } => Ok(Reply::Unit(Box::new(self.snapshot(&name)))),
            Request::ManagerSnapshot => Ok(Reply::Manager(Box::new(self.manager()))),
            Request::GetUnit { name } => match self.units.get(&name) {
                Some(unit) => Ok(Reply::UnitName(unit.id.clone())),
                None => Err(ControlError::new(
                    ErrorKind::NoSuchUnit,
                    format!("Unit {name} not loaded."),
                )),
            },
            Request::LoadUnit { name } => Ok(Reply::UnitName(name)),
            Request::GetUnitByPid { pid } if pid == std::process::id() => {
                Ok(Reply::UnitName("ssh.service".into()))
            }
            Request::GetUnitByPid { pid } => Err(ControlError::new(
                ErrorKind::NoUnitForPid,
                format!("PID {pid} does not belong to any loaded unit."),
            )),
            Request::DelegateSelf { .. } => Ok(Reply::Text("/system.slice/ssh.service".into())),
            Request::ListUnits { states, patterns } => {
                Ok(Reply::Units(self.list(&states, &patterns)))
            }
            Request::ListUnitsByNames { names } => Ok(Reply::Units(
                names
                    .iter()
                    .map(|name| entry(&self.snapshot(name)))
                    .collect(),
            )),
            Request::ListJobs => Ok(Reply::Jobs(Vec::new())),
            Request::ResetFailed { name: Some(name) } => {
                if let Some(unit) = self.units.get_mut(&name) {
                    unit.active = ActiveState::Inactive;
                    unit.sub = "dead".into();
                }
                Ok(Reply::Done)
            }
            Request::UnitFiles(request) => files(request),
            _ => Ok(Reply::Done),
        };
        (reply, Vec::new())
    }

    fn snapshot(&self, name: &str) -> UnitSnapshot {
        self.units
            .get(name)
            .cloned()
            .unwrap_or_else(|| UnitSnapshot::not_found(name))
    }

    fn list(&self, states: &[String], patterns: &[String]) -> Vec<UnitListEntry> {
        let prefix = |pattern: &String| pattern.trim_end_matches('*').to_owned();
        self.units
            .values()
            .filter(|unit| {
                let words = [unit.load.as_str(), unit.active.as_str(), &unit.sub];
                states.is_empty() || states.iter().any(|state| words.contains(&state.as_str()))
            })
            .filter(|unit| {
                patterns.is_empty() || patterns.iter().any(|p| unit.id.starts_with(&prefix(p)))
            })
            .map(entry)
            .collect()
    }

    fn job(&mut self, name: &str, verb: Verb) -> Answer {
        let Some(unit) = self.units.get_mut(name) else {
            return (Err(ControlError::no_such_unit(name)), Vec::new());
        };
        if verb == Verb::Reload && !unit.can_reload {
            let text = format!("Job type reload is not applicable for unit {name}.");
            return (
                Err(ControlError::new(ErrorKind::JobTypeNotApplicable, text)),
                Vec::new(),
            );
        }
        let fails = name == "broken.service";
        (unit.active, unit.sub) = match (verb, fails) {
            (_, true) => (ActiveState::Failed, "failed".into()),
            (Verb::Stop, _) => (ActiveState::Inactive, "dead".into()),
            _ if name == "once.service" => (ActiveState::Inactive, "dead".into()),
            _ => (ActiveState::Active, "running".into()),
        };
        self.jobs += 1;
        let (id, unit) = (self.jobs, name.to_owned());
        let result = if fails { "failed" } else { "done" }.to_owned();
        let snapshot = self.snapshot(name);
        let signals = vec![
            Signal::JobNew {
                id,
                unit: unit.clone(),
            },
            Signal::UnitChanged {
                unit: unit.clone(),
                active: snapshot.active,
                sub: snapshot.sub,
            },
            Signal::JobRemoved {
                id,
                unit: unit.clone(),
                result,
            },
        ];
        (Ok(Reply::Job { id, unit }), signals)
    }

    fn manager(&self) -> ManagerSnapshot {
        let failed = self
            .units
            .values()
            .filter(|unit| unit.active == ActiveState::Failed)
            .count();
        ManagerSnapshot {
            version: "Flotilla test".into(),
            architecture: "x86-64".into(),
            virtualization: "kvm".into(),
            tainted: String::new(),
            state: if failed > 0 {
                SystemState::Degraded
            } else {
                SystemState::Running
            },
            times: BootTimes::default(),
            log_level: "info".into(),
            log_target: "kmsg".into(),
            unit_names: u32::try_from(self.units.len()).unwrap(),
            failed_units: u32::try_from(failed).unwrap(),
            jobs: 0,
            installed_jobs: self.jobs,
            failed_jobs: 0,
            environment: vec!["LANG=C.UTF-8".into(), "PATH=/usr/bin".into()],
            unit_path: vec!["/etc/systemd/system".into()],
            control_group: String::new(),
            defaults: Vec::new(),
        }
    }
}

fn entry(unit: &UnitSnapshot) -> UnitListEntry {
    UnitListEntry {
        name: unit.id.clone(),
        description: unit.description.clone(),
        load: unit.load,
        active: unit.active,
        sub: unit.sub.clone(),
        following: String::new(),
        job: None,
    }
}

fn files(request: UnitFileRequest) -> Result<Reply, ControlError> {
    let wants = "/etc/systemd/system/multi-user.target.wants/idle.service";
    let change = |kind: &str, path: &str, source: &str| {
        Ok(Reply::UnitFileChanges {
            carries_install_info: true,
            changes: vec![UnitFileChange {
                kind: kind.into(),
                path: path.into(),
                source: source.into(),
            }],
        })
    };
    let file = |name: &str, state| UnitFileEntry {
        path: format!("/usr/lib/systemd/system/{name}"),
        state,
        preset: "enabled".into(),
    };
    match request {
        UnitFileRequest::Disable { .. }
        | UnitFileRequest::Unmask { .. }
        | UnitFileRequest::Revert { .. } => change("unlink", wants, ""),
        UnitFileRequest::Mask { .. } => {
            change("symlink", "/etc/systemd/system/idle.service", "/dev/null")
        }
        UnitFileRequest::SetDefaultTarget { name, .. } => change(
            "symlink",
            "/etc/systemd/system/default.target",
            &format!("/usr/lib/systemd/system/{name}"),
        ),
        UnitFileRequest::GetDefaultTarget => Ok(Reply::Text("multi-user.target".into())),
        UnitFileRequest::State { file } => match file.as_str() {
            "ssh.service" => Ok(Reply::UnitFileState(UnitFileState::Enabled)),
            "idle.service" => Ok(Reply::UnitFileState(UnitFileState::Disabled)),
            _ => Err(ControlError::new(
                ErrorKind::FileNotFound,
                "No such file or directory",
            )),
        },
        UnitFileRequest::List { .. } => Ok(Reply::UnitFiles(vec![
            file("ssh.service", UnitFileState::Enabled),
            file("idle.service", UnitFileState::Disabled),
        ])),
        _ => change("symlink", wants, "/usr/lib/systemd/system/idle.service"),
    }
}

fn loaded(name: &str, description: &str) -> UnitSnapshot {
    let mut unit = UnitSnapshot::not_found(name);
    unit.load = LoadState::Loaded;
    unit.load_error = None;
    unit.description = description.into();
    unit.fragment_path = format!("/usr/lib/systemd/system/{name}");
    unit.unit_file_state = Some(UnitFileState::Disabled);
    unit.unit_file_preset = "enabled".into();
    unit.can_start = true;
    unit.can_stop = true;
    unit
}

fn active(name: &str, description: &str, sub: &str) -> UnitSnapshot {
    let mut unit = loaded(name, description);
    unit.active = ActiveState::Active;
    unit.sub = sub.into();
    unit
}

fn ssh() -> UnitSnapshot {
    let mut unit = active("ssh.service", "OpenBSD Secure Shell server", "running");
    let since = Stamp {
        realtime: 1_794_312_000_000_000,
        monotonic: 5_000_000,
    };
    unit.active_enter = since;
    unit.state_change = since;
    unit.inactive_exit = since;
    unit.unit_file_state = Some(UnitFileState::Enabled);
    unit.drop_in_paths = vec!["/etc/systemd/system/ssh.service.d/10-a.conf".into()];
    unit.invocation_id = Some(std::array::from_fn(|index| {
        u8::try_from(index + 1).unwrap()
    }));
    unit.dependencies = vec![
        (DependencyKind::After, vec!["network.target".into()]),
        (DependencyKind::TriggeredBy, vec!["ssh.socket".into()]),
    ];
    unit.cgroup = Some(CgroupSnapshot {
        path: "/system.slice/ssh.service".into(),
        slice: "system.slice".into(),
        ..CgroupSnapshot::default()
    });
    unit.settings = vec![
        Setting::new("Unit", "Documentation", "man:sshd(8) man:sshd_config(5)"),
        Setting::new("Service", "Environment", "A=1 'B=2 3'"),
        Setting::new("Service", "UMask", "0077"),
        Setting::new("Service", "LimitNOFILE", "65536"),
        Setting::new("Service", "MemoryMax", "1G"),
        Setting::new("Service", "TasksMax", "100"),
    ];
    let TypeSnapshot::Service(service) = &mut unit.kind else {
        unreachable!()
    };
    service.service_type = "notify".into();
    service.restart = "on-failure".into();
    service.main_pid = std::process::id();
    service.exec_main_pid = std::process::id();
    service.exec_main_start = since;
    service.status_text = "Listening on port 22".into();
    let command = |setting: &str, argv: &[&str]| ExecSnapshot {
        setting: setting.into(),
        path: argv[0].into(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        ..ExecSnapshot::default()
    };
    service.commands = vec![
        ExecSnapshot {
            started: since,
            exited: since,
            pid: 41,
            code: 1,
            ..command("ExecStartPre", &["/usr/sbin/sshd", "-t"])
        },
        command("ExecStart", &["/usr/sbin/sshd", "-D", "$SSHD_OPTS"]),
    ];
    unit
}

fn units() -> BTreeMap<String, UnitSnapshot> {
    let mut broken = loaded("broken.service", "Always fails");
    broken.active = ActiveState::Failed;
    broken.sub = "failed".into();
    if let TypeSnapshot::Service(service) = &mut broken.kind {
        service.result = "exit-code".into();
        service.exec_main_code = 1;
        service.exec_main_status = 1;
    }
    let mut target = active("multi-user.target", "Multi-User System", "active");
    target.dependencies = vec![(DependencyKind::Wants, vec!["ssh.service".into()])];
    let mut socket = active("ssh.socket", "SSH socket", "running");
    socket.dependencies = vec![(DependencyKind::Triggers, vec!["ssh.service".into()])];
    if let TypeSnapshot::Socket(socket) = &mut socket.kind {
        socket.listen = vec![("Stream".into(), "0.0.0.0:22".into())];
    }
    let mut timer = active("daily.timer", "Daily", "waiting");
    timer.dependencies = vec![(DependencyKind::Triggers, vec!["daily.service".into()])];
    if let TypeSnapshot::Timer(timer) = &mut timer.kind {
        timer.unit = "daily.service".into();
        timer.next_realtime_usec = 1_894_312_000_000_000;
        timer.calendar = vec![CalendarTimer {
            spec: "*-*-* 00:00:00".into(),
            next_usec: 1_894_312_000_000_000,
        }];
    }
    let mut mount = active("home.mount", "/home", "mounted");
    if let TypeSnapshot::Mount(mount) = &mut mount.kind {
        mount.where_ = "/home".into();
        mount.what = "/dev/vdb".into();
    }
    [
        ssh(),
        broken,
        target,
        socket,
        timer,
        mount,
        loaded("idle.service", "Does nothing"),
        loaded("once.service", "Runs once"),
        active("x.path", "Watches", "waiting"),
        active("box.scope", "A container", "running"),
        active("system.slice", "System Slice", "active"),
        active("-.slice", "Root Slice", "active"),
        active("dev-vdb.device", "A disk", "plugged"),
    ]
    .into_iter()
    .map(|unit| (unit.id.clone(), unit))
    .collect()
}
