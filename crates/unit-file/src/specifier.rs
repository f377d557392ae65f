//! `%` specifiers of unit files, expanded at load time.

use crate::name::{UnitName, unescape, unescape_path};

/// Facts about the machine for specifiers. Strings are empty where unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named after what they hold")]
pub struct MachineInfo {
    pub machine_id: String,
    pub boot_id: String,
    pub hostname: String,
    pub pretty_hostname: String,
    pub kernel_release: String,
    /// systemd's word: `x86-64`, `arm64`.
    pub architecture: String,
    /// Lines of os-release, unquoted.
    pub os_release: Vec<(String, String)>,
}

/// What specifiers of one unit stand for.
#[derive(Debug, Clone, Copy)]
pub struct Specifiers<'a> {
    /// The unit (an instance expands as itself, also in its template's file).
    pub unit: &'a UnitName,
    /// The machine.
    pub machine: &'a MachineInfo,
    /// Path of the fragment, empty if none.
    pub fragment_path: &'a str,
}

/// A specifier that has no value here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("specifier %{specifier} has no value for {unit}")]
pub struct SpecifierError {
    /// Its letter.
    pub specifier: char,
    /// The unit.
    pub unit: String,
}

impl Specifiers<'_> {
    /// Expands all specifiers. Letters that are no specifier stay as written.
    pub fn expand(&self, text: &str) -> Result<String, SpecifierError> {
        if !text.contains('%') {
            return Ok(text.to_owned());
        }
        let mut out = String::with_capacity(text.len() + 16);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                None => out.push('%'),
                Some('%') => out.push('%'),
                Some(letter) => match self.lookup(letter) {
                    Lookup::Unknown => {
                        out.push('%');
                        out.push(letter);
                    }
                    Lookup::Value(value) => out.push_str(&value),
                    Lookup::Failed => {
                        return Err(SpecifierError {
                            specifier: letter,
                            unit: self.unit.to_string(),
                        });
                    }
                },
            }
        }
        Ok(out)
    }

    fn lookup(&self, letter: char) -> Lookup {
        let unit = self.unit;
        let m = self.machine;
        let last = |s: &str| s.rsplit('-').next().unwrap_or(s).to_owned();
        let known = |s: &str| {
            if s.is_empty() {
                Lookup::Failed
            } else {
                Lookup::Value(s.to_owned())
            }
        };
        let os = |key: &str| {
            let value = m.os_release.iter().find(|(k, _)| k == key);
            Lookup::Value(value.map(|(_, v)| v.clone()).unwrap_or_default())
        };
        let opt = |value: Option<String>| value.map_or(Lookup::Failed, Lookup::Value);
        let instance = unit.instance().unwrap_or("");
        match letter {
            'n' => known(unit.as_str()),
            'N' => known(unit.stem()),
            'p' => known(unit.prefix()),
            'P' => opt(unescape(unit.prefix())),
            'i' => Lookup::Value(instance.to_owned()),
            'I' => opt(unescape(instance)),
            'j' => Lookup::Value(last(unit.prefix())),
            'J' => opt(unescape(&last(unit.prefix()))),
            'f' => {
                let text = if instance.is_empty() {
                    unit.prefix()
                } else {
                    instance
                };
                let path = unescape_path(text)
                    .or_else(|| unescape(text).map(|p| format!("/{}", p.trim_start_matches('/'))));
                opt(path)
            }
            't' => known("/run"),
            'S' => known("/var/lib"),
            'C' => known("/var/cache"),
            'L' => known("/var/log"),
            'E' => known("/etc"),
            'T' => known("/tmp"),
            'V' => known("/var/tmp"),
            'u' | 'g' => known("root"),
            'U' | 'G' => known("0"),
            'h' => known("/root"),
            's' => known("/bin/sh"),
            'H' => known(&m.hostname),
            'l' => known(m.hostname.split('.').next().unwrap_or("")),
            'q' if m.pretty_hostname.is_empty() => known(&m.hostname),
            'q' => known(&m.pretty_hostname),
            'm' => known(&m.machine_id),
            'b' => known(&m.boot_id),
            'v' => known(&m.kernel_release),
            'a' => known(&m.architecture),
            'o' => os("ID"),
            'w' => os("VERSION_ID"),
            'W' => os("VARIANT_ID"),
            'B' => os("BUILD_ID"),
            'A' => os("IMAGE_VERSION"),
            'M' => os("IMAGE_ID"),
            'd' => Lookup::Value(format!("/run/credentials/{unit}")),
            'y' => known(self.fragment_path),
            'Y' => known(self.fragment_path.rsplit_once('/').map_or("", |(d, _)| d)),
            _ => Lookup::Unknown,
        }
    }
}

enum Lookup {
    Unknown,
    Value(String),
    Failed,
}

#[cfg(test)]
mod tests {
    use super::{MachineInfo, Specifiers};
    use crate::name::UnitName;
    use proptest::prelude::proptest;

    #[test]
    fn table() {
        let unit = UnitName::parse("a-b@c-d\\x20e.service").unwrap();
        let machine = MachineInfo {
            hostname: "h.example".to_owned(),
            machine_id: "0123".to_owned(),
            ..MachineInfo::default()
        };
        let s = Specifiers {
            unit: &unit,
            machine: &machine,
            fragment_path: "/etc/x/a-b@.service",
        };
        for (text, want) in [
            ("%n", "a-b@c-d\\x20e.service"),
            ("%N", "a-b@c-d\\x20e"),
            ("%p|%P|%j", "a-b|a/b|b"),
            ("%i|%I|%f", "c-d\\x20e|c/d e|/c/d e"),
            ("%H %l %m", "h.example h 0123"),
            ("100%% %", "100% %"),
            ("%t/%Z", "/run/%Z"),
            ("%Y", "/etc/x"),
        ] {
            assert_eq!(s.expand(text).unwrap(), want, "{text}");
        }
        assert!(s.expand("%b").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let unit = UnitName::parse("x@y.service").unwrap();
            let machine = MachineInfo::default();
            let _ = Specifiers { unit: &unit, machine: &machine, fragment_path: "" }.expand(&text);
        }
    }
}
