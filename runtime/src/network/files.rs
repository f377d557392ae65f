//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use crate::container::{Attached, Config};
use crate::options::Options;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// Writes the three files into the container's directory.
pub fn write(
    directory: &Path,
    config: &Config,
    options: &Options,
    network: Option<&Attached>,
) -> io::Result<()> {
    let gateway = network
        .map(|network| network.gateway.as_str())
        .filter(|gateway| !gateway.is_empty());
    let address = network
        .map(|network| network.address.as_str())
        .filter(|address| !address.is_empty());
    let host = config.network == "host";
    let hosts = if host {
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        String::new()
    };
    fs::write(
        directory.join("hosts"),
        hosts_text(&hosts, config, address, gateway),
    )?;
    fs::write(directory.join("hostname"), format!("{}\n", config.hostname))?;
    let of_host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let (dns, search) = (
        pick(&config.dns, &options.dns),
        pick(&config.dns_search, &options.dns_search),
    );
    fs::write(
        directory.join("resolv.conf"),
        resolver_text(&of_host, dns, search, host),
    )
}

fn pick<'a>(own: &'a [String], service: &'a [String]) -> &'a [String] {
    if own.is_empty() { service } else { own }
}

fn hosts_text(
    of_host: &str,
    config: &Config,
    address: Option<&str>,
    gateway: Option<&str>,
) -> String {
    let mut text = if of_host.is_empty() {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_owned()
    } else {
        of_host.to_owned()
    };
    for entry in &config.add_host {
        if let Some((name, to)) = entry.split_once(':').or_else(|| entry.split_once('=')) {
            let to = if to == "host-gateway" {
                gateway.unwrap_or("127.0.0.1")
            } else {
                to
            };
            let _ = writeln!(text, "{to}\t{name}");
        }
    }
    if let Some(address) = address {
        let short = config.hostname.split('.').next().unwrap_or_default();
        let both = if short == config.hostname {
            short.to_owned()
        } else {
            format!("{} {short}", config.hostname)
        };
        let _ = writeln!(text, "{address}\t{both}");
    }
    text
}

/// The host's servers but those only the host can reach; public ones when none is left.
fn resolver_text(of_host: &str, dns: &[String], search: &[String], host: bool) -> String {
    let mut text = String::new();
    if dns.is_empty() {
        let mut count = 0;
        for line in of_host.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), Some(server))
                    if host || !(server.starts_with("127.") || server == "::1") =>
                {
                    let _ = writeln!(text, "nameserver {server}");
                    count += 1;
                }
                (Some("search" | "domain"), Some(_)) if !search.is_empty() => {}
                (Some("search" | "domain" | "options"), Some(_)) => {
                    let _ = writeln!(text, "{}", line.trim());
                }
                _ => {}
            }
        }
        if count == 0 {
            text.push_str("nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        }
    } else {
        for server in dns {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    let search: Vec<&str> = search
        .iter()
        .map(String::as_str)
        .filter(|domain| *domain != ".")
        .collect();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_loopback_are_the_hosts_own() {
        assert_eq!(
            resolver_text(
                "nameserver 127.0.0.53\nnameserver 10.0.2.3\nsearch a.example\n",
                &[],
                &[],
                false
            ),
            "nameserver 10.0.2.3\nsearch a.example\n"
        );
        assert_eq!(
            resolver_text("nameserver 127.0.0.53\n", &[], &[], false),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
        assert_eq!(
            resolver_text(
                "nameserver 10.0.2.3\n",
                &["1.1.1.1".into()],
                &["b".into()],
                false
            ),
            "nameserver 1.1.1.1\nsearch b\n"
        );
    }

    #[test]
    fn hosts_get_the_container_and_added_names() {
        let mut config = crate::container::tests::config(&"0".repeat(64), "web");
        config.hostname = "web.example".into();
        config.add_host = vec!["db:10.0.0.9".into(), "up:host-gateway".into()];
        let text = hosts_text("", &config, Some("172.17.0.2"), Some("172.17.0.1"));
        assert!(text.contains("10.0.0.9\tdb\n172.17.0.1\tup\n172.17.0.2\tweb.example web\n"));
    }
}
