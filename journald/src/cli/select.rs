//! From options to the condition on entries. No I/O.

use journal::Match;

use super::args::Given;
use crate::daemon::config::level;

/// A selection that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Neither `FIELD=value` nor a path nor `+`.
    #[error("failed to add match '{0}': Invalid argument")]
    Match(String),
    /// Not a level or range of levels.
    #[error("unknown log level {0}")]
    Level(String),
    /// Not a facility.
    #[error("unknown facility {0}")]
    Facility(String),
}

/// `FIELD=value` arguments: alternatives within a field, all fields, `+` between alternatives. A path is the program.
pub fn free(args: &[String]) -> Result<Match, SelectError> {
    let mut terms = Vec::new();
    for group in args.split(|arg| arg == "+") {
        let mut by_field: Vec<(String, Vec<Match>)> = Vec::new();
        for arg in group {
            let (name, found) = match arg.split_once('=') {
                Some((name, _)) if valid_name(name) => {
                    (name.to_owned(), Match::Field(arg.clone().into_bytes()))
                }
                None if arg.starts_with('/') => ("_EXE".to_owned(), Match::field("_EXE", arg)),
                _ => return Err(SelectError::Match(arg.clone())),
            };
            match by_field.iter_mut().find(|(n, _)| *n == name) {
                Some((_, list)) => list.push(found),
                None => by_field.push((name, vec![found])),
            }
        }
        if !by_field.is_empty() {
            terms.push(Match::And(
                by_field
                    .into_iter()
                    .map(|(_, list)| Match::Or(list))
                    .collect(),
            ));
        }
    }
    Ok(if terms.is_empty() {
        Match::And(Vec::new())
    } else {
        Match::Or(terms)
    })
}

fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// What was logged by a unit or about it: by its processes; by PID 1; by privileged programs that name it; by the
/// core dump collector.
pub fn unit(name: &str) -> Match {
    let both = |list: [(&str, &str); 2]| {
        Match::And(
            list.into_iter()
                .map(|(field, value)| Match::field(field, value))
                .collect(),
        )
    };
    let mut list = vec![
        Match::field("_SYSTEMD_UNIT", name),
        both([("UNIT", name), ("_PID", "1")]),
        both([("OBJECT_SYSTEMD_UNIT", name), ("_UID", "0")]),
        both([
            ("COREDUMP_UNIT", name),
            ("MESSAGE_ID", "fc2e22bc6ee647b6b90729ab34a250b1"),
        ]),
    ];
    if name.ends_with(".slice") {
        list.push(Match::field("_SYSTEMD_SLICE", name));
    }
    Match::Or(list)
}

/// A unit's full name: without a suffix it is a service.
pub fn unit_name(text: &str) -> String {
    const SUFFIXES: [&str; 11] = [
        ".service",
        ".socket",
        ".target",
        ".device",
        ".mount",
        ".automount",
        ".swap",
        ".timer",
        ".path",
        ".slice",
        ".scope",
    ];
    match SUFFIXES.iter().any(|s| text.ends_with(s)) || text.ends_with('*') {
        true => text.to_owned(),
        false => format!("{text}.service"),
    }
}

/// Whether a name is a pattern.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Shell patterns: `*`, `?`, `[…]`.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((b'?', rest)) => text.split_first().is_some_and(|(_, tail)| glob(rest, tail)),
        Some((b'[', rest)) => match rest.iter().skip(1).position(|b| *b == b']') {
            Some(end) => text.split_first().is_some_and(|(byte, tail)| {
                in_set(&rest[..=end], *byte) && glob(&rest[end + 2..], tail)
            }),
            None => text.first() == Some(&b'[') && glob(rest, &text[1..]),
        },
        Some((byte, rest)) => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let (negated, set) = match set.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, set),
    };
    let mut at = 0;
    let mut found = false;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == b'-' {
            found |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= set[at] == byte;
            at += 1;
        }
    }
    found != negated
}

/// `LEVEL` (this and worse) or `FROM..TO`.
pub fn priorities(text: &str) -> Result<Match, SelectError> {
    let wrong = || SelectError::Level(text.to_owned());
    let one = |text: &str| level(text).ok_or_else(wrong);
    let (from, to) = match text.split_once("..") {
        Some((a, b)) => {
            let (a, b) = (one(a)?, one(b)?);
            (a.min(b), a.max(b))
        }
        None => (0, one(text)?),
    };
    Ok(Match::Or(
        (from..=to)
            .map(|n| Match::field("PRIORITY", n.to_string()))
            .collect(),
    ))
}

/// Names or numbers of facilities, with commas.
pub fn facilities(text: &str) -> Result<Match, SelectError> {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp", "12", "13", "14", "15", "local0", "local1", "local2", "local3",
        "local4", "local5", "local6", "local7",
    ];
    let number = |text: &str| {
        NAMES
            .iter()
            .position(|n| *n == text)
            .or_else(|| text.parse().ok().filter(|n| *n < NAMES.len()))
            .ok_or_else(|| SelectError::Facility(text.to_owned()))
    };
    let list = text.split(',').map(|name| {
        Ok(Match::field(
            "SYSLOG_FACILITY",
            number(name.trim())?.to_string(),
        ))
    });
    Ok(Match::Or(list.collect::<Result<_, SelectError>>()?))
}

/// The condition that the options make; `values` gives the values of a field, for patterns of unit names.
pub fn selection(
    given: &Given,
    mut values: impl FnMut(&str) -> Vec<Vec<u8>>,
) -> Result<Match, SelectError> {
    let mut all = vec![free(&given.free)?];
    let mut units = Vec::new();
    for text in given.values("unit") {
        let name = unit_name(text);
        if is_glob(&name) {
            let fields = [
                "_SYSTEMD_UNIT",
                "UNIT",
                "COREDUMP_UNIT",
                "OBJECT_SYSTEMD_UNIT",
            ];
            let mut names: Vec<Vec<u8>> = fields.iter().flat_map(|field| values(field)).collect();
            names.retain(|n| glob(name.as_bytes(), n));
            names.sort();
            names.dedup();
            units.extend(names.iter().map(|n| unit(&String::from_utf8_lossy(n))));
        } else {
            units.push(unit(&name));
        }
    }
    if given.has("unit") {
        all.push(Match::Or(units));
    }
    let identifiers: Vec<Match> = given
        .values("identifier")
        .map(|t| Match::field("SYSLOG_IDENTIFIER", t))
        .collect();
    if !identifiers.is_empty() {
        all.push(Match::Or(identifiers));
    }
    if let Some(text) = given.value("priority") {
        all.push(priorities(text)?);
    }
    for text in given.values("facility") {
        all.push(facilities(text)?);
    }
    if given.has("dmesg") {
        all.push(Match::field("_TRANSPORT", "kernel"));
    }
    Ok(Match::And(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matches_group_by_field_and_plus() {
        let args = ["A=1", "A=2", "B=3", "+", "/bin/x"].map(str::to_owned);
        let field = |text: &str| Match::Field(text.as_bytes().to_vec());
        assert_eq!(
            free(&args),
            Ok(Match::Or(vec![
                Match::And(vec![
                    Match::Or(vec![field("A=1"), field("A=2")]),
                    Match::Or(vec![field("B=3")])
                ]),
                Match::And(vec![Match::Or(vec![field("_EXE=/bin/x")])]),
            ]))
        );
        assert_eq!(free(&[]), Ok(Match::And(vec![])));
        assert_eq!(
            free(&["foo".to_owned()]),
            Err(SelectError::Match("foo".to_owned()))
        );
        assert_eq!(
            free(&["a=1".to_owned()]),
            Err(SelectError::Match("a=1".to_owned()))
        );
    }

    #[test]
    fn levels_are_ranges() {
        let Ok(Match::Or(list)) = priorities("err") else {
            panic!("valid")
        };
        assert_eq!(list.len(), 4);
        let Ok(Match::Or(list)) = priorities("info..warning") else {
            panic!("valid")
        };
        assert_eq!(list.len(), 3);
        assert!(priorities("nosuch").is_err());
        assert!(facilities("auth,10").is_ok());
        assert!(facilities("24").is_err());
    }

    #[test]
    fn unit_names_are_completed_and_matched() {
        assert_eq!(unit_name("web@1"), "web@1.service");
        assert_eq!(unit_name("a.socket"), "a.socket");
        for (pattern, text, want) in [
            ("web@*.service", "web@12.service", true),
            ("web@?.service", "web@12.service", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[", "[", true),
            ("*", "", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                want,
                "{pattern} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "[a-c*?\\[\\]!-]{0,8}", text in "[a-c]{0,8}") {
            let _ = glob(pattern.as_bytes(), text.as_bytes());
        }
    }
}
