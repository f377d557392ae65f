//! Where buses are.

use std::env;
use std::path::PathBuf;

/// The system bus where nothing else is said.
pub const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// The service manager's own socket, for root.
pub const PRIVATE: &str = "unix:path=/run/systemd/private";

/// A way to reach a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A socket in the file system.
    Path(PathBuf),
    /// A socket with an abstract name.
    Abstract(String),
}

/// The system bus's address: `DBUS_SYSTEM_BUS_ADDRESS`, else [`SYSTEM_BUS`].
pub fn system() -> String {
    env::var("DBUS_SYSTEM_BUS_ADDRESS")
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| SYSTEM_BUS.to_owned())
}

/// The transports of an address, in order; those that are not unix sockets are left out.
pub fn parse(address: &str) -> Vec<Transport> {
    address.split(';').filter_map(one).collect()
}

fn one(entry: &str) -> Option<Transport> {
    let pairs = entry.strip_prefix("unix:")?;
    pairs
        .split(',')
        .find_map(|pair| match pair.split_once('=')? {
            ("path", value) => Some(Transport::Path(PathBuf::from(unescape(value)?))),
            ("abstract", value) => Some(Transport::Abstract(unescape(value)?)),
            _ => None,
        })
}

/// Undo `%xx`.
fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let path = |text: &str| Transport::Path(PathBuf::from(text));
        for (address, expect) in [
            (SYSTEM_BUS, vec![path("/run/dbus/system_bus_socket")]),
            ("unix:path=/a%20b,guid=12", vec![path("/a b")]),
            (
                "tcp:host=x;unix:abstract=y",
                vec![Transport::Abstract("y".into())],
            ),
            ("unix:path=/a%2", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse(address), expect, "{address}");
        }
    }
}
