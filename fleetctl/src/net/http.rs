//! Just enough HTTP: one request on one connection, the answer until its end.
//!
//! Requests say HTTP/1.0, so the answer is never in chunks and the server closes when done; where
//! it tells the length, reading stops there, because a tunnel may keep the connection open.

use std::io::{self, Read, Write};

use super::Transport;
use crate::error::Failure;

/// Answers above this are not believed.
const MAX_ANSWER: u64 = 256 << 20;
/// Longest head of an answer.
const MAX_HEAD: usize = 64 << 10;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Transport {
    /// Sends one request. `what` says in an error what was attempted.
    pub(crate) fn request(
        &self,
        what: &str,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let mut stream = self.connect()?;
        let answer = self.exchange(&mut stream, what, method, path, body);
        if self.debug {
            let told = match &answer {
                Ok(answer) => format!("{} ({} bytes)", answer.status, answer.body.len()),
                Err(failure) => telemetry::chain(failure),
            };
            eprintln!("fleetctl: debug: {method} {}{path}: {told}", self.endpoint);
        }
        answer
    }

    fn exchange(
        &self,
        stream: &mut (impl Read + Write),
        what: &str,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let broken = |source: io::Error| Failure::Exchange {
            what: what.to_owned(),
            endpoint: self.endpoint.to_string(),
            source,
        };
        self.send(stream, method, path, body).map_err(broken)?;
        let answer = read_answer(stream).map_err(broken)?;
        answer.ok_or_else(|| Failure::Answer {
            what: what.to_owned(),
            endpoint: self.endpoint.to_string(),
            reason: "not an HTTP answer".into(),
        })
    }

    /// Writes a request.
    pub(super) fn send(
        &self,
        stream: &mut impl Write,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> io::Result<()> {
        let mut request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nUser-Agent: fleetctl/{}\r\n",
            self.endpoint.host_header(),
            env!("CARGO_PKG_VERSION")
        )
        .into_bytes();
        if let Some(login) = &self.login {
            request.extend_from_slice(format!("Authorization: {}\r\n", login.0).as_bytes());
        }
        if let Some(body) = body {
            let head = format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
            request.extend_from_slice(head.as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body.unwrap_or_default());
        stream.write_all(&request)?;
        stream.flush()
    }
}

/// The head of an answer, and what has been read beyond it.
pub(super) struct Head {
    pub(super) status: u16,
    length: Option<u64>,
    pub(super) rest: Vec<u8>,
}

/// Reads the head of an answer; `None` if it is none.
pub(super) fn read_head(stream: &mut impl Read) -> io::Result<Option<Head>> {
    let mut raw = Vec::new();
    let mut buffer = [0; 4 << 10];
    let end = loop {
        if let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        let count = read_some(stream, &mut buffer)?;
        if count == 0 || raw.len() > MAX_HEAD {
            return Ok(None);
        }
        raw.extend_from_slice(&buffer[..count]);
    };
    Ok(parse_head(&raw[..end]).map(|(status, length)| Head {
        status,
        length,
        rest: raw.split_off(end + 4),
    }))
}

/// Reads an answer; `None` if it is none.
fn read_answer(stream: &mut impl Read) -> io::Result<Option<Answer>> {
    let Some(head) = read_head(stream)? else {
        return Ok(None);
    };
    let (status, length, mut body) = (head.status, head.length, head.rest);
    let mut buffer = [0; 16 << 10];
    let wanted = length.unwrap_or(MAX_ANSWER).min(MAX_ANSWER);
    while (body.len() as u64) < wanted {
        match read_some(stream, &mut buffer)? {
            0 if length.is_some() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => break,
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
    if length.is_some() {
        body.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    }
    Ok(Some(Answer { status, body }))
}

fn read_some(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Many servers close TLS connections without saying so first.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            other => return other,
        }
    }
}

/// Status, and length of the body where it is told.
fn parse_head(head: &[u8]) -> Option<(u16, Option<u64>)> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let rest = lines.next()?.strip_prefix("HTTP/1.")?;
    let status = rest.split(' ').nth(1)?.parse().ok()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    // These have no body, whatever they say.
    let length = if status == 204 || status == 304 {
        Some(0)
    } else {
        length
    };
    Some((status, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of an answer: status and body, or nothing, or an error.
    fn read(mut raw: &[u8]) -> Result<Option<(u16, String)>, io::ErrorKind> {
        let answer = read_answer(&mut raw).map_err(|e| e.kind())?;
        Ok(answer.map(|a| (a.status, String::from_utf8(a.body).unwrap())))
    }

    #[test]
    fn answers_are_read() {
        let ok = |status, body: &str| Ok(Some((status, body.to_owned())));
        for (raw, expect) in [
            (
                "HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nbody",
                ok(404, "body"),
            ),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nbodyrest",
                ok(200, "bo"),
            ),
            ("HTTP/1.0 204 No Content\r\n\r\n", ok(204, "")),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nbody",
                Err(io::ErrorKind::UnexpectedEof),
            ),
            ("nonsense", Ok(None)),
            ("nonsense\r\n\r\n", Ok(None)),
            ("HTTP/1.1\r\n\r\n", Ok(None)),
            ("", Ok(None)),
        ] {
            assert_eq!(read(raw.as_bytes()), expect, "{raw:?}");
        }
    }

    #[test]
    fn an_endless_head_is_no_answer() {
        let raw = [b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'a'; 1 << 20]].concat();
        assert_eq!(read(&raw), Ok(None));
    }
}
