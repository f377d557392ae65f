//! User data and units of `examples/`, and the few words in them that differ from machine to machine.

/// One machine, one container.
pub const ELASTICSEARCH: &str = include_str!("../examples/elasticsearch.yml");
/// A member of the three-machine cluster.
pub const ETCD_MEMBER: &str = include_str!("../examples/etcd-member.yml");
/// The bare-metal worker.
pub const WORKER: &str = include_str!("../examples/worker-bare-metal.yml");
/// Template of the web unit.
pub const WEB: &str = include_str!("../examples/web@.service");
/// Template of its sidekick.
pub const WEB_ANNOUNCE: &str = include_str!("../examples/web-announce@.service");

/// [`ETCD_MEMBER`] for machine `number` of `total`: host and member name, and the list of members.
#[must_use]
pub fn etcd_member(number: u8, total: u8) -> String {
    let cluster: Vec<String> = (1..=total)
        .map(|n| format!("node{n}=http://10.0.2.{}:2380", 10 + u16::from(n)))
        .collect();
    ETCD_MEMBER
        .lines()
        .map(|line| {
            if let Some((head, _)) = line.split_once("initial-cluster: ") {
                format!("{head}initial-cluster: {}\n", cluster.join(","))
            } else if line == "hostname: node1" || line == "    name: node1" {
                format!("{}\n", line.replace("node1", &format!("node{number}")))
            } else {
                format!("{line}\n")
            }
        })
        .collect()
}

/// vendor-data of every machine: the caller's key, the local registry as a mirror that plain HTTP may reach, and patience
/// of fleet with an etcd that is emulated (its default is a second for a request).
#[must_use]
pub fn vendor_data(public_key: &str, registry_port: u16) -> String {
    format!(
        "#cloud-config\nssh_authorized_keys:\n  - {public_key}\nwrite_files:\n  - path: /etc/docker/daemon.json\n    content: |\n      \
         {{\"registry-mirrors\": [\"http://10.0.2.2:{registry_port}\"], \"insecure-registries\": [\"10.0.2.2:{registry_port}\"]}}\n  \
         - path: /etc/fleet/fleet.conf\n    content: |\n      etcd_request_timeout=10\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_differs_from_the_example_in_its_names_only() {
        assert_eq!(etcd_member(1, 3), ETCD_MEMBER);
        let two = etcd_member(2, 3);
        let differing: Vec<&str> = two
            .lines()
            .zip(ETCD_MEMBER.lines())
            .filter(|(a, b)| a != b)
            .map(|(a, _)| a)
            .collect();
        assert_eq!(differing, ["hostname: node2", "    name: node2"]);
    }
}
