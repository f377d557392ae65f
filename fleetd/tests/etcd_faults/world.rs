//! Three etcd members, each in a network namespace of its own, and a place to test them from.
//!
//! A test runs itself again inside fresh network and mount namespaces ([`inside`]), which hold two
//! bridges: one on which clients reach the members, one between the members. So a member can be cut
//! off from everybody, or from its peers only, and nothing of it is seen on the host. When the test
//! ends, or is killed, processes, links and mounts are gone with the namespaces.

use std::future::Future;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_kv::{EtcdConfig, EtcdKv, Kv};
use tempfile::TempDir;
use tokio::time::sleep;

/// Set for the test inside; its value is the test's name.
const INSIDE: &str = "FLOTILLA_TEST_INSIDE";

/// One cluster at a time: the bounds are for a machine that has something left.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `test`, which is the body of the test called `name`, inside namespaces of its own.
pub(crate) fn inside(name: &str, test: impl Future<Output = ()>) {
    if std::env::var(INSIDE).is_ok_and(|n| n == name) {
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(test);
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .args([
            "--net",
            "--mount",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
            "--",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .stdin(Stdio::null())
        .output()
        .expect("unshare is installed (Debian: util-linux)");
    let said = [output.stdout, output.stderr].concat();
    print!("{}", String::from_utf8_lossy(&said));
    assert!(
        output.status.success(),
        "{name} failed inside its namespaces"
    );
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// iproute2 in the test's own namespace.
fn ip(args: &str) {
    run(Command::new("ip").args(args.split(' ')));
}

/// A program in the network namespace of a process.
fn nsenter(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--");
    command
}

/// One member.
struct Member {
    number: usize,
    /// Holds the namespace.
    holder: Child,
    etcd: Option<Child>,
    data: PathBuf,
}

impl Member {
    fn client_url(number: usize) -> String {
        format!("http://10.99.0.1{number}:2379")
    }

    fn peer_url(number: usize) -> String {
        format!("http://10.98.0.1{number}:2380")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        for child in [self.etcd.as_mut(), Some(&mut self.holder)]
            .into_iter()
            .flatten()
        {
            // One that has ended already cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The three members.
pub(crate) struct World {
    dir: TempDir,
    members: Vec<Member>,
    args: Vec<String>,
}

impl World {
    /// Starts three members with these further arguments, and waits until they have a leader.
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[]).await
    }

    /// The same; some members have disks of their own, of a size as mount(8) takes it.
    pub(crate) async fn start_with(args: &[&str], disks: &[(usize, &str)]) -> Self {
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            members: Vec::new(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
        };
        for bridge in ["clients", "peers"] {
            ip(&format!("link add {bridge} type bridge"));
            ip(&format!("link set {bridge} up"));
        }
        ip("addr add 10.99.0.1/24 dev clients");
        for number in 1..=3 {
            world.add(number);
        }
        for (number, size) in disks {
            let size = format!("size={size}");
            run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(world.data(*number)));
        }
        for number in 1..=3 {
            world.resume(number);
        }
        world.wait_healthy().await;
        world
    }

    fn add(&mut self, number: usize) {
        // Ends with the pipe, should all else fail.
        let holder = Command::new("unshare")
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = holder.id();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own) {
            assert!(Instant::now() < deadline, "no namespace");
            std::thread::yield_now();
        }
        for (bridge, link, network) in [("clients", "c", "10.99.0.1"), ("peers", "p", "10.98.0.1")]
        {
            ip(&format!(
                "link add {link}{number} type veth peer name {link}"
            ));
            ip(&format!("link set {link} netns {pid}"));
            ip(&format!("link set {link}{number} master {bridge} up"));
            let address = format!("addr add {network}{number}/24 dev {link}");
            run(nsenter(pid).arg("ip").args(address.split(' ')));
            run(nsenter(pid).args(["ip", "link", "set", link, "up"]));
        }
        run(nsenter(pid).args(["ip", "link", "set", "lo", "up"]));
        let data = self.dir.path().join(format!("m{number}"));
        std::fs::create_dir(&data).unwrap();
        self.members.push(Member {
            number,
            holder,
            etcd: None,
            data,
        });
    }

    /// Starts a member on the data it has.
    pub(crate) fn resume(&mut self, number: usize) {
        let member = &mut self.members[number - 1];
        let (client, peer) = (Member::client_url(number), Member::peer_url(number));
        let cluster: Vec<_> = (1..=3)
            .map(|n| format!("m{n}={}", Member::peer_url(n)))
            .collect();
        let log = std::fs::File::create(self.dir.path().join(format!("log{number}"))).unwrap();
        let mut command = nsenter(member.holder.id());
        command
            .args([
                "etcd",
                "--log-level=error",
                "--enable-v2=false",
                "--unsafe-no-fsync",
            ])
            .args([
                format!("--name=m{number}"),
                format!("--data-dir={}/d", member.data.display()),
            ])
            .args([
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
            ])
            .args([
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
            ])
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .args(["--heartbeat-interval=100", "--election-timeout=1000"])
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        member.etcd = Some(command.spawn().unwrap());
    }

    /// Ends a member as SIGKILL does.
    pub(crate) fn kill(&mut self, number: usize) {
        let mut etcd = self.members[number - 1].etcd.take().expect("it runs");
        etcd.kill().unwrap();
        etcd.wait().unwrap();
    }

    /// Whether a member's process has ended by itself.
    pub(crate) fn has_ended(&mut self, number: usize) -> bool {
        let etcd = self.members[number - 1].etcd.as_mut();
        let ended = etcd.is_some_and(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.members[number - 1].etcd = None;
        }
        ended
    }

    /// What a member said on its standard error.
    pub(crate) fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("log{number}"))).unwrap_or_default()
    }

    /// Cuts a member's link to its peers, and to clients as well if `all`.
    pub(crate) fn cut(&self, number: usize, all: bool) {
        ip(&format!("link set p{number} down"));
        if all {
            ip(&format!("link set c{number} down"));
        }
    }

    /// Undoes [`World::cut`].
    pub(crate) fn join(&self, number: usize) {
        ip(&format!("link set p{number} up"));
        ip(&format!("link set c{number} up"));
    }

    /// Directory of a member's data, where it can also be mounted over.
    pub(crate) fn data(&self, number: usize) -> &Path {
        &self.members[number - 1].data
    }

    /// A client of all members, as the daemon makes one, that tries `first` first.
    pub(crate) fn client(&self, first: usize) -> Arc<dyn Kv> {
        let urls: Vec<_> = (0..3)
            .map(|i| Member::client_url((first - 1 + i) % 3 + 1))
            .collect();
        client(&urls)
    }

    /// Debian's etcdctl against all members.
    pub(crate) fn etcdctl(&self, args: &[&str]) {
        let urls: Vec<_> = self
            .members
            .iter()
            .map(|m| Member::client_url(m.number))
            .collect();
        run(Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", urls.join(",")))
            .args(args));
    }

    /// The member that leads, as the others see it, and one that does not.
    pub(crate) async fn leader_and_follower(&self) -> (usize, usize) {
        let mut names = Vec::new();
        for member in &self.members {
            let config = EtcdConfig::new(&[Member::client_url(member.number)]).unwrap();
            let status = EtcdKv::new(config).status().await.unwrap();
            names.push((member.number, status.member, status.leader));
        }
        let leads =
            |(number, member, leader): &(usize, u64, u64)| (member == leader).then_some(*number);
        let leader = names.iter().find_map(leads).expect("somebody leads");
        (leader, leader % 3 + 1)
    }

    /// Waits until every member answers by consensus.
    pub(crate) async fn wait_healthy(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for member in &self.members {
            let kv = client(&[Member::client_url(member.number)]);
            while let Err(error) = kv.get("0").await {
                let log = self.log(member.number);
                assert!(
                    Instant::now() < deadline,
                    "m{}: {error}: {log}",
                    member.number
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// With the daemon's own deadline.
fn client(urls: &[String]) -> Arc<dyn Kv> {
    let mut config = EtcdConfig::new(urls).unwrap();
    config.request_timeout = Duration::from_secs(1);
    Arc::new(EtcdKv::new(config))
}
