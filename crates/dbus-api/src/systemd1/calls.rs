//! The calls.

use super::types::{
    FileChange, Job, JobEntry, JobMode, Process, TransientProperty, UnitFile, UnitPath, UnitStatus,
    Verb,
};
use super::{INIT1, MANAGER, NAME, PATH, PROPERTIES};
use crate::call::read;
use crate::names;
use crate::wire::Value;
use crate::{Call, Properties};

fn manager<T>(member: &str, body: Vec<Value>, reader: fn(&[Value]) -> Option<T>) -> Call<T> {
    Call::new(NAME, PATH, MANAGER, member, body, reader)
}

fn strings(items: &[&str]) -> Value {
    Value::strings(items.iter().copied())
}

fn job(body: &[Value]) -> Option<Job> {
    read::text(body).map(Job)
}

fn unit_reply(body: &[Value]) -> Option<UnitPath> {
    read::text(body).map(UnitPath)
}

fn units(body: &[Value]) -> Option<Vec<UnitStatus>> {
    body.first()?
        .items()?
        .iter()
        .map(UnitStatus::read)
        .collect()
}

/// The changes are the last argument: `EnableUnitFiles` has a boolean before them.
fn changes(body: &[Value]) -> Option<Vec<FileChange>> {
    body.last()?
        .items()?
        .iter()
        .map(|item| {
            let [kind, path, source] = item.items()? else {
                return None;
            };
            Some(FileChange {
                kind: kind.as_str()?.to_owned(),
                path: path.as_str()?.to_owned(),
                source: source.as_str()?.to_owned(),
            })
        })
        .collect()
}

/// Queue a job; to wait for its end, use the connection's `run_job`.
pub fn queue_job(verb: Verb, unit: &str, mode: JobMode) -> Call<Job> {
    manager(
        verb.method(),
        vec![Value::str(unit), Value::str(mode.as_str())],
        job,
    )
}

/// Make a unit from properties and start it.
pub fn start_transient_unit(
    unit: &str,
    mode: JobMode,
    properties: &[TransientProperty],
) -> Call<Job> {
    let body = vec![
        Value::str(unit),
        Value::str(mode.as_str()),
        TransientProperty::list(properties),
        Value::array("(sa(sv))", vec![]),
    ];
    manager("StartTransientUnit", body, job)
}

/// Path of a loaded unit; `NoSuchUnit` where it is not loaded.
pub fn unit(name: &str) -> Call<UnitPath> {
    manager("GetUnit", vec![Value::str(name)], unit_reply)
}

/// Path of a unit, loaded if need be.
pub fn load_unit(name: &str) -> Call<UnitPath> {
    manager("LoadUnit", vec![Value::str(name)], unit_reply)
}

/// Path of the unit that a process belongs to; 0 = the caller.
pub fn unit_by_pid(pid: u32) -> Call<UnitPath> {
    manager("GetUnitByPID", vec![Value::U32(pid)], unit_reply)
}

/// Path of the unit with an invocation id.
pub fn unit_by_invocation_id(id: &[u8; 16]) -> Call<UnitPath> {
    manager("GetUnitByInvocationID", vec![Value::bytes(id)], unit_reply)
}

/// All loaded units.
pub fn list_units() -> Call<Vec<UnitStatus>> {
    manager("ListUnits", vec![], units)
}

/// These units, loaded or not.
pub fn list_units_by_names(names: &[&str]) -> Call<Vec<UnitStatus>> {
    manager("ListUnitsByNames", vec![strings(names)], units)
}

/// Loaded units in these states with names that match these globs; empty = any.
pub fn list_units_by_patterns(states: &[&str], patterns: &[&str]) -> Call<Vec<UnitStatus>> {
    manager(
        "ListUnitsByPatterns",
        vec![strings(states), strings(patterns)],
        units,
    )
}

/// Queued jobs.
pub fn list_jobs() -> Call<Vec<JobEntry>> {
    manager("ListJobs", vec![], |body| {
        body.first()?
            .items()?
            .iter()
            .map(|item| {
                let [id, unit, kind, state, ..] = item.items()? else {
                    return None;
                };
                Some(JobEntry {
                    id: id.as_u32()?,
                    unit: unit.as_str()?.to_owned(),
                    job_type: kind.as_str()?.to_owned(),
                    state: state.as_str()?.to_owned(),
                })
            })
            .collect()
    })
}

/// Drop a job.
pub fn cancel_job(id: u32) -> Call<()> {
    manager("CancelJob", vec![Value::U32(id)], read::nothing)
}

/// All properties of a unit, of all its interfaces. Works for units that are not loaded.
pub fn unit_properties(name: &str) -> Call<Properties> {
    Call::new(
        NAME,
        &names::unit_path(name),
        PROPERTIES,
        "GetAll",
        vec![Value::str("")],
        Properties::read,
    )
}

/// One property; `interface` is the last part (`Unit`, `Service`, `Scope` …).
pub fn unit_property(name: &str, interface: &str, property: &str) -> Call<Value> {
    let interface = format!("{NAME}.{interface}");
    Call::new(
        NAME,
        &names::unit_path(name),
        PROPERTIES,
        "Get",
        vec![Value::str(interface), Value::str(property)],
        read::value,
    )
}

/// One property of the manager, e.g. `SystemState`.
pub fn manager_property(property: &str) -> Call<Value> {
    Call::new(
        NAME,
        PATH,
        PROPERTIES,
        "Get",
        vec![Value::str(MANAGER), Value::str(property)],
        read::value,
    )
}

/// All properties of the manager.
pub fn manager_properties() -> Call<Properties> {
    Call::new(
        NAME,
        PATH,
        PROPERTIES,
        "GetAll",
        vec![Value::str(MANAGER)],
        Properties::read,
    )
}

/// Processes of a unit.
pub fn unit_processes(name: &str) -> Call<Vec<Process>> {
    manager("GetUnitProcesses", vec![Value::str(name)], |body| {
        body.first()?
            .items()?
            .iter()
            .map(|item| {
                let [group, pid, line] = item.items()? else {
                    return None;
                };
                Some(Process {
                    control_group: group.as_str()?.to_owned(),
                    pid: pid.as_u32()?,
                    command_line: line.as_str()?.to_owned(),
                })
            })
            .collect()
    })
}

/// Make the links of `[Install]`. Names or absolute paths; `runtime` = in /run.
pub fn enable_unit_files(files: &[&str], runtime: bool, force: bool) -> Call<Vec<FileChange>> {
    manager(
        "EnableUnitFiles",
        vec![strings(files), Value::Bool(runtime), Value::Bool(force)],
        changes,
    )
}

/// Remove the links of `[Install]`.
pub fn disable_unit_files(files: &[&str], runtime: bool) -> Call<Vec<FileChange>> {
    manager(
        "DisableUnitFiles",
        vec![strings(files), Value::Bool(runtime)],
        changes,
    )
}

/// Disable, then enable.
pub fn reenable_unit_files(files: &[&str], runtime: bool, force: bool) -> Call<Vec<FileChange>> {
    manager(
        "ReenableUnitFiles",
        vec![strings(files), Value::Bool(runtime), Value::Bool(force)],
        changes,
    )
}

/// Link files from elsewhere into the search path.
pub fn link_unit_files(paths: &[&str], runtime: bool, force: bool) -> Call<Vec<FileChange>> {
    manager(
        "LinkUnitFiles",
        vec![strings(paths), Value::Bool(runtime), Value::Bool(force)],
        changes,
    )
}

/// Enable or disable as the preset files say.
pub fn preset_unit_files(files: &[&str], runtime: bool, force: bool) -> Call<Vec<FileChange>> {
    manager(
        "PresetUnitFiles",
        vec![strings(files), Value::Bool(runtime), Value::Bool(force)],
        changes,
    )
}

/// Link to /dev/null.
pub fn mask_unit_files(files: &[&str], runtime: bool, force: bool) -> Call<Vec<FileChange>> {
    manager(
        "MaskUnitFiles",
        vec![strings(files), Value::Bool(runtime), Value::Bool(force)],
        changes,
    )
}

/// Undo mask.
pub fn unmask_unit_files(files: &[&str], runtime: bool) -> Call<Vec<FileChange>> {
    manager(
        "UnmaskUnitFiles",
        vec![strings(files), Value::Bool(runtime)],
        changes,
    )
}

/// Back to the vendor's files.
pub fn revert_unit_files(files: &[&str]) -> Call<Vec<FileChange>> {
    manager("RevertUnitFiles", vec![strings(files)], changes)
}

/// State of a unit file: `enabled`, `disabled` …
pub fn unit_file_state(name: &str) -> Call<String> {
    manager("GetUnitFileState", vec![Value::str(name)], read::text)
}

/// All unit files.
pub fn list_unit_files() -> Call<Vec<UnitFile>> {
    manager("ListUnitFiles", vec![], |body| {
        body.first()?
            .items()?
            .iter()
            .map(|item| {
                let [path, state] = item.items()? else {
                    return None;
                };
                Some(UnitFile {
                    path: path.as_str()?.to_owned(),
                    state: state.as_str()?.to_owned(),
                })
            })
            .collect()
    })
}

/// What `default.target` stands for.
pub fn default_target() -> Call<String> {
    manager("GetDefaultTarget", vec![], read::text)
}

/// Set it.
pub fn set_default_target(name: &str, force: bool) -> Call<Vec<FileChange>> {
    manager(
        "SetDefaultTarget",
        vec![Value::str(name), Value::Bool(force)],
        changes,
    )
}

/// Read all unit files again; answered when done.
pub fn reload() -> Call<()> {
    manager("Reload", vec![], read::nothing)
}

/// Execute the manager anew; the connection may end instead of an answer.
pub fn reexecute() -> Call<()> {
    manager("Reexecute", vec![], read::nothing)
}

/// Forget the failure of a unit.
pub fn reset_failed_unit(name: &str) -> Call<()> {
    manager("ResetFailedUnit", vec![Value::str(name)], read::nothing)
}

/// Forget all failures.
pub fn reset_failed() -> Call<()> {
    manager("ResetFailed", vec![], read::nothing)
}

/// Signal processes of a unit; `who` is `main`, `control` or `all`.
pub fn kill_unit(name: &str, who: &str, signal: i32) -> Call<()> {
    manager(
        "KillUnit",
        vec![Value::str(name), Value::str(who), Value::I32(signal)],
        read::nothing,
    )
}

/// Move processes into a running scope or delegated unit.
pub fn attach_processes(name: &str, subcgroup: &str, pids: &[u32]) -> Call<()> {
    let pids = Value::array("u", pids.iter().map(|pid| Value::U32(*pid)).collect());
    manager(
        "AttachProcessesToUnit",
        vec![Value::str(name), Value::str(subcgroup), pids],
        read::nothing,
    )
}

/// Leave a scope's processes to themselves.
pub fn abandon_scope(name: &str) -> Call<()> {
    let interface = format!("{NAME}.Scope");
    Call::new(
        NAME,
        &names::unit_path(name),
        &interface,
        "Abandon",
        vec![],
        read::nothing,
    )
}

/// Change settings of a loaded unit.
pub fn set_unit_properties(
    name: &str,
    runtime: bool,
    properties: &[TransientProperty],
) -> Call<()> {
    let body = vec![
        Value::str(name),
        Value::Bool(runtime),
        TransientProperty::list(properties),
    ];
    manager("SetUnitProperties", body, read::nothing)
}

/// Keep a unit loaded while this connection lives.
pub fn ref_unit(name: &str) -> Call<()> {
    manager("RefUnit", vec![Value::str(name)], read::nothing)
}

/// Give it back.
pub fn unref_unit(name: &str) -> Call<()> {
    manager("UnrefUnit", vec![Value::str(name)], read::nothing)
}

/// Ask the manager to send signals to the bus while this connection lives.
pub fn subscribe() -> Call<()> {
    manager("Subscribe", vec![], read::nothing)
}

/// Take it back.
pub fn unsubscribe() -> Call<()> {
    manager("Unsubscribe", vec![], read::nothing)
}

/// Add variables to the environment of services.
pub fn set_environment(assignments: &[&str]) -> Call<()> {
    manager("SetEnvironment", vec![strings(assignments)], read::nothing)
}

/// Remove variables.
pub fn unset_environment(names: &[&str]) -> Call<()> {
    manager("UnsetEnvironment", vec![strings(names)], read::nothing)
}

/// `org.flotilla.Init1.DelegateSelf`: mark the control group of the caller's unit as delegated and get its path
/// (`/system.slice/x.service`). On stock systemd [`Error::is_unsupported`](crate::Error::is_unsupported).
pub fn delegate_self() -> Call<String> {
    Call::new(NAME, PATH, INIT1, "DelegateSelf", vec![], read::text)
}
