//! Scalar values: booleans, time spans, sizes, signals, modes, quoted words.

use crate::settings::{Amount, INFINITY, Usec};

/// A boolean in any of systemd's spellings.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

const SPAN_UNITS: [(&str, u64); 29] = [
    ("seconds", 1_000_000),
    ("second", 1_000_000),
    ("sec", 1_000_000),
    ("s", 1_000_000),
    ("minutes", 60_000_000),
    ("minute", 60_000_000),
    ("min", 60_000_000),
    ("months", 2_629_800_000_000),
    ("month", 2_629_800_000_000),
    ("M", 2_629_800_000_000),
    ("msec", 1_000),
    ("ms", 1_000),
    ("m", 60_000_000),
    ("hours", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("hr", 3_600_000_000),
    ("h", 3_600_000_000),
    ("days", 86_400_000_000),
    ("day", 86_400_000_000),
    ("d", 86_400_000_000),
    ("weeks", 604_800_000_000),
    ("week", 604_800_000_000),
    ("w", 604_800_000_000),
    ("years", 31_557_600_000_000),
    ("year", 31_557_600_000_000),
    ("y", 31_557_600_000_000),
    ("usec", 1),
    ("us", 1),
    ("µs", 1),
];

/// A time span; a number without unit is in `default_unit` microseconds.
pub fn parse_span_with(text: &str, default_unit: u64) -> Option<Usec> {
    let mut rest = text.trim();
    if rest == "infinity" {
        return Some(INFINITY);
    }
    let mut total: u64 = 0;
    let mut any = false;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || number == "." || fraction.contains('.') {
            return None;
        }
        let after = after.trim_start();
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c.is_whitespace() || c == '.')
            .unwrap_or(after.len());
        let (word, next) = after.split_at(unit_end);
        let unit = match word {
            "" => default_unit,
            w => SPAN_UNITS.iter().find(|(n, _)| *n == w)?.1,
        };
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total = total.checked_add(u64::from(digit - b'0') * scale)?;
        }
        any = true;
        rest = next.trim_start();
    }
    any.then_some(total)
}

/// A time span in microseconds; a number without unit is in seconds.
pub fn parse_span(text: &str) -> Option<Usec> {
    parse_span_with(text, 1_000_000)
}

/// A size in bytes with `K M G T P E` of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    parse_scaled(text, 1024)
}

/// A size with `K M G T P E` of 1000 (bandwidths).
pub fn parse_size_si(text: &str) -> Option<u64> {
    parse_scaled(text, 1000)
}

fn parse_scaled(text: &str, base: u64) -> Option<u64> {
    let text = text.trim();
    if text == "infinity" || text == "max" {
        return Some(u64::MAX);
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let suffix = suffix.trim().trim_end_matches("iB").trim_end_matches('B');
    let power = match suffix {
        "" => 0,
        "K" | "k" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return None,
    };
    let factor = base.checked_pow(power)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let digits: u64 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part = u128::from(digits) * u128::from(factor) / 10u128.pow(fraction.len() as u32);
    let value = value.checked_add(u64::try_from(part).ok()?)?;
    Some(value)
}

/// Hundredths of a percent: `15%`, `12.5%`, `2.55%`.
pub fn parse_permyriad(text: &str) -> Option<u32> {
    let text = text.trim().strip_suffix('%')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 2 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded = format!("{fraction:0<2}");
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(padded.parse().ok()?)
}

/// A bound: a size, a percentage up to 100 %, or `infinity`.
pub fn parse_amount(text: &str) -> Option<Amount> {
    if text.trim() == "infinity" {
        return Some(Amount::Infinity);
    }
    if text.trim_end().ends_with('%') {
        return parse_permyriad(text)
            .filter(|p| *p <= 10_000)
            .map(Amount::PerMyriad);
    }
    parse_size(text).map(Amount::Absolute)
}

/// An octal file mode.
pub fn parse_mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim(), 8)
        .ok()
        .filter(|m| *m <= 0o7777)
}

const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A signal by name (with or without `SIG`), `RTMIN+n`, `RTMAX-n`, or number.
pub fn parse_signal(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let n: i32 = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+')?.parse().ok()?
        };
        return (0..=30).contains(&n).then_some(34 + n);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let n: i32 = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('-')?.parse().ok()?
        };
        return (0..=30).contains(&n).then_some(64 - n);
    }
    if name == "IO" {
        return Some(29);
    }
    SIGNALS.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
}

/// A signal's name without `SIG` (`TERM`, `RTMIN+3`); its number when it has none.
pub fn signal_name(signal: i32) -> String {
    match SIGNALS.iter().find(|(_, s)| *s == signal) {
        Some((name, _)) => (*name).to_owned(),
        None if signal == 34 => "RTMIN".to_owned(),
        None if (35..=64).contains(&signal) => format!("RTMIN+{}", signal - 34),
        None => signal.to_string(),
    }
}

/// Why a text does not split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A quote was opened and not closed.
    #[error("unbalanced quotes")]
    Unbalanced,
    /// An escape that gives a NUL byte or no UTF-8.
    #[error("invalid escape sequence")]
    BadEscape,
}

/// Splits at blanks; quotes (also inside a word) and C escapes are undone. Unknown escapes stay as written.
pub fn split_words(text: &str) -> Result<Vec<String>, WordError> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((word, after)) = next_word(rest)? {
        out.push(word);
        rest = after;
    }
    Ok(out)
}

/// The next word and what follows it; `None` at the end.
pub fn next_word(text: &str) -> Result<Option<(String, &str)>, WordError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r']);
    if text.is_empty() {
        return Ok(None);
    }
    let mut word: Vec<u8> = Vec::new();
    let bytes = text.as_bytes();
    let mut quote: Option<u8> = None;
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        match (quote, b) {
            (None, b' ' | b'\t' | b'\n' | b'\r') => break,
            (None, b'"' | b'\'') => quote = Some(b),
            (Some(q), b) if q == b => quote = None,
            (_, b'\\') if i + 1 < bytes.len() => {
                i += unescape_one(&text[i..], &mut word)?;
                continue;
            }
            (_, b) => word.push(b),
        }
        i += 1;
    }
    if quote.is_some() {
        return Err(WordError::Unbalanced);
    }
    let word = String::from_utf8(word).map_err(|_| WordError::BadEscape)?;
    Ok(Some((word, &text[i..])))
}

/// Undoes the escape at the start of `text` (a backslash and more); returns the bytes eaten.
fn unescape_one(text: &str, out: &mut Vec<u8>) -> Result<usize, WordError> {
    let bytes = text.as_bytes();
    let simple = match bytes[1] {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b's' => b' ',
        b'\\' => b'\\',
        b'"' => b'"',
        b'\'' => b'\'',
        b'x' => return hex_escape(text, 2, false, out),
        b'u' => return hex_escape(text, 4, true, out),
        b'U' => return hex_escape(text, 8, true, out),
        b'0'..=b'7' => {
            let digits = text.get(1..4).and_then(|d| u8::from_str_radix(d, 8).ok());
            return match digits {
                Some(0) => Err(WordError::BadEscape),
                Some(value) => {
                    out.push(value);
                    Ok(4)
                }
                None => keep_escape(text, out),
            };
        }
        _ => return keep_escape(text, out),
    };
    out.push(simple);
    Ok(2)
}

fn keep_escape(text: &str, out: &mut Vec<u8>) -> Result<usize, WordError> {
    let length = 1 + text[1..].chars().next().map_or(0, char::len_utf8);
    out.extend_from_slice(&text.as_bytes()[..length]);
    Ok(length)
}

fn hex_escape(
    text: &str,
    digits: usize,
    unicode: bool,
    out: &mut Vec<u8>,
) -> Result<usize, WordError> {
    let value = text
        .get(2..2 + digits)
        .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|d| u32::from_str_radix(d, 16).ok());
    let Some(value) = value else {
        return keep_escape(text, out);
    };
    if value == 0 {
        return Err(WordError::BadEscape);
    }
    if unicode {
        let c = char::from_u32(value).ok_or(WordError::BadEscape)?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        out.push(u8::try_from(value).map_err(|_| WordError::BadEscape)?);
    }
    Ok(2 + digits)
}

/// Shell glob (`*`, `?`, `[…]` with `!` or `^`) over a whole text.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut pi, mut ti) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while ti < t.len() {
        let step = match p.get(pi) {
            Some('*') => {
                star = Some((pi, ti));
                pi += 1;
                continue;
            }
            Some('?') => Some(pi + 1),
            Some('[') => match_class(&p, pi, t[ti]),
            Some('\\') if pi + 1 < p.len() => (p[pi + 1] == t[ti]).then_some(pi + 2),
            Some(c) => (*c == t[ti]).then_some(pi + 1),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => {
                pi = next;
                ti += 1;
            }
            (None, Some((sp, st))) => {
                pi = sp + 1;
                ti = st + 1;
                star = Some((sp, st + 1));
            }
            (None, None) => return false,
        }
    }
    p[pi..].iter().all(|c| *c == '*')
}

/// If the class at `start` matches `c`, the index after it. An unclosed `[` is a plain character.
fn match_class(p: &[char], start: usize, c: char) -> Option<usize> {
    let mut i = start + 1;
    let negate = matches!(p.get(i), Some('!' | '^'));
    if negate {
        i += 1;
    }
    let first = i;
    let mut found = false;
    loop {
        match p.get(i) {
            None => return (c == '[').then_some(start + 1),
            Some(']') if i > first => break,
            Some(a) => {
                if p.get(i + 1) == Some(&'-') && p.get(i + 2).is_some_and(|b| *b != ']') {
                    found |= *a <= c && c <= p[i + 2];
                    i += 3;
                } else {
                    found |= *a == c;
                    i += 1;
                }
            }
        }
    }
    (found != negate).then_some(i + 1)
}

#[cfg(test)]
mod tests {
    use super::{
        glob_matches, parse_amount, parse_bool, parse_signal, parse_size, parse_span, signal_name,
        split_words,
    };
    use crate::settings::{Amount, INFINITY};
    use proptest::prelude::{prop_assert_eq, proptest};

    #[test]
    fn spans() {
        for (text, want) in [
            ("5", Some(5_000_000)),
            ("1h30", Some(3_630_000_000)),
            ("1h 30min", Some(5_400_000_000)),
            ("500ms", Some(500_000)),
            ("1.5s", Some(1_500_000)),
            ("2 weeks", Some(1_209_600_000_000)),
            ("infinity", Some(INFINITY)),
            ("0", Some(0)),
            ("", None),
            ("5x", None),
            ("-5", None),
            ("99999999999999y", None),
        ] {
            assert_eq!(parse_span(text), want, "{text}");
        }
    }

    #[test]
    fn sizes_and_bounds() {
        assert_eq!(parse_size("1K"), Some(1024));
        assert_eq!(parse_size("1.5G"), Some(1_610_612_736));
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_amount("15%"), Some(Amount::PerMyriad(1500)));
        assert_eq!(parse_amount("150%"), None);
        assert_eq!(parse_bool("Yes"), Some(true));
        assert_eq!(parse_bool("maybe"), None);
    }

    #[test]
    fn words() {
        let ok = |t: &str| split_words(t).unwrap();
        assert_eq!(
            ok("a  'b c' \"d\\\"e\" f'g h'"),
            ["a", "b c", "d\"e", "fg h"]
        );
        assert_eq!(ok(r"a\x20b \101 \q"), ["a b", "A", "\\q"]);
        assert_eq!(ok("''"), [""]);
        assert!(split_words("'a").is_err());
        assert!(split_words(r"\x00").is_err());
    }

    #[test]
    fn signals_and_globs() {
        for (text, want) in [("SIGTERM", 15), ("KILL", 9), ("9", 9), ("RTMIN+3", 37)] {
            assert_eq!(parse_signal(text), Some(want));
        }
        assert_eq!(parse_signal("NOPE"), None);
        assert_eq!(signal_name(37), "RTMIN+3");
        for (p, t, want) in [
            ("*.service", "a.service", true),
            ("a?c", "abc", true),
            ("[a-c]*", "bx", true),
            ("[!a]*", "abc", false),
            ("a", "ab", false),
            ("*a*b", "xxaxxb", true),
        ] {
            assert_eq!(glob_matches(p, t), want, "{p} {t}");
        }
    }

    proptest! {
        #[test]
        fn never_panic(text in ".{0,40}", other in ".{0,20}") {
            let _ = (parse_span(&text), parse_size(&text), split_words(&text), parse_signal(&text));
            let _ = (parse_amount(&text), glob_matches(&text, &other));
        }

        #[test]
        fn signal_names_round_trip(signal in 1i32..=64) {
            if signal != 32 && signal != 33 {
                prop_assert_eq!(parse_signal(&signal_name(signal)), Some(signal));
            }
        }
    }
}
