//! Which options are known, and which values and combinations cannot work.

use super::{Requirements, SECTION};
use crate::glob::Glob;
use crate::name::UnitName;
use crate::text::UnitFile;

/// Options known in the section, in all their spellings.
const KNOWN: [&str; 20] = [
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
    "Memory",
    "CPU",
    "PreferConflicts",
    "PreferMetadata",
    "Spread",
    "Partition",
    "Announce",
    "Batch",
    "Retries",
];

/// A combination of options, or a value, that cannot work.
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
    /// A value that cannot be read.
    #[error("invalid {option}={value}: {reason}")]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Checks values and combinations of options without knowing the unit's name; the first problem is
/// the error. Values with specifiers can only be checked by [`validate_unit`].
pub fn validate_options(file: &UnitFile) -> Result<(), OptionsError> {
    let r = Requirements::unexpanded(file);
    combination(&r)?;
    let open = |value: &str| ["%n", "%N", "%p", "%i"].iter().any(|s| value.contains(s));
    match r.invalid {
        Some(error) if !matches!(&*error, OptionsError::Value { value, .. } if open(value)) => {
            Err(*error)
        }
        _ => Ok(()),
    }
}

/// Checks values and combinations of the options of a unit; the first problem is the error. The
/// specifiers of a template are its instances' business.
pub fn validate_unit(name: &UnitName, file: &UnitFile) -> Result<(), OptionsError> {
    validate_options(file)?;
    match Requirements::of(name, file).invalid {
        Some(error) if !name.is_template() => Err(*error),
        _ => Ok(()),
    }
}

fn combination(r: &Requirements) -> Result<(), OptionsError> {
    for (option, globs) in [("Conflicts", &r.conflicts), ("Replaces", &r.replaces)] {
        // Two patterns have a name in common or not: only the same one twice is certain.
        let same = r.peer_globs.iter().filter(|glob| globs.contains(glob));
        let peers = r.peers.iter().map(String::as_str);
        for peer in peers.chain(same.map(Glob::as_str)) {
            if let Some(glob) = globs.iter().find(|g| g.matches(peer) || g.as_str() == peer) {
                let (peer, pattern) = (peer.to_owned(), glob.as_str().to_owned());
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
        "Peers" => !r.peers.is_empty() || !r.peer_globs.is_empty(),
        "Conflicts" => !r.conflicts.is_empty(),
        "Replaces" => !r.replaces.is_empty(),
        "PreferConflicts" => !r.prefer_conflicts.is_empty(),
        "PreferMetadata" => !r.prefer_metadata.is_empty(),
        "Spread" => r.spread.is_some(),
        "Batch" => r.batch.is_some(),
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
        // Global units are not placed, so nothing can be preferred for them.
        ("Global", "PreferConflicts"),
        ("Global", "PreferMetadata"),
        ("Global", "Spread"),
        ("Global", "Batch"),
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

    #[test]
    fn impossible_combinations_are_refused_in_order() {
        for (section, expect) in [
            (
                "MachineOf=a.service\nConflicts=a.*\nMachineID=x",
                Some("is matched by Conflicts a.*"),
            ),
            (
                "MachineOf=a*\nConflicts=a*",
                Some("MachineOf a* is matched by Conflicts a*"),
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

    #[test]
    fn values_that_cannot_be_read_are_refused_by_option_and_value() {
        let name = UnitName::parse("web@x.service").unwrap();
        let template = UnitName::parse("web@.service").unwrap();
        for (section, expect) in [
            ("Memory=lots", "invalid Memory=lots: not an amount"),
            ("Memory=", "invalid Memory=: not an amount"),
            ("CPU=two", "invalid CPU=two: not a number of processors"),
            (
                "MachineMetadata=ram<",
                "invalid MachineMetadata=ram<: no value",
            ),
            (
                "PreferMetadata=x",
                "invalid PreferMetadata=x: not like key=value",
            ),
            ("Spread=a/b", "invalid Spread=a/b: not a metadata key"),
            (
                "Partition=run",
                "invalid Partition=run: not one of keep, stop",
            ),
            (
                "Announce=web:http",
                "invalid Announce=web:http: a port is a number",
            ),
            ("Batch=maybe", "invalid Batch=maybe: not one of yes, no"),
            ("Retries=3", "invalid Retries=3: needs Batch=yes"),
            ("Batch=yes\nRetries=-1", "invalid Retries=-1: not a number"),
            ("Global=true\nBatch=yes", "Global cannot be used with Batch"),
            (
                "Global=true\nSpread=zone",
                "Global cannot be used with Spread",
            ),
            (
                "MachineID=x\nMachineOf=a*",
                "MachineID cannot be used with Peers",
            ),
        ] {
            let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
            let error = validate_options(&file).unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}");
            assert_eq!(validate_unit(&name, &file).unwrap_err().to_string(), error);
        }
        for section in [
            "MachineMetadata=broken",
            "MachineMetadata=a=b=c",
            "Memory=1G\nCPU=50%",
        ] {
            let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
            assert_eq!(validate_unit(&name, &file), Ok(()), "{section}");
        }
        let file = UnitFile::parse("[X-Fleet]\nAnnounce=http:%i").unwrap();
        assert_eq!(validate_options(&file), Ok(()));
        assert_eq!(validate_unit(&template, &file), Ok(()));
        assert!(validate_unit(&name, &file).is_err());
        let web = UnitName::parse("web@80.service").unwrap();
        assert_eq!(validate_unit(&web, &file), Ok(()));
    }
}
