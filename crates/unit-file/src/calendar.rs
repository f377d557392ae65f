//! Calendar expressions (`OnCalendar=`): parse, normalise, next elapse. Pure; times are UTC.
//!
//! Grammar: `[WEEKDAYS] [Y-M-D] [h:m[:s]] [UTC]` or a shorthand such as `daily`. Each number is a list of
//! values, ranges `a..b`, and steps `a/n`; `M~D` counts days from the end of the month.

use std::fmt;

use serde::{Deserialize, Serialize};

const USEC: u64 = 1_000_000;

/// One element of a field: `start[..stop][/step]`, in the field's unit (seconds in microseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    start: u32,
    stop: Option<u32>,
    step: u32,
}

/// A parsed calendar expression.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Calendar {
    /// Bit per weekday, Monday lowest; 0 = any.
    weekdays: u8,
    /// Empty = any, for all of these.
    years: Vec<Part>,
    months: Vec<Part>,
    days: Vec<Part>,
    /// Days count from the end of the month.
    end_of_month: bool,
    hours: Vec<Part>,
    minutes: Vec<Part>,
    /// In microseconds.
    seconds: Vec<Part>,
    utc: bool,
}

/// Why an expression is not a calendar expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a calendar expression: {reason}")]
pub struct CalendarError {
    /// The expression.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

const DAY_NAMES: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];
const DAY_SHORT: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl Calendar {
    /// Parses an expression.
    pub fn parse(text: &str) -> Result<Calendar, CalendarError> {
        Self::parse_inner(text.trim()).map_err(|reason| CalendarError {
            text: text.to_owned(),
            reason,
        })
    }

    fn parse_inner(text: &str) -> Result<Calendar, &'static str> {
        let lower = text.to_ascii_lowercase();
        let short = match lower.as_str() {
            "" => return Err("it is empty"),
            "minutely" => Some("*-*-* *:*:00"),
            "hourly" => Some("*-*-* *:00:00"),
            "daily" => Some("*-*-* 00:00:00"),
            "weekly" => Some("Mon *-*-* 00:00:00"),
            "monthly" => Some("*-*-01 00:00:00"),
            "quarterly" => Some("*-01,04,07,10-01 00:00:00"),
            "semiannually" | "biannually" | "bi-annually" | "semi-annually" => {
                Some("*-01,07-01 00:00:00")
            }
            "yearly" | "annually" => Some("*-01-01 00:00:00"),
            _ => None,
        };
        let mut cal = Calendar::default();
        let mut words: Vec<&str> = short.unwrap_or(text).split_whitespace().collect();
        if words.last().is_some_and(|w| w.eq_ignore_ascii_case("utc")) {
            words.pop();
            cal.utc = true;
        }
        let mut words = words.into_iter().peekable();
        if let Some(word) = words
            .peek()
            .filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic()))
        {
            cal.weekdays = parse_weekdays(word)?;
            words.next();
        }
        let mut time_seen = false;
        let mut date_seen = false;
        for word in words {
            if word.contains(':') && !time_seen {
                cal.parse_time(word)?;
                time_seen = true;
            } else if !date_seen && !time_seen {
                cal.parse_date(word)?;
                date_seen = true;
            } else {
                return Err("a word too many, or an unknown time zone (only UTC is known)");
            }
        }
        if !time_seen {
            cal.hours = vec![Part::single(0)];
            cal.minutes = vec![Part::single(0)];
            cal.seconds = vec![Part::single(0)];
        }
        Ok(cal)
    }

    fn parse_time(&mut self, word: &str) -> Result<(), &'static str> {
        let parts: Vec<&str> = word.split(':').collect();
        if parts.len() > 3 {
            return Err("a time has at most three parts");
        }
        self.hours = parse_field(parts[0], 0, 23)?;
        self.minutes = parse_field(parts[1], 0, 59)?;
        self.seconds = match parts.get(2) {
            Some(s) => parse_seconds(s)?,
            None => vec![Part::single(0)],
        };
        Ok(())
    }

    fn parse_date(&mut self, word: &str) -> Result<(), &'static str> {
        if word.starts_with('@') {
            return Err("seconds since the epoch are not supported");
        }
        let (front, day) = match word.rsplit_once(['-', '~']) {
            Some(pair) => pair,
            None if word == "*" => return Ok(()),
            None => return Err("a date needs at least month and day"),
        };
        self.end_of_month = word.as_bytes().get(front.len()) == Some(&b'~');
        self.days = parse_field(day, 1, 31)?;
        match front.split_once('-') {
            Some((year, month)) => {
                self.years = parse_field(year, 1970, 2199)?;
                self.months = parse_field(month, 1, 12)?;
            }
            None => self.months = parse_field(front, 1, 12)?,
        }
        Ok(())
    }

    /// The first moment strictly after `after` (microseconds since 1970) that matches, if any before 2200.
    pub fn next_after(&self, after: u64) -> Option<u64> {
        let start = after.checked_add(1)?;
        let mut day = i64::try_from(start / (86_400 * USEC)).ok()?;
        let mut in_day = start % (86_400 * USEC);
        // A leap-day rule on one weekday repeats within 40 years; 230 years cover the range of years.
        for _ in 0..230 * 366 {
            let (y, m, d) = civil_from_days(day);
            if y > 2199 {
                return None;
            }
            if !matches(&self.years, y) {
                day = days_from_civil(y + 1, 1, 1);
                in_day = 0;
                continue;
            }
            if !matches(&self.months, m) {
                let (ny, nm) = if m == 12 { (y + 1, 1) } else { (y, m + 1) };
                day = days_from_civil(ny, nm, 1);
                in_day = 0;
                continue;
            }
            if self.day_matches(day, y, m, d)
                && let Some(t) = self.next_in_day(in_day)
            {
                return Some(u64::try_from(day).ok()? * 86_400 * USEC + t);
            }
            day += 1;
            in_day = 0;
        }
        None
    }

    fn day_matches(&self, day: i64, y: u32, m: u32, d: u32) -> bool {
        let weekday = (day + 3).rem_euclid(7);
        if self.weekdays != 0 && self.weekdays & (1 << weekday) == 0 {
            return false;
        }
        let d = if self.end_of_month {
            days_in_month(y, m) - d + 1
        } else {
            d
        };
        matches(&self.days, d)
    }

    /// The first matching time of day at or after `from`.
    fn next_in_day(&self, from: u64) -> Option<u64> {
        let minute_usec = 60 * USEC;
        let mut minute = from / minute_usec;
        let mut rest = from % minute_usec;
        while minute < 24 * 60 {
            let (h, m) = ((minute / 60) as u32, (minute % 60) as u32);
            if !matches(&self.hours, h) {
                minute = (minute / 60 + 1) * 60;
                rest = 0;
                continue;
            }
            if matches(&self.minutes, m)
                && let Some(s) = next_value(&self.seconds, rest as u32, 60 * USEC as u32 - 1)
            {
                return Some(minute * minute_usec + u64::from(s));
            }
            minute += 1;
            rest = 0;
        }
        None
    }
}

impl Part {
    fn single(value: u32) -> Part {
        Part {
            start: value,
            stop: None,
            step: 0,
        }
    }

    fn contains(self, value: u32) -> bool {
        if self.step == 0 {
            return value >= self.start && value <= self.stop.unwrap_or(self.start);
        }
        value >= self.start
            && self.stop.is_none_or(|s| value <= s)
            && (value - self.start).is_multiple_of(self.step)
    }

    /// The first value of this part at or after `from`, at most `max`.
    fn first_from(self, from: u32, max: u32) -> Option<u32> {
        let stop = match (self.step, self.stop) {
            (0, stop) => stop.unwrap_or(self.start),
            (_, stop) => stop.unwrap_or(max),
        };
        if from <= self.start {
            return (self.start <= stop.min(max)).then_some(self.start);
        }
        let value = match self.step {
            0 => from,
            step => self.start + (from - self.start).div_ceil(step) * step,
        };
        (value <= stop.min(max)).then_some(value)
    }
}

fn matches(parts: &[Part], value: u32) -> bool {
    parts.is_empty() || parts.iter().any(|p| p.contains(value))
}

fn next_value(parts: &[Part], from: u32, max: u32) -> Option<u32> {
    if parts.is_empty() {
        // Seconds as `*` mean whole seconds.
        let next = from.div_ceil(USEC as u32) * USEC as u32;
        return (next <= max).then_some(next);
    }
    parts.iter().filter_map(|p| p.first_from(from, max)).min()
}

fn weekday(word: &str) -> Result<u32, &'static str> {
    let lower = word.to_ascii_lowercase();
    DAY_NAMES
        .iter()
        .position(|d| *d == lower || d[..3] == *lower)
        .map(|i| i as u32)
        .ok_or("unknown weekday or word")
}

fn parse_weekdays(word: &str) -> Result<u8, &'static str> {
    let mut bits = 0u8;
    for item in word.split(',').filter(|i| !i.is_empty()) {
        let range = item.split_once("..").or_else(|| item.split_once('-'));
        match range {
            None => bits |= 1 << weekday(item)?,
            Some((a, b)) => {
                let (a, b) = (weekday(a)?, weekday(b)?);
                let mut d = a;
                bits |= 1 << d;
                while d != b {
                    d = (d + 1) % 7;
                    bits |= 1 << d;
                }
            }
        }
    }
    Ok(if bits == 0x7f { 0 } else { bits })
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, &'static str> {
    if text.is_empty() || text.len() > 4 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a number is expected");
    }
    let mut n: u32 = text.parse().map_err(|_| "a number is expected")?;
    if min == 1970 && n < 100 {
        n += if n < 70 { 2000 } else { 1900 };
    }
    if n < min || n > max {
        Err("a number is out of range")
    } else {
        Ok(n)
    }
}

fn parse_field(text: &str, min: u32, max: u32) -> Result<Vec<Part>, &'static str> {
    if text == "*" {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((r, s)) => (r, number(s, 1, max.max(1))?),
            None => (item, 0),
        };
        let (start, stop) = match range.split_once("..") {
            Some((a, b)) => (number(a, min, max)?, Some(number(b, min, max)?)),
            None if range == "*" => (min, Some(max)),
            None => (number(range, min, max)?, None),
        };
        if stop.is_some_and(|s| s < start) {
            return Err("a range ends before it begins");
        }
        out.push(Part { start, stop, step });
    }
    Ok(out)
}

fn seconds_value(text: &str) -> Result<u32, &'static str> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = number(whole, 0, 59)?;
    if fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a fraction of a second has at most six digits");
    }
    let padded = format!("{fraction:0<6}");
    Ok(whole * USEC as u32 + padded.parse::<u32>().map_err(|_| "a number is expected")?)
}

fn parse_seconds(text: &str) -> Result<Vec<Part>, &'static str> {
    if text == "*" {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for item in text.replace("..", "\u{1}").split(',') {
        let (range, step) = match item.split_once('/') {
            Some((r, s)) => (r, seconds_value(s)?),
            None => (item, 0),
        };
        if item.contains('/') && step == 0 {
            return Err("a step of zero");
        }
        let (start, stop) = match range.split_once('\u{1}') {
            Some((a, b)) => (seconds_value(a)?, Some(seconds_value(b)?)),
            None if range == "*" => (0, None),
            None => (seconds_value(range)?, None),
        };
        if stop.is_some_and(|s| s < start) {
            return Err("a range ends before it begins");
        }
        // A range of seconds without step means whole seconds.
        let step = if step == 0 && stop.is_some() {
            USEC as u32
        } else {
            step
        };
        out.push(Part { start, stop, step });
    }
    Ok(out)
}

fn write_field(f: &mut fmt::Formatter<'_>, parts: &[Part], width: usize, unit: u32) -> fmt::Result {
    if parts.is_empty() {
        return f.write_str("*");
    }
    let value = |f: &mut fmt::Formatter<'_>, v: u32| {
        write!(f, "{:0width$}", v / unit)?;
        if !v.is_multiple_of(unit) {
            write!(f, ".{:06}", v % unit)
        } else {
            Ok(())
        }
    };
    for (i, p) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(",")?;
        }
        value(f, p.start)?;
        if let Some(stop) = p.stop {
            f.write_str("..")?;
            value(f, stop)?;
        }
        if p.step > 0 && !(unit > 1 && p.stop.is_some() && p.step == unit) {
            f.write_str("/")?;
            write!(f, "{}", p.step / unit)?;
            if p.step % unit != 0 {
                write!(f, ".{:06}", p.step % unit)?;
            }
        }
    }
    Ok(())
}

impl fmt::Display for Calendar {
    /// The normalised form, which parses to the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weekdays != 0 {
            let days: Vec<&str> = (0..7)
                .filter(|d| self.weekdays & (1 << d) != 0)
                .map(|d| DAY_SHORT[d])
                .collect();
            write!(f, "{} ", days.join(","))?;
        }
        write_field(f, &self.years, 4, 1)?;
        f.write_str("-")?;
        write_field(f, &self.months, 2, 1)?;
        f.write_str(if self.end_of_month { "~" } else { "-" })?;
        write_field(f, &self.days, 2, 1)?;
        f.write_str(" ")?;
        write_field(f, &self.hours, 2, 1)?;
        f.write_str(":")?;
        write_field(f, &self.minutes, 2, 1)?;
        f.write_str(":")?;
        write_field(f, &self.seconds, 2, USEC as u32)?;
        if self.utc {
            f.write_str(" UTC")?;
        }
        Ok(())
    }
}

fn days_in_month(y: u32, m: u32) -> u32 {
    let leap = (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    match m {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days_from_civil(y: u32, m: u32, d: u32) -> i64 {
    let y = i64::from(y) - i64::from(m <= 2);
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let month = (i64::from(m) + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + i64::from(d) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (u32, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    let y = yoe + era * 400 + i64::from(m <= 2);
    (y as u32, m as u32, d as u32)
}

#[cfg(test)]
mod tests {
    use super::{Calendar, civil_from_days, days_from_civil};
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    fn at(y: u32, mo: u32, d: u32, h: u64, mi: u64, s: u64) -> u64 {
        (days_from_civil(y, mo, d) as u64 * 86_400 + h * 3600 + mi * 60 + s) * 1_000_000
    }

    #[test]
    fn next_elapse() {
        let base = at(2026, 11, 21, 1, 51, 30); // a Saturday
        for (text, want) in [
            ("daily", at(2026, 11, 22, 0, 0, 0)),
            ("hourly", at(2026, 11, 21, 2, 0, 0)),
            ("minutely", at(2026, 11, 21, 1, 52, 0)),
            ("weekly", at(2026, 11, 23, 0, 0, 0)),
            ("monthly", at(2026, 12, 1, 0, 0, 0)),
            ("yearly", at(2027, 1, 1, 0, 0, 0)),
            ("*:0/15", at(2026, 11, 21, 2, 0, 0)),
            ("*-*-* *:*:0/20", at(2026, 11, 21, 1, 51, 40)),
            ("Mon..Fri 04:30", at(2026, 11, 23, 4, 30, 0)),
            ("*-02-29", at(2028, 2, 29, 0, 0, 0)),
            ("*-*~01 12:00", at(2026, 11, 30, 12, 0, 0)),
            ("2030-1-1", at(2030, 1, 1, 0, 0, 0)),
            ("Sat *-*-21 01:51:31 UTC", at(2026, 11, 21, 1, 51, 31)),
        ] {
            let cal = Calendar::parse(text).unwrap();
            assert_eq!(cal.next_after(base), Some(want), "{text} = {cal}");
        }
        assert_eq!(
            Calendar::parse("2020-01-01").unwrap().next_after(base),
            None
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "foo",
            "25:00",
            "1:2:3:4",
            "*-13-01",
            "1..",
            "Mon..",
            "*-*-* 00:00 Europe/X",
        ] {
            assert!(Calendar::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn normalised() {
        for (text, want) in [
            ("daily", "*-*-* 00:00:00"),
            ("Mon,Tue 1:2", "Mon,Tue *-*-* 01:02:00"),
            ("*:0/15", "*-*-* *:00/15:00"),
        ] {
            assert_eq!(Calendar::parse(text).unwrap().to_string(), want);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_prints_itself(text in "[MonFri0-9*/.,:~ -]{0,24}", after in 0u64..6_000_000_000_000_000) {
            if let Ok(cal) = Calendar::parse(&text) {
                prop_assert_eq!(&Calendar::parse(&cal.to_string()).unwrap(), &cal);
                if let Some(next) = cal.next_after(after) {
                    prop_assert!(next > after);
                }
            }
        }

        #[test]
        fn days_round_trip(day in 0i64..84_000) {
            let (y, m, d) = civil_from_days(day);
            prop_assert_eq!(days_from_civil(y, m, d), day);
        }
    }
}
