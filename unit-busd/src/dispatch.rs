//! One table for all objects: path kind × interface × member.
//!
//! No object is registered anywhere: any well-formed path below `/org/freedesktop/systemd1/unit/` answers, and
//! PID 1 loads the unit when it is asked about.

use std::rc::Rc;

use dbus_api::names;
use dbus_api::wire::{Message, Value};
use init_control::ErrorKind;
use syscalls::socket::Credentials;
use unit_file::UnitName;

use crate::step::{Step, World};
use crate::{access, hostname, introspect, login, manager, properties, timedate, unit};

pub(crate) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub(crate) const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
pub(crate) const PEER: &str = "org.freedesktop.DBus.Peer";

/// What an object path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// A path above the others.
    Node,
    /// `/org/freedesktop/systemd1`
    Manager,
    /// A unit, by its name in the path.
    Unit(String),
    /// A job.
    Job(u32),
    /// `/org/freedesktop/login1`
    Login,
    /// A login session.
    Session(String),
    /// `/org/freedesktop/hostname1`
    Hostname,
    /// `/org/freedesktop/timedate1`
    Timedate,
}

impl Object {
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        if let Some(name) = names::unit_of_path(path) {
            // `self` is the caller's own unit; it is no valid unit name.
            return (name == "self" || UnitName::parse(&name).is_ok()).then_some(Self::Unit(name));
        }
        if let Some(id) = names::job_of_path(path) {
            return Some(Self::Job(id));
        }
        if let Some(label) = path.strip_prefix(login::SESSION_PREFIX) {
            return names::unescape(label).map(Self::Session);
        }
        match path {
            "/"
            | "/org"
            | "/org/freedesktop"
            | "/org/freedesktop/systemd1/unit"
            | "/org/freedesktop/systemd1/job" => Some(Self::Node),
            "/org/freedesktop/systemd1" | "/org/freedesktop/LogControl1" => Some(Self::Manager),
            "/org/freedesktop/login1" => Some(Self::Login),
            "/org/freedesktop/hostname1" => Some(Self::Hostname),
            "/org/freedesktop/timedate1" => Some(Self::Timedate),
            _ => None,
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Node => &[],
            Self::Manager => manager::METHODS,
            Self::Unit(_) => unit::METHODS,
            Self::Job(_) => unit::JOB_METHODS,
            Self::Login => login::METHODS,
            Self::Session(_) => login::SESSION_METHODS,
            Self::Hostname => hostname::METHODS,
            Self::Timedate => timedate::METHODS,
        }
    }
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    All,
    /// Root.
    Root,
    /// Root and members of the group wheel.
    Wheel,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) interface: &'static str,
    pub(crate) member: &'static str,
    /// Signature of the arguments.
    pub(crate) input: &'static str,
    /// Signature of the answer.
    pub(crate) output: &'static str,
    pub(crate) access: Access,
    pub(crate) run: fn(&Call) -> Step,
}

/// A call with all that its handler may look at. The arguments have the row's signature.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) object: Object,
    pub(crate) path: String,
    pub(crate) interface: String,
    pub(crate) member: String,
    pub(crate) body: Vec<Value>,
    pub(crate) peer: Credentials,
    pub(crate) world: Rc<World>,
}

impl Call {
    pub(crate) fn text(&self, index: usize) -> String {
        self.body
            .get(index)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn texts(&self, index: usize) -> Vec<String> {
        self.body
            .get(index)
            .and_then(Value::as_strings)
            .unwrap_or_default()
    }

    pub(crate) fn flag(&self, index: usize) -> bool {
        self.body
            .get(index)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    }

    pub(crate) fn number(&self, index: usize) -> u64 {
        self.body
            .get(index)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }

    pub(crate) fn signed(&self, index: usize) -> i32 {
        self.body
            .get(index)
            .and_then(Value::as_i64)
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.peer.pid).unwrap_or_default()
    }
}

/// Begin to answer a call.
pub(crate) fn dispatch(message: &Message, peer: Credentials, world: &Rc<World>) -> Step {
    let Some(object) = Object::of_path(&message.path) else {
        return Step::bus_error(
            "UnknownObject",
            format!("Unknown object '{}'.", message.path),
        );
    };
    let call = Call {
        object,
        path: message.path.clone(),
        interface: message.interface.clone(),
        member: message.member.clone(),
        body: message.body.clone(),
        peer,
        world: Rc::clone(world),
    };
    let signature = message.signature();
    let everywhere = match call.interface.as_str() {
        PEER | INTROSPECTABLE | PROPERTIES => true,
        "" => matches!(
            call.member.as_str(),
            "Ping" | "GetMachineId" | "Introspect" | "Get" | "GetAll" | "Set"
        ),
        _ => false,
    };
    if everywhere {
        return common(&call, &signature);
    }
    let mut known_interface = false;
    for method in call.object.methods() {
        if !call.interface.is_empty() && method.interface != call.interface {
            continue;
        }
        known_interface = true;
        if method.member != call.member {
            continue;
        }
        if method.input != signature {
            return wrong_arguments(&call, &signature, method.input);
        }
        if !access::allowed(method.access, peer, &world.root) {
            return Step::refuse(ErrorKind::AccessDenied, "Access denied");
        }
        return (method.run)(&call);
    }
    if known_interface {
        let text = format!(
            "Unknown method {} or interface {}.",
            call.member, call.interface
        );
        Step::bus_error("UnknownMethod", text)
    } else {
        Step::bus_error(
            "UnknownInterface",
            format!("Unknown interface {}.", call.interface),
        )
    }
}

fn wrong_arguments(call: &Call, found: &str, wanted: &str) -> Step {
    let text = format!(
        "Invalid arguments '{found}' to call {}, expecting '{wanted}'.",
        call.member
    );
    Step::refuse(ErrorKind::InvalidArgs, text)
}

/// What every object answers.
fn common(call: &Call, signature: &str) -> Step {
    match (call.member.as_str(), signature) {
        ("Ping", "") => Step::done(),
        ("GetMachineId", "") => {
            match std::fs::read_to_string(call.world.root.join("etc/machine-id")) {
                Ok(id) => Step::Reply(vec![Value::str(id.trim())]),
                Err(error) => Step::refuse(
                    ErrorKind::Failed,
                    format!("failed to read /etc/machine-id: {error}"),
                ),
            }
        }
        ("Introspect", "") => introspect::introspect(call),
        ("Get", "ss") => properties::get(call),
        ("GetAll", "s") => properties::get_all(call),
        ("Set", "ssv") => properties::set(call),
        ("Ping" | "GetMachineId" | "Introspect", _) => wrong_arguments(call, signature, ""),
        ("Get", _) => wrong_arguments(call, signature, "ss"),
        ("GetAll", _) => wrong_arguments(call, signature, "s"),
        ("Set", _) => wrong_arguments(call, signature, "ssv"),
        _ => Step::bus_error("UnknownMethod", format!("Unknown method {}.", call.member)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn world() -> Rc<World> {
        Rc::new(World {
            cgroups: "/sys/fs/cgroup".into(),
            root: "/".into(),
        })
    }

    fn call(path: &str, interface: &str, member: &str, body: Vec<Value>, uid: u32) -> Step {
        let mut message = Message::call("org.freedesktop.systemd1", path, interface, member, body);
        message.serial = 1;
        dispatch(
            &message,
            Credentials {
                pid: 1,
                uid,
                gid: uid,
            },
            &world(),
        )
    }

    #[track_caller]
    fn refused(step: Step, name: &str) {
        match step {
            Step::Refuse(found, _) => assert_eq!(found, name),
            other => panic!("not refused: {other:?}"),
        }
    }

    const MANAGER: &str = "org.freedesktop.systemd1.Manager";
    const PATH: &str = "/org/freedesktop/systemd1";

    #[test]
    fn rows_are_unique_and_well_formed() {
        for object in [
            Object::Manager,
            Object::Unit("a.service".into()),
            Object::Job(1),
            Object::Login,
            Object::Session("1".into()),
            Object::Hostname,
            Object::Timedate,
        ] {
            let mut seen = BTreeSet::new();
            for method in object.methods() {
                assert!(
                    seen.insert((method.interface, method.member)),
                    "{} twice",
                    method.member
                );
                assert!(
                    dbus_api::wire::check_signature(method.input),
                    "{}",
                    method.member
                );
                assert!(
                    dbus_api::wire::check_signature(method.output),
                    "{}",
                    method.member
                );
            }
        }
    }

    #[test]
    fn refusals() {
        refused(
            call("/nowhere", MANAGER, "Reload", vec![], 0),
            "org.freedesktop.DBus.Error.UnknownObject",
        );
        refused(
            call(PATH, "org.example", "Reload", vec![], 0),
            "org.freedesktop.DBus.Error.UnknownInterface",
        );
        refused(
            call(PATH, MANAGER, "Explode", vec![], 0),
            "org.freedesktop.DBus.Error.UnknownMethod",
        );
        refused(
            call(PATH, MANAGER, "GetUnit", vec![], 0),
            "org.freedesktop.DBus.Error.InvalidArgs",
        );
        refused(
            call(PATH, MANAGER, "Reload", vec![], 1000),
            "org.freedesktop.DBus.Error.AccessDenied",
        );
        let bad_name = "/org/freedesktop/systemd1/unit/nosuffix";
        refused(
            call(bad_name, PROPERTIES, "GetAll", vec![Value::str("")], 0),
            "org.freedesktop.DBus.Error.UnknownObject",
        );
    }

    #[test]
    fn questions() {
        assert!(matches!(
            call(PATH, MANAGER, "Reload", vec![], 0),
            Step::Ask(init_control::Request::Reload, _)
        ));
        // The interface may be left out.
        assert!(matches!(
            call(PATH, "", "ListJobs", vec![], 1000),
            Step::Ask(init_control::Request::ListJobs, _)
        ));
        let unit = "/org/freedesktop/systemd1/unit/a_2eservice";
        assert!(matches!(
            call(unit, PROPERTIES, "GetAll", vec![Value::str("")], 1000),
            Step::Ask(..)
        ));
        assert!(matches!(
            call(PATH, PEER, "Ping", vec![], 1000),
            Step::Reply(_)
        ));
    }
}
