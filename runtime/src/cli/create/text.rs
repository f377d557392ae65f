//! Values of flags as texts: sizes, ports, limits, variables, and which command a container runs. No I/O.

use crate::container::Port;
use oci_runtime::plan::Ulimit;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A number of bytes: `512m`, `1g`, `64kb`, `-1`.
pub fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift);
    }
    let number: f64 = number.parse().ok()?;
    let value = number * f64::from(2u32).powi(shift);
    (value.is_finite() && (0.0..9e18).contains(&value)).then_some(value as i64)
}

/// `[ip:][host[-range]:]container[-range][/protocol]`.
pub fn ports(text: &str) -> Option<Vec<Port>> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if protocol != "tcp" && protocol != "udp" {
        return None;
    }
    let parts: Vec<&str> = rest.split(':').collect();
    let (ip, host, container) = match parts[..] {
        [container] => ("", "", container),
        [host, container] => ("", host, container),
        [ip, host, container] => (ip, host, container),
        _ => return None,
    };
    let host_ip = if ip.is_empty() {
        None
    } else {
        Some(ip.parse::<Ipv4Addr>().ok()?)
    };
    let (first, last) = range(container)?;
    let host_range = if host.is_empty() {
        None
    } else {
        Some(range(host)?)
    };
    if host_range.is_some_and(|(low, high)| high - low != last - first) {
        return None;
    }
    Some(
        (first..=last)
            .map(|port| Port {
                host_ip,
                host_port: host_range.map(|(low, _)| low + (port - first)),
                container_port: port,
                protocol: protocol.clone(),
            })
            .collect(),
    )
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
    (low > 0 && low <= high).then_some((low, high))
}

/// Lines `KEY=value` or `KEY`, `#` comments.
pub(super) fn env_file(text: &str, caller: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| env_entry(line, caller))
        .collect()
}

pub(super) fn env_entry(entry: &str, caller: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if entry.contains('=') {
        return Some(entry.to_owned());
    }
    caller(entry).map(|value| format!("{entry}={value}"))
}

pub(super) fn merge_env(env: &mut Vec<String>, entry: String) {
    let key = entry.split('=').next().unwrap_or_default();
    env.retain(|known| known.split('=').next() != Some(key));
    env.push(entry);
}

pub(super) fn ulimit(text: &str) -> Option<Ulimit> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        other => other.parse().ok(),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    (soft <= hard).then(|| Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

pub(super) fn pairs(entries: &[String]) -> BTreeMap<String, String> {
    entries
        .iter()
        .map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Program and arguments, out of the flag, the words and the image.
pub(super) fn command_line(
    entrypoint: Option<&str>,
    command: &[String],
    run: &oci_image::manifest::RunConfig,
) -> (Vec<String>, Vec<String>) {
    match entrypoint {
        Some("") => (
            Vec::new(),
            if command.is_empty() {
                run.cmd.clone()
            } else {
                command.to_vec()
            },
        ),
        // Another program: the image's arguments were for its own.
        Some(program) => (vec![program.to_owned()], command.to_vec()),
        None if command.is_empty() => (run.entrypoint.clone(), run.cmd.clone()),
        None => (run.entrypoint.clone(), command.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Shown = (Option<String>, Option<u16>, u16, String);

    fn shown(text: &str) -> Option<Vec<Shown>> {
        Some(
            ports(text)?
                .into_iter()
                .map(|port| {
                    (
                        port.host_ip.map(|ip| ip.to_string()),
                        port.host_port,
                        port.container_port,
                        port.protocol,
                    )
                })
                .collect(),
        )
    }

    #[test]
    fn published_ports_are_read() {
        assert_eq!(
            shown("9200:9200"),
            Some(vec![(None, Some(9200), 9200, "tcp".into())])
        );
        assert_eq!(
            shown("127.0.0.1::80/udp"),
            Some(vec![(Some("127.0.0.1".into()), None, 80, "udp".into())])
        );
        assert_eq!(shown("80"), Some(vec![(None, None, 80, "tcp".into())]));
        assert_eq!(shown("8000-8001:80-81").map(|all| all.len()), Some(2));
        for text in [
            "",
            "0:80",
            "x",
            "80:",
            "1:2:3:4",
            "8000-8001:80",
            "80/sctp",
            "70000:80",
            "9-8",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_limits_are_read() {
        for (text, expected) in [
            ("512m", Some(512 << 20)),
            ("1G", Some(1 << 30)),
            ("64kb", Some(64 << 10)),
            ("1.5g", Some(3 << 29)),
            ("-1", Some(-1)),
            ("x", None),
            ("1q", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!(
            ulimit("nofile=1024:2048"),
            Some(Ulimit {
                name: "nofile".into(),
                soft: 1024,
                hard: 2048
            })
        );
        assert_eq!(ulimit("nofile=2:1"), None);
    }

    #[test]
    fn environment_comes_from_flags_files_and_the_caller() {
        let caller = |key: &str| (key == "HOME").then(|| "/h".to_owned());
        assert_eq!(
            env_file("# c\nA=b\n\nHOME\nNOPE\n", &caller),
            ["A=b", "HOME=/h"]
        );
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        merge_env(&mut env, "A=3".into());
        assert_eq!(env, ["B=2", "A=3"]);
    }

    #[test]
    fn the_command_replaces_what_docker_replaces() {
        let run = oci_image::manifest::RunConfig {
            entrypoint: vec!["e".into()],
            cmd: vec!["c".into()],
            ..Default::default()
        };
        let own = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(command_line(None, &[], &run), (own(&["e"]), own(&["c"])));
        assert_eq!(
            command_line(None, &own(&["x"]), &run),
            (own(&["e"]), own(&["x"]))
        );
        assert_eq!(command_line(Some("p"), &[], &run), (own(&["p"]), own(&[])));
        assert_eq!(command_line(Some(""), &[], &run), (own(&[]), own(&["c"])));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[-0-9a-z:/.=]{0,24}") {
            let _ = (ports(&text), bytes(&text), ulimit(&text));
        }
    }
}
