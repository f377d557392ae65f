//! HTTP on TCP, with and without TLS.

use fleetd::api::Tls;
use fleetd::config::ApiTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::harness::{Cluster, Ran, id};

/// An authority, and certificates that it has issued, as files.
struct Pki {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        Self { dir, authority }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn issue(&self, name: &str, address: &str) {
        let mut params = CertificateParams::new(vec![address.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn server(&self, address: &str) -> Tls {
        self.issue("server", address);
        let files = ApiTls {
            certificate: self.path("server.pem").into(),
            key: self.path("server.key").into(),
            ca: self.path("ca.pem").into(),
        };
        Tls(fleetd::tls::acceptor(&files).unwrap())
    }
}

fn one() -> Vec<(String, String)> {
    vec![(id(0), "10.0.0.1".to_owned())]
}

fn at(cluster: &Cluster, scheme: &str, args: &[&str]) -> Ran {
    let endpoint = format!(
        "--endpoint={scheme}://127.0.0.1:{}",
        cluster.machines[0].port
    );
    let mut all = vec![endpoint.as_str()];
    all.extend(args);
    cluster.fleetctl(&all)
}

#[test]
fn plain_tcp_works_and_the_command_line_beats_the_environment() {
    let cluster = Cluster::with(&one());
    let ran = at(
        &cluster,
        "http",
        &["list-machines", "--no-legend", "--fields=ip"],
    );
    assert_eq!((ran.code, ran.out.as_str()), (0, "10.0.0.1\n"), "{ran:?}");
    let ran = at(&cluster, "http", &["--debug", "list-machines"]);
    assert!(ran.err.contains("debug: GET http://127.0.0.1:"), "{ran:?}");
    // Speaking TLS to a plain listener ends with an error, not with silence.
    let pki = Pki::new();
    let ran = at(
        &cluster,
        "https",
        &["--ca-file", &pki.path("ca.pem"), "list-machines"],
    );
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[test]
fn certificates_are_always_verified_and_give_the_role() {
    let pki = Pki::new();
    let cluster = Cluster::secured(&one(), Some(pki.server("127.0.0.1")));
    let stranger = Pki::new();
    for (pki, name) in [(&pki, "boss"), (&pki, "viewer"), (&stranger, "boss")] {
        pki.issue(name, name);
    }
    let flags = |ca: &Pki, who: Option<(&Pki, &str)>| {
        let mut flags = vec![format!("--ca-file={}", ca.path("ca.pem"))];
        if let Some((pki, name)) = who {
            flags.push(format!("--cert-file={}", pki.path(&format!("{name}.pem"))));
            flags.push(format!("--key-file={}", pki.path(&format!("{name}.key"))));
        }
        flags
    };
    let run = |flags: &[String], args: &[&str]| {
        let flags = flags.iter().map(String::as_str);
        at(
            &cluster,
            "https",
            &flags.chain(args.iter().copied()).collect::<Vec<_>>(),
        )
    };
    cluster.write("a.service", "[Service]\nExecStart=/bin/a\n");
    let boss = flags(&pki, Some((&pki, "boss")));
    let ran = run(&boss, &["start", "a"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let viewer = flags(&pki, Some((&pki, "viewer")));
    assert_eq!(run(&viewer, &["list-units"]).code, 0);
    let ran = run(&viewer, &["destroy", "a"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("has the role read") && ran.err.contains("hint: "),
        "{ran:?}"
    );
    // No certificate, one of another authority, and a server that is not the one expected.
    for refused in [
        flags(&pki, None),
        flags(&pki, Some((&stranger, "boss"))),
        flags(&stranger, Some((&pki, "boss"))),
    ] {
        let ran = run(&refused, &["list-units"]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{refused:?} {ran:?}");
        assert!(!ran.err.is_empty());
    }
    for (args, text) in [
        (&["--cert-file", "/nonexistent"][..], "go together"),
        (&["--ca-file", "/nonexistent"], "/nonexistent"),
        (&["--ca-file", "/etc/machine-id"], "no certificate in it"),
    ] {
        let mut all: Vec<&str> = args.to_vec();
        let ca = pki.path("ca.pem");
        if args[0] != "--ca-file" {
            all.extend(["--ca-file", &ca]);
        }
        all.push("list-units");
        let ran = at(&cluster, "https", &all);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(text), "{text}: {ran:?}");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let pki = Pki::new();
    let cluster = Cluster::secured(&one(), Some(pki.server("fleet.example")));
    pki.issue("boss", "boss");
    let (ca, cert, key) = (
        pki.path("ca.pem"),
        pki.path("boss.pem"),
        pki.path("boss.key"),
    );
    let flags = [
        "--ca-file",
        &ca,
        "--cert-file",
        &cert,
        "--key-file",
        &key,
        "list-units",
    ];
    let ran = at(&cluster, "https", &flags);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("not valid for name"), "{ran:?}");
}
