//! A cluster of real daemons on a store in memory, each with a pretended service manager, and the
//! real fleetctl against its sockets.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_kv::MemKv;
use fleetd::api::Tls;
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, End, Io, run};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::pretend::Pretend;

/// How long anything may take to become true.
const DEADLINE: Duration = Duration::from_secs(30);

/// One machine.
pub(crate) struct Machine {
    pub(crate) socket: PathBuf,
    /// The same API by TCP.
    pub(crate) port: u16,
    pub(crate) manager: Pretend,
    settings: Settings,
    listeners: Vec<OwnedFd>,
    tls: Option<Tls>,
    runtime: Option<Runtime>,
}

/// The machines, and a directory in which fleetctl runs.
pub(crate) struct Cluster {
    pub(crate) machines: Vec<Machine>,
    pub(crate) dir: TempDir,
    kv: MemKv,
    tls: Option<Tls>,
    configuration: &'static str,
    /// Where fleetctl finds the first machine, if not at its own socket.
    front: Option<PathBuf>,
}

/// What fleetctl did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The ID of a machine by its number, from 0.
pub(crate) fn id(number: usize) -> String {
    format!("{number:08}{number:024}")
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Cluster {
    /// Machines with the addresses 10.0.0.1 and so on.
    pub(crate) fn start(size: usize) -> Self {
        Self::configured(size, "")
    }

    /// The same, with more lines in their `fleet.conf`.
    pub(crate) fn configured(size: usize, configuration: &'static str) -> Self {
        let address = |n: usize| (id(n), format!("10.0.0.{}", n + 1));
        let machines: Vec<_> = (0..size).map(address).collect();
        Self::new(&machines, None, configuration)
    }

    /// Machines with these IDs and addresses.
    pub(crate) fn with(machines: &[(String, String)]) -> Self {
        Self::secured(machines, None)
    }

    /// With `tls`, TCP listeners demand it.
    pub(crate) fn secured(machines: &[(String, String)], tls: Option<Tls>) -> Self {
        Self::new(machines, tls, "")
    }

    fn new(machines: &[(String, String)], tls: Option<Tls>, configuration: &'static str) -> Self {
        let size = machines.len();
        let mut cluster = Self {
            machines: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
            kv: MemKv::new(),
            tls,
            configuration,
            front: None,
        };
        for (id, address) in machines {
            cluster.add(id, address);
        }
        for machine in 0..size {
            eventually("the machine answers", || {
                cluster
                    .fleetctl_at(machine, &["list-machines"])
                    .out
                    .lines()
                    .count()
                    == size + 1
            });
        }
        cluster
    }

    /// One more machine, with metadata `index=N` from 1.
    pub(crate) fn add(&mut self, id: &str, address: &str) {
        let number = self.machines.len();
        let home = self.dir.path().join(format!("machine{number}"));
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("machine-id"), format!("{id}\n")).unwrap();
        let n = number + 1;
        let text = format!(
            "agent_ttl=30s\napi_roles=viewer:read,boss:admin\npublic_ip={address}\nmetadata=index={n},zone=z{}\n{}",
            n % 2,
            self.configuration
        );
        let (settings, _) = Settings::from_text("test", &text, std::iter::empty()).unwrap();
        let settings = Settings {
            units_directory: home.join("units"),
            run_directory: home.join("run"),
            machine_id_file: home.join("machine-id"),
            ..settings
        };
        let socket = home.join("fleet.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut machine = Machine {
            socket,
            port: tcp.local_addr().unwrap().port(),
            manager: Pretend::default(),
            settings,
            listeners: vec![listener.into(), tcp.into()],
            tls: self.tls.clone(),
            runtime: None,
        };
        machine.run(&self.kv);
        self.machines.push(machine);
    }

    /// From now on fleetctl finds the first machine's daemon as one that has the original's API only.
    pub(crate) fn pretend_original(&mut self) {
        let socket = self.dir.path().join("front.sock");
        crate::front::start(&socket, &self.machines[0].socket);
        self.front = Some(socket);
    }

    /// fleetctl, ready to run.
    pub(crate) fn command(&self, program: &Path) -> Command {
        // Nothing that a test does may hang it.
        let mut command = Command::new("timeout");
        command
            .arg("60")
            .arg(program)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", self.path())
            .stdin(Stdio::null());
        command
    }

    /// Programs in the directory `bin` come before the system's.
    pub(crate) fn path(&self) -> std::ffi::OsString {
        let mut path = self.dir.path().join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// A program in `bin`, as a shell script.
    pub(crate) fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let name = format!("bin/{name}");
        self.write(&name, &format!("#!/bin/sh\n{text}\n"));
        let path = self.dir.path().join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs fleetctl against the first machine.
    pub(crate) fn fleetctl(&self, args: &[&str]) -> Ran {
        self.fleetctl_at(0, args)
    }

    pub(crate) fn fleetctl_at(&self, machine: usize, args: &[&str]) -> Ran {
        self.program_at(Path::new(env!("CARGO_BIN_EXE_fleetctl")), machine, args)
    }

    pub(crate) fn program_at(&self, program: &Path, machine: usize, args: &[&str]) -> Ran {
        let front = self.front.as_ref().filter(|_| machine == 0);
        let socket = front.unwrap_or(&self.machines[machine].socket);
        let endpoint = format!("unix://{}", socket.display());
        let mut command = self.command(program);
        command.env("FLEETCTL_ENDPOINT", endpoint).args(args);
        command.output().unwrap().into()
    }

    /// Writes a file where fleetctl runs.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs fleetctl, which must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn well(&self, args: &[&str]) -> String {
        let ran = self.fleetctl(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    /// How often a unit was started, anywhere.
    pub(crate) fn starts(&self, name: &str) -> usize {
        let start = format!("start {name}");
        let logs = self.machines.iter().flat_map(|m| m.manager.log());
        logs.filter(|line| *line == start).count()
    }
}

impl Machine {
    fn run(&mut self, kv: &MemKv) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let io = Io {
            sockets: self
                .listeners
                .iter()
                .map(|l| ("fleet.socket".into(), l.try_clone().unwrap()))
                .collect(),
            manager: Arc::new(self.manager.clone()),
            kv: Some(Arc::new(kv.clone())),
            clock: Arc::new(fleetd::clock::MachineClock),
            api: ApiIo {
                tls: self.tls.clone(),
                ..ApiIo::default()
            },
        };
        let settings = self.settings.clone();
        runtime.spawn(async move {
            let forever = std::future::pending::<Result<End, _>>();
            run(&settings, &io, forever).await
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
