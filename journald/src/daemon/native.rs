//! The native protocol: fields of one or several entries in a datagram or a file. No I/O.

/// More fields than this in one entry are left out.
const MAX_FIELDS: usize = 1024;
const MAX_NAME: usize = 64;

/// One entry as its sender wrote it: only fields that a sender may set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientEntry {
    /// `NAME=value`.
    pub fields: Vec<Vec<u8>>,
    /// The value of PRIORITY, if it is one.
    pub priority: Option<u8>,
}

/// Reads the entries. What is malformed is left out; a cut-off entry is kept as far as it goes.
pub fn parse(mut data: &[u8]) -> Vec<ClientEntry> {
    let mut entries = Vec::new();
    let mut entry = ClientEntry::default();
    while !data.is_empty() {
        let end = data.iter().position(|b| *b == b'\n');
        let (line, rest) = match end {
            Some(end) => (&data[..end], &data[end + 1..]),
            // A last line without its end counts if it is `NAME=value`.
            None => (data, &[][..]),
        };
        if line.is_empty() {
            finish(&mut entries, &mut entry);
            data = rest;
        } else if line.starts_with(b".") || line.starts_with(b"#") {
            data = rest;
        } else if let Some(at) = line.iter().position(|b| *b == b'=') {
            add(&mut entry, &line[..at], &line[at + 1..]);
            data = rest;
        } else {
            // `NAME`, then the length in eight bytes, then the value and a line break.
            let Some((size, body)) = rest.split_first_chunk::<8>() else {
                break;
            };
            let Ok(size) = usize::try_from(u64::from_le_bytes(*size)) else {
                break;
            };
            if size >= body.len() || body[size] != b'\n' {
                break;
            }
            add(&mut entry, line, &body[..size]);
            data = &body[size + 1..];
        }
    }
    finish(&mut entries, &mut entry);
    entries
}

fn finish(entries: &mut Vec<ClientEntry>, entry: &mut ClientEntry) {
    let entry = std::mem::take(entry);
    if !entry.fields.is_empty() {
        entries.push(entry);
    }
}

fn add(entry: &mut ClientEntry, name: &[u8], value: &[u8]) {
    if entry.fields.len() >= MAX_FIELDS || !may_set(name) {
        return;
    }
    if let (b"PRIORITY", [digit @ b'0'..=b'7']) = (name, value) {
        entry.priority = Some(digit - b'0');
    }
    let mut field = Vec::with_capacity(name.len() + 1 + value.len());
    field.extend_from_slice(name);
    field.push(b'=');
    field.extend_from_slice(value);
    entry.fields.push(field);
}

/// Whether a sender may set this field: a valid name that does not begin with the underscore of trusted fields.
fn may_set(name: &[u8]) -> bool {
    name.len() <= MAX_NAME
        && name.first().is_some_and(u8::is_ascii_uppercase)
        && name
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(data: &[u8], want: &[&[&[u8]]]) {
        let got: Vec<Vec<Vec<u8>>> = parse(data).into_iter().map(|e| e.fields).collect();
        let want: Vec<Vec<Vec<u8>>> = want
            .iter()
            .map(|e| e.iter().map(|f| f.to_vec()).collect())
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn lines_and_binary_fields_are_read() {
        check(
            b"MESSAGE=hello\nPRIORITY=3\n",
            &[&[b"MESSAGE=hello", b"PRIORITY=3"]],
        );
        check(b"MESSAGE=no end", &[&[b"MESSAGE=no end"]]);
        check(
            b"BLOB\n\x03\0\0\0\0\0\0\0a\nb\nX=1\n",
            &[&[b"BLOB=a\nb", b"X=1"]],
        );
        check(b"A=1\n\nA=2\n", &[&[b"A=1"], &[b"A=2"]]);
        check(b"A=x=y\n", &[&[b"A=x=y"]]);
    }

    #[test]
    fn forged_and_malformed_fields_are_left_out() {
        check(
            b"_PID=1\nMESSAGE=x\nlower=1\n1A=2\nA B=3\n=4\n",
            &[&[b"MESSAGE=x"]],
        );
        check(b"BLOB\n\xff\xff\xff\xff\xff\xff\xff\xffabc\n", &[]);
        check(b"X=1\nBLOB\n\x09\0\0\0\0\0\0\0abc\n", &[&[b"X=1"]]);
        check(b"\n\n\n", &[]);
        check(b"", &[]);
    }

    #[test]
    fn the_priority_is_taken_note_of() {
        assert_eq!(parse(b"PRIORITY=2\n")[0].priority, Some(2));
        assert_eq!(parse(b"PRIORITY=9\n")[0].priority, None);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for entry in parse(&data) {
                for field in entry.fields {
                    prop_assert!(field[0].is_ascii_uppercase());
                }
            }
        }

        #[test]
        fn binary_values_survive(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut data = b"V\n".to_vec();
            data.extend_from_slice(&(value.len() as u64).to_le_bytes());
            data.extend_from_slice(&value);
            data.push(b'\n');
            prop_assert_eq!(&parse(&data)[0].fields[0], &[b"V=", &value[..]].concat());
        }
    }
}
