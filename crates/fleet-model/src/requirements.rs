//! The `[X-Fleet]` section: what it asks for, and which combinations make no sense.

use std::collections::{BTreeMap, BTreeSet};

use crate::glob::Glob;
use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::text::UnitFile;

const SECTION: &str = "X-Fleet";

/// Options known in the section, in all their spellings.
const KNOWN: [&str; 11] = [
    "MachineID",
    "X-ConditionMachineID",
    "X-ConditionMachineBootID",
    "MachineOf",
    "X-ConditionMachineOf",
    "MachineMetadata",
    "X-ConditionMachineMetadata",
    "Conflicts",
    "X-Conflicts",
    "Replaces",
    "Global",
];

/// What a unit asks of the machine it runs on, specifiers expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// Only this machine.
    pub machine_id: Option<String>,
    /// For each key, the machine's value must be one of these.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    /// Units that must be on the same machine.
    pub peers: BTreeSet<String>,
    /// Units that must not be on the same machine.
    pub conflicts: Vec<Glob>,
    /// Units that give way.
    pub replaces: Vec<Glob>,
    /// On every machine that qualifies.
    pub global: bool,
}

impl Requirements {
    /// Reads the section of the unit called `name`.
    #[must_use]
    pub fn of(name: &UnitName, file: &UnitFile) -> Self {
        Self::read(file, |value| expand(value, name))
    }

    /// Reads the section without a name, so specifiers stay as they are.
    fn unexpanded(file: &UnitFile) -> Self {
        Self::read(file, str::to_owned)
    }

    fn read(file: &UnitFile, expand: impl Fn(&str) -> String) -> Self {
        let values = |names: &[&'static str]| -> Vec<String> {
            let of = |name: &'static str| file.values(SECTION, name).collect::<Vec<_>>();
            names
                .iter()
                .flat_map(|n| of(n))
                .flat_map(|v| split_quoted(&expand(v)))
                .collect()
        };
        let globs = |names: &[&'static str]| -> Vec<Glob> {
            let values = values(names);
            values
                .iter()
                .flat_map(|v| v.split_whitespace())
                .map(Glob::new)
                .collect()
        };
        let id_keys = [
            "MachineID",
            "X-ConditionMachineID",
            "X-ConditionMachineBootID",
        ];
        let mut metadata = BTreeMap::<_, BTreeSet<_>>::new();
        for pair in values(&["MachineMetadata", "X-ConditionMachineMetadata"]) {
            match pair.split('=').collect::<Vec<_>>()[..] {
                [key, value] if !key.is_empty() && !value.is_empty() => {
                    metadata
                        .entry(key.to_owned())
                        .or_default()
                        .insert(value.to_owned());
                }
                _ => {}
            }
        }
        Self {
            machine_id: id_keys
                .into_iter()
                .find_map(|key| values(&[key]).into_iter().next())
                .filter(|id| !id.is_empty()),
            metadata,
            peers: values(&["MachineOf", "X-ConditionMachineOf"])
                .into_iter()
                .collect(),
            conflicts: globs(&["Conflicts", "X-Conflicts"]),
            replaces: globs(&["Replaces"]),
            global: values(&["Global"]).last().is_some_and(|v| {
                ["true", "yes", "1", "on", "t"].contains(&v.to_lowercase().as_str())
            }),
        }
    }

    /// Whether a machine is the one asked for.
    #[must_use]
    pub fn admits_machine(&self, id: &MachineId) -> bool {
        self.machine_id
            .as_ref()
            .is_none_or(|value| id.is_named_by(value))
    }

    /// The first key of which a machine has none of the values asked for.
    #[must_use]
    pub fn missing_metadata(&self, metadata: &Metadata) -> Option<&str> {
        let has = |key: &String, values: &BTreeSet<String>| {
            metadata.get(key).is_some_and(|v| values.contains(v))
        };
        self.metadata
            .iter()
            .find(|(k, v)| !has(k, v))
            .map(|(k, _)| k.as_str())
    }

    /// Whether one of the conflict patterns matches `name`.
    #[must_use]
    pub fn conflicts_with(&self, name: &str) -> bool {
        self.conflicts.iter().any(|glob| glob.matches(name))
    }

    /// Whether one of the replace patterns matches `name`.
    #[must_use]
    pub fn replaces_unit(&self, name: &str) -> bool {
        self.replaces.iter().any(|glob| glob.matches(name))
    }
}

/// `%n %N %p %i`, one after the other, nothing else.
fn expand(value: &str, name: &UnitName) -> String {
    if !value.contains('%') {
        return value.to_owned();
    }
    value
        .replace("%n", name.as_str())
        .replace("%N", name.stem())
        .replace("%p", name.prefix())
        .replace("%i", name.instance())
}

/// A value in quotes is several values, split at the blanks outside quotes; any other is one.
fn split_quoted(value: &str) -> Vec<String> {
    if value.len() < 2 || !value.starts_with('"') || !value.ends_with('"') {
        return vec![value.to_owned()];
    }
    let mut out = Vec::new();
    let (mut current, mut quoted) = (String::new(), false);
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => out.push(std::mem::take(&mut current)),
            c => current.push(c),
        }
    }
    out.push(current);
    out.retain(|v| !v.is_empty());
    out
}

/// A combination of options that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A unit asks to be with and without the same unit.
    #[error("unresolvable requirements: MachineOf {peer} is matched by {option} {pattern}")]
    Unresolvable {
        /// The unit it asks to be with.
        peer: String,
        /// `Conflicts` or `Replaces`.
        option: &'static str,
        /// The pattern that matches it.
        pattern: String,
    },
    /// Two options exclude each other.
    #[error("{0} cannot be used with {1}")]
    Exclusive(&'static str, &'static str),
}

/// Checks the combination of options; the first problem is the error.
pub fn validate_options(file: &UnitFile) -> Result<(), OptionsError> {
    let r = Requirements::unexpanded(file);
    for (option, globs) in [("Conflicts", &r.conflicts), ("Replaces", &r.replaces)] {
        for peer in &r.peers {
            if let Some(glob) = globs.iter().find(|glob| glob.matches(peer)) {
                let (peer, pattern) = (peer.clone(), glob.as_str().to_owned());
                return Err(OptionsError::Unresolvable {
                    peer,
                    option,
                    pattern,
                });
            }
        }
    }
    let has = |option: &str| match option {
        "MachineID" => r.machine_id.is_some(),
        "Peers" => !r.peers.is_empty(),
        "Conflicts" => !r.conflicts.is_empty(),
        "Replaces" => !r.replaces.is_empty(),
        _ => r.global,
    };
    let exclusive = [
        ("MachineID", "Peers"),
        ("MachineID", "Conflicts"),
        ("MachineID", "Global"),
        ("MachineID", "Replaces"),
        ("Global", "Peers"),
        ("Global", "Replaces"),
        ("Conflicts", "Replaces"),
    ];
    match exclusive.into_iter().find(|(a, b)| has(a) && has(b)) {
        Some((a, b)) => Err(OptionsError::Exclusive(a, b)),
        None => Ok(()),
    }
}

/// Options of the section that have no effect because nobody knows them.
#[must_use]
pub fn unknown_options(file: &UnitFile) -> Vec<&str> {
    let options = file.options().iter().filter(|o| o.section == SECTION);
    options
        .map(|o| o.name.as_str())
        .filter(|name| !KNOWN.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, section: &str) -> Requirements {
        let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
        Requirements::of(&UnitName::parse(name).unwrap(), &file)
    }

    #[test]
    fn options_are_read_with_their_older_spellings() {
        let r = read(
            "web@1.service",
            "MachineOf=a.service\nX-ConditionMachineOf=\"b.service\" \"c.service\"\n\
             Conflicts=web@*.service api*\nX-Conflicts=%p-x@%i.service\n\
             X-ConditionMachineID=old\nMachineID=new\nMachineID=newer\n\
             MachineMetadata=\"role=core\" \"disk=ssd\"\nMachineMetadata=role=worker\n\
             MachineMetadata=broken\nMachineMetadata=a=b=c\nMachineMetadata==x\nGlobal=no\nGlobal=YES",
        );
        assert_eq!(
            r.peers.iter().collect::<Vec<_>>(),
            ["a.service", "b.service", "c.service"]
        );
        let conflicts: Vec<_> = r.conflicts.iter().map(Glob::as_str).collect();
        assert_eq!(conflicts, ["web@*.service", "api*", "web-x@1.service"]);
        assert_eq!(r.machine_id.as_deref(), Some("new"));
        assert_eq!(r.metadata.keys().collect::<Vec<_>>(), ["disk", "role"]);
        assert_eq!(r.metadata["role"].len(), 2);
        assert!(r.global);
        assert_eq!(
            read("a.service", "X-ConditionMachineBootID=b")
                .machine_id
                .unwrap(),
            "b"
        );
        assert_eq!(
            read("a.service", "MachineBootID=b"),
            Requirements::default()
        );
    }

    #[test]
    fn specifiers_are_plain_replacements() {
        let name = UnitName::parse("a@b@c.service").unwrap();
        assert_eq!(
            expand("%n %N %p %i %H %%", &name),
            "a@b@c.service a@b@c a b@c %H %%"
        );
        assert_eq!(expand("%i", &UnitName::parse("x.service").unwrap()), "");
    }

    #[test]
    fn values_of_a_key_are_alternatives_and_keys_must_all_hold() {
        let r = read(
            "a.service",
            "MachineMetadata=role=core\nMachineMetadata=role=worker\nMachineMetadata=disk=ssd",
        );
        let meta = crate::parse_metadata;
        assert_eq!(r.missing_metadata(&meta("role=core,disk=ssd")), None);
        assert_eq!(r.missing_metadata(&meta("role=worker,disk=ssd")), None);
        assert_eq!(r.missing_metadata(&meta("role=db,disk=ssd")), Some("role"));
        assert_eq!(r.missing_metadata(&meta("role=core")), Some("disk"));
    }

    #[test]
    fn impossible_combinations_are_refused_in_order() {
        for (section, expect) in [
            (
                "MachineOf=a.service\nConflicts=a.*\nMachineID=x",
                Some("is matched by Conflicts a.*"),
            ),
            (
                "MachineOf=a.service\nReplaces=a.*",
                Some("is matched by Replaces a.*"),
            ),
            (
                "MachineID=x\nMachineOf=a.service\nGlobal=true",
                Some("MachineID cannot be used with Peers"),
            ),
            (
                "MachineID=x\nConflicts=a",
                Some("MachineID cannot be used with Conflicts"),
            ),
            (
                "MachineID=x\nGlobal=1",
                Some("MachineID cannot be used with Global"),
            ),
            (
                "MachineID=x\nReplaces=a",
                Some("MachineID cannot be used with Replaces"),
            ),
            (
                "Global=true\nMachineOf=a",
                Some("Global cannot be used with Peers"),
            ),
            (
                "Global=true\nReplaces=a",
                Some("Global cannot be used with Replaces"),
            ),
            (
                "Conflicts=b\nReplaces=a",
                Some("Conflicts cannot be used with Replaces"),
            ),
            ("MachineID=x\nMachineMetadata=a=b", None),
            ("Global=true\nMachineMetadata=a=b\nConflicts=x", None),
            ("Conflicts=%p@*.service\nMachineOf=web@1.service", None),
        ] {
            let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
            let error = validate_options(&file).err().map(|e| e.to_string());
            match expect {
                Some(text) => assert!(
                    error.as_deref().is_some_and(|e| e.ends_with(text)),
                    "{error:?}"
                ),
                None => assert_eq!(error, None, "{section}"),
            }
        }
        let file = UnitFile::parse("[X-Fleet]\nFoo=1\nGlobal=true").unwrap();
        assert_eq!(unknown_options(&file), ["Foo"]);
    }
}
