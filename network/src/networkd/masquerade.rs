//! `IPMasquerade=`: one table of ours in the packet filter, replaced in one transaction.

use std::fmt::Write as _;

use crate::config::Cidr;

const TABLE: &str = "inet flotilla-networkd";

/// The rules for links with `IPMasquerade=`: what comes from their networks and leaves by another link.
pub(super) fn rules(links: &[(String, Vec<Cidr>)]) -> String {
    // "add" before "delete" so that the first time works like every other.
    let mut out = format!("add table {TABLE}\ndelete table {TABLE}\n");
    if links.iter().all(|(_, networks)| networks.is_empty()) {
        return out;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "table {TABLE} {{\n chain postrouting {{\n  type nat hook postrouting priority srcnat;"
    );
    for (name, networks) in links {
        for network in networks {
            let family = if network.addr.is_ipv4() { "ip" } else { "ip6" };
            let (base, prefix) = (network.network(), network.prefix);
            let _ = writeln!(
                out,
                "  {family} saddr {base}/{prefix} oifname != \"{name}\" masquerade"
            );
        }
    }
    out.push_str(" }\n}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_networks_and_links() {
        let cidr = |t| Cidr::parse(t).unwrap();
        let text = rules(&[(
            "br0".into(),
            vec![cidr("10.1.2.3/24"), cidr("2001:db8::1/64")],
        )]);
        assert!(
            text.contains("  ip saddr 10.1.2.0/24 oifname != \"br0\" masquerade\n"),
            "{text}"
        );
        assert!(
            text.contains("  ip6 saddr 2001:db8::/64 oifname != \"br0\" masquerade\n"),
            "{text}"
        );
        assert_eq!(rules(&[]).lines().count(), 2);
    }
}
