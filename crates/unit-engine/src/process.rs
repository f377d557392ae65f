//! Processes and control groups of units: starting, signalling, and who a pid belongs to.

use std::sync::Arc;

use unit_file::environment::{Environment, parse_environment_file};
use unit_file::settings::{
    Delegate, ExecCommand, ExecSettings, KillMode, KillSettings, Preserve, Privilege,
};

use crate::api::{
    Action, CgroupSignal, ExecFailure, ExitStatus, FdToken, LogLevel, PassedFd, Program, SpawnId,
    SpawnRole, SpawnSpec,
};
use crate::engine::{Cx, Engine};
use crate::graph::{JOINS_NAMESPACE_OF, UnitId};
use crate::state::is_active_or_activating;
use crate::unit::{Kind, Process};

/// Which stage of ending the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillStage {
    Terminate,
    Restart,
    Watchdog,
    Kill,
}

/// What is special to one spawn.
#[derive(Debug, Default)]
pub(crate) struct SpawnExtra {
    /// Variables after all others.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) fds: Vec<PassedFd>,
    pub(crate) stdio_socket: Option<FdToken>,
    pub(crate) notify: bool,
    pub(crate) subgroup: Option<String>,
    pub(crate) non_blocking: bool,
    pub(crate) ignore_root: bool,
}

impl Engine {
    /// Starts a program of a unit. An error means `Result=resources`.
    pub(crate) fn spawn_command(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        role: SpawnRole,
        command: &ExecCommand,
        extra: SpawnExtra,
    ) -> Result<Process, String> {
        let exec = self.unit(id).exec.clone();
        let environment = self.build_environment(cx, id, &exec, &extra)?;
        let argv = match command.no_expand {
            true => command.argv.clone(),
            false => environment.expand_argv(&command.argv),
        };
        let program = if command.via_shell {
            let line = argv.join(" ");
            Program::Exec {
                path: "/bin/sh".to_owned(),
                argv: vec!["sh".to_owned(), "-c".to_owned(), line],
            }
        } else {
            Program::Exec {
                path: command.path.clone(),
                argv,
            }
        };
        Ok(self.spawn(
            cx,
            id,
            role,
            program,
            environment.to_list(),
            command.privilege,
            exec,
            extra,
        ))
    }

    /// Starts anything.
    #[allow(clippy::too_many_arguments, reason = "one call site builds each part")]
    pub(crate) fn spawn(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        role: SpawnRole,
        program: Program,
        environment: Vec<String>,
        privilege: Privilege,
        exec: Arc<ExecSettings>,
        extra: SpawnExtra,
    ) -> Process {
        self.realise_cgroup(cx, id);
        let spawn = SpawnId(self.next_spawn);
        self.next_spawn += 1;
        self.spawns.insert(spawn, (id, role));
        let unit = self.unit(id);
        let namespace_of = unit
            .edges
            .with(JOINS_NAMESPACE_OF)
            .filter_map(|o| self.get(o))
            .find(|u| is_active_or_activating(u.active()))
            .map_or_else(|| unit.name.clone(), |u| u.name.clone());
        let spec = SpawnSpec {
            id: spawn,
            unit: unit.name.clone(),
            role,
            program,
            environment,
            exec,
            privilege,
            cgroup: unit.cgroup_path.clone().unwrap_or_default(),
            subgroup: extra.subgroup,
            fds: extra.fds,
            stdio_socket: extra.stdio_socket,
            non_blocking: extra.non_blocking,
            invocation_id: unit.run.invocation_id.unwrap_or_default(),
            namespace_of,
            apply_root: !extra.ignore_root,
        };
        cx.out.push(Action::Spawn(Box::new(spec)));
        Process {
            spawn: Some(spawn),
            pid: None,
        }
    }

    fn build_environment(
        &self,
        cx: &Cx<'_>,
        id: UnitId,
        exec: &ExecSettings,
        extra: &SpawnExtra,
    ) -> Result<Environment, String> {
        let unit = self.unit(id);
        let mut env = Environment::default();
        let set_list = |env: &mut Environment, list: &[String]| {
            for item in list {
                if let Some((name, value)) = item.split_once('=') {
                    env.set(name, value);
                }
            }
        };
        let default = self.environment.iter().filter(|v| {
            // Only these two of the manager's own variables reach services by themselves.
            let name = v.split('=').next().unwrap_or("");
            !self.config.environment.contains(v) || name == "LANG" || name == "PATH"
        });
        set_list(&mut env, &default.cloned().collect::<Vec<_>>());
        for name in &exec.pass_environment {
            if let Some(value) = self
                .environment
                .iter()
                .find_map(|v| v.strip_prefix(&format!("{name}=")))
            {
                env.set(name, value);
            }
        }
        if let Some(user) = exec.user.as_deref().and_then(|u| cx.host.user(u)) {
            env.set("LOGNAME", &user.name);
            env.set("USER", &user.name);
            if user.home.starts_with('/') && user.home != "/nonexistent" {
                env.set("HOME", &user.home);
            }
            if user.shell.starts_with('/')
                && !user.shell.ends_with("/nologin")
                && !user.shell.ends_with("/false")
            {
                env.set("SHELL", &user.shell);
            }
        }
        for directory in exec.directories.iter().filter(|d| !d.names.is_empty()) {
            let paths: Vec<String> = directory
                .names
                .iter()
                .map(|n| format!("{}/{n}", directory.kind.base()))
                .collect();
            env.set(directory.kind.variable(), &paths.join(":"));
        }
        if !exec.credentials.is_empty() {
            env.set(
                "CREDENTIALS_DIRECTORY",
                &format!("/run/credentials/{}", unit.name),
            );
        }
        for (name, value) in &exec.environment {
            env.set(name, value);
        }
        for file in &exec.environment_files {
            match cx.host.read_environment_files(&file.path) {
                Ok(texts) if texts.is_empty() && !file.optional => {
                    return Err(format!("environment file {} does not exist", file.path));
                }
                Ok(texts) => {
                    for (name, value) in texts.iter().flat_map(|t| parse_environment_file(t)) {
                        env.set(&name, &value);
                    }
                }
                Err(_) if file.optional => {}
                Err(error) => return Err(format!("environment file: {error}")),
            }
        }
        if let Some(invocation) = unit.run.invocation_id {
            env.set("INVOCATION_ID", &hex(&invocation));
        }
        if extra.notify {
            env.set("NOTIFY_SOCKET", &self.config.notify_socket);
        }
        if !extra.fds.is_empty() {
            let names: Vec<&str> = extra.fds.iter().map(|f| f.name.as_str()).collect();
            env.set("LISTEN_FDS", &extra.fds.len().to_string());
            env.set("LISTEN_FDNAMES", &names.join(":"));
        }
        for (name, value) in &extra.environment {
            env.set(name, value);
        }
        for name in &exec.unset_environment {
            env.unset(name);
        }
        Ok(env)
    }

    /// Makes the unit's control group if it is not there.
    pub(crate) fn realise_cgroup(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let unit = self.unit(id);
        let Some(path) = unit.cgroup_path.clone() else {
            return;
        };
        if unit.run.cgroup_realised {
            return;
        }
        let owner = match unit.cgroup.delegate {
            Delegate::No => None,
            _ => unit.exec.user.clone(),
        };
        let watch = matches!(unit.run.kind, Kind::Service(_) | Kind::Scope(_));
        // Slices first, so that their settings stand before the first process is born below them.
        if let Some(slice) = unit.slice.as_ref().and_then(|s| self.names.get(s)).copied() {
            self.realise_cgroup(cx, slice);
        }
        let unit = self.unit_mut(id);
        unit.run.cgroup_realised = true;
        unit.run.delegated = unit.cgroup.delegate != Delegate::No;
        cx.out.push(Action::RealiseCgroup {
            unit: unit.name.clone(),
            cgroup: path,
            settings: unit.cgroup.clone(),
            owner,
            invocation_id: unit.run.invocation_id,
            watch,
        });
    }

    /// Removes the group of a unit that is down, and what its run left.
    pub(crate) fn release_cgroup(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let unit = self.unit_mut(id);
        let restarts = matches!(&unit.run.kind, Kind::Service(s) if s.will_restart);
        if unit.run.cgroup_realised && !unit.perpetual {
            unit.run.cgroup_realised = false;
            unit.run.delegated = false;
            if let Some(cgroup) = unit.cgroup_path.clone() {
                cx.out.push(Action::RemoveCgroup { cgroup });
            }
        }
        let Some(invocation_id) = unit.run.invocation_id else {
            return;
        };
        let keep = match unit.exec.runtime_directory_preserve {
            Preserve::Yes => true,
            Preserve::Restart => restarts,
            Preserve::No => false,
        };
        let directories: Vec<_> = unit
            .exec
            .directories
            .iter()
            .filter(|d| d.kind == unit_file::settings::DirectoryKind::Runtime && !keep)
            .cloned()
            .collect();
        if !directories.is_empty() || unit.exec.private_tmp || !unit.exec.credentials.is_empty() {
            cx.out.push(Action::CleanUp {
                unit: unit.name.clone(),
                invocation_id,
                directories,
            });
        }
    }

    /// Signals the unit's processes for a stage; true when there is something to wait for.
    pub(crate) fn kill_processes(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        kill: &KillSettings,
        stage: KillStage,
        main: (Process, bool),
        control: Process,
    ) -> bool {
        if kill.kill_mode == KillMode::None {
            return false;
        }
        let signal = match stage {
            KillStage::Terminate => kill.kill_signal,
            KillStage::Restart => kill.restart_kill_signal.unwrap_or(kill.kill_signal),
            KillStage::Watchdog => kill.watchdog_signal,
            KillStage::Kill => kill.final_kill_signal,
        };
        let polite = matches!(stage, KillStage::Terminate | KillStage::Restart);
        let then_continue = matches!(signal, 15 | 1);
        let also_hangup = polite && kill.send_sighup && signal != 1;
        let (main, alien) = main;
        let mut wait = (main.alive() && !alien) || control.alive();
        let mut except = Vec::new();
        for pid in [main.pid, control.pid].into_iter().flatten() {
            except.push(pid);
            cx.out.push(Action::Signal {
                pid,
                signal,
                then_continue,
            });
            if also_hangup {
                cx.out.push(Action::Signal {
                    pid,
                    signal: 1,
                    then_continue: false,
                });
            }
        }
        let whole = kill.kill_mode == KillMode::ControlGroup
            || (kill.kill_mode == KillMode::Mixed && stage == KillStage::Kill);
        let unit = self.unit(id);
        if let (true, true, Some(cgroup)) =
            (whole, unit.run.cgroup_realised, unit.cgroup_path.clone())
        {
            let others = cx.host.cgroup_processes(&cgroup);
            let left = others.iter().any(|p| !except.contains(p));
            let unborn = main.spawn.is_some() || control.spawn.is_some();
            if left || unborn {
                wait |= left;
                cx.out.push(Action::SignalCgroup(CgroupSignal {
                    cgroup,
                    signal,
                    then_continue,
                    also_hangup,
                    except: if signal == 9 { Vec::new() } else { except },
                    spare_payloads: polite,
                }));
            }
        }
        wait
    }

    /// The unit whose control group is this one or contains it.
    pub(crate) fn unit_of_cgroup(&self, cgroup: &str) -> Option<UnitId> {
        let mut path = cgroup;
        loop {
            if let Some(id) = self.cgroups.get(path) {
                return Some(*id);
            }
            match path.rfind('/') {
                Some(0) | None => return self.cgroups.get("/").copied(),
                Some(at) => path = &path[..at],
            }
        }
    }

    /// The unit that a process belongs to.
    pub(crate) fn unit_of_pid(&self, cx: &Cx<'_>, pid: u32) -> Option<UnitId> {
        if let Some((id, _)) = self.pids.get(&pid) {
            return Some(*id);
        }
        let cgroup = cx.host.cgroup_of_process(pid)?;
        self.unit_of_cgroup(&cgroup)
    }

    pub(crate) fn spawned(&mut self, cx: &mut Cx<'_>, spawn: SpawnId, pid: u32) {
        let Some((id, role)) = self.spawns.get(&spawn).copied() else {
            return;
        };
        self.pids.insert(pid, (id, role));
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_spawned(cx, id, role, spawn, pid),
            Kind::Socket(_) | Kind::Mount(_) => {
                if let Some(control) = self.control_of(id) {
                    control.pid = Some(pid);
                }
            }
            _ => {}
        }
        self.changed.insert(id);
    }

    /// The control process slot of sockets and mounts.
    fn control_of(&mut self, id: UnitId) -> Option<&mut Process> {
        match &mut self.unit_mut(id).run.kind {
            Kind::Socket(s) => Some(&mut s.control),
            Kind::Mount(m) => Some(&mut m.control),
            _ => None,
        }
    }

    pub(crate) fn spawn_failed(&mut self, cx: &mut Cx<'_>, spawn: SpawnId, message: &str) {
        let Some((id, role)) = self.spawns.remove(&spawn) else {
            return;
        };
        let name = self.unit(id).name.clone();
        self.log(
            cx,
            LogLevel::Error,
            Some(name.clone()),
            format!("{name}: cannot start a process: {message}"),
        );
        self.process_lost(cx, id, role);
    }

    /// A process could not be made: the unit's state machine hears it as `resources`.
    fn process_lost(&mut self, cx: &mut Cx<'_>, id: UnitId, role: SpawnRole) {
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_process_lost(cx, id, role),
            Kind::Socket(_) => self.socket_control_exited(cx, id, None),
            Kind::Mount(_) => self.mount_control_exited(cx, id, None),
            _ => {}
        }
    }

    pub(crate) fn exec_done(&mut self, cx: &mut Cx<'_>, spawn: SpawnId) {
        if let Some((id, role)) = self.spawns.get(&spawn).copied()
            && matches!(self.unit(id).run.kind, Kind::Service(_))
        {
            self.service_exec_done(cx, id, role, spawn);
        }
    }

    pub(crate) fn exec_failed(&mut self, cx: &mut Cx<'_>, spawn: SpawnId, failure: &ExecFailure) {
        let Some((id, _)) = self.spawns.get(&spawn).copied() else {
            return;
        };
        let name = self.unit(id).name.clone();
        let step = init_control::exit_step(failure.step).unwrap_or("EXEC");
        let text = format!(
            "{name}: Failed at step {step}: {} (errno {})",
            failure.what, failure.errno
        );
        self.log(cx, LogLevel::Error, Some(name), text);
    }

    pub(crate) fn child_exited(&mut self, cx: &mut Cx<'_>, pid: u32, status: ExitStatus) {
        let Some((id, role)) = self.pids.remove(&pid) else {
            return;
        };
        if let Some(spawn) = spawn_of(&self.unit(id).run.kind, role) {
            self.spawns.remove(&spawn);
        }
        self.changed.insert(id);
        self.gc_queue.insert(id);
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_child_exited(cx, id, pid, status),
            Kind::Socket(_) => self.socket_control_exited(cx, id, Some(status)),
            Kind::Mount(_) => self.mount_control_exited(cx, id, Some(status)),
            _ => {}
        }
    }

    pub(crate) fn cgroup_empty(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_cgroup_empty(cx, id),
            Kind::Scope(_) => self.scope_cgroup_empty(cx, id),
            _ => {}
        }
    }

    pub(crate) fn oom_kill(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let name = self.unit(id).name.clone();
        let text = format!("{name}: A process of this unit has been killed by the OOM killer.");
        self.log(cx, LogLevel::Error, Some(name), text);
        self.unit_mut(id).run.oom_killed = true;
        if matches!(self.unit(id).run.kind, Kind::Service(_)) {
            self.service_oom_kill(cx, id);
        }
    }

    pub(crate) fn state_timed_out(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let Some(unit) = self.get(id) else { return };
        match unit.run.kind {
            Kind::Service(_) => self.service_timed_out(cx, id),
            Kind::Socket(_) => self.socket_timed_out(cx, id),
            Kind::Mount(_) => self.mount_timed_out(cx, id),
            Kind::Scope(_) => self.scope_timed_out(cx, id),
            _ => {}
        }
    }
}

fn spawn_of(kind: &Kind, role: SpawnRole) -> Option<SpawnId> {
    match (kind, role) {
        (Kind::Service(s), SpawnRole::Main) => s.main.spawn,
        (Kind::Service(s), SpawnRole::Control) => s.control.spawn,
        (Kind::Socket(s), _) => s.control.spawn,
        (Kind::Mount(m), _) => m.control.spawn,
        _ => None,
    }
}

/// Lower-case hex of an id.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
