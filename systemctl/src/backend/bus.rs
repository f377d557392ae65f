//! The system bus: requests as D-Bus calls, answers as the control socket's replies.

use dbus_api::blocking::Connection;
use dbus_api::systemd1::{self as sd, Job, Process};
use dbus_api::wire::Value;
use dbus_api::{Call, Error, login1, names};
use init_control::{
    ActiveState, ControlError, EnableFlags, ErrorKind, JobEntry, JobRef, LoadState, PowerAction,
    Reply, Request, UnitFileChange, UnitFileEntry, UnitFileRequest, UnitFileState, UnitListEntry,
};

use super::{Backend, Failure, Ordered};

/// A connection to the bus.
#[derive(Debug)]
pub(super) struct BusBackend {
    bus: Connection,
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Remote { name, message, .. } => {
            let kind = ErrorKind::from_dbus_name(&name).unwrap_or(ErrorKind::Failed);
            Failure::Refused(ControlError::new(kind, message))
        }
        other => Failure::Unreachable(telemetry::chain(&other)),
    }
}

impl BusBackend {
    pub(super) fn connect() -> Result<Self, Failure> {
        let bus = Connection::system().map_err(|error| {
            Failure::Unreachable(format!(
                "Failed to connect to bus: {}",
                telemetry::chain(&error)
            ))
        })?;
        Ok(Self { bus })
    }

    fn call<T>(&mut self, call: Call<T>) -> Result<T, Failure> {
        self.bus.call(call).map_err(failure)
    }

    fn done(&mut self, call: Call<()>) -> Result<Reply, Failure> {
        self.call(call).map(|()| Reply::Done)
    }

    fn manager_call<T>(
        &mut self,
        member: &str,
        body: Vec<Value>,
        read: fn(&[Value]) -> Option<T>,
    ) -> Result<T, Failure> {
        self.call(Call::new(
            sd::NAME,
            sd::PATH,
            sd::MANAGER,
            member,
            body,
            read,
        ))
    }

    fn job(&mut self, member: &str, body: Vec<Value>, unit: &str) -> Result<Reply, Failure> {
        let job = self.manager_call(member, body, |body| {
            body.first()?.as_str().map(|path| Job(path.to_owned()))
        })?;
        Ok(Reply::Job {
            id: job.id().unwrap_or_default(),
            unit: unit.to_owned(),
        })
    }

    fn get_all(&mut self, path: &str) -> Result<Ordered, Failure> {
        let call = Call::new(
            sd::NAME,
            path,
            sd::PROPERTIES,
            "GetAll",
            vec![Value::str("")],
            ordered,
        );
        self.call(call)
    }

    fn power(&mut self, action: PowerAction, immediate: bool) -> Result<Reply, Failure> {
        let member = match action {
            PowerAction::Reboot => "Reboot",
            PowerAction::PowerOff => "PowerOff",
            PowerAction::Halt => "Halt",
            PowerAction::Kexec => "KExec",
            PowerAction::SoftReboot => "SoftReboot",
        };
        if immediate {
            return self.manager_call(member, vec![], |_| Some(Reply::Done));
        }
        match action {
            PowerAction::Reboot => self.done(login1::reboot()),
            PowerAction::PowerOff => self.done(login1::power_off()),
            PowerAction::Halt => self.done(login1::halt()),
            PowerAction::Kexec | PowerAction::SoftReboot => {
                let target = format!("{action}.target");
                let body = vec![Value::str(&*target), Value::str("replace-irreversibly")];
                self.job("StartUnit", body, &target)
            }
        }
    }

    fn files(&mut self, request: UnitFileRequest) -> Result<Reply, Failure> {
        let both = |files: &[String], flags: EnableFlags| {
            vec![
                list(files),
                Value::Bool(flags.runtime),
                Value::Bool(flags.force),
            ]
        };
        let (member, body) = match request {
            UnitFileRequest::Enable { files, flags } => ("EnableUnitFiles", both(&files, flags)),
            UnitFileRequest::Reenable { files, flags } => {
                ("ReenableUnitFiles", both(&files, flags))
            }
            UnitFileRequest::Link { files, flags } => ("LinkUnitFiles", both(&files, flags)),
            UnitFileRequest::Mask { files, flags } => ("MaskUnitFiles", both(&files, flags)),
            UnitFileRequest::Disable { files, flags } => (
                "DisableUnitFiles",
                vec![list(&files), Value::Bool(flags.runtime)],
            ),
            UnitFileRequest::Unmask { files, flags } => (
                "UnmaskUnitFiles",
                vec![list(&files), Value::Bool(flags.runtime)],
            ),
            UnitFileRequest::Preset { files, mode, flags } => (
                "PresetUnitFilesWithMode",
                vec![
                    list(&files),
                    Value::str(mode.as_str()),
                    Value::Bool(flags.runtime),
                    Value::Bool(flags.force),
                ],
            ),
            UnitFileRequest::PresetAll { mode, flags } => (
                "PresetAllUnitFiles",
                vec![
                    Value::str(mode.as_str()),
                    Value::Bool(flags.runtime),
                    Value::Bool(flags.force),
                ],
            ),
            UnitFileRequest::Revert { files } => ("RevertUnitFiles", vec![list(&files)]),
            UnitFileRequest::AddDependency {
                files,
                target,
                requires,
                flags,
            } => (
                "AddDependencyUnitFiles",
                vec![
                    list(&files),
                    Value::str(target),
                    Value::str(if requires { "Requires" } else { "Wants" }),
                    Value::Bool(flags.runtime),
                    Value::Bool(flags.force),
                ],
            ),
            UnitFileRequest::SetDefaultTarget { name, force } => (
                "SetDefaultTarget",
                vec![Value::str(name), Value::Bool(force)],
            ),
            UnitFileRequest::GetDefaultTarget => {
                return self.call(sd::default_target()).map(Reply::Text);
            }
            UnitFileRequest::State { file } => {
                let word = self.call(sd::unit_file_state(&file))?;
                return UnitFileState::from_word(&word)
                    .map(Reply::UnitFileState)
                    .ok_or_else(Failure::unexpected);
            }
            UnitFileRequest::List { states, patterns } => {
                let body = vec![list(&states), list(&patterns)];
                let files = self.manager_call("ListUnitFilesByPatterns", body, unit_files)?;
                return Ok(Reply::UnitFiles(files));
            }
        };
        let (carries_install_info, changes) = self.manager_call(member, body, changes)?;
        Ok(Reply::UnitFileChanges {
            carries_install_info,
            changes,
        })
    }
}

fn list(items: &[String]) -> Value {
    Value::strings(items.iter().map(String::as_str))
}

fn ordered(body: &[Value]) -> Option<Ordered> {
    body.first()?
        .items()?
        .iter()
        .map(|item| {
            let Value::Entry(entry) = item else {
                return None;
            };
            Some((entry.0.as_str()?.to_owned(), entry.1.clone().into_inner()))
        })
        .collect()
}

fn unit_files(body: &[Value]) -> Option<Vec<UnitFileEntry>> {
    body.first()?
        .items()?
        .iter()
        .map(|item| {
            let [path, state] = item.items()? else {
                return None;
            };
            Some(UnitFileEntry {
                path: path.as_str()?.to_owned(),
                state: UnitFileState::from_word(state.as_str()?)?,
                preset: String::new(),
            })
        })
        .collect()
}

fn changes(body: &[Value]) -> Option<(bool, Vec<UnitFileChange>)> {
    let carries = body.first()?.as_bool().unwrap_or(true);
    let list = body.last()?.items()?.iter().map(|item| {
        let [kind, path, source] = item.items()? else {
            return None;
        };
        Some(UnitFileChange {
            kind: kind.as_str()?.to_owned(),
            path: path.as_str()?.to_owned(),
            source: source.as_str()?.to_owned(),
        })
    });
    Some((carries, list.collect::<Option<_>>()?))
}

fn unit_entry(unit: sd::UnitStatus) -> UnitListEntry {
    UnitListEntry {
        name: unit.name,
        description: unit.description,
        load: LoadState::from_word(&unit.load_state).unwrap_or(LoadState::Error),
        active: ActiveState::from_word(&unit.active_state).unwrap_or(ActiveState::Inactive),
        sub: unit.sub_state,
        following: unit.following,
        job: (unit.job_id != 0).then_some(JobRef {
            id: unit.job_id,
            job_type: unit.job_type,
        }),
    }
}

fn refs(items: &[String]) -> Vec<&str> {
    items.iter().map(String::as_str).collect()
}

impl Backend for BusBackend {
    fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::StartUnit { name, verb, mode } => {
                let member = match verb.as_str() {
                    "start" => "StartUnit",
                    "stop" => "StopUnit",
                    "restart" => "RestartUnit",
                    "try-restart" => "TryRestartUnit",
                    "reload" => "ReloadUnit",
                    "reload-or-restart" => "ReloadOrRestartUnit",
                    _ => "ReloadOrTryRestartUnit",
                };
                self.job(
                    member,
                    vec![Value::str(&*name), Value::str(mode.as_str())],
                    &name,
                )
            }
            Request::GetUnit { name } => self.call(sd::unit(&name)).and_then(name_of),
            Request::LoadUnit { name } => self.call(sd::load_unit(&name)).and_then(name_of),
            Request::GetUnitByPid { pid } => self.call(sd::unit_by_pid(pid)).and_then(name_of),
            Request::ListUnits { states, patterns } => {
                let units =
                    self.call(sd::list_units_by_patterns(&refs(&states), &refs(&patterns)))?;
                Ok(Reply::Units(units.into_iter().map(unit_entry).collect()))
            }
            Request::ListUnitsByNames { names } => {
                let units = self.call(sd::list_units_by_names(&refs(&names)))?;
                Ok(Reply::Units(units.into_iter().map(unit_entry).collect()))
            }
            Request::ListJobs => {
                let jobs = self.call(sd::list_jobs())?;
                let entry = |job: sd::JobEntry| JobEntry {
                    id: job.id,
                    unit: job.unit,
                    job_type: job.job_type,
                    running: job.state == "running",
                };
                Ok(Reply::Jobs(jobs.into_iter().map(entry).collect()))
            }
            Request::CancelJob { id } => self.done(sd::cancel_job(id)),
            Request::ClearJobs => self.manager_call("ClearJobs", vec![], |_| Some(Reply::Done)),
            Request::KillUnit { name, who, signal } => {
                self.done(sd::kill_unit(&name, who.as_str(), signal))
            }
            Request::ResetFailed { name: Some(name) } => self.done(sd::reset_failed_unit(&name)),
            Request::ResetFailed { name: None } => self.done(sd::reset_failed()),
            Request::Reload => self.done(sd::reload()),
            Request::Reexec => match self.bus.call(sd::reexecute()) {
                Err(error) if !error.is_disconnected() => Err(failure(error)),
                _ => Ok(Reply::Done),
            },
            Request::Power {
                action, immediate, ..
            } => self.power(action, immediate),
            Request::SetEnvironment { assignments } => {
                self.done(sd::set_environment(&refs(&assignments)))
            }
            Request::UnsetEnvironment { names } => self.done(sd::unset_environment(&refs(&names))),
            Request::UnitFiles(request) => self.files(request),
            Request::StartTransient { unit, mode, .. } => {
                let body = vec![
                    Value::str(&*unit.name),
                    Value::str(mode.as_str()),
                    transient(&unit),
                    Value::array("(sa(sv))", vec![]),
                ];
                self.job("StartTransientUnit", body, &unit.name)
            }
            Request::SetLogLevel { level } => {
                let body = vec![
                    Value::str(sd::MANAGER),
                    Value::str("LogLevel"),
                    Value::variant(Value::str(level)),
                ];
                self.call(Call::new(
                    sd::NAME,
                    sd::PATH,
                    sd::PROPERTIES,
                    "Set",
                    body,
                    |_| Some(Reply::Done),
                ))
            }
            other => Err(Failure::Unreachable(format!(
                "{other:?} is not offered on the bus"
            ))),
        }
    }

    fn properties(&mut self, unit: &str) -> Result<Ordered, Failure> {
        self.get_all(&names::unit_path(unit))
    }

    fn manager(&mut self) -> Result<Ordered, Failure> {
        self.get_all(sd::PATH)
    }

    fn processes(&mut self, unit: &str) -> Result<Vec<Process>, Failure> {
        self.call(sd::unit_processes(unit))
    }

    fn watch_jobs(&mut self) -> Result<(), Failure> {
        self.bus.watch_jobs().map_err(failure)
    }

    fn wait_job(&mut self, job: u32, _unit: &str) -> Result<String, Failure> {
        let job = Job(names::job_path(job));
        self.bus
            .wait_job(&job, None)
            .map(|result| result.as_str().to_owned())
            .map_err(failure)
    }
}

fn name_of(path: sd::UnitPath) -> Result<Reply, Failure> {
    path.unit_name()
        .map(Reply::UnitName)
        .ok_or_else(Failure::unexpected)
}

/// The settings that `systemd-run` makes, as D-Bus properties.
fn transient(unit: &init_control::TransientUnit) -> Value {
    let mut items = Vec::new();
    let mut put = |name: &str, value: Value| {
        items.push(Value::Struct(vec![Value::str(name), Value::variant(value)]));
    };
    if !unit.pids.is_empty() {
        put(
            "PIDs",
            Value::array("u", unit.pids.iter().map(|pid| Value::U32(*pid)).collect()),
        );
    }
    for setting in &unit.settings {
        let value = match setting.key.as_str() {
            "RemainAfterExit" | "Delegate" => Value::Bool(setting.value == "yes"),
            "Environment" => Value::strings([setting.value.trim_matches('"')]),
            "ExecStart" => {
                let argv = crate::apps::run::split_quoted(&setting.value);
                let path = argv.first().cloned().unwrap_or_default();
                let command = Value::Struct(vec![
                    Value::str(path),
                    Value::strings(argv),
                    Value::Bool(false),
                ]);
                Value::array("(sasb)", vec![command])
            }
            _ => Value::str(&*setting.value),
        };
        put(&setting.key, value);
    }
    Value::array("(sv)", items)
}
