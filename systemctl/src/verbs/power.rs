//! Ending the machine.

use init_control::{PowerAction, Request};

use crate::backend::{Backend, Failure};
use crate::cli::{Context, Outcome};

/// `poweroff reboot halt kexec soft-reboot`
pub(crate) fn power(context: &mut Context, verb: &str) -> Outcome {
    let Some(action) = PowerAction::from_word(verb) else {
        return Err(Failure::unexpected());
    };
    if context.options.dry_run {
        println!("Would {verb} the machine.");
        return Ok(0);
    }
    let argument = context.args().first().cloned();
    let ignores = context.options.ignore_inhibitors
        || context
            .options
            .check_inhibitors
            .as_deref()
            .is_some_and(|word| matches!(word, "no" | "false" | "0"));
    let force = context.options.force;
    end(context.backend.as_mut(), action, force, argument, ignores)
}

/// End the machine. Without force login1 is asked first, because it knows inhibitors; where it does not answer (rescue),
/// PID 1 is. `force` once: units are not stopped first; twice: the kernel at once.
pub(crate) fn end(
    backend: &mut dyn Backend,
    action: PowerAction,
    force: u8,
    argument: Option<String>,
    ignores_inhibitors: bool,
) -> Outcome {
    if force >= 2 {
        return at_once(action);
    }
    let by_login = force == 0 && argument.is_none() && !ignores_inhibitors;
    if by_login {
        match ask_login(action) {
            Some(Ok(())) => return Ok(0),
            Some(Err(failure)) => return Err(failure),
            None => {}
        }
    }
    backend.ask(Request::Power {
        action,
        immediate: force > 0,
        argument,
    })?;
    Ok(0)
}

/// None where login1 is not there or does not know the action.
fn ask_login(action: PowerAction) -> Option<Result<(), Failure>> {
    let call = match action {
        PowerAction::Reboot => dbus_api::login1::reboot(),
        PowerAction::PowerOff => dbus_api::login1::power_off(),
        PowerAction::Halt => dbus_api::login1::halt(),
        PowerAction::Kexec | PowerAction::SoftReboot => return None,
    };
    let mut bus = dbus_api::blocking::Connection::system().ok()?;
    match bus.call(call) {
        Ok(()) => Some(Ok(())),
        Err(dbus_api::Error::Remote { name, message, .. })
            if name.starts_with("org.freedesktop.login1.") =>
        {
            Some(Err(Failure::Unreachable(format!(
                "{message}\nhint: {action} -i ignores inhibitors"
            ))))
        }
        Err(dbus_api::Error::Remote { name, message, .. }) if name.ends_with(".AccessDenied") => {
            Some(Err(Failure::Refused(init_control::ControlError::new(
                init_control::ErrorKind::AccessDenied,
                message,
            ))))
        }
        Err(_) => None,
    }
}

/// `-ff`: sync, then the system call.
fn at_once(action: PowerAction) -> Outcome {
    use rustix::system::RebootCommand;
    let command = match action {
        PowerAction::Reboot | PowerAction::SoftReboot => RebootCommand::Restart,
        PowerAction::PowerOff => RebootCommand::PowerOff,
        PowerAction::Halt => RebootCommand::Halt,
        PowerAction::Kexec => RebootCommand::Kexec,
    };
    rustix::fs::sync();
    rustix::system::reboot(command)
        .map_err(|error| Failure::Unreachable(format!("Failed to {action}: {error}")))?;
    Ok(0)
}

/// `shutdown` at a time (µs since 1970), or cancel it.
pub(crate) fn schedule(wanted: Option<(PowerAction, u64)>) -> Result<bool, Failure> {
    use dbus_api::wire::Value;
    let failure = |error: dbus_api::Error| Failure::Unreachable(telemetry::chain(&error));
    let mut bus = dbus_api::blocking::Connection::system().map_err(failure)?;
    let (member, body) = match wanted {
        Some((action, at)) => (
            "ScheduleShutdown",
            vec![Value::str(action.as_str()), Value::U64(at)],
        ),
        None => ("CancelScheduledShutdown", vec![]),
    };
    let read = |body: &[Value]| Some(body.first().and_then(Value::as_bool).unwrap_or(true));
    let call = dbus_api::Call::new(
        dbus_api::login1::NAME,
        dbus_api::login1::PATH,
        dbus_api::login1::MANAGER,
        member,
        body,
        read,
    );
    bus.call(call).map_err(failure)
}
