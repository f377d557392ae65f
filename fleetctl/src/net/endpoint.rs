//! What `--endpoint` names.

use std::fmt;
use std::path::PathBuf;

use crate::error::Failure;

/// Where the API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host and port, with or without TLS.
    Tcp { host: String, port: u16, tls: bool },
}

impl Endpoint {
    /// Reads an endpoint; of several the first is used, with a warning.
    pub(crate) fn first_of(text: &str) -> Result<Self, Failure> {
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        if !rest.is_empty() {
            eprintln!("fleetctl: several endpoints are given, using the first: {first}");
        }
        Self::parse(first)
    }

    /// Reads one endpoint.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |reason| Failure::Endpoint {
            endpoint: text.to_owned(),
            reason,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad(
                "it needs a scheme: unix:///PATH, http://HOST:PORT, https://HOST:PORT",
            ));
        };
        match scheme {
            "unix" | "file" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "unix" | "file" => Err(bad("a path begins with three slashes: unix:///PATH")),
            "http" | "https" => {
                let tls = scheme == "https";
                let authority = rest.trim_end_matches('/');
                let (host, port) = split_port(authority, if tls { 443 } else { 80 })
                    .ok_or_else(|| bad("the port is not a number"))?;
                if host.is_empty() || host.contains(['/', '@', '?']) {
                    return Err(bad("only a host and a port may follow the scheme"));
                }
                Ok(Self::Tcp { host, port, tls })
            }
            _ => Err(bad("unknown scheme, use unix://, http:// or https://")),
        }
    }

    /// What the request's Host header says.
    pub(crate) fn host_header(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } => join(host, *port),
        }
    }
}

/// Host and port of `HOST[:PORT]`; a literal IPv6 address may stand in brackets.
pub(crate) fn split_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port))
            if !port.ends_with(']') && (!host.contains(':') || host.ends_with(']')) =>
        {
            (host, port.parse().ok()?)
        }
        _ => (text, default),
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    Some((bare.unwrap_or(host).to_owned(), port))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{}", join(host, *port))
            }
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
            ("https://a/", Some("https://a:443")),
            ("https://a:8443", Some("https://a:8443")),
            ("http://[::1]:1", Some("http://[::1]:1")),
            ("http://[fe80::2]", Some("http://[fe80::2]:80")),
            ("unix://run/fleet.sock", None),
            ("10.0.2.11:49153", None),
            ("ftp://a", None),
            ("http://a:b", None),
            ("http://", None),
            ("http://a/v1", None),
            ("http://user@a", None),
        ] {
            let got = Endpoint::first_of(text).ok().map(|e| e.to_string());
            assert_eq!(got.as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn ports_are_split_off() {
        for (text, host, port) in [
            ("a", "a", 22),
            ("a:23", "a", 23),
            ("::1", "::1", 22),
            ("[::1]:23", "::1", 23),
        ] {
            assert_eq!(
                split_port(text, 22),
                Some((host.to_owned(), port)),
                "{text}"
            );
        }
        assert_eq!(split_port("a:x", 22), None);
        assert_eq!(split_port("a:70000", 22), None);
    }
}
