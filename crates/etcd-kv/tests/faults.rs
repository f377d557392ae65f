//! What the client does when servers are away, hang or forget.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

use std::sync::Arc;
use std::time::Duration;

use etcd_kv::testing::EtcdServer;
use etcd_kv::{EtcdConfig, EtcdKv, Event, Keys, Kv, KvError, MemKv, WatchRequest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn client(urls: &[String], deadline: Duration) -> Arc<dyn Kv> {
    let mut config = EtcdConfig::new(urls).unwrap();
    config.request_timeout = deadline;
    Arc::new(EtcdKv::new(config))
}

fn signal(server: &EtcdServer, signal: Signal) {
    let pid = Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Stops the server. The signal is sent to the process and reaches its threads one by one: wait for the last of them.
fn freeze(server: &EtcdServer) {
    signal(server, Signal::STOP);
    let tasks = format!("/proc/{}/task", server.pid().unwrap());
    let stopped = |task: &std::path::Path| {
        std::fs::read_to_string(task.join("stat"))
            .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|s| s.starts_with(" T")))
    };
    let started = Instant::now();
    while !std::fs::read_dir(&tasks)
        .unwrap()
        .flatten()
        .all(|t| stopped(&t.path()))
    {
        assert!(started.elapsed() < 10 * SECOND, "the server does not stop");
        std::thread::yield_now();
    }
}

/// A port on which nobody listens.
fn dead_url() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A listener that accepts connections and never says a word.
fn mute_server() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn nobody_there_is_unavailable_at_once_and_names_the_endpoints() {
    let url = dead_url();
    let kv = client(std::slice::from_ref(&url), 5 * SECOND);
    let started = Instant::now();
    let error = kv.put("a", "b", None).await.unwrap_err();
    assert!(
        error.is_unavailable() && !error.outcome_unknown(),
        "{error}"
    );
    assert!(error.to_string().contains(&url), "{error}");
    assert!(started.elapsed() < SECOND);
}

#[tokio::test]
async fn dead_and_mute_endpoints_are_passed_over() {
    let server = EtcdServer::start().await;
    let (_held, mute) = mute_server();
    let kv = client(&[dead_url(), mute, server.url()], 3 * SECOND);
    kv.put("a", "1", None).await.unwrap();
    assert_eq!(kv.get("a").await.unwrap().unwrap().value, b"1");
    let mut watch = kv.watch(WatchRequest::now(Keys::one("a"))).await.unwrap();
    kv.put("a", "2", None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
}

#[tokio::test]
async fn a_frozen_server_costs_the_deadline_and_recovers() {
    let server = EtcdServer::start().await;
    let kv = client(&[server.url()], SECOND);
    kv.put("a", "1", None).await.unwrap();
    let mut watch = kv.watch(WatchRequest::now(Keys::one("a"))).await.unwrap();

    freeze(&server);
    let started = Instant::now();
    let error = kv.put("a", "2", None).await.unwrap_err();
    assert!(
        error.is_unavailable() && error.outcome_unknown(),
        "{error:?}"
    );
    assert!(kv.get("a").await.unwrap_err().is_unavailable());
    assert!(started.elapsed() < 4 * SECOND);
    signal(&server, Signal::CONT);

    // The write that timed out may have happened; the watch tells the truth either way.
    let last = loop {
        match kv.put("a", "3", None).await {
            Ok(reply) => break reply.revision,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
    };
    loop {
        let batch = timeout(10 * SECOND, watch.next()).await.unwrap().unwrap();
        if batch.revision == last {
            break;
        }
    }
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_server_without_loss_or_repetition() {
    let mut server = EtcdServer::start().await;
    let kv = client(&[server.url()], 2 * SECOND);
    let mut watch = kv
        .watch(WatchRequest::now(Keys::prefix("k/")))
        .await
        .unwrap();
    kv.put("k/1", "1", None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events[0].key(), b"k/1");
    server.kill().await;
    assert!(
        timeout(SECOND / 2, watch.next()).await.is_err(),
        "silent while nobody answers"
    );
    server.resume().await;
    kv.put("k/2", "2", None).await.unwrap();
    kv.put("k/3", "3", None).await.unwrap();
    let mut seen: Vec<Event> = Vec::new();
    while seen.len() < 2 {
        seen.extend(
            timeout(10 * SECOND, watch.next())
                .await
                .unwrap()
                .unwrap()
                .events,
        );
    }
    let keys: Vec<_> = seen
        .iter()
        .map(|e| String::from_utf8_lossy(e.key()))
        .collect();
    assert_eq!(keys, ["k/2", "k/3"]);
}

/// Passes connections on until it is cut; afterwards the port can be taken again.
struct Proxy {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    async fn start(address: std::net::SocketAddr, server: &EtcdServer) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let target = server.url().trim_start_matches("http://").to_owned();
        let task = tokio::spawn(async move {
            // Connections end with the set, and the set with the task.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, task }
    }

    async fn cut(self) -> std::net::SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

#[tokio::test]
async fn a_watch_that_missed_compacted_changes_says_so() {
    let server = EtcdServer::start().await;
    let direct = client(&[server.url()], 2 * SECOND);
    let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), &server).await;
    let kv = client(&[format!("http://{}", proxy.address)], 2 * SECOND);
    let mut watch = kv.watch(WatchRequest::now(Keys::one("k"))).await.unwrap();
    direct.put("k", "seen", None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 1);

    let address = proxy.cut().await;
    direct.put("k", "missed", None).await.unwrap();
    let now = direct.put("k", "newest", None).await.unwrap().revision;
    direct.compact(now).await.unwrap();
    let _proxy = Proxy::start(address, &server).await;
    let error = timeout(10 * SECOND, watch.next())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error, KvError::Compacted { oldest: now });
}

#[tokio::test]
async fn a_dropped_watch_ends_at_the_server() {
    let server = EtcdServer::start().await;
    let kv = client(&[server.url()], 2 * SECOND);
    for _ in 0..200 {
        drop(kv.watch(WatchRequest::now(Keys::one("k"))).await.unwrap());
    }
    kv.put("k", "1", None).await.unwrap();
}

#[tokio::test]
async fn memory_plays_dead_and_its_watches_catch_up() {
    let mem = MemKv::new();
    let kv: Arc<dyn Kv> = Arc::new(mem.clone());
    let (lease, _) = kv.lease_grant(SECOND, None).await.unwrap();
    kv.put("k", "1", Some(lease)).await.unwrap();
    let mut watch = kv.watch(WatchRequest::now(Keys::one("k"))).await.unwrap();
    mem.set_offline(true);
    assert!(kv.get("k").await.unwrap_err().is_unavailable());
    assert!(
        kv.lease_keep_alive(lease)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(timeout(2 * SECOND, watch.next()).await.is_err());
    mem.set_offline(false);
    let batch = timeout(SECOND, watch.next()).await.unwrap().unwrap();
    assert!(matches!(batch.events[..], [Event::Delete { .. }]));
    assert_eq!(
        kv.lease_keep_alive(lease).await,
        Err(KvError::LeaseNotFound { lease })
    );
}
