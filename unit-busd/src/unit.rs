//! Objects of units and jobs.

use dbus_api::names;
use dbus_api::snapshot::{Interface, processes};
use dbus_api::wire::Value;
use init_control::{ErrorKind, JobEntry, JobMode, KillWho, Reply, Request, UnitSnapshot, Verb};

use crate::dispatch::{Access, Call, Method, Object};
use crate::manager;
use crate::step::{Act, Step};
use crate::transient;

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";

macro_rules! row {
    ($interface:expr, $member:literal, $input:literal => $output:literal, $access:ident, $run:expr) => {
        Method {
            interface: $interface,
            member: $member,
            input: $input,
            output: $output,
            access: Access::$access,
            run: $run,
        }
    };
}

pub(crate) const METHODS: &[Method] = &[
    row!(UNIT, "Start", "s" => "o", Root, |call| job_of(call, Verb::Start)),
    row!(UNIT, "Stop", "s" => "o", Root, |call| job_of(call, Verb::Stop)),
    row!(UNIT, "Reload", "s" => "o", Root, |call| job_of(call, Verb::Reload)),
    row!(UNIT, "Restart", "s" => "o", Root, |call| job_of(call, Verb::Restart)),
    row!(UNIT, "TryRestart", "s" => "o", Root, |call| job_of(call, Verb::TryRestart)),
    row!(UNIT, "ReloadOrRestart", "s" => "o", Root, |call| job_of(call, Verb::ReloadOrRestart)),
    row!(UNIT, "ReloadOrTryRestart", "s" => "o", Root, |call| job_of(call, Verb::ReloadOrTryRestart)),
    row!(UNIT, "Kill", "si" => "", Root, |call| with_name(call, |call, name| {
        manager::kill(&name, &call.text(0), call.signed(1))
    })),
    row!(UNIT, "ResetFailed", "" => "", Root, |call| with_name(call, |_, name| {
        Step::ask_done(Request::ResetFailed { name: Some(name) })
    })),
    row!(UNIT, "SetProperties", "ba(sv)" => "", Root, |call| with_name(call, |call, name| {
        transient::set_properties(&name, call.flag(0), call.body.get(1))
    })),
    row!(UNIT, "Ref", "" => "", Root, |call| with_name(call, |_, unit| Step::Act(Act::Reference { unit, add: true }))),
    row!(UNIT, "Unref", "" => "", Root, |call| with_name(call, |_, unit| Step::Act(Act::Reference { unit, add: false }))),
    row!(SERVICE, "GetProcesses", "" => "a(sus)", All, |call| with_name(call, unit_processes)),
    row!(SERVICE, "AttachProcesses", "sau" => "", Root, attach),
    row!(SCOPE, "GetProcesses", "" => "a(sus)", All, |call| with_name(call, unit_processes)),
    row!(SCOPE, "AttachProcesses", "sau" => "", Root, attach),
    row!(SCOPE, "Abandon", "" => "", Root, |call| with_name(call, |_, name| {
        Step::ask_done(Request::AbandonScope { name })
    })),
    row!("org.freedesktop.systemd1.Slice", "GetProcesses", "" => "a(sus)", All, |call| {
        with_name(call, unit_processes)
    }),
];

pub(crate) const JOB_METHODS: &[Method] = &[
    row!(JOB, "Cancel", "" => "", Root, |call| match call.object {
        Object::Job(id) => Step::ask_done(Request::CancelJob { id }),
        _ => Step::mismatch(),
    }),
];

/// The unit of the path. `self` is the caller's: PID 1 knows it.
fn with_name(call: &Call, then: fn(&Call, String) -> Step) -> Step {
    match &call.object {
        Object::Unit(name) if name == "self" => {
            let text = "Call the unit by its name; /unit/self has properties only.";
            Step::refuse(ErrorKind::NotSupported, text)
        }
        Object::Unit(name) => then(call, name.clone()),
        _ => Step::mismatch(),
    }
}

fn job_of(call: &Call, verb: Verb) -> Step {
    match (&call.object, JobMode::from_word(&call.text(0))) {
        (Object::Unit(name), Some(mode)) => manager::queue(name.clone(), verb, mode),
        (_, None) => Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Job mode {} invalid", call.text(0)),
        ),
        _ => Step::mismatch(),
    }
}

fn attach(call: &Call) -> Step {
    with_name(call, |call, name| {
        manager::attach(call, name, call.text(0), call.body.get(1))
    })
}

/// Ask for a unit's snapshot, `self` resolved.
pub(crate) fn snapshot(
    call: &Call,
    name: &str,
    then: impl FnOnce(UnitSnapshot) -> Step + 'static,
) -> Step {
    let finish = move |reply| match reply {
        Reply::Unit(unit) => then(*unit),
        _ => Step::mismatch(),
    };
    if name != "self" {
        return Step::ask(
            Request::UnitSnapshot {
                name: name.to_owned(),
            },
            finish,
        );
    }
    Step::ask(
        Request::GetUnitByPid { pid: call.pid() },
        move |reply| match reply {
            Reply::UnitName(name) => Step::ask(Request::UnitSnapshot { name }, finish),
            _ => Step::mismatch(),
        },
    )
}

/// Processes of a unit that is loaded.
pub(crate) fn unit_processes(call: &Call, name: String) -> Step {
    let world = std::rc::Rc::clone(&call.world);
    Step::ask(Request::GetUnit { name }, move |reply| match reply {
        Reply::UnitName(name) => {
            Step::ask(Request::UnitSnapshot { name }, move |reply| match reply {
                Reply::Unit(unit) => {
                    let group = unit.cgroup.as_ref().map_or("", |group| group.path.as_str());
                    let list = processes(&world.cgroups, group);
                    let items = list
                        .into_iter()
                        .map(|p| {
                            Value::Struct(vec![
                                Value::str(p.control_group),
                                Value::U32(p.pid),
                                Value::str(p.command_line),
                            ])
                        })
                        .collect();
                    Step::Reply(vec![Value::array("(sus)", items)])
                }
                _ => Step::mismatch(),
            })
        }
        _ => Step::mismatch(),
    })
}

/// Ask for a job.
pub(crate) fn job(id: u32, then: impl FnOnce(JobEntry) -> Step + 'static) -> Step {
    Step::ask(Request::ListJobs, move |reply| match reply {
        Reply::Jobs(jobs) => match jobs.into_iter().find(|job| job.id == id) {
            Some(job) => then(job),
            None => Step::refuse(ErrorKind::NoSuchJob, format!("Job {id} does not exist.")),
        },
        _ => Step::mismatch(),
    })
}

pub(crate) fn job_interface(job: &JobEntry) -> Interface {
    let unit = Value::Struct(vec![
        Value::str(&*job.unit),
        Value::path(names::unit_path(&job.unit)),
    ]);
    let properties = vec![
        ("Id", Value::U32(job.id)),
        ("Unit", unit),
        ("JobType", Value::str(&*job.job_type)),
        (
            "State",
            Value::str(if job.running { "running" } else { "waiting" }),
        ),
    ];
    Interface {
        name: JOB.to_owned(),
        properties,
    }
}

/// Who a signal goes to, in the words of all versions.
pub(crate) fn kill_who(word: &str) -> Option<KillWho> {
    if word.is_empty() {
        Some(KillWho::All)
    } else {
        KillWho::from_word(word)
    }
}
