//! What an import does, decided from the old registry and what is here. No I/O.

use std::collections::BTreeMap;

use fleet_model::{
    Metadata, Requirements, TargetState, UnitFile, UnitName, format_bytes, validate_unit,
};

use super::etcd2::{OldRegistry, OldUnit};

/// What is to be done with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Replace,
    /// The same is here.
    Same,
    /// Another is here, and stays.
    Keep,
    /// It cannot be taken over.
    Refused,
    /// Remains of something that is gone.
    Skip,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Same => "same",
            Self::Keep => "keep",
            Self::Refused => "refuse",
            Self::Skip => "skip",
        }
    }
}

/// What the user wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) replace: bool,
    pub(super) inactive: bool,
    pub(super) metadata: bool,
}

/// What is here.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// Hash of each unit's text.
    pub(super) units: BTreeMap<String, String>,
    /// Effective metadata of each machine that is present.
    pub(super) metadata: BTreeMap<String, Metadata>,
}

/// One unit's part.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UnitStep {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) target: TargetState,
    pub(super) note: String,
    pub(super) file: Option<UnitFile>,
}

/// One metadata value's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetadataStep {
    pub(super) machine: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) action: Action,
    pub(super) note: String,
}

/// All of it, sorted by name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) units: Vec<UnitStep>,
    pub(super) metadata: Vec<MetadataStep>,
}

/// Decides.
pub(super) fn plan(old: &OldRegistry, existing: &Existing, options: Options) -> Plan {
    let mut plan = Plan::default();
    for (name, unit) in &old.units {
        let mut step = unit_step(name, unit, existing.units.get(name), options);
        if let Some((name, file)) = UnitName::parse(name).ok().zip(step.file.as_ref()) {
            let means = means_more(&name, file, |other| old.units.contains_key(other));
            let notes = [std::mem::take(&mut step.note)].into_iter().chain(means);
            let notes: Vec<String> = notes.filter(|note| !note.is_empty()).collect();
            step.note = notes.join("; ");
        }
        plan.units.push(step);
    }
    for name in &old.stale {
        plan.units.push(UnitStep {
            name: name.clone(),
            action: Action::Skip,
            target: TargetState::Inactive,
            note: "only remains of it are left in the old registry".into(),
            file: None,
        });
    }
    plan.units.sort_by(|a, b| a.name.cmp(&b.name));
    if options.metadata {
        for (machine, pairs) in &old.metadata {
            let here = existing.metadata.get(machine);
            for (key, value) in pairs {
                plan.metadata
                    .push(metadata_step(machine, key, value, here, options));
            }
        }
    }
    plan
}

/// What a text asks for here that the original's scheduler did not know; `comes` tells which units are taken over, too.
fn means_more(name: &UnitName, file: &UnitFile, comes: impl Fn(&str) -> bool) -> Vec<String> {
    let asks = Requirements::of(name, file);
    let mut more = Vec::new();
    if asks.reservation.memory > 0 {
        let memory = format_bytes(asks.reservation.memory);
        more.push(format!("reserves {memory} of memory now"));
    }
    if asks.reservation.cpu.millis() > 0 {
        more.push(format!("reserves {} processors now", asks.reservation.cpu));
    }
    for rule in &asks.metadata.rules {
        more.push(format!("MachineMetadata={} binds now", rule.as_str()));
    }
    for glob in &asks.peer_globs {
        more.push(format!("MachineOf={glob} is a pattern now"));
    }
    let required = asks.after.iter().filter(|(_, required)| **required);
    for (unit, _) in required.filter(|(unit, _)| comes(unit)) {
        more.push(format!("starts when {unit} is active, wherever it runs"));
    }
    more
}

fn unit_step(name: &str, unit: &OldUnit, here: Option<&String>, options: Options) -> UnitStep {
    let step = |action, target, note: &str, file| UnitStep {
        name: name.to_owned(),
        action,
        target,
        note: note.to_owned(),
        file,
    };
    let (parsed, file) = match read(name, unit) {
        Ok(read) => read,
        Err(reason) => return step(Action::Refused, TargetState::Inactive, &reason, None),
    };
    let (target, note) = target_of(&parsed, &unit.target, options);
    match here {
        None => step(Action::Create, target, note, Some(file)),
        Some(hash) if *hash == file.hash() => step(
            Action::Same,
            target,
            "it is here already, and its state is left as it is",
            None,
        ),
        Some(_) if options.replace => step(Action::Replace, target, note, Some(file)),
        Some(_) => step(
            Action::Keep,
            target,
            "another text is here; --replace takes the old cluster's",
            None,
        ),
    }
}

fn read(name: &str, unit: &OldUnit) -> Result<(UnitName, UnitFile), String> {
    let parsed = UnitName::parse(name).map_err(|e| e.to_string())?;
    let text = unit.text.clone()?;
    let file = UnitFile::parse(&text).map_err(|e| e.to_string())?;
    validate_unit(&parsed, &file).map_err(|e| e.to_string())?;
    Ok((parsed, file))
}

/// What is to be wanted of a unit here, and a word where that is not what it was.
fn target_of(name: &UnitName, text: &str, options: Options) -> (TargetState, &'static str) {
    let was = match text {
        "" => Ok(TargetState::Inactive),
        text => text.parse::<TargetState>(),
    };
    match was {
        Err(_) => (TargetState::Inactive, "what was wanted of it is not known"),
        Ok(TargetState::Inactive) => (TargetState::Inactive, ""),
        Ok(_) if name.is_template() => (TargetState::Inactive, "a template cannot be started"),
        Ok(_) if options.inactive => (TargetState::Inactive, "wanted more of in the old cluster"),
        Ok(target) => (target, ""),
    }
}

fn metadata_step(
    machine: &str,
    key: &str,
    value: &str,
    here: Option<&Metadata>,
    options: Options,
) -> MetadataStep {
    let step = |action, note: &str| MetadataStep {
        machine: machine.to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
        action,
        note: note.to_owned(),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if key.is_empty() || !key.chars().all(allowed) {
        return step(
            Action::Refused,
            "the key has characters that the API does not take",
        );
    }
    let there = here
        .and_then(|metadata| metadata.get(key))
        .map(String::as_str);
    match (there, value) {
        (Some(there), value) if there == value => step(Action::Same, ""),
        (None, "") if here.is_some() => step(Action::Same, ""),
        (None, _) if here.is_none() => step(Action::Create, "the machine is not present here"),
        (None, _) => step(Action::Create, ""),
        (Some(_), _) if options.replace => step(Action::Replace, ""),
        (Some(_), _) => step(
            Action::Keep,
            "another value is here; --replace takes the old one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Service]\nExecStart=/bin/a\n";

    fn unit(text: &str, target: &str) -> OldUnit {
        OldUnit {
            text: Ok(text.into()),
            target: target.into(),
        }
    }

    fn one(
        name: &str,
        unit: OldUnit,
        here: Option<&str>,
        options: Options,
    ) -> (Action, TargetState, String) {
        let old = OldRegistry {
            units: BTreeMap::from([(name.to_owned(), unit)]),
            ..OldRegistry::default()
        };
        let hash = |text: &str| UnitFile::parse(text).unwrap().hash();
        let existing = Existing {
            units: here
                .map(|text| (name.to_owned(), hash(text)))
                .into_iter()
                .collect(),
            ..Existing::default()
        };
        let step = plan(&old, &existing, options).units.remove(0);
        assert_eq!(
            step.file.is_some(),
            matches!(step.action, Action::Create | Action::Replace)
        );
        (step.action, step.target, step.note)
    }

    #[test]
    fn what_means_more_here_is_noted() {
        let none = Options::default();
        for (more, expect) in [
            ("", ""),
            (
                "MemoryMax=64M\nCPUQuota=50%\n",
                "reserves 64M of memory now; reserves 0.5 processors now",
            ),
            ("MemoryMax=64M\n[X-Fleet]\nMemory=0\n", ""),
            (
                "[X-Fleet]\nMachineMetadata=ram<16\nMachineMetadata=disk=ssd\n",
                "MachineMetadata=ram<16 binds now",
            ),
            (
                "[X-Fleet]\nMachineOf=cache@*\n",
                "MachineOf=cache@* is a pattern now",
            ),
            ("[Unit]\nRequires=b.service\nAfter=b.service\n", ""),
            ("[Unit]\nAfter=a@1.service\n", ""),
            (
                "[Unit]\nRequires=a@1.service\nAfter=a@1.service\n",
                "starts when a@1.service is active, wherever it runs",
            ),
        ] {
            let text = format!("{TEXT}{more}");
            let units = [("a.service", text.as_str()), ("a@1.service", TEXT)];
            let old = OldRegistry {
                units: units
                    .map(|(n, t)| (n.to_owned(), unit(t, "launched")))
                    .into(),
                ..OldRegistry::default()
            };
            let steps = plan(&old, &Existing::default(), none).units;
            assert_eq!(steps[0].note, expect, "{more}");
        }
        let text = format!("{TEXT}MemoryMax=1M\n");
        let (_, _, note) = one("a@.service", unit(&text, "launched"), None, none);
        assert_eq!(
            note,
            "a template cannot be started; reserves 1M of memory now"
        );
        let kept = one("a.service", unit(&text, "launched"), Some(TEXT), none);
        assert_eq!(
            kept.2,
            "another text is here; --replace takes the old cluster's"
        );
    }

    #[test]
    fn units_are_created_kept_replaced_or_refused() {
        let none = Options::default();
        let replace = Options {
            replace: true,
            ..none
        };
        let inactive = Options {
            inactive: true,
            ..none
        };
        let other = "[Service]\nExecStart=/bin/b\n";
        let launched = TargetState::Launched;
        for (name, old, here, options, action, target) in [
            (
                "a.service",
                unit(TEXT, "launched"),
                None,
                none,
                Action::Create,
                launched,
            ),
            (
                "a.service",
                unit(TEXT, "loaded"),
                None,
                none,
                Action::Create,
                TargetState::Loaded,
            ),
            (
                "a.service",
                unit(TEXT, "launched"),
                None,
                inactive,
                Action::Create,
                TargetState::Inactive,
            ),
            (
                "a.service",
                unit(TEXT, ""),
                None,
                none,
                Action::Create,
                TargetState::Inactive,
            ),
            (
                "a.service",
                unit(TEXT, "flying"),
                None,
                none,
                Action::Create,
                TargetState::Inactive,
            ),
            (
                "a@.service",
                unit(TEXT, "launched"),
                None,
                none,
                Action::Create,
                TargetState::Inactive,
            ),
            (
                "a.service",
                unit(TEXT, "launched"),
                Some(TEXT),
                none,
                Action::Same,
                launched,
            ),
            (
                "a.service",
                unit(TEXT, "launched"),
                Some(TEXT),
                replace,
                Action::Same,
                launched,
            ),
            (
                "a.service",
                unit(TEXT, "launched"),
                Some(other),
                none,
                Action::Keep,
                launched,
            ),
            (
                "a.service",
                unit(TEXT, "launched"),
                Some(other),
                replace,
                Action::Replace,
                launched,
            ),
            (
                "a.nonsense",
                unit(TEXT, "launched"),
                None,
                none,
                Action::Refused,
                TargetState::Inactive,
            ),
            (
                "a.service",
                unit("[Service", ""),
                None,
                none,
                Action::Refused,
                TargetState::Inactive,
            ),
            (
                "a.service",
                unit("[X-Fleet]\nMachineID=x\nGlobal=true\n", "launched"),
                None,
                none,
                Action::Refused,
                TargetState::Inactive,
            ),
        ] {
            let (got, state, note) = one(name, old, here, options);
            assert_eq!((got, state), (action, target), "{name} {here:?} {note}");
            assert!(action != Action::Refused || !note.is_empty());
        }
        let lost = OldUnit {
            text: Err("its text is missing".into()),
            target: String::new(),
        };
        assert_eq!(one("a.service", lost, None, none).0, Action::Refused);
    }

    #[test]
    fn metadata_is_never_overwritten_unasked() {
        let here = Metadata::from([("zone".to_owned(), "b".to_owned())]);
        let replace = Options {
            replace: true,
            ..Options::default()
        };
        let none = Options::default();
        for (key, value, machine, options, expect) in [
            ("disk", "ssd", Some(&here), none, Action::Create),
            ("zone", "b", Some(&here), none, Action::Same),
            ("zone", "a", Some(&here), none, Action::Keep),
            ("zone", "a", Some(&here), replace, Action::Replace),
            ("gone", "", Some(&here), none, Action::Same),
            ("zone", "", Some(&here), none, Action::Keep),
            ("zone", "a", None, none, Action::Create),
            ("a/b", "a", None, none, Action::Refused),
        ] {
            let step = metadata_step("m", key, value, machine, options);
            assert_eq!(step.action, expect, "{key}={value}");
        }
    }
}
