//! All figures, one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_kv::testing::{EtcdServer, ServerOptions};
use etcd_kv::{Event, Keys, Kv, Watch, WatchRequest};
use fleet_model::{Phase, TargetState, UnitFile, UnitName, UnitState};
use fleetd::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{Daemon, PREFIX, cpu, eventually, exchange};
use crate::original;
use crate::plan::{self, DENSITY};
use crate::swarm::Swarm;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// How long a steady cluster is looked at.
const STEADY: Duration = Duration::from_secs(20);
/// Sizes of the curve.
const SIZES: [usize; 5] = [10, 30, 100, 300, 1000];
/// Units present in the small cluster.
pub(crate) const PRESENT: usize = 1000;
/// Single starts and stops that are timed.
const SAMPLES: usize = 20;

/// Runs everything.
pub(crate) async fn everything() -> Value {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    note("three daemons, 1000 units");
    let mut figures = small().await;
    let original = original::measure().await;
    for figure in &mut figures {
        let name = figure["name"].as_str().unwrap();
        if let Some(theirs) = original.of(name) {
            (figure["original"], figure["original_note"]) =
                (json!(theirs.value), json!(theirs.note));
        }
    }
    note("the planner alone");
    let planned: Vec<_> = SIZES.iter().map(|size| plan::measure(*size)).collect();
    note("simulated agents");
    let (more, mut curve) = large().await;
    for (point, planned) in curve.iter_mut().zip(&planned) {
        point["plan_ms"] = json!(ms(planned.full));
        point["decide_us"] = json!(planned.one.as_secs_f64() * 1e6);
        point["machine_lost_ms"] = json!(ms(planned.machine_lost));
    }
    let biggest = planned.last().unwrap();
    figures.push(figure(
        "full plan, 1000 machines, 20 000 units",
        "s",
        1.0,
        biggest.full.as_secs_f64(),
    ));
    figures.push(figure(
        "one decision in that cluster (median)",
        "ms",
        1.0,
        ms(biggest.one),
    ));
    figures.extend(more);
    json!({
        "figures": figures, "curve": curve, "load_before": load.trim(),
        "original_ran": original.ran, "original_failed": original.failed,
    })
}

pub(crate) fn note(what: &str) {
    eprintln!("fleet-bench: {what}");
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn figure(name: &str, unit: &str, goal: f64, value: f64) -> Value {
    json!({"name": name, "unit": unit, "goal": goal, "value": value})
}

/// With everything on disk as etcd wants it.
async fn etcd() -> EtcdServer {
    EtcdServer::start_with(ServerOptions {
        args: vec!["--unsafe-no-fsync=false".into()],
        tls: None,
    })
    .await
}

fn states() -> Keys {
    Keys::prefix(format!("{PREFIX}v3/state/"))
}

/// The unit in a state's key.
fn unit_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key)
        .split('/')
        .nth(4)
        .unwrap_or("")
        .to_owned()
}

/// Waits for states of these units: launched, or gone.
async fn wait_for(watch: &mut Watch, mut names: BTreeSet<String>, launched: bool) {
    let limit = Instant::now() + 2 * MINUTE;
    while !names.is_empty() {
        assert!(
            Instant::now() < limit,
            "{} units have not come to it",
            names.len()
        );
        let Ok(batch) = tokio::time::timeout(MINUTE, watch.next()).await else {
            panic!(
                "{} units have not come to it: {:?}",
                names.len(),
                names.first()
            );
        };
        for event in batch.unwrap().events {
            let so = match &event {
                Event::Put { kv, .. } => {
                    launched
                        && serde_json::from_slice::<UnitState>(&kv.value)
                            .is_ok_and(|s| s.phase == Phase::Launched && s.active == "active")
                }
                Event::Delete { .. } => !launched,
            };
            if so {
                names.remove(&unit_of(event.key()));
            }
        }
    }
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Raft proposals that etcd has applied.
pub(crate) async fn proposals(url: &str) -> f64 {
    let address = url.trim_start_matches("http://").to_owned();
    let stream = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let (_, _, text) = exchange(stream, &request).await.unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("etcd_server_proposals_applied_total "));
    line.and_then(|l| l.trim().parse().ok()).unwrap()
}

/// Three real daemons.
async fn small() -> Vec<Value> {
    let etcd = etcd().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let mut daemons = Vec::new();
    for number in 1..=3 {
        daemons.push(Daemon::start(&etcd.url(), number).await);
    }
    let mut out = Vec::new();
    let mut watch = kv.watch(WatchRequest::now(states())).await.unwrap();
    let names: Vec<String> = (0..PRESENT).map(plan::name).collect();
    let started = Instant::now();
    for (i, name) in names.iter().enumerate() {
        // No demands: the three machines have no metadata.
        let text = plan::text(i).split("[X-Fleet]").next().unwrap().to_owned();
        daemons[i % 3].launch(name, &text).await;
    }
    wait_for(&mut watch, names.iter().cloned().collect(), true).await;
    out.push(figure(
        "1000 units created one after the other through the API, until all are launched",
        "s",
        f64::NAN,
        started.elapsed().as_secs_f64(),
    ));

    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for i in 0..SAMPLES {
        let name = format!("one{i}.service");
        let begin = Instant::now();
        daemons[i % 3]
            .launch(&name, "[Service]\nExecStart=/x\n")
            .await;
        wait_for(&mut watch, BTreeSet::from([name.clone()]), true).await;
        starts.push(begin.elapsed());
        let begin = Instant::now();
        let path = format!("/fleet/v1/units/{name}");
        assert_eq!(daemons[i % 3].request("DELETE", &path, "").await.0, 204);
        wait_for(&mut watch, BTreeSet::from([name]), false).await;
        stops.push(begin.elapsed());
    }
    let (worst, begin) = (
        *starts.iter().max().unwrap(),
        "start one unit, 1000 present: create → launched",
    );
    out.push(figure(
        &format!("{begin} (median)"),
        "s",
        0.3,
        median(starts).as_secs_f64(),
    ));
    out.push(figure(
        &format!("{begin} (worst of {SAMPLES})"),
        "s",
        0.3,
        worst.as_secs_f64(),
    ));
    let (worst, begin) = (
        *stops.iter().max().unwrap(),
        "destroy → stopped and its record gone",
    );
    out.push(figure(
        &format!("{begin} (median)"),
        "s",
        0.3,
        median(stops).as_secs_f64(),
    ));
    out.push(figure(
        &format!("{begin} (worst of {SAMPLES})"),
        "s",
        0.3,
        worst.as_secs_f64(),
    ));

    let mut lists = Vec::new();
    for _ in 0..10 {
        let begin = Instant::now();
        let count = daemons[0].list().await;
        lists.push(begin.elapsed());
        assert_eq!(count, PRESENT);
    }
    out.push(figure(
        "list 1000 units through the API, all pages (median)",
        "ms",
        50.0,
        ms(median(lists)),
    ));

    // Let what the last change has set off come to rest.
    sleep(Duration::from_secs(3)).await;
    let leader = leader(&kv).await;
    let leader = daemons.iter().position(|d| d.machine == leader).unwrap();
    let before: Vec<Duration> = daemons.iter().map(Daemon::cpu).collect();
    let revision = kv.list("none").await.unwrap().revision;
    let (applied, etcd_cpu) = (proposals(&etcd.url()).await, cpu(etcd.pid().unwrap()));
    sleep(STEADY).await;
    let seconds = STEADY.as_secs_f64();
    let share = |i: usize| (daemons[i].cpu() - before[i]).as_secs_f64() / seconds * 100.0;
    let revisions = kv.list("none").await.unwrap().revision - revision;
    let writes = f64::from(i32::try_from(revisions).unwrap()) / seconds;
    out.push(figure(
        "steady etcd writes (revisions), 1000 units, 3 machines",
        "a second",
        1.0,
        writes,
    ));
    let applied = (proposals(&etcd.url()).await - applied) / seconds;
    out.push(figure(
        "steady raft proposals",
        "a second",
        f64::NAN,
        applied,
    ));
    out.push(figure("leader, steady", "% of a core", 1.0, share(leader)));
    out.push(figure(
        "another daemon, steady",
        "% of a core",
        f64::NAN,
        share((leader + 1) % 3),
    ));
    let etcd_share = (cpu(etcd.pid().unwrap()) - etcd_cpu).as_secs_f64() / seconds * 100.0;
    out.push(figure("etcd, steady", "% of a core", f64::NAN, etcd_share));
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let memory = daemons[leader].memory() as f64 / 1e6;
    out.push(figure(
        "leader's memory (RSS), 1000 units",
        "MB",
        f64::NAN,
        memory,
    ));

    // A machine that is not the leader dies.
    let victim = (leader + 1) % 3;
    let here = format!("/{}", daemons[victim].machine);
    let reply = kv.list(format!("{PREFIX}v3/state/")).await.unwrap();
    let lost: BTreeSet<String> = reply
        .kvs
        .iter()
        .filter(|kv| kv.key_str().ends_with(&here))
        .map(|kv| unit_of(&kv.key))
        .collect();
    assert!(lost.len() > PRESENT / 4);
    let mut watch = kv.watch(WatchRequest::now(states())).await.unwrap();
    let begin = Instant::now();
    daemons[victim].kill().await;
    wait_for(&mut watch, lost, true).await;
    out.push(figure(
        "a machine dies (TTL 10 s) → all its units launched elsewhere",
        "s",
        10.5,
        begin.elapsed().as_secs_f64(),
    ));
    out
}

async fn leader(kv: &Arc<dyn Kv>) -> String {
    let held = kv
        .get(format!("{PREFIX}v3/engine/leader"))
        .await
        .unwrap()
        .unwrap();
    let value: Value = serde_json::from_slice(&held.value).unwrap();
    value["machine"].as_str().unwrap().to_owned()
}

/// One real daemon that leads, and simulated agents, more and more.
async fn large() -> (Vec<Value>, Vec<Value>) {
    let etcd = etcd().await;
    let kv: Arc<dyn Kv> = Arc::new(etcd.client());
    let registry = Registry::new(kv.clone(), PREFIX);
    // Its number is none of the simulated ones'.
    let daemon = Daemon::start(&etcd.url(), 99_999).await;
    let swarm = Swarm::start(registry.clone());
    let (mut machines, mut units) = (0, 0);
    let (mut curve, mut out) = (Vec::new(), Vec::new());
    for size in SIZES {
        note(&format!("{size} machines, {} units", size * DENSITY));
        swarm.add(machines, size).await;
        machines = size;
        let begin = Instant::now();
        let total = size * DENSITY;
        create(&registry, units..total).await;
        units = total;
        settle(&swarm, &daemon, total).await;
        let settled = begin.elapsed();
        let mut times = Vec::new();
        for i in 0..SAMPLES {
            let name = format!("one{i}.service");
            let mut watch = kv.watch(WatchRequest::now(states())).await.unwrap();
            let begin = Instant::now();
            daemon.launch(&name, "[Service]\nExecStart=/x\n").await;
            wait_for(&mut watch, BTreeSet::from([name.clone()]), true).await;
            times.push(begin.elapsed());
            daemon
                .request("DELETE", &format!("/fleet/v1/units/{name}"), "")
                .await;
            wait_for(&mut watch, BTreeSet::from([name]), false).await;
        }
        sleep(Duration::from_secs(2)).await;
        let before = daemon.cpu();
        sleep(STEADY / 2).await;
        let share = (daemon.cpu() - before).as_secs_f64() / (STEADY / 2).as_secs_f64() * 100.0;
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let memory = daemon.memory() as f64 / 1e6;
        curve.push(json!({
            "machines": size, "units": total, "launch_ms": ms(median(times)), "memory_mb": memory,
            "leader_percent": share, "settled_s": settled.as_secs_f64(),
        }));
        if size == 1000 {
            out.push(figure(
                "leader's memory (RSS), 1000 machines, 20 000 units",
                "MB",
                300.0,
                memory,
            ));
        }
    }
    // A thousand at once, through the API, into the big cluster.
    let mut watch = kv.watch(WatchRequest::now(states())).await.unwrap();
    let names: BTreeSet<String> = (0..1000).map(|i| format!("more{i:04}.service")).collect();
    let begin = Instant::now();
    let limit = Arc::new(Semaphore::new(32));
    let (daemon, mut set) = (Arc::new(daemon), JoinSet::new());
    for name in names.clone() {
        let (daemon, limit) = (daemon.clone(), limit.clone());
        set.spawn(async move {
            let _turn = limit.acquire().await.unwrap();
            daemon.launch(&name, "[Service]\nExecStart=/x\n").await;
        });
    }
    let submitted = async {
        set.join_all().await;
        begin.elapsed()
    };
    let (submitted, ()) = tokio::join!(submitted, wait_for(&mut watch, names, true));
    let all = begin.elapsed().as_secs_f64();
    out.push(figure(
        "submit 1000 units, 1000 machines and 20 000 units present → all launched",
        "s",
        5.0,
        all,
    ));
    out.push(figure(
        "of that, until all were accepted",
        "s",
        f64::NAN,
        submitted.as_secs_f64(),
    ));
    (out, curve)
}

/// Creates units, many at once.
async fn create(registry: &Registry, numbers: std::ops::Range<usize>) {
    let limit = Arc::new(Semaphore::new(64));
    let mut set = JoinSet::new();
    for i in numbers {
        let (registry, limit) = (registry.clone(), limit.clone());
        set.spawn(async move {
            let _turn = limit.acquire().await.unwrap();
            let name = UnitName::parse(&plan::name(i)).unwrap();
            let file = UnitFile::parse(&plan::text(i)).unwrap();
            registry
                .create(&name, &file, TargetState::Launched)
                .await
                .unwrap();
        });
    }
    set.join_all().await;
}

/// Waits until every unit runs, on a simulated machine or on the daemon's.
async fn settle(swarm: &Swarm, daemon: &Daemon, total: usize) {
    eventually("all units run", 5 * MINUTE, async || {
        if swarm.launched() + total / 5 < total {
            sleep(Duration::from_millis(100)).await;
            return false;
        }
        let own = own_units(daemon).await;
        swarm.launched() + own >= total
    })
    .await;
}

/// How many units the daemon's own machine runs.
async fn own_units(daemon: &Daemon) -> usize {
    let (mut token, mut count) = (String::new(), 0);
    loop {
        let path = format!("/fleet/v1/state?machineID={}{token}", daemon.machine);
        let (_, body) = daemon.request("GET", &path, "").await;
        let page: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        let states = page["states"].as_array().cloned().unwrap_or_default();
        count += states
            .iter()
            .filter(|s| s["systemdActiveState"] == "active")
            .count();
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&nextPageToken={}", next.replace('=', "%3D")),
            None => return count,
        }
    }
}
