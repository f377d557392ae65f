//! The text of `resolv.conf` and of the time daemon's source list.

use std::fmt::Write as _;
use std::net::IpAddr;

/// What one link brings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Order among leases: lower first.
    pub metric: u32,
    /// Name servers of its file.
    pub file_dns: Vec<IpAddr>,
    /// Search domains of its file, routing-only ones with `~`.
    pub file_domains: Vec<String>,
    /// Name servers of its lease.
    pub lease_dns: Vec<IpAddr>,
    /// Search domains of its lease.
    pub lease_domains: Vec<String>,
    /// Time servers of file and lease.
    pub ntp: Vec<String>,
}

/// The C library asks no more.
const MOST_SERVERS: usize = 3;

/// Name servers of files first, then of leases by metric, at most three, each once.
pub fn resolv_conf(sources: &[Source]) -> String {
    let mut sorted: Vec<&Source> = sources.iter().collect();
    sorted.sort_by_key(|s| s.metric);
    let from_files = sources.iter().flat_map(|s| &s.file_dns);
    let servers = unique(from_files.chain(sorted.iter().flat_map(|s| &s.lease_dns)));
    let domains = sources.iter().flat_map(|s| &s.file_domains);
    let domains = unique(domains.chain(sorted.iter().flat_map(|s| &s.lease_domains)));
    let search: Vec<&str> = domains
        .iter()
        .map(|d| d.as_str())
        .filter(|d| !d.starts_with('~'))
        .collect();

    let mut out = String::from(
        "# Written by networkd from .network files and DHCP leases. Changes are lost.\n",
    );
    for server in servers.iter().take(MOST_SERVERS) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "nameserver {server}");
    }
    if servers.len() > MOST_SERVERS {
        let rest: Vec<String> = servers[MOST_SERVERS..]
            .iter()
            .map(ToString::to_string)
            .collect();
        let _ = writeln!(out, "# not used, three are the most: {}", rest.join(" "));
    }
    if !search.is_empty() {
        let _ = writeln!(out, "search {}", search.join(" "));
    }
    out
}

/// Chrony's list of servers.
pub fn time_sources(sources: &[Source]) -> String {
    unique(sources.iter().flat_map(|s| &s.ntp))
        .iter()
        .fold(String::new(), |mut out, server| {
            let _ = writeln!(out, "server {server} iburst");
            out
        })
}

fn unique<'a, T: PartialEq>(items: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut out: Vec<&T> = Vec::new();
    for item in items {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_first_then_leases_by_metric_and_three_at_most() {
        let ip = |t: &str| t.parse::<IpAddr>().unwrap();
        let sources = [
            Source {
                metric: 2048,
                lease_dns: vec![ip("9.9.9.9"), ip("8.8.8.8")],
                lease_domains: vec!["b.org".into()],
                ..Source::default()
            },
            Source {
                metric: 1024,
                file_dns: vec![ip("1.1.1.1")],
                file_domains: vec!["a.org".into(), "~corp".into()],
                lease_dns: vec![ip("10.0.2.3"), ip("1.1.1.1")],
                lease_domains: vec!["a.org".into(), "c.org".into()],
                ntp: vec!["10.0.2.9".into(), "10.0.2.9".into()],
            },
        ];
        let text = resolv_conf(&sources);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "nameserver 1.1.1.1",
                "nameserver 10.0.2.3",
                "nameserver 9.9.9.9",
                "# not used, three are the most: 8.8.8.8",
                "search a.org c.org b.org",
            ]
        );
        assert_eq!(time_sources(&sources), "server 10.0.2.9 iburst\n");
        assert_eq!(resolv_conf(&[]).lines().count(), 1);
    }
}
