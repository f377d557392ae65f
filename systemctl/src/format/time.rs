//! Moments and spans of time as text; the local time zone from its file.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 2_629_800 * SECOND;
const YEAR: u64 = 31_557_600 * SECOND;

/// Now, in microseconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Now on the monotonic clock, in microseconds.
pub(crate) fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * SECOND
        + u64::try_from(now.tv_nsec).unwrap_or_default() / 1000
}

/// A time zone: moments from which an offset holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    transitions: Vec<(i64, usize)>,
    types: Vec<(i64, String)>,
}

impl Zone {
    /// The zone of `TZ`, else of `/etc/localtime`, else UTC.
    pub(crate) fn local() -> Self {
        let path = match std::env::var("TZ") {
            Ok(name) if name == "UTC" || name.is_empty() => return Self::default(),
            Ok(name) => {
                let name = name.strip_prefix(':').unwrap_or(&name).to_owned();
                if name.starts_with('/') {
                    name
                } else {
                    format!("/usr/share/zoneinfo/{name}")
                }
            }
            Err(_) => "/etc/localtime".to_owned(),
        };
        fs::read(path)
            .ok()
            .and_then(|bytes| Self::parse(&bytes))
            .unwrap_or_default()
    }

    /// Parse a TZif file; none where it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let first = Header::parse(bytes)?;
        if first.version == 0 {
            return first.body(bytes, 44, 4);
        }
        let second = 44 + first.size(4);
        let header = Header::parse(bytes.get(second..)?)?;
        header.body(bytes, second + 44, 8)
    }

    /// Offset in seconds at a moment (seconds since 1970).
    pub(crate) fn offset(&self, seconds: i64) -> i64 {
        self.at(seconds).0
    }

    /// Offset in seconds and name at a moment (seconds since 1970).
    fn at(&self, seconds: i64) -> (i64, &str) {
        let index = self.transitions.partition_point(|(at, _)| *at <= seconds);
        let kind = index
            .checked_sub(1)
            .map_or(0, |index| self.transitions[index].1);
        self.types
            .get(kind)
            .map_or((0, "UTC"), |(offset, name)| (*offset, name.as_str()))
    }
}

struct Header {
    version: u8,
    isut: usize,
    isstd: usize,
    leap: usize,
    time: usize,
    kinds: usize,
    chars: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..4)? != b"TZif" {
            return None;
        }
        let count = |index: usize| {
            let at = 20 + 4 * index;
            Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
        };
        let header = Self {
            version: *bytes.get(4)?,
            isut: count(0)?,
            isstd: count(1)?,
            leap: count(2)?,
            time: count(3)?,
            kinds: count(4)?,
            chars: count(5)?,
        };
        let largest = [
            header.isut,
            header.isstd,
            header.leap,
            header.time,
            header.kinds,
            header.chars,
        ]
        .into_iter()
        .max()?;
        (largest <= bytes.len()).then_some(header)
    }

    fn size(&self, width: usize) -> usize {
        self.time * (width + 1)
            + self.kinds * 6
            + self.chars
            + self.leap * (width + 4)
            + self.isstd
            + self.isut
    }

    fn body(&self, bytes: &[u8], at: usize, width: usize) -> Option<Zone> {
        let times = bytes.get(at..at + self.time * width)?;
        let indices = bytes.get(at + self.time * width..)?.get(..self.time)?;
        let kinds_at = at + self.time * (width + 1);
        let kinds = bytes.get(kinds_at..kinds_at + self.kinds * 6)?;
        let chars = bytes.get(kinds_at + self.kinds * 6..)?.get(..self.chars)?;
        let types: Vec<(i64, String)> = kinds
            .chunks_exact(6)
            .map(|kind| {
                let offset = i32::from_be_bytes(kind[..4].try_into().ok()?);
                let name = chars
                    .get(usize::from(kind[5])..)?
                    .split(|byte| *byte == 0)
                    .next()?;
                Some((
                    i64::from(offset),
                    String::from_utf8_lossy(name).into_owned(),
                ))
            })
            .collect::<Option<_>>()?;
        let transitions = times
            .chunks_exact(width)
            .zip(indices)
            .map(|(time, index)| {
                let at = if width == 8 {
                    i64::from_be_bytes(time.try_into().ok()?)
                } else {
                    i64::from(i32::from_be_bytes(time.try_into().ok()?))
                };
                Some((at, usize::from(*index)))
            })
            .collect::<Option<_>>()?;
        Some(Zone { transitions, types })
    }
}

/// `Tue 2026-11-10 12:00:00 UTC`; empty for never.
pub(crate) fn timestamp(usec: u64, zone: &Zone) -> String {
    if usec == 0 || usec == u64::MAX {
        return String::new();
    }
    let seconds = i64::try_from(usec / SECOND).unwrap_or(i64::MAX);
    let (offset, name) = zone.at(seconds);
    let local = seconds.saturating_add(offset);
    let (days, of_day) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
        [usize::try_from(days.rem_euclid(7)).unwrap_or(0)];
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{weekday} {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} {name}")
}

/// Year, month, day of a day counted from 1970-01-01 (proleptic Gregorian).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let index = (5 * day_of_year + 2) / 153;
    let month = if index < 10 { index + 3 } else { index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * index + 2) / 5 + 1)
}

/// `2h 3min ago`, `1 week 4 days ago`, `5min left`.
pub(crate) fn relative(usec: u64, now: u64) -> String {
    let (span, word) = if usec > now {
        (usec - now, "left")
    } else {
        (now - usec, "ago")
    };
    let plural =
        |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    let text = if span >= YEAR {
        format!(
            "{} {}",
            plural(span / YEAR, "year"),
            plural(span % YEAR / MONTH, "month")
        )
    } else if span >= MONTH {
        format!(
            "{} {}",
            plural(span / MONTH, "month"),
            plural(span % MONTH / DAY, "day")
        )
    } else if span >= WEEK {
        format!(
            "{} {}",
            plural(span / WEEK, "week"),
            plural(span % WEEK / DAY, "day")
        )
    } else if span >= 2 * DAY {
        plural(span / DAY, "day")
    } else if span >= 25 * HOUR {
        format!("1 day {}h", (span - DAY) / HOUR)
    } else if span >= 6 * HOUR {
        format!("{}h", span / HOUR)
    } else if span >= HOUR {
        format!("{}h {}min", span / HOUR, span % HOUR / MINUTE)
    } else if span >= 5 * MINUTE {
        format!("{}min", span / MINUTE)
    } else if span >= MINUTE {
        format!("{}min {}s", span / MINUTE, span % MINUTE / SECOND)
    } else if span >= SECOND {
        format!("{}s", span / SECOND)
    } else if span >= 1000 {
        format!("{}ms", span / 1000)
    } else if span > 0 {
        format!("{span}us")
    } else {
        return "now".to_owned();
    };
    format!("{text} {word}")
}

/// `1min 30s`, `100ms`; with an accuracy of a millisecond also `1.500s`.
pub(crate) fn span(usec: u64, accuracy: u64) -> String {
    const UNITS: [(&str, u64); 9] = [
        ("y", YEAR),
        ("month", MONTH),
        ("w", WEEK),
        ("d", DAY),
        ("h", HOUR),
        ("min", MINUTE),
        ("s", SECOND),
        ("ms", 1000),
        ("us", 1),
    ];
    if usec == u64::MAX {
        return "infinity".to_owned();
    }
    if usec == 0 {
        return "0".to_owned();
    }
    let mut rest = usec;
    let mut parts: Vec<String> = Vec::new();
    for (name, size) in UNITS {
        if rest == 0 || (rest < accuracy && !parts.is_empty()) {
            break;
        }
        if rest < size {
            continue;
        }
        let (whole, below) = (rest / size, rest % size);
        // Below a minute a fraction says the rest, as far as the accuracy goes.
        if rest < MINUTE && below > 0 && size > 1 {
            let mut digits = size.ilog10() as usize;
            let mut fraction = below;
            let mut unit = 1;
            while unit < accuracy && digits > 0 {
                fraction /= 10;
                unit *= 10;
                digits -= 1;
            }
            if digits > 0 && fraction > 0 {
                parts.push(format!("{whole}.{fraction:0digits$}{name}"));
                return parts.join(" ");
            }
        }
        parts.push(format!("{whole}{name}"));
        rest = below;
    }
    parts.join(" ")
}

/// `4.0M`
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("P", 1 << 50),
        ("T", 1 << 40),
        ("G", 1 << 30),
        ("M", 1 << 20),
        ("K", 1 << 10),
    ];
    for (name, size) in UNITS {
        if count >= size {
            let tenths = (count % size) * 10 / size;
            return format!("{}.{tenths}{name}", count / size);
        }
    }
    format!("{count}B")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans() {
        for (usec, accuracy, expect) in [
            (0, 1, "0"),
            (100_000, 1, "100ms"),
            (90 * SECOND, 1, "1min 30s"),
            (1_500_000, 1000, "1.500s"),
            (1_500_123, 1000, "1.500s"),
            (45_678, 1000, "45ms"),
            (62 * SECOND + 345_678, 1000, "1min 2.345s"),
            (u64::MAX, 1, "infinity"),
            (2 * DAY + 3 * HOUR, 1, "2d 3h"),
        ] {
            assert_eq!(span(usec, accuracy), expect, "{usec}");
        }
    }

    #[test]
    fn moments() {
        let zone = Zone::default();
        assert_eq!(
            timestamp(1_794_312_000 * SECOND, &zone),
            "Tue 2026-11-10 12:00:00 UTC"
        );
        assert_eq!(
            timestamp(951_782_400 * SECOND, &zone),
            "Tue 2000-02-29 00:00:00 UTC"
        );
        assert_eq!(timestamp(0, &zone), "");
        assert_eq!(relative(0, 11 * DAY), "1 week 4 days ago");
        assert_eq!(relative(0, 90 * SECOND), "1min 30s ago");
        assert_eq!(relative(2 * HOUR, 0), "2h 0min left");
        assert_eq!(bytes(4 << 20), "4.0M");
        assert_eq!(bytes(1000), "1000B");
    }

    #[test]
    fn zone_file() {
        let mut file = Vec::new();
        let header = |file: &mut Vec<u8>, times: u32, kinds: u32, chars: u32| {
            file.extend_from_slice(b"TZif2");
            file.extend_from_slice(&[0; 15]);
            for count in [0, 0, 0, times, kinds, chars] {
                file.extend_from_slice(&u32::to_be_bytes(count));
            }
        };
        header(&mut file, 0, 1, 4);
        file.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
        file.extend_from_slice(b"UTC\0");
        header(&mut file, 1, 2, 9);
        file.extend_from_slice(&1_000_000_000_i64.to_be_bytes());
        file.push(1);
        file.extend_from_slice(&[0, 0, 0x0e, 0x10, 0, 0, 0, 0, 0x1c, 0x20, 1, 4]);
        file.extend_from_slice(b"CET\0CEST\0");
        let zone = Zone::parse(&file).unwrap();
        assert_eq!(
            timestamp(900_000_000 * SECOND, &zone),
            "Thu 1998-07-09 17:00:00 CET"
        );
        assert_eq!(
            timestamp(1_000_000_000 * SECOND, &zone),
            "Sun 2001-09-09 03:46:40 CEST"
        );
    }

    proptest! {
        #[test]
        fn never_panics(usec in any::<u64>(), other in any::<u64>(), noise in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (timestamp(usec, &Zone::default()), relative(usec, other), span(usec, 1), span(usec, 1000), bytes(usec));
            let _ = Zone::parse(&[&b"TZif2"[..], &noise].concat());
        }
    }
}
