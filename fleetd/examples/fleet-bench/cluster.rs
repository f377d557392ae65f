//! Daemons in processes of their own, and what they cost.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetd::clock::MachineClock;
use fleetd::config::Settings;
use fleetd::daemon::{End, Io, run};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::pretend::Pretend;

pub(crate) const PREFIX: &str = "/bench/";

/// Waits until something is so, but not for ever.
pub(crate) async fn eventually(what: &str, limit: Duration, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !so().await {
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The machine ID of daemon number `number`.
pub(crate) fn machine(number: usize) -> String {
    format!("{number:08}{number:024}")
}

/// One daemon, until its standard input ends.
pub(crate) async fn daemon(etcd: &str, number: usize, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("machine-id"), machine(number)).unwrap();
    let text = format!(
        "etcd_servers={etcd}\npublic_ip=10.0.0.{}\netcd_key_prefix={PREFIX}\n",
        number % 250
    );
    let (settings, _) = Settings::from_text("bench", &text, std::iter::empty()).unwrap();
    let settings = Settings {
        units_directory: dir.join("units"),
        run_directory: dir.join("run"),
        machine_id_file: dir.join("machine-id"),
        ..settings
    };
    telemetry::init("fleetd", telemetry::Sink::Stderr, 0);
    let listener = UnixListener::bind(dir.join("fleet.sock")).unwrap();
    let io = Io {
        sockets: vec![("fleet.socket".into(), listener.into())],
        manager: Arc::new(Pretend::default()),
        kv: None,
        clock: Arc::new(MachineClock),
        api: fleetd::daemon::ApiIo::default(),
    };
    let end = async {
        let until_end = || io::copy(&mut io::stdin(), &mut io::sink());
        let _ = tokio::task::spawn_blocking(until_end).await;
        Ok(End::Exit)
    };
    run(&settings, &io, end).await.unwrap();
}

/// A daemon's process.
pub(crate) struct Daemon {
    pub(crate) machine: String,
    socket: PathBuf,
    child: Child,
    _dir: TempDir,
}

impl Daemon {
    /// Starts it and waits until its API answers.
    pub(crate) async fn start(etcd: &str, number: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["daemon", etcd, &number.to_string()])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let daemon = Self {
            machine: machine(number),
            socket: dir.path().join("fleet.sock"),
            child,
            _dir: dir,
        };
        eventually("the API answers", Duration::from_secs(30), async || {
            daemon.socket.exists() && daemon.request("GET", "/fleet/v1/machines", "").await.0 == 200
        })
        .await;
        daemon
    }

    /// As SIGKILL does.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// One exchange: status and body.
    pub(crate) async fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        request(&self.socket, method, path, body).await.unwrap()
    }

    /// Lists all units, page by page: how many there are.
    pub(crate) async fn list(&self) -> usize {
        list(&self.socket).await.unwrap()
    }

    /// Creates a unit that shall run.
    pub(crate) async fn launch(&self, name: &str, text: &str) {
        let path = format!("/fleet/v1/units/{name}");
        let (status, answer) = self.request("PUT", &path, &wish(text)).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.child.id().unwrap())
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory(self.child.id().unwrap())
    }
}

/// Body of the request that creates a unit that shall run.
pub(crate) fn wish(text: &str) -> String {
    let file = fleet_model::UnitFile::parse(text).unwrap();
    serde_json::json!({"options": file.options(), "desiredState": "launched"}).to_string()
}

/// One exchange with the API at this socket: status and body.
pub(crate) async fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let head = format!("{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let (status, _, body) = exchange(UnixStream::connect(socket).await?, &request).await?;
    Ok((status, body))
}

/// Lists all units through the API at this socket, page by page: how many there are.
pub(crate) async fn list(socket: &Path) -> io::Result<usize> {
    let (mut token, mut count) = (String::new(), 0);
    loop {
        let (status, body) = request(socket, "GET", &format!("/fleet/v1/units{token}"), "").await?;
        let page: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        if status != 200 || !page.is_object() {
            return Err(io::Error::other(format!("no list but {status}: {body}")));
        }
        // The original's page after a full last one is empty and says nothing at all.
        count += page["units"].as_array().map_or(0, Vec::len);
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("?nextPageToken={}", next.replace('=', "%3D")),
            None => return Ok(count),
        }
    }
}

/// One exchange over HTTP 1.0: status, header, body.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> io::Result<(u16, String, String)> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.unwrap_or(0), head.to_owned(), body.to_owned()))
}

/// Processor time of a process.
pub(crate) fn cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in brackets may hold blanks.
    let (_, rest) = text.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux shows hundredths of a second here, whatever it counts in.
    Duration::from_millis(ticks * 10)
}

/// Resident memory of a process in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}
