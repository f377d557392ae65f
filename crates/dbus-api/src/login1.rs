//! `org.freedesktop.login1`: ending the machine, sessions.

use crate::Call;
use crate::call::read;
use crate::wire::Value;

/// Name of the service.
pub const NAME: &str = "org.freedesktop.login1";
/// Its object.
pub const PATH: &str = "/org/freedesktop/login1";
/// Its interface.
pub const MANAGER: &str = "org.freedesktop.login1.Manager";

/// A session of `ListSessions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// User id.
    pub uid: u32,
    /// User name.
    pub user: String,
    /// Seat, empty where there is none.
    pub seat: String,
    /// Its object.
    pub path: String,
}

fn power(member: &str) -> Call<()> {
    Call::new(
        NAME,
        PATH,
        MANAGER,
        member,
        vec![Value::Bool(false)],
        read::nothing,
    )
}

/// Restart the machine.
pub fn reboot() -> Call<()> {
    power("Reboot")
}

/// Cut the power.
pub fn power_off() -> Call<()> {
    power("PowerOff")
}

/// Stop the machine, power on.
pub fn halt() -> Call<()> {
    power("Halt")
}

/// Who is logged in.
pub fn list_sessions() -> Call<Vec<Session>> {
    Call::new(NAME, PATH, MANAGER, "ListSessions", vec![], |body| {
        body.first()?
            .items()?
            .iter()
            .map(|item| {
                let [id, uid, user, seat, path] = item.items()? else {
                    return None;
                };
                Some(Session {
                    id: id.as_str()?.to_owned(),
                    uid: uid.as_u32()?,
                    user: user.as_str()?.to_owned(),
                    seat: seat.as_str()?.to_owned(),
                    path: path.as_str()?.to_owned(),
                })
            })
            .collect()
    })
}
