//! Debian `interfaces` files, in the part that config drives use: static, dhcp and manual links, bonds
//! and VLANs. Anything else is an error with its line, as in the original.

use std::collections::BTreeMap;

use super::{LinkConfig, NetworkError, NetworkFiles, Route, with_prefix};

/// One `iface` stanza.
#[derive(Debug, Default)]
struct Stanza {
    line: u32,
    name: String,
    method: String,
    options: Vec<(String, Vec<String>)>,
}

impl Stanza {
    fn values(&self, key: &str) -> Vec<String> {
        let found = self
            .options
            .iter()
            .filter(|(k, _)| k.replace('_', "-") == key);
        found.flat_map(|(_, v)| v.iter().cloned()).collect()
    }

    fn value(&self, key: &str) -> String {
        self.values(key).into_iter().next().unwrap_or_default()
    }

    fn error(&self, message: impl Into<String>) -> NetworkError {
        NetworkError {
            line: self.line,
            message: format!("iface {}: {}", self.name, message.into()),
        }
    }
}

/// Files made of an `interfaces` text.
pub fn convert(text: &str) -> Result<NetworkFiles, NetworkError> {
    let stanzas = stanzas(text)?;
    let mut links: BTreeMap<String, LinkConfig> = BTreeMap::new();
    let mut devices: BTreeMap<String, String> = BTreeMap::new();
    for stanza in stanzas.iter().filter(|s| s.method != "loopback") {
        let link = links.entry(stanza.name.clone()).or_default();
        stanza.name.clone_into(&mut link.name);
        fill(link, stanza)?;
    }
    for stanza in &stanzas {
        virtual_device(stanza, &mut links, &mut devices)?;
    }
    // A device is written before the links that stand on it: parents have the higher number.
    let mut files = NetworkFiles::new();
    for (name, text) in &devices {
        files.push((
            format!("{}-{name}.netdev", depth(name, &links)),
            text.clone(),
        ));
    }
    for (name, link) in &links {
        files.push((
            format!("{}-{name}.network", depth(name, &links)),
            link.render(),
        ));
    }
    files.sort();
    Ok(files)
}

/// Two hex digits: 00 for a leaf, more for what has children.
fn depth(name: &str, links: &BTreeMap<String, LinkConfig>) -> String {
    fn count(name: &str, links: &BTreeMap<String, LinkConfig>, left: u8) -> u8 {
        let Some(link) = links.get(name).filter(|_| left > 0) else {
            return 0;
        };
        let children = link
            .vlans
            .iter()
            .chain(Some(&link.bond).filter(|b| !b.is_empty()));
        children
            .map(|child| 1 + count(child, links, left - 1))
            .max()
            .unwrap_or(0)
    }
    format!("{:02x}", count(name, links, 16))
}

fn fill(link: &mut LinkConfig, stanza: &Stanza) -> Result<(), NetworkError> {
    let hardware = stanza.values("hwaddress");
    if let Some(address) = hardware.iter().rfind(|w| *w != "ether") {
        link.mac = address.to_ascii_lowercase();
    }
    match stanza.method.as_str() {
        "dhcp" => link.dhcp4 = true,
        "manual" => {}
        "static" => {
            let (address, mask) = (stanza.value("address"), stanza.value("netmask"));
            if address.is_empty() || mask.is_empty() {
                return Err(stanza.error("static needs address and netmask"));
            }
            let whole = with_prefix(&address, &mask)
                .ok_or_else(|| stanza.error(format!("bad address {address} or netmask {mask}")))?;
            link.addresses.push(whole);
            link.gateways
                .extend(Some(stanza.value("gateway")).filter(|g| !g.is_empty()));
        }
        other => return Err(stanza.error(format!("method {other} is not known"))),
    }
    link.dns.extend(stanza.values("dns-nameservers"));
    link.domains.extend(stanza.values("dns-search"));
    for (key, words) in &stanza.options {
        if key == "post-up" || key == "up" {
            link.routes.extend(route_command(words));
        }
    }
    Ok(())
}

/// `route add -net NET netmask MASK gw GATEWAY`; other commands are not ours to run.
fn route_command(words: &[String]) -> Option<Route> {
    let after = |name: &str| {
        let at = words.iter().position(|w| w == name)?;
        words.get(at + 1).cloned()
    };
    if words.first().map(String::as_str) != Some("route") || words.get(1)? != "add" {
        return None;
    }
    let destination = with_prefix(&after("-net")?, &after("netmask").unwrap_or_default())?;
    let default = destination == "0.0.0.0/0";
    Some(Route {
        destination: if default { String::new() } else { destination },
        gateway: after("gw")?,
        metric: String::new(),
    })
}

/// Adds the device of a bond or VLAN stanza and ties it to its parents.
fn virtual_device(
    stanza: &Stanza,
    links: &mut BTreeMap<String, LinkConfig>,
    devices: &mut BTreeMap<String, String>,
) -> Result<(), NetworkError> {
    let name = &stanza.name;
    let parent = stanza.value("vlan-raw-device");
    let dotted = name
        .rsplit_once('.')
        .filter(|(_, id)| id.parse::<u16>().is_ok());
    if !parent.is_empty() || dotted.is_some() {
        let id = match (name.strip_prefix("vlan"), dotted) {
            (_, Some((_, id))) => id.parse::<u16>().ok(),
            (Some(id), None) => id.parse::<u16>().ok(),
            (None, None) => None,
        };
        let id = id
            .filter(|id| (1..4095).contains(id))
            .ok_or_else(|| stanza.error("no VLAN id in the name (vlanN or x.N)"))?;
        let parent = if parent.is_empty() {
            dotted.map(|(base, _)| base.to_owned()).unwrap_or_default()
        } else {
            parent
        };
        devices.insert(
            name.clone(),
            format!("[NetDev]\nKind=vlan\nName={name}\n\n[VLAN]\nId={id}\n"),
        );
        let link = links.entry(parent.clone()).or_default();
        link.name = parent;
        link.vlans.push(name.clone());
    }
    let slaves = stanza.values("bond-slaves");
    if !slaves.is_empty() {
        let mut text = format!("[NetDev]\nKind=bond\nName={name}\n\n[Bond]\n");
        for (option, key) in [
            ("bond-mode", "Mode"),
            ("bond-miimon", "MIIMonitorSec"),
            ("bond-lacp-rate", "LACPTransmitRate"),
        ] {
            let mut value = stanza.value(option);
            if option == "bond-miimon" && !value.is_empty() {
                value.push_str("ms");
            }
            super::line(&mut text, key, &value);
        }
        devices.insert(name.clone(), text);
        for slave in slaves.into_iter().filter(|s| s != "none") {
            let link = links.entry(slave.clone()).or_default();
            link.name = slave;
            link.bond.clone_from(name);
        }
    }
    Ok(())
}

fn stanzas(text: &str) -> Result<Vec<Stanza>, NetworkError> {
    let mut stanzas: Vec<Stanza> = Vec::new();
    let mut in_iface = false;
    for (number, line) in logical_lines(text) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Some((first, rest)) = words.split_first() else {
            continue;
        };
        let error = |message: String| NetworkError {
            line: number,
            message,
        };
        match first.as_str() {
            "auto" => in_iface = false,
            "iface" => {
                let [name, family, method] = rest else {
                    return Err(error(
                        "iface needs a name, a family and a method".to_owned(),
                    ));
                };
                if family != "inet" && family != "inet6" {
                    return Err(error(format!("address family {family} is not known")));
                }
                let (name, method) = (name.clone(), method.clone());
                stanzas.push(Stanza {
                    line: number,
                    name,
                    method,
                    options: Vec::new(),
                });
                in_iface = true;
            }
            "mapping" | "source" | "source-directory" => {
                return Err(error(format!("{first} is not supported")));
            }
            allow if allow.starts_with("allow-") => {
                return Err(error(format!("{allow} is not supported")));
            }
            option if in_iface => {
                if let Some(stanza) = stanzas.last_mut() {
                    stanza.options.push((option.to_owned(), rest.to_vec()));
                }
            }
            other => return Err(error(format!("\"{other}\" belongs to no stanza"))),
        }
    }
    Ok(stanzas)
}

/// Lines with their numbers, continuations joined, comments dropped.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let trimmed = raw.trim();
        if open.is_none() && trimmed.starts_with('#') {
            continue;
        }
        let (start, mut line) = open.take().unwrap_or((number, String::new()));
        match trimmed.strip_suffix('\\') {
            Some(part) => {
                line.push_str(part);
                line.push(' ');
                open = Some((start, line));
            }
            None => {
                line.push_str(trimmed);
                lines.push((start, line));
            }
        }
    }
    lines.extend(open);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_links_bonds_and_vlans() {
        let files = convert(
            "# comment\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n  \
             address 10.1.2.3\n  netmask 255.255.255.0 \\\n\n  gateway 10.1.2.1\n  \
             dns-nameservers 8.8.8.8 8.8.4.4\n  hwaddress ether AA:BB:CC:00:11:22\n  \
             post-up route add -net 10.0.0.0 netmask 255.0.0.0 gw 10.1.2.9 || true\n\
             iface bond0 inet manual\n  bond-slaves eth1 eth2\n  bond-mode 802.3ad\n  bond-miimon 100\n\
             iface bond0.7 inet dhcp\n",
        )
        .unwrap();
        let names: Vec<&str> = files.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(
            names,
            [
                "00-bond0.7.netdev",
                "00-bond0.7.network",
                "00-eth0.network",
                "01-bond0.netdev",
                "01-bond0.network",
                "02-eth1.network",
                "02-eth2.network"
            ]
        );
        assert_eq!(
            files[2].1,
            "[Match]\nMACAddress=aa:bb:cc:00:11:22\nName=eth0\n\n[Network]\nDHCP=no\nAddress=10.1.2.3/24\n\
             Gateway=10.1.2.1\nDNS=8.8.8.8\nDNS=8.8.4.4\n\n[Route]\nDestination=10.0.0.0/8\nGateway=10.1.2.9\n"
        );
        assert!(files[3].1.contains("Mode=802.3ad\nMIIMonitorSec=100ms\n"));
        assert!(files[4].1.contains("VLAN=bond0.7\n"));
        assert!(files[5].1.contains("Bond=bond0\n"));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (text, line) in [
            ("mapping eth0\n", 1),
            ("auto a\n\nallow-hotplug a\n", 3),
            ("iface eth0 inet static\n address 1.2.3.4\n", 1),
            ("iface eth0 inet\n", 1),
            ("address 1.2.3.4\n", 1),
            ("iface eth0 inet ppp\n", 1),
        ] {
            assert_eq!(convert(text).unwrap_err().line, line, "{text}");
        }
    }
}
