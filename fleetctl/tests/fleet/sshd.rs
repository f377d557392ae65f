//! A real sshd on the loopback.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Cluster, eventually};

/// A sshd that lets its own user in with a key made for it.
pub(crate) struct Sshd {
    pub(crate) port: u16,
    pub(crate) user: String,
    child: Child,
}

/// A key without a password.
pub(crate) fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ecdsa", "-N", "", "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen is installed (Debian: openssh-client)");
    assert!(made.success());
}

impl Sshd {
    /// Starts one whose sessions find fleetctl and the cluster's own programs.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let dir = cluster.dir.path();
        let ssh = dir.join("sshd");
        std::fs::create_dir(&ssh).unwrap();
        keygen(&ssh.join("host"));
        std::fs::create_dir_all(dir.join(".ssh")).unwrap();
        keygen(&dir.join(".ssh/id_ecdsa"));
        let key = std::fs::read_to_string(dir.join(".ssh/id_ecdsa.pub")).unwrap();
        std::fs::write(ssh.join("authorized"), key).unwrap();
        std::fs::create_dir_all(dir.join("bin")).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_fleetctl"));
        std::os::unix::fs::symlink(program, dir.join("bin/fleetctl")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut config = String::new();
        for (key, value) in [
            ("Port", port.to_string()),
            ("ListenAddress", "127.0.0.1".to_owned()),
            ("HostKey", ssh.join("host").display().to_string()),
            (
                "AuthorizedKeysFile",
                ssh.join("authorized").display().to_string(),
            ),
            ("PidFile", "none".to_owned()),
            ("StrictModes", "no".to_owned()),
            ("UsePAM", "no".to_owned()),
            ("PasswordAuthentication", "no".to_owned()),
            ("PermitRootLogin", "prohibit-password".to_owned()),
            (
                "SetEnv",
                format!("PATH={}", cluster.path().to_string_lossy()),
            ),
        ] {
            writeln!(config, "{key} {value}").unwrap();
        }
        std::fs::write(ssh.join("config"), config).unwrap();
        // Debian's sshd wants it, and its service makes it.
        let _ = std::fs::create_dir_all("/run/sshd");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(ssh.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(ssh.join("log")).unwrap())
            .spawn()
            .expect("sshd is installed (Debian: openssh-server)");
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap().trim().to_owned();
        eventually("sshd listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, user, child }
    }

    /// Its host key, as a line of a known hosts file.
    pub(crate) fn host_key(&self, cluster: &Cluster) -> String {
        let key = std::fs::read_to_string(cluster.dir.path().join("sshd/host.pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
