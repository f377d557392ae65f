//! flanneld: three machines as network namespaces, one real etcd, packets across.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod lab;

use std::path::Path;
use std::process::Command;

use etcd_kv::testing::Pki;
use lab::{Namespace, Process, eventually, run};
use tempfile::TempDir;

const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");
const KEY: &str = "/coreos.com/network/config";

/// A LAN: a bridge in a namespace of its own, on which etcd runs.
struct Lan {
    hub: Namespace,
    root: TempDir,
    etcd: Process,
    /// Of an etcd that wants certificates.
    pki: Option<Pki>,
}

impl Lan {
    fn new() -> Self {
        Self::with(None)
    }

    /// One whose etcd wants certificates.
    fn secured() -> Self {
        let pki = Pki::new("authority");
        pki.issue("server", "10.66.0.1", |_| {});
        pki.issue("client", "client", |_| {});
        Self::with(Some(pki))
    }

    fn with(pki: Option<Pki>) -> Self {
        let hub = Namespace::new("hub");
        // An address of its own: a bridge without one takes that of a port, and changes it when ports go.
        hub.ip("link add br0 address 02:00:00:66:00:01 type bridge");
        hub.ip("addr add 10.66.0.1/24 dev br0");
        hub.ip("link set br0 up");
        let root = tempfile::tempdir().unwrap();
        let etcd = start_etcd(&hub, root.path(), pki.as_ref());
        let lan = Self {
            hub,
            root,
            etcd,
            pki,
        };
        eventually(20, "etcd answers", || {
            lan.etcdctl(&["endpoint", "status"]).is_some()
        });
        lan
    }

    fn etcdctl(&self, arguments: &[&str]) -> Option<String> {
        let mut command = self.hub.command("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", url(self.pki.as_ref())])
            .args(arguments);
        if let Some(pki) = &self.pki {
            command
                .args(["--cacert", &pki.text("ca.pem")])
                .args(["--cert", &pki.text("client.pem")])
                .args(["--key", &pki.text("client.key")]);
        }
        let output = command.output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn configure(&self, value: &str) {
        self.etcdctl(&["put", KEY, value])
            .expect("etcd takes the configuration");
    }

    fn leases(&self) -> String {
        self.etcdctl(&["get", "--prefix", "/coreos.com/network/subnets/"])
            .unwrap_or_default()
    }

    fn machine(&self, number: u8) -> Machine {
        let ns = Namespace::new("f");
        let port = format!("p{number}");
        lab::cable(&ns, "eth0", &self.hub, &port);
        self.hub.ip(&format!("link set {port} master br0 up"));
        ns.ip(&format!("addr add 10.66.0.{}/24 dev eth0", 10 + number));
        ns.ip("link set eth0 up");
        ns.ip("route add default via 10.66.0.1");
        Machine {
            ns,
            root: tempfile::tempdir().unwrap(),
        }
    }
}

fn url(pki: Option<&Pki>) -> &'static str {
    match pki {
        Some(_) => "https://10.66.0.1:2379",
        None => "http://10.66.0.1:2379",
    }
}

fn start_etcd(hub: &Namespace, root: &Path, pki: Option<&Pki>) -> Process {
    let mut command = hub.command("etcd");
    if let Some(pki) = pki {
        command.args(pki.server("server", true));
    }
    command
        .args([
            "--name",
            "t",
            "--log-level",
            "error",
            "--enable-v2=false",
            "--unsafe-no-fsync",
        ])
        .args([
            "--listen-client-urls",
            url(pki),
            "--advertise-client-urls",
            url(pki),
        ])
        .args([
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:2380",
        ])
        .args(["--initial-cluster", "t=http://127.0.0.1:2380"])
        .arg("--data-dir")
        .arg(root.join("data"));
    Process::start(command, root.join("etcd.log"))
}

struct Machine {
    ns: Namespace,
    root: TempDir,
}

impl Machine {
    fn command(&self, extra: &[&str]) -> Command {
        let mut command = self.ns.command(FLANNELD);
        command
            .env("FLOTILLA_LOG", "debug,h2=warn")
            .env("FLANNELD_ETCD_ENDPOINTS", "http://10.66.0.1:2379")
            .arg(format!(
                "-subnet-file={}",
                self.root.path().join("subnet.env").display()
            ))
            .arg(format!(
                "--docker-file={}",
                self.root.path().join("docker.env").display()
            ))
            .args(extra);
        command
    }

    fn start(&self, extra: &[&str]) -> Process {
        Process::start(self.command(extra), self.root.path().join("flanneld.log"))
    }

    fn subnet_env(&self) -> String {
        std::fs::read_to_string(self.root.path().join("subnet.env")).unwrap_or_default()
    }

    /// Waits for the subnet and puts its first address on a bridge, as the container runtime does.
    fn bridge(&self) -> String {
        eventually(20, "subnet.env", || {
            self.subnet_env().contains("FLANNEL_SUBNET=")
        });
        let text = self.subnet_env();
        let subnet = text
            .lines()
            .find_map(|l| l.strip_prefix("FLANNEL_SUBNET="))
            .unwrap();
        self.ns.ip("link add docker0 type bridge");
        self.ns.ip(&format!("addr add {subnet} dev docker0"));
        self.ns.ip("link set docker0 up");
        subnet.split('/').next().unwrap().to_owned()
    }

    fn pings_from(&self, own: &str, other: &str) -> bool {
        let mut command = self.ns.command("ping");
        command.args(["-c", "1", "-W", "1", "-I", own, other]);
        command.output().is_ok_and(|o| o.status.success())
    }

    fn nft(&self, rules: &str) {
        assert!(
            self.ns
                .command("nft")
                .arg(rules)
                .status()
                .unwrap()
                .success(),
            "{rules}"
        );
    }

    fn ready(&self, daemon: &Process) {
        eventually(20, "flanneld has a subnet", || {
            daemon.log().contains("this machine has ")
        });
    }
}

#[test]
fn three_machines_reach_each_other_over_vxlan_and_keep_doing_so_without_etcd() {
    let mut lan = Lan::new();
    {
        let machine = lan.machine(9);
        let waiting = machine.start(&[]);
        eventually(10, "it says what is missing", || {
            waiting.log().contains("waiting for the network's description in etcd: the key /coreos.com/network/config does not exist")
        });
        assert_eq!(machine.subnet_env(), "");
    }
    lan.configure(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#);
    let (root, etcd_pid) = (lan.root.path().to_owned(), lan.etcd.id());
    let machines = [lan.machine(1), lan.machine(2), lan.machine(3)];
    // By address, as user data says it; by name; by default route.
    let flags: [&[&str]; 3] = [
        &["-iface=10.66.0.11"],
        &["--iface", "eth0", "--ip-masq"],
        &[],
    ];
    let mut daemons: Vec<Process> = machines
        .iter()
        .zip(flags)
        .map(|(m, f)| m.start(f))
        .collect();
    let addresses: Vec<String> = machines.iter().map(Machine::bridge).collect();
    for (i, machine) in machines.iter().enumerate() {
        for (j, other) in addresses.iter().enumerate().filter(|(j, _)| *j != i) {
            eventually(20, &format!("{i} reaches {j}"), || {
                machine.pings_from(&addresses[i], other)
            });
        }
    }
    let text = machines[1].subnet_env();
    assert!(
        text.contains("FLANNEL_NETWORK=10.1.0.0/16\n")
            && text.contains("FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"),
        "{text}"
    );
    let link = machines[0].ns.ip("-d -o link show flannel.1");
    for word in [
        "mtu 1450",
        "vxlan id 1 local 10.66.0.11 dev eth0",
        "dstport 8472",
        "nolearning",
    ] {
        assert!(link.contains(word), "{word}: {link}");
    }
    let leases = lan.leases();
    assert!(leases.contains(r#"{"PublicIP":"10.66.0.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"f2:"#), "{leases}");
    // Within the overlay the source address stays, also under masquerading, ours or the container runtime's.
    let runtime = "table ip other { chain postrouting { type nat hook postrouting priority srcnat; oifname != docker0 masquerade; }; }";
    machines[1].nft(runtime);
    let counting = format!(
        "table ip t {{ chain input {{ type filter hook input priority 0; ip saddr {} icmp type echo-request counter; }}; }}",
        addresses[1]
    );
    machines[0].nft(&counting);
    assert!(machines[1].pings_from(&addresses[1], &addresses[0]));
    let counted = machines[0]
        .ns
        .command("nft")
        .args(["list", "table", "ip", "t"])
        .output()
        .unwrap();
    let counted = String::from_utf8_lossy(&counted.stdout).into_owned();
    assert!(counted.contains("counter packets 1 "), "{counted}");
    let seen = machines[0].ns.ip("-s neigh show dev flannel.1");
    assert_eq!(seen.matches("PERMANENT").count(), 2, "{seen}");

    // Without etcd: packets go on, a killed daemon takes nothing with it, and comes back to the same subnet.
    run("kill", &["-STOP", &etcd_pid.to_string()]);
    assert!(machines[0].pings_from(&addresses[0], &addresses[1]));
    let before = machines[0].subnet_env();
    daemons[0].kill();
    assert!(machines[0].pings_from(&addresses[0], &addresses[2]));
    run("kill", &["-CONT", &etcd_pid.to_string()]);
    daemons[0] = machines[0].start(flags[0]);
    eventually(20, "it is back", || {
        daemons[0].log().matches("this machine has ").count() == 2
    });
    assert_eq!(machines[0].subnet_env(), before);
    assert!(machines[0].pings_from(&addresses[0], &addresses[1]));

    // What somebody breaks is repaired, and a deleted lease claimed again.
    machines[1].ns.ip("link del flannel.1");
    eventually(20, "the device is made anew", || {
        machines[1].pings_from(&addresses[1], &addresses[0])
    });
    let key = format!(
        "/coreos.com/network/subnets/{}0-24",
        addresses[2].strip_suffix('1').unwrap()
    );
    lan.etcdctl(&["del", &key]).unwrap();
    eventually(20, "the lease is claimed again", || {
        lan.leases().contains(&key)
    });
    eventually(20, "and used", || {
        machines[0].pings_from(&addresses[0], &addresses[2])
    });

    // A machine that gets another address tells the others and keeps its subnet.
    machines[1].ns.ip("addr del 10.66.0.12/24 dev eth0");
    machines[1].ns.ip("addr add 10.66.0.42/24 dev eth0");
    machines[1].ns.ip("route replace default via 10.66.0.1");
    eventually(20, "the lease names the new address", || {
        lan.leases().contains("10.66.0.42")
    });
    eventually(20, "and it is reached there", || {
        machines[0].pings_from(&addresses[0], &addresses[1])
    });

    // A machine that goes for good takes its routes along when its lease ends.
    let route = format!("{}0/24", addresses[2].strip_suffix('1').unwrap());
    assert!(machines[0].ns.ip("route").contains(&route));
    assert!(daemons[2].stop());
    lan.etcdctl(&["del", &key]).unwrap();
    eventually(20, "the route goes", || {
        !machines[0].ns.ip("route").contains(&route)
    });
    drop(daemons);
    drop(machines);

    // etcd away at the start: it waits and says so.
    lan.etcd.kill();
    let machine = lan.machine(4);
    let daemon = machine.start(&[]);
    eventually(20, "it says that etcd is away", || {
        daemon.log().contains("etcd is unavailable at")
    });
    let again = start_etcd(&lan.hub, &root, None);
    machine.ready(&daemon);
    drop(again);
}

#[test]
fn an_etcd_that_wants_certificates_gives_subnets_to_those_who_have_them() {
    let lan = Lan::secured();
    lan.configure(r#"{"Network":"10.3.0.0/16","Backend":{"Type":"host-gw"}}"#);
    let pki = lan.pki.as_ref().unwrap();
    let (one, two, three) = (lan.machine(1), lan.machine(2), lan.machine(3));
    let at = format!("-etcd-endpoints={}", url(lan.pki.as_ref()));
    let ca = format!("-etcd-cafile={}", pki.text("ca.pem"));
    let cert = format!("-etcd-certfile={}", pki.text("client.pem"));
    let key = format!("-etcd-keyfile={}", pki.text("client.key"));
    let by_flags = one.start(&[&at, &ca, &cert, &key]);
    let mut command = two.command(&[&at]);
    command
        .env("FLANNELD_ETCD_CAFILE", pki.path("ca.pem"))
        .env("FLANNELD_ETCD_CERTFILE", pki.path("client.pem"))
        .env("FLANNELD_ETCD_KEYFILE", pki.path("client.key"));
    let by_variables = Process::start(command, two.root.path().join("flanneld.log"));
    one.ready(&by_flags);
    two.ready(&by_variables);
    assert_eq!(lan.leases().matches("10.3.").count(), 2, "{}", lan.leases());
    let nobody = three.start(&[&at, &ca]);
    eventually(20, "it is told what is missing", || {
        nobody.log().contains("want a client certificate")
    });
}

#[test]
fn host_gw_and_bad_descriptions() {
    let lan = Lan::new();
    lan.configure(r#"{"Network":"10.2.0.0/16","Backend":{"Type":"udp"}}"#);
    let (one, two) = (lan.machine(1), lan.machine(2));
    let daemons = [
        one.start(&["-public-ip=10.66.0.11"]),
        two.start(&["-iface=nothing,eth0"]),
    ];
    eventually(20, "the wrong backend is named", || {
        daemons[0]
            .log()
            .contains("backend type \"udp\" is not supported; use vxlan or host-gw")
    });
    lan.configure(r#"{"Network":"10.2.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}"#);
    let (a, b) = (one.bridge(), two.bridge());
    eventually(20, "one reaches two", || one.pings_from(&a, &b));
    let routes = one.ns.ip("route");
    assert!(routes.contains("/26 via 10.66.0.12 dev eth0"), "{routes}");
    assert!(one.subnet_env().contains("FLANNEL_MTU=1500\n"));

    let output = one
        .command(&["-iface=eth0", "-etcd-keyfile=/k"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("/k is of no use without a certificate file"),
        "{said}"
    );
    let nowhere = one.start(&["-iface=wlan7"]);
    eventually(10, "a link that is not there is named", || {
        nowhere.log().contains(
            "waiting for the link to the other machines: no link is named or has the address wlan7",
        )
    });
}
