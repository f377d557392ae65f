//! A daemon that is killed with SIGKILL and replaced by a new process: real processes, real etcd.
//!
//! There is no systemd1 where tests run, so the service manager here is a small one of the test's
//! own: it starts a real process for each unit and keeps its number in a file, and the processes
//! outlive the daemon as services do. What is tested is that they are the same ones afterwards.
//!
//! The daemon is this program again, told so by its environment.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_kv::BoxFuture;
use etcd_kv::testing::EtcdServer;
use fleet_model::{TargetState, UnitFile, UnitName};
use fleetd::agent::{ActualState, ManagerError, News, RunEnd, ServiceManager};
use fleetd::clock::MachineClock;
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, Io, run, signalled};
use fleetd::registry::Registry;
use tokio::sync::mpsc;

const DIRECTORY: &str = "ADOPT_DIRECTORY";
const ETCD: &str = "ADOPT_ETCD";
const UNITS: usize = 20;

/// Starts a process for each unit.
#[derive(Debug)]
struct Processes {
    dir: PathBuf,
    news: mpsc::Sender<News>,
    receiver: std::sync::Mutex<Option<mpsc::Receiver<News>>>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, ManagerError>>;

fn pid_of(dir: &Path, name: &str) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(dir.join(name)).ok()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // One that nobody waits for is dead all the same.
    (!stat.contains(") Z")).then_some(pid)
}

impl Processes {
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let (news, receiver) = mpsc::channel(1024);
        Self {
            dir,
            news,
            receiver: std::sync::Mutex::new(Some(receiver)),
        }
    }

    fn changed(&self, name: &UnitName) {
        let _ = self.news.try_send(News::Unit(name.to_string()));
    }

    fn end(&self, name: &UnitName) {
        if let Some(pid) = pid_of(&self.dir, name.as_str()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            while pid_of(&self.dir, name.as_str()).is_some() {
                std::thread::yield_now();
            }
        }
        self.changed(name);
    }
}

fn done<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(async move { Ok(value) })
}

impl ServiceManager for Processes {
    fn link(&self, files: Vec<PathBuf>) -> Answer<'_, ()> {
        for file in files {
            let there = self.dir.join(file.file_name().unwrap());
            if !there.exists() {
                std::fs::write(there, "").unwrap();
            }
        }
        done(())
    }

    fn unlink(&self, name: UnitName) -> Answer<'_, ()> {
        let _ = std::fs::remove_file(self.dir.join(name.as_str()));
        done(())
    }

    fn enable(&self, _: UnitName) -> Answer<'_, ()> {
        done(())
    }

    fn reload(&self) -> Answer<'_, ()> {
        done(())
    }

    fn start(&self, name: UnitName) -> Answer<'_, ()> {
        if pid_of(&self.dir, name.as_str()).is_none() {
            // Ends by itself, whatever becomes of the test.
            let mut child = Command::new("sleep")
                .arg("120")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .unwrap();
            std::fs::write(self.dir.join(name.as_str()), child.id().to_string()).unwrap();
            std::thread::spawn(move || child.wait());
        }
        self.changed(&name);
        done(())
    }

    fn start_run(&self, name: UnitName) -> Answer<'_, ()> {
        self.start(name)
    }

    fn run_end(&self, _: UnitName) -> Answer<'_, Option<RunEnd>> {
        done(None)
    }

    fn kill(&self, name: UnitName) -> Answer<'_, ()> {
        self.end(&name);
        done(())
    }

    fn stop(&self, name: UnitName) -> Answer<'_, ()> {
        self.end(&name);
        done(())
    }

    fn stop_and_wait(&self, name: UnitName) -> Answer<'_, ()> {
        self.end(&name);
        done(())
    }

    fn reset_failed(&self, _: UnitName) -> Answer<'_, ()> {
        done(())
    }

    fn states(&self, names: Vec<UnitName>) -> Answer<'_, Vec<(UnitName, ActualState)>> {
        let state = |name: UnitName| {
            let known = self.dir.join(name.as_str()).exists();
            let runs = pid_of(&self.dir, name.as_str()).is_some();
            let state = ActualState {
                load: if known { "loaded" } else { "not-found" }.into(),
                active: if runs { "active" } else { "inactive" }.into(),
                sub: if runs { "running" } else { "dead" }.into(),
                job: false,
            };
            (name, state)
        };
        done(names.into_iter().map(state).collect())
    }

    fn news(&self) -> mpsc::Receiver<News> {
        self.receiver.lock().unwrap().take().unwrap()
    }

    fn own_job(&self) -> Answer<'_, (Option<String>, String)> {
        done((None, "running".into()))
    }
}

#[tokio::main]
async fn daemon(dir: PathBuf) {
    let text = format!(
        "etcd_servers={}\nagent_ttl=2s\n",
        std::env::var(ETCD).unwrap()
    );
    let (settings, _) = Settings::from_text("test", &text, std::iter::empty()).unwrap();
    let settings = Settings {
        public_ip: "10.0.0.1".into(),
        units_directory: dir.join("units"),
        run_directory: dir.join("run"),
        machine_id_file: dir.join("machine-id"),
        ..settings
    };
    let io = Io {
        sockets: Vec::new(),
        manager: Arc::new(Processes::new(dir.join("processes"))),
        kv: None,
        clock: Arc::new(MachineClock),
        api: ApiIo::default(),
    };
    run(&settings, &io, signalled()).await.unwrap();
}

fn spawn(dir: &Path, etcd: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(DIRECTORY, dir)
        .env(ETCD, etcd)
        .spawn()
        .unwrap()
}

/// Numbers of the processes that run.
fn pids(dir: &Path) -> BTreeMap<String, u32> {
    let Ok(entries) = std::fs::read_dir(dir.join("processes")) else {
        return BTreeMap::new();
    };
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| Some((name.clone(), pid_of(&dir.join("processes"), &name)?)))
        .collect()
}

async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !so().await {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main]
async fn test() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("machine-id"), "0".repeat(32)).unwrap();
    let etcd = EtcdServer::start().await;
    let registry = Registry::new(Arc::new(etcd.client()), "/_coreos.com/fleet/");
    let name = |i: usize| UnitName::parse(&format!("u{i}.service")).unwrap();
    let mut child = spawn(dir.path(), &etcd.url());
    for i in 0..UNITS {
        // Some of them behind the fence: a restart in time must not stop these, either.
        let rule = if i % 2 == 0 { "stop" } else { "keep" };
        let text = format!("[Service]\nExecStart=/x\n[X-Fleet]\nPartition={rule}\n");
        let file = UnitFile::parse(&text).unwrap();
        let launched = TargetState::Launched;
        registry.create(&name(i), &file, launched).await.unwrap();
    }
    let count = |dir: &Path| pids(dir).keys().filter(|n| n.starts_with('u')).count();
    eventually("all run", async || count(dir.path()) == UNITS).await;
    let settled = async || {
        let states = registry.states(None).await.unwrap();
        states.len() == UNITS && states.iter().all(|(_, _, s)| s.active == "active")
    };
    eventually("all are published", settled).await;
    let before = pids(dir.path());

    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = spawn(dir.path(), &etcd.url());
    let later = UnitFile::parse("[Service]\nExecStart=/x\n").unwrap();
    let launched = TargetState::Launched;
    registry
        .create(&name(UNITS), &later, launched)
        .await
        .unwrap();
    eventually("the new one works", async || count(dir.path()) == UNITS + 1).await;
    let mut after = pids(dir.path());
    after.remove(name(UNITS).as_str());
    assert_eq!(after, before, "the same processes run");

    for i in 0..=UNITS {
        registry.destroy(&name(i)).await.unwrap();
    }
    eventually("all are gone", async || count(dir.path()) == 0).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

fn main() {
    match std::env::var_os(DIRECTORY) {
        Some(dir) => daemon(dir.into()),
        // As the test harness does for names that do not match.
        None if std::env::args().any(|a| a == "--list") => println!("adopt: test"),
        None => {
            test();
            println!("adopt: a killed daemon's successor bounces nothing: ok");
        }
    }
}
