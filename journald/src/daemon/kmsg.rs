//! Records of `/dev/kmsg`. No I/O.

/// One kernel record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// 0 to 7.
    pub priority: u8,
    /// 0 is the kernel itself; others were written to /dev/kmsg by a program.
    pub facility: u16,
    /// Number of the record since boot.
    pub seqnum: u64,
    /// Microseconds since boot.
    pub usec: u64,
    /// The text, escapes undone.
    pub text: Vec<u8>,
    /// `SUBSYSTEM`, `DEVICE` and others that the kernel attached.
    pub fields: Vec<(String, String)>,
}

/// Reads `PRIORITY,SEQNUM,USEC,FLAGS[,…];TEXT` and the ` KEY=value` lines behind it.
pub fn parse(data: &[u8]) -> Option<Record> {
    let semicolon = data.iter().position(|b| *b == b';')?;
    let head = std::str::from_utf8(&data[..semicolon]).ok()?;
    let mut parts = head.split(',');
    let priority: u16 = parts.next()?.parse().ok()?;
    let seqnum = parts.next()?.parse().ok()?;
    let usec = parts.next()?.parse().ok()?;
    let mut lines = data[semicolon + 1..].split(|b| *b == b'\n');
    let text = unescape(lines.next()?);
    let fields = lines
        .filter_map(|line| {
            let text = String::from_utf8(unescape(line.strip_prefix(b" ")?)).ok()?;
            let (key, value) = text.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect();
    Some(Record {
        priority: (priority & 7) as u8,
        facility: priority >> 3,
        seqnum,
        usec,
        text,
        fields,
    })
}

/// Undoes `\xNN`.
fn unescape(data: &[u8]) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some((first, tail)) = rest.split_first() {
        if let [b'\\', b'x', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_are_taken_apart() {
        let data = b"6,339,5140900,-;NET: Registered\\x20protocol\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n";
        let record = parse(data).expect("a record");
        assert_eq!(
            (record.priority, record.facility, record.seqnum, record.usec),
            (6, 0, 339, 5_140_900)
        );
        assert_eq!(record.text, b"NET: Registered protocol");
        assert_eq!(record.fields[0], ("SUBSYSTEM".into(), "acpi".into()));
        assert_eq!(record.fields.len(), 2);
        let user = parse(b"30,5,1,-,caller=T1;init: hello\n").expect("a record");
        assert_eq!((user.priority, user.facility), (6, 3));
    }

    #[test]
    fn other_data_is_no_record() {
        for bad in [&b""[..], b"6,1", b";x", b"a,b,c;x", b"6;x"] {
            assert_eq!(parse(bad), None);
        }
    }

    proptest! {
        #[test]
        fn no_data_makes_the_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&data);
        }
    }
}
