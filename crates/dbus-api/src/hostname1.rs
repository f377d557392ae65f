//! `org.freedesktop.hostname1`.

use crate::call::read;
use crate::wire::Value;
use crate::{Call, Properties};

/// Name of the service.
pub const NAME: &str = "org.freedesktop.hostname1";
/// Its object.
pub const PATH: &str = "/org/freedesktop/hostname1";

/// Set the name that is kept in `/etc/hostname`, and the running one with it.
pub fn set_static_hostname(name: &str) -> Call<()> {
    Call::new(
        NAME,
        PATH,
        NAME,
        "SetStaticHostname",
        vec![Value::str(name), Value::Bool(false)],
        read::nothing,
    )
}

/// Set the running host name only.
pub fn set_hostname(name: &str) -> Call<()> {
    Call::new(
        NAME,
        PATH,
        NAME,
        "SetHostname",
        vec![Value::str(name), Value::Bool(false)],
        read::nothing,
    )
}

/// All properties.
pub fn properties() -> Call<Properties> {
    Call::new(
        NAME,
        PATH,
        "org.freedesktop.DBus.Properties",
        "GetAll",
        vec![Value::str(NAME)],
        Properties::read,
    )
}
