//! Just enough HTTP: one request on one connection, the answer until the connection ends.
//!
//! Requests say HTTP/1.0, so the answer is never in chunks and the server closes when done.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Failure;

/// How long the server may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Answers above this are not believed.
const MAX_ANSWER: u64 = 256 << 20;

/// Where the API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Endpoint {
    /// Reads an endpoint; of several the first is used, with a warning.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (first, more) = text
            .split_once(',')
            .map_or((text, false), |(first, _)| (first, true));
        if more {
            eprintln!("fleetctl: several endpoints are given, using the first: {first}");
        }
        let bad = |reason| Failure::Endpoint {
            endpoint: first.to_owned(),
            reason,
        };
        let Some((scheme, rest)) = first.split_once("://") else {
            return Err(bad("it needs a scheme: unix://, http://"));
        };
        match scheme {
            "unix" | "file" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "unix" | "file" => Err(bad("a path begins with three slashes: unix:///PATH")),
            "http" => {
                let authority = rest.trim_end_matches('/');
                let (host, port) = match authority.rsplit_once(':') {
                    Some((host, port)) if !port.ends_with(']') => (
                        host,
                        port.parse().map_err(|_| bad("the port is not a number"))?,
                    ),
                    _ => (authority, 80),
                };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                if host.is_empty() || host.contains('/') {
                    return Err(bad("no host"));
                }
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            "https" => Err(bad("TLS is not supported yet")),
            _ => Err(bad("unknown scheme, use unix:// or http://")),
        }
    }

    /// Sends one request. `what` says in an error what was attempted.
    pub(crate) fn request(
        &self,
        what: &str,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let connect = |source| Failure::Connect {
            endpoint: self.to_string(),
            source,
        };
        match self {
            Self::Unix(socket) => {
                let stream = UnixStream::connect(socket).map_err(connect)?;
                stream.set_read_timeout(Some(TIMEOUT)).map_err(connect)?;
                self.exchange(stream, what, method, path, body)
            }
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).map_err(connect)?;
                stream.set_read_timeout(Some(TIMEOUT)).map_err(connect)?;
                self.exchange(stream, what, method, path, body)
            }
        }
    }

    fn exchange(
        &self,
        mut stream: impl Read + Write,
        what: &str,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let broken = |source: io::Error| Failure::Exchange {
            what: what.to_owned(),
            endpoint: self.to_string(),
            source,
        };
        let host = match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        };
        let mut request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: fleetctl/{}\r\n",
            env!("CARGO_PKG_VERSION")
        )
        .into_bytes();
        if let Some(body) = body {
            let head = format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
            request.extend_from_slice(head.as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body.unwrap_or_default());
        stream.write_all(&request).map_err(broken)?;
        let mut raw = Vec::new();
        stream
            .take(MAX_ANSWER)
            .read_to_end(&mut raw)
            .map_err(broken)?;
        parse(&raw).ok_or_else(|| Failure::Answer {
            what: what.to_owned(),
            endpoint: self.to_string(),
            reason: "not an HTTP answer".into(),
        })
    }
}

fn parse(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let line = head.lines().next()?;
    let status = line
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some(Answer {
        status,
        body: raw[end + 4..].to_vec(),
    })
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        for (text, expect) in [
            ("unix:///run/fleet.sock", Some("unix:///run/fleet.sock")),
            ("file:///run/fleet.sock", Some("unix:///run/fleet.sock")),
            ("http://10.0.2.11:49153", Some("http://10.0.2.11:49153")),
            ("http://a/,http://b", Some("http://a:80")),
            ("http://[::1]:1", Some("http://::1:1")),
            ("unix://run/fleet.sock", None),
            ("10.0.2.11:49153", None),
            ("https://a", None),
            ("ftp://a", None),
            ("http://a:b", None),
            ("http://", None),
        ] {
            let got = Endpoint::parse(text).ok().map(|e| e.to_string());
            assert_eq!(got.as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn answers_are_read() {
        let answer = parse(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nbody").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (404, &b"body"[..]));
        assert!(parse(b"nonsense").is_none());
        assert!(parse(b"HTTP/1.1\r\n\r\n").is_none());
    }
}
