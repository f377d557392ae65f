//! Messages of `/dev/log`: `<PRI>TIME TAG[PID]: text`, every part optional but the text. No I/O.

/// A syslog message taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// 0 to 7; 6 when the message does not say.
    pub priority: u8,
    /// When the message says.
    pub facility: Option<u16>,
    /// `Jan  2 15:04:05`, with the blank behind it.
    pub timestamp: Option<&'a [u8]>,
    /// The tag.
    pub identifier: Option<&'a [u8]>,
    /// The number in brackets.
    pub pid: Option<&'a [u8]>,
    /// The rest, without white space at the end.
    pub text: &'a [u8],
}

/// Takes a message apart; nothing is ever wrong with one.
pub fn parse(data: &[u8]) -> Message<'_> {
    let (priority, facility, rest) = match priority(data) {
        Some((value, rest)) => ((value & 7) as u8, Some(value >> 3), rest),
        None => (6, None, data),
    };
    let (timestamp, rest) = match timestamp_length(rest) {
        0 => (None, rest),
        len => (Some(&rest[..len]), &rest[len..]),
    };
    let (identifier, pid, text) = tag(rest);
    Message {
        priority,
        facility,
        timestamp,
        identifier,
        pid,
        text: text.trim_ascii_end(),
    }
}

/// `<N>` at the start: at most three digits, facility and level together below 192. Also the prefix of lines on stdout.
pub fn priority(data: &[u8]) -> Option<(u16, &[u8])> {
    let end = data.iter().take(5).position(|b| *b == b'>')?;
    let digits = data
        .get(1..end)
        .filter(|d| !d.is_empty() && data[0] == b'<')?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0u16, |n, d| n * 10 + u16::from(d - b'0'));
    (value < 192).then_some((value, &data[end + 1..]))
}

/// Length of `Mmm dd hh:mm:ss ` at the start, else 0.
fn timestamp_length(data: &[u8]) -> usize {
    const SHAPE: &[u8] = b"Aaa d9 99:99:99 ";
    let fits = |(shape, byte): (&u8, &u8)| match shape {
        b'A' => byte.is_ascii_uppercase(),
        b'a' => byte.is_ascii_lowercase(),
        b'9' => byte.is_ascii_digit(),
        b'd' => byte.is_ascii_digit() || *byte == b' ',
        other => byte == other,
    };
    let all = data.len() >= SHAPE.len() && SHAPE.iter().zip(data).all(fits);
    if all { SHAPE.len() } else { 0 }
}

/// `TAG[PID]: ` or `TAG: `; a text that begins otherwise has no tag.
pub fn tag(data: &[u8]) -> (Option<&[u8]>, Option<&[u8]>, &[u8]) {
    let none = (None, None, data);
    let start = data.iter().take_while(|b| **b == b' ').count();
    let rest = &data[start..];
    let Some(end) = rest.iter().position(|b| b.is_ascii_whitespace()) else {
        // The tag may be all there is.
        return match rest.split_last() {
            Some((b':', tag)) if !tag.is_empty() => with_pid(tag, &[]).unwrap_or(none),
            _ => none,
        };
    };
    match rest[..end].split_last() {
        Some((b':', tag)) if !tag.is_empty() => with_pid(tag, &rest[end + 1..]).unwrap_or(none),
        _ => none,
    }
}

type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a [u8]);

fn with_pid<'a>(tag: &'a [u8], text: &'a [u8]) -> Option<Parts<'a>> {
    let Some(inner) = tag.strip_suffix(b"]") else {
        return Some((Some(tag), None, text));
    };
    let open = inner.iter().rposition(|b| *b == b'[')?;
    let (name, pid) = (&inner[..open], &inner[open + 1..]);
    Some((
        Some(name).filter(|n| !n.is_empty()),
        Some(pid).filter(|p| !p.is_empty()),
        text,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(data: &str, want: (u8, Option<u16>, &str, &str, &str)) {
        let got = parse(data.as_bytes());
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        assert_eq!(
            (
                got.priority,
                got.facility,
                text(got.identifier),
                text(got.pid),
                text(Some(got.text))
            ),
            (
                want.0,
                want.1,
                want.2.to_owned(),
                want.3.to_owned(),
                want.4.to_owned()
            ),
            "{data}"
        );
    }

    #[test]
    fn messages_are_taken_apart() {
        check(
            "<13>Jan  2 15:04:05 su[42]: to root\n",
            (5, Some(1), "su", "42", "to root"),
        );
        check("<30>app: hello", (6, Some(3), "app", "", "hello"));
        check("just text here", (6, None, "", "", "just text here"));
        check("<13>", (5, Some(1), "", "", ""));
        check("<999>x", (6, None, "", "", "<999>x"));
        check("<1>a b: c", (1, Some(0), "", "", "a b: c"));
        check("<1>tag:", (1, Some(0), "tag", "", ""));
        check("<1>[7]: x", (1, Some(0), "", "7", "x"));
        check("", (6, None, "", "", ""));
    }

    proptest! {
        #[test]
        fn no_message_makes_the_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&data);
        }
    }
}
