//! Match rules of the bus façade: which signals a connection wants.

use dbus_api::wire::{Kind, Message, Value};

/// One rule. Absent keys match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MatchRule {
    kind: Option<&'static str>,
    sender: Option<String>,
    interface: Option<String>,
    member: Option<String>,
    path: Option<String>,
    path_namespace: Option<String>,
    destination: Option<String>,
    args: Vec<(usize, ArgMatch, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArgMatch {
    Equal,
    Path,
    Namespace,
}

impl MatchRule {
    /// Parse `key='value',…`; the error says which part is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rule = Self::default();
        for (key, value) in pairs(text)? {
            rule.set(&key, value)?;
        }
        if rule.path.is_some() && rule.path_namespace.is_some() {
            return Err("path and path_namespace exclude each other".to_owned());
        }
        Ok(rule)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "type" => {
                let known = ["signal", "method_call", "method_return", "error"];
                let word = known.into_iter().find(|word| *word == value);
                self.kind = Some(word.ok_or_else(|| format!("type {value:?} is unknown"))?);
            }
            "sender" => self.sender = Some(value),
            "interface" => self.interface = Some(value),
            "member" => self.member = Some(value),
            "path" => self.path = Some(value),
            "path_namespace" => self.path_namespace = Some(value),
            "destination" => self.destination = Some(value),
            // Watching what is meant for others is not offered; the key itself is harmless.
            "eavesdrop" => {}
            _ => {
                let (number, kind) =
                    argument(key).ok_or_else(|| format!("key {key:?} is unknown"))?;
                self.args.push((number, kind, value));
            }
        }
        Ok(())
    }

    /// Does the rule want this message? `senders` are the names of the sender: unique and owned.
    pub(crate) fn matches(&self, message: &Message, senders: &[&str]) -> bool {
        let kind = match message.kind {
            Kind::Signal => "signal",
            Kind::Call => "method_call",
            Kind::Return => "method_return",
            Kind::Error => "error",
        };
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        self.kind.is_none_or(|wanted| wanted == kind)
            && self
                .sender
                .as_deref()
                .is_none_or(|wanted| senders.contains(&wanted))
            && is(&self.interface, &message.interface)
            && is(&self.member, &message.member)
            && is(&self.path, &message.path)
            && is(&self.destination, &message.destination)
            && self
                .path_namespace
                .as_deref()
                .is_none_or(|space| is_below(space, &message.path))
            && self.args.iter().all(|(number, kind, wanted)| {
                message
                    .body
                    .get(*number)
                    .is_some_and(|value| argument_matches(*kind, wanted, value))
            })
    }

    /// Can the rule match unit signals of systemd1 (`PropertiesChanged`, `UnitNew`, `UnitRemoved`)? Asked to know
    /// whether PID 1 must send them at all.
    pub(crate) fn wants_unit_signals(&self) -> bool {
        let among = |wanted: &Option<String>, known: &[&str]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| known.contains(&wanted))
        };
        self.kind.is_none_or(|kind| kind == "signal")
            && among(
                &self.sender,
                &["org.freedesktop.systemd1", crate::router::SERVICES_NAME],
            )
            && among(
                &self.interface,
                &[
                    "org.freedesktop.DBus.Properties",
                    "org.freedesktop.systemd1.Manager",
                ],
            )
            && among(
                &self.member,
                &["PropertiesChanged", "UnitNew", "UnitRemoved"],
            )
            && self
                .path
                .as_deref()
                .is_none_or(|path| path.starts_with("/org/freedesktop/systemd1"))
    }
}

fn argument(key: &str) -> Option<(usize, ArgMatch)> {
    let rest = key.strip_prefix("arg")?;
    let (digits, kind) = if let Some(digits) = rest.strip_suffix("path") {
        (digits, ArgMatch::Path)
    } else if let Some(digits) = rest.strip_suffix("namespace") {
        (digits, ArgMatch::Namespace)
    } else {
        (rest, ArgMatch::Equal)
    };
    digits
        .parse()
        .ok()
        .filter(|number| *number < 64)
        .map(|number| (number, kind))
}

fn argument_matches(kind: ArgMatch, wanted: &str, value: &Value) -> bool {
    match (kind, value) {
        (ArgMatch::Equal, Value::Str(text)) => text == wanted,
        (ArgMatch::Namespace, Value::Str(text)) => text
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        (ArgMatch::Path, Value::Str(text) | Value::Path(text)) => {
            text == wanted
                || (wanted.ends_with('/') && text.starts_with(wanted))
                || (text.ends_with('/') && wanted.starts_with(text.as_str()))
        }
        _ => false,
    }
}

fn is_below(space: &str, path: &str) -> bool {
    space == "/"
        || path
            .strip_prefix(space)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Split at commas. In single quotes everything counts as is; outside of them `\'` is a quote.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_matches(|c: char| c.is_whitespace() || c == ',');
    while !rest.is_empty() {
        let (key, tail) = rest
            .split_once('=')
            .ok_or_else(|| format!("{rest:?} has no ="))?;
        let mut value = String::new();
        let mut quoted = false;
        let mut end = tail.len();
        let mut chars = tail.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' => quoted = !quoted,
                ',' if !quoted => {
                    end = at;
                    break;
                }
                '\\' if !quoted && chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                    chars.next();
                    value.push('\'');
                }
                c => value.push(c),
            }
        }
        if quoted {
            return Err(format!("quote of {key:?} is not closed"));
        }
        out.push((key.trim().to_owned(), value));
        rest = tail[end..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signal() -> Message {
        Message::signal(
            "/org/freedesktop/systemd1/unit/a_2eservice",
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            vec![Value::str("org.freedesktop.systemd1.Unit")],
        )
    }

    #[test]
    fn matching() {
        for (rule, expect) in [
            ("", true),
            ("type='signal'", true),
            ("type='error'", false),
            ("type=signal,sender='org.freedesktop.systemd1'", true),
            ("sender='org.example'", false),
            ("sender=':1.0',member='PropertiesChanged'", true),
            ("path_namespace='/org/freedesktop/systemd1'", true),
            ("path_namespace='/org/freedesktop/system'", false),
            ("path='/org'", false),
            ("arg0='org.freedesktop.systemd1.Unit'", true),
            ("arg0namespace='org.freedesktop.systemd1'", true),
            ("arg0='x'", false),
            ("arg1='x'", false),
        ] {
            let parsed = MatchRule::parse(rule).unwrap();
            assert_eq!(
                parsed.matches(&signal(), &[":1.0", "org.freedesktop.systemd1"]),
                expect,
                "{rule}"
            );
        }
    }

    #[test]
    fn demand() {
        for (rule, expect) in [
            (dbus_api::systemd1::MATCH_JOBS, false),
            (dbus_api::systemd1::MATCH_MANAGER, true),
            (dbus_api::systemd1::MATCH_PROPERTIES, true),
            ("type='signal',sender='org.freedesktop.DBus'", false),
            ("type='signal',path='/org/freedesktop/login1'", false),
        ] {
            assert_eq!(
                MatchRule::parse(rule).unwrap().wants_unit_signals(),
                expect,
                "{rule}"
            );
        }
    }

    #[test]
    fn bad_rules_are_named() {
        for rule in [
            "nonsense",
            "type='dance'",
            "colour='red'",
            "member='x",
            "arg64='x'",
            "path='/',path_namespace='/'",
        ] {
            assert!(MatchRule::parse(rule).is_err(), "{rule}");
        }
        assert_eq!(
            MatchRule::parse("arg0='a,b'\\''c'").unwrap().args[0].2,
            "a,b'c"
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            if let Ok(rule) = MatchRule::parse(&text) {
                let _ = rule.matches(&signal(), &[]);
            }
        }
    }
}
