//! Signal names as docker takes them: in any case.

/// `9`, `KILL`, `sigkill`, `RTMIN+3`, and the second name of ABRT.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "IOT" => Some(6),
        _ => unit_file::value::parse_signal(&upper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        for (text, expected) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("SIGTERM", Some(15)),
            ("sigusr1", Some(10)),
            ("RTMIN+3", Some(37)),
            ("rtmax", Some(64)),
            ("SIGIOT", Some(6)),
            ("SIGPOLL", Some(29)),
            ("0", None),
            ("65", None),
            ("NOPE", None),
            ("RTMIN+99999999999", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
