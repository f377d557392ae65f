//! A whole daemon on a store in memory: what the engine does is counted as the contract says.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use etcd_kv::{Keys, Kv, MemKv};
use fleetd::clock::MachineClock;
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, End, Io, run};
use tokio::net::UnixStream;

use crate::harness::{Answer, eventually, exchange, request, unit_body};
use crate::pretend::Pretend;

#[tokio::test(flavor = "multi_thread")]
async fn the_nine_metrics_tell_what_the_engine_did() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let text = "public_ip=10.0.0.1\nmetadata=role=first\n";
    let (settings, _) = Settings::from_text("test", text, std::iter::empty()).unwrap();
    let settings = Settings {
        units_directory: path("units"),
        run_directory: path("run"),
        machine_id_file: path("machine-id"),
        ..settings
    };
    let kv: Arc<dyn Kv> = Arc::new(MemKv::new());
    let socket = path("fleet.sock");
    let io = Io {
        sockets: vec![("test".into(), UnixListener::bind(&socket).unwrap().into())],
        manager: Arc::new(Pretend::default()),
        kv: Some(kv.clone()),
        clock: Arc::new(MachineClock),
        api: ApiIo::default(),
    };
    tokio::spawn(async move {
        let never = std::future::pending::<Result<End, _>>();
        run(&settings, &io, never).await.unwrap();
    });
    let ask = async |raw: Vec<u8>| -> Answer {
        exchange(UnixStream::connect(&socket).await.unwrap(), &raw).await
    };
    let metrics = async || ask(request("GET", "/metrics", None)).await.body;
    let value = |text: &str, name: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(-1.0, |v| v.parse().unwrap())
    };
    eventually("it leads", async || {
        value(&metrics().await, "fleet_engine_leader_start_time") > 1e9
    })
    .await;
    let before = metrics().await;
    assert!(
        !before.contains("fleet_engine_task_count_total"),
        "{before}"
    );

    let put = async |name: &str, text: &str, target: &str| {
        let body = unit_body(text, target);
        let path = format!("/fleet/v1/units/{name}");
        let status = ask(request("PUT", &path, Some(&body))).await.status;
        assert!(status == 201 || status == 204, "{status}");
    };
    // One unit here, started and stopped; one on a machine that goes away.
    let here = "[Service]\nExecStart=/x\n[X-Fleet]\nMachineMetadata=role=first\n";
    let there = "[Service]\nExecStart=/x\n[X-Fleet]\nMachineMetadata=role=second\n";
    put("here.service", here, "launched").await;
    let record = r#"{"public_ip":"10.0.0.2","metadata":{"role":"second"}}"#;
    kv.put("/_coreos.com/fleet/v3/presence/m2", record, None)
        .await
        .unwrap();
    put("there.service", there, "launched").await;
    let scheduled = "fleet_engine_task_count_total{type=\"attemptscheduleunit\"}";
    eventually("two are scheduled", async || {
        value(&metrics().await, scheduled) >= 2.0
    })
    .await;
    put("here.service", here, "inactive").await;
    kv.delete(Keys::one("/_coreos.com/fleet/v3/presence/m2"))
        .await
        .unwrap();
    let unscheduled = "fleet_engine_task_count_total{type=\"unscheduleunit\"}";
    eventually("two are unscheduled", async || {
        value(&metrics().await, unscheduled) >= 2.0
    })
    .await;
    let text = metrics().await;
    for (name, least) in [
        ("fleet_engine_reconcile_count_total", 3.0),
        ("fleet_engine_reconcile_duration_second_count", 3.0),
        (
            "fleet_engine_reconcile_failure_count_total{type=\"machine_away\"}",
            1.0,
        ),
        ("fleet_registry_operation_count_total{type=\"set\"}", 4.0),
        (
            "fleet_registry_operation_count_total{type=\"get_all\"}",
            2.0,
        ),
        (
            "fleet_registry_operation_duration_second_count{ops=\"set\"}",
            4.0,
        ),
    ] {
        assert!(value(&text, name) >= least, "{name}\n{text}");
    }
    // Nothing failed, so nothing of that kind is there.
    for name in [
        "fleet_engine_task_failure_count_total",
        "fleet_registry_operation_failed",
    ] {
        assert!(!text.contains(name), "{text}");
    }
}
