//! Which file a link gets.

use super::model::{Condition, Match, NetworkFile, Patterns};
use super::values::{glob, words};
use crate::netlink::Mac;

/// What a `[Match]` section can ask about a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkFacts {
    /// Kernel name.
    pub name: String,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// Current hardware address.
    pub mac: Option<Mac>,
    /// Burnt-in hardware address.
    pub permanent_mac: Option<Mac>,
    /// `ether`, `loopback`, `bridge`, `wlan`, …
    pub kind: String,
    /// Kernel driver, or the kind of a virtual device.
    pub driver: Option<String>,
    /// Where the device sits (`pci-0000:00:03.0`).
    pub path: Option<String>,
}

/// What a `[Match]` section can ask about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Host name.
    pub hostname: String,
    /// Machine id.
    pub machine_id: String,
    /// Kernel command line.
    pub command_line: String,
    /// Name of the hypervisor or container manager, if any.
    pub virtualization: Option<Virtualization>,
}

/// What the machine runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Virtualization {
    /// `kvm`, `qemu`, `vmware`, …
    pub id: String,
    /// A container, not a virtual machine.
    pub container: bool,
}

/// The first file, in the order given, whose whole `[Match]` holds.
pub fn choose<'a>(
    files: &'a [NetworkFile],
    link: &LinkFacts,
    host: &HostFacts,
) -> Option<&'a NetworkFile> {
    files.iter().find(|file| holds(&file.rule, link, host))
}

/// Whether all conditions hold; an empty section holds for nothing.
pub fn holds(rule: &Match, link: &LinkFacts, host: &HostFacts) -> bool {
    *rule != Match::default()
        && rule.name.as_ref().is_none_or(|p| {
            fits(
                p,
                std::iter::once(&link.name)
                    .chain(&link.altnames)
                    .map(String::as_str),
            )
        })
        && rule
            .mac
            .as_ref()
            .is_none_or(|list| link.mac.is_some_and(|mac| list.contains(&mac)))
        && rule
            .permanent_mac
            .as_ref()
            .is_none_or(|list| link.permanent_mac.is_some_and(|mac| list.contains(&mac)))
        && rule
            .kind
            .as_ref()
            .is_none_or(|p| fits(p, std::iter::once(link.kind.as_str())))
        && rule
            .driver
            .as_ref()
            .is_none_or(|p| fits(p, link.driver.as_deref()))
        && rule
            .path
            .as_ref()
            .is_none_or(|p| fits(p, link.path.as_deref()))
        && rule
            .virtualization
            .as_ref()
            .is_none_or(|c| virtualization(c, host))
        && rule
            .kernel_command_line
            .as_ref()
            .is_none_or(|c| command_line(c, host))
        && rule.host.as_ref().is_none_or(|c| {
            (glob(
                &c.text.to_ascii_lowercase(),
                &host.hostname.to_ascii_lowercase(),
            ) || c.text.eq_ignore_ascii_case(&host.machine_id))
                != c.negated
        })
}

fn fits<'a>(patterns: &Patterns, values: impl IntoIterator<Item = &'a str>) -> bool {
    let hit = values
        .into_iter()
        .any(|value| patterns.patterns.iter().any(|pattern| glob(pattern, value)));
    hit != patterns.negated
}

fn virtualization(condition: &Condition, host: &HostFacts) -> bool {
    let hit = match (condition.text.as_str(), &host.virtualization) {
        ("vm", Some(v)) => !v.container,
        ("container", Some(v)) => v.container,
        (text, Some(v)) => text == v.id || super::values::parse_bool(text) == Some(true),
        (text, None) => super::values::parse_bool(text) == Some(false) || text == "none",
    };
    hit != condition.negated
}

/// A whole word, or the part of one before the equals sign.
fn command_line(condition: &Condition, host: &HostFacts) -> bool {
    let hit = words(&host.command_line).iter().any(|word| {
        *word == condition.text
            || word
                .split_once('=')
                .is_some_and(|(key, _)| key == condition.text)
    });
    hit != condition.negated
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse_network;
    use super::*;

    fn file(name: &str, rule: &str) -> NetworkFile {
        parse_network(name, &[(name.to_owned(), format!("[Match]\n{rule}\n"))]).0
    }

    fn eth0() -> LinkFacts {
        LinkFacts {
            name: "eth0".into(),
            altnames: vec!["enp0s3".into(), "enx525400f10701".into()],
            mac: Mac::parse("52:54:00:f1:07:01"),
            permanent_mac: Mac::parse("52:54:00:f1:07:01"),
            kind: "ether".into(),
            driver: Some("virtio_net".into()),
            path: Some("pci-0000:00:03.0".into()),
        }
    }

    #[test]
    fn conditions_on_links_and_machines() {
        let host = HostFacts {
            hostname: "node1".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            command_line: "console=ttyS0 quiet opt=\"a b\"".into(),
            virtualization: Some(Virtualization {
                id: "kvm".into(),
                container: false,
            }),
        };
        for (rule, want) in [
            ("Name=eth0", true),
            ("Name=eth1 eth*", true),
            ("Name=enp*", true),
            ("Name=!eth0", false),
            ("Name=!lo docker*", true),
            ("MACAddress=52:54:00:F1:07:01", true),
            ("MACAddress=52:54:00:f1:07:02", false),
            ("Type=ether\nDriver=!veth bridge", true),
            ("Driver=!virtio*", false),
            ("Path=*:03.0", true),
            ("Path=*:04.0", false),
            ("Name=eth0\nMACAddress=52:54:00:f1:07:02", false),
            ("Host=node*", true),
            ("Host=0123456789abcdef0123456789abcdef", true),
            ("Host=!node1", false),
            ("KernelCommandLine=console", true),
            ("KernelCommandLine=console=ttyS1", false),
            ("KernelCommandLine=!quiet", false),
            ("KernelCommandLine=opt=a b", true),
            ("Virtualization=vm", true),
            ("Virtualization=container", false),
            ("Virtualization=kvm", true),
            ("Virtualization=yes", true),
            ("Virtualization=!no", true),
            ("", false),
        ] {
            assert_eq!(
                holds(&file("a.network", rule).rule, &eth0(), &host),
                want,
                "{rule}"
            );
        }
    }

    #[test]
    fn the_first_file_wins() {
        let files = [
            file(
                "50-containers.network",
                "Name=docker* br-* veth* flannel* cni*",
            ),
            file("zz-default.network", "Type=ether\nDriver=!veth bridge"),
        ];
        let host = HostFacts::default();
        assert_eq!(
            choose(&files, &eth0(), &host).map(|f| f.name.as_str()),
            Some("zz-default.network")
        );
        let veth = LinkFacts {
            name: "veth0abc".into(),
            kind: "ether".into(),
            driver: Some("veth".into()),
            ..LinkFacts::default()
        };
        assert_eq!(
            choose(&files, &veth, &host).map(|f| f.name.as_str()),
            Some("50-containers.network")
        );
        let other = LinkFacts {
            name: "vnet0".into(),
            ..veth
        };
        assert_eq!(choose(&files, &other, &host), None);
    }
}
