//! Enabling: which links an `[Install]` section asks for, and what the preset files say. Pure: the caller
//! reads, links and removes.

use crate::name::{UnitName, UnitType};
use crate::settings::InstallSettings;

/// A link to be made below a configuration directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstallLink {
    /// Path below the directory: `multi-user.target.wants/a.service`, or an alias's name.
    pub path: String,
    /// It is an alias.
    pub alias: bool,
}

/// Why an `[Install]` section cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// A template without instance, and no DefaultInstance=.
    #[error("{0} is a template: name an instance, as in {1}")]
    NeedsInstance(UnitName, String),
    /// An alias of another type, or a template's alias that is none.
    #[error("Alias={alias} of {unit} does not fit: the type, or the @, differs")]
    BadAlias {
        /// The unit.
        unit: UnitName,
        /// The alias.
        alias: String,
    },
}

/// The links that enabling `name` makes.
pub fn links(name: &UnitName, install: &InstallSettings) -> Result<Vec<InstallLink>, InstallError> {
    let mut out = Vec::new();
    for alias in &install.alias {
        let fits = UnitName::parse(alias).is_ok_and(|a| {
            a.unit_type() == name.unit_type()
                && (a.is_template() || a.is_instance())
                    == (name.is_template() || name.is_instance())
        });
        if !fits {
            return Err(InstallError::BadAlias {
                unit: name.clone(),
                alias: alias.clone(),
            });
        }
        out.push(InstallLink {
            path: alias.clone(),
            alias: true,
        });
    }
    let lists = [
        ("wants", &install.wanted_by),
        ("requires", &install.required_by),
        ("upholds", &install.upheld_by),
    ];
    if lists.iter().all(|(_, list)| list.is_empty()) {
        return Ok(out);
    }
    let linked = match &install.default_instance {
        Some(instance) if name.is_template() => name.with_instance(instance).ok(),
        _ => (!name.is_template()).then(|| name.clone()),
    };
    let Some(linked) = linked else {
        let example = name
            .with_instance("NAME")
            .map_or_else(|_| String::new(), |n| n.as_str().to_owned());
        return Err(InstallError::NeedsInstance(name.clone(), example));
    };
    for (kind, list) in lists {
        out.extend(list.iter().map(|target| InstallLink {
            path: format!("{target}.{kind}/{linked}"),
            alias: false,
        }));
    }
    Ok(out)
}

/// Whether the section says anything at all.
pub fn carries_install_info(install: &InstallSettings) -> bool {
    *install != InstallSettings::default()
}

/// What presets say about a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preset {
    /// Enable it; a template: these instances.
    Enable(Vec<String>),
    /// Disable it.
    Disable,
    /// Leave it.
    Ignore,
}

/// One line of a preset file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    verb: String,
    pattern: String,
    instances: Vec<String>,
}

/// Rules of all preset files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presets {
    rules: Vec<Rule>,
}

impl Presets {
    /// Reads the texts, given in order of file names. Lines that are no rules are passed over.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Presets {
        let rules = texts
            .into_iter()
            .flat_map(str::lines)
            .filter_map(parse_rule)
            .collect();
        Presets { rules }
    }

    /// The first rule that matches decides; without one the unit is enabled. `matches` is the shell's glob.
    pub fn of(&self, name: &UnitName, matches: impl Fn(&str, &str) -> bool) -> Preset {
        let template = name.template().filter(|_| name.is_instance());
        for rule in &self.rules {
            let by_template = || {
                let template = template.as_ref()?;
                let instance = name.instance()?;
                (matches(&rule.pattern, template.as_str())
                    && (rule.instances.is_empty() || rule.instances.iter().any(|i| i == instance)))
                .then_some(())
            };
            if !matches(&rule.pattern, name.as_str()) && by_template().is_none() {
                continue;
            }
            return match rule.verb.as_str() {
                "enable" => Preset::Enable(rule.instances.clone()),
                "disable" => Preset::Disable,
                _ => Preset::Ignore,
            };
        }
        Preset::Enable(Vec::new())
    }
}

fn parse_rule(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    let verb = words
        .next()
        .filter(|w| matches!(*w, "enable" | "disable" | "ignore"))?;
    let pattern = words.next()?.to_owned();
    Some(Rule {
        verb: verb.to_owned(),
        pattern,
        instances: words.map(str::to_owned).collect(),
    })
}

/// Whether a file of this type can be enabled by presets at all.
pub fn can_be_preset(unit_type: UnitType) -> bool {
    !matches!(unit_type, UnitType::Device | UnitType::Scope)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> UnitName {
        UnitName::parse(text).unwrap()
    }

    fn paths(unit: &str, install: &InstallSettings) -> Vec<String> {
        links(&name(unit), install)
            .unwrap()
            .into_iter()
            .map(|l| l.path)
            .collect()
    }

    #[test]
    fn links_are_made_for_targets_and_aliases() {
        let install = InstallSettings {
            wanted_by: vec!["multi-user.target".to_owned()],
            required_by: vec!["x.target".to_owned()],
            alias: vec!["etcd2.service".to_owned()],
            ..InstallSettings::default()
        };
        assert_eq!(
            paths("etcd.service", &install),
            [
                "etcd2.service",
                "multi-user.target.wants/etcd.service",
                "x.target.requires/etcd.service"
            ]
        );
        assert!(links(&name("a.socket"), &install).is_err());
    }

    #[test]
    fn templates_need_an_instance() {
        let mut install = InstallSettings {
            wanted_by: vec!["getty.target".to_owned()],
            ..InstallSettings::default()
        };
        assert!(matches!(
            links(&name("getty@.service"), &install),
            Err(InstallError::NeedsInstance(..))
        ));
        assert_eq!(
            paths("getty@tty2.service", &install),
            ["getty.target.wants/getty@tty2.service"]
        );
        install.default_instance = Some("tty1".to_owned());
        assert_eq!(
            paths("getty@.service", &install),
            ["getty.target.wants/getty@tty1.service"]
        );
    }

    #[test]
    fn the_first_preset_rule_that_matches_decides() {
        let presets = Presets::parse([
            "# c\nenable sshd.socket\nenable getty@.service tty1 tty2\n",
            "ignore x.*\ndisable *\nnonsense y\n",
        ]);
        let of = |n: &str| {
            presets.of(&name(n), |p, t| {
                p == t || p == "*" || p.strip_suffix('*').is_some_and(|h| t.starts_with(h))
            })
        };
        assert_eq!(of("sshd.socket"), Preset::Enable(vec![]));
        assert_eq!(
            of("getty@.service"),
            Preset::Enable(vec!["tty1".to_owned(), "tty2".to_owned()])
        );
        assert!(matches!(of("getty@tty2.service"), Preset::Enable(_)));
        assert_eq!(of("getty@tty9.service"), Preset::Disable);
        assert_eq!(of("x.service"), Preset::Ignore);
        assert_eq!(of("other.service"), Preset::Disable);
        assert_eq!(
            Presets::default().of(&name("a.service"), |_, _| false),
            Preset::Enable(vec![])
        );
    }

    proptest! {
        #[test]
        fn any_preset_text_is_read(text in "[ -~\n]*") {
            let _ = Presets::parse([text.as_str()]);
        }
    }
}
