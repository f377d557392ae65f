//! `org.freedesktop.DBus.Properties` on every object.
//!
//! `GetAll` with an empty interface gives the union of all: `systemctl show` and `status` ask so.

use dbus_api::snapshot::{Interface, Usage, manager_properties, unit_interfaces};
use dbus_api::systemd1::MANAGER;
use dbus_api::wire::Value;
use init_control::{ErrorKind, Reply, Request, UnitSnapshot};

use crate::dispatch::{Access, Call, Object};
use crate::step::{Act, Step, World};
use crate::{access, hostname, login, timedate, unit};

pub(crate) const LOG_CONTROL: &str = "org.freedesktop.LogControl1";

/// What a caller wants of an object's properties.
#[derive(Debug, Clone)]
enum Wanted {
    /// All of an interface; an empty one means all interfaces.
    All(String),
    /// One.
    One(String, String),
}

impl Wanted {
    fn pick(&self, interfaces: Vec<Interface>) -> Step {
        match self {
            Self::All(name) if name.is_empty() => {
                // LogControl1 repeats what the manager has.
                let all = interfaces
                    .into_iter()
                    .filter(|interface| interface.name != LOG_CONTROL);
                Step::Reply(vec![Value::dict(
                    all.flat_map(|interface| interface.properties),
                )])
            }
            Self::All(name) => match interfaces.into_iter().find(|i| i.name == *name) {
                Some(interface) => Step::Reply(vec![Value::dict(interface.properties)]),
                None => Step::bus_error("UnknownInterface", format!("Unknown interface '{name}'.")),
            },
            Self::One(name, property) => {
                let mut known = false;
                for interface in interfaces
                    .into_iter()
                    .filter(|i| name.is_empty() || i.name == *name)
                {
                    known = true;
                    if let Some((_, value)) = interface
                        .properties
                        .into_iter()
                        .find(|(key, _)| key == property)
                    {
                        return Step::Reply(vec![Value::variant(value)]);
                    }
                }
                if known {
                    Step::bus_error("UnknownProperty", format!("Unknown property '{property}'."))
                } else {
                    Step::bus_error("UnknownInterface", format!("Unknown interface '{name}'."))
                }
            }
        }
    }
}

pub(crate) fn get(call: &Call) -> Step {
    let property = call.text(1);
    if call.object == Object::Login {
        return Step::Act(Act::LoginProperty(property));
    }
    answer(call, Wanted::One(call.text(0), property))
}

pub(crate) fn get_all(call: &Call) -> Step {
    if call.object == Object::Login {
        return Step::Act(Act::LoginProperty(String::new()));
    }
    answer(call, Wanted::All(call.text(0)))
}

fn answer(call: &Call, wanted: Wanted) -> Step {
    match &call.object {
        Object::Node => wanted.pick(Vec::new()),
        // Kept by the server; `get` and `get_all` have turned there.
        Object::Login => Step::mismatch(),
        Object::Manager => Step::ask(Request::ManagerSnapshot, move |reply| match reply {
            Reply::Manager(manager) => {
                let properties = manager_properties(&manager);
                let log: Vec<_> = [
                    ("LogLevel", &manager.log_level),
                    ("LogTarget", &manager.log_target),
                ]
                .into_iter()
                .map(|(name, text)| (name, Value::str(text.as_str())))
                .chain([("SyslogIdentifier", Value::str("systemd"))])
                .collect();
                wanted.pick(vec![
                    Interface {
                        name: MANAGER.to_owned(),
                        properties,
                    },
                    Interface {
                        name: LOG_CONTROL.to_owned(),
                        properties: log,
                    },
                ])
            }
            _ => Step::mismatch(),
        }),
        Object::Unit(name) => {
            let world = std::rc::Rc::clone(&call.world);
            unit::snapshot(call, name, move |unit| wanted.pick(of_unit(&unit, &world)))
        }
        Object::Job(id) => {
            let id = *id;
            unit::job(id, move |job| wanted.pick(vec![unit::job_interface(&job)]))
        }
        Object::Session(id) => match login::session_properties(call, id) {
            Some(interface) => wanted.pick(vec![interface]),
            None => Step::bus_error("UnknownObject", format!("Unknown object '{}'.", call.path)),
        },
        Object::Hostname => wanted.pick(vec![hostname::interface(&call.world)]),
        Object::Timedate => {
            timedate::with_interface(call, move |interface| wanted.pick(vec![interface]))
        }
    }
}

/// The unit's interfaces with its counters read now.
pub(crate) fn of_unit(unit: &UnitSnapshot, world: &World) -> Vec<Interface> {
    unit_interfaces(unit, &Usage::read(&world.cgroups, unit))
}

/// Only the manager's log level can be set; everything else has methods of its own.
pub(crate) fn set(call: &Call) -> Step {
    let (interface, property) = (call.text(0), call.text(1));
    if !access::allowed(Access::Root, call.peer, &call.world.root) {
        return Step::refuse(ErrorKind::AccessDenied, "Access denied");
    }
    let is_log_level = call.object == Object::Manager
        && matches!(interface.as_str(), MANAGER | LOG_CONTROL | "")
        && property == "LogLevel";
    match call.body.get(2).and_then(Value::as_str) {
        Some(level) if is_log_level => Step::ask_done(Request::SetLogLevel {
            level: level.to_owned(),
        }),
        _ => Step::bus_error(
            "PropertyReadOnly",
            format!("Property '{property}' is not writable."),
        ),
    }
}
