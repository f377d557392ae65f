//! The system's ssh client, which carries tunnels and remote commands.
//!
//! Keys, agent and configuration are ssh's own business; here are only the flags that fleetctl
//! documents: user, port, time-out, known hosts and their checking. With `--tunnel` all connections
//! go through that host, and share one connection to it for as long as the command runs.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::endpoint::split_port;
use crate::error::Failure;

/// Longest path of a control socket: the kernel's limit less what ssh appends while making it.
const MAX_SOCKET: usize = 85;

/// How ssh is called.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) username: String,
    pub(crate) timeout: f64,
    pub(crate) strict: bool,
    pub(crate) known_hosts: String,
}

/// ssh with its flags.
#[derive(Debug)]
pub(crate) struct Ssh {
    options: Options,
    tunnel: Option<Tunnel>,
}

/// The host that everything goes through.
#[derive(Debug)]
struct Tunnel {
    host: String,
    port: u16,
    /// Where the shared connection is found; without it each connection is made anew.
    control: Option<PathBuf>,
}

impl Ssh {
    /// `tunnel` is `HOST[:PORT]` or empty.
    pub(crate) fn new(options: Options, tunnel: &str) -> Result<Self, Failure> {
        let tunnel = if tunnel.is_empty() {
            None
        } else {
            let (host, port) = split_port(tunnel, 22).ok_or_else(|| Failure::Tunnel {
                host: tunnel.to_owned(),
                reason: "the port is not a number".into(),
            })?;
            Some(Tunnel {
                host,
                port,
                control: control_path(),
            })
        };
        Ok(Self { options, tunnel })
    }

    /// The tunnel's host, if there is one.
    pub(crate) fn tunnel_host(&self) -> Option<&str> {
        self.tunnel.as_ref().map(|t| t.host.as_str())
    }

    /// ssh to a host of the cluster, through the tunnel if there is one. What follows is a command
    /// for that host, whatever it looks like; `flags` are more of ssh's own.
    pub(crate) fn to(&self, host: &str, port: u16, flags: &[&str]) -> Command {
        let mut ssh = self.base(port);
        ssh.args(flags);
        if let Some(hop) = self.to_tunnel(&["-W", "[%h]:%p"]) {
            // ssh runs this with a shell, and replaces %h and %p itself.
            let words = std::iter::once("ssh".to_owned()).chain(words_of(&hop));
            let quoted: Vec<String> = words.map(|word| quote(&word)).collect();
            ssh.arg(format!("-oProxyCommand={}", quoted.join(" ")));
        }
        ssh.args(["--", host]);
        ssh
    }

    /// ssh to the tunnel's host.
    pub(crate) fn to_tunnel(&self, flags: &[&str]) -> Option<Command> {
        let tunnel = self.tunnel.as_ref()?;
        let mut ssh = self.base(tunnel.port);
        if let Some(control) = &tunnel.control {
            // ssh replaces % sequences in it.
            let path = control.display().to_string().replace('%', "%%");
            ssh.arg("-oControlMaster=auto")
                .arg("-oControlPersist=60")
                .arg(format!("-oControlPath={path}"));
        }
        ssh.args(flags).args(["--", &tunnel.host]);
        Some(ssh)
    }

    fn base(&self, port: u16) -> Command {
        let options = &self.options;
        let mut ssh = Command::new("ssh");
        let (check, hosts) = if options.strict {
            ("ask", expand_home(&options.known_hosts))
        } else {
            ("no", "/dev/null".to_owned())
        };
        if options.strict
            && let Some(dir) = Path::new(&hosts).parent()
        {
            // Without it ssh only does not remember the key, and says so.
            let _ = std::fs::create_dir_all(dir);
        }
        ssh.args(["-l", &options.username, "-p", &port.to_string()])
            .arg(format!(
                "-oConnectTimeout={}",
                options.timeout.ceil().max(1.0)
            ))
            .arg("-oServerAliveInterval=15")
            .arg(format!("-oStrictHostKeyChecking={check}"))
            .arg(format!("-oUserKnownHostsFile={hosts}"))
            .arg("-oHashKnownHosts=no")
            .arg("-oLogLevel=ERROR");
        ssh
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let Some(Tunnel {
            host,
            control: Some(control),
            ..
        }) = &self.tunnel
        else {
            return;
        };
        if control.exists() {
            // It would end by itself a minute later.
            let _ = Command::new("ssh")
                .args(["-O", "exit"])
                .arg(format!("-oControlPath={}", control.display()))
                .args(["--", host])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A place that only we can write to, with a path short enough for a socket.
fn control_path() -> Option<PathBuf> {
    let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".fleetctl"));
    let dir = run.filter(|d| d.is_dir()).or(home)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .ok()?;
    let path = dir.join(format!("ssh-{}", std::process::id()));
    (path.as_os_str().len() <= MAX_SOCKET).then_some(path)
}

fn words_of(command: &Command) -> Vec<String> {
    let word = |w: &std::ffi::OsStr| OsString::from(w).to_string_lossy().into_owned();
    command.get_args().map(word).collect()
}

fn expand_home(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("{}/{rest}", std::env::var("HOME").unwrap_or_default()),
        None => path.to_owned(),
    }
}

/// A word for a shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(tunnel: &str, strict: bool) -> Ssh {
        let options = Options {
            username: "core".into(),
            timeout: 2.5,
            strict,
            known_hosts: "/nonexistent/hosts".into(),
        };
        let mut ssh = Ssh::new(options, tunnel).unwrap();
        if let Some(tunnel) = &mut ssh.tunnel {
            tunnel.control = None;
        }
        ssh
    }

    #[test]
    fn words_are_safe_in_a_shell() {
        for (word, expect) in [
            ("a.service", "a.service"),
            ("a'b$c", r"'a'\''b$c'"),
            ("a b", "'a b'"),
            ("", "''"),
            ("a[1]", "'a[1]'"),
            ("w@1.service", "w@1.service"),
        ] {
            assert_eq!(quote(word), expect);
        }
    }

    #[test]
    fn flags_reach_ssh() {
        let words = words_of(&ssh("", true).to("10.0.0.1", 23, &["-A"])).join(" ");
        assert_eq!(
            words,
            "-l core -p 23 -oConnectTimeout=3 -oServerAliveInterval=15 \
             -oStrictHostKeyChecking=ask -oUserKnownHostsFile=/nonexistent/hosts \
             -oHashKnownHosts=no -oLogLevel=ERROR -A -- 10.0.0.1"
        );
        let words = words_of(&ssh("", false).to("10.0.0.1", 22, &[])).join(" ");
        assert!(words.contains("-oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null"));
    }

    #[test]
    fn a_tunnel_is_a_proxy_command() {
        let words = words_of(&ssh("gate:2222", true).to("10.0.0.1", 22, &[]));
        let proxy = words
            .iter()
            .find(|w| w.starts_with("-oProxyCommand="))
            .unwrap();
        assert_eq!(
            proxy,
            "-oProxyCommand=ssh -l core -p 2222 -oConnectTimeout=3 -oServerAliveInterval=15 \
             -oStrictHostKeyChecking=ask -oUserKnownHostsFile=/nonexistent/hosts \
             -oHashKnownHosts=no -oLogLevel=ERROR -W '[%h]:%p' -- gate"
        );
        assert!(ssh("", true).to_tunnel(&[]).is_none());
        assert!(Ssh::new(ssh("", true).options.clone(), "gate:x").is_err());
    }
}
