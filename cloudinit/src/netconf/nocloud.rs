//! cloud-init's `network-config`, versions 1 and 2, ethernet links.
//!
//! Bonds, bridges and VLANs are named in a note and left out: the image's networkd does not do them yet.

use super::{LinkConfig, NetworkError, NetworkFiles, Route, with_prefix};
use crate::yaml::{self, Node, Value};

/// Files made of the settings, with a note for each part that is left out.
pub fn convert(text: &str) -> Result<(NetworkFiles, Vec<String>), NetworkError> {
    let root = yaml::parse(text).map_err(|e| NetworkError {
        line: e.mark.line,
        message: e.message,
    })?;
    let Some(root) = root else {
        return Ok((Vec::new(), Vec::new()));
    };
    let root = root.get("network").unwrap_or(&root);
    let mut notes = Vec::new();
    let links = match root.get_text("version") {
        Some("1") => version_1(root, &mut notes)?,
        Some("2") => version_2(root, &mut notes)?,
        _ if root.get_text("config") == Some("disabled") => Vec::new(),
        other => {
            return Err(NetworkError {
                line: root.mark.line,
                message: format!(
                    "network-config has version {}, known are 1 and 2",
                    other.unwrap_or("none")
                ),
            });
        }
    };
    let files = links
        .into_iter()
        .map(|(label, l)| (l.file_name(&label), l.render()))
        .collect();
    Ok((files, notes))
}

fn bad(node: &Node, message: impl Into<String>) -> NetworkError {
    NetworkError {
        line: node.mark.line,
        message: message.into(),
    }
}

fn text(node: &Node, key: &str) -> String {
    node.get_text(key).unwrap_or_default().to_owned()
}

fn flag(node: &Node, key: &str) -> bool {
    node.get(key)
        .and_then(Node::as_scalar)
        .and_then(yaml::Scalar::as_bool)
        .unwrap_or(false)
}

/// A list of texts, or one text with blanks or commas between the parts.
fn texts(node: &Node, key: &str) -> Vec<String> {
    match node.get(key).map(|n| &n.value) {
        Some(Value::List(items)) => items
            .iter()
            .filter_map(Node::as_scalar)
            .map(|s| s.text.clone())
            .collect(),
        Some(Value::Scalar(s)) if !s.is_null() => s
            .text
            .split([' ', ','])
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

fn address(node: &Node, address: &str, mask: &str) -> Result<String, NetworkError> {
    with_prefix(address, mask).ok_or_else(|| {
        bad(
            node,
            format!("\"{address}\" is not an address with a prefix length"),
        )
    })
}

fn version_2(
    root: &Node,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, LinkConfig)>, NetworkError> {
    for kind in ["bonds", "bridges", "vlans", "wifis"] {
        if root.get(kind).is_some_and(|n| !n.is_null()) {
            notes.push(format!(
                "network-config: {kind} are not supported and are left out"
            ));
        }
    }
    let mut links = Vec::new();
    let ethernets = root
        .get("ethernets")
        .and_then(Node::as_map)
        .unwrap_or_default();
    for entry in ethernets {
        links.push((
            entry.raw_key.clone(),
            ethernet(&entry.raw_key, &entry.node, notes)?,
        ));
    }
    Ok(links)
}

fn ethernet(label: &str, node: &Node, notes: &mut Vec<String>) -> Result<LinkConfig, NetworkError> {
    let mut link = LinkConfig {
        mtu: text(node, "mtu"),
        optional: flag(node, "optional"),
        dhcp4: flag(node, "dhcp4"),
        dhcp6: flag(node, "dhcp6"),
        ..LinkConfig::default()
    };
    match node.get("match") {
        Some(matching) => {
            link.mac = text(matching, "macaddress").to_ascii_lowercase();
            link.name = text(matching, "name");
        }
        None => label.clone_into(&mut link.name),
    }
    if link.mac.is_empty() && link.name.is_empty() {
        return Err(bad(
            node,
            format!("{label}: match names neither a MAC address nor a name"),
        ));
    }
    let new_name = text(node, "set_name");
    if !new_name.is_empty() && new_name != label {
        notes.push(format!("network-config: {label}: set-name is left out"));
    }
    if let Some(ra) = node
        .get("accept_ra")
        .and_then(Node::as_scalar)
        .and_then(yaml::Scalar::as_bool)
    {
        link.accept_ra = if ra { "yes" } else { "no" }.to_owned();
    }
    if let Some(items) = node.get("addresses").and_then(Node::as_list) {
        for item in items {
            let plain = item.as_scalar().map(|s| s.text.as_str());
            // An address with options is a mapping with the address as its key.
            let keyed = item
                .as_map()
                .and_then(|m| m.first())
                .map(|e| e.raw_key.as_str());
            let value = plain.or(keyed).unwrap_or_default();
            link.addresses.push(address(item, value, "")?);
        }
    }
    for key in ["gateway4", "gateway6"] {
        link.gateways
            .extend(Some(text(node, key)).filter(|g| !g.is_empty()));
    }
    if let Some(servers) = node.get("nameservers") {
        link.dns = texts(servers, "addresses");
        link.domains = texts(servers, "search");
    }
    if let Some(routes) = node.get("routes").and_then(Node::as_list) {
        for route in routes {
            let to = text(route, "to");
            let is_default = matches!(to.as_str(), "default" | "0.0.0.0/0" | "::/0" | "0/0");
            let destination = if is_default {
                String::new()
            } else {
                address(route, &to, "")?
            };
            link.routes.push(Route {
                destination,
                gateway: text(route, "via"),
                metric: text(route, "metric"),
            });
        }
    }
    Ok(link)
}

fn version_1(
    root: &Node,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, LinkConfig)>, NetworkError> {
    let mut links: Vec<(String, LinkConfig)> = Vec::new();
    let (mut dns, mut domains) = (Vec::new(), Vec::new());
    for item in root
        .get("config")
        .and_then(Node::as_list)
        .unwrap_or_default()
    {
        let name = text(item, "name");
        match item.get_text("type") {
            Some("physical") => links.push((name.clone(), physical(&name, item)?)),
            Some("nameserver") => {
                dns.extend(texts(item, "address"));
                domains.extend(texts(item, "search"));
            }
            Some("loopback") => {}
            Some(other) => notes.push(format!(
                "network-config: line {}: type {other} is not supported and is left out",
                item.mark.line
            )),
            None => return Err(bad(item, "an entry of config has no type")),
        }
    }
    for (_, link) in &mut links {
        link.dns.extend(dns.iter().cloned());
        link.domains.extend(domains.iter().cloned());
    }
    Ok(links)
}

fn physical(name: &str, node: &Node) -> Result<LinkConfig, NetworkError> {
    let mut link = LinkConfig {
        mac: text(node, "mac_address").to_ascii_lowercase(),
        mtu: text(node, "mtu"),
        ..LinkConfig::default()
    };
    if link.mac.is_empty() {
        name.clone_into(&mut link.name);
    }
    if link.mac.is_empty() && link.name.is_empty() {
        return Err(bad(
            node,
            "a physical link has neither a name nor a mac_address",
        ));
    }
    for subnet in node
        .get("subnets")
        .and_then(Node::as_list)
        .unwrap_or_default()
    {
        match subnet.get_text("type").unwrap_or_default() {
            "dhcp" | "dhcp4" => link.dhcp4 = true,
            "dhcp6" | "ipv6_dhcpv6-stateful" => link.dhcp6 = true,
            "ipv6_slaac" | "ipv6_dhcpv6-stateless" => "yes".clone_into(&mut link.accept_ra),
            "static" | "static6" => {
                let own = text(subnet, "address");
                link.addresses
                    .push(address(subnet, &own, &text(subnet, "netmask"))?);
            }
            "manual" | "" => {}
            other => return Err(bad(subnet, format!("subnet type {other} is not known"))),
        }
        link.gateways
            .extend(Some(text(subnet, "gateway")).filter(|g| !g.is_empty()));
        link.dns.extend(texts(subnet, "dns_nameservers"));
        link.domains.extend(texts(subnet, "dns_search"));
        for route in subnet
            .get("routes")
            .and_then(Node::as_list)
            .unwrap_or_default()
        {
            link.routes.push(route_1(route)?);
        }
    }
    Ok(link)
}

fn route_1(node: &Node) -> Result<Route, NetworkError> {
    let mut to = text(node, "network");
    if to.is_empty() {
        to = text(node, "destination");
    }
    let destination = address(node, &to, &text(node, "netmask"))?;
    let is_default = matches!(destination.as_str(), "0.0.0.0/0" | "::/0");
    Ok(Route {
        destination: if is_default {
            String::new()
        } else {
            destination
        },
        gateway: text(node, "gateway"),
        metric: text(node, "metric"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_with_mac_match() {
        let (files, notes) = convert(
            "version: 2\nethernets:\n  lan0:\n    match:\n      macaddress: \"52:54:00:F1:07:11\"\n    \
             addresses: [10.0.2.11/24]\n    gateway4: 10.0.2.2\n    nameservers:\n      addresses: [10.0.2.3]\n      search: [a.b]\n    \
             mtu: 1400\n    routes:\n    - to: 10.9.0.0/16\n      via: 10.0.2.9\n      metric: 5\nbonds:\n  b: {}\n",
        )
        .unwrap();
        assert_eq!(notes.len(), 1);
        assert_eq!(files[0].0, "50-cloudinit-lan0.network");
        assert_eq!(
            files[0].1,
            "[Match]\nMACAddress=52:54:00:f1:07:11\n\n[Link]\nMTUBytes=1400\n\n[Network]\nDHCP=no\n\
             Address=10.0.2.11/24\nGateway=10.0.2.2\nDNS=10.0.2.3\nDomains=a.b\n\n[Route]\n\
             Destination=10.9.0.0/16\nGateway=10.0.2.9\nMetric=5\n"
        );
    }

    #[test]
    fn version_1_with_global_name_servers() {
        let (files, _) = convert(
            "network:\n  version: 1\n  config:\n  - type: physical\n    name: eth0\n    subnets:\n    \
             - type: static\n      address: 192.168.1.5\n      netmask: 255.255.255.0\n      gateway: 192.168.1.1\n    \
             - type: dhcp6\n  - type: nameserver\n    address: [1.1.1.1]\n  - type: vlan\n    name: v\n",
        )
        .unwrap();
        assert_eq!(
            files[0].1,
            "[Match]\nName=eth0\n\n[Network]\nDHCP=ipv6\nAddress=192.168.1.5/24\nGateway=192.168.1.1\nDNS=1.1.1.1\n"
        );
    }

    #[test]
    fn bad_settings_name_their_line() {
        for (text, line) in [
            ("version: 3\n", 1),
            (
                "version: 2\nethernets:\n  a:\n    addresses: [nonsense]\n",
                4,
            ),
            ("version: 1\nconfig:\n- name: x\n", 3),
            ("a: [\n", 1),
        ] {
            assert_eq!(convert(text).unwrap_err().line, line, "{text}");
        }
        assert_eq!(convert("").unwrap().0, []);
    }
}
