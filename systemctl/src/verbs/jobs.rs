//! Verbs that queue jobs, and those that change the state of units or of the manager otherwise.

use init_control::{JobMode, KillWho, Reply, Request, Setting, Verb};
use unit_file::UnitName;

use crate::backend::{Failure, text};
use crate::cli::{Context, Outcome};
use crate::format::property::signal_number;

struct Queued {
    job: u32,
    unit: String,
}

/// `start stop restart …`
pub(crate) fn unit_jobs(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let units = context.units(&args, ".service")?;
    let what = match verb {
        "condrestart" => Verb::TryRestart,
        "try-reload-or-restart" | "force-reload" => Verb::ReloadOrTryRestart,
        other => Verb::from_word(other).unwrap_or(Verb::Start),
    };
    let Some(mode) = JobMode::from_word(&context.options.job_mode) else {
        return Err(Failure::Unreachable(format!(
            "systemctl: job mode {:?} is unknown",
            context.options.job_mode
        )));
    };
    run(context, &units, what, mode, verb)
}

/// Queue the jobs, wait for them, tell what failed.
pub(super) fn run(
    context: &mut Context,
    units: &[String],
    what: Verb,
    mode: JobMode,
    verb: &str,
) -> Outcome {
    let waits = !context.options.no_block;
    if waits {
        context.backend.watch_jobs()?;
    }
    let mut code = 0;
    let mut queued: Vec<Queued> = Vec::new();
    for unit in units {
        match context.backend.ask(Request::StartUnit {
            name: unit.clone(),
            verb: what,
            mode,
        }) {
            Ok(Reply::Job { id, .. }) => {
                queued.push(Queued {
                    job: id,
                    unit: unit.clone(),
                });
                warn_reload(context, unit)?;
            }
            Ok(_) => return Err(Failure::unexpected()),
            Err(failure) => {
                report_refusal(verb, unit, &failure);
                if code == 0 {
                    code = failure.exit_code();
                }
            }
        }
    }
    if !waits {
        return Ok(code);
    }
    for Queued { job, unit } in &queued {
        let result = context.backend.wait_job(*job, unit)?;
        if !matches!(result.as_str(), "done" | "skipped") {
            if !context.options.quiet {
                report_result(context, unit, &result);
            }
            if code == 0 {
                code = result_code(&result);
            }
        }
    }
    if what == Verb::Stop && !context.options.quiet {
        warn_triggers(context, &queued)?;
    }
    if code == 0 && context.options.wait && what != Verb::Stop {
        return wait_for_end(context, &queued);
    }
    Ok(code)
}

/// Exit code of a job that did not end well.
fn result_code(result: &str) -> u8 {
    match result {
        "invalid" | "unsupported" => 3,
        _ => 1,
    }
}

fn report_refusal(verb: &str, unit: &str, failure: &Failure) {
    eprintln!("Failed to {verb} {unit}: {failure}");
    let points_at_logs = matches!(
        failure.kind(),
        Some(
            init_control::ErrorKind::NoSuchUnit
                | init_control::ErrorKind::UnitMasked
                | init_control::ErrorKind::JobTypeNotApplicable
                | init_control::ErrorKind::AccessDenied
        ) | None
    );
    if !points_at_logs {
        eprintln!("See system logs and 'systemctl status {unit}' for details.");
    }
}

/// A file that changed after it was read deserves a word.
pub(super) fn warn_reload(context: &mut Context, unit: &str) -> Result<(), Failure> {
    if context.options.quiet {
        return Ok(());
    }
    let properties = context.backend.properties(unit)?;
    let stale = crate::backend::find(&properties, "NeedDaemonReload")
        .and_then(dbus_api::wire::Value::as_bool);
    if stale == Some(true) {
        eprintln!(
            "Warning: The unit file, source configuration file or drop-ins of {unit} changed on disk. Run 'systemctl daemon-reload' to reload units."
        );
    }
    Ok(())
}

fn report_result(context: &mut Context, unit: &str, result: &str) {
    match result {
        "canceled" => eprintln!("Job for {unit} canceled."),
        "timeout" => eprintln!("Job for {unit} timed out."),
        "dependency" => {
            eprintln!("A dependency job for {unit} failed. See 'journalctl -xe' for details.");
        }
        "invalid" => eprintln!("{unit} is not active, cannot reload."),
        "assert" => eprintln!("Assertion failed on job for {unit}."),
        "unsupported" => {
            eprintln!("Operation on or unit type of {unit} not supported on this system.");
        }
        "collected" => eprintln!("Queued job for {unit} was garbage collected."),
        "once" => eprintln!("Unit {unit} was started already once and can't be started again."),
        _ => report_failed(context, unit),
    }
}

fn report_failed(context: &mut Context, unit: &str) {
    let result = context
        .backend
        .properties(unit)
        .map(|all| text(&all, "Result").to_owned())
        .unwrap_or_default();
    let reason = match result.as_str() {
        _ if !unit.ends_with(".service") => "",
        "resources" => " because of unavailable resources or another system error",
        "protocol" => {
            " because the service did not take the steps required by its unit configuration"
        }
        "timeout" => " because a timeout was exceeded",
        "exit-code" => " because the control process exited with error code",
        "signal" => " because a fatal signal was delivered to the control process",
        "core-dump" => {
            " because a fatal signal was delivered causing the control process to dump core"
        }
        "watchdog" => " because the service failed to send watchdog ping",
        "start-limit-hit" => " because start of the service was attempted too often",
        "oom-kill" => " because of an out-of-memory (OOM) siutation",
        _ => "",
    };
    eprintln!("Job for {unit} failed{reason}.");
    eprintln!("See \"systemctl status {unit}\" and \"journalctl -xeu {unit}\" for details.");
    if result == "start-limit-hit" {
        eprintln!("To force a start use \"systemctl reset-failed {unit}\"");
        eprintln!("followed by \"systemctl start {unit}\" again.");
    }
}

/// A stopped service that a socket will start again.
fn warn_triggers(context: &mut Context, queued: &[Queued]) -> Result<(), Failure> {
    for Queued { unit, .. } in queued {
        let properties = context.backend.properties(unit)?;
        let mut active = Vec::new();
        for trigger in crate::backend::strings(&properties, "TriggeredBy") {
            let state = context.backend.properties(&trigger)?;
            if matches!(text(&state, "ActiveState"), "active" | "reloading") {
                active.push(trigger);
            }
        }
        if !active.is_empty() {
            eprintln!("Warning: Stopping {unit}, but it can still be activated by:");
            for trigger in active {
                eprintln!("  {trigger}");
            }
        }
    }
    Ok(())
}

/// `--wait`: until the units are no longer active. Looked at each half second: the signals of units are not for this
/// connection.
fn wait_for_end(context: &mut Context, queued: &[Queued]) -> Outcome {
    let mut code = 0;
    for Queued { unit, .. } in queued {
        loop {
            let properties = context.backend.properties(unit)?;
            match text(&properties, "ActiveState") {
                "inactive" => break,
                "failed" => {
                    code = 1;
                    break;
                }
                _ => std::thread::sleep(std::time::Duration::from_millis(500)),
            }
        }
    }
    Ok(code)
}

/// `isolate`
pub(crate) fn isolate(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let [unit] = args.as_slice() else {
        return Err(Failure::Unreachable(
            "systemctl: isolate takes one unit".to_owned(),
        ));
    };
    let units = [crate::names::mangle(unit, ".target")];
    run(context, &units, Verb::Start, JobMode::Isolate, "isolate")
}

/// `default rescue emergency`
pub(crate) fn mode(context: &mut Context, verb: &str) -> Outcome {
    let units = [format!("{verb}.target")];
    run(context, &units, Verb::Start, JobMode::Isolate, "start")
}

/// `kill`
pub(crate) fn kill(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let Some(signal) = signal_number(&context.options.signal) else {
        return Err(Failure::Unreachable(format!(
            "Failed to parse signal string {}.",
            context.options.signal
        )));
    };
    let Some(who) = KillWho::from_word(&context.options.kill_whom) else {
        return Err(Failure::Unreachable(format!(
            "Invalid --kill-whom={}",
            context.options.kill_whom
        )));
    };
    let mut code = 0;
    for name in context.units(&args, ".service")? {
        if let Err(failure) = context.backend.ask(Request::KillUnit {
            name: name.clone(),
            who,
            signal,
        }) {
            eprintln!("Failed to kill unit {name}: {failure}");
            code = 1;
        }
    }
    Ok(code)
}

/// `cancel`
pub(crate) fn cancel(context: &mut Context, _: &str) -> Outcome {
    let args = context.args();
    if args.is_empty() {
        context.backend.ask(Request::ClearJobs)?;
        return Ok(0);
    }
    let mut code = 0;
    for arg in args {
        let Ok(id) = arg.parse() else {
            return Err(Failure::Unreachable(format!(
                "Failed to parse job id \"{arg}\": Invalid argument"
            )));
        };
        if let Err(failure) = context.backend.ask(Request::CancelJob { id }) {
            eprintln!("Failed to cancel job {id}: {failure}");
            code = 1;
        }
    }
    Ok(code)
}

/// `reset-failed`
pub(crate) fn reset_failed(context: &mut Context, _: &str) -> Outcome {
    let args = context.args();
    if args.is_empty() {
        context.backend.ask(Request::ResetFailed { name: None })?;
        return Ok(0);
    }
    let mut code = 0;
    for name in context.units(&args, ".service")? {
        if let Err(failure) = context.backend.ask(Request::ResetFailed {
            name: Some(name.clone()),
        }) {
            eprintln!("Failed to reset failed state of unit {name}: {failure}");
            code = 1;
        }
    }
    Ok(code)
}

/// `set-property UNIT KEY=VALUE …`
pub(crate) fn set_property(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let name = crate::names::mangle(&args[0], ".service");
    let section = UnitName::parse(&name)
        .ok()
        .and_then(|name| name.unit_type().section())
        .unwrap_or("Unit");
    let mut settings = Vec::new();
    for assignment in &args[1..] {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(Failure::Unreachable(format!(
                "Not an assignment: {assignment}"
            )));
        };
        let section = if matches!(key, "Description" | "CollectMode") {
            "Unit"
        } else {
            section
        };
        settings.push(Setting::new(section, key, value));
    }
    let runtime = context.options.runtime;
    context.backend.ask(Request::SetUnitProperties {
        name,
        runtime,
        settings,
    })?;
    Ok(0)
}

/// `daemon-reload`
pub(crate) fn reload(context: &mut Context, _: &str) -> Outcome {
    context
        .backend
        .ask(Request::Reload)
        .map_err(|failure| Failure::Unreachable(format!("Failed to reload daemon: {failure}")))?;
    Ok(0)
}

/// `daemon-reexec`
pub(crate) fn reexec(context: &mut Context, _: &str) -> Outcome {
    context.backend.ask(Request::Reexec).map_err(|failure| {
        Failure::Unreachable(format!("Failed to reexecute daemon: {failure}"))
    })?;
    Ok(0)
}
