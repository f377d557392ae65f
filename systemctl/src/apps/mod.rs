//! The other names this program answers to.

pub(crate) mod analyze;
pub(crate) mod cat;
pub(crate) mod escape;
pub(crate) mod hostname;
pub(crate) mod login;
pub(crate) mod notify;
pub(crate) mod power;
pub(crate) mod run;
pub(crate) mod timedate;

use std::process::ExitCode;

use dbus_api::blocking::Connection;
use dbus_api::wire::Value;
use dbus_api::{Call, Error, Properties};

/// Say what failed, and end with 1.
fn fail(program: &str, what: &str, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("{program}: {what}: {}", telemetry::chain(error));
    ExitCode::from(1)
}

/// All properties of an object of the system bus.
fn properties(
    bus: &mut Connection,
    service: &str,
    path: &str,
    interface: &str,
) -> Result<Properties, Error> {
    let read = |body: &[Value]| Properties::from_value(body.first()?);
    bus.call(Call::new(
        service,
        path,
        "org.freedesktop.DBus.Properties",
        "GetAll",
        vec![Value::str(interface)],
        read,
    ))
}
