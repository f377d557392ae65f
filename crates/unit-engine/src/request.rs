//! Requests of the control socket.

use init_control::{
    ControlError, ErrorKind, JobEntry, JobMode, JobRef, KillWho, LoadState, PowerAction, Reply,
    Request, UnitListEntry, Verb,
};
use unit_file::value::glob_matches;
use unit_file::{UnitName, UnitType};

use crate::api::{Action, CgroupSignal, ReplyResult, RequestId};
use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{JobResult, JobType};
use crate::state::{
    MountState, PathState, ScopeState, ServiceState, SocketState, TimerState, UnitResult,
};
use crate::unit::{Kind, Unit};

impl Engine {
    pub(crate) fn request(&mut self, cx: &mut Cx<'_>, id: RequestId, request: Request) {
        let result = match request {
            Request::StartUnit { name, verb, mode } => self.start_request(cx, &name, verb, mode),
            Request::StartTransient { unit, mode, aux } => {
                self.start_transient(cx, &unit, mode, &aux)
            }
            Request::Reload => {
                self.reload(cx);
                Ok(Reply::Done)
            }
            Request::Reexec => {
                cx.out.push(Action::Reexec);
                return;
            }
            Request::Power {
                action,
                immediate,
                argument,
            } => self.power_request(cx, action, immediate, argument),
            Request::CancelJob { id } => {
                if self.jobs.contains_key(&id) {
                    self.finish_job(cx, id, JobResult::Canceled, true, false);
                    Ok(Reply::Done)
                } else {
                    let text = format!("Job {id} does not exist.");
                    Err(ControlError::new(ErrorKind::NoSuchJob, text))
                }
            }
            Request::ClearJobs => {
                for job in self.jobs.keys().copied().collect::<Vec<_>>() {
                    self.finish_job(cx, job, JobResult::Canceled, false, false);
                }
                Ok(Reply::Done)
            }
            Request::UnitFiles(request) => {
                cx.out.push(Action::UnitFiles { id, request });
                return;
            }
            Request::Subscribe { .. } => {
                cx.out.push(Action::Forward {
                    id,
                    request: Box::new(request),
                });
                return;
            }
            Request::SetLogLevel { ref level } => {
                self.log_level.clone_from(level);
                cx.out.push(Action::Forward {
                    id,
                    request: Box::new(request),
                });
                return;
            }
            Request::SetEnvironment { assignments } => self.set_environment(&assignments),
            Request::UnsetEnvironment { names } => {
                self.environment.retain(|v| {
                    let name = v.split('=').next().unwrap_or("");
                    !names.iter().any(|n| n == name || n == v)
                });
                Ok(Reply::Done)
            }
            Request::KillUnit { name, who, signal } => self.kill_request(cx, &name, who, signal),
            Request::ResetFailed { name } => self.reset_failed(cx, name.as_deref()),
            Request::AttachProcesses {
                name,
                subcgroup,
                pids,
            } => self.attach(cx, &name, &subcgroup, pids),
            Request::AbandonScope { name } => self.abandon(cx, &name),
            Request::DelegateSelf { pid } => self.delegate_self(cx, pid),
            Request::SetUnitProperties {
                name,
                runtime,
                settings,
            } => self.set_properties(cx, &name, runtime, &settings),
            Request::Ref { name } => self.loaded(&name).map(|unit| {
                self.unit_mut(unit).run.client_refs += 1;
                Reply::Done
            }),
            Request::Unref { name } => self.loaded(&name).and_then(|unit| {
                let run = &mut self.unit_mut(unit).run;
                if run.client_refs == 0 {
                    let text = "Unit has not been referenced yet.";
                    return Err(ControlError::new(ErrorKind::NotReferenced, text));
                }
                run.client_refs -= 1;
                self.gc_queue.insert(unit);
                Ok(Reply::Done)
            }),
            query => self.query(cx, query),
        };
        cx.out.push(Action::Reply {
            id,
            result: Box::new(result),
        });
    }

    /// Requests that change nothing (but may load units).
    fn query(&mut self, cx: &mut Cx<'_>, request: Request) -> ReplyResult {
        match request {
            Request::GetUnit { name } => self.loaded(&name).map(|id| self.name_reply(id)),
            Request::LoadUnit { name } => {
                let name = parse(&name)?;
                let id = self.load_unit(cx, &name);
                Ok(self.name_reply(id))
            }
            Request::GetUnitByPid { pid } => match self.unit_of_pid(cx, pid) {
                Some(id) => Ok(self.name_reply(id)),
                None => {
                    let text = format!("PID {pid} does not belong to any loaded unit.");
                    Err(ControlError::new(ErrorKind::NoUnitForPid, text))
                }
            },
            Request::GetUnitByInvocationId { id: wanted } => {
                let found = self
                    .ids()
                    .find(|id| self.unit(*id).run.invocation_id == Some(wanted));
                found.map(|id| self.name_reply(id)).ok_or_else(|| {
                    let text = "No unit with the specified invocation ID known.";
                    ControlError::new(ErrorKind::NoUnitForInvocationId, text)
                })
            }
            Request::ListUnits { states, patterns } => Ok(self.list_units(&states, &patterns)),
            Request::ListUnitsByNames { names } => {
                let mut out = Vec::with_capacity(names.len());
                for name in names {
                    let name = parse(&name)?;
                    let id = self.load_unit(cx, &name);
                    out.push(self.list_entry(id));
                }
                Ok(Reply::Units(out))
            }
            Request::ListJobs => Ok(Reply::Jobs(
                self.jobs
                    .values()
                    .map(|j| JobEntry {
                        id: j.id,
                        unit: self.unit(j.unit).name.to_string(),
                        job_type: j.job_type.word().to_owned(),
                        running: j.running,
                    })
                    .collect(),
            )),
            Request::UnitSnapshot { name } => {
                let name = match UnitName::parse(&name) {
                    Ok(name) => name,
                    Err(_) => {
                        let empty = init_control::UnitSnapshot::not_found(&name);
                        return Ok(Reply::Unit(Box::new(empty)));
                    }
                };
                let id = self.load_unit(cx, &name);
                Ok(Reply::Unit(Box::new(self.snapshot(cx, id))))
            }
            Request::ManagerSnapshot => Ok(Reply::Manager(Box::new(self.manager_snapshot(cx)))),
            other => Err(ControlError::new(
                ErrorKind::NotSupported,
                format!("This manager does not do that: {other:?}"),
            )),
        }
    }

    fn name_reply(&self, id: UnitId) -> Reply {
        Reply::UnitName(self.unit(id).name.to_string())
    }

    /// The loaded unit of this name.
    pub(crate) fn loaded(&self, name: &str) -> Result<UnitId, ControlError> {
        let name = parse(name)?;
        self.names.get(&name).copied().ok_or_else(|| {
            let text = format!("Unit {name} not loaded.");
            ControlError::new(ErrorKind::NoSuchUnit, text)
        })
    }

    fn start_request(
        &mut self,
        cx: &mut Cx<'_>,
        name: &str,
        verb: Verb,
        mode: JobMode,
    ) -> ReplyResult {
        let name = parse(name)?;
        let id = self.load_unit(cx, &name);
        let reloadable = self.unit(id).can_reload();
        let job_type = match verb {
            Verb::Start => JobType::Start,
            Verb::Stop => JobType::Stop,
            Verb::Restart => JobType::Restart,
            Verb::TryRestart => JobType::TryRestart,
            Verb::Reload => JobType::Reload,
            Verb::ReloadOrRestart if reloadable => JobType::ReloadOrStart,
            Verb::ReloadOrRestart => JobType::Restart,
            Verb::ReloadOrTryRestart if reloadable => JobType::TryReload,
            Verb::ReloadOrTryRestart => JobType::TryRestart,
            Verb::VerifyActive => JobType::VerifyActive,
        };
        let unit = self.unit(id);
        let known = matches!(unit.load, LoadState::Loaded);
        if job_type == JobType::Stop
            && unit.load == LoadState::NotFound
            && unit.active() != init_control::ActiveState::Active
        {
            return Err(ControlError::new(
                ErrorKind::NoSuchUnit,
                format!("Unit {name} not loaded."),
            ));
        }
        let starts = !matches!(job_type, JobType::Stop | JobType::VerifyActive);
        let stops = matches!(
            job_type,
            JobType::Stop | JobType::Restart | JobType::TryRestart
        );
        let refused = (starts && known && unit.settings.refuse_manual_start)
            || (stops && known && unit.settings.refuse_manual_stop);
        if refused {
            let text = format!(
                "Operation refused, unit {name} may be requested by dependency only (it is configured to refuse manual start/stop)."
            );
            return Err(ControlError::new(ErrorKind::OnlyByDependency, text));
        }
        if stops && let Kind::Service(s) = &mut self.unit_mut(id).run.kind {
            // A manual stop or restart begins the count anew.
            s.restart_pending = false;
        }
        let job = self.add_job(cx, id, job_type, mode)?;
        Ok(Reply::Job {
            id: job,
            unit: self.unit(id).name.to_string(),
        })
    }

    fn power_request(
        &mut self,
        cx: &mut Cx<'_>,
        action: PowerAction,
        immediate: bool,
        argument: Option<String>,
    ) -> ReplyResult {
        if immediate {
            cx.out.push(Action::Power {
                action,
                immediate: false,
                argument,
            });
            return Ok(Reply::Done);
        }
        self.power_argument = argument;
        let name = match action {
            PowerAction::Reboot => "reboot.target",
            PowerAction::PowerOff => "poweroff.target",
            PowerAction::Halt => "halt.target",
            PowerAction::Kexec => "kexec.target",
            PowerAction::SoftReboot => "soft-reboot.target",
        };
        let name = parse(name)?;
        let id = self.load_unit(cx, &name);
        self.add_job(cx, id, JobType::Start, JobMode::ReplaceIrreversibly)?;
        Ok(Reply::Done)
    }

    fn set_environment(&mut self, assignments: &[String]) -> ReplyResult {
        for assignment in assignments {
            if unit_file::environment::split_assignment(assignment).is_none() {
                let text = format!("Invalid environment assignment: {assignment}");
                return Err(ControlError::invalid(text));
            }
        }
        for assignment in assignments {
            let prefix = &assignment[..=assignment.find('=').unwrap_or(0)];
            self.environment.retain(|v| !v.starts_with(prefix));
            self.environment.push(assignment.clone());
        }
        Ok(Reply::Done)
    }

    fn list_units(&self, states: &[String], patterns: &[String]) -> Reply {
        let mut out: Vec<UnitListEntry> = self
            .ids()
            .filter(|id| {
                let unit = self.unit(*id);
                let word = |w: &str| {
                    w == unit.load.as_str()
                        || w == unit.active().as_str()
                        || w == unit.run.kind.sub()
                };
                let names = || unit.aliases.iter().chain([&unit.name]);
                (states.is_empty() || states.iter().any(|s| word(s)))
                    && (patterns.is_empty()
                        || names().any(|n| patterns.iter().any(|p| glob_matches(p, n.as_str()))))
            })
            .map(|id| self.list_entry(id))
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Reply::Units(out)
    }

    fn list_entry(&self, id: UnitId) -> UnitListEntry {
        let unit = self.unit(id);
        UnitListEntry {
            name: unit.name.to_string(),
            description: unit.description().to_owned(),
            load: unit.load,
            active: unit.active(),
            sub: unit.run.kind.sub().to_owned(),
            following: self.following(id),
            job: self.job_ref(unit),
        }
    }

    pub(crate) fn job_ref(&self, unit: &Unit) -> Option<JobRef> {
        let job = self.jobs.get(&unit.job?)?;
        Some(JobRef {
            id: job.id,
            job_type: job.job_type.word().to_owned(),
        })
    }

    /// Device links follow the unit of the path in /sys.
    pub(crate) fn following(&self, id: UnitId) -> String {
        let Kind::Device(d) = &self.unit(id).run.kind else {
            return String::new();
        };
        if d.sysfs_path.is_empty() {
            return String::new();
        }
        match UnitName::from_path(&d.sysfs_path, UnitType::Device) {
            Ok(name) if name != self.unit(id).name => name.to_string(),
            _ => String::new(),
        }
    }

    fn kill_request(
        &mut self,
        cx: &mut Cx<'_>,
        name: &str,
        who: KillWho,
        signal: i32,
    ) -> ReplyResult {
        if !(1..=64).contains(&signal) {
            return Err(ControlError::invalid("Signal number out of range."));
        }
        let id = self.loaded(name)?;
        let (main, control) = match &self.unit(id).run.kind {
            Kind::Service(s) => (s.main.pid, s.control.pid),
            Kind::Socket(s) => (None, s.control.pid),
            Kind::Mount(m) => (None, m.control.pid),
            Kind::Scope(_) | Kind::Slice(_) => (None, None),
            _ => {
                let text = "Unit type does not support process killing.";
                return Err(ControlError::new(ErrorKind::NotSupported, text));
            }
        };
        let nobody = |what: &str| {
            let text = format!("No {what} process to kill");
            Err(ControlError::new(ErrorKind::NoSuchProcess, text))
        };
        let mut pids = Vec::new();
        match who {
            KillWho::Main | KillWho::MainFail if main.is_none() => return nobody("main"),
            KillWho::Control | KillWho::ControlFail if control.is_none() => {
                return nobody("control");
            }
            KillWho::Main | KillWho::MainFail => pids.extend(main),
            KillWho::Control | KillWho::ControlFail => pids.extend(control),
            KillWho::All | KillWho::AllFail => {
                pids.extend(main);
                pids.extend(control);
            }
        }
        for pid in &pids {
            cx.out.push(Action::Signal {
                pid: *pid,
                signal,
                then_continue: false,
            });
        }
        if matches!(who, KillWho::All | KillWho::AllFail) {
            let unit = self.unit(id);
            let cgroup = unit
                .cgroup_path
                .clone()
                .filter(|_| unit.run.cgroup_realised);
            let others = cgroup
                .as_deref()
                .map_or(Vec::new(), |c| cx.host.cgroup_processes(c));
            if pids.is_empty() && others.is_empty() && who == KillWho::AllFail {
                return nobody("matching");
            }
            if let Some(cgroup) = cgroup {
                cx.out.push(Action::SignalCgroup(CgroupSignal {
                    cgroup,
                    signal,
                    then_continue: false,
                    also_hangup: false,
                    except: pids,
                    spare_payloads: false,
                }));
            }
        }
        Ok(Reply::Done)
    }

    fn reset_failed(&mut self, cx: &mut Cx<'_>, name: Option<&str>) -> ReplyResult {
        let units: Vec<UnitId> = match name {
            Some(name) => vec![self.loaded(name)?],
            None => self.ids().collect(),
        };
        for id in units {
            let old = self.unit(id).active();
            let unit = self.unit_mut(id);
            unit.run.start_limit.reset();
            unit.run.start_limit_hit = false;
            match &mut unit.run.kind {
                Kind::Service(s) => {
                    s.restarts = 0;
                    if s.state == ServiceState::Failed {
                        s.state = ServiceState::Dead;
                        s.result = UnitResult::Success;
                        s.reload_result = UnitResult::Success;
                    }
                }
                Kind::Socket(s) if s.state == SocketState::Failed => {
                    s.state = SocketState::Dead;
                    s.result = UnitResult::Success;
                }
                Kind::Mount(m) if m.state == MountState::Failed => {
                    m.state = MountState::Dead;
                    m.result = UnitResult::Success;
                }
                Kind::Timer(t) if t.state == TimerState::Failed => {
                    t.state = TimerState::Dead;
                    t.result = UnitResult::Success;
                }
                Kind::Path(p) if p.state == PathState::Failed => {
                    p.state = PathState::Dead;
                    p.result = UnitResult::Success;
                }
                Kind::Scope(s) if s.state == ScopeState::Failed => {
                    s.state = ScopeState::Dead;
                    s.result = UnitResult::Success;
                }
                _ => {}
            }
            if self.unit(id).active() != old {
                self.changed.insert(id);
                self.gc_queue.insert(id);
                self.finish_check = true;
            }
        }
        let _ = cx;
        Ok(Reply::Done)
    }

    fn attach(
        &mut self,
        cx: &mut Cx<'_>,
        name: &str,
        subcgroup: &str,
        pids: Vec<u32>,
    ) -> ReplyResult {
        let id = self.loaded(name)?;
        let unit = self.unit(id);
        let scope = matches!(unit.run.kind, Kind::Scope(_));
        if !scope && !unit.run.delegated {
            let text =
                format!("Process migration not allowed on unit {name}, it is not delegated.");
            return Err(ControlError::new(ErrorKind::AccessDenied, text));
        }
        if !unit.run.cgroup_realised {
            let text = format!("Unit {name} is not running.");
            return Err(ControlError::new(ErrorKind::ScopeNotRunning, text));
        }
        if subcgroup.split('/').any(|p| p == "..") {
            return Err(ControlError::invalid(
                "The sub-group path may not contain '..'.",
            ));
        }
        let base = unit.cgroup_path.clone().unwrap_or_default();
        let cgroup = match subcgroup.trim_matches('/') {
            "" => base,
            sub => format!("{base}/{sub}"),
        };
        cx.out.push(Action::AttachProcesses { cgroup, pids });
        Ok(Reply::Done)
    }

    fn abandon(&mut self, cx: &mut Cx<'_>, name: &str) -> ReplyResult {
        let id = self.loaded(name)?;
        let scope = matches!(self.unit(id).run.kind, Kind::Scope(_)) && !self.unit(id).perpetual;
        if scope && self.scope_abandon(cx, id) {
            return Ok(Reply::Done);
        }
        let text = format!("Scope {name} is not running, cannot abandon.");
        Err(ControlError::new(ErrorKind::ScopeNotRunning, text))
    }

    fn delegate_self(&mut self, cx: &mut Cx<'_>, pid: u32) -> ReplyResult {
        let unit = self.unit_of_pid(cx, pid).filter(|id| {
            let unit = self.unit(*id);
            matches!(unit.run.kind, Kind::Service(_) | Kind::Scope(_)) && !unit.perpetual
        });
        let Some(id) = unit else {
            let text = format!("PID {pid} does not belong to a service or scope.");
            return Err(ControlError::new(ErrorKind::NoUnitForPid, text));
        };
        let unit = self.unit_mut(id);
        let cgroup = unit.cgroup_path.clone().unwrap_or_default();
        if !unit.run.delegated {
            unit.run.delegated = true;
            cx.out.push(Action::DelegateCgroup {
                cgroup: cgroup.clone(),
            });
            self.changed.insert(id);
        }
        Ok(Reply::Text(cgroup))
    }

    // ----- transient units ----------------------------------------------------------------------
}

pub(crate) fn parse(name: &str) -> Result<UnitName, ControlError> {
    UnitName::parse(name)
        .map_err(|error| ControlError::invalid(format!("Unit name {name} is not valid: {error}")))
}
