//! The fixed forms that some values must have.

/// A form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Octal mode: an optional 0, then three or four octal digits.
    Mode,
    /// A unit command.
    Command,
    /// `on`, `off`, `readonly`.
    Proxy,
    /// A reboot strategy.
    Strategy,
    /// Optional weekday, then hour and minute.
    WindowStart,
    /// A length of time, loosely.
    WindowLength,
    /// A value of `manage_etc_hosts`.
    EtcHosts,
}

/// The encodings that `write_files` knows.
pub(crate) const ENCODINGS: [&str; 9] = [
    "b64",
    "base64",
    "gz",
    "gzip",
    "gz+base64",
    "gzip+base64",
    "gz+b64",
    "gzip+b64",
    "text/plain",
];

/// The commands that a unit can be given.
pub(crate) const COMMANDS: [&str; 7] = [
    "start",
    "stop",
    "restart",
    "reload",
    "try-restart",
    "reload-or-restart",
    "reload-or-try-restart",
];

impl Pattern {
    /// Whether `value` has the form. Empty values count as not set and are not asked.
    pub(crate) fn matches(self, value: &str) -> bool {
        match self {
            Pattern::Mode => mode(value).is_some(),
            Pattern::Command => COMMANDS.contains(&value),
            Pattern::Proxy => ["on", "off", "readonly"].contains(&value),
            Pattern::Strategy => {
                ["etcd-lock", "reboot", "off", "best-effort", "false"].contains(&value)
            }
            Pattern::WindowStart => window_start(value),
            Pattern::WindowLength => window_length(value),
            Pattern::EtcHosts => [
                "localhost",
                "true",
                "True",
                "TRUE",
                "yes",
                "on",
                "false",
                "False",
                "FALSE",
                "no",
                "off",
            ]
            .contains(&value),
        }
    }
}

/// Reads a file mode, always as octal.
pub(crate) fn mode(value: &str) -> Option<u32> {
    let octal = value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let digits = match value.len() {
        3 | 4 => octal,
        5 => octal && value.starts_with('0'),
        _ => false,
    };
    digits.then(|| u32::from_str_radix(value, 8).ok()).flatten()
}

fn window_start(value: &str) -> bool {
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let time = match value.split_once(' ') {
        Some((day, time)) if days.iter().any(|d| d.eq_ignore_ascii_case(day)) => time,
        Some(_) => return false,
        None => value,
    };
    let Some((hour, minute)) = time.split_once(':') else {
        return false;
    };
    let below = |text: &str, limit: u32| {
        !text.is_empty()
            && text.len() <= 9
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u32>().is_ok_and(|n| n < limit)
    };
    below(hour, 24) && below(minute, 60)
}

/// Loose on purpose, as the original's: a sign, then characters of numbers and unit letters.
fn window_length(value: &str) -> bool {
    let body = value.strip_prefix(['+', '-']).unwrap_or(value);
    !body.is_empty()
        && body
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | 'µ' | 'μ'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_have_three_to_five_digits() {
        let cases = [
            ("0644", Some(0o644)),
            ("644", Some(0o644)),
            ("04755", Some(0o4755)),
            ("4755", Some(0o4755)),
            ("0o644", None),
            ("64", None),
            ("648", None),
            ("10644", None),
            ("rw", None),
        ];
        for (text, want) in cases {
            assert_eq!(mode(text), want, "{text}");
        }
    }

    #[test]
    fn windows() {
        for good in ["Sun 04:00", "4:0", "23:59", "sun 4:00", "004:000"] {
            assert!(Pattern::WindowStart.matches(good), "{good}");
        }
        for bad in ["24:00", "4", "Sunday 4:00", "Sun  4:00", "4:60", ":", "a:b"] {
            assert!(!Pattern::WindowStart.matches(bad), "{bad}");
        }
        for good in ["3h", "1h30m", "-2h", "forever"] {
            assert!(Pattern::WindowLength.matches(good), "{good}");
        }
        for bad in ["", "3 h", "3h!"] {
            assert!(!Pattern::WindowLength.matches(bad), "{bad}");
        }
    }
}
