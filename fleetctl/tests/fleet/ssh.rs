//! Tunnels and remote commands, through the system's ssh to a real sshd on the loopback.

use crate::harness::{Cluster, Ran};
use crate::sshd::{Sshd, keygen};

struct Site {
    cluster: Cluster,
    sshd: Sshd,
}

impl Site {
    fn start() -> Self {
        let machine = |n: usize| (crate::harness::id(n), "127.0.0.1".to_owned());
        let cluster = Cluster::with(&[machine(0), machine(1)]);
        for name in ["systemctl", "journalctl"] {
            cluster.script(name, &format!("echo {name} \"$@\""));
        }
        let sshd = Sshd::start(&cluster);
        cluster.write(".fleetctl/known_hosts", &sshd.host_key(&cluster));
        Self { cluster, sshd }
    }

    /// fleetctl with the key and user of the sshd; `args` may say `PORT`.
    fn run(&self, args: &[&str]) -> Ran {
        let port = self.sshd.port.to_string();
        let key = self.cluster.dir.path().join(".ssh/id_ecdsa");
        // ssh finds its own files by the user's entry, not by HOME: the wrapper names our key.
        self.cluster.script(
            "ssh",
            &format!("exec /usr/bin/ssh -F none -i {} \"$@\"", key.display()),
        );
        let user = format!("--ssh-username={}", self.sshd.user);
        let mut all = vec![user];
        all.extend(args.iter().map(|a| a.replace("PORT", &port)));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.cluster.fleetctl(&all)
    }

    #[track_caller]
    fn check(&self, args: &[&str], code: i32, out: &str) {
        let ran = self.run(args);
        let log = std::fs::read_to_string(self.cluster.dir.path().join("sshd/log")).unwrap();
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (code, out),
            "{args:?}\n{}\n{log}",
            ran.err
        );
    }
}

const A: &str = "[Service]\nExecStart=/bin/a\n";

#[test]
fn commands_run_on_the_units_machine() {
    let site = Site::start();
    site.cluster.write("a.service", A);
    site.cluster.write(
        "g.service",
        "[Service]\nExecStart=/bin/g\n[X-Fleet]\nGlobal=true\n",
    );
    site.cluster.well(&["start", "--wait-active", "a", "g"]);
    let id = crate::harness::id(0);
    site.check(
        &["status", "--ssh-port=PORT", "a"],
        0,
        "systemctl status -l a.service\n",
    );
    site.check(
        &["status", "--ssh-port=PORT", "a", "g"],
        0,
        "systemctl status -l a.service\n\nsystemctl status -l g.service\n\nsystemctl status -l g.service\n",
    );
    site.check(
        &["journal", "--ssh-port=PORT", "--lines=2", "a"],
        0,
        "journalctl --unit a.service --no-pager -n 2 --output short\n",
    );
    site.check(
        &["journal", "--ssh-port=PORT", "g"],
        0,
        "==> 00000000... <==\njournalctl --unit g.service --no-pager -n 10 --output short\n\n\
         ==> 00000001... <==\njournalctl --unit g.service --no-pager -n 10 --output short\n",
    );
    site.check(
        &["journal", "--ssh-port=PORT", "--machine=00000001", "g"],
        0,
        "journalctl --unit g.service --no-pager -n 10 --output short\n",
    );
    let ran = site.run(&["journal", "--ssh-port=PORT", "-f", "g"]);
    let mut lines: Vec<&str> = ran.out.lines().collect();
    lines.sort_unstable();
    let follow = "journalctl --unit g.service --no-pager -n 10 --output short -f";
    assert_eq!(
        lines,
        [format!("00000000: {follow}"), format!("00000001: {follow}")],
        "{}",
        ran.err
    );
    site.check(
        &["ssh", "--ssh-port=PORT", "a", "--", "echo", "-n", "x"],
        0,
        "x",
    );
    site.check(&["ssh", "--ssh-port=PORT", &id, "exit 7"], 7, "");
    site.check(
        &["ssh", "--ssh-port=PORT", "--unit", "a", "echo", "there"],
        0,
        "there\n",
    );
    site.check(
        &[
            "ssh",
            "--ssh-port=PORT",
            "--machine",
            "00000001",
            "echo",
            "there",
        ],
        0,
        "there\n",
    );
    site.check(&["ssh", "--ssh-port=PORT", "0000", "true"], 1, "");
    // A word that may mean two things means neither.
    site.cluster.write("00000000.service", A);
    site.cluster.well(&["start", "00000000.service"]);
    let ran = site.run(&["ssh", "--ssh-port=PORT", "00000000", "true"]);
    assert!(
        ran.code == 1 && ran.err.contains("say --machine or --unit"),
        "{ran:?}"
    );
}

#[test]
fn the_api_is_reached_through_a_tunnel() {
    let site = Site::start();
    site.cluster.write("a.service", A);
    let tunnel = "--tunnel=127.0.0.1:PORT";
    let machines = ["list-machines", "--no-legend", "--fields=machine"];
    let expect = "00000000...\n00000001...\n";
    // To a socket, by fd-forward on the other side.
    site.check(&[&[tunnel][..], &machines].concat(), 0, expect);
    let started = "Unit a.service inactive\nUnit a.service launched on 00000000.../127.0.0.1\n";
    site.check(&[tunnel, "start", "a"], 0, started);
    // To a port, by ssh itself.
    let endpoint = format!(
        "--endpoint=http://127.0.0.1:{}",
        site.cluster.machines[1].port
    );
    site.check(&[&[tunnel, &endpoint][..], &machines].concat(), 0, expect);
    // And on to a machine through it.
    site.check(
        &[tunnel, "status", "--ssh-port=PORT", "a"],
        0,
        "systemctl status -l a.service\n",
    );
    // No master of ssh is left behind.
    let left = std::fs::read_dir(site.cluster.dir.path().join(".fleetctl")).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["known_hosts"]);

    let ran = site.run(&["--tunnel=127.0.0.1:1", "list-machines"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(
        ran.err.contains("the tunnel through 127.0.0.1 ended"),
        "{ran:?}"
    );
    let ran = site.run(&[tunnel, "--endpoint=unix:///nonexistent", "list-machines"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err
            .contains("failed to connect to fleetd at unix:///nonexistent"),
        "{ran:?}"
    );
}

#[test]
fn host_keys_are_checked() {
    let site = Site::start();
    let known = site.cluster.dir.path().join(".fleetctl/known_hosts");
    let tunnel = [
        "--tunnel=127.0.0.1:PORT",
        "list-machines",
        "--no-legend",
        "--fields=ip",
    ];
    let both = "127.0.0.1\n127.0.0.1\n";
    site.check(&tunnel, 0, both);
    // Another key for that host.
    keygen(&site.cluster.dir.path().join("other"));
    let other = std::fs::read_to_string(site.cluster.dir.path().join("other.pub")).unwrap();
    std::fs::write(&known, format!("[127.0.0.1]:{} {other}", site.sshd.port)).unwrap();
    let ran = site.run(&tunnel);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    // An unknown one, and nobody to ask.
    std::fs::write(&known, "").unwrap();
    assert_eq!(site.run(&tunnel).code, 1);
    // Unless told not to care.
    let lax = [&["--strict-host-key-checking=false"][..], &tunnel].concat();
    site.check(&lax, 0, both);
    // Another file.
    site.cluster
        .write("hosts", &site.sshd.host_key(&site.cluster));
    let file = format!(
        "--known-hosts-file={}",
        site.cluster.dir.path().join("hosts").display()
    );
    site.check(&[&[file.as_str()][..], &tunnel].concat(), 0, both);
}
