//! `fleetd dev`, with a service manager that answers.

use std::sync::Arc;

use fleet_model::{TargetState, UnitFile, UnitName};
use fleetd::config::Settings;
use fleetd::daemon::End;
use fleetd::dev::{Address, Dev};
use fleetd::registry::Registry;

use crate::harness::eventually;
use crate::pretend::Pretend;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_to_try_things_on_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("machine-id"), "m1\n").unwrap();
    let (settings, _) =
        Settings::from_text("test", "public_ip=10.0.0.1", std::iter::empty()).unwrap();
    let settings = Settings {
        machine_id_file: home.path().join("machine-id"),
        metrics_socket: home.path().join("metrics.sock"),
        ..settings
    };
    let manager = Pretend::default();
    let socket = Address::Unix(home.path().join("fleet.sock"));
    let dev = Dev::prepare(settings, vec![socket], Arc::new(manager.clone())).unwrap();
    let registry = Registry::new(dev.io.kv.clone().unwrap(), &dev.settings.etcd_key_prefix);
    let (end, ended) = tokio::sync::oneshot::channel();
    let units = dev.settings.units_directory.clone();
    let running = tokio::spawn(async move {
        let done = dev.run(async { Ok(ended.await.unwrap()) }).await;
        dev.clean_up();
        done
    });
    let file = UnitFile::parse("[Service]\nExecStart=/bin/a\n").unwrap();
    for unit in ["a.service", "b.service"] {
        let name = UnitName::parse(unit).unwrap();
        eventually("the unit is stored", async || {
            let stored = registry.create(&name, &file, TargetState::Launched);
            stored.await.is_ok()
        })
        .await;
    }
    eventually("both run", async || manager.main_pids().len() == 2).await;
    assert!(units.join("a.service").exists());
    // By hand: the service manager has no job for it.
    end.send(End::Exit).unwrap();
    assert_eq!(running.await.unwrap().unwrap(), End::Leave);
    assert!(manager.main_pids().is_empty(), "still running");
    assert!(!manager.is_linked("a.service") && !manager.is_linked("b.service"));
    assert!(!units.exists());
}
