//! Signal names.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(at + 1).ok();
    }
    match name {
        "POLL" => Some(29),
        "IOT" => Some(6),
        "RTMIN" => Some(34),
        "RTMAX" => Some(64),
        _ => {
            let (base, offset, sign) =
                match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
                    (Some(offset), _) => (34, offset, 1),
                    (_, Some(offset)) => (64, offset, -1),
                    _ => return None,
                };
            let offset: i32 = offset.parse().ok()?;
            let number = base + sign * offset;
            ((0..=30).contains(&offset) && (34..=64).contains(&number)).then_some(number)
        }
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
            ("0", None),
            ("65", None),
            ("NOPE", None),
            ("RTMIN+99999999999", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
