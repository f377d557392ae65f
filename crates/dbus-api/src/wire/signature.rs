//! Signatures: splitting and checking.

/// Nesting of arrays and of structures, each, that the specification allows.
const MAX_DEPTH: usize = 32;

/// Split into complete types; none where it is malformed.
pub fn split(signature: &str) -> Option<Vec<&str>> {
    if signature.len() > 255 || !signature.is_ascii() {
        return None;
    }
    let mut rest = signature;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let length = one(rest.as_bytes(), 0, 0)?;
        let (part, tail) = rest.split_at(length);
        parts.push(part);
        rest = tail;
    }
    Some(parts)
}

/// Is it a sequence of complete types?
pub fn check(signature: &str) -> bool {
    split(signature).is_some()
}

/// Length of the complete type at the start.
fn one(bytes: &[u8], arrays: usize, structs: usize) -> Option<usize> {
    match bytes.first()? {
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g'
        | b'h' | b'v' => Some(1),
        b'a' => {
            if arrays >= MAX_DEPTH {
                return None;
            }
            if bytes.get(1) == Some(&b'{') {
                return Some(1 + entry(&bytes[1..], arrays + 1, structs)?);
            }
            Some(1 + one(&bytes[1..], arrays + 1, structs)?)
        }
        b'(' => {
            if structs >= MAX_DEPTH {
                return None;
            }
            let mut at = 1;
            while *bytes.get(at)? != b')' {
                at += one(&bytes[at..], arrays, structs + 1)?;
            }
            (at > 1).then_some(at + 1)
        }
        _ => None,
    }
}

/// Length of a dictionary entry: basic key, one value.
fn entry(bytes: &[u8], arrays: usize, structs: usize) -> Option<usize> {
    if structs >= MAX_DEPTH || !b"ybnqiuxtdsogh".contains(bytes.get(1)?) {
        return None;
    }
    let value = one(&bytes[2..], arrays, structs + 1)?;
    (bytes.get(2 + value)? == &b'}').then_some(3 + value)
}

/// Alignment of a type by its first character.
pub(crate) fn alignment(first: u8) -> usize {
    match first {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (signature, parts) in [
            ("", Some(vec![])),
            ("su", Some(vec!["s", "u"])),
            ("a{sv}as", Some(vec!["a{sv}", "as"])),
            ("a(ssssssouso)", Some(vec!["a(ssssssouso)"])),
            ("sa(sv)a(sa(sv))", Some(vec!["s", "a(sv)", "a(sa(sv))"])),
            ("a", None),
            ("()", None),
            ("(s", None),
            ("{sv}", None),
            ("a{vs}", None),
            ("a{s}", None),
            ("a{sss}", None),
            ("z", None),
        ] {
            assert_eq!(split(signature), parts, "{signature}");
        }
        assert!(!check(&"a".repeat(40)));
        assert!(!check(&format!("{}s{}", "(".repeat(33), ")".repeat(33))));
    }
}
