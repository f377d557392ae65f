//! The varlink interface `io.systemd.Journal`: what `journalctl --flush`, `--rotate` and `--sync` call.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

/// A request beyond this is refused.
const REQUEST_MAX: usize = 16 * 1024;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Move the journal from memory to disk.
    FlushToVar,
    /// Write to memory again.
    RelinquishVar,
    /// Archive the active files.
    Rotate,
    /// Bring everything to disk.
    Synchronize,
    /// Who are you.
    GetInfo,
}

/// Reads one request (without the NUL behind it). The error is the reply to send.
pub fn parse(data: &[u8]) -> Result<(Call, bool), Value> {
    let invalid = |what: &str| json!({"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": what}});
    let request: Value = serde_json::from_slice(data).map_err(|_| invalid("request"))?;
    let method = request
        .get("method")
        .and_then(Value::as_str)
        .ok_or_else(|| invalid("method"))?;
    let call = match method {
        "io.systemd.Journal.FlushToVar" => Call::FlushToVar,
        "io.systemd.Journal.RelinquishVar" => Call::RelinquishVar,
        "io.systemd.Journal.Rotate" => Call::Rotate,
        "io.systemd.Journal.Synchronize" => Call::Synchronize,
        "org.varlink.service.GetInfo" => Call::GetInfo,
        other => {
            return Err(json!({
                "error": "org.varlink.service.MethodNotFound", "parameters": {"method": other}
            }));
        }
    };
    let oneway = request
        .get("oneway")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    Ok((call, oneway))
}

/// The reply to a call that was done.
pub fn done(call: Call) -> Value {
    match call {
        Call::GetInfo => json!({"parameters": {
            "vendor": "Flotilla", "product": "journald", "version": env!("CARGO_PKG_VERSION"), "url": "",
            "interfaces": ["org.varlink.service", "io.systemd.Journal"],
        }}),
        _ => json!({"parameters": {}}),
    }
}

/// The reply to a call that failed.
pub fn failed(text: &str) -> Value {
    json!({"error": "io.systemd.System", "parameters": {"errno": 5, "text": text}})
}

/// The reply to somebody who may not.
pub fn denied() -> Value {
    json!({"error": "org.varlink.service.PermissionDenied", "parameters": {}})
}

/// One caller.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Takes in what has arrived. `false` when the caller has gone or sends too much.
    pub(crate) fn fill(&mut self) -> bool {
        let mut part = [0u8; 4096];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return false,
                Ok(n) => self.buffer.extend_from_slice(&part[..n]),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            if self.buffer.len() > REQUEST_MAX {
                return false;
            }
        }
    }

    /// The next complete request.
    pub(crate) fn next_request(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.iter().position(|b| *b == 0)?;
        let mut request: Vec<u8> = self.buffer.drain(..=end).collect();
        request.pop();
        Some(request)
    }

    /// Replies are far smaller than any socket buffer; a caller that does not read has none.
    pub(crate) fn reply(&mut self, reply: &Value) -> io::Result<()> {
        let mut text = reply.to_string().into_bytes();
        text.push(0);
        self.stream.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn calls_are_recognised() {
        let parse = |text: &str| parse(text.as_bytes());
        assert_eq!(
            parse(r#"{"method":"io.systemd.Journal.FlushToVar","parameters":{}}"#),
            Ok((Call::FlushToVar, false))
        );
        assert_eq!(
            parse(r#"{"method":"io.systemd.Journal.Rotate","oneway":true}"#),
            Ok((Call::Rotate, true))
        );
        let error = parse(r#"{"method":"io.systemd.Journal.Dance"}"#).expect_err("unknown");
        assert_eq!(error["error"], "org.varlink.service.MethodNotFound");
        assert!(parse("[]").is_err());
        assert!(parse("").is_err());
    }

    proptest! {
        #[test]
        fn no_request_makes_the_parser_panic(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&data);
        }
    }
}
