//! `org.freedesktop.DBus`: the bus itself.

use crate::Call;
use crate::call::read;
use crate::wire::Value;

/// Name of the bus.
pub const NAME: &str = "org.freedesktop.DBus";
/// Its object.
pub const PATH: &str = "/org/freedesktop/DBus";
/// `RequestName`: fail instead of queueing behind the owner.
pub const DO_NOT_QUEUE: u32 = 4;
/// `RequestName` answered: we own it now.
pub const PRIMARY_OWNER: u32 = 1;
/// `RequestName` answered: we owned it already.
pub const ALREADY_OWNER: u32 = 4;

fn call<T>(member: &str, body: Vec<Value>, reader: fn(&[Value]) -> Option<T>) -> Call<T> {
    Call::new(NAME, PATH, NAME, member, body, reader)
}

/// First call of a connection; gives our unique name.
pub fn hello() -> Call<String> {
    call("Hello", vec![], read::text)
}

/// Ask for signals that match the rule.
pub fn add_match(rule: &str) -> Call<()> {
    call("AddMatch", vec![Value::str(rule)], read::nothing)
}

/// Take a rule back.
pub fn remove_match(rule: &str) -> Call<()> {
    call("RemoveMatch", vec![Value::str(rule)], read::nothing)
}

/// Become the owner of a well-known name; the answer is [`PRIMARY_OWNER`] or another code.
pub fn request_name(name: &str, flags: u32) -> Call<u32> {
    call(
        "RequestName",
        vec![Value::str(name), Value::U32(flags)],
        read::number,
    )
}

/// Give a name back.
pub fn release_name(name: &str) -> Call<u32> {
    call("ReleaseName", vec![Value::str(name)], read::number)
}

/// Does somebody own it?
pub fn name_has_owner(name: &str) -> Call<bool> {
    call("NameHasOwner", vec![Value::str(name)], read::boolean)
}

/// Who owns it?
pub fn name_owner(name: &str) -> Call<String> {
    call("GetNameOwner", vec![Value::str(name)], read::text)
}

/// User behind a name.
pub fn connection_unix_user(name: &str) -> Call<u32> {
    call(
        "GetConnectionUnixUser",
        vec![Value::str(name)],
        read::number,
    )
}

/// Process behind a name.
pub fn connection_process_id(name: &str) -> Call<u32> {
    call(
        "GetConnectionUnixProcessID",
        vec![Value::str(name)],
        read::number,
    )
}

/// All names.
pub fn list_names() -> Call<Vec<String>> {
    call("ListNames", vec![], read::texts)
}
