//! Unit names and object paths.

/// The object path prefix of units.
pub const UNIT_PREFIX: &str = "/org/freedesktop/systemd1/unit/";
/// The object path prefix of jobs.
pub const JOB_PREFIX: &str = "/org/freedesktop/systemd1/job/";

/// Escape a name for one element of an object path: all but letters and digits (a digit in front too) become
/// `_xx`; the empty name becomes `_`.
pub fn escape(name: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let mut out = String::with_capacity(name.len() + 8);
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && index > 0) {
            out.push(char::from(byte));
        } else {
            out.push('_');
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
    }
    out
}

/// Undo [`escape`]; none where the text cannot come from it.
pub fn unescape(label: &str) -> Option<String> {
    if label == "_" {
        return Some(String::new());
    }
    let bytes = label.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'_' {
            let digits = label.get(at + 1..at + 3)?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// Object path of a unit.
pub fn unit_path(name: &str) -> String {
    format!("{UNIT_PREFIX}{}", escape(name))
}

/// Unit of an object path.
pub fn unit_of_path(path: &str) -> Option<String> {
    unescape(path.strip_prefix(UNIT_PREFIX)?)
}

/// Object path of a job.
pub fn job_path(id: u32) -> String {
    format!("{JOB_PREFIX}{id}")
}

/// Job of an object path.
pub fn job_of_path(path: &str) -> Option<u32> {
    path.strip_prefix(JOB_PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn table() {
        for (name, label) in [
            ("", "_"),
            ("ssh.service", "ssh_2eservice"),
            ("1a", "_31a"),
            ("-.slice", "_2d_2eslice"),
            (
                "dev-disk-by\\x2dlabel-X.device",
                "dev_2ddisk_2dby_5cx2dlabel_2dX_2edevice",
            ),
        ] {
            assert_eq!(escape(name), label);
            assert_eq!(unescape(label).as_deref(), Some(name));
        }
        assert_eq!(unescape("a_2"), None);
        assert_eq!(unescape("a_+1"), None);
        assert_eq!(unescape("_ff"), None);
    }

    proptest! {
        #[test]
        fn survives(name in ".{0,60}") {
            prop_assert_eq!(unescape(&escape(&name)), Some(name));
        }

        #[test]
        fn never_panics(label in ".{0,60}") {
            let _ = unescape(&label);
        }
    }
}
