//! The keys: how they are built, and what a key that was read stands for.

use std::sync::Arc;

use etcd_kv::Keys;
use fleet_model::{MachineId, UnitName};

/// Longest first part of an announcement's key: one label of a DNS name, and what tells several
/// ports of one service apart.
const LONGEST_SERVICE: usize = 80;

/// A key of the registry, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `job/NAME/unit`.
    Unit(UnitName),
    /// `job/NAME/target`.
    Target(UnitName),
    /// `job/NAME/schedule`.
    Schedule(UnitName),
    /// `job/NAME/restart`.
    Restart(UnitName),
    /// `job/NAME/result`.
    Result(UnitName),
    /// `job/NAME/answered`.
    Answered(UnitName),
    /// `job/NAME/turns`.
    Turns(UnitName),
    /// `cordon/MACHINE`.
    Cordon(MachineId),
    /// `metadata/MACHINE/KEY`.
    Overlay(MachineId, String),
    /// `presence/MACHINE`.
    Presence(MachineId),
    /// `state/NAME/MACHINE`.
    State(UnitName, MachineId),
    /// `rebalance`.
    Rebalance,
    /// `announce/SERVICE/UNIT/MACHINE`.
    Announcement(String, UnitName, MachineId),
    /// Something else.
    Other,
}

/// Builds and reads keys below one prefix. Cloning is cheap.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: Arc<str>,
}

impl Layout {
    /// Below `prefix`, which has slashes at both ends.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}v3/").into(),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    pub(super) fn job(&self, name: &UnitName, leaf: &str) -> String {
        format!("{}job/{name}/{leaf}", self.prefix)
    }

    pub(super) fn state(&self, name: &UnitName, machine: &MachineId) -> String {
        format!("{}state/{name}/{machine}", self.prefix)
    }

    pub(super) fn presence(&self, machine: &MachineId) -> String {
        format!("{}presence/{machine}", self.prefix)
    }

    pub(super) fn cordon(&self, machine: &MachineId) -> String {
        format!("{}cordon/{machine}", self.prefix)
    }

    pub(super) fn announcement(
        &self,
        service: &str,
        unit: &UnitName,
        machine: &MachineId,
    ) -> String {
        format!("{}announce/{service}/{unit}/{machine}", self.prefix)
    }

    /// The wishes: cordons, units, overlays. The leader's key lies in between and changes rarely.
    pub(super) fn wishes(&self) -> Keys {
        Keys::Between(self.key("cordon/").into(), self.key("presence/").into())
    }

    /// Understands a key.
    pub(super) fn read(&self, key: &[u8]) -> Key {
        let rest = std::str::from_utf8(key)
            .ok()
            .and_then(|k| k.strip_prefix(&*self.prefix));
        let parts: Vec<&str> = rest.map_or(Vec::new(), |r| r.split('/').collect());
        self.parts(&parts).unwrap_or(Key::Other)
    }

    fn parts(&self, parts: &[&str]) -> Option<Key> {
        let unit = |text: &str| UnitName::parse(text).ok();
        Some(match *parts {
            ["job", name, leaf] => {
                let name = unit(name)?;
                match leaf {
                    "unit" => Key::Unit(name),
                    "target" => Key::Target(name),
                    "schedule" => Key::Schedule(name),
                    "restart" => Key::Restart(name),
                    "result" => Key::Result(name),
                    "answered" => Key::Answered(name),
                    "turns" => Key::Turns(name),
                    _ => return None,
                }
            }
            ["cordon", machine] => Key::Cordon(MachineId::parse(machine)?),
            ["metadata", machine, key] => Key::Overlay(MachineId::parse(machine)?, key.to_owned()),
            ["presence", machine] => Key::Presence(MachineId::parse(machine)?),
            ["state", name, machine] => Key::State(unit(name)?, MachineId::parse(machine)?),
            ["rebalance"] => Key::Rebalance,
            ["announce", service, name, machine] if is_service(service) => {
                Key::Announcement(service.to_owned(), unit(name)?, MachineId::parse(machine)?)
            }
            _ => return None,
        })
    }
}

/// Whether a service of this name may be announced.
fn is_service(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    !text.is_empty() && text.len() <= LONGEST_SERVICE && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_and_the_rest_is_other() {
        let layout = Layout::new("/x/");
        let unit = UnitName::parse("a@1.service").unwrap();
        let machine = MachineId::parse("m1").unwrap();
        for (key, expect) in [
            (layout.job(&unit, "unit"), Key::Unit(unit.clone())),
            (layout.job(&unit, "restart"), Key::Restart(unit.clone())),
            (layout.job(&unit, "result"), Key::Result(unit.clone())),
            (layout.job(&unit, "answered"), Key::Answered(unit.clone())),
            (layout.job(&unit, "turns"), Key::Turns(unit.clone())),
            (layout.cordon(&machine), Key::Cordon(machine.clone())),
            (layout.presence(&machine), Key::Presence(machine.clone())),
            (
                layout.state(&unit, &machine),
                Key::State(unit.clone(), machine.clone()),
            ),
            (layout.key("rebalance"), Key::Rebalance),
            (
                layout.announcement("web", &unit, &machine),
                Key::Announcement("web".into(), unit.clone(), machine.clone()),
            ),
            (layout.key("job/a.service/other"), Key::Other),
            (layout.key("job/a.nonsense/unit"), Key::Other),
            (layout.key("job/../unit"), Key::Other),
            (layout.key("cordon/"), Key::Other),
            (layout.key("announce/a b/a.service/m"), Key::Other),
            (layout.key("announce/a/a.service/m/x"), Key::Other),
            ("/y/v3/rebalance".into(), Key::Other),
            (String::new(), Key::Other),
        ] {
            assert_eq!(layout.read(key.as_bytes()), expect, "{key}");
        }
        assert_eq!(layout.read(b"/x/v3/job/\xff/unit"), Key::Other);
    }

    #[test]
    fn one_range_holds_all_wishes_and_no_states() {
        let layout = Layout::new("/");
        let unit = UnitName::parse("a.service").unwrap();
        let machine = MachineId::parse("m1").unwrap();
        for (key, wish) in [
            (layout.job(&unit, "restart"), true),
            (layout.cordon(&machine), true),
            (layout.key("metadata/m1/k"), true),
            (layout.key("moves"), true),
            (layout.key("rebalance"), false),
            (layout.presence(&machine), false),
            (layout.state(&unit, &machine), false),
            (layout.announcement("a", &unit, &machine), false),
        ] {
            assert_eq!(layout.wishes().contains(key.as_bytes()), wish, "{key}");
        }
    }
}
