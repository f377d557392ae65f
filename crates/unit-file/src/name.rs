//! Unit names, their parts, and the three escapings they take part in.
//!
//! A [`UnitName`] that exists is valid: at most 255 bytes, allowed characters, a known type suffix.
//! Escaping rules: `/` becomes `-`, every other byte outside `A-Za-z0-9:_.` becomes `\xNN`
//! (also a leading dot); a path is cleaned first and `/` alone is `-`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest allowed unit name in bytes.
pub const UNIT_NAME_MAX: usize = 255;

/// The type of a unit, given by the suffix of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnitType {
    /// A process or a set of processes.
    Service,
    /// Listening sockets that start a service.
    Socket,
    /// A synchronisation point.
    Target,
    /// A kernel device.
    Device,
    /// A mount point.
    Mount,
    /// A mount point mounted on access.
    Automount,
    /// A swap area.
    Swap,
    /// Starts a unit at points in time.
    Timer,
    /// Starts a unit when a path changes.
    Path,
    /// A node of the control group tree.
    Slice,
    /// Processes started by somebody else.
    Scope,
}

/// All unit types.
pub const UNIT_TYPES: [UnitType; 11] = [
    UnitType::Service,
    UnitType::Socket,
    UnitType::Target,
    UnitType::Device,
    UnitType::Mount,
    UnitType::Automount,
    UnitType::Swap,
    UnitType::Timer,
    UnitType::Path,
    UnitType::Slice,
    UnitType::Scope,
];

impl UnitType {
    /// The suffix without the dot, as in `service`.
    pub fn suffix(self) -> &'static str {
        match self {
            UnitType::Service => "service",
            UnitType::Socket => "socket",
            UnitType::Target => "target",
            UnitType::Device => "device",
            UnitType::Mount => "mount",
            UnitType::Automount => "automount",
            UnitType::Swap => "swap",
            UnitType::Timer => "timer",
            UnitType::Path => "path",
            UnitType::Slice => "slice",
            UnitType::Scope => "scope",
        }
    }

    /// The type for a suffix without the dot.
    pub fn from_suffix(suffix: &str) -> Option<UnitType> {
        UNIT_TYPES.into_iter().find(|t| t.suffix() == suffix)
    }

    /// The name of the section of its own, as in `Service`; `None` where there is none.
    pub fn section(self) -> Option<&'static str> {
        match self {
            UnitType::Service => Some("Service"),
            UnitType::Socket => Some("Socket"),
            UnitType::Mount => Some("Mount"),
            UnitType::Automount => Some("Automount"),
            UnitType::Swap => Some("Swap"),
            UnitType::Timer => Some("Timer"),
            UnitType::Path => Some("Path"),
            UnitType::Slice => Some("Slice"),
            UnitType::Scope => Some("Scope"),
            UnitType::Target | UnitType::Device => None,
        }
    }
}

impl fmt::Display for UnitType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix())
    }
}

/// Why a string is not a unit name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The string is empty.
    #[error("unit name is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("unit name is {len} bytes long, at most 255 are allowed")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// No known type after the last dot.
    #[error("unit name {name:?} does not end in a unit type such as .service")]
    NoType {
        /// The name.
        name: String,
    },
    /// A character outside the allowed set.
    #[error("unit name {name:?} contains the character {found:?}, which is not allowed")]
    BadCharacter {
        /// The name.
        name: String,
        /// The character.
        found: char,
    },
    /// Nothing before the type or before the `@`.
    #[error("unit name {name:?} has nothing before its suffix or '@'")]
    NoPrefix {
        /// The name.
        name: String,
    },
    /// An instance was asked of a name that is no template, or the result is no name.
    #[error("unit name {name:?} is not a template")]
    NotTemplate {
        /// The name.
        name: String,
    },
    /// A path that cannot be a unit name.
    #[error("path {path:?} cannot be made a unit name")]
    BadPath {
        /// The path.
        path: String,
    },
}

/// A valid unit name. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(Arc<str>);

impl UnitName {
    /// Checks a name.
    pub fn parse(name: &str) -> Result<UnitName, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > UNIT_NAME_MAX {
            return Err(NameError::TooLong { len: name.len() });
        }
        let no_type = || NameError::NoType {
            name: name.to_owned(),
        };
        let (stem, suffix) = name.rsplit_once('.').ok_or_else(no_type)?;
        UnitType::from_suffix(suffix).ok_or_else(no_type)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":_.\\-@".contains(c);
        if let Some(found) = stem.chars().find(|c| !allowed(*c)) {
            return Err(NameError::BadCharacter {
                name: name.to_owned(),
                found,
            });
        }
        if stem.is_empty() || stem.starts_with('@') {
            return Err(NameError::NoPrefix {
                name: name.to_owned(),
            });
        }
        Ok(UnitName(Arc::from(name)))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its type.
    pub fn unit_type(&self) -> UnitType {
        let suffix = self.0.rsplit_once('.').map_or("", |(_, s)| s);
        UnitType::from_suffix(suffix).expect("a unit name ends in a type, parse() checked")
    }

    /// The name without `.type`.
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or(&*self.0, |(stem, _)| stem)
    }

    /// The part before `@`, or the stem.
    pub fn prefix(&self) -> &str {
        let stem = self.stem();
        stem.split_once('@').map_or(stem, |(p, _)| p)
    }

    /// The part between `@` and the type, escaped as written; `Some("")` for a template.
    pub fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, i)| i)
    }

    /// True for `name@.type`.
    pub fn is_template(&self) -> bool {
        self.instance() == Some("")
    }

    /// True for `name@something.type`.
    pub fn is_instance(&self) -> bool {
        self.instance().is_some_and(|i| !i.is_empty())
    }

    /// The template of an instance (`a@.service` for `a@x.service`).
    pub fn template(&self) -> Option<UnitName> {
        self.is_instance().then(|| {
            UnitName(Arc::from(format!(
                "{}@.{}",
                self.prefix(),
                self.unit_type()
            )))
        })
    }

    /// The instance of this template with an already escaped instance string.
    pub fn with_instance(&self, instance: &str) -> Result<UnitName, NameError> {
        if self.instance().is_none() {
            return Err(NameError::NotTemplate {
                name: self.0.to_string(),
            });
        }
        UnitName::parse(&format!(
            "{}@{}.{}",
            self.prefix(),
            instance,
            self.unit_type()
        ))
    }

    /// The same stem with another type.
    pub fn with_type(&self, unit_type: UnitType) -> Result<UnitName, NameError> {
        UnitName::parse(&format!("{}.{}", self.stem(), unit_type))
    }

    /// The unit of the given type for a path, as `var-lib.mount` for `/var/lib`.
    pub fn from_path(path: &str, unit_type: UnitType) -> Result<UnitName, NameError> {
        let escaped = escape_path(path).ok_or_else(|| NameError::BadPath {
            path: path.to_owned(),
        })?;
        UnitName::parse(&format!("{escaped}.{unit_type}"))
    }

    /// The path that this name stands for (mounts, devices), if it stands for one.
    pub fn to_path(&self) -> Option<String> {
        unescape_path(self.prefix())
    }

    /// The D-Bus object path of the unit.
    pub fn object_path(&self) -> String {
        format!(
            "/org/freedesktop/systemd1/unit/{}",
            escape_object_path(self.as_str())
        )
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;
    fn try_from(name: String) -> Result<UnitName, NameError> {
        UnitName::parse(&name)
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> String {
        name.0.to_string()
    }
}

impl std::str::FromStr for UnitName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<UnitName, NameError> {
        UnitName::parse(name)
    }
}

impl AsRef<str> for UnitName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for UnitName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Escapes any text for use inside a unit name (`systemd-escape TEXT`).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'/' => out.push('-'),
            b'.' if i == 0 => out.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => out.push(b as char),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out
}

/// Undoes [`escape`]; `None` when an escape is broken or the result is not UTF-8.
pub fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'-' => out.push(b'/'),
            b'\\' => {
                let hex = bytes.get(i + 2..i + 4).filter(|_| bytes[i + 1] == b'x')?;
                let hex = std::str::from_utf8(hex).ok()?;
                let value = u8::from_str_radix(hex, 16).ok().filter(|v| *v != 0)?;
                out.push(value);
                i += 3;
            }
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

/// Removes doubled and trailing slashes and `.` components; `None` for `..` or a relative path.
pub fn clean_path(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return None;
        }
        out.push('/');
        out.push_str(part);
    }
    if out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// Escapes a path (`systemd-escape --path`); `None` for one that is not absolute and clean.
pub fn escape_path(path: &str) -> Option<String> {
    let cleaned = clean_path(path)?;
    match cleaned.as_str() {
        "/" => Some("-".to_owned()),
        p => Some(escape(&p[1..])),
    }
}

/// Undoes [`escape_path`].
pub fn unescape_path(text: &str) -> Option<String> {
    if text == "-" {
        return Some("/".to_owned());
    }
    let path = format!("/{}", unescape(text)?);
    (clean_path(&path).as_deref() == Some(path.as_str())).then_some(path)
}

/// Escapes a string as one element of a D-Bus object path.
pub fn escape_object_path(text: &str) -> String {
    if text.is_empty() {
        return "_".to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => out.push(b as char),
            b'0'..=b'9' if i > 0 => out.push(b as char),
            _ => out.push_str(&format!("_{b:02x}")),
        }
    }
    out
}

/// Undoes [`escape_object_path`].
pub fn unescape_object_path(text: &str) -> Option<String> {
    if text == "_" {
        return Some(String::new());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'_' {
            let hex = std::str::from_utf8(bytes.get(i + 1..i + 3)?).ok()?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::{
        UnitName, UnitType, escape, escape_object_path, escape_path, unescape,
        unescape_object_path, unescape_path,
    };
    use proptest::prelude::{prop_assert_eq, proptest};

    #[test]
    fn valid_and_invalid_names() {
        for good in [
            "a.service",
            "a@.service",
            "a@b.c.service",
            "-.slice",
            "dev-disk-by\\x2d.device",
        ] {
            assert!(UnitName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            ".service",
            "a.b",
            "@x.service",
            "a b.service",
            "a/b.service",
            "ä.service",
        ] {
            assert!(UnitName::parse(bad).is_err(), "{bad}");
        }
        assert!(UnitName::parse(&format!("{}.service", "a".repeat(250))).is_err());
    }

    #[test]
    fn parts() {
        let n = UnitName::parse("web@a@b.service").unwrap();
        assert_eq!((n.prefix(), n.instance()), ("web", Some("a@b")));
        assert_eq!(n.template().unwrap().as_str(), "web@.service");
        assert_eq!(
            n.template().unwrap().with_instance("1").unwrap().as_str(),
            "web@1.service"
        );
        assert!(
            UnitName::parse("a.service")
                .unwrap()
                .with_instance("x")
                .is_err()
        );
    }

    #[test]
    fn path_escapes() {
        for (path, escaped) in [
            ("/", "-"),
            ("/var/lib", "var-lib"),
            ("//var//lib/", "var-lib"),
            ("/dev/disk/by-label/a b", "dev-disk-by\\x2dlabel-a\\x20b"),
            ("/.hidden", "\\x2ehidden"),
        ] {
            assert_eq!(escape_path(path).as_deref(), Some(escaped));
        }
        assert_eq!(escape_path("rel"), None);
        assert_eq!(escape_path("/a/../b"), None);
        assert_eq!(
            UnitName::from_path("/", UnitType::Mount).unwrap().as_str(),
            "-.mount"
        );
        assert_eq!(unescape("a\\x2"), None);
        assert_eq!(unescape_path("var-lib").as_deref(), Some("/var/lib"));
    }

    #[test]
    fn object_paths() {
        assert_eq!(escape_object_path("dbus.service"), "dbus_2eservice");
        assert_eq!(escape_object_path("1a"), "_31a");
        assert_eq!(escape_object_path(""), "_");
    }

    proptest! {
        #[test]
        fn escaping_round_trips(text in "[^\0]{0,40}") {
            prop_assert_eq!(unescape(&escape(&text)), Some(text.clone()));
            prop_assert_eq!(unescape_object_path(&escape_object_path(&text)), Some(text));
        }

        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = UnitName::parse(&text).map(|n| (n.unit_type(), n.to_path(), n.template()));
            let _ = (unescape(&text), unescape_object_path(&text), unescape_path(&text));
        }
    }
}
