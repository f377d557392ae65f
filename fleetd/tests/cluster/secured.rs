//! A daemon on an etcd that wants TLS, a client certificate, and a user with a password.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use etcd_kv::testing::{EtcdServer, ServerOptions};
use etcd_kv::{Credentials, EtcdConfig, EtcdKv, Kv, Tls, TlsFiles};
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, End, Io, run};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::process::Command;

use crate::harness::eventually;
use crate::pretend::Pretend;

/// An authority, and a certificate of it for servers and clients on the loopback.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    for (name, text) in [
        ("ca.pem", authority.pem()),
        ("leaf.pem", leaf.pem()),
        ("leaf.key", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_gets_in_with_certificate_user_and_password_from_fleet_conf() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let tls = Tls::load(&TlsFiles {
        ca: Some(path("ca.pem")),
        cert: Some(path("leaf.pem")),
        key: Some(path("leaf.key")),
    })
    .unwrap();
    let etcd = EtcdServer::start_with(ServerOptions {
        args: vec![
            format!("--cert-file={}", text("leaf.pem")),
            format!("--key-file={}", text("leaf.key")),
            format!("--trusted-ca-file={}", text("ca.pem")),
            "--client-cert-auth".into(),
        ],
        tls: Some(tls.clone()),
    })
    .await;
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "fleet:word"],
        &["role", "add", "fleet"],
        &[
            "role",
            "grant-permission",
            "fleet",
            "--prefix=true",
            "readwrite",
            "/_coreos.com/fleet/",
        ],
        &["user", "grant-role", "fleet", "fleet"],
        &["auth", "enable"],
    ] {
        let status = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &etcd.url(), "--cacert", &text("ca.pem")])
            .args(["--cert", &text("leaf.pem"), "--key", &text("leaf.key")])
            .args(args)
            .stdout(Stdio::null())
            .status()
            .await
            .expect("etcdctl is installed (Debian: etcd-client)");
        assert!(status.success(), "etcdctl {args:?}");
    }

    std::fs::write(path("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let conf = format!(
        "etcd_servers={}\netcd_cafile={}\netcd_certfile={}\netcd_keyfile={}\n\
         etcd_username=fleet\netcd_password=word\npublic_ip=10.0.0.1\n",
        etcd.url(),
        text("ca.pem"),
        text("leaf.pem"),
        text("leaf.key")
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
    config.tls = Some(tls);
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
