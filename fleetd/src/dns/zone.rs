//! The zone `fleet.local`: names below it and their records, kept change by change.
//!
//! | name | records |
//! |---|---|
//! | `UNIT`, `UNIT.service` | addresses of the machines on which the unit announces something |
//! | `SERVICE` | those of all units that announce the service, and SRV |
//! | `_SERVICE._tcp`, `_SERVICE._udp` | SRV |
//! | `MACHINE.machines` | the machine's address; what SRV records point to |
//!
//! Names are compared without case. `@` is no letter of host names, so every name that has one also
//! exists with `-` in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fleet_model::{MachineId, UnitName};

use crate::registry::Announcement;

/// Labels of the zone's own name.
pub const ORIGIN: [&str; 2] = ["fleet", "local"];
/// Label below which machines are.
const MACHINES: &str = "machines";
const LONGEST_LABEL: usize = 63;
/// Of a whole name in its text form, without the zone.
const LONGEST_NAME: usize = 240;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV; priority and weight are the same for all.
    Service {
        /// Port.
        port: u16,
        /// Name of the host, relative to the zone.
        host: String,
    },
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It exists, with these records, perhaps none.
    Node(BTreeSet<Record>),
    /// There is nothing of that name, nor below it.
    Nothing,
}

/// Names in reverse order of their labels, so that all below a name follow it.
#[derive(Debug, Default)]
pub struct Zone {
    nodes: BTreeMap<String, BTreeMap<(String, usize), Record>>,
    /// What each announcement has contributed.
    names: BTreeMap<String, Vec<String>>,
    /// Revision of the registry that this is.
    pub serial: i64,
}

impl Zone {
    /// Takes an announcement over, in place of an older one with the same key.
    pub fn set(&mut self, key: &str, what: Option<(&str, &UnitName, &MachineId, &Announcement)>) {
        for name in self.names.remove(key).unwrap_or_default() {
            if let Some(node) = self.nodes.get_mut(&name) {
                node.retain(|(from, _), _| from != key);
                if node.is_empty() {
                    self.nodes.remove(&name);
                }
            }
        }
        let Some((service, unit, machine, announcement)) = what else {
            return;
        };
        let mut names = Vec::new();
        for (i, (name, record)) in records(service, unit, machine, announcement)
            .into_iter()
            .enumerate()
        {
            let name = reversed(&name);
            let node = self.nodes.entry(name.clone()).or_default();
            node.insert((key.to_owned(), i), record);
            names.push(name);
        }
        self.names.insert(key.to_owned(), names);
    }

    /// Looks up a name, relative to the zone, empty for the zone itself.
    #[must_use]
    pub fn find(&self, name: &str) -> Found {
        if name.is_empty() {
            return Found::Node(BTreeSet::new());
        }
        let name = reversed(&name.to_ascii_lowercase());
        if let Some(node) = self.nodes.get(&name) {
            return Found::Node(node.values().cloned().collect());
        }
        let below = format!("{name}.");
        match self.nodes.range(below.clone()..).next() {
            Some((next, _)) if next.starts_with(&below) => Found::Node(BTreeSet::new()),
            _ => Found::Nothing,
        }
    }

    /// Number of announcements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is announced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

fn reversed(name: &str) -> String {
    name.rsplit('.').collect::<Vec<_>>().join(".")
}

/// All names to which an announcement contributes, with what it contributes.
fn records(
    service: &str,
    unit: &UnitName,
    machine: &MachineId,
    announcement: &Announcement,
) -> Vec<(String, Record)> {
    let address = Record::Address(announcement.address);
    let host = format!("{}.{MACHINES}", host_label(machine));
    let served = Record::Service {
        port: announcement.port,
        host: host.clone(),
    };
    let mut out = BTreeSet::from([(host, address.clone())]);
    for name in spellings(unit.as_str())
        .into_iter()
        .chain(spellings(unit.stem()))
    {
        out.insert((name, address.clone()));
    }
    for name in spellings(service) {
        out.insert((format!("_{name}._{}", announcement.proto), served.clone()));
        out.insert((name.clone(), address.clone()));
        out.insert((name, served.clone()));
    }
    out.into_iter()
        .filter(|(name, _)| is_legal(name))
        .map(|(name, record)| (name.to_ascii_lowercase(), record))
        .collect()
}

/// A name as it is, and without `@`.
fn spellings(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned(), name.replace('@', "-")])
}

/// Whether a name can be asked for at all.
fn is_legal(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name
            .split('.')
            .all(|label| !label.is_empty() && label.len() <= LONGEST_LABEL)
}

/// A machine's ID as a label of a host name.
fn host_label(machine: &MachineId) -> String {
    let letters = machine.as_str().bytes().take(LONGEST_LABEL);
    letters
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() => char::from(b.to_ascii_lowercase()),
            _ => '-',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(address: &str, port: u16, proto: &str) -> Announcement {
        Announcement {
            address: address.parse().unwrap(),
            port,
            proto: proto.into(),
        }
    }

    /// Records of a name as one line; `-` for a name that does not exist.
    fn look(zone: &Zone, name: &str) -> String {
        let Found::Node(records) = zone.find(name) else {
            return "-".into();
        };
        let text = records.iter().map(|r| match r {
            Record::Address(ip) => ip.to_string(),
            Record::Service { port, host } => format!("{host}:{port}"),
        });
        text.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_of_units_services_and_machines() {
        let mut zone = Zone::default();
        let unit = |text: &str| UnitName::parse(text).unwrap();
        let machine = |text: &str| MachineId::parse(text).unwrap();
        let (a, b) = (machine("AAAA"), machine("b_b"));
        zone.set(
            "1",
            Some((
                "Web",
                &unit("web@1.service"),
                &a,
                &announcement("10.0.0.1", 80, "tcp"),
            )),
        );
        zone.set(
            "2",
            Some((
                "Web",
                &unit("web@2.service"),
                &b,
                &announcement("10.0.0.2", 81, "tcp"),
            )),
        );
        zone.set(
            "3",
            Some((
                "dns",
                &unit("x.y.service"),
                &b,
                &announcement("fd00::2", 53, "udp"),
            )),
        );
        for (name, expect) in [
            ("", ""),
            ("web@1", "10.0.0.1"),
            ("WEB-1", "10.0.0.1"),
            ("web-1.service", "10.0.0.1"),
            ("web@2.service", "10.0.0.2"),
            ("service", ""),
            ("web", "10.0.0.1 10.0.0.2 aaaa.machines:80 b-b.machines:81"),
            ("_web._tcp", "aaaa.machines:80 b-b.machines:81"),
            ("_WEB._TCP", "aaaa.machines:80 b-b.machines:81"),
            ("_web._udp", "-"),
            ("_tcp", ""),
            ("_udp", ""),
            ("_dns._udp", "b-b.machines:53"),
            ("dns", "fd00::2 b-b.machines:53"),
            ("x.y", "fd00::2"),
            ("x.y.service", "fd00::2"),
            ("y", ""),
            ("x", "-"),
            ("machines", ""),
            ("aaaa.machines", "10.0.0.1"),
            ("b-b.machines", "10.0.0.2 fd00::2"),
            ("we", "-"),
            ("a.web-1", "-"),
        ] {
            assert_eq!(look(&zone, name), expect, "{name:?}");
        }
        zone.set("2", None);
        zone.set(
            "1",
            Some((
                "Web",
                &unit("web@1.service"),
                &a,
                &announcement("10.0.0.9", 80, "tcp"),
            )),
        );
        assert_eq!(look(&zone, "web"), "10.0.0.9 aaaa.machines:80");
        assert_eq!(look(&zone, "b-b.machines"), "fd00::2");
        zone.set("1", None);
        zone.set("3", None);
        assert!(zone.is_empty() && zone.nodes.is_empty());
        for name in ["web", "machines", "_tcp"] {
            assert_eq!(look(&zone, name), "-");
        }
        // A name that cannot be asked for is left out, the rest of the announcement is not.
        let long = format!("{}.service", "x".repeat(70));
        zone.set(
            "4",
            Some(("s", &unit(&long), &a, &announcement("10.0.0.1", 1, "tcp"))),
        );
        assert_eq!(look(&zone, "s"), "10.0.0.1 aaaa.machines:1");
        assert_eq!(look(&zone, &"x".repeat(70)), "-");
    }
}
