//! The original fleetctl 1.0 against our API, and beside it ours against a cluster of the same kind:
//! each command must end with the same status and print the same, but for what is listed with its
//! reason. Its program is not part of this project: `FLOTILLA_ORIGINAL_FLEETCTL` names it.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

#[path = "../fleet/front.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests, which use more of it"
)]
mod front;
#[path = "../fleet/harness.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests, which use more of it"
)]
mod harness;
#[path = "../../../fleetd/tests/cluster/pretend.rs"]
#[allow(dead_code, reason = "shared with fleetd's tests, which use more of it")]
mod pretend;
#[path = "../fleet/sshd.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests, which use more of it"
)]
mod sshd;

use std::path::PathBuf;

use harness::{Cluster, Ran, eventually};

fn original() -> PathBuf {
    let path = std::env::var_os("FLOTILLA_ORIGINAL_FLEETCTL");
    PathBuf::from(path.expect("FLOTILLA_ORIGINAL_FLEETCTL names the original's program"))
}

/// Two clusters of the same kind: the first for the original, the second for ours.
struct Pair {
    clusters: [Cluster; 2],
    program: PathBuf,
}

impl Pair {
    fn start(machines: usize) -> Self {
        Self {
            clusters: [Cluster::start(machines), Cluster::start(machines)],
            program: original(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        self.clusters.iter().for_each(|c| c.write(name, text));
    }

    fn run(&self, command: &str) -> [Ran; 2] {
        let words: Vec<&str> = command.split_whitespace().collect();
        let [theirs, ours] = &self.clusters;
        [
            theirs.program_at(&self.program, 0, &words),
            ours.fleetctl(&words),
        ]
    }

    /// Runs a command with both; status and output must be the same. Returns the output.
    #[track_caller]
    fn same(&self, command: &str) -> String {
        let [theirs, ours] = self.run(command);
        assert_eq!(
            (ours.code, &ours.out),
            (theirs.code, &theirs.out),
            "{command}\n--- ours\n{}--- theirs\n{}",
            ours.err,
            theirs.err
        );
        println!("same: {command}: {}", ours.code);
        ours.out
    }

    /// Runs a command with both until both print what is expected.
    #[track_caller]
    fn until(&self, command: &str, expect: &str) {
        eventually(&format!("{command} prints {expect:?}"), || {
            self.run(command)
                .iter()
                .all(|ran| ran.out == expect && ran.code == 0)
        });
        println!("same: {command}");
    }

    /// Runs a command with both; they differ as expected, for a reason.
    #[track_caller]
    fn differ(&self, command: &str, reason: &str, theirs: (i32, &str), ours: (i32, &str)) {
        let [their, our] = self.run(command);
        assert_eq!(
            (their.code, their.out.as_str()),
            theirs,
            "theirs: {command}\n{}",
            their.err
        );
        assert_eq!(
            (our.code, our.out.as_str()),
            ours,
            "ours: {command}\n{}",
            our.err
        );
        println!("differs: {command}: {reason}");
    }
}

const A: &str = "[Unit]\nDescription=An example\n# gone\n[Service]\nExecStart=/bin/a\n";
const GLOBAL: &str = "[Service]\nExecStart=/bin/g\n[X-Fleet]\nGlobal=true\n";

#[test]
fn the_life_of_a_unit() {
    let pair = Pair::start(2);
    pair.write("a.service", A);
    pair.write("b.service", "[Service]\nExecStart=/bin/b\n");
    for command in [
        "submit a",
        "submit a.service",
        "cat a",
        "list-unit-files",
        "list-unit-files --full",
        "list-unit-files --fields unit,hash,dstate,state,target,global,desc,tmachine",
        "load a",
        "list-units --fields unit,load,machine,hash",
        "start a",
        "start a",
        "list-unit-files",
        "list-units",
        "list-units --full --no-legend",
        "list-units --l --fields hash",
        "start b",
        "list-units",
        "stop a",
        "stop a",
        "list-unit-files --no-legend",
        "unload a",
        "unload a",
        "stop a",
        "start a",
        "load a",
        "destroy a b nosuch",
        "destroy a",
        "cat a",
    ] {
        pair.same(command);
    }
    pair.until("list-units", "UNIT\tMACHINE\tACTIVE\tSUB\n");
    pair.same("submit a");
    pair.differ(
        "start --no-block a",
        "the original says it twice",
        (
            0,
            "Triggered unit a.service start\nTriggered unit a.service start\n",
        ),
        (0, "Triggered unit a.service start\n"),
    );
    pair.until(
        "list-units --no-legend --fields unit,active",
        "a.service\tactive\n",
    );
    pair.same("stop --no-block a");
    pair.until(
        "list-units --no-legend --fields unit,active",
        "a.service\tinactive\n",
    );
    pair.same("load --no-block a");
    pair.same("unload --no-block a");
    pair.until("list-units --no-legend", "");
    // The wrong way round in the original: this is where it waits.
    pair.same("destroy --no-block a");
}

#[test]
fn machines_and_fields() {
    let pair = Pair::start(3);
    for command in [
        "list-machines",
        "list-machines --full",
        "list-machines --l --no-legend",
        "list-machines --fields=ip,machine",
        "list-machines --fields=nonsense",
        "list-units --fields=",
        "list-units --fields=unit,nonsense",
        "list-unit-files --fields=nonsense",
        "list-unit-files",
        "list-units",
        "list-units --no-legend",
        "list-m",
        "cat",
        "cat a b",
        "cat nosuch",
        "start nosuch",
        "start nosuch@1",
        "stop nosuch",
        "unload nosuch",
        "destroy nosuch",
        "restart nosuch",
        "status nosuch",
        "journal nosuch",
        "ssh nosuch",
        "ssh",
        "submit",
        "load",
        "start",
        "stop",
        "unload",
        "restart",
        "destroy",
        "verify a",
    ] {
        pair.same(command);
    }
}

#[test]
fn global_units() {
    let pair = Pair::start(2);
    pair.write("g.service", GLOBAL);
    pair.differ(
        "submit g",
        "a global unit has no current state, and the original prints what it has not",
        (0, "Unit g.service \n"),
        (0, "Unit g.service inactive\n"),
    );
    pair.same("start g");
    let both = "g.service\t00000000.../10.0.0.1\tactive\trunning\n\
                g.service\t00000001.../10.0.0.2\tactive\trunning\n";
    pair.until("list-units --no-legend", both);
    pair.same("list-unit-files");
    pair.same("list-unit-files --fields unit,global,state");
    pair.same("stop g");
    pair.until(
        "list-units --no-legend --fields unit,active",
        "g.service\tinactive\ng.service\tinactive\n",
    );
    pair.same("load g");
    pair.same("unload g");
    pair.until("list-units --no-legend", "");
    pair.same("destroy g");
}

#[test]
fn templates_and_scheduling() {
    let pair = Pair::start(2);
    pair.write(
        "web@.service",
        "[Service]\nExecStart=/bin/web\n[X-Fleet]\nConflicts=web@*.service\n",
    );
    pair.write(
        "side@.service",
        "[Service]\nExecStart=/bin/s\n[X-Fleet]\nMachineOf=web@%i.service\n",
    );
    for command in [
        "submit web@.service",
        "start web@1",
        "start web@2.service",
        "start side@1.service",
        "cat web@1",
        "list-unit-files --no-legend",
        "list-units --no-legend",
    ] {
        pair.same(command);
    }
    // Nothing fits: both give up when told to, and ours says why.
    let [theirs, ours] = pair.run("start --block-attempts=1 web@3");
    for ran in [&theirs, &ours] {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.err
                .contains("timed out waiting for unit web@3.service to report state launched")
        );
    }
    pair.same("list-unit-files --no-legend");
    pair.same("destroy web@1");
    pair.until(
        "list-unit-files --no-legend --fields unit,state,target",
        "side@1.service\tinactive\t-\nweb@.service\tinactive\t-\n\
         web@2.service\tlaunched\t00000001.../10.0.0.2\nweb@3.service\tlaunched\t00000000.../10.0.0.1\n",
    );
}

#[test]
fn restarting() {
    let pair = Pair::start(1);
    pair.write("a.service", A);
    pair.same("start a");
    pair.differ(
        "restart a",
        "the original asks for loaded and launched at once, and says launched twice",
        (
            0,
            "Unit a.service launched on 00000000.../10.0.0.1\n\
             Unit a.service launched on 00000000.../10.0.0.1\n",
        ),
        (0, "Unit a.service restarted on 00000000.../10.0.0.1\n"),
    );
    assert_eq!(
        pair.clusters[1].starts("a.service"),
        2,
        "ours was started anew"
    );
    pair.same("stop a");
    pair.same("restart a");
    pair.same("unload a");
    pair.same("restart a");
}

#[test]
fn the_environment_and_where_flags_stand() {
    let pair = Pair::start(1);
    for command in [
        "--debug=false list-machines",
        "list-machines --request-timeout 5",
        "list-machines --driver=API",
        "list-machines --driver=nonsense",
        "list-machines --endpoint=unix://var/run/fleet.sock",
        "list-machines --endpoint=10.0.0.1",
        "list-machines --endpoint=unix:///nonexistent",
        "list-machines --strict-host-key-checking=false --ssh-timeout=1 --experimental-api",
        "fd-forward",
    ] {
        pair.same(command);
    }
    for command in ["nonsense", "list-units --nonsense"] {
        let [theirs, ours] = pair.run(command);
        assert_eq!((theirs.code, ours.code), (0, 2), "{command}");
        println!("differs: {command}: a usage error is one");
    }
    let [theirs, ours] = pair.run("version");
    assert!(
        theirs.out.starts_with("fleetctl version ") && ours.out.starts_with("fleetctl version ")
    );
    let [theirs, ours] = pair.run("--version");
    assert!(
        theirs.out.starts_with("fleetctl version ") && ours.out.starts_with("fleetctl version ")
    );
    for command in ["help", "--help", "--h", "help start", "start --help"] {
        let [theirs, ours] = pair.run(command);
        assert_eq!((theirs.code, ours.code), (0, 0), "{command}");
        let sections = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|l| {
                    l.ends_with(':') && l.to_uppercase() == **l && !l.starts_with([' ', '\t'])
                })
                .map(str::to_owned)
                .collect()
        };
        let have = sections(&ours.out);
        for section in sections(&theirs.out) {
            assert!(have.contains(&section), "{command}: {section} {have:?}");
        }
        println!("same sections: {command}");
    }
}

#[test]
fn status_and_journal_here() {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap();
    let machine = [(id.trim().to_owned(), "10.0.0.1".to_owned())];
    let pair = Pair {
        clusters: [Cluster::with(&machine), Cluster::with(&machine)],
        program: original(),
    };
    for cluster in &pair.clusters {
        cluster.script("systemctl", "echo systemctl \"$@\"; exit 3");
        cluster.script("journalctl", "echo journalctl \"$@\"");
        cluster.script("sudo", "echo sudo \"$@\"");
    }
    pair.write("a.service", A);
    pair.write("g.service", GLOBAL);
    pair.same("start a");
    pair.run("start g");
    for command in [
        "status a",
        "status",
        "status nosuch",
        "journal a",
        "journal --lines 5 --follow a",
        "journal --f --output json a",
        "journal --sudo a",
        "journal nosuch",
    ] {
        pair.same(command);
    }
    // As in the original, the first that is not well ends it.
    pair.same("status a a");
    let [theirs, ours] = pair.run("status g");
    assert_eq!((theirs.code, ours.code), (0, 3), "{theirs:?} {ours:?}");
    assert_eq!(ours.out, "systemctl status -l g.service\n");
    println!("differs: status g: the original finds no machine of a global unit");
    let [theirs, ours] = pair.run("journal g");
    assert_eq!((theirs.code, ours.code), (1, 0), "{theirs:?} {ours:?}");
    assert!(
        ours.out.starts_with("journalctl --unit g.service"),
        "{ours:?}"
    );
    println!("differs: journal g: the original refuses a global unit");
    pair.same("unload a");
    pair.same("status a");
    pair.same("journal a");
}

#[test]
fn replacing() {
    let pair = Pair::start(1);
    pair.write("a.service", A);
    pair.same("start a");
    pair.same("start --replace a");
    pair.write("a.service", "[Service]\nExecStart=/bin/b\n");
    pair.same("submit a");
    pair.same("submit --replace a");
    pair.same("start --replace a");
    pair.same("cat a");
    pair.same("unload a");
    pair.write("a.service", "[Service]\nExecStart=/bin/c\n");
    pair.same("load --replace a");
    pair.same("cat a");
    pair.same("list-unit-files");
}

/// Through a real sshd: the original's own ssh client, with an agent as it demands, and our
/// fd-forward on the other side.
#[test]
fn tunnels_and_remote_commands() {
    let machine = [(harness::id(0), "127.0.0.1".to_owned())];
    let cluster = Cluster::with(&machine);
    for name in ["systemctl", "journalctl"] {
        cluster.script(name, &format!("echo {name} \"$@\""));
    }
    cluster.write("a.service", A);
    cluster.well(&["start", "a"]);
    let sshd = sshd::Sshd::start(&cluster);
    cluster.write(".fleetctl/known_hosts", &sshd.host_key(&cluster));
    let (program, port) = (original(), sshd.port);
    let tunnel = format!("--tunnel 127.0.0.1:{port}");
    let remote = format!("--ssh-port {port}");
    let commands = [
        (
            format!("{tunnel} list-machines --no-legend --fields=ip"),
            0,
            "127.0.0.1\n",
        ),
        (
            format!("{tunnel} list-units --no-legend"),
            0,
            "a.service\t00000000.../127.0.0.1\tactive\trunning\n",
        ),
        (
            format!("{tunnel} cat a"),
            0,
            "[Service]\nExecStart=/bin/a\n",
        ),
        (
            format!("status {remote} a"),
            0,
            "systemctl status -l a.service\n",
        ),
        (
            format!("journal {remote} --lines 3 a"),
            0,
            "journalctl --unit a.service --no-pager -n 3 --output short\n",
        ),
        (format!("ssh {remote} a -- echo there"), 0, "there\n"),
        (format!("ssh {remote} 00000000 exit 7"), 7, ""),
        (format!("ssh {remote} --unit a echo there"), 0, "there\n"),
        (format!("ssh {remote} nosuch"), 1, ""),
    ];
    for (i, (command, code, out)) in commands.into_iter().enumerate() {
        // An agent for as long as the command runs.
        let script = format!(
            "ssh-add -q .ssh/id_ecdsa && exec {} --ssh-username $(id -un) \
             --known-hosts-file {}/.fleetctl/known_hosts {command}",
            program.display(),
            cluster.dir.path().display()
        );
        let mut agent_run = cluster.command(std::path::Path::new("ssh-agent"));
        let endpoint = format!("unix://{}", cluster.machines[0].socket.display());
        agent_run.env("FLEETCTL_ENDPOINT", endpoint);
        let agent = cluster.dir.path().join(format!("agent{i}"));
        agent_run.arg("-a").arg(&agent).args(["sh", "-c", &script]);
        let ran = Ran::from(agent_run.output().unwrap());
        let out_as_said = match command.contains(" cat ") {
            true => ran.out.contains("ExecStart=/bin/a\n"),
            false => ran.out == out,
        };
        let log = std::fs::read_to_string(cluster.dir.path().join("sshd/log")).unwrap();
        assert!(ran.code == code && out_as_said, "{command}: {ran:?}\n{log}");
        println!("original: {command}: {code}");
    }
}
