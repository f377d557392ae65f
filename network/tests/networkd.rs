//! networkd against the real kernel and a real DHCP server, in network namespaces of the test's own.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod lab;

use std::path::Path;
use std::process::Command;

use lab::{Namespace, Process, cable, eventually, put};
use tempfile::TempDir;

const NETWORKD: &str = env!("CARGO_BIN_EXE_networkd");

/// A machine with a root directory and a network namespace.
struct Machine {
    ns: Namespace,
    root: TempDir,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Self {
            ns: Namespace::new("m"),
            root: tempfile::tempdir().unwrap(),
        };
        for (name, text) in files {
            machine.put(name, text);
        }
        machine
    }

    fn put(&self, name: &str, text: &str) {
        put(
            self.root.path(),
            &format!("etc/systemd/network/{name}"),
            text,
        );
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.ns.command(NETWORKD);
        command.args(arguments).arg("--root").arg(self.root.path());
        command
    }

    fn start(&self) -> Process {
        let mut command = self.command(&[]);
        command.env("FLOTILLA_LOG", "debug");
        Process::start(command, self.root.path().join("networkd.log"))
    }

    /// Runs wait-online: whether it said "online", and what it printed.
    fn wait_online(&self, seconds: u64) -> (bool, String) {
        let timeout = format!("--timeout={seconds}");
        let output = self.command(&["wait-online", &timeout]).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    fn assert_online(&self) {
        let (online, text) = self.wait_online(20);
        assert!(online, "{text}");
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.path().join(path)).unwrap_or_default()
    }

    fn addresses(&self) -> String {
        self.ns.ip("-4 -o addr show dev eth0")
    }
}

/// A DHCP server on `srv0` of a namespace.
fn dhcp_server(ns: &Namespace, root: &Path, extra: &[&str]) -> Process {
    let mut command = ns.command("dnsmasq");
    command
        .args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--interface=srv0",
            "--bind-interfaces",
            "--port=0",
        ])
        .args(["--dhcp-authoritative", "--log-dhcp"])
        .arg(format!(
            "--dhcp-leasefile={}",
            root.join("dnsmasq.leases").display()
        ))
        .arg(format!("--pid-file={}", root.join("dnsmasq.pid").display()))
        .args(extra);
    let server = Process::start(command, root.join("dnsmasq.log"));
    eventually(10, "dnsmasq is ready", || {
        server.log().contains("DHCP, IP range")
    });
    server
}

fn server_namespace(machine: &Machine) -> Namespace {
    let ns = Namespace::new("s");
    cable(&machine.ns, "eth0", &ns, "srv0");
    ns.ip("addr add 10.77.0.1/24 dev srv0");
    ns.ip("link set srv0 up");
    ns
}

const RANGE: &str = "--dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,120";
const DHCP: &str = "[Match]\nName=eth0\n[Network]\nDHCP=yes\n[DHCPv4]\nUseDomains=yes\n";

#[test]
fn a_lease_is_got_applied_published_and_kept_over_a_kill() {
    let machine = Machine::new(&[("10-lan.network", DHCP)]);
    let ns = server_namespace(&machine);
    let options = [
        RANGE,
        "--dhcp-option=6,10.77.0.3",
        "--dhcp-option=15,example.org",
        "--dhcp-option=121,10.9.0.0/16,10.77.0.7,0.0.0.0/0,10.77.0.1",
        "--dhcp-option=42,10.77.0.8",
    ];
    let server = dhcp_server(&ns, machine.root.path(), &options);
    let mut daemon = machine.start();
    machine.assert_online();
    let before = machine.addresses();
    assert!(
        before.contains("inet 10.77.0.") && before.contains("dynamic"),
        "{before}"
    );
    let routes = machine.ns.ip("route");
    assert!(
        routes.contains("default via 10.77.0.1 dev eth0 proto dhcp"),
        "{routes}"
    );
    assert!(routes.contains("10.9.0.0/16 via 10.77.0.7"), "{routes}");
    assert!(machine.ns.pings("10.77.0.1"));
    let resolv = machine.read("run/systemd/resolve/resolv.conf");
    assert!(
        resolv.contains("\nnameserver 10.77.0.3\nsearch example.org\n"),
        "{resolv}"
    );
    assert_eq!(
        machine.read("run/chrony-dhcp/networkd.sources"),
        "server 10.77.0.8 iburst\n"
    );
    let index = machine
        .ns
        .ip("-o link show eth0")
        .split(':')
        .next()
        .unwrap()
        .trim()
        .to_owned();
    let lease = machine.read(&format!("run/systemd/netif/leases/{index}"));
    assert!(lease.contains("\nSERVER_ADDRESS=10.77.0.1\n"), "{lease}");

    daemon.kill();
    assert_eq!(
        machine.addresses().split("valid_lft").next(),
        before.split("valid_lft").next()
    );
    let discovered = server.log().matches("DHCPDISCOVER").count();
    let requested = server.log().matches("DHCPREQUEST").count();
    let daemon = machine.start();
    eventually(10, "the kept lease is confirmed", || {
        server.log().matches("DHCPREQUEST").count() > requested
    });
    eventually(10, "the lease is in force again", || {
        daemon.log().matches("DHCP lease of").count() >= 3
    });
    assert_eq!(
        server.log().matches("DHCPDISCOVER").count(),
        discovered,
        "no new discovery"
    );
    assert!(!daemon.log().contains("DropAddress"), "{}", daemon.log());
}

#[test]
fn the_bare_metal_example_and_a_reload_that_touches_only_what_changed() {
    let example =
        "[Match]\nName=eth0\n\n[Network]\nAddress=10.0.2.27/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n";
    let machine = Machine::new(&[("10-lan.network", example)]);
    let ns = server_namespace(&machine);
    ns.ip("addr add 10.0.2.2/24 dev srv0");
    let mut daemon = machine.start();
    machine.assert_online();
    assert!(
        machine
            .ns
            .ip("route")
            .contains("default via 10.0.2.2 dev eth0 proto static")
    );
    assert!(machine.ns.pings("10.0.2.2"));
    assert!(
        machine
            .read("run/systemd/resolve/resolv.conf")
            .contains("\nnameserver 10.0.2.3\n")
    );

    // What others set stays; what the file no longer says goes.
    machine.ns.ip("addr add 192.168.9.9/24 dev eth0");
    machine.ns.ip("route add 10.200.0.0/16 via 10.0.2.9");
    machine.put(
        "10-lan.network",
        &example.replace("Gateway=10.0.2.2", "Gateway=10.0.2.3\nAddress=10.0.2.28/24"),
    );
    daemon.signal("-HUP");
    eventually(10, "the new gateway", || {
        machine.ns.ip("route").contains("default via 10.0.2.3")
    });
    eventually(10, "the new address", || {
        machine.addresses().contains("10.0.2.28/24")
    });
    let log = daemon.log();
    assert!(
        !log.contains("Up(") || log.matches("Up(").count() == 1,
        "taken down or up again: {log}"
    );
    assert!(!log.contains("DropAddress"), "{log}");
    assert!(machine.addresses().contains("192.168.9.9/24"));
    assert!(
        machine
            .ns
            .ip("route")
            .contains("10.200.0.0/16 via 10.0.2.9")
    );

    assert!(daemon.stop());
    let again = machine.start();
    machine.assert_online();
    assert!(
        !again.log().replacen("Up(", "", 1).contains("Up("),
        "restart touched the link"
    );
    machine.put("10-lan.network", example);
    again.signal("-HUP");
    eventually(10, "our old address goes", || {
        !machine.addresses().contains("10.0.2.28/24")
    });
    assert!(
        machine.addresses().contains("192.168.9.9/24")
            && machine.addresses().contains("10.0.2.27/24")
    );
}

#[test]
fn without_an_answer_it_says_so_goes_on_trying_and_recovers() {
    let machine = Machine::new(&[("10-lan.network", DHCP)]);
    let ns = server_namespace(&machine);
    let daemon = machine.start();
    let (online, text) = machine.wait_online(2);
    assert!(!online);
    assert_eq!(
        text,
        "networkd-wait-online: not online after 2 s: eth0: no answer from a DHCP server yet\nhint: networkctl status\n"
    );
    eventually(30, "the log says so", || {
        daemon
            .log()
            .contains("eth0: no DHCP server has answered 3 requests")
    });
    let _server = dhcp_server(&ns, machine.root.path(), &[RANGE]);
    machine.assert_online();
}

#[test]
fn bad_lines_are_named_and_the_rest_applies() {
    let text = "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.27\\24\nAddress=10.0.2.28/24\nGateway=nowhere\n";
    let machine = Machine::new(&[("10-lan.network", text)]);
    let _ns = server_namespace(&machine);
    let daemon = machine.start();
    machine.assert_online();
    assert!(machine.addresses().contains("10.0.2.28/24"));
    let log = daemon.log();
    for line in [
        "10-lan.network:4: warning: Address=",
        "10-lan.network:6: warning: Gateway=nowhere: expected",
    ] {
        assert!(log.contains(line), "{line} is not in {log}");
    }
}

#[test]
fn links_of_others_are_left_alone_and_not_waited_for() {
    let default =
        include_str!("../../image-build/rootfs/usr/lib/systemd/network/zz-default.network");
    let containers =
        include_str!("../../image-build/rootfs/usr/lib/systemd/network/50-containers.network");
    let lan = "[Match]\nMACAddress=52:54:00:f1:07:01\n[Network]\nAddress=10.0.2.11/24\n";
    let machine = Machine::new(&[
        ("zz-default.network", default),
        ("50-containers.network", containers),
        ("10-lan.network", lan),
    ]);
    let _ns = server_namespace(&machine);
    machine.ns.ip("link set eth0 address 52:54:00:f1:07:01");
    machine.ns.ip("link add docker0 type bridge");
    machine.ns.ip("link add veth7 type veth peer name veth8");
    machine.ns.ip("addr add 172.17.0.1/16 dev docker0");
    let daemon = machine.start();
    machine.assert_online();
    assert!(
        machine
            .ns
            .ip("-4 -o addr show dev docker0")
            .contains("172.17.0.1/16")
    );
    let links = machine.ns.ip("-o link");
    let docker0 = links.lines().find(|l| l.contains("docker0")).unwrap();
    assert!(
        docker0.contains("state DOWN") && !docker0.contains(",UP"),
        "{docker0}"
    );
    let json = machine.command(&["ctl", "--json"]).output().unwrap();
    let json = String::from_utf8_lossy(&json.stdout).into_owned();
    assert!(
        json.starts_with("{\"online\":true,\"links\":[{\"index\":"),
        "{json}"
    );
    assert_eq!(json.matches("\"managed\":true").count(), 1, "{json}");

    // A link that appears later is taken care of at once.
    machine.ns.ip("link add lan9 type bridge");
    machine.put(
        "20-dummy.network",
        "[Match]\nName=lan9\n[Network]\nAddress=10.5.0.1/24\n",
    );
    daemon.signal("-HUP");
    eventually(10, "the bridge is set up", || {
        machine
            .ns
            .ip("-4 -o addr show dev lan9")
            .contains("10.5.0.1/24")
    });
    machine.ns.ip("link del lan9");
    machine.ns.ip("link add lan9 type bridge");
    eventually(10, "a new link of the name, too", || {
        machine
            .ns
            .ip("-4 -o addr show dev lan9")
            .contains("10.5.0.1/24")
    });
}

#[test]
fn two_machines_agree_on_link_local_addresses() {
    let text = "[Match]\nName=eth0\n[Network]\nLinkLocalAddressing=yes\n";
    let (one, two) = (
        Machine::new(&[("10-lan.network", text)]),
        Machine::new(&[("10-lan.network", text)]),
    );
    cable(&one.ns, "eth0", &two.ns, "eth0");
    let daemons = [one.start(), two.start()];
    eventually(20, "one has an address", || {
        one.addresses().contains("inet 169.254.")
    });
    eventually(20, "two has an address", || {
        two.addresses().contains("inet 169.254.")
    });
    let own = |m: &Machine| {
        m.addresses()
            .split_whitespace()
            .nth(3)
            .unwrap()
            .split('/')
            .next()
            .unwrap()
            .to_owned()
    };
    let (a, b) = (own(&one), own(&two));
    assert_ne!(a, b);
    assert!(one.ns.pings(&b) && two.ns.pings(&a));
    let [mut first, _second] = daemons;
    first.kill();
    let again = one.start();
    eventually(10, "it is configured again", || {
        one.wait_online(1).1.contains("eth0: configured, degraded")
    });
    assert!(
        one.addresses().contains(&a),
        "the address outlives a restart"
    );
    assert!(!again.log().contains("DropAddress"), "{}", again.log());
}

#[test]
fn names_settings_and_lost_carrier() {
    let text = "[Match]\nName=enpX7\n[Link]\nMTUBytes=1400\nMACAddress=02:00:00:00:77:07\n[Network]\nAddress=10.0.2.30/24\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nIPForward=yes\n[Route]\nDestination=10.9.0.0/16\nGateway=10.0.2.1\nMetric=5\n";
    let machine = Machine::new(&[("10-lan.network", text)]);
    let ns = server_namespace(&machine);
    machine.ns.ip("link property add dev eth0 altname enpX7");
    let daemon = machine.start();
    machine.assert_online();
    let link = machine.ns.ip("-o link show eth0");
    assert!(
        link.contains("mtu 1400") && link.contains("02:00:00:00:77:07"),
        "{link}"
    );
    assert!(
        machine
            .ns
            .ip("route")
            .contains("10.9.0.0/16 via 10.0.2.1 dev eth0 proto static metric 5")
    );
    assert_eq!(machine.ns.ip("-6 -o addr show dev eth0"), "");
    let forward = machine
        .ns
        .command("cat")
        .arg("/proc/sys/net/ipv4/ip_forward")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&forward.stdout).trim(), "1");

    ns.ip("link set srv0 down");
    eventually(10, "no carrier is seen", || {
        machine.wait_online(1).1.contains("eth0: no carrier")
    });
    assert!(
        machine.addresses().contains("10.0.2.30/24"),
        "a pulled cable takes nothing away"
    );
    ns.ip("link set srv0 up");
    machine.assert_online();
    eventually(10, "the route is back", || {
        machine.ns.ip("route").contains("10.9.0.0/16")
    });

    // Taken down and up by hand, the kernel has forgotten the routes; they come back.
    machine.ns.ip("link set eth0 down");
    machine.ns.ip("link set eth0 up");
    eventually(10, "the route is back again", || {
        machine.ns.ip("route").contains("10.9.0.0/16")
    });
    assert!(
        daemon.log().lines().count() < 60,
        "too much is done: {}",
        daemon.log()
    );
}
