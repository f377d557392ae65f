//! PID 1's log: the kernel log from the first moment, and journald's native socket once it is there.
//!
//! One line, one event. Messages about a unit carry `UNIT=` and, for the well-known ones, `MESSAGE_ID=`.
//! Nothing here waits: a full journal socket drops the message to the kernel log instead.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

const JOURNAL: &str = "/run/systemd/journal/socket";

/// Importance, numbered as syslog does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The machine is in danger.
    Critical = 2,
    /// An asked-for action did not happen.
    Error = 3,
    /// Something is odd, work goes on.
    Warning = 4,
    /// Normal but noteworthy.
    Notice = 5,
    /// Rare enough for production.
    Info = 6,
    /// For developers.
    Debug = 7,
}

impl Level {
    /// The level with this name or number (`debug`, `7`, `err` …).
    pub(crate) fn from_name(name: &str) -> Option<Level> {
        Some(match name {
            "emerg" | "alert" | "crit" | "0" | "1" | "2" => Level::Critical,
            "err" | "error" | "3" => Level::Error,
            "warning" | "warn" | "4" => Level::Warning,
            "notice" | "5" => Level::Notice,
            "info" | "6" => Level::Info,
            "debug" | "7" => Level::Debug,
            _ => return None,
        })
    }

    /// Its name as `systemctl log-level` prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Critical => "crit",
            Level::Error => "err",
            Level::Warning => "warning",
            Level::Notice => "notice",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

struct Sink {
    kmsg: Option<File>,
    journal: Option<UnixDatagram>,
    threshold: Level,
    identifier: &'static str,
}

thread_local! {
    // PID 1 has one thread; the sink is the one thing every module may reach.
    static SINK: RefCell<Sink> = const {
        RefCell::new(Sink { kmsg: None, journal: None, threshold: Level::Info, identifier: "init" })
    };
}

/// Opens the kernel log; before that messages are lost.
pub(crate) fn open_kmsg() {
    let file = OpenOptions::new().write(true).open("/dev/kmsg").ok();
    SINK.with_borrow_mut(|s| s.kmsg = file);
}

/// Uses journald's socket from now on, or no longer.
pub(crate) fn use_journal(on: bool) {
    let socket = on.then(UnixDatagram::unbound).and_then(Result::ok);
    if let Some(socket) = &socket {
        let _ = socket.set_nonblocking(true);
    }
    SINK.with_borrow_mut(|s| s.journal = socket);
}

/// Messages less important than this are dropped.
pub(crate) fn set_threshold(level: Level) {
    SINK.with_borrow_mut(|s| s.threshold = level);
}

/// The level in force.
pub(crate) fn threshold() -> Level {
    SINK.with_borrow(|s| s.threshold)
}

/// Logs a message about no unit in particular.
pub(crate) fn say(level: Level, text: std::fmt::Arguments<'_>) {
    entry(level, None, None, &[], &text.to_string());
}

/// Logs a message about a unit.
pub(crate) fn unit(
    level: Level,
    unit: &str,
    message_id: Option<&str>,
    text: std::fmt::Arguments<'_>,
) {
    entry(level, Some(unit), message_id, &[], &text.to_string());
}

/// Logs a message with further journal fields.
pub(crate) fn with_fields(
    level: Level,
    unit: Option<&str>,
    message_id: Option<&str>,
    fields: &[(&str, String)],
    text: &str,
) {
    entry(level, unit, message_id, fields, text);
}

fn entry(
    level: Level,
    unit: Option<&str>,
    message_id: Option<&str>,
    fields: &[(&str, String)],
    text: &str,
) {
    SINK.with_borrow_mut(|sink| {
        if level > sink.threshold {
            return;
        }
        if let Some(journal) = &sink.journal
            && journal
                .send_to(
                    &native(level, sink.identifier, unit, message_id, fields, text),
                    JOURNAL,
                )
                .is_ok()
        {
            return;
        }
        if let Some(kmsg) = &mut sink.kmsg {
            let unit = unit
                .filter(|u| !text.contains(u))
                .map(|u| format!("{u}: "))
                .unwrap_or_default();
            let mut line = format!(
                "<{}>{}[1]: {unit}{text}",
                level as u8 | 3 << 3,
                sink.identifier
            );
            // The kernel cuts a record at about 1 KiB anyway, and refuses longer writes.
            let end = line
                .char_indices()
                .map(|(i, _)| i)
                .take_while(|i| *i <= 900)
                .last()
                .unwrap_or(0);
            if line.len() > 900 {
                line.truncate(end);
            }
            // Without its end the kernel would hold the line back until the next one.
            line.push('\n');
            let _ = kmsg.write_all(line.as_bytes());
        }
    });
}

/// A message in journald's native form.
fn native(
    level: Level,
    identifier: &str,
    unit: Option<&str>,
    message_id: Option<&str>,
    fields: &[(&str, String)],
    text: &str,
) -> Vec<u8> {
    let mut head = format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER={identifier}\nSYSLOG_FACILITY=3\n",
        level as u8
    );
    if let Some(unit) = unit {
        let _ = writeln!(head, "UNIT={unit}");
    }
    if let Some(id) = message_id {
        let _ = writeln!(head, "MESSAGE_ID={id}");
    }
    for (name, value) in fields.iter().filter(|(_, v)| !v.contains('\n')) {
        let _ = writeln!(head, "{name}={value}");
    }
    let mut out = head.into_bytes();
    if text.contains('\n') {
        out.extend_from_slice(b"MESSAGE\n");
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend_from_slice(b"MESSAGE=");
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'\n');
    out
}

/// An error with its causes: `what: cause: cause`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_messages_carry_unit_and_binary_text() {
        let one = native(
            Level::Info,
            "init",
            Some("a.service"),
            Some("ff"),
            &[("A", "b".to_owned())],
            "hello",
        );
        assert_eq!(
            String::from_utf8(one).unwrap(),
            "PRIORITY=6\nSYSLOG_IDENTIFIER=init\nSYSLOG_FACILITY=3\nUNIT=a.service\nMESSAGE_ID=ff\nA=b\nMESSAGE=hello\n"
        );
        let two = native(Level::Error, "init", None, None, &[], "a\nb");
        assert!(two.ends_with(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"));
    }

    #[test]
    fn level_names_go_both_ways() {
        for level in [
            Level::Critical,
            Level::Error,
            Level::Warning,
            Level::Notice,
            Level::Info,
            Level::Debug,
        ] {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("loud"), None);
    }
}
