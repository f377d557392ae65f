//! A machine without a kernel: unit files in a text, processes that behave by their program's name.
//!
//! | program | behaviour |
//! |---|---|
//! | `true` | exits 0 at once |
//! | `false` | exits 1 at once |
//! | `exit N` | exits N at once |
//! | `missing` | cannot be executed |
//! | `fork` | leaves a child behind and exits 0 |
//! | `stubborn` | runs, ignores everything but SIGKILL |
//! | anything else | runs until a signal |
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, reason = "a module of several test crates")]

use std::collections::{BTreeMap, VecDeque};

use init_control::{
    BootTimes, ControlError, JobMode, Reply, Request, Signal, UnitFileState, UnitSnapshot, Verb,
};
use unit_engine::api::{
    ExecFailure, FileError, FileRef, MaskState, MountEntry, MountOperation, Program, UnitFiles,
    UserInfo,
};
use unit_engine::{
    Action, Config, Engine, Event, ExitStatus, FdToken, Host, Now, Output, RequestId, SpawnSpec,
};
use unit_file::UnitName;
use unit_file::settings::ConditionKind;
use unit_file::specifier::MachineInfo;

#[derive(Debug, Clone)]
pub struct Proc {
    pub cgroup: String,
    pub program: String,
    pub argv: Vec<String>,
    pub env: Vec<String>,
}

/// The outside, as far as the engine asks.
#[derive(Debug, Default)]
pub struct World {
    pub files: BTreeMap<String, String>,
    pub links: BTreeMap<String, String>,
    pub other_files: BTreeMap<String, String>,
    /// (unit, `wants` or `requires`, other).
    pub dependency_links: Vec<(String, String, String)>,
    pub procs: BTreeMap<u32, Proc>,
    pub version: u64,
}

impl World {
    /// Reads `== NAME` blocks; `== NAME -> TARGET` is a symlink.
    pub fn parse(text: &str) -> World {
        let mut world = World::default();
        world.add(text);
        world
    }

    pub fn add(&mut self, text: &str) {
        self.version += 1;
        for block in text.split("== ").filter(|b| !b.trim().is_empty()) {
            let (head, body) = block.split_once('\n').unwrap_or((block, ""));
            match head.split_once("->") {
                Some((name, target)) => {
                    self.links
                        .insert(name.trim().to_owned(), target.trim().to_owned());
                }
                None => {
                    self.files.insert(head.trim().to_owned(), body.to_owned());
                }
            }
        }
    }

    fn reference(&self, name: &str) -> Option<FileRef> {
        let text = self.files.get(name)?;
        let stamp = text
            .bytes()
            .fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into()));
        Some(FileRef {
            path: format!("/etc/systemd/system/{name}"),
            stamp,
        })
    }
}

impl Host for World {
    fn unit_files(&self, name: &UnitName) -> UnitFiles {
        let mut out = UnitFiles::default();
        if let Some(target) = self.links.get(name.as_str()) {
            if target == "/dev/null" {
                out.mask = MaskState::Masked;
                return out;
            }
            out.id = UnitName::parse(target).ok();
            return out;
        }
        let own = self.reference(name.as_str());
        let template = name.template().and_then(|t| self.reference(t.as_str()));
        out.fragment = own.or(template);
        for (link, target) in &self.links {
            if target == name.as_str() {
                out.aliases.extend(UnitName::parse(link));
            }
        }
        for (unit, kind, other) in &self.dependency_links {
            let names = || out.aliases.iter().chain([name]);
            if names().any(|n| n.as_str() == unit) {
                match kind.as_str() {
                    "wants" => out.wants.push(other.clone()),
                    _ => out.requires.push(other.clone()),
                }
            }
        }
        let prefix = format!("{name}.d/");
        out.drop_ins = self
            .files
            .keys()
            .filter(|k| k.starts_with(&prefix))
            .filter_map(|k| self.reference(k))
            .collect();
        out
    }

    fn read_unit_file(&self, path: &str) -> Result<String, FileError> {
        let name = path.strip_prefix("/etc/systemd/system/").unwrap_or(path);
        self.files.get(name).cloned().ok_or_else(|| FileError {
            path: path.to_owned(),
            message: "no such file".to_owned(),
            missing: true,
        })
    }

    fn read_environment_files(&self, pattern: &str) -> Result<Vec<String>, FileError> {
        match self.other_files.get(pattern) {
            Some(text) => Ok(vec![text.clone()]),
            None => Err(FileError {
                path: pattern.to_owned(),
                message: "no such file".to_owned(),
                missing: true,
            }),
        }
    }

    fn check_condition(&self, kind: ConditionKind, parameter: &str) -> bool {
        match kind {
            ConditionKind::PathExists => self.other_files.contains_key(parameter),
            _ => false,
        }
    }

    fn machine(&self) -> MachineInfo {
        MachineInfo {
            hostname: "host".to_owned(),
            machine_id: "0123".to_owned(),
            ..Default::default()
        }
    }

    fn user(&self, name: &str) -> Option<UserInfo> {
        (name == "core").then(|| UserInfo {
            name: "core".to_owned(),
            uid: 500,
            gid: 500,
            group: "core".to_owned(),
            home: "/home/core".to_owned(),
            shell: "/bin/bash".to_owned(),
        })
    }

    fn cgroup_processes(&self, cgroup: &str) -> Vec<u32> {
        let below = format!("{cgroup}/");
        self.procs
            .iter()
            .filter(|(_, p)| p.cgroup == cgroup || p.cgroup.starts_with(&below))
            .map(|(pid, _)| *pid)
            .collect()
    }

    fn cgroup_of_process(&self, pid: u32) -> Option<String> {
        self.procs.get(&pid).map(|p| p.cgroup.clone())
    }

    fn read_pid_file(&self, path: &str) -> Option<u32> {
        self.other_files.get(path)?.trim().parse().ok()
    }

    fn process_exists(&self, pid: u32) -> bool {
        self.procs.contains_key(&pid)
    }

    fn timer_stamp(&self, unit: &UnitName) -> Option<u64> {
        self.other_files.get(&format!("stamp-{unit}"))?.parse().ok()
    }

    fn unit_file_state(&self, _unit: &UnitName) -> (Option<UnitFileState>, String) {
        (Some(UnitFileState::Static), String::new())
    }

    fn random_id(&self) -> [u8; 16] {
        let mut id = [7; 16];
        id[0] = self.procs.len() as u8;
        id
    }
}

/// The engine with its world, and what it did.
#[derive(Debug)]
pub struct Sim {
    pub engine: Engine,
    pub world: World,
    pub now: Now,
    pub queue: VecDeque<Event>,
    /// Everything worth looking at, one line each.
    pub trace: Vec<String>,
    pub replies: Vec<(RequestId, Result<Reply, ControlError>)>,
    pub job_results: BTreeMap<u32, String>,
    /// News about units: `new NAME`, `changed NAME active/sub`, `removed NAME`.
    pub news: Vec<String>,
    pub spawned: Vec<SpawnSpec>,
    pub mounts: Vec<MountEntry>,
    next_pid: u32,
    next_request: u64,
    next_token: u64,
}

impl Sim {
    pub fn new(text: &str) -> Sim {
        let mut world = World::parse(text);
        for target in [
            "sysinit.target",
            "basic.target",
            "shutdown.target",
            "multi-user.target",
        ] {
            let text = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n".to_owned();
            world.files.entry(target.to_owned()).or_insert(text);
        }
        let mut sim = Sim {
            engine: Engine::new(Config {
                status_lines: false,
                ..Config::default()
            }),
            world,
            now: Now {
                monotonic: 1_000_000,
                realtime: 1_700_000_000_000_000,
                boottime: 1_000_000,
            },
            queue: VecDeque::new(),
            trace: Vec::new(),
            replies: Vec::new(),
            job_results: BTreeMap::new(),
            news: Vec::new(),
            spawned: Vec::new(),
            mounts: Vec::new(),
            next_pid: 100,
            next_request: 1,
            next_token: 1,
        };
        sim.event(Event::Boot {
            targets: vec!["multi-user.target".to_owned()],
            wants: Vec::new(),
            times: Box::new(BootTimes::default()),
        });
        sim.trace.clear();
        sim
    }

    /// Handles an event and all that follows at once.
    pub fn event(&mut self, event: Event) {
        self.queue.push_back(event);
        let mut turns = 0;
        while let Some(event) = self.queue.pop_front() {
            let out = self.engine.handle(self.now, event, &self.world);
            self.perform(out);
            turns += 1;
            assert!(
                turns < 20_000,
                "events go on for ever: {:?}",
                &self.trace[self.trace.len() - 20..]
            );
        }
    }

    pub fn perform(&mut self, out: Output) {
        for action in out {
            match action {
                Action::Spawn(spec) => self.spawn(*spec),
                Action::Signal { pid, signal, .. } => self.signal(pid, signal),
                Action::SignalCgroup(s) => {
                    for pid in self.world.cgroup_processes(&s.cgroup) {
                        let payload = self.world.procs[&pid].cgroup.contains("/payload-");
                        let spared = s.spare_payloads && payload;
                        if !s.except.contains(&pid) && !spared {
                            self.signal(pid, s.signal);
                        }
                    }
                }
                Action::OpenSockets { unit, settings } => {
                    let tokens = settings.listen.iter().map(|_| self.token()).collect();
                    self.queue.push_back(Event::SocketsOpened {
                        unit,
                        result: Ok(tokens),
                    });
                }
                Action::AttachProcesses { cgroup, pids } => {
                    for pid in pids {
                        if let Some(p) = self.world.procs.get_mut(&pid) {
                            p.cgroup.clone_from(&cgroup);
                        }
                    }
                }
                Action::Reply { id, result } => {
                    self.trace.push("reply".to_owned());
                    self.replies.push((id, *result));
                }
                Action::Broadcast(Signal::JobRemoved { id, unit, result }) => {
                    self.trace.push(format!("job {unit} {result}"));
                    self.job_results.insert(id, result);
                }
                Action::Broadcast(Signal::UnitNew { unit }) => {
                    self.news.push(format!("new {unit}"));
                }
                Action::Broadcast(Signal::UnitChanged { unit, active, sub }) => {
                    self.news.push(format!("changed {unit} {active}/{sub}"));
                }
                Action::Broadcast(Signal::UnitRemoved { unit }) => {
                    self.news.push(format!("removed {unit}"));
                }
                Action::Power { action, .. } => self.trace.push(format!("power {action}")),
                Action::Log(log) => self.trace.push(format!("log {}", log.text)),
                Action::WriteTimerStamp { unit, realtime } => {
                    self.world
                        .other_files
                        .insert(format!("stamp-{unit}"), realtime.to_string());
                }
                Action::WriteUnitFile { path, text } => {
                    let name = path.rsplit('/').next().unwrap().to_owned();
                    self.world.files.insert(name, text);
                }
                Action::CloseFds(tokens) => self.trace.push(format!("close {}", tokens.len())),
                Action::WatchSockets { unit, .. } => self.trace.push(format!("watch {unit}")),
                Action::RemoveCgroup { cgroup } => self.trace.push(format!("rmdir {cgroup}")),
                _ => {}
            }
        }
    }

    pub fn token(&mut self) -> FdToken {
        self.next_token += 1;
        FdToken(self.next_token)
    }

    fn spawn(&mut self, spec: SpawnSpec) {
        let pid = self.next_pid;
        self.next_pid += 1;
        let id = spec.id;
        let cgroup = match &spec.subgroup {
            Some(sub) => format!("{}/{sub}", spec.cgroup),
            None => spec.cgroup.clone(),
        };
        let (program, argv) = match &spec.program {
            Program::Exec { path, argv } => {
                (path.rsplit('/').next().unwrap().to_owned(), argv.clone())
            }
            Program::Mount(op) => {
                self.mount(op);
                ("true".to_owned(), Vec::new())
            }
        };
        self.trace
            .push(format!("spawn {} {}", spec.unit, argv.join(" ")));
        let proc = Proc {
            cgroup: cgroup.clone(),
            program: program.clone(),
            argv: argv.clone(),
            env: spec.environment.clone(),
        };
        self.spawned.push(spec);
        self.world.procs.insert(pid, proc.clone());
        self.queue.push_back(Event::Spawned { id, pid });
        if program == "missing" {
            let failure = ExecFailure {
                step: 203,
                errno: 2,
                what: "execute".to_owned(),
            };
            self.queue.push_back(Event::ExecFailed { id, failure });
            self.exit(pid, ExitStatus::Exited(203));
            return;
        }
        self.queue.push_back(Event::ExecDone { id });
        match program.as_str() {
            "true" => self.exit(pid, ExitStatus::Exited(0)),
            "false" => self.exit(pid, ExitStatus::Exited(1)),
            "exit" => {
                let code = argv.get(1).and_then(|c| c.parse().ok()).unwrap_or(1);
                self.exit(pid, ExitStatus::Exited(code));
            }
            "fork" => {
                let child = self.next_pid;
                self.next_pid += 1;
                self.world.procs.insert(
                    child,
                    Proc {
                        program: "daemon".to_owned(),
                        ..proc
                    },
                );
                self.exit(pid, ExitStatus::Exited(0));
            }
            _ => {}
        }
    }

    fn mount(&mut self, op: &MountOperation) {
        match op {
            MountOperation::Mount {
                what,
                where_,
                fs_type,
                options,
                ..
            } => {
                self.mounts.push(MountEntry {
                    id: self.mounts.len() as u64 + 1,
                    what: what.clone(),
                    where_: where_.clone(),
                    fs_type: fs_type.clone().unwrap_or_default(),
                    options: options.clone(),
                });
            }
            MountOperation::Unmount { where_, .. } => self.mounts.retain(|m| m.where_ != *where_),
            MountOperation::Remount { .. } => {}
        }
        self.queue.push_back(Event::MountTable(self.mounts.clone()));
    }

    /// A process ends; the engine hears of it with the next events.
    pub fn exit(&mut self, pid: u32, status: ExitStatus) {
        let Some(proc) = self.world.procs.remove(&pid) else {
            return;
        };
        self.queue.push_back(Event::ChildExited { pid, status });
        let mut path = proc.cgroup.as_str();
        while path.matches('/').count() >= 2
            || path.ends_with(".scope")
            || path.ends_with(".service")
        {
            if self.world.cgroup_processes(path).is_empty() {
                self.queue.push_back(Event::CgroupEmpty {
                    cgroup: path.to_owned(),
                });
            }
            path = match path.rfind('/') {
                Some(at) if at > 0 => &path[..at],
                _ => break,
            };
        }
    }

    pub fn signal(&mut self, pid: u32, signal: i32) {
        let Some(proc) = self.world.procs.get(&pid) else {
            return;
        };
        if signal == 9 || (proc.program != "stubborn" && matches!(signal, 1 | 2 | 6 | 15)) {
            self.exit(pid, ExitStatus::Killed(signal));
        }
    }

    /// Ends a process and lets everything follow.
    pub fn end(&mut self, pid: u32, status: ExitStatus) {
        self.exit(pid, status);
        let Some(first) = self.queue.pop_front() else {
            return;
        };
        let rest = std::mem::take(&mut self.queue);
        self.queue.push_back(first);
        self.queue.extend(rest);
        let event = self.queue.pop_front().unwrap();
        self.event_front(event);
    }

    fn event_front(&mut self, event: Event) {
        self.queue.push_front(event);
        let event = self.queue.pop_front().unwrap();
        let out = self.engine.handle(self.now, event, &self.world);
        self.perform(out);
        while let Some(event) = self.queue.pop_front() {
            let out = self.engine.handle(self.now, event, &self.world);
            self.perform(out);
        }
    }

    /// Lets time pass, deadline by deadline.
    pub fn advance(&mut self, usec: u64) {
        let end = self.now.monotonic + usec;
        let mut turns = 0;
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.set_clock(at.max(self.now.monotonic));
            self.event(Event::TimerElapsed);
            turns += 1;
            assert!(turns < 5_000, "deadlines go on for ever");
        }
        self.set_clock(end);
    }

    fn set_clock(&mut self, monotonic: u64) {
        let step = monotonic - self.now.monotonic;
        self.now.monotonic += step;
        self.now.realtime += step;
        self.now.boottime += step;
    }

    pub fn request(&mut self, request: Request) -> Result<Reply, ControlError> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.event(Event::Request { id, request });
        let at = self
            .replies
            .iter()
            .position(|(i, _)| *i == id)
            .expect("every request is answered");
        self.replies.remove(at).1
    }

    /// Queues a job; its result, or `waiting`, or the error's text.
    pub fn job(&mut self, verb: Verb, name: &str, mode: JobMode) -> String {
        match self.request(Request::StartUnit {
            name: name.to_owned(),
            verb,
            mode,
        }) {
            Ok(Reply::Job { id, .. }) => self
                .job_results
                .get(&id)
                .cloned()
                .unwrap_or_else(|| "waiting".to_owned()),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{:?}", error.kind),
        }
    }

    pub fn start(&mut self, name: &str) -> String {
        self.job(Verb::Start, name, JobMode::Replace)
    }

    pub fn stop(&mut self, name: &str) -> String {
        self.job(Verb::Stop, name, JobMode::Replace)
    }

    pub fn restart(&mut self, name: &str) -> String {
        self.job(Verb::Restart, name, JobMode::Replace)
    }

    pub fn snapshot(&mut self, name: &str) -> UnitSnapshot {
        match self.request(Request::UnitSnapshot {
            name: name.to_owned(),
        }) {
            Ok(Reply::Unit(unit)) => *unit,
            other => panic!("{other:?}"),
        }
    }

    /// `active/sub`.
    pub fn state(&mut self, name: &str) -> String {
        let unit = self.snapshot(name);
        format!("{}/{}", unit.active, unit.sub)
    }

    pub fn service(&mut self, name: &str) -> init_control::ServiceSnapshot {
        match self.snapshot(name).kind {
            init_control::TypeSnapshot::Service(s) => *s,
            other => panic!("{other:?}"),
        }
    }

    /// Jobs in the queue.
    pub fn jobs(&mut self) -> Vec<String> {
        match self.request(Request::ListJobs) {
            Ok(Reply::Jobs(jobs)) => jobs
                .into_iter()
                .map(|j| format!("{} {}", j.unit, j.job_type))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Pids of the processes of a unit.
    pub fn pids(&self, unit: &str) -> Vec<u32> {
        self.world
            .procs
            .iter()
            .filter(|(_, p)| p.cgroup.split('/').any(|part| part == unit))
            .map(|(pid, _)| *pid)
            .collect()
    }

    pub fn notify(&mut self, unit: &str, text: &str) {
        let pid = self.pids(unit)[0];
        let cgroup = self.world.cgroup_of_process(pid);
        let text = text.to_owned();
        self.event(Event::Notify {
            pid,
            uid: 0,
            cgroup,
            text,
            fds: Vec::new(),
        });
    }

    /// Spawns in order, as `unit argv`.
    pub fn spawns(&self) -> Vec<&str> {
        self.trace
            .iter()
            .filter_map(|l| l.strip_prefix("spawn "))
            .collect()
    }

    pub fn saw(&self, line: &str) -> bool {
        self.trace.iter().any(|l| l.contains(line))
    }
}
