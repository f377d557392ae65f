//! What others read or obey: `subnet.env`, docker's options, the packet filter's rules.

use std::io;
use std::path::Path;

use super::model::Subnet;
use crate::files;

/// The text of `subnet.env`.
pub(super) fn subnet_env(network: Subnet, subnet: Subnet, mtu: u32, masquerade: bool) -> String {
    format!(
        "FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={}/{}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={masquerade}\n",
        subnet.first_host(),
        subnet.prefix
    )
}

/// The subnet of an earlier run, if it was of this network.
pub(super) fn previous_subnet(path: &Path, network: Subnet) -> Option<Subnet> {
    parse_subnet_env(&std::fs::read_to_string(path).ok()?, network)
}

fn parse_subnet_env(text: &str, network: Subnet) -> Option<Subnet> {
    let get = |key: &str| {
        text.lines()
            .filter_map(|l| l.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v)
    };
    let same = Subnet::parse(get("FLANNEL_NETWORK")?)? == network;
    Subnet::parse(get("FLANNEL_SUBNET")?).filter(|_| same)
}

/// Docker's options under the names that CoreOS gave them. `DOCKER_OPTS` itself stays the operator's.
pub(super) fn docker_options(subnet: Subnet, mtu: u32, masquerade: bool) -> String {
    let (bridge, prefix, docker_masquerades) = (subnet.first_host(), subnet.prefix, !masquerade);
    format!(
        "DOCKER_OPT_BIP=--bip={bridge}/{prefix}\nDOCKER_OPT_IPMASQ=--ip-masq={docker_masquerades}\nDOCKER_OPT_MTU=--mtu={mtu}\n"
    )
}

/// Writes both files.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    files::replace(path, text)
}

const TABLE: &str = "ip flotilla-flannel";

/// Rules for `-ip-masq`: what leaves the overlay, or enters it from outside at another machine, takes this machine's
/// address; what stays within keeps its own, and says so before anybody else's rule can change it.
pub(super) fn rules(network: Subnet, subnet: Subnet, masquerade: bool) -> String {
    let mut out = format!("add table {TABLE}\ndelete table {TABLE}\n");
    if masquerade {
        out.push_str(&format!(
            "table {TABLE} {{
 chain postrouting {{
  type nat hook postrouting priority srcnat - 1;
  ip saddr {network} ip daddr {network} snat to ip saddr
  ip saddr {network} ip daddr != 224.0.0.0/4 masquerade
  ip saddr != {network} ip daddr {subnet} return
  ip saddr != {network} ip daddr {network} masquerade
 }}
}}
"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_for_others() {
        let (network, subnet) = (
            Subnet::parse("10.1.0.0/16").unwrap(),
            Subnet::parse("10.1.5.0/24").unwrap(),
        );
        let text = subnet_env(network, subnet, 1450, true);
        assert_eq!(
            text,
            "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.5.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(parse_subnet_env(&text, network), Some(subnet));
        assert_eq!(
            parse_subnet_env(&text, Subnet::parse("10.2.0.0/16").unwrap()),
            None
        );
        assert_eq!(parse_subnet_env("FLANNEL_SUBNET=x\n", network), None);
        assert_eq!(
            docker_options(subnet, 1450, true),
            "DOCKER_OPT_BIP=--bip=10.1.5.1/24\nDOCKER_OPT_IPMASQ=--ip-masq=false\nDOCKER_OPT_MTU=--mtu=1450\n"
        );
        assert!(
            rules(network, subnet, true)
                .contains("ip saddr != 10.1.0.0/16 ip daddr 10.1.5.0/24 return\n")
        );
        assert!(!rules(network, subnet, false).contains("chain"));
    }
}
