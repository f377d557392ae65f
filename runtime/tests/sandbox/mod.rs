//! A place where real containers run without touching the host: a mount and a network namespace of its own, with
//! `/run`, the container store and a registry (Debian's docker-registry) for the test alone.
//!
//! Needs root, a kernel with cgroup v2 and the packages busybox-static, docker-registry, iproute2, nftables.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use oci_image::build::{Built, Item, single_layer};
use oci_image::manifest::RunConfig;
use oci_image::push::push_built;
use oci_image::registry::RegistryConfig;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const DOCKER: &str = env!("CARGO_BIN_EXE_docker");
/// The registry inside.
pub const REGISTRY: &str = "127.0.0.1:5000";
/// An image with a shell and the everyday programs.
pub const IMAGE: &str = "127.0.0.1:5000/box:1";

/// Mounts, then says so and lives until its input ends.
const SETUP: &str = "mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir /run/docker
printf '{\"data_root\": \"%s\", \"log_driver\": \"json-file\"}' \"$STORE\" >/run/docker/options.json
ip link set lo up
echo ready
exec cat";

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The namespaces, alive as long as this value.
pub struct Sandbox {
    pub home: tempfile::TempDir,
    holder: Child,
    registry: Child,
}

impl Sandbox {
    /// With a registry that holds [`IMAGE`] and `more`.
    pub fn new(more: &[(&str, &Built)]) -> Sandbox {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("registry");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut outside = serve(home.path(), &data, port, Command::new("docker-registry"));
        wait_for("the registry outside", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let image = busybox();
        for (name, built) in [("box:1", &image)].into_iter().chain(more.iter().copied()) {
            let name = format!("127.0.0.1:{port}/{name}").parse().unwrap();
            push_built(&RegistryConfig::default(), &name, built).unwrap();
        }
        outside.kill().unwrap();
        outside.wait().unwrap();

        std::fs::create_dir(home.path().join("store")).unwrap();
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--propagation",
                "private",
                "sh",
                "-ec",
                SETUP,
            ])
            .env("STORE", home.path().join("store"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "the sandbox needs root and cgroup v2");
        let enter = enter(holder.id(), "docker-registry");
        let registry = serve(home.path(), &data, 5000, enter);
        let sandbox = Sandbox {
            home,
            holder,
            registry,
        };
        wait_for("the registry inside", || {
            sandbox
                .host(&["bash", "-c", "</dev/tcp/127.0.0.1/5000"])
                .code
                == 0
        });
        sandbox
    }

    /// The container store.
    pub fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// A program of the host inside the namespaces.
    pub fn command(&self, program: &str) -> Command {
        enter(self.holder.id(), program)
    }

    /// Runs a program of the host inside.
    pub fn host(&self, words: &[&str]) -> Done {
        let output = self.command(words[0]).args(&words[1..]).output().unwrap();
        output.into()
    }

    /// `docker …`
    pub fn docker(&self, words: &[&str]) -> Done {
        self.docker_with(words, &[], "")
    }

    /// `docker …` with variables and standard input.
    pub fn docker_with(&self, words: &[&str], env: &[(&str, &str)], input: &str) -> Done {
        let mut child = self
            .command(DOCKER)
            .args(words)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may not want any.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    /// `docker …` that must work; its output.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let done = self.docker(words);
        assert_eq!(done.code, 0, "docker {}: {done:?}", words.join(" "));
        done.out
    }

    /// Flips a bit in every blob of the registry that is longer than `least`.
    pub fn damage_registry(&self, least: u64) {
        let mut stack = vec![self.home.path().join("registry")];
        let mut damaged = 0;
        while let Some(directory) = stack.pop() {
            for item in std::fs::read_dir(directory).unwrap().flatten() {
                let path = item.path();
                if path.is_dir() {
                    stack.push(path);
                } else if path.ends_with("data") && path.metadata().unwrap().len() > least {
                    let mut bytes = std::fs::read(&path).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for id in self.docker(&["ps", "-aq"]).out.split_whitespace() {
            self.docker(&["rm", "-f", id]);
        }
        self.host(&["rmdir", "/sys/fs/cgroup/docker"]);
        for child in [&mut self.registry, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn enter(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--mount", "--net", "--"]);
    command.arg(program);
    command
}

fn serve(home: &Path, data: &Path, port: u16, mut registry: Command) -> Child {
    let config = home.join(format!("registry-{port}.yml"));
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        data.display()
    );
    std::fs::write(&config, text).unwrap();
    registry
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry is installed")
}

/// Waits until something holds.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// busybox under the names that the tests use.
pub fn busybox() -> Built {
    let program = ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("busybox-static is installed");
    let mut files = BTreeMap::from([
        ("bin".to_owned(), Item::Directory),
        ("etc".to_owned(), Item::Directory),
        (
            "etc/passwd".to_owned(),
            Item::File {
                bytes: b"root:x:0:0::/:/bin/sh\nweb:x:12:34::/:/bin/sh\n".to_vec(),
                mode: 0o644,
            },
        ),
        (
            "bin/busybox".to_owned(),
            Item::File {
                bytes: program,
                mode: 0o755,
            },
        ),
    ]);
    for name in [
        "cat", "echo", "env", "id", "kill", "ls", "nc", "pwd", "sh", "sleep", "stat", "test",
        "touch", "true", "tty",
    ] {
        files.insert(format!("bin/{name}"), Item::Symlink("busybox".to_owned()));
    }
    let run = RunConfig {
        cmd: vec!["/bin/sh".to_owned()],
        env: vec!["PATH=/bin".to_owned(), "FROM=image".to_owned()],
        ..RunConfig::default()
    };
    single_layer(&files, run).unwrap()
}
