//! Certificates for tests, and an operator who turns authentication on.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{EtcdServer, ServerOptions};
use crate::{Tls, TlsFiles};

/// An authority, and certificates that it has issued, as files in a temporary directory.
pub struct Pki {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Pki {
    /// An authority of this name; its certificate is `ca.pem`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).expect("ca.pem");
        Self { dir, authority }
    }

    /// Where a file is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same, as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes `NAME.pem` and `NAME.key` for a server or client of that name at an address.
    pub fn issue(&self, name: &str, address: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec![address.to_owned()]).expect("a good name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority);
        let certificate = certificate.expect("a certificate").pem();
        for (kind, text) in [("pem", certificate), ("key", key.serialize_pem())] {
            std::fs::write(self.path(&format!("{name}.{kind}")), text).expect("a file of the PKI");
        }
    }

    /// The authority, and a certificate and its key, for a client.
    #[must_use]
    pub fn files(&self, identity: Option<&str>) -> TlsFiles {
        TlsFiles {
            ca: Some(self.path("ca.pem")),
            cert: identity.map(|name| self.path(&format!("{name}.pem"))),
            key: identity.map(|name| self.path(&format!("{name}.key"))),
        }
    }

    /// Arguments of an etcd with the certificate `name`.
    #[must_use]
    pub fn server(&self, name: &str, wants_client: bool) -> Vec<String> {
        let mut args = vec![
            format!("--cert-file={}", self.text(&format!("{name}.pem"))),
            format!("--key-file={}", self.text(&format!("{name}.key"))),
        ];
        if wants_client {
            args.push("--client-cert-auth".into());
            args.push(format!("--trusted-ca-file={}", self.text("ca.pem")));
        }
        args
    }
}

impl EtcdServer {
    /// Starts one that serves over TLS only, with the certificate `server`, and of which every client
    /// must show one, as `client` is.
    pub async fn start_strict(pki: &Pki) -> Self {
        pki.issue("server", "127.0.0.1", |_| {});
        pki.issue("client", "client", |_| {});
        let tls = Tls::load(&pki.files(Some("client"))).expect("good files");
        Self::start_with(ServerOptions {
            args: pki.server("server", true),
            tls: Some(tls),
        })
        .await
    }

    /// Turns authentication on: `root` with the password `secret`, and a user with the password
    /// `word` that may touch only what begins with `prefix`.
    pub async fn enable_auth(&self, files: &TlsFiles, user: &str, prefix: &str) {
        let (new, may) = (format!("{user}:word"), "--prefix=true");
        for args in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", &new],
            &["role", "add", user],
            &["role", "grant-permission", user, may, "readwrite", prefix],
            &["user", "grant-role", user, user],
            &["auth", "enable"],
        ] {
            self.etcdctl(files, args).await;
        }
    }

    /// Debian's own client, as an operator; asked for a password, it is given `word`.
    pub async fn etcdctl(&self, files: &TlsFiles, args: &[&str]) {
        let mut command = Command::new("etcdctl");
        for (flag, file) in [
            ("--cacert", &files.ca),
            ("--cert", &files.cert),
            ("--key", &files.key),
        ] {
            if let Some(file) = file {
                command.arg(flag).arg(file);
            }
        }
        let mut child = command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl is installed (Debian: etcd-client)");
        if let Some(mut input) = child.stdin.take() {
            // Most verbs do not read it.
            let _ = input.write_all(b"word\n").await;
        }
        let output = child.wait_with_output().await.expect("etcdctl ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {args:?}: {said}");
    }
}
