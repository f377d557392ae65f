//! Entries as text. No I/O; the zone is an argument.

use std::fmt::Write as _;

use journal::{Cursor, Entry};

use super::time::Zone;

/// Fields longer than this are left out of verbose and JSON output without `--all`.
const LONG: usize = 4096;

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the options")]
pub enum Mode {
    Short,
    ShortFull,
    ShortIso,
    ShortIsoPrecise,
    ShortPrecise,
    ShortMonotonic,
    ShortUnix,
    WithUnit,
    Verbose,
    Export,
    Json,
    JsonPretty,
    JsonSse,
    JsonSeq,
    Cat,
}

/// Every mode by name.
pub const MODES: &[(&str, Mode)] = &[
    ("short", Mode::Short),
    ("short-full", Mode::ShortFull),
    ("short-iso", Mode::ShortIso),
    ("short-iso-precise", Mode::ShortIsoPrecise),
    ("short-precise", Mode::ShortPrecise),
    ("short-monotonic", Mode::ShortMonotonic),
    ("short-unix", Mode::ShortUnix),
    ("with-unit", Mode::WithUnit),
    ("verbose", Mode::Verbose),
    ("export", Mode::Export),
    ("json", Mode::Json),
    ("json-pretty", Mode::JsonPretty),
    ("json-sse", Mode::JsonSse),
    ("json-seq", Mode::JsonSeq),
    ("cat", Mode::Cat),
];

impl Mode {
    /// Whether a new boot is announced: not where another program reads.
    pub fn shows_boots(self) -> bool {
        self.is_short() || self == Self::Verbose
    }

    /// Whether entries are single lines with a time in front.
    pub fn is_short(self) -> bool {
        matches!(
            self,
            Self::Short
                | Self::ShortFull
                | Self::ShortIso
                | Self::ShortIsoPrecise
                | Self::ShortPrecise
                | Self::ShortMonotonic
                | Self::ShortUnix
                | Self::WithUnit
        )
    }
}

/// How entries are printed.
#[derive(Debug, Clone)]
pub struct Style {
    /// The format.
    pub mode: Mode,
    /// Long and unprintable fields too.
    pub all: bool,
    /// Without the host name.
    pub no_hostname: bool,
    /// With colours.
    pub color: bool,
    /// Zone of printed times.
    pub zone: Zone,
    /// Only these fields, where not empty.
    pub fields: Vec<String>,
}

impl Style {
    /// Appends one entry to `out`.
    pub fn entry(&self, entry: &Entry, out: &mut Vec<u8>) {
        match self.mode {
            Mode::Cat => self.cat(entry, out),
            Mode::Export => self.export(entry, out),
            Mode::Verbose => self.verbose(entry, out),
            Mode::Json => self.json(entry, false, out),
            Mode::JsonPretty => self.json(entry, true, out),
            Mode::JsonSse => {
                out.extend_from_slice(b"data: ");
                self.json(entry, false, out);
                out.push(b'\n');
            }
            Mode::JsonSeq => {
                out.push(0x1e);
                self.json(entry, false, out);
            }
            _ => self.short(entry, out),
        }
    }

    fn shows(&self, name: &str) -> bool {
        self.fields.is_empty() || self.fields.iter().any(|f| f == name)
    }

    fn cat(&self, entry: &Entry, out: &mut Vec<u8>) {
        let message = ["MESSAGE".to_owned()];
        let names = if self.fields.is_empty() {
            &message[..]
        } else {
            &self.fields
        };
        for name in names {
            for value in entry.all(name) {
                out.extend_from_slice(value);
                out.push(b'\n');
            }
        }
    }

    fn export(&self, entry: &Entry, out: &mut Vec<u8>) {
        for (name, value) in addresses(entry) {
            out.extend_from_slice(format!("{name}={value}\n").as_bytes());
        }
        out.extend_from_slice(format!("_BOOT_ID={}\n", entry.meta.boot_id).as_bytes());
        for field in &entry.fields {
            let (name, value) = parts(field);
            if name == "_BOOT_ID" || !self.shows(&name) {
                continue;
            }
            if printable(value, false) {
                out.extend_from_slice(field);
            } else {
                out.extend_from_slice(name.as_bytes());
                out.push(b'\n');
                out.extend_from_slice(&(value.len() as u64).to_le_bytes());
                out.extend_from_slice(value);
            }
            out.push(b'\n');
        }
        out.push(b'\n');
    }

    fn verbose(&self, entry: &Entry, out: &mut Vec<u8>) {
        let time = self.zone.civil(realtime(entry)).full(true);
        out.extend_from_slice(format!("{time} [{}]\n", Cursor(entry.meta)).as_bytes());
        for field in &entry.fields {
            let (name, value) = parts(field);
            if !self.shows(&name) {
                continue;
            }
            out.extend_from_slice(format!("    {name}=").as_bytes());
            if self.all || printable(value, true) && value.len() < LONG {
                let indent = format!("\n{}", " ".repeat(5 + name.len()));
                out.extend_from_slice(
                    String::from_utf8_lossy(value)
                        .replace('\n', &indent)
                        .as_bytes(),
                );
            } else {
                out.extend_from_slice(blob(value).as_bytes());
            }
            out.push(b'\n');
        }
    }

    fn json(&self, entry: &Entry, pretty: bool, out: &mut Vec<u8>) {
        let mut members: Vec<(String, Vec<String>)> = addresses(entry)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), vec![quote(&value)]))
            .collect();
        let boot = (
            "_BOOT_ID".to_owned(),
            vec![quote(&entry.meta.boot_id.to_string())],
        );
        members.push(boot);
        for field in &entry.fields {
            let (name, value) = parts(field);
            if name == "_BOOT_ID" || !self.shows(&name) {
                continue;
            }
            let text = self.json_value(value, pretty);
            match members.iter_mut().find(|(n, _)| *n == name) {
                Some((_, values)) => values.push(text),
                None => members.push((name, vec![text])),
            }
        }
        let mut text = String::from("{");
        for (at, (name, values)) in members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = match (&values[..], pretty) {
                ([one], false) => write!(text, "{comma}{}:{one}", quote(name)),
                (many, false) => write!(text, "{comma}{}:[{}]", quote(name), many.join(",")),
                ([one], true) => write!(text, "{comma}\n\t{} : {one}", quote(name)),
                (many, true) => {
                    write!(
                        text,
                        "{comma}\n\t{} : [\n\t\t{}\n\t]",
                        quote(name),
                        many.join(",\n\t\t")
                    )
                }
            };
        }
        text.push_str(if pretty { "\n}\n" } else { "}\n" });
        out.extend_from_slice(text.as_bytes());
    }

    fn json_value(&self, value: &[u8], pretty: bool) -> String {
        if value.len() > LONG && !self.all {
            return "null".to_owned();
        }
        match std::str::from_utf8(value) {
            Ok(text) if printable(value, true) => quote(text),
            _ => {
                let numbers: Vec<String> = value.iter().map(u8::to_string).collect();
                match pretty {
                    true => format!("[\n\t\t{}\n\t]", numbers.join(",\n\t\t")),
                    false => format!("[{}]", numbers.join(",")),
                }
            }
        }
    }

    fn short(&self, entry: &Entry, out: &mut Vec<u8>) {
        let Some(message) = entry.get("MESSAGE") else {
            return;
        };
        let mut head = self.time(entry);
        let text = |name: &str| {
            entry
                .get(name)
                .filter(|v| self.all || printable(v, false))
                .map(String::from_utf8_lossy)
        };
        if !self.no_hostname
            && let Some(host) = text("_HOSTNAME")
        {
            head = format!("{head} {host}");
        }
        let identifier = text("SYSLOG_IDENTIFIER");
        let source = match self.mode {
            Mode::WithUnit => text("_SYSTEMD_UNIT").or(identifier),
            _ => identifier,
        };
        match source.or_else(|| text("_COMM")) {
            Some(source) => head = format!("{head} {source}"),
            None => head.push_str(" unknown"),
        }
        if let Some(pid) = text("_PID").or_else(|| text("SYSLOG_PID")) {
            let _ = write!(head, "[{pid}]");
        }
        head.push_str(": ");
        out.extend_from_slice(head.as_bytes());
        let (on, off) = self.colors(entry);
        out.extend_from_slice(on.as_bytes());
        if self.all || printable(message, true) {
            let indent = format!("{off}\n{}{on}", " ".repeat(head.chars().count()));
            let text = String::from_utf8_lossy(message);
            out.extend_from_slice(text.trim_end().replace('\n', &indent).as_bytes());
        } else {
            out.extend_from_slice(blob(message).as_bytes());
        }
        out.extend_from_slice(off.as_bytes());
        out.push(b'\n');
    }

    fn time(&self, entry: &Entry) -> String {
        let usec = realtime(entry);
        let civil = self.zone.civil(usec);
        match self.mode {
            Mode::ShortMonotonic => {
                let usec =
                    number(entry, "_SOURCE_MONOTONIC_TIMESTAMP").unwrap_or(entry.meta.monotonic);
                format!("[{:5}.{:06}]", usec / 1_000_000, usec % 1_000_000)
            }
            Mode::ShortUnix => format!("{}.{:06}", usec / 1_000_000, usec % 1_000_000),
            Mode::ShortIso => civil.iso() + &civil.numeric_zone(),
            Mode::ShortIsoPrecise => {
                format!("{}.{:06}{}", civil.iso(), civil.micro, civil.numeric_zone())
            }
            Mode::ShortPrecise => format!("{}.{:06}", civil.short(), civil.micro),
            Mode::ShortFull | Mode::WithUnit => civil.full(false),
            _ => civil.short(),
        }
    }

    fn colors(&self, entry: &Entry) -> (&'static str, &'static str) {
        let off = "\x1b[0m";
        match entry.get("PRIORITY").and_then(|p| p.first()) {
            _ if !self.color => ("", ""),
            Some(b'0'..=b'3') => ("\x1b[0;1;31m", off),
            Some(b'4') => ("\x1b[0;1;38;5;185m", off),
            Some(b'5') => ("\x1b[0;1;39m", off),
            Some(b'7') => ("\x1b[0;38;5;245m", off),
            _ => ("", ""),
        }
    }
}

/// When the sender made the entry, if known, else when it was stored.
fn realtime(entry: &Entry) -> u64 {
    number(entry, "_SOURCE_REALTIME_TIMESTAMP").unwrap_or(entry.meta.realtime)
}

fn number(entry: &Entry, name: &str) -> Option<u64> {
    std::str::from_utf8(entry.get(name)?).ok()?.parse().ok()
}

fn addresses(entry: &Entry) -> [(&'static str, String); 3] {
    [
        ("__CURSOR", Cursor(entry.meta).to_string()),
        ("__REALTIME_TIMESTAMP", entry.meta.realtime.to_string()),
        ("__MONOTONIC_TIMESTAMP", entry.meta.monotonic.to_string()),
    ]
}

fn parts(field: &[u8]) -> (String, &[u8]) {
    let at = field.iter().position(|b| *b == b'=').unwrap_or(field.len());
    (
        String::from_utf8_lossy(&field[..at]).into_owned(),
        field.get(at + 1..).unwrap_or_default(),
    )
}

/// UTF-8 without control characters but tab, and line breaks where allowed.
fn printable(value: &[u8], line_breaks: bool) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| {
        text.chars()
            .all(|c| !c.is_control() || c == '\t' || c == '\n' && line_breaks)
    })
}

fn blob(value: &[u8]) -> String {
    let len = value.len();
    match len {
        0..1024 => format!("[{len}B blob data]"),
        1024..1_048_576 => format!("[{:.1}K blob data]", len as f64 / 1024.0),
        _ => format!("[{:.1}M blob data]", len as f64 / 1_048_576.0),
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::{Id128, Meta};

    fn entry(fields: &[&[u8]]) -> Entry {
        let meta = Meta {
            seqnum_id: Id128([1; 16]),
            seqnum: 10,
            realtime: 1_795_229_295_073_203,
            monotonic: 4_132_816_519,
            boot_id: Id128([2; 16]),
            xor_hash: 3,
        };
        Entry {
            meta,
            fields: fields.iter().map(|f| f.to_vec()).collect(),
        }
    }

    #[track_caller]
    fn check(mode: Mode, fields: &[&[u8]], want: &str) {
        let style = Style {
            mode,
            all: false,
            no_hostname: false,
            color: false,
            zone: Zone::utc(),
            fields: Vec::new(),
        };
        let mut out = Vec::new();
        style.entry(&entry(fields), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    const FIELDS: &[&[u8]] = &[
        b"_HOSTNAME=vm",
        b"SYSLOG_IDENTIFIER=app",
        b"_PID=7",
        b"MESSAGE=a\nb",
    ];

    #[test]
    fn short_lines_are_those_of_the_original() {
        check(
            Mode::Short,
            FIELDS,
            "Nov 21 02:48:15 vm app[7]: a\n                           b\n",
        );
        check(
            Mode::ShortMonotonic,
            &[b"_HOSTNAME=vm", b"_COMM=x", b"MESSAGE=\xff\xff"],
            "[ 4132.816519] vm x: [2B blob data]\n",
        );
        check(Mode::Cat, FIELDS, "a\nb\n");
        check(Mode::Short, &[b"X=1"], "");
    }

    #[test]
    fn json_has_strings_arrays_and_nulls() {
        let long = [b"LONG=".as_slice(), &[b'x'; 5000]].concat();
        let fields: &[&[u8]] = &[b"MESSAGE=\"q\"\n", b"X=1", b"X=2", b"B=\x01\xff", &long];
        let head = "{\"__CURSOR\":\"s=01010101010101010101010101010101;i=a;b=02020202020202020202020202020202;m=f6558887;t=660c0646c57b3;x=3\",\"__REALTIME_TIMESTAMP\":\"1795229295073203\",\"__MONOTONIC_TIMESTAMP\":\"4132816519\",\"_BOOT_ID\":\"02020202020202020202020202020202\"";
        let head = head.replace("m=f6558887", &format!("m={:x}", 4_132_816_519u64));
        check(
            Mode::Json,
            fields,
            &format!(
                "{head},\"MESSAGE\":\"\\\"q\\\"\\n\",\"X\":[\"1\",\"2\"],\"B\":[1,255],\"LONG\":null}}\n"
            ),
        );
    }
}
