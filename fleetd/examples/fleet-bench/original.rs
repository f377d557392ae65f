//! The original's daemons, measured as ours are.
//!
//! `FLOTILLA_ORIGINAL_FLEETD` names the program, which is not part of this project. Three of them run against an
//! etcd with the v2 API, each in a mount namespace with a machine ID of its own, over the same pretended service
//! manager as ours ([`crate::systemd1`]), with settings at their defaults. What is watched is what ours is
//! watched for: the states that the daemons publish.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use etcd_kv::testing::{EtcdServer, ServerOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::cluster::{self, PREFIX, cpu, exchange, machine, memory};
use crate::measure::{MINUTE, PRESENT, median, ms, note, proposals};
use crate::plan;
use crate::systemd1::Systemd1;

/// Where the original's daemon is.
const PROGRAM: &str = "FLOTILLA_ORIGINAL_FLEETD";
/// No longer than this, whatever happens.
const WHOLE: Duration = Duration::from_secs(5 * 60);
/// Single starts and stops that are timed: each takes it seconds.
const SAMPLES: usize = 5;
/// Full lists that are timed.
const LISTS: usize = 3;
/// How long a steady cluster is looked at: it says everything anew in each four fifths of its TTL, so twice that.
const STEADY: Duration = Duration::from_secs(48);
/// Its default, and that of ours, in which a dead machine is noticed.
const TTL: [u64; 2] = [30, 10];

type Result<T> = std::result::Result<T, String>;

/// A figure of the original.
#[derive(Debug)]
pub(crate) struct Theirs {
    /// Beginning of our figure's name.
    name: &'static str,
    pub(crate) value: f64,
    /// What is not as with ours.
    pub(crate) note: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) ran: bool,
    /// Why figures are missing.
    pub(crate) failed: Option<String>,
    figures: Vec<Theirs>,
}

impl Outcome {
    /// The original's figure beside ours of this name.
    pub(crate) fn of(&self, name: &str) -> Option<&Theirs> {
        self.figures.iter().find(|f| name.starts_with(f.name))
    }

    fn push(&mut self, name: &'static str, value: f64, note: impl Into<String>) {
        let note = note.into();
        crate::measure::note(&format!("original: {name}: {value:.3} {note}"));
        self.figures.push(Theirs { name, value, note });
    }
}

/// Measures the original, if there is one. What fails ends it; figures from before that stay.
pub(crate) async fn measure() -> Outcome {
    let mut out = Outcome::default();
    let Some(program) = std::env::var_os(PROGRAM).map(PathBuf::from) else {
        return out;
    };
    out.ran = true;
    note("the original: three daemons, 1000 units");
    let end = timeout(WHOLE, everything(&program, &mut out)).await;
    out.failed = match end {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some(format!("it was not done after {} s", WHOLE.as_secs())),
    };
    if let Some(why) = &out.failed {
        note(&format!("the original's part ended early: {why}"));
    }
    out
}

async fn everything(program: &Path, out: &mut Outcome) -> Result<()> {
    let etcd = EtcdServer::start_with(ServerOptions {
        args: vec!["--unsafe-no-fsync=false".into(), "--enable-v2=true".into()],
        tls: None,
    })
    .await;
    let keys = Keys(etcd.url());
    let mut machines = Vec::new();
    for number in 1..=3 {
        let mut machine = Machine::new(program, &etcd.url(), number);
        machine.start(TTL[0]).await?;
        machines.push(machine);
    }

    let names: Vec<String> = (0..PRESENT).map(plan::name).collect();
    let begin = Instant::now();
    for (i, name) in names.iter().enumerate() {
        let text = plan::text(i).split("[X-Fleet]").next().unwrap().to_owned();
        machines[i % 3].launch(name, &text).await?;
    }
    let launched = async |states: States| states.active().count() == PRESENT;
    let limit = 2 * MINUTE;
    keys.until("1000 units run", limit, launched).await?;
    out.push("1000 units created", begin.elapsed().as_secs_f64(), "");

    sleep(Duration::from_secs(3)).await;
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for i in 0..SAMPLES {
        let name = format!("one{i}.service");
        let begin = Instant::now();
        let machine = &machines[i % 3];
        machine.launch(&name, "[Service]\nExecStart=/x\n").await?;
        keys.until_one(&name, true).await?;
        starts.push(begin.elapsed());
        let begin = Instant::now();
        machine.destroy(&name).await?;
        keys.until_one(&name, false).await?;
        stops.push(begin.elapsed());
    }
    let note = format!("of {SAMPLES}");
    for (name, times, worst) in [
        (
            "start one unit, 1000 present: create → launched (median",
            starts.clone(),
            false,
        ),
        (
            "start one unit, 1000 present: create → launched (worst",
            starts,
            true,
        ),
        (
            "destroy → stopped and its record gone (median",
            stops.clone(),
            false,
        ),
        ("destroy → stopped and its record gone (worst", stops, true),
    ] {
        let value = if worst {
            times.into_iter().max().unwrap()
        } else {
            median(times)
        };
        out.push(name, value.as_secs_f64(), &*note);
    }

    let mut lists = Vec::new();
    for _ in 0..LISTS {
        let begin = Instant::now();
        let listed = timeout(MINUTE, cluster::list(&machines[0].socket)).await;
        let count = listed.map_err(|_| "a list took over a minute")?;
        let count = count.map_err(|e| e.to_string())?;
        lists.push(begin.elapsed());
        if count != PRESENT {
            return Err(format!("{count} units listed instead of {PRESENT}"));
        }
    }
    let note = format!("of {LISTS}");
    out.push("list 1000 units", ms(median(lists)), note);

    steady(&etcd, &keys, &mut machines, out).await?;
    machine_dies(&keys, &mut machines, out).await
}

/// What a cluster costs in which nothing happens.
async fn steady(
    etcd: &EtcdServer,
    keys: &Keys,
    machines: &mut [Machine],
    out: &mut Outcome,
) -> Result<()> {
    sleep(Duration::from_secs(3)).await;
    let leader = keys.leader(machines).await?;
    let pids: Vec<u32> = machines.iter().map(Machine::pid).collect();
    let before: Vec<Duration> = pids.iter().map(|pid| cpu(*pid)).collect();
    let (index, applied) = (keys.index().await?, proposals(&keys.0).await);
    let etcd_pid = etcd.pid().ok_or("etcd has ended")?;
    let etcd_cpu = cpu(etcd_pid);
    sleep(STEADY).await;
    for machine in machines {
        machine.still_runs()?;
    }
    let seconds = STEADY.as_secs_f64();
    let share = |i: usize| (cpu(pids[i]) - before[i]).as_secs_f64() / seconds * 100.0;
    let etcd_share = (cpu(etcd_pid) - etcd_cpu).as_secs_f64() / seconds * 100.0;
    let writes = (keys.index().await? - index) / seconds;
    let applied = (proposals(&keys.0).await - applied) / seconds;
    let note = format!("TTL {} s, its default", TTL[0]);
    out.push("steady etcd writes", writes, &*note);
    out.push("steady raft proposals", applied, &*note);
    out.push("leader, steady", share(leader), &*note);
    out.push("another daemon, steady", share((leader + 1) % 3), &*note);
    out.push("etcd, steady", etcd_share, &*note);
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let memory = memory(pids[leader]) as f64 / 1e6;
    out.push("leader's memory (RSS), 1000 units", memory, "");
    Ok(())
}

/// A machine that is not the leader dies, in a cluster with our TTL: all are started anew for that.
async fn machine_dies(keys: &Keys, machines: &mut [Machine], out: &mut Outcome) -> Result<()> {
    for machine in &mut *machines {
        machine.kill().await;
    }
    // Their places stay theirs; their presence would keep them out until it expires.
    keys.delete("lease/engine-leader").await?;
    for machine in &mut *machines {
        keys.delete(&format!("machines/{}/object", machine.id))
            .await?;
        machine.start(TTL[1]).await?;
    }
    let ttl = i64::try_from(TTL[1]).unwrap();
    let anew = async |states: States| {
        let new = states.0.iter().filter(|s| s.active && s.ttl <= ttl);
        new.count() == PRESENT
    };
    keys.until("states come with the short TTL", MINUTE, anew)
        .await?;
    sleep(Duration::from_secs(TTL[1])).await;
    let victim = (keys.leader(machines).await? + 1) % 3;
    let dead = machines[victim].id.clone();
    let states = keys.states().await?;
    let here = states.active().filter(|s| s.machine == dead);
    let lost: BTreeSet<String> = here.map(|s| s.unit.clone()).collect();
    if lost.len() < PRESENT / 4 {
        return Err(format!("one machine has only {} units", lost.len()));
    }
    let begin = Instant::now();
    machines[victim].kill().await;
    let moved = async |states: States| {
        let elsewhere = states.active().filter(|s| s.machine != dead);
        let elsewhere: BTreeSet<String> = elsewhere.map(|s| s.unit.clone()).collect();
        lost.is_subset(&elsewhere)
    };
    keys.until("its units run elsewhere", MINUTE, moved).await?;
    let time = begin.elapsed().as_secs_f64();
    out.push("a machine dies (TTL 10 s)", time, "same TTL");
    Ok(())
}

/// One machine: its directory, its service manager and its daemon.
struct Machine {
    number: usize,
    id: String,
    program: PathBuf,
    etcd: String,
    socket: PathBuf,
    // Ends before the directory goes.
    child: Option<Child>,
    _manager: Systemd1,
    dir: TempDir,
}

impl Machine {
    fn new(program: &Path, etcd: &str, number: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id = machine(number);
        std::fs::write(dir.path().join("machine-id"), format!("{id}\n")).unwrap();
        Self {
            number,
            id,
            program: program.to_owned(),
            etcd: etcd.to_owned(),
            socket: dir.path().join("fleet.sock"),
            child: None,
            _manager: Systemd1::start(&dir.path().join("bus")),
            dir,
        }
    }

    /// Starts the daemon and waits until its API answers.
    async fn start(&mut self, ttl: u64) -> Result<()> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let text = format!(
            "etcd_servers=[\"{}\"]\netcd_key_prefix={PREFIX}\nagent_ttl={ttl}s\nunits_directory={}\npublic_ip=10.0.0.{}\n",
            self.etcd,
            at("units/"),
            self.number,
        );
        std::fs::write(at("fleet.conf"), text).unwrap();
        let _ = std::fs::remove_file(&self.socket);
        let listener = std::os::unix::net::UnixListener::bind(&self.socket).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        // The listener comes as standard input and goes where an activated socket is expected. The process
        // stays the same throughout, and ends with this one.
        let script = "mount --bind \"$1\" /etc/machine-id || exit 1
            exec 3<&0 </dev/null
            export LISTEN_FDS=1 LISTEN_PID=$$
            exec \"$2\" --config \"$3\"";
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let child = command
            .args(["--mount", "setpriv", "--pdeathsig", "KILL"])
            .args(["sh", "-c", script, "sh", &at("machine-id")])
            .arg(&self.program)
            .arg(at("fleet.conf"))
            .env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", at("bus")),
            )
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.map_err(|e| format!("unshare cannot be run: {e}"))?);
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            // It answers 503 until it is a member.
            if let Ok((200, _)) = self.request("GET", "/fleet/v1/machines", "").await {
                return Ok(());
            }
            self.still_runs()?;
            if Instant::now() > limit {
                return Err("its API does not answer".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap()
    }

    /// Is its daemon there? If it has ended: with what it said last.
    fn still_runs(&mut self) -> Result<()> {
        let child = self.child.as_mut().ok_or("a daemon was not started")?;
        let Some(status) = child.try_wait().map_err(|e| e.to_string())? else {
            return Ok(());
        };
        let said = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(10).collect();
        Err(format!(
            "a daemon has ended, {status}; its last lines, newest first: {said:?}"
        ))
    }

    /// As SIGKILL does.
    async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let limit = Duration::from_secs(30);
        let answer = timeout(limit, cluster::request(&self.socket, method, path, body)).await;
        let answer = answer.map_err(|_| format!("no answer to {method} {path}"))?;
        answer.map_err(|e| format!("{method} {path}: {e}"))
    }

    /// Asks until it is done: where etcd takes its time, the original gives up.
    async fn ask(&self, method: &str, name: &str, body: &str) -> Result<()> {
        let limit = Instant::now() + MINUTE;
        let path = format!("/fleet/v1/units/{name}");
        loop {
            let (status, answer) = self.request(method, &path, body).await?;
            match status {
                201 | 204 => return Ok(()),
                500.. if Instant::now() < limit => sleep(Duration::from_millis(50)).await,
                _ => return Err(format!("{method} {path}: {status}: {answer}")),
            }
        }
    }

    async fn launch(&self, name: &str, text: &str) -> Result<()> {
        self.ask("PUT", name, &cluster::wish(text)).await
    }

    async fn destroy(&self, name: &str) -> Result<()> {
        self.ask("DELETE", name, "").await
    }
}

/// Where a unit is and how it is there.
struct State {
    unit: String,
    machine: String,
    active: bool,
    ttl: i64,
}

/// All states that are published.
struct States(Vec<State>);

impl States {
    fn active(&self) -> impl Iterator<Item = &State> {
        self.0.iter().filter(|s| s.active)
    }
}

/// The original's keys, in etcd's v2 API.
struct Keys(String);

impl Keys {
    /// Status, header and body.
    async fn request(&self, method: &str, key: &str) -> Result<(u16, String, Value)> {
        let address = self.0.trim_start_matches("http://");
        let request = format!("{method} /v2/keys{PREFIX}{key} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        let exchange = async { exchange(TcpStream::connect(address).await?, &request).await };
        let answer = timeout(Duration::from_secs(30), exchange).await;
        let answer = answer.map_err(|_| format!("etcd does not answer: {method} {key}"))?;
        let (status, head, body) = answer.map_err(|e| format!("etcd: {method} {key}: {e}"))?;
        let body = serde_json::from_str(&body).unwrap_or(Value::Null);
        match status {
            200 | 404 => Ok((status, head, body)),
            _ => Err(format!("etcd: {method} {key}: {status}: {body}")),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.request("DELETE", key).await.map(drop)
    }

    /// How many writes there were.
    async fn index(&self) -> Result<f64> {
        let (_, head, _) = self.request("GET", "").await?;
        let mut lines = head.lines().filter_map(|l| l.split_once(':'));
        let index = lines.find(|(name, _)| name.eq_ignore_ascii_case("x-etcd-index"));
        let index = index.and_then(|(_, value)| value.trim().parse().ok());
        index.ok_or_else(|| "etcd names no index".into())
    }

    /// Which of the machines leads.
    async fn leader(&self, machines: &[Machine]) -> Result<usize> {
        let (_, _, body) = self.request("GET", "lease/engine-leader").await?;
        let value = body["node"]["value"].as_str().unwrap_or("");
        let value: Value = serde_json::from_str(value).unwrap_or(Value::Null);
        let leads = machines.iter().position(|m| value["MachineID"] == *m.id);
        leads.ok_or_else(|| "no machine leads".into())
    }

    async fn states(&self) -> Result<States> {
        let (_, _, body) = self.request("GET", "states?recursive=true").await?;
        let mut states = Vec::new();
        for unit in nodes(&body["node"]) {
            states.extend(nodes(unit).iter().map(|node| state(unit, node)));
        }
        Ok(States(states))
    }

    /// Waits until the states are so.
    async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut so: impl AsyncFnMut(States) -> bool,
    ) -> Result<()> {
        let limit = Instant::now() + limit;
        while !so(self.states().await?).await {
            if Instant::now() > limit {
                return Err(format!("it never came to this: {what}"));
            }
            // All states are much to read: seldom enough not to be what is measured.
            sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// Waits until one unit runs, or until no state of it is left.
    async fn until_one(&self, name: &str, launched: bool) -> Result<()> {
        let limit = Instant::now() + MINUTE;
        loop {
            let (_, _, body) = self.request("GET", &format!("states/{name}")).await?;
            let unit = &body["node"];
            let mut states = nodes(unit).iter().map(|node| state(unit, node));
            if launched && states.any(|s| s.active) || !launched && nodes(unit).is_empty() {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(format!(
                    "{name} is not launched or not gone (launched is {launched})"
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn nodes(node: &Value) -> &[Value] {
    node["nodes"].as_array().map_or(&[], Vec::as_slice)
}

/// A state of a unit, from its directory and its node there.
fn state(unit: &Value, node: &Value) -> State {
    let last = |node: &Value| {
        let key = node["key"].as_str().unwrap_or("");
        key.rsplit('/').next().unwrap_or("").to_owned()
    };
    let value: Value =
        serde_json::from_str(node["value"].as_str().unwrap_or("")).unwrap_or(Value::Null);
    State {
        unit: last(unit),
        machine: last(node),
        active: value["activeState"] == "active",
        ttl: node["ttl"].as_i64().unwrap_or(i64::MAX),
    }
}
