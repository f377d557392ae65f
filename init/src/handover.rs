//! What stage 1 tells the system manager, in one environment variable, and what a re-executed manager keeps.
//!
//! Text lines `key=value`; unknown keys are ignored, so that an older manager understands a newer stage 1.

use std::fmt::Write as _;

/// The variable's name.
pub(crate) const VARIABLE: &str = "FLOTILLA_STAGE1";

/// Facts about the boot so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handover {
    /// Slot that was booted, `a` or `b`.
    pub(crate) slot: Option<String>,
    /// Root hash of the mounted /usr.
    pub(crate) usrhash: Option<String>,
    /// When stage 1 began, µs on the monotonic clock.
    pub(crate) initrd_usec: u64,
    /// When stage 1 ended.
    pub(crate) initrd_end_usec: u64,
    /// Why this boot is a recovery, if it is.
    pub(crate) recovery: Option<String>,
    /// Why the boot loader fell back, if it did.
    pub(crate) fallback: Option<String>,
    /// Device of the STATE file system; none on a root in memory.
    pub(crate) state_device: Option<String>,
    /// Descriptor of the armed watchdog.
    pub(crate) watchdog_fd: Option<i32>,
}

impl Handover {
    /// As the variable's value.
    pub(crate) fn encode(&self) -> String {
        let mut out = String::new();
        let mut put = |key: &str, value: &str| {
            // A line break cannot occur in what we put here but in an error text.
            let _ = writeln!(out, "{key}={}", value.replace('\n', " "));
        };
        for (key, value) in [
            ("slot", &self.slot),
            ("usrhash", &self.usrhash),
            ("recovery", &self.recovery),
            ("fallback", &self.fallback),
            ("state", &self.state_device),
        ] {
            if let Some(value) = value {
                put(key, value);
            }
        }
        put("initrd", &self.initrd_usec.to_string());
        put("initrd_end", &self.initrd_end_usec.to_string());
        if let Some(fd) = self.watchdog_fd {
            put("watchdog", &fd.to_string());
        }
        out
    }

    /// Reads the variable's value; what is damaged counts as absent.
    pub(crate) fn decode(text: &str) -> Handover {
        let mut facts = Handover::default();
        for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
            let text = Some(value.to_owned());
            match key {
                "slot" => facts.slot = text,
                "usrhash" => facts.usrhash = text,
                "recovery" => facts.recovery = text,
                "fallback" => facts.fallback = text,
                "state" => facts.state_device = text,
                "initrd" => facts.initrd_usec = value.parse().unwrap_or(0),
                "initrd_end" => facts.initrd_end_usec = value.parse().unwrap_or(0),
                "watchdog" => facts.watchdog_fd = value.parse().ok().filter(|fd| *fd > 2),
                _ => {}
            }
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(slot in proptest::option::of("[ab]"), reason in proptest::option::of("[ -~]*"), t in any::<u64>(), fd in proptest::option::of(3..100i32)) {
            let facts = Handover { slot, recovery: reason, initrd_usec: t, watchdog_fd: fd, ..Handover::default() };
            prop_assert_eq!(Handover::decode(&facts.encode()), facts);
        }

        #[test]
        fn any_text_decodes(text in ".*") {
            let _ = Handover::decode(&text);
        }
    }
}
