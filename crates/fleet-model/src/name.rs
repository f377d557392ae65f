//! Names of units.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// All unit types, as accepted after the last dot of a name. One list for API, agent and client.
pub const UNIT_TYPES: [&str; 13] = [
    "automount",
    "busname",
    "device",
    "mount",
    "path",
    "scope",
    "service",
    "slice",
    "snapshot",
    "socket",
    "swap",
    "target",
    "timer",
];

/// Types that may be templates.
const TEMPLATE_TYPES: [&str; 5] = ["path", "service", "socket", "target", "timer"];

/// Types the client does not complete with `.service`.
const CLIENT_TYPES: [&str; 7] = [
    "automount",
    "device",
    "mount",
    "path",
    "service",
    "socket",
    "timer",
];

const MAX_LENGTH: usize = 256;

/// Why a text is no unit name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("unit name cannot be empty")]
    Empty,
    /// Too long.
    #[error("unit name exceeds maximum length (256)")]
    TooLong,
    /// No dot, so no type.
    #[error("unit name must contain \".\"")]
    NoDot,
    /// Nothing after the last dot.
    #[error("unit name cannot end in \".\"")]
    EndsInDot,
    /// Not one of systemd's types.
    #[error("invalid unit type: \"{0}\"")]
    Type(String),
    /// A type of which there are no templates.
    #[error("invalid unit type for template: \"{0}\"")]
    TemplateType(String),
    /// A character that names do not have.
    #[error("invalid character '{}' in unit name", .0.escape_default())]
    Character(char),
    /// No prefix before the first `@`.
    #[error("unit name cannot start in \"@\"")]
    StartsInAt,
}

/// A valid unit name. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(Arc<str>);

impl UnitName {
    /// Checks `text` by the rules in their order; the first violation is the error.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(NameError::TooLong);
        }
        let Some((stem, kind)) = text.rsplit_once('.') else {
            return Err(NameError::NoDot);
        };
        if kind.is_empty() {
            return Err(NameError::EndsInDot);
        }
        if !UNIT_TYPES.contains(&kind) {
            return Err(NameError::Type(kind.to_owned()));
        }
        if text.contains('@') && !TEMPLATE_TYPES.contains(&kind) {
            return Err(NameError::TemplateType(kind.to_owned()));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if let Some(c) = stem.chars().find(|c| !legal(*c)) {
            return Err(NameError::Character(c));
        }
        if text.starts_with('@') {
            return Err(NameError::StartsInAt);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its type.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or(&*self.0, |(stem, _)| stem)
    }

    /// The type, without the dot.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.rsplit_once('.').map_or("", |(_, kind)| kind)
    }

    /// What is before the first `@`, or the whole stem.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or(self.stem(), |(prefix, _)| prefix)
    }

    /// What is after the first `@`; empty for a template and for a plain unit.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or("", |(_, instance)| instance)
    }

    /// `foo@.service`: only instances of it can run.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.stem()
            .split_once('@')
            .is_some_and(|(_, instance)| instance.is_empty())
    }

    /// `foo@x.service`.
    #[must_use]
    pub fn is_instance(&self) -> bool {
        !self.instance().is_empty()
    }

    /// The template of an instance.
    #[must_use]
    pub fn template(&self) -> Option<Self> {
        let text = format!("{}@.{}", self.prefix(), self.kind());
        self.is_instance().then(|| Self(text.into()))
    }
}

/// The unit name that a client's user means: the base name of a path, `.service` by default.
#[must_use]
pub fn mangle(argument: &str) -> String {
    let base = argument.rsplit('/').next().unwrap_or(argument);
    match base.rsplit_once('.') {
        Some((_, kind)) if CLIENT_TYPES.contains(&kind) => base.to_owned(),
        _ => format!("{base}.service"),
    }
}

impl Borrow<str> for UnitName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_in_the_order_of_the_rules() {
        let long = format!("{}.service", "a".repeat(256));
        for (text, expect) in [
            ("", Err(NameError::Empty)),
            (long.as_str(), Err(NameError::TooLong)),
            ("foo", Err(NameError::NoDot)),
            ("foo.", Err(NameError::EndsInDot)),
            ("foo.bar", Err(NameError::Type("bar".into()))),
            ("foo@.mount", Err(NameError::TemplateType("mount".into()))),
            ("fo o.service", Err(NameError::Character(' '))),
            ("../x.service", Err(NameError::Character('/'))),
            ("fé.service", Err(NameError::Character('é'))),
            ("@x.service", Err(NameError::StartsInAt)),
            (".service", Ok(())),
            ("a-b_c:d\\x20.e@1@2.timer", Ok(())),
            ("x.slice", Ok(())),
        ] {
            assert_eq!(UnitName::parse(text).map(|_| ()), expect, "{text}");
        }
    }

    #[test]
    fn names_have_parts() {
        let parts = |text| {
            let n = UnitName::parse(text).unwrap();
            let template = n.template().map(|t| t.to_string());
            (
                n.prefix().to_owned(),
                n.instance().to_owned(),
                n.is_template(),
                template,
            )
        };
        assert_eq!(parts("a.service"), ("a".into(), String::new(), false, None));
        assert_eq!(parts("a@.service"), ("a".into(), String::new(), true, None));
        let instance = ("a".into(), "1@2".into(), false, Some("a@.service".into()));
        assert_eq!(parts("a@1@2.service"), instance);
    }

    #[test]
    fn arguments_are_completed() {
        for (argument, expect) in [
            ("web", "web.service"),
            ("./dir/web@.service", "web@.service"),
            ("a.socket", "a.socket"),
            ("x.target", "x.target.service"),
            ("web@1", "web@1.service"),
        ] {
            assert_eq!(mangle(argument), expect);
        }
    }
}
