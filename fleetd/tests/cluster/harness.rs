//! Daemons, each in a runtime of its own, so that one can be killed like a process.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_kv::Kv;
use etcd_kv::testing::EtcdServer;
use fleetd::config::Settings;
use fleetd::daemon::{DaemonError, End, Io, run};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::pretend::Pretend;

pub(crate) struct Daemon {
    pub(crate) manager: Pretend,
    /// Where it serves DNS.
    pub(crate) dns: SocketAddr,
    settings: Settings,
    kv: Option<Arc<dyn Kv>>,
    socket: PathBuf,
    listener: OwnedFd,
    id: String,
    runtime: Option<Runtime>,
    end: Option<oneshot::Sender<End>>,
    ended: Option<oneshot::Receiver<Result<End, DaemonError>>>,
    _dir: TempDir,
}

pub(crate) struct Cluster {
    pub(crate) daemons: Vec<Daemon>,
    etcd_url: String,
    kv: Option<Arc<dyn Kv>>,
    /// More lines for each fleet.conf.
    more: &'static str,
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nothing of an ended daemon takes a connection any more that is meant for the next.
async fn gone(runtime: Runtime) {
    let end = move || runtime.shutdown_timeout(Duration::from_secs(20));
    tokio::task::spawn_blocking(end).await.unwrap();
}

impl Daemon {
    fn new(id: &str, number: usize, etcd_url: &str, kv: Option<Arc<dyn Kv>>, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("machine-id"), format!("{id}\n")).unwrap();
        // Free now; the kernel hands out others for a while.
        let dns = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let dns = dns.local_addr().unwrap();
        let text = format!(
            "etcd_servers={etcd_url}\nagent_ttl=2s\npublic_ip=10.0.0.{number}\nmetadata=index={number}\ndns_listen={dns}\n{more}"
        );
        let (settings, warnings) = Settings::from_text("test", &text, std::iter::empty()).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let settings = Settings {
            units_directory: path("units"),
            run_directory: path("run"),
            machine_id_file: path("machine-id"),
            ..settings
        };
        let socket = path("fleet.sock");
        let listener = UnixListener::bind(&socket).unwrap().into();
        let mut daemon = Self {
            manager: Pretend::default(),
            dns,
            settings,
            kv,
            socket,
            listener,
            id: id.to_owned(),
            runtime: None,
            end: None,
            ended: None,
            _dir: dir,
        };
        daemon.start();
        daemon
    }

    fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (end, asked) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let settings = self.settings.clone();
        let io = Io {
            sockets: vec![("fleet.socket".into(), self.listener.try_clone().unwrap())],
            manager: Arc::new(self.manager.clone()),
            kv: self.kv.clone(),
            clock: Arc::new(fleetd::clock::MachineClock),
            api: fleetd::daemon::ApiIo::default(),
        };
        runtime.spawn(async move {
            let asked = async { Ok(asked.await.unwrap_or(End::Exit)) };
            let _ = done.send(run(&settings, &io, asked).await);
        });
        (self.runtime, self.end, self.ended) = (Some(runtime), Some(end), Some(ended));
    }
}

impl Daemon {
    /// Where the file of a unit is.
    pub(crate) fn unit_file(&self, name: &str) -> PathBuf {
        self.settings.units_directory.join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Cluster {
    pub(crate) async fn start(etcd: &EtcdServer, size: usize) -> Self {
        Self::start_with(etcd.url(), None, size, "").await
    }

    /// With more lines in each fleet.conf.
    pub(crate) async fn configured(etcd: &EtcdServer, size: usize, more: &'static str) -> Self {
        Self::start_with(etcd.url(), None, size, more).await
    }

    /// On a store of the test's own.
    pub(crate) async fn start_on(kv: Arc<dyn Kv>, size: usize) -> Self {
        Self::start_with("http://127.0.0.1:1".into(), Some(kv), size, "").await
    }

    async fn start_with(
        etcd_url: String,
        kv: Option<Arc<dyn Kv>>,
        size: usize,
        more: &'static str,
    ) -> Self {
        let mut cluster = Self {
            daemons: Vec::new(),
            etcd_url,
            kv,
            more,
        };
        for i in 0..size {
            cluster.add_with_id(&format!("{i:08}{i:024}"));
        }
        for i in 0..size {
            cluster.ready(i).await;
        }
        cluster
    }

    pub(crate) fn add_with_id(&mut self, id: &str) {
        let number = self.daemons.len() + 1;
        let kv = self.kv.clone();
        self.daemons
            .push(Daemon::new(id, number, &self.etcd_url, kv, self.more));
    }

    /// One machine more.
    pub(crate) async fn join(&mut self) {
        let i = self.daemons.len();
        self.add_with_id(&format!("{i:08}{i:024}"));
        self.ready(i).await;
    }

    async fn ready(&self, index: usize) {
        eventually("the daemon answers", async || {
            self.request(index, "GET", "/fleet/v1/machines", None)
                .await
                .0
                == 200
        })
        .await;
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.daemons.iter().map(|d| d.id.clone()).collect()
    }

    pub(crate) fn index(&self, id: &str) -> usize {
        self.daemons.iter().position(|d| d.id == id).unwrap()
    }

    /// As with SIGKILL: everything stops where it is.
    pub(crate) fn kill(&mut self, index: usize) {
        self.daemons[index]
            .runtime
            .take()
            .unwrap()
            .shutdown_background();
    }

    /// As with SIGTERM, until it has ended.
    pub(crate) async fn end(&mut self, index: usize) {
        self.end_by(index, End::Exit).await;
    }

    /// As with SIGHUP, after the settings were changed.
    pub(crate) async fn reload(&mut self, index: usize, change: impl FnOnce(&mut Settings)) {
        self.end_by(index, End::Reload).await;
        change(&mut self.daemons[index].settings);
        self.revive(index).await;
    }

    /// Waits until it has ended by itself. Why.
    pub(crate) async fn breaks(&mut self, index: usize) -> String {
        let daemon = &mut self.daemons[index];
        let ended = daemon.ended.take().unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        gone(daemon.runtime.take().unwrap()).await;
        ended.expect("it goes on").unwrap().unwrap_err().to_string()
    }

    async fn end_by(&mut self, index: usize, end: End) {
        let daemon = &mut self.daemons[index];
        daemon.end.take().unwrap().send(end).unwrap();
        daemon.ended.take().unwrap().await.unwrap().unwrap();
        gone(daemon.runtime.take().unwrap()).await;
    }

    pub(crate) async fn revive(&mut self, index: usize) {
        self.daemons[index].start();
        self.ready(index).await;
    }

    /// One exchange as text.
    pub(crate) async fn raw(&self, index: usize, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.daemons[index].socket)
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) async fn request(
        &self,
        index: usize,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = self.raw(index, &request).await;
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) async fn put(&self, name: &str, text: &str, target: &str) -> u16 {
        let file = fleet_model::UnitFile::parse(text).unwrap();
        let body = serde_json::json!({"options": file.options(), "desiredState": target});
        let (status, answer) = self
            .request(0, "PUT", &format!("/fleet/v1/units/{name}"), Some(body))
            .await;
        assert!(status == 201 || status == 204, "{status} {answer}");
        status
    }

    pub(crate) async fn target(&self, name: &str, target: &str) {
        let body = serde_json::json!({"desiredState": target});
        let path = format!("/fleet/v1/units/{name}");
        assert_eq!(self.request(0, "PUT", &path, Some(body)).await.0, 204);
    }

    pub(crate) async fn machine_of(&self, name: &str) -> Option<String> {
        self.machine_from(0, name).await
    }

    pub(crate) async fn machine_from(&self, index: usize, name: &str) -> Option<String> {
        let path = format!("/fleet/v1/units/{name}");
        let (_, unit) = self.request(index, "GET", &path, None).await;
        unit["machineID"].as_str().map(str::to_owned)
    }

    /// Names of units that some machine reports as active.
    pub(crate) async fn active(&self) -> BTreeSet<String> {
        self.active_from(0).await
    }

    pub(crate) async fn active_from(&self, index: usize) -> BTreeSet<String> {
        let (_, page) = self.request(index, "GET", "/fleet/v1/state", None).await;
        let states = page["states"].as_array().cloned().unwrap_or_default();
        let active = states
            .iter()
            .filter(|s| s["systemdActiveState"] == "active");
        active
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) async fn states_of(&self, name: &str) -> Vec<Value> {
        let path = format!("/fleet/v1/state?unitName={name}");
        let (_, page) = self.request(0, "GET", &path, None).await;
        page["states"].as_array().cloned().unwrap_or_default()
    }

    /// Where a unit's file is on a machine.
    pub(crate) fn file(&self, index: usize, name: &str) -> PathBuf {
        self.daemons[index].settings.units_directory.join(name)
    }

    /// How often a unit was started, anywhere.
    pub(crate) fn starts(&self, name: &str) -> usize {
        let on = |index| self.asked(index, &format!("start {name}"));
        (0..self.daemons.len()).map(on).sum()
    }

    /// How often something was asked of a machine's service manager.
    pub(crate) fn asked(&self, index: usize, what: &str) -> usize {
        let log = self.daemons[index].manager.log();
        log.iter().filter(|line| *line == what).count()
    }
}
