//! A daemon on an etcd that wants TLS, a client certificate, and a user with a password.

use std::sync::Arc;

use etcd_kv::testing::{EtcdServer, Pki};
use etcd_kv::{Credentials, EtcdConfig, EtcdKv, Kv, Tls};
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, End, Io, run};

use crate::harness::eventually;
use crate::pretend::Pretend;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_gets_in_with_certificate_user_and_password_from_fleet_conf() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let pki = Pki::new("authority");
    let etcd = EtcdServer::start_strict(&pki).await;
    let files = pki.files(Some("client"));
    etcd.enable_auth(&files, "fleet", "/_coreos.com/fleet/")
        .await;

    std::fs::write(path("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let conf = format!(
        "etcd_servers={}\netcd_cafile={}\netcd_certfile={}\netcd_keyfile={}\n\
         etcd_username=fleet\netcd_password=word\npublic_ip=10.0.0.1\n",
        etcd.url(),
        pki.text("ca.pem"),
        pki.text("client.pem"),
        pki.text("client.key")
    );
    let (settings, warnings) = Settings::from_text("f", &conf, std::iter::empty()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let settings = Settings {
        units_directory: path("units"),
        run_directory: path("run"),
        machine_id_file: path("machine-id"),
        ..settings
    };
    let io = Io {
        sockets: Vec::new(),
        manager: Arc::new(Pretend::default()),
        kv: None,
        clock: Arc::new(fleetd::clock::MachineClock),
        api: ApiIo::default(),
    };
    let (end, asked) = tokio::sync::oneshot::channel::<()>();
    let daemon = tokio::spawn(async move {
        let asked = async {
            let _ = asked.await;
            Ok(End::Exit)
        };
        run(&settings, &io, asked).await.unwrap();
    });

    let mut config = EtcdConfig::new(&[etcd.url()]).unwrap();
    config.tls = Some(Tls::load(&files).unwrap());
    config.credentials = Some(Credentials {
        user: "root".into(),
        password: "secret".into(),
    });
    let kv: Arc<dyn Kv> = Arc::new(EtcdKv::new(config));
    for key in ["presence/", "engine/leader"] {
        let key = format!("/_coreos.com/fleet/v3/{key}");
        eventually("the machine is present and leads", async || {
            !kv.list(key.as_str()).await.unwrap().kvs.is_empty()
        })
        .await;
    }
    end.send(()).unwrap();
    daemon.await.unwrap();
}
