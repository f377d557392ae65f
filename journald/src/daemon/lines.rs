//! Streams of lines: the header that names the sender, and the cutting into lines. No I/O.

/// Longer lines are cut.
pub const LINE_MAX: usize = 48 * 1024;
const HEADER_LINES: usize = 7;
/// A header beyond this is refused.
pub const HEADER_MAX: usize = 16 * 1024;

/// What the first seven lines of a stream say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// SYSLOG_IDENTIFIER of the lines.
    pub identifier: String,
    /// The unit, as far as the sender is believed.
    pub unit: String,
    /// Level of lines that do not say, and the facility.
    pub priority: u16,
    /// Whether lines may begin with `<N>`.
    pub level_prefix: bool,
    /// Whether lines go to the kernel's log as well.
    pub to_kmsg: bool,
    /// Whether lines go to the console as well.
    pub to_console: bool,
}

/// Outcome of looking for a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderState {
    /// More must come.
    Incomplete,
    /// This many bytes were the header.
    Complete(Header, usize),
    /// Not a header.
    Invalid(&'static str),
}

/// Looks for the header at the start of a stream.
pub fn header(data: &[u8]) -> HeaderState {
    let mut lines = Vec::with_capacity(HEADER_LINES);
    let mut start = 0;
    for (at, byte) in data.iter().enumerate().take(HEADER_MAX) {
        if *byte == b'\n' {
            let Ok(line) = std::str::from_utf8(&data[start..at]) else {
                return HeaderState::Invalid("is not text");
            };
            lines.push(line);
            start = at + 1;
            if lines.len() == HEADER_LINES {
                break;
            }
        }
    }
    let [
        identifier,
        unit,
        priority,
        level_prefix,
        _syslog,
        kmsg,
        console,
    ] = lines[..]
    else {
        return match data.len() >= HEADER_MAX {
            true => HeaderState::Invalid("is too long"),
            false => HeaderState::Incomplete,
        };
    };
    let Some(priority) = priority.parse::<u16>().ok().filter(|p| *p < 192) else {
        return HeaderState::Invalid("has no priority");
    };
    let mut flags = [false; 3];
    for (flag, text) in flags.iter_mut().zip([level_prefix, kmsg, console]) {
        *flag = match text {
            "1" | "true" | "yes" => true,
            "0" | "false" | "no" | "" => false,
            _ => return HeaderState::Invalid("has a switch that is neither 0 nor 1"),
        };
    }
    let header = Header {
        identifier: identifier.to_owned(),
        unit: unit.to_owned(),
        priority,
        level_prefix: flags[0],
        to_kmsg: flags[1],
        to_console: flags[2],
    };
    HeaderState::Complete(header, start)
}

impl Header {
    /// The form in which a stream's header is kept over a restart.
    pub fn to_state(&self, stream_id: &str) -> String {
        format!(
            "STREAM_ID={stream_id}\nIDENTIFIER={}\nUNIT={}\nPRIORITY={}\nLEVEL_PREFIX={}\nFORWARD_TO_KMSG={}\nFORWARD_TO_CONSOLE={}\n",
            self.identifier,
            self.unit,
            self.priority,
            u8::from(self.level_prefix),
            u8::from(self.to_kmsg),
            u8::from(self.to_console)
        )
    }

    /// Reads that form; gives the stream's identifier too.
    pub fn from_state(text: &str) -> Option<(Self, String)> {
        let get = |key: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
        };
        let header = Self {
            identifier: get("IDENTIFIER")?.to_owned(),
            unit: get("UNIT")?.to_owned(),
            priority: get("PRIORITY")?.parse().ok().filter(|p| *p < 192)?,
            level_prefix: get("LEVEL_PREFIX")? == "1",
            to_kmsg: get("FORWARD_TO_KMSG")? == "1",
            to_console: get("FORWARD_TO_CONSOLE")? == "1",
        };
        Some((header, get("STREAM_ID")?.to_owned()))
    }
}

/// Why a line ended where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// At a line break, as it should.
    Newline,
    /// At a NUL byte.
    Nul,
    /// It was too long.
    LineMax,
    /// Another process goes on writing.
    PidChange,
    /// The stream ended.
    Eof,
}

impl Break {
    /// The value of `_LINE_BREAK`, which is only recorded where the line did not end as it should.
    pub fn field(self) -> Option<&'static str> {
        match self {
            Self::Newline => None,
            Self::Nul => Some("nul"),
            Self::LineMax => Some("line-max"),
            Self::PidChange => Some("pid-change"),
            Self::Eof => Some("eof"),
        }
    }
}

/// Cuts `data` into lines; gives them and the number of bytes used up. What has no end yet stays, unless `rest` says that
/// it ends here.
pub fn split(data: &[u8], rest: Option<Break>) -> (Vec<(&[u8], Break)>, usize) {
    let mut lines = Vec::new();
    let mut start = 0;
    while start < data.len() {
        let window = &data[start..data.len().min(start + LINE_MAX)];
        match window.iter().position(|b| matches!(b, b'\n' | 0)) {
            Some(end) => {
                let how = if window[end] == 0 {
                    Break::Nul
                } else {
                    Break::Newline
                };
                lines.push((&window[..end], how));
                start += end + 1;
            }
            None if window.len() == LINE_MAX => {
                lines.push((window, Break::LineMax));
                start += LINE_MAX;
            }
            None => {
                if let Some(how) = rest {
                    lines.push((window, how));
                    start = data.len();
                }
                break;
            }
        }
    }
    (lines, start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &[u8] = b"web\nweb@1.service\n30\n1\n0\n0\n1\nfirst line\n";

    #[test]
    fn the_header_is_seven_lines() {
        let HeaderState::Complete(header, used) = header(HEADER) else {
            panic!("complete")
        };
        assert_eq!(&HEADER[used..], b"first line\n");
        assert_eq!(
            (header.identifier.as_str(), header.unit.as_str()),
            ("web", "web@1.service")
        );
        assert!(header.level_prefix && header.to_console && !header.to_kmsg);
        assert_eq!(header.priority, 30);
        let state = header.to_state("abc");
        assert_eq!(Header::from_state(&state), Some((header, "abc".to_owned())));
    }

    #[test]
    fn other_beginnings_are_not_headers() {
        assert_eq!(header(&HEADER[..20]), HeaderState::Incomplete);
        assert!(matches!(
            header(b"a\nb\nx\n1\n0\n0\n0\n"),
            HeaderState::Invalid(_)
        ));
        assert!(matches!(
            header(b"a\nb\n6\n7\n0\n0\n0\n"),
            HeaderState::Invalid(_)
        ));
        assert!(matches!(
            header(&[b'a'; HEADER_MAX]),
            HeaderState::Invalid(_)
        ));
        assert_eq!(Header::from_state("IDENTIFIER=x\n"), None);
    }

    #[test]
    fn lines_end_where_they_should() {
        let (lines, used) = split(b"a\nb\0c", None);
        assert_eq!(lines, [(&b"a"[..], Break::Newline), (b"b", Break::Nul)]);
        assert_eq!(used, 4);
        let (lines, used) = split(b"a\nc", Some(Break::Eof));
        assert_eq!((lines.last(), used), (Some(&(&b"c"[..], Break::Eof)), 3));
        let long = vec![b'x'; LINE_MAX + 5];
        let (lines, used) = split(&long, None);
        assert_eq!(
            (lines.len(), lines[0].1, used),
            (1, Break::LineMax, LINE_MAX)
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(data in proptest::collection::vec(0u8..14, 0..200), end: bool) {
            let (lines, used) = split(&data, end.then_some(Break::Eof));
            let mut joined = Vec::new();
            for (line, how) in lines {
                joined.extend_from_slice(line);
                match how {
                    Break::Newline => joined.push(b'\n'),
                    Break::Nul => joined.push(0),
                    _ => {}
                }
            }
            prop_assert_eq!(&joined[..], &data[..used]);
            prop_assert!(!end || used == data.len());
        }

        #[test]
        fn no_header_makes_the_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = header(&data);
        }
    }
}
