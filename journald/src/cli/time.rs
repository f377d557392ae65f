//! Points in time as people write and read them. The zone and the present are arguments.

use tz::TimeZone;

const DAY: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A time zone.
#[derive(Debug, Clone)]
pub struct Zone(Option<TimeZone>);

/// A point in time taken apart for printing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as what they are")]
pub struct Civil {
    pub year: i64,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub micro: u32,
    pub weekday: usize,
    /// Seconds east of Greenwich.
    pub offset: i64,
    pub zone: String,
}

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(None)
    }

    /// The machine's (`TZ`, `/etc/localtime`), UTC when there is none.
    pub fn local() -> Self {
        let zone = match std::env::var("TZ") {
            Ok(name) if name.is_empty() => return Self::utc(),
            Ok(name) => TimeZone::from_posix_tz(&name),
            Err(_) => TimeZone::local(),
        };
        Self(zone.ok())
    }

    fn offset(&self, seconds: i64) -> (i64, String) {
        self.0
            .as_ref()
            .and_then(|zone| zone.find_local_time_type(seconds).ok())
            .map_or((0, "UTC".to_owned()), |kind| {
                let name = match kind.time_zone_designation() {
                    "" => "UTC",
                    name => name,
                };
                (i64::from(kind.ut_offset()), name.to_owned())
            })
    }

    /// Takes a time apart (microseconds since 1970).
    pub fn civil(&self, usec: u64) -> Civil {
        let seconds = (usec / 1_000_000) as i64;
        let (offset, zone) = self.offset(seconds);
        let local = seconds.saturating_add(offset);
        let (days, rest) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let (year, month, day) = date(days);
        Civil {
            year,
            month,
            day,
            hour: (rest / 3600) as u32,
            minute: (rest / 60 % 60) as u32,
            second: (rest % 60) as u32,
            micro: (usec % 1_000_000) as u32,
            weekday: (days + 4).rem_euclid(7) as usize,
            offset,
            zone,
        }
    }

    /// Microseconds since 1970 of a local date and time.
    fn instant(&self, days: i64, seconds: i64) -> Option<u64> {
        let local = days.checked_mul(DAY)?.checked_add(seconds)?;
        // The offset there may differ from the one here; twice is enough but for the hour that clocks leave out.
        let guess = local - self.offset(local).0;
        let instant = local - self.offset(guess).0;
        u64::try_from(instant).ok()?.checked_mul(1_000_000)
    }
}

impl Civil {
    /// `Nov 21 02:48:15`
    pub fn short(&self) -> String {
        let month = MONTHS[self.month as usize - 1];
        format!(
            "{month} {:02} {:02}:{:02}:{:02}",
            self.day, self.hour, self.minute, self.second
        )
    }

    /// `2026-11-21T02:48:15`
    pub fn iso(&self) -> String {
        let (y, m, d) = (self.year, self.month, self.day);
        format!(
            "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}",
            self.hour, self.minute, self.second
        )
    }

    /// `+0100`
    pub fn numeric_zone(&self) -> String {
        let sign = if self.offset < 0 { '-' } else { '+' };
        let minutes = self.offset.abs() / 60;
        format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
    }

    /// `Sat 2026-11-21 02:48:15[.073203] UTC`
    pub fn full(&self, micro: bool) -> String {
        let fraction = if micro {
            format!(".{:06}", self.micro)
        } else {
            String::new()
        };
        let iso = self.iso().replace('T', " ");
        format!("{} {iso}{fraction} {}", WEEKDAYS[self.weekday], self.zone)
    }
}

/// Days since 1970 of a date, by the proleptic Gregorian calendar.
fn days(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    } as u32;
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Reads a time: `2026-11-21 02:48:15`, `2026-11-21`, `02:48`, `now today yesterday tomorrow`, `@SECONDS`, `-1h`, `+5min`,
/// `1h ago`; `UTC` may stand behind a date and time. Gives microseconds since 1970.
pub fn parse(text: &str, now: u64, zone: &Zone) -> Option<u64> {
    let text = text.trim();
    let (text, zone) = match text.strip_suffix(" UTC") {
        Some(text) => (text.trim(), &Zone::utc()),
        None => (text, zone),
    };
    let today = days_of(zone, now);
    match text {
        "now" => return Some(now),
        "today" => return zone.instant(today, 0),
        "yesterday" => return zone.instant(today - 1, 0),
        "tomorrow" => return zone.instant(today + 1, 0),
        _ => {}
    }
    let span = crate::daemon::config::span;
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds: f64 = seconds.parse().ok()?;
        return (0.0..9e12)
            .contains(&seconds)
            .then(|| (seconds * 1e6).round() as u64);
    }
    if let Some(rest) = text.strip_prefix('-') {
        return span(rest).map(|s| now.saturating_sub(s));
    }
    if let Some(rest) = text.strip_prefix('+') {
        return span(rest).map(|s| now.saturating_add(s));
    }
    if let Some(rest) = text.strip_suffix(" ago") {
        return span(rest).map(|s| now.saturating_sub(s));
    }
    // A weekday in front says nothing new.
    let text = match text.split_once(' ') {
        Some((day, rest)) if WEEKDAYS.iter().any(|w| day.starts_with(w)) => rest.trim(),
        _ => text,
    };
    let text = text.replace('T', " ");
    let (day, clock) = match text.split_once(' ') {
        Some((day, clock)) => (parse_date(day)?, parse_clock(clock.trim())?),
        None if text.contains(':') => (today, parse_clock(&text)?),
        None => (parse_date(&text)?, (0, 0)),
    };
    zone.instant(day, clock.0)?.checked_add(clock.1)
}

fn days_of(zone: &Zone, usec: u64) -> i64 {
    let civil = zone.civil(usec);
    days(civil.year, civil.month, civil.day)
}

fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: u32 = parts.next()?.parse().ok()?;
    let day: u32 = parts.next()?.parse().ok()?;
    let valid = parts.next().is_none()
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (1970..=9999).contains(&year);
    // A day that the month does not have turns up in the next one.
    valid
        .then(|| days(year, month, day))
        .filter(|d| date(*d) == (year, month, day))
}

/// Seconds, and microseconds beyond.
fn parse_clock(text: &str) -> Option<(i64, u64)> {
    let mut parts = text.split(':');
    let hour: i64 = parts.next()?.parse().ok()?;
    let minute: i64 = parts.next()?.parse().ok()?;
    let second: f64 = parts.next().map_or(Some(0.0), |s| s.parse().ok())?;
    let valid = parts.next().is_none()
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second);
    valid.then(|| {
        let micro = (second.fract() * 1e6).round() as u64;
        (hour * 3600 + minute * 60 + second.trunc() as i64, micro)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_795_229_295_073_203; // Sat 2026-11-21 02:48:15.073203 UTC

    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        let got = parse(text, NOW, &Zone::utc()).map(|t| Zone::utc().civil(t).full(true));
        assert_eq!(got.as_deref(), want, "{text}");
    }

    #[test]
    fn times_are_understood() {
        check("now", Some("Sat 2026-11-21 02:48:15.073203 UTC"));
        check("today", Some("Sat 2026-11-21 00:00:00.000000 UTC"));
        check("yesterday", Some("Fri 2026-11-20 00:00:00.000000 UTC"));
        check("-1h", Some("Sat 2026-11-21 01:48:15.073203 UTC"));
        check("30min ago", Some("Sat 2026-11-21 02:18:15.073203 UTC"));
        check("2024-02-29", Some("Thu 2024-02-29 00:00:00.000000 UTC"));
        check(
            "2024-02-29 12:30",
            Some("Thu 2024-02-29 12:30:00.000000 UTC"),
        );
        check(
            "2024-02-29T12:30:05.25",
            Some("Thu 2024-02-29 12:30:05.250000 UTC"),
        );
        check(
            "Thu 2024-02-29 12:30:05 UTC",
            Some("Thu 2024-02-29 12:30:05.000000 UTC"),
        );
        check("01:02", Some("Sat 2026-11-21 01:02:00.000000 UTC"));
        check("@1700000000", Some("Tue 2023-11-14 22:13:20.000000 UTC"));
        for bad in [
            "",
            "nosuch",
            "2023-02-29",
            "25:00",
            "2024-13-01",
            "@x",
            "-x",
            "1-2-3-4",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn forms_are_those_of_the_original() {
        let civil = Zone::utc().civil(NOW);
        assert_eq!(civil.short(), "Nov 21 02:48:15");
        assert_eq!(
            civil.iso() + &civil.numeric_zone(),
            "2026-11-21T02:48:15+0000"
        );
        assert_eq!(civil.full(false), "Sat 2026-11-21 02:48:15 UTC");
    }

    #[test]
    fn other_zones_shift_both_ways() {
        let zone = Zone(TimeZone::from_posix_tz("CET-1CEST,M3.5.0,M10.5.0/3").ok());
        assert!(zone.0.is_some());
        let civil = zone.civil(NOW);
        assert_eq!(civil.full(false), "Sat 2026-11-21 03:48:15 CET");
        assert_eq!(civil.numeric_zone(), "+0100");
        let summer = parse("2026-07-01 12:00", NOW, &zone).expect("valid");
        assert_eq!(
            zone.civil(summer).full(false),
            "Wed 2026-07-01 12:00:00 CEST"
        );
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(seconds in 0u64..4_000_000_000) {
            let text = Zone::utc().civil(seconds * 1_000_000).full(false);
            prop_assert_eq!(parse(&text, NOW, &Zone::utc()), Some(seconds * 1_000_000));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,30}", now in 0u64..u64::MAX / 4) {
            let _ = parse(&text, now, &Zone::utc());
        }
    }
}
