//! `journald.conf` and its drop-ins.

use std::path::{Path, PathBuf};

/// Where the journal is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk; in memory while `/var` is not there or is memory itself.
    Auto,
    /// As `Auto`, and `/var/log` may be anything.
    Persistent,
    /// In memory.
    Volatile,
    /// Nowhere.
    None,
}

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the key of that name in journald.conf")]
pub struct Config {
    pub storage: Storage,
    pub system_max_use: Option<u64>,
    pub system_keep_free: Option<u64>,
    pub system_max_file_size: Option<u64>,
    pub runtime_max_use: Option<u64>,
    pub runtime_keep_free: Option<u64>,
    pub runtime_max_file_size: Option<u64>,
    /// Microseconds; 0 for no limit.
    pub max_retention: u64,
    pub sync_interval: u64,
    pub rate_interval: u64,
    pub rate_burst: u32,
    pub read_kmsg: bool,
    pub max_level_store: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            storage: Storage::Auto,
            system_max_use: None,
            system_keep_free: None,
            system_max_file_size: None,
            runtime_max_use: None,
            runtime_keep_free: None,
            runtime_max_file_size: None,
            max_retention: 0,
            sync_interval: 300_000_000,
            rate_interval: 30_000_000,
            rate_burst: 10_000,
            read_kmsg: true,
            max_level_store: 7,
        }
    }
}

/// Keys of systemd that change nothing here, accepted in silence.
const IGNORED: [&str; 15] = [
    "Compress",
    "Seal",
    "SplitMode",
    "ForwardToSyslog",
    "ForwardToKMsg",
    "ForwardToConsole",
    "ForwardToWall",
    "TTYPath",
    "MaxLevelSyslog",
    "MaxLevelKMsg",
    "MaxLevelConsole",
    "MaxLevelWall",
    "MaxFileSec",
    "LineMax",
    "Audit",
];

impl Config {
    /// Applies one file's text. Complaints are `LINE: what`; a bad line is left out.
    pub fn apply(&mut self, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut section = String::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.to_owned();
                continue;
            }
            let outcome = match line.split_once('=') {
                _ if section != "Journal" => {
                    Err(format!("[{section}] is not a section of this file"))
                }
                Some((key, value)) => self.set(key.trim(), value.trim()),
                None => Err("neither a section nor KEY=value".to_owned()),
            };
            if let Err(what) = outcome {
                complaints.push(format!("{}: {what}", number + 1));
            }
        }
        complaints
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = || format!("{key}={value}: not a valid value");
        let bytes = || size(value).map(Some).ok_or_else(wrong);
        let time = || span(value).ok_or_else(wrong);
        match key {
            "Storage" => {
                self.storage = match value {
                    "auto" => Storage::Auto,
                    "persistent" => Storage::Persistent,
                    "volatile" => Storage::Volatile,
                    "none" => Storage::None,
                    _ => return Err(wrong()),
                }
            }
            "SystemMaxUse" => self.system_max_use = bytes()?,
            "SystemKeepFree" => self.system_keep_free = bytes()?,
            "SystemMaxFileSize" => self.system_max_file_size = bytes()?,
            "RuntimeMaxUse" => self.runtime_max_use = bytes()?,
            "RuntimeKeepFree" => self.runtime_keep_free = bytes()?,
            "RuntimeMaxFileSize" => self.runtime_max_file_size = bytes()?,
            "MaxRetentionSec" => self.max_retention = time()?,
            "SyncIntervalSec" => self.sync_interval = time()?,
            "RateLimitIntervalSec" | "RateLimitInterval" => self.rate_interval = time()?,
            "RateLimitBurst" => self.rate_burst = value.parse().map_err(|_| wrong())?,
            "ReadKMsg" => self.read_kmsg = matches!(value, "yes" | "true" | "1" | "on"),
            "MaxLevelStore" => self.max_level_store = level(value).ok_or_else(wrong)?,
            "SystemMaxFiles" | "RuntimeMaxFiles" => {}
            _ if IGNORED.contains(&key) => {}
            _ => return Err(format!("{key} is not a setting of journald")),
        }
        Ok(())
    }

    /// Reads all files below `root`; complaints are `FILE:LINE: what`.
    pub fn load(root: &Path) -> (Self, Vec<String>) {
        let mut config = Self::default();
        let mut complaints = Vec::new();
        for path in files(root) {
            match std::fs::read_to_string(&path) {
                Ok(text) => complaints.extend(
                    config
                        .apply(&text)
                        .into_iter()
                        .map(|what| format!("{}:{what}", path.display())),
                ),
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                Err(err) => complaints.push(format!("{}: {err}", path.display())),
            }
        }
        (config, complaints)
    }
}

/// The main file, then drop-ins by name; the same name in a stronger directory hides the weaker one's.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut drop_ins = std::collections::BTreeMap::new();
    for dir in ["usr/lib", "run", "etc"] {
        let dir = root.join(dir).join("systemd/journald.conf.d");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "conf") {
                drop_ins.insert(entry.file_name(), entry.path());
            }
        }
    }
    let main = ["etc", "run", "usr/lib"]
        .map(|dir| root.join(dir).join("systemd/journald.conf"))
        .into_iter()
        .find(|path| path.exists());
    main.into_iter().chain(drop_ins.into_values()).collect()
}

/// Number of a level by name or digit.
pub fn level(text: &str) -> Option<u8> {
    const NAMES: [&str; 8] = [
        "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
    ];
    match text {
        "error" => Some(3),
        "warn" => Some(4),
        _ => NAMES
            .iter()
            .position(|n| *n == text)
            .map(|n| n as u8)
            .or(match text.as_bytes() {
                [digit @ b'0'..=b'7'] => Some(digit - b'0'),
                _ => None,
            }),
    }
}

/// Bytes with a suffix to base 1024: `64M`.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.trim().trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * (1u64 << shift) as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// A span of time in microseconds: `30s`, `5min`, `1h 30min`; a bare number is seconds.
pub fn span(text: &str) -> Option<u64> {
    let mut total = 0f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "us" | "usec" | "µs" => 1.0,
            "ms" | "msec" => 1e3,
            "" | "s" | "sec" | "second" | "seconds" => 1e6,
            "m" | "min" | "minute" | "minutes" => 60e6,
            "h" | "hr" | "hour" | "hours" => 3600e6,
            "d" | "day" | "days" => 86400e6,
            "w" | "week" | "weeks" => 7.0 * 86400e6,
            "M" | "month" | "months" => 2_629_800e6,
            "y" | "year" | "years" => 31_557_600e6,
            _ => return None,
        };
        total += number * unit;
        rest = rest[letters..].trim_start();
    }
    (total.is_finite() && total < 9e18).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn settings_are_read_and_bad_lines_named() {
        let mut config = Config::default();
        let text = "[Journal]\n# c\nStorage=volatile\nSystemMaxUse=64M\nRateLimitIntervalSec=1min 30s\nRateLimitBurst=x\nNew=1\nSeal=yes\n";
        let complaints = config.apply(text);
        assert_eq!(config.storage, Storage::Volatile);
        assert_eq!(config.system_max_use, Some(64 << 20));
        assert_eq!(config.rate_interval, 90_000_000);
        assert_eq!(
            complaints,
            [
                "6: RateLimitBurst=x: not a valid value",
                "7: New is not a setting of journald"
            ]
        );
    }

    #[test]
    fn sizes_and_spans() {
        assert_eq!(size("1.5K"), Some(1536));
        assert_eq!(size("12"), Some(12));
        assert_eq!(size("1X"), None);
        assert_eq!(size(""), None);
        assert_eq!(span("2h"), Some(7_200_000_000));
        assert_eq!(span("1day 1s"), Some(86_401_000_000));
        assert_eq!(span("x"), None);
        assert_eq!(span(""), None);
        assert_eq!(level("crit"), Some(2));
        assert_eq!(level("7"), Some(7));
        assert_eq!(level("8"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,60}") {
            let _ = Config::default().apply(&text);
            let _ = size(&text);
            let _ = span(&text);
        }
    }
}
