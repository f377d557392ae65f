//! A private etcd server on free ports of the loopback, with its data in a temporary directory.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::{EtcdConfig, EtcdKv, KvError, Tls};

/// A running etcd, or a stopped one that can be started again. Killed and cleaned when dropped.
#[derive(Debug)]
pub struct EtcdServer {
    dir: TempDir,
    child: Option<Child>,
    client_port: u16,
    peer_port: u16,
    options: ServerOptions,
}

/// What a server is started with beyond the usual.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// More arguments for etcd.
    pub args: Vec<String>,
    /// Serve clients over TLS (the arguments must say with which files); this is how
    /// [`EtcdServer::client`] gets in.
    pub tls: Option<Tls>,
}

impl EtcdServer {
    /// Starts one and waits until it answers. Panics, with what etcd said, if it does not.
    pub async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    /// As [`EtcdServer::start`], with options.
    pub async fn start_with(options: ServerOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (client_port, peer_port) = free_ports();
        let mut server = Self {
            dir,
            child: None,
            client_port,
            peer_port,
            options,
        };
        server.resume().await;
        server
    }

    /// URL of its client port.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.options.tls {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Its process, while it runs: for signals.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// A client of it with a deadline of 5 s.
    #[must_use]
    pub fn client(&self) -> EtcdKv {
        let mut config = EtcdConfig::new(&[self.url()]).expect("a good URL");
        config.tls.clone_from(&self.options.tls);
        EtcdKv::new(config)
    }

    /// Kills it; the data stays.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("etcd can be killed");
        }
    }

    /// Starts it again on its old data and ports.
    pub async fn resume(&mut self) {
        let log = self.dir.path().join("log");
        let out = std::fs::File::create(&log).expect("a log file");
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let child = Command::new("etcd")
            .args(["--name", "t", "--log-level", "error", "--enable-v2=false"])
            // Tests want speed, and survive a power cut by being run again.
            .arg("--unsafe-no-fsync")
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("t={peer}")])
            .args(&self.options.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .expect("etcd is installed (Debian: etcd-server)");
        self.child = Some(child);
        self.wait(&log).await;
    }

    /// Copies its data, or puts the copy in their place: an operator's backup. Only while it is down.
    pub fn backup(&self, restore: bool) {
        assert!(self.child.is_none(), "a backup of a running server");
        let (data, copy) = (self.dir.path().join("data"), self.dir.path().join("copy"));
        let (from, to) = if restore { (copy, data) } else { (data, copy) };
        if to.exists() {
            std::fs::remove_dir_all(&to).expect("old data can be removed");
        }
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status();
        assert!(copied.is_ok_and(|s| s.success()), "the data can be copied");
    }

    async fn wait(&mut self, log: &Path) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status: Result<_, KvError> = self.client().status().await;
            if status.is_ok_and(|s| s.leader != 0) {
                return;
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                panic!("etcd does not answer ({ended:?}): {said}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Two free ports. They are free only now, but the kernel hands out others for a while.
fn free_ports() -> (u16, u16) {
    let listeners =
        [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port of the loopback"));
    let port = |l: &TcpListener| l.local_addr().expect("a bound socket").port();
    (port(&listeners[0]), port(&listeners[1]))
}
