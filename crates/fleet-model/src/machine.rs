//! Machines and their metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::amount::{Cpu, Offer};

/// A machine-id(5), or whatever a machine calls itself. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(Arc<str>);

impl MachineId {
    /// Takes any text that can be one segment of a key: not empty, printable ASCII without `/`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_graphic() && b != b'/';
        (!text.is_empty() && text.len() <= 256 && text.bytes().all(legal))
            .then(|| Self(text.into()))
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 characters, as people see it.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }

    /// Whether a `MachineID=` value names this machine: the whole ID or exactly its first 8
    /// characters.
    #[must_use]
    pub fn is_named_by(&self, value: &str) -> bool {
        value == &*self.0 || (value.len() == 8 && value == self.short())
    }
}

impl std::borrow::Borrow<str> for MachineId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Metadata of a machine.
pub type Metadata = BTreeMap<String, String>;

/// What a machine says of itself; the record behind its presence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Where it can be reached.
    #[serde(default)]
    pub public_ip: String,
    /// Its own metadata, from the configuration.
    #[serde(default)]
    pub metadata: Metadata,
    /// Version of its daemon.
    #[serde(default)]
    pub version: String,
    /// Memory that it offers to units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors that it offers to units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpu>,
}

impl Machine {
    /// What it offers to units.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer {
            memory: self.memory_bytes,
            cpu: self.cpus,
        }
    }
}

/// Reads `k=v,k=v`: blanks trimmed, the last duplicate wins, items without `=` are dropped.
#[must_use]
pub fn parse_metadata(text: &str) -> Metadata {
    let pair = |item: &str| {
        let (key, value) = item.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    text.trim_matches(['"', '\''])
        .split(',')
        .filter_map(pair)
        .filter(|(k, _)| !k.is_empty())
        .collect()
}

/// Lays the operator's overlay over a machine's own metadata. An empty value hides a key.
#[must_use]
pub fn merge_metadata(own: &Metadata, overlay: &Metadata) -> Metadata {
    let mut out = own.clone();
    for (key, value) in overlay {
        if value.is_empty() {
            out.remove(key);
        } else {
            out.insert(key.clone(), value.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_whole_or_by_its_first_eight_characters() {
        let id = MachineId::parse("0123456789abcdef0123456789abcdef").unwrap();
        assert!(id.is_named_by("01234567") && id.is_named_by(id.as_str()));
        assert!(!id.is_named_by("0123456") && !id.is_named_by("012345678"));
        assert!(MachineId::parse("a/b").is_none() && MachineId::parse("").is_none());
    }

    #[test]
    fn metadata_is_read_as_the_original_does() {
        let m = parse_metadata(" role = worker ,x,a=b=c,role=core,");
        let pairs: Vec<_> = m.iter().map(|(k, v)| format!("{k}:{v}")).collect();
        assert_eq!(pairs, ["a:b=c", "role:core"]);
        let overlay = parse_metadata("role=,z=1");
        assert_eq!(merge_metadata(&m, &overlay), parse_metadata("a=b=c,z=1"));
    }

    #[test]
    fn records_of_older_daemons_offer_nothing_known() {
        let json = r#"{"public_ip":"10.0.0.1","metadata":{},"version":"1"}"#;
        let machine: Machine = serde_json::from_str(json).unwrap();
        assert_eq!(machine.offer(), Offer::default());
        assert_eq!(serde_json::to_string(&machine).unwrap(), json);
        let json = r#"{"memory_bytes":1024,"cpus":1.5}"#;
        let offer = serde_json::from_str::<Machine>(json).unwrap().offer();
        assert_eq!(offer.memory, Some(1024));
        assert_eq!(offer.cpu, Some(Cpu::from_millis(1500)));
    }
}
