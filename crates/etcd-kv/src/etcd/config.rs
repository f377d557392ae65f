//! How to reach a cluster: addresses, who we are, deadlines.

use std::fmt;
use std::time::Duration;

use super::tls::Tls;
use crate::error::KvError;

/// One server address, from a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Endpoint {
    /// Understands `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` and `HOST` (port 2379), HOST
    /// being a name, an IPv4 address or a bracketed IPv6 address; a trailing slash is fine.
    pub fn parse(text: &str) -> Result<Self, KvError> {
        let bad = |reason: &str| KvError::BadEndpoint {
            endpoint: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => return Err(bad(&format!("unknown scheme \"{scheme}\""))),
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') || rest.contains('@') {
            return Err(bad("only HOST:PORT may follow the scheme"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => match v6.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(""))),
                None => return Err(bad("no closing bracket")),
            },
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| bad("the port is not a number"))?,
            None => 2379,
        };
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("no host name"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// HOST:PORT.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password; never printed.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// The servers, tried in this order.
    pub endpoints: Vec<Endpoint>,
    /// Deadline of every call, all attempts together.
    pub request_timeout: Duration,
    /// Who we are, where the cluster has authentication on; ignored by one that has it off.
    pub credentials: Option<Credentials>,
    /// For `https://` endpoints; `None`: the system's authorities and no certificate of ours.
    pub tls: Option<Tls>,
}

impl EtcdConfig {
    /// A configuration for these URLs with a deadline of 5 s, no credentials and no files
    /// for TLS.
    pub fn new<S: AsRef<str>>(endpoints: &[S]) -> Result<Self, KvError> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|e| Endpoint::parse(e.as_ref()))
            .collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(KvError::BadEndpoint {
                endpoint: String::new(),
                reason: "no endpoint is given".into(),
            });
        }
        Ok(Self {
            endpoints,
            request_timeout: Duration::from_secs(5),
            credentials: None,
            tls: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_their_usual_spellings() {
        for (text, expect) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("http://127.0.0.1:4001/", "http://127.0.0.1:4001"),
            ("10.0.2.11:2379", "http://10.0.2.11:2379"),
            ("etcd", "http://etcd:2379"),
            ("http://[::1]:2379", "http://[::1]:2379"),
            ("https://etcd.example:2379/", "https://etcd.example:2379"),
            ("https://[::1]", "https://[::1]:2379"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), expect);
        }
        for text in [
            "",
            "http://",
            "https://",
            "unix:///x",
            "http://a:b",
            "http://a:1/x",
            "[::1",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
