//! What a source says about the machine beside user-data, and how it joins a document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::CloudConfig;

/// Addresses of the machine, each empty when unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Public IPv4.
    #[serde(default)]
    pub public_ipv4: String,
    /// Private IPv4.
    #[serde(default)]
    pub private_ipv4: String,
    /// Public IPv6.
    #[serde(default)]
    pub public_ipv6: String,
    /// Private IPv6.
    #[serde(default)]
    pub private_ipv6: String,
}

impl Addresses {
    /// Names (as in `$name`) and values, in a fixed order.
    pub fn pairs(&self) -> [(&'static str, &str); 4] {
        [
            ("public_ipv4", &self.public_ipv4),
            ("private_ipv4", &self.private_ipv4),
            ("public_ipv6", &self.public_ipv6),
            ("private_ipv6", &self.private_ipv6),
        ]
    }

    /// The field of a name.
    pub fn slot(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "public_ipv4" => Some(&mut self.public_ipv4),
            "private_ipv4" => Some(&mut self.private_ipv4),
            "public_ipv6" => Some(&mut self.public_ipv6),
            "private_ipv6" => Some(&mut self.private_ipv6),
            _ => None,
        }
    }

    /// Takes over what is missing here.
    pub fn fill_from(&mut self, other: &Addresses) {
        for (name, value) in other.pairs() {
            if let Some(slot) = self.slot(name)
                && slot.is_empty()
            {
                value.clone_into(slot);
            }
        }
    }
}

/// The variable of `/etc/environment` for an address name.
pub fn environment_name(name: &str) -> String {
    format!("COREOS_{}", name.to_uppercase())
}

/// Meta-data of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaData {
    /// Name of this life of the machine; empty if the source has none.
    #[serde(default)]
    pub instance_id: String,
    /// Host name; empty if unknown.
    #[serde(default)]
    pub hostname: String,
    /// Keys by name or number.
    #[serde(default)]
    pub public_keys: BTreeMap<String, String>,
    /// Addresses.
    #[serde(default)]
    pub addresses: Addresses,
    /// A Debian `interfaces` file.
    #[serde(default)]
    pub debian_network: Option<String>,
    /// NoCloud's `network-config` text.
    #[serde(default)]
    pub network_config: Option<String>,
}

/// Adds meta-data to a document: the document's own host name wins (the sentence returned says so),
/// keys are appended in the order of their ids.
pub fn merge(config: &mut CloudConfig, meta: &MetaData) -> Option<String> {
    let mut note = None;
    if !meta.hostname.is_empty() {
        if config.hostname.is_empty() {
            config.hostname.clone_from(&meta.hostname);
        } else if config.hostname != meta.hostname {
            note = Some(format!(
                "user-data hostname ({}) overrides meta-data hostname ({})",
                config.hostname, meta.hostname
            ));
        }
    }
    config
        .ssh_authorized_keys
        .extend(meta.public_keys.values().cloned());
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_wins_and_keys_are_appended_by_id() {
        let mut config = CloudConfig {
            hostname: "doc".into(),
            ssh_authorized_keys: vec!["own".into()],
            ..CloudConfig::default()
        };
        let meta = MetaData {
            hostname: "meta".into(),
            public_keys: [("2".into(), "b".into()), ("1".into(), "a".into())].into(),
            ..MetaData::default()
        };
        let note = merge(&mut config, &meta).unwrap();
        assert!(note.contains("doc") && note.contains("meta"));
        assert_eq!(config.hostname, "doc");
        assert_eq!(config.ssh_authorized_keys, ["own", "a", "b"]);
        config.hostname.clear();
        assert_eq!(merge(&mut config, &meta), None);
        assert_eq!(config.hostname, "meta");
    }
}
