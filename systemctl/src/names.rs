//! What people write to names of units.

use unit_file::{UnitName, UnitType, name};

/// Is it a pattern?
pub(crate) fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// A unit's name: paths become mounts or devices, a name without a known suffix gets `suffix`, and what no name may
/// have is escaped. Patterns only get the suffix where they have none and do not end in `*`.
pub(crate) fn mangle(text: &str, suffix: &str) -> String {
    if UnitName::parse(text).is_ok() || is_template(text) {
        return text.to_owned();
    }
    if text.starts_with("/dev/") || text.starts_with("/sys/") {
        return from_path(text, UnitType::Device);
    }
    if text.starts_with('/') {
        return from_path(text, UnitType::Mount);
    }
    if is_glob(text) {
        let has_suffix = text
            .rsplit_once('.')
            .is_some_and(|(_, suffix)| UnitType::from_suffix(suffix).is_some());
        return if has_suffix || text.ends_with('*') {
            text.to_owned()
        } else {
            format!("{text}{suffix}")
        };
    }
    let escaped: String = text
        .chars()
        .map(|c| {
            if c == '/' {
                "-".to_owned()
            } else if c.is_ascii_alphanumeric() || ":-_.\\@".contains(c) {
                c.to_string()
            } else {
                name::escape(&c.to_string())
            }
        })
        .collect();
    let has_suffix = escaped
        .rsplit_once('.')
        .is_some_and(|(_, suffix)| UnitType::from_suffix(suffix).is_some());
    if has_suffix {
        escaped
    } else {
        format!("{escaped}{suffix}")
    }
}

fn is_template(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(stem, suffix)| {
        stem.ends_with('@') && UnitType::from_suffix(suffix).is_some()
    })
}

fn from_path(path: &str, kind: UnitType) -> String {
    UnitName::from_path(path, kind)
        .map_or_else(|_| path.to_owned(), |name| name.as_str().to_owned())
}

/// Does a name match a shell pattern (`*`, `?`, `[a-z]`, `[!a]`)?
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Positions to go back to when a `*` must take one more character.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('[') => {
                if let Some((length, true)) = class(&pattern[p..], name[n]) {
                    p += length;
                    n += 1;
                    continue;
                }
            }
            Some('?') => {
                p += 1;
                n += 1;
                continue;
            }
            Some(c) if *c == name[n] => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((at, taken)) = star else {
            return false;
        };
        star = Some((at, taken + 1));
        p = at + 1;
        n = taken + 1;
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// A class at the start of the pattern: its length, and whether it holds the character.
fn class(pattern: &[char], wanted: char) -> Option<(usize, bool)> {
    let inverted = matches!(pattern.get(1), Some('!' | '^'));
    let first = if inverted { 2 } else { 1 };
    let mut at = first;
    let mut found = false;
    while let Some(c) = pattern.get(at) {
        if *c == ']' && at > first {
            return Some((at + 1, found != inverted));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(end)) if *end != ']' => {
                found |= (*c..=*end).contains(&wanted);
                at += 3;
            }
            _ => {
                found |= *c == wanted;
                at += 1;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mangling() {
        for (text, expect) in [
            ("ssh", "ssh.service"),
            ("ssh.socket", "ssh.socket"),
            ("a@b", "a@b.service"),
            ("a@.service", "a@.service"),
            ("/home", "home.mount"),
            ("/dev/vdb", "dev-vdb.device"),
            ("a b", "a\\x20b.service"),
            ("foo.bar", "foo.bar.service"),
            ("ssh*", "ssh*"),
            ("s?h", "s?h.service"),
        ] {
            assert_eq!(mangle(text, ".service"), expect, "{text}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, name, expect) in [
            ("*", "", true),
            ("ssh.*", "ssh.socket", true),
            ("*.service", "a.service", true),
            ("*.service", "a.socket", false),
            ("a*b*c", "aXbYbc", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("?", "ab", false),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(pattern in "[a\\[\\]*?!-]{0,12}", name in "[ab\\[-]{0,8}") {
            let _ = matches(&pattern, &name);
            let _ = mangle(&pattern, ".service");
        }

        #[test]
        fn every_name_matches_itself(name in "[a-z0-9.@-]{1,20}") {
            prop_assert!(matches(&name, &name));
        }
    }
}
