//! Introspection data, made from the table and the live properties.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dbus_api::names;
use dbus_api::snapshot::{Interface, manager_properties};
use dbus_api::systemd1::MANAGER;
use dbus_api::wire::{Value, split_signature};
use init_control::{Reply, Request};

use crate::dispatch::{Call, INTROSPECTABLE, Object, PEER, PROPERTIES};
use crate::properties::of_unit;
use crate::step::Step;
use crate::{hostname, unit};

const DOCTYPE: &str = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n\
 \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";

const COMMON: &[(&str, &str, &str, &str)] = &[
    (PEER, "Ping", "", ""),
    (PEER, "GetMachineId", "", "s"),
    (INTROSPECTABLE, "Introspect", "", "s"),
    (PROPERTIES, "Get", "ss", "v"),
    (PROPERTIES, "GetAll", "s", "a{sv}"),
    (PROPERTIES, "Set", "ssv", ""),
];

const MANAGER_SIGNALS: &[(&str, &str)] = &[
    ("UnitNew", "so"),
    ("UnitRemoved", "so"),
    ("JobNew", "uos"),
    ("JobRemoved", "uoss"),
    ("StartupFinished", "tttttt"),
    ("UnitFilesChanged", ""),
    ("Reloading", "b"),
];

pub(crate) fn introspect(call: &Call) -> Step {
    let object = call.object.clone();
    let world = std::rc::Rc::clone(&call.world);
    match &call.object {
        Object::Node => nodes(call),
        Object::Manager => Step::ask(Request::ManagerSnapshot, move |reply| match reply {
            Reply::Manager(manager) => {
                let properties = manager_properties(&manager);
                let interfaces = [Interface {
                    name: MANAGER.to_owned(),
                    properties,
                }];
                Step::Reply(vec![Value::str(xml(
                    &object,
                    &interfaces,
                    &["unit".into(), "job".into()],
                ))])
            }
            _ => Step::mismatch(),
        }),
        Object::Unit(name) => unit::snapshot(call, name, move |unit| {
            Step::Reply(vec![Value::str(xml(&object, &of_unit(&unit, &world), &[]))])
        }),
        Object::Job(id) => unit::job(*id, move |job| {
            Step::Reply(vec![Value::str(xml(
                &object,
                &[unit::job_interface(&job)],
                &[],
            ))])
        }),
        Object::Hostname => Step::Reply(vec![Value::str(xml(
            &object,
            &[hostname::interface(&world)],
            &[],
        ))]),
        Object::Login | Object::Session(_) | Object::Timedate => {
            Step::Reply(vec![Value::str(xml(&object, &[], &[]))])
        }
    }
}

/// The paths above the objects.
fn nodes(call: &Call) -> Step {
    let fixed: &[&str] = match call.path.as_str() {
        "/" => &["org"],
        "/org" => &["freedesktop"],
        "/org/freedesktop" => &["systemd1", "login1", "hostname1", "timedate1"],
        "/org/freedesktop/systemd1/unit" => {
            return children(Request::ListUnits {
                states: vec![],
                patterns: vec![],
            });
        }
        _ => return children(Request::ListJobs),
    };
    let fixed: Vec<String> = fixed.iter().map(|name| (*name).to_owned()).collect();
    Step::Reply(vec![Value::str(xml(&Object::Node, &[], &fixed))])
}

fn children(request: Request) -> Step {
    Step::ask(request, |reply| {
        let children: Vec<String> = match reply {
            Reply::Units(units) => units.iter().map(|unit| names::escape(&unit.name)).collect(),
            Reply::Jobs(jobs) => jobs.iter().map(|job| job.id.to_string()).collect(),
            _ => return Step::mismatch(),
        };
        Step::Reply(vec![Value::str(xml(&Object::Node, &[], &children))])
    })
}

fn xml(object: &Object, interfaces: &[Interface], children: &[String]) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let table = object
        .methods()
        .iter()
        .map(|m| (m.interface, m.member, m.input, m.output));
    for (interface, member, input, output) in COMMON.iter().copied().chain(table) {
        let section = sections.entry(interface).or_default();
        let _ = writeln!(section, "  <method name=\"{member}\">");
        for (direction, signature) in [("in", input), ("out", output)] {
            for part in split_signature(signature).unwrap_or_default() {
                let _ = writeln!(
                    section,
                    "   <arg type=\"{part}\" direction=\"{direction}\"/>"
                );
            }
        }
        section.push_str("  </method>\n");
    }
    for interface in interfaces {
        let section = sections.entry(&interface.name).or_default();
        for (name, value) in &interface.properties {
            let signature = value.signature();
            let _ = writeln!(
                section,
                "  <property name=\"{name}\" type=\"{signature}\" access=\"read\"/>"
            );
        }
    }
    let (interface, signals): (&str, &[(&str, &str)]) = match object {
        Object::Manager => (MANAGER, MANAGER_SIGNALS),
        Object::Unit(_) => (PROPERTIES, &[("PropertiesChanged", "sa{sv}as")]),
        _ => (PEER, &[]),
    };
    let section = sections.entry(interface).or_default();
    for (name, signature) in signals {
        let _ = writeln!(section, "  <signal name=\"{name}\">");
        for part in split_signature(signature).unwrap_or_default() {
            let _ = writeln!(section, "   <arg type=\"{part}\"/>");
        }
        section.push_str("  </signal>\n");
    }
    let mut out = format!("{DOCTYPE}<node>\n");
    for (name, body) in sections {
        let _ = writeln!(out, " <interface name=\"{name}\">\n{body} </interface>");
    }
    for child in children {
        let _ = writeln!(out, " <node name=\"{child}\"/>");
    }
    out.push_str("</node>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_balanced() {
        for object in [
            Object::Manager,
            Object::Unit("a.service".into()),
            Object::Login,
            Object::Node,
        ] {
            let text = xml(&object, &[], &["x".to_owned()]);
            for tag in ["node", "interface", "method", "signal"] {
                let open = text.matches(&format!("<{tag} name")).count()
                    + usize::from(tag == "node")
                    - usize::from(tag == "node");
                let close = text.matches(&format!("</{tag}>")).count();
                let expect = if tag == "node" { 1 } else { close };
                assert_eq!(open, expect, "{tag} in {text}");
            }
        }
    }
}
