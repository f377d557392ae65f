//! The serving side of the SASL handshake, EXTERNAL only. Pure: bytes in, bytes and a verdict out.
//!
//! ```text
//! client                         server
//! \0AUTH EXTERNAL\r\n            DATA\r\n
//! DATA\r\n                       OK <guid>\r\n
//! NEGOTIATE_UNIX_FD\r\n          AGREE_UNIX_FD\r\n
//! BEGIN\r\n                      (messages follow)
//! ```
//! All client lines may come in one write. The identity is the socket's; a user id in the client's line must be
//! the same.

/// Longest line accepted, and most rejections before the connection ends.
const MAX_LINE: usize = 4096;
const MAX_REJECTIONS: u32 = 8;

/// What the handshake has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More lines are needed.
    Going,
    /// `BEGIN` came: messages follow.
    Done,
    /// Not a D-Bus client, or one that only tries.
    Refused,
}

/// One handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    uid: u32,
    guid: String,
    greeted: bool,
    waits_for_data: bool,
    accepted: bool,
    passes_fds: bool,
    rejections: u32,
}

impl Handshake {
    pub(crate) fn new(uid: u32, guid: &str) -> Self {
        Self {
            uid,
            guid: guid.to_owned(),
            greeted: false,
            waits_for_data: false,
            accepted: false,
            passes_fds: false,
            rejections: 0,
        }
    }

    /// May descriptors travel on this connection?
    pub(crate) fn passes_fds(&self) -> bool {
        self.passes_fds
    }

    /// Take the lines at the front of `input` away and put answers into `output`.
    pub(crate) fn feed(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Progress {
        if !self.greeted && !input.is_empty() {
            if input.remove(0) != 0 {
                return Progress::Refused;
            }
            self.greeted = true;
        }
        while let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = input.drain(..end + 2).collect();
            let Ok(line) = std::str::from_utf8(&line[..end]) else {
                return Progress::Refused;
            };
            match self.line(line, output) {
                Progress::Going => {}
                end => return end,
            }
        }
        if input.len() > MAX_LINE {
            Progress::Refused
        } else {
            Progress::Going
        }
    }

    fn line(&mut self, line: &str, output: &mut Vec<u8>) -> Progress {
        let mut words = line.split(' ');
        match (words.next().unwrap_or_default(), words.next(), words.next()) {
            ("AUTH", Some("EXTERNAL"), None) if !self.accepted => {
                self.waits_for_data = true;
                output.extend_from_slice(b"DATA\r\n");
            }
            ("AUTH", Some("EXTERNAL"), Some(identity)) if !self.accepted => {
                return self.identity(identity, output);
            }
            ("DATA", identity, None) if self.waits_for_data => {
                return self.identity(identity.unwrap_or(""), output);
            }
            ("NEGOTIATE_UNIX_FD", None, _) if self.accepted => {
                self.passes_fds = true;
                output.extend_from_slice(b"AGREE_UNIX_FD\r\n");
            }
            ("BEGIN", None, _) if self.accepted => return Progress::Done,
            ("BEGIN", ..) => return Progress::Refused,
            ("AUTH" | "CANCEL" | "ERROR", ..) => return self.reject(output),
            _ => output.extend_from_slice(b"ERROR unknown command\r\n"),
        }
        Progress::Going
    }

    /// The identity is the user id in decimal, in hexadecimal digits; empty = whoever the socket says.
    fn identity(&mut self, hex: &str, output: &mut Vec<u8>) -> Progress {
        self.waits_for_data = false;
        if !hex.is_empty() && decode_hex(hex).and_then(|text| text.parse().ok()) != Some(self.uid) {
            return self.reject(output);
        }
        self.accepted = true;
        output.extend_from_slice(format!("OK {}\r\n", self.guid).as_bytes());
        Progress::Going
    }

    fn reject(&mut self, output: &mut Vec<u8>) -> Progress {
        self.waits_for_data = false;
        self.accepted = false;
        self.rejections += 1;
        output.extend_from_slice(b"REJECTED EXTERNAL\r\n");
        if self.rejections > MAX_REJECTIONS {
            Progress::Refused
        } else {
            Progress::Going
        }
    }
}

fn decode_hex(hex: &str) -> Option<String> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(input: &[u8], answer: &str, end: Progress, rest: &[u8]) {
        let mut handshake = Handshake::new(0, "guid");
        let mut input = input.to_vec();
        let mut output = Vec::new();
        assert_eq!(handshake.feed(&mut input, &mut output), end);
        assert_eq!(String::from_utf8(output).unwrap(), answer);
        assert_eq!(input, rest);
    }

    #[test]
    fn table() {
        check(
            b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01",
            "DATA\r\nOK guid\r\nAGREE_UNIX_FD\r\n",
            Progress::Done,
            b"l\x01",
        );
        check(
            b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n",
            "OK guid\r\n",
            Progress::Done,
            b"",
        );
        check(b"\0AUTH\r\n", "REJECTED EXTERNAL\r\n", Progress::Going, b"");
        check(
            b"\0AUTH EXTERNAL 31\r\n",
            "REJECTED EXTERNAL\r\n",
            Progress::Going,
            b"",
        );
        check(b"\0BEGIN\r\n", "", Progress::Refused, b"");
        check(
            b"GET / HTTP/1.1\r\n",
            "",
            Progress::Refused,
            b"ET / HTTP/1.1\r\n",
        );
        check(b"\0AUTH EXT", "", Progress::Going, b"AUTH EXT");
        check(
            &[&b"\0"[..], &[b'A'; 5000]].concat(),
            "",
            Progress::Refused,
            &[b'A'; 5000],
        );
        check(
            b"\0WHAT\r\n",
            "ERROR unknown command\r\n",
            Progress::Going,
            b"",
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = [&b"\0"[..], &bytes].concat();
            let _ = Handshake::new(0, "g").feed(&mut input, &mut Vec::new());
        }

        #[test]
        fn others_never_get_in(lines in proptest::collection::vec("(AUTH EXTERNAL 31|AUTH|CANCEL|BEGIN|DATA 31|DATA 3)", 0..8)) {
            let mut input = vec![0];
            for line in &lines {
                input.extend_from_slice(line.as_bytes());
                input.extend_from_slice(b"\r\n");
            }
            prop_assert_ne!(Handshake::new(0, "g").feed(&mut input, &mut Vec::new()), Progress::Done);
        }
    }
}
