//! `org.freedesktop.DBus`, the bus itself, and the names on it. Pure: state in, decisions out; the server moves bytes.

use std::collections::BTreeMap;

use dbus_api::wire::{Value, is_bus_name};

/// Name of the bus.
pub(crate) const DRIVER: &str = "org.freedesktop.DBus";
/// Our own unique name: the services below are ours.
pub(crate) const SERVICES_NAME: &str = ":1.0";
/// Names that are answered here.
pub(crate) const SERVICES: &[&str] = &[
    "org.freedesktop.hostname1",
    "org.freedesktop.login1",
    "org.freedesktop.systemd1",
    "org.freedesktop.timedate1",
];
/// All names that our own signals come from, for match rules.
pub(crate) const OUR_NAMES: &[&str] = &[
    SERVICES_NAME,
    "org.freedesktop.hostname1",
    "org.freedesktop.login1",
    "org.freedesktop.systemd1",
    "org.freedesktop.timedate1",
];

const ALLOW_REPLACEMENT: u64 = 1;
const REPLACE_EXISTING: u64 = 2;

/// Who a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The bus itself.
    Driver,
    /// Our own services.
    Services,
    /// Another connection.
    Client(u64),
    /// Nobody.
    Nobody,
}

/// `NameOwnerChanged`: name, old owner, new owner (unique names; empty = none).
pub(crate) type OwnerChange = (String, String, String);

/// Names and their owners.
#[derive(Debug, Default)]
pub(crate) struct Names {
    unique: BTreeMap<String, u64>,
    owners: BTreeMap<String, (u64, bool)>,
    next: u64,
}

impl Names {
    /// A new unique name for a connection.
    pub(crate) fn hello(&mut self, client: u64) -> String {
        self.next += 1;
        let name = format!(":1.{}", self.next);
        self.unique.insert(name.clone(), client);
        name
    }

    pub(crate) fn resolve(&self, name: &str) -> Destination {
        if name == DRIVER {
            return Destination::Driver;
        }
        if OUR_NAMES.contains(&name) {
            return Destination::Services;
        }
        let client = self
            .unique
            .get(name)
            .copied()
            .or_else(|| self.owners.get(name).map(|(client, _)| *client));
        client.map_or(Destination::Nobody, Destination::Client)
    }

    fn unique_of(&self, client: u64) -> String {
        self.unique
            .iter()
            .find(|(_, id)| **id == client)
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    /// `GetNameOwner`
    pub(crate) fn owner(&self, name: &str) -> Option<String> {
        match self.resolve(name) {
            Destination::Driver => Some(DRIVER.to_owned()),
            Destination::Services => Some(SERVICES_NAME.to_owned()),
            Destination::Client(client) => Some(self.unique_of(client)),
            Destination::Nobody => None,
        }
    }

    /// `RequestName`: the answer's code, the change if there is one, and who lost the name.
    pub(crate) fn request(
        &mut self,
        name: &str,
        client: u64,
        flags: u64,
    ) -> Result<(u32, Option<OwnerChange>, Option<u64>), String> {
        if name.starts_with(':') || !is_bus_name(name) {
            return Err(format!("Requested bus name \"{name}\" is not valid"));
        }
        if name == DRIVER || SERVICES.contains(&name) {
            return Err(format!("Name \"{name}\" is reserved"));
        }
        let replaceable = flags & ALLOW_REPLACEMENT != 0;
        let unique = self.unique_of(client);
        match self.owners.get(name).copied() {
            None => {
                self.owners.insert(name.to_owned(), (client, replaceable));
                Ok((1, Some((name.to_owned(), String::new(), unique)), None))
            }
            Some((owner, _)) if owner == client => {
                self.owners.insert(name.to_owned(), (client, replaceable));
                Ok((4, None, None))
            }
            Some((owner, true)) if flags & REPLACE_EXISTING != 0 => {
                let old = self.unique_of(owner);
                self.owners.insert(name.to_owned(), (client, replaceable));
                Ok((1, Some((name.to_owned(), old, unique)), Some(owner)))
            }
            // Nobody queues here: "exists", whatever the flags.
            Some(_) => Ok((3, None, None)),
        }
    }

    /// `ReleaseName`: the answer's code and the change.
    pub(crate) fn release(&mut self, name: &str, client: u64) -> (u32, Option<OwnerChange>) {
        match self.owners.get(name) {
            Some((owner, _)) if *owner == client => {
                self.owners.remove(name);
                (
                    1,
                    Some((name.to_owned(), self.unique_of(client), String::new())),
                )
            }
            Some(_) => (3, None),
            None if self.resolve(name) == Destination::Nobody => (2, None),
            None => (3, None),
        }
    }

    /// A connection ended: all that changes.
    pub(crate) fn remove(&mut self, client: u64) -> Vec<OwnerChange> {
        let unique = self.unique_of(client);
        let mut changes = Vec::new();
        self.owners.retain(|name, (owner, _)| {
            if *owner == client {
                changes.push((name.clone(), unique.clone(), String::new()));
            }
            *owner != client
        });
        if self.unique.remove(&unique).is_some() {
            changes.push((unique.clone(), unique, String::new()));
        }
        changes
    }

    /// `ListNames`
    pub(crate) fn list(&self) -> Value {
        let fixed = [DRIVER, SERVICES_NAME]
            .into_iter()
            .chain(SERVICES.iter().copied());
        let own = self
            .unique
            .keys()
            .chain(self.owners.keys())
            .map(String::as_str);
        Value::strings(fixed.chain(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_and_go() {
        let mut names = Names::default();
        assert_eq!(names.hello(7), ":1.1");
        assert_eq!(names.hello(8), ":1.2");
        assert_eq!(names.resolve(":1.1"), Destination::Client(7));
        assert_eq!(
            names.resolve("org.freedesktop.systemd1"),
            Destination::Services
        );
        assert_eq!(names.resolve("com.coreos.update1"), Destination::Nobody);
        let (code, change, lost) = names.request("com.coreos.update1", 7, 4).unwrap();
        assert_eq!((code, lost), (1, None));
        assert_eq!(change.unwrap().2, ":1.1");
        assert_eq!(names.request("com.coreos.update1", 7, 0).unwrap().0, 4);
        assert_eq!(names.request("com.coreos.update1", 8, 2).unwrap().0, 3);
        names
            .request("com.coreos.update1", 7, ALLOW_REPLACEMENT)
            .unwrap();
        assert_eq!(
            names
                .request("com.coreos.update1", 8, REPLACE_EXISTING)
                .unwrap()
                .2,
            Some(7)
        );
        assert_eq!(names.owner("com.coreos.update1").as_deref(), Some(":1.2"));
        assert_eq!(names.release("com.coreos.update1", 7).0, 3);
        assert_eq!(names.release("com.coreos.other", 7).0, 2);
        let gone = names.remove(8);
        assert_eq!(gone.len(), 2);
        assert_eq!(names.owner("com.coreos.update1"), None);
    }

    #[test]
    fn reserved_and_malformed_names() {
        let mut names = Names::default();
        names.hello(1);
        for name in [
            "org.freedesktop.DBus",
            "org.freedesktop.systemd1",
            ":1.9",
            "nodots",
            "",
        ] {
            assert!(names.request(name, 1, 0).is_err(), "{name}");
        }
    }
}
