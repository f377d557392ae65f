//! Values of single options.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happens to a unit whose machine loses the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partition {
    /// It keeps running there; the engine starts another one as soon as the machine's lease ends.
    #[default]
    Keep,
    /// Its machine stops it when its lease ends, and only then the engine starts another one.
    Stop,
}

/// A unit that runs to its end and is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Batch {
    /// How often it is tried on further machines after it has failed.
    pub retries: u32,
}

/// Transport of an announced port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port that a unit serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announce {
    /// Name of the service.
    pub service: String,
    /// The port.
    pub port: u16,
    /// Its transport.
    pub proto: Proto,
}

impl Announce {
    /// Reads `[NAME:]PORT[/tcp|udp]`; `default` is the name if none is given.
    pub(super) fn parse(text: &str, default: &str) -> Result<Self, &'static str> {
        let (rest, proto) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Proto::Tcp),
            Some((rest, "udp")) => (rest, Proto::Udp),
            Some(_) => return Err("after \"/\" comes tcp or udp"),
            None => (text, Proto::Tcp),
        };
        let (service, port) = rest.rsplit_once(':').unwrap_or((default, rest));
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if rest.contains(':')
            && (service.is_empty()
                || service.len() > 63
                || service.starts_with('-')
                || !service.bytes().all(legal))
        {
            return Err("a service name has 1 to 63 letters, digits, \"-\" and \"_\"");
        }
        match port.parse() {
            Ok(port) if port > 0 && !rest.ends_with('+') && !rest.contains('+') => Ok(Self {
                service: service.to_owned(),
                port,
                proto,
            }),
            _ => Err("a port is a number from 1 to 65535"),
        }
    }
}

/// One of the words for yes and no, in any case.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "1" | "on" | "t" => Some(true),
        "false" | "no" | "0" | "off" | "f" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_are_said_in_these_words() {
        for (text, expect) in [
            ("true", Some(true)),
            ("Yes", Some(true)),
            ("1", Some(true)),
            ("ON", Some(true)),
            ("t", Some(true)),
            ("y", None),
            ("2", None),
            ("", None),
            ("no", Some(false)),
        ] {
            assert_eq!(parse_bool(text), expect, "{text}");
        }
    }

    #[test]
    fn announcements_have_name_port_and_transport() {
        let read = |text| {
            Announce::parse(text, "web@1").map(|a| format!("{} {} {}", a.service, a.port, a.proto))
        };
        for (text, expect) in [
            ("80", "web@1 80 tcp"),
            ("http:80", "http 80 tcp"),
            ("http:80/tcp", "http 80 tcp"),
            ("dns_x-1:53/udp", "dns_x-1 53 udp"),
            ("65535/udp", "web@1 65535 udp"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expect));
        }
        for text in [
            "", "0", "65536", "x", "a:", ":80", "a b:80", "a/b:80", "80/sctp", "80/", "-a:80",
            "+80", "a:+80", "a:b:80", "é:80",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
