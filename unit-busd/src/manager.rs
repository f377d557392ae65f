//! `org.freedesktop.systemd1.Manager` and `org.flotilla.Init1`: units, jobs, the manager itself. Unit files are
//! in `files`.

use dbus_api::names;
use dbus_api::systemd1::{INIT1, MANAGER};
use dbus_api::wire::Value;
use init_control::{
    ErrorKind, JobEntry, JobMode, PowerAction, Reply, Request, UnitListEntry, Verb,
};
use unit_file::UnitName;

use crate::dispatch::{Access, Call, Method};
use crate::step::{Act, Step};
use crate::{files, transient, unit};

macro_rules! row {
    ($member:literal, $input:literal => $output:literal, $access:ident, $run:expr) => {
        Method {
            interface: MANAGER,
            member: $member,
            input: $input,
            output: $output,
            access: Access::$access,
            run: $run,
        }
    };
}

pub(crate) const METHODS: &[Method] = &[
    row!("GetUnit", "s" => "o", All, |call| unit_path(Request::GetUnit { name: call.text(0) })),
    row!("LoadUnit", "s" => "o", All, |call| named(call, |name| unit_path(Request::LoadUnit { name }))),
    row!("GetUnitByPID", "u" => "o", All, unit_by_pid),
    row!("GetUnitByInvocationID", "ay" => "o", All, unit_by_invocation),
    row!("GetUnitByControlGroup", "s" => "o", All, unit_by_control_group),
    row!("StartUnit", "ss" => "o", Root, |call| verb(call, Verb::Start)),
    row!("StopUnit", "ss" => "o", Root, |call| verb(call, Verb::Stop)),
    row!("ReloadUnit", "ss" => "o", Root, |call| verb(call, Verb::Reload)),
    row!("RestartUnit", "ss" => "o", Root, |call| verb(call, Verb::Restart)),
    row!("TryRestartUnit", "ss" => "o", Root, |call| verb(call, Verb::TryRestart)),
    row!("ReloadOrRestartUnit", "ss" => "o", Root, |call| verb(call, Verb::ReloadOrRestart)),
    row!("ReloadOrTryRestartUnit", "ss" => "o", Root, |call| verb(call, Verb::ReloadOrTryRestart)),
    row!("EnqueueUnitJob", "sss" => "uososa(uosos)", Root, enqueue),
    row!("KillUnit", "ssi" => "", Root, |call| kill(&call.text(0), &call.text(1), call.signed(2))),
    row!("ResetFailedUnit", "s" => "", Root, |call| named(call, |name| {
        Step::ask_done(Request::ResetFailed { name: Some(name) })
    })),
    row!("ResetFailed", "" => "", Root, |_| Step::ask_done(Request::ResetFailed { name: None })),
    row!("SetUnitProperties", "sba(sv)" => "", Root, |call| {
        transient::set_properties(&call.text(0), call.flag(1), call.body.get(2))
    }),
    row!("RefUnit", "s" => "", Root, |call| Step::Act(Act::Reference { unit: call.text(0), add: true })),
    row!("UnrefUnit", "s" => "", Root, |call| Step::Act(Act::Reference { unit: call.text(0), add: false })),
    row!("StartTransientUnit", "ssa(sv)a(sa(sv))" => "o", Root, transient::start),
    row!("GetUnitProcesses", "s" => "a(sus)", All, |call| unit::unit_processes(call, call.text(0))),
    row!("AttachProcessesToUnit", "ssau" => "", Root, |call| {
        attach(call, call.text(0), call.text(1), call.body.get(2))
    }),
    row!("AbandonScope", "s" => "", Root, |call| Step::ask_done(Request::AbandonScope { name: call.text(0) })),
    row!("GetJob", "u" => "o", All, |call| {
        let id = u32::try_from(call.number(0)).unwrap_or_default();
        unit::job(id, |job| Step::Reply(vec![Value::path(names::job_path(job.id))]))
    }),
    row!("CancelJob", "u" => "", Root, |call| {
        Step::ask_done(Request::CancelJob { id: u32::try_from(call.number(0)).unwrap_or_default() })
    }),
    row!("ClearJobs", "" => "", Root, |_| Step::ask_done(Request::ClearJobs)),
    row!("ListUnits", "" => "a(ssssssouso)", All, |_| list_units(Vec::new(), Vec::new())),
    row!("ListUnitsFiltered", "as" => "a(ssssssouso)", All, |call| list_units(call.texts(0), Vec::new())),
    row!("ListUnitsByPatterns", "asas" => "a(ssssssouso)", All, |call| list_units(call.texts(0), call.texts(1))),
    row!("ListUnitsByNames", "as" => "a(ssssssouso)", All, |call| {
        Step::ask(Request::ListUnitsByNames { names: call.texts(0) }, units)
    }),
    row!("ListJobs", "" => "a(usssoo)", All, |_| Step::ask(Request::ListJobs, jobs)),
    row!("Subscribe", "" => "", All, |_| Step::Act(Act::Subscribe(true))),
    row!("Unsubscribe", "" => "", All, |_| Step::Act(Act::Subscribe(false))),
    row!("Reload", "" => "", Root, |_| Step::ask_done(Request::Reload)),
    row!("Reexecute", "" => "", Root, |_| Step::ask_done(Request::Reexec)),
    row!("Reboot", "" => "", Root, |_| power(PowerAction::Reboot)),
    row!("SoftReboot", "s" => "", Root, |_| power(PowerAction::SoftReboot)),
    row!("PowerOff", "" => "", Root, |_| power(PowerAction::PowerOff)),
    row!("Halt", "" => "", Root, |_| power(PowerAction::Halt)),
    row!("KExec", "" => "", Root, |_| power(PowerAction::Kexec)),
    row!("SetEnvironment", "as" => "", Root, |call| {
        Step::ask_done(Request::SetEnvironment { assignments: call.texts(0) })
    }),
    row!("UnsetEnvironment", "as" => "", Root, |call| {
        Step::ask_done(Request::UnsetEnvironment { names: call.texts(0) })
    }),
    row!("UnsetAndSetEnvironment", "asas" => "", Root, |call| {
        let assignments = call.texts(1);
        Step::ask(Request::UnsetEnvironment { names: call.texts(0) }, move |_| {
            Step::ask_done(Request::SetEnvironment { assignments })
        })
    }),
    row!("ListUnitFiles", "" => "a(ss)", All, |_| files::list(Vec::new(), Vec::new())),
    row!("ListUnitFilesByPatterns", "asas" => "a(ss)", All, |call| files::list(call.texts(0), call.texts(1))),
    row!("GetUnitFileState", "s" => "s", All, files::state),
    row!("EnableUnitFiles", "asbb" => "ba(sss)", Root, files::enable),
    row!("EnableUnitFilesWithFlags", "ast" => "ba(sss)", Root, files::enable_with_flags),
    row!("DisableUnitFiles", "asb" => "a(sss)", Root, files::disable),
    row!("DisableUnitFilesWithFlags", "ast" => "a(sss)", Root, files::disable_with_flags),
    row!("DisableUnitFilesWithFlagsAndInstallInfo", "ast" => "ba(sss)", Root, files::disable_with_info),
    row!("ReenableUnitFiles", "asbb" => "ba(sss)", Root, files::reenable),
    row!("LinkUnitFiles", "asbb" => "a(sss)", Root, files::link),
    row!("PresetUnitFiles", "asbb" => "ba(sss)", Root, files::preset),
    row!("PresetUnitFilesWithMode", "assbb" => "ba(sss)", Root, files::preset_with_mode),
    row!("PresetAllUnitFiles", "sbb" => "a(sss)", Root, files::preset_all),
    row!("MaskUnitFiles", "asbb" => "a(sss)", Root, files::mask),
    row!("UnmaskUnitFiles", "asb" => "a(sss)", Root, files::unmask),
    row!("RevertUnitFiles", "as" => "a(sss)", Root, files::revert),
    row!("AddDependencyUnitFiles", "asssbb" => "a(sss)", Root, files::add_dependency),
    row!("SetDefaultTarget", "sb" => "a(sss)", Root, files::set_default),
    row!("GetDefaultTarget", "" => "s", All, files::default),
    Method {
        interface: INIT1,
        member: "DelegateSelf",
        input: "",
        output: "s",
        access: Access::Root,
        run: |call| {
            Step::ask(
                Request::DelegateSelf { pid: call.pid() },
                |reply| match reply {
                    Reply::Text(path) => Step::Reply(vec![Value::str(path)]),
                    _ => Step::mismatch(),
                },
            )
        },
    },
];

/// Go on with the name in the first argument, if it is one.
fn named(call: &Call, then: impl FnOnce(String) -> Step) -> Step {
    let name = call.text(0);
    match UnitName::parse(&name) {
        Ok(_) => then(name),
        Err(_) => Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Unit name {name} is not valid."),
        ),
    }
}

fn unit_path(request: Request) -> Step {
    Step::ask(request, |reply| match reply {
        Reply::UnitName(name) => Step::Reply(vec![Value::path(names::unit_path(&name))]),
        _ => Step::mismatch(),
    })
}

fn unit_by_pid(call: &Call) -> Step {
    let pid = match call.number(0) {
        0 => call.pid(),
        pid => u32::try_from(pid).unwrap_or_default(),
    };
    unit_path(Request::GetUnitByPid { pid })
}

fn unit_by_invocation(call: &Call) -> Step {
    let bytes = call
        .body
        .first()
        .and_then(Value::as_bytes)
        .unwrap_or_default();
    if bytes.is_empty() {
        return unit_path(Request::GetUnitByPid { pid: call.pid() });
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(id) => unit_path(Request::GetUnitByInvocationId { id }),
        Err(_) => Step::refuse(ErrorKind::InvalidArgs, "Invalid invocation ID"),
    }
}

/// The innermost part of the path that is a unit's name: below a delegated unit the names are not ours.
fn unit_by_control_group(call: &Call) -> Step {
    let path = call.text(0);
    let name = path
        .split('/')
        .filter(|part| !part.is_empty() && !part.ends_with(".slice"))
        .find(|part| UnitName::parse(part).is_ok());
    match name.or_else(|| path.rsplit('/').find(|part| part.ends_with(".slice"))) {
        Some(name) => unit_path(Request::GetUnit {
            name: name.to_owned(),
        }),
        None => Step::refuse(
            ErrorKind::NoSuchUnit,
            format!("Control group '{path}' is not valid or not managed."),
        ),
    }
}

fn verb(call: &Call, verb: Verb) -> Step {
    named(call, |name| match JobMode::from_word(&call.text(1)) {
        Some(mode) => queue(name, verb, mode),
        None => Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Job mode {} invalid", call.text(1)),
        ),
    })
}

/// Queue a job; the answer is its path.
pub(crate) fn queue(name: String, verb: Verb, mode: JobMode) -> Step {
    Step::ask(Request::StartUnit { name, verb, mode }, job_path)
}

pub(crate) fn job_path(reply: Reply) -> Step {
    match reply {
        Reply::Job { id, .. } => Step::Reply(vec![Value::path(names::job_path(id))]),
        _ => Step::mismatch(),
    }
}

/// `EnqueueUnitJob`: the job with its data; jobs pulled in by it are not listed (the list is empty).
fn enqueue(call: &Call) -> Step {
    let (kind, mode) = (call.text(1), call.text(2));
    let (Some(verb), Some(mode)) = (Verb::from_word(&kind), JobMode::from_word(&mode)) else {
        return Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Job type {kind} or mode {mode} invalid"),
        );
    };
    named(call, |name| {
        Step::ask(
            Request::StartUnit { name, verb, mode },
            move |reply| match reply {
                Reply::Job { id, unit } => Step::Reply(vec![
                    Value::U32(id),
                    Value::path(names::job_path(id)),
                    Value::str(&*unit),
                    Value::path(names::unit_path(&unit)),
                    Value::str(kind),
                    Value::array("(uosos)", Vec::new()),
                ]),
                _ => Step::mismatch(),
            },
        )
    })
}

pub(crate) fn kill(name: &str, who: &str, signal: i32) -> Step {
    let Some(who) = unit::kill_who(who) else {
        return Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Invalid who argument {who}"),
        );
    };
    if !(1..=64).contains(&signal) {
        return Step::refuse(ErrorKind::InvalidArgs, "Signal number out of range.");
    }
    Step::ask_done(Request::KillUnit {
        name: name.to_owned(),
        who,
        signal,
    })
}

pub(crate) fn attach(call: &Call, name: String, subcgroup: String, pids: Option<&Value>) -> Step {
    let pids = pids.and_then(Value::items).unwrap_or_default().iter();
    let own = call.pid();
    let pids = pids
        .filter_map(Value::as_u32)
        .map(|pid| if pid == 0 { own } else { pid })
        .collect();
    Step::ask_done(Request::AttachProcesses {
        name,
        subcgroup,
        pids,
    })
}

fn list_units(states: Vec<String>, patterns: Vec<String>) -> Step {
    Step::ask(Request::ListUnits { states, patterns }, units)
}

fn units(reply: Reply) -> Step {
    match reply {
        Reply::Units(list) => Step::Reply(vec![Value::array(
            "(ssssssouso)",
            list.into_iter().map(unit_entry).collect(),
        )]),
        _ => Step::mismatch(),
    }
}

fn unit_entry(entry: UnitListEntry) -> Value {
    let path = names::unit_path(&entry.name);
    let (id, kind, job) = entry.job.map_or((0, String::new(), "/".to_owned()), |job| {
        (job.id, job.job_type, names::job_path(job.id))
    });
    Value::Struct(vec![
        Value::Str(entry.name),
        Value::Str(entry.description),
        Value::str(entry.load.as_str()),
        Value::str(entry.active.as_str()),
        Value::Str(entry.sub),
        Value::Str(entry.following),
        Value::Path(path),
        Value::U32(id),
        Value::Str(kind),
        Value::Path(job),
    ])
}

fn jobs(reply: Reply) -> Step {
    match reply {
        Reply::Jobs(list) => Step::Reply(vec![Value::array(
            "(usssoo)",
            list.iter().map(job_entry).collect(),
        )]),
        _ => Step::mismatch(),
    }
}

fn job_entry(job: &JobEntry) -> Value {
    Value::Struct(vec![
        Value::U32(job.id),
        Value::str(&*job.unit),
        Value::str(&*job.job_type),
        Value::str(if job.running { "running" } else { "waiting" }),
        Value::path(names::job_path(job.id)),
        Value::path(names::unit_path(&job.unit)),
    ])
}

/// `systemctl -f`: at once.
fn power(action: PowerAction) -> Step {
    Step::ask_done(Request::Power {
        action,
        immediate: true,
        argument: None,
    })
}
