//! One event in the forms the sinks want. No I/O.

use std::fmt::Write as _;

use tracing::Level;

/// Name and value of one `tracing` field.
pub(crate) type Field = (String, String);

/// An event with everything that was recorded, ready to be written down.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) message: String,
    /// Fields of the enclosing spans, outermost first, then the event's own.
    pub(crate) fields: Vec<Field>,
    pub(crate) file: Option<&'static str>,
    pub(crate) line: Option<u32>,
}

/// Syslog priority of a level: debug and trace are 7, info 6, warn 4, error 3.
pub(crate) fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// `message key=value key="a value"`.
pub(crate) fn line(record: &Record) -> String {
    let mut text = record.message.clone();
    for (name, value) in &record.fields {
        if !text.is_empty() {
            text.push(' ');
        }
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"');
        // Writing to a String cannot fail.
        let _ = match plain {
            true => write!(text, "{name}={value}"),
            false => write!(text, "{name}={value:?}"),
        };
    }
    text
}

/// The journal's native protocol: every field a journal field of its own.
///
/// MESSAGE carries the readable line with the fields, because `journalctl` shows nothing else by default.
pub(crate) fn native(record: &Record, identifier: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    push(&mut out, "MESSAGE", line(record).as_bytes());
    push(
        &mut out,
        "PRIORITY",
        priority(&record.level).to_string().as_bytes(),
    );
    push(&mut out, "SYSLOG_IDENTIFIER", identifier.as_bytes());
    push(&mut out, "TARGET", record.target.as_bytes());
    if let Some(file) = record.file {
        push(&mut out, "CODE_FILE", file.as_bytes());
    }
    if let Some(number) = record.line {
        push(&mut out, "CODE_LINE", number.to_string().as_bytes());
    }
    for (name, value) in &record.fields {
        if let Some(name) = journal_name(name) {
            push(&mut out, &name, value.as_bytes());
        }
    }
    out
}

/// Upper-case journal name of a `tracing` field, `None` when nothing valid is left of it.
fn journal_name(name: &str) -> Option<String> {
    let name: String = name
        .trim_start_matches(['_', '.'])
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    let first_is_letter = name.starts_with(|c: char| c.is_ascii_uppercase());
    // These are written above; a field of that name must not appear as a second value.
    let taken = matches!(
        name.as_str(),
        "MESSAGE" | "PRIORITY" | "SYSLOG_IDENTIFIER" | "TARGET" | "CODE_FILE" | "CODE_LINE"
    );
    (first_is_letter && !taken).then_some(name)
}

fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            level: Level::WARN,
            target: "fleetd::agent".into(),
            message: "unit failed".into(),
            fields: vec![
                ("unit".into(), "web@1.service".into()),
                ("reason".into(), "exit code".into()),
            ],
            file: Some("src/agent.rs"),
            line: Some(7),
        }
    }

    #[test]
    fn the_line_shows_message_and_fields() {
        assert_eq!(
            line(&record()),
            "unit failed unit=web@1.service reason=\"exit code\""
        );
    }

    #[test]
    fn fields_become_journal_fields() {
        let text = String::from_utf8(native(&record(), "fleetd")).expect("text");
        for want in [
            "PRIORITY=4\n",
            "UNIT=web@1.service\n",
            "REASON=exit code\n",
            "CODE_LINE=7\n",
        ] {
            assert!(text.contains(want), "{want} in {text}");
        }
    }

    #[test]
    fn a_value_with_a_line_break_is_sent_with_its_length() {
        let mut out = Vec::new();
        push(&mut out, "MESSAGE", b"a\nb");
        assert_eq!(out, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n");
    }

    #[test]
    fn names_that_the_journal_would_refuse_are_changed_or_dropped() {
        assert_eq!(journal_name("http.status").as_deref(), Some("HTTP_STATUS"));
        assert_eq!(journal_name("_pid").as_deref(), Some("PID"));
        assert_eq!(journal_name("message"), None);
        assert_eq!(journal_name("9lives"), None);
        assert_eq!(journal_name(""), None);
    }
}
