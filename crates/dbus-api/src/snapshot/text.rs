//! Texts of settings to numbers. Forgiving: what does not parse counts as not set, for PID 1 has refused it already.

use unit_file::capability;

/// A boolean of a unit file.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// A time span in microseconds; a bare number is seconds, `infinity` is the largest number.
pub(super) fn microseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "infinity" {
        return Some(u64::MAX);
    }
    let mut rest = text;
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len());
        let unit: f64 = match &rest[..letters] {
            "us" | "usec" | "µs" | "μs" => 1.0,
            "ms" | "msec" => 1e3,
            "" | "s" | "sec" | "second" | "seconds" => 1e6,
            "m" | "min" | "minute" | "minutes" => 60e6,
            "h" | "hr" | "hour" | "hours" => 3600e6,
            "d" | "day" | "days" => 86_400e6,
            "w" | "week" | "weeks" => 7.0 * 86_400e6,
            "M" | "month" | "months" => 30.4375 * 86_400e6,
            "y" | "year" | "years" => 365.25 * 86_400e6,
            _ => return None,
        };
        total += number * unit;
        rest = rest[letters..].trim_start();
    }
    (!text.is_empty()).then_some(total as u64)
}

/// A size in bytes with K, M, G, T (1024); `infinity` is the largest number. Percentages are not known here.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "infinity" {
        return Some(u64::MAX);
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        "T" | "TB" => 1 << 40,
        "P" => 1 << 50,
        _ => return None,
    };
    Some((number * factor as f64) as u64)
}

/// An octal mode.
pub(super) fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim(), 8).ok()
}

/// Words, quotes taken off.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, '\\') => word
                .get_or_insert_default()
                .push(chars.next().unwrap_or('\\')),
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// A set of capabilities as bits, from the values of the setting in order; a leading `~` takes away.
pub(super) fn capabilities<'a>(values: impl Iterator<Item = &'a str>, unset: u64) -> u64 {
    let mut set = None;
    for value in values {
        let (inverted, names) = value
            .trim()
            .strip_prefix('~')
            .map_or((false, value), |names| (true, names));
        let mut bits = 0_u64;
        for name in names.split_whitespace() {
            if let Some(number) = capability::number(name) {
                bits |= 1 << number;
            }
        }
        let before = set.unwrap_or(if inverted { unset } else { 0 });
        set = Some(if inverted {
            before & !bits
        } else {
            before | bits
        });
    }
    set.unwrap_or(unset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans() {
        for (text, expect) in [
            ("5", Some(5_000_000)),
            ("1min 30s", Some(90_000_000)),
            ("1h30", Some(3_630_000_000)),
            ("100ms", Some(100_000)),
            ("1.5s", Some(1_500_000)),
            ("infinity", Some(u64::MAX)),
            ("", None),
            ("5 parsecs", None),
        ] {
            assert_eq!(microseconds(text), expect, "{text}");
        }
    }

    #[test]
    fn others() {
        assert_eq!(bytes("1G"), Some(1 << 30));
        assert_eq!(bytes("50%"), None);
        assert_eq!(words("A=b 'C=d e' \"F=\\\"g\""), ["A=b", "C=d e", "F=\"g"]);
        assert_eq!(
            capabilities(["CAP_CHOWN CAP_KILL"].into_iter(), capability::ALL),
            0b10_0001
        );
        assert_eq!(
            capabilities(["~CAP_CHOWN"].into_iter(), capability::ALL),
            capability::ALL - 1
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,30}") {
            let _ = (microseconds(&text), bytes(&text), mode(&text), words(&text));
            let _ = capabilities(std::iter::once(text.as_str()), 0);
        }
    }
}
