//! PID 1's signals as D-Bus signals. Pure.

use dbus_api::names;
use dbus_api::snapshot::Interface;
use dbus_api::systemd1::{MANAGER, PATH, PROPERTIES};
use dbus_api::wire::{Message, Value};
use init_control::Signal;

/// Who gets a signal on the private socket; on the bus, match rules decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Every private peer: the manager's signals.
    Manager,
    /// Private peers that called `Subscribe`: units' signals. `systemctl` does not want them, and during a boot
    /// there are thousands.
    Units,
    /// The bus only.
    Bus,
}

/// The message for a signal; none where it becomes `PropertiesChanged` and needs a snapshot first.
pub(crate) fn message(signal: &Signal) -> Option<(Message, Audience)> {
    let manager = |member: &str, body: Vec<Value>| Message::signal(PATH, MANAGER, member, body);
    let unit = |name: &str| vec![Value::str(name), Value::path(names::unit_path(name))];
    let job = |id: u32, name: &str| {
        vec![
            Value::U32(id),
            Value::path(names::job_path(id)),
            Value::str(name),
        ]
    };
    Some(match signal {
        Signal::JobNew { id, unit } => (manager("JobNew", job(*id, unit)), Audience::Manager),
        Signal::JobRemoved { id, unit, result } => {
            let mut body = job(*id, unit);
            body.push(Value::str(&**result));
            (manager("JobRemoved", body), Audience::Manager)
        }
        Signal::UnitNew { unit: name } => (manager("UnitNew", unit(name)), Audience::Units),
        Signal::UnitRemoved { unit: name } => (manager("UnitRemoved", unit(name)), Audience::Units),
        Signal::UnitFilesChanged => (manager("UnitFilesChanged", Vec::new()), Audience::Manager),
        Signal::Reloading { active } => (
            manager("Reloading", vec![Value::Bool(*active)]),
            Audience::Manager,
        ),
        Signal::StartupFinished {
            firmware,
            loader,
            kernel,
            initrd,
            userspace,
            total,
        } => {
            let body =
                [firmware, loader, kernel, initrd, userspace, total].map(|usec| Value::U64(*usec));
            (manager("StartupFinished", body.to_vec()), Audience::Manager)
        }
        Signal::SystemStateChanged { state } => {
            let body = vec![
                Value::str(MANAGER),
                Value::dict([("SystemState", Value::str(state.as_str()))]),
                Value::strings(Vec::<String>::new()),
            ];
            (
                Message::signal(PATH, PROPERTIES, "PropertiesChanged", body),
                Audience::Units,
            )
        }
        Signal::UnitChanged { .. } => return None,
    })
}

/// What can have changed when PID 1 says that a unit changed; all else is constant until a reload.
const LIVE: &[&str] = &[
    "LoadState",
    "ActiveState",
    "SubState",
    "Job",
    "ConditionResult",
    "AssertResult",
    "InvocationID",
    "StateChangeTimestamp",
    "StateChangeTimestampMonotonic",
    "InactiveExitTimestamp",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestamp",
    "ActiveEnterTimestampMonotonic",
    "ActiveExitTimestamp",
    "ActiveExitTimestampMonotonic",
    "InactiveEnterTimestamp",
    "InactiveEnterTimestampMonotonic",
    "ConditionTimestamp",
    "ConditionTimestampMonotonic",
    "AssertTimestamp",
    "AssertTimestampMonotonic",
    "NeedDaemonReload",
    "MainPID",
    "ControlPID",
    "StatusText",
    "StatusErrno",
    "Result",
    "ReloadResult",
    "NRestarts",
    "UID",
    "GID",
    "ExecMainStartTimestamp",
    "ExecMainStartTimestampMonotonic",
    "ExecMainExitTimestamp",
    "ExecMainExitTimestampMonotonic",
    "ExecMainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ControlGroup",
    "NFileDescriptorStore",
    "WatchdogTimestamp",
    "NConnections",
    "NAccepted",
    "NRefused",
    "NextElapseUSecRealtime",
    "NextElapseUSecMonotonic",
    "LastTriggerUSec",
    "LastTriggerUSecMonotonic",
    "SysFSPath",
    "What",
    "Options",
    "Type",
];

/// `PropertiesChanged` of each interface of a unit, that of its type first, as systemd sends them.
pub(crate) fn changed(unit: &str, interfaces: Vec<Interface>) -> Vec<Message> {
    let path = names::unit_path(unit);
    interfaces
        .into_iter()
        .map(|interface| {
            let live = interface
                .properties
                .into_iter()
                .filter(|(name, _)| LIVE.contains(name));
            let body = vec![
                Value::Str(interface.name),
                Value::dict(live),
                Value::strings(Vec::<String>::new()),
            ];
            Message::signal(&path, PROPERTIES, "PropertiesChanged", body)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        for (signal, signature) in [
            (
                Signal::JobNew {
                    id: 1,
                    unit: "a.service".into(),
                },
                "uos",
            ),
            (
                Signal::JobRemoved {
                    id: 1,
                    unit: "a.service".into(),
                    result: "done".into(),
                },
                "uoss",
            ),
            (
                Signal::UnitNew {
                    unit: "a.service".into(),
                },
                "so",
            ),
            (
                Signal::UnitRemoved {
                    unit: "a.service".into(),
                },
                "so",
            ),
            (Signal::UnitFilesChanged, ""),
            (Signal::Reloading { active: true }, "b"),
            (
                Signal::StartupFinished {
                    firmware: 0,
                    loader: 0,
                    kernel: 1,
                    initrd: 2,
                    userspace: 3,
                    total: 6,
                },
                "tttttt",
            ),
            (
                Signal::SystemStateChanged {
                    state: init_control::SystemState::Running,
                },
                "sa{sv}as",
            ),
        ] {
            assert_eq!(message(&signal).unwrap().0.signature(), signature);
        }
    }
}
