//! Child processes that end with their owner, and waiting with a deadline.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child that is killed, by its own pid, when this value goes.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    keep: bool,
}

impl Owned {
    /// Starts `command` with its output in `log`. `detach`: it outlives us (for `up`). Else it ends with us also where we
    /// are killed: setpriv(1) sets its parent-death signal.
    pub fn start(command: &mut Command, log: &Path, detach: bool) -> Result<Owned> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let name = command.get_program().display().to_string();
        let mut bound = Command::new("setpriv");
        let command = if detach {
            command.stdin(Stdio::null())
        } else {
            bound
                .args(["--pdeathsig", "KILL", "--"])
                .arg(command.get_program())
                .args(command.get_args())
                .stdin(Stdio::piped())
        };
        let child = command
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {name}; is it installed?"))?;
        Ok(Owned {
            child,
            keep: detach,
        })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL and reap: a power cut.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.keep {
            self.kill();
        }
    }
}

/// Calls `ready` until it gives a value or `limit` is over; `what` names it in the error.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut last = None;
    loop {
        match ready() {
            Ok(Some(v)) => return Ok(v),
            Ok(None) => {}
            Err(e) => last = Some(e),
        }
        if start.elapsed() >= limit {
            match last {
                Some(e) => {
                    return Err(e)
                        .with_context(|| format!("waited {} s for {what}", limit.as_secs()));
                }
                None => bail!("waited {} s for {what}", limit.as_secs()),
            }
        }
        // What takes long is asked about less often: asking costs an emulated machine as much as working.
        let pause = Duration::from_millis(250) + start.elapsed() / 16;
        sleep(pause.min(Duration::from_secs(1)));
    }
}

/// Who listens on TCP `port` of this host, for a message: ` by NAME (pid N)`, or nothing where that cannot be seen
/// (another user's process). Reads proc(5)'s `net/tcp` and the descriptors of each process.
#[must_use]
pub fn port_holder(port: u16) -> String {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|f| fs::read_to_string(f).ok())
        .flat_map(|text| listeners(&text, port))
        .collect();
    let links_to = |pid: &str| {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        fds.flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|l| {
                let l = l.to_string_lossy();
                inodes.iter().any(|i| *l == format!("socket:[{i}]"))
            })
    };
    let Ok(proc) = fs::read_dir("/proc") else {
        return String::new();
    };
    for entry in proc.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid.bytes().all(|b| b.is_ascii_digit()) && links_to(&pid) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return format!(" by {} (pid {pid})", name.trim());
        }
    }
    String::new()
}

/// Inodes of the sockets that listen (state 0A) on `port`, in the text of `/proc/net/tcp`.
fn listeners(table: &str, port: u16) -> Vec<String> {
    let local = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let f: Vec<&str> = line.split_whitespace().collect();
            (f.len() > 9 && f[1].ends_with(&local) && f[3] == "0A").then(|| f[9].to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let holder = port_holder(port);
        assert!(
            holder.contains(&format!("(pid {})", std::process::id())),
            "{holder:?}"
        );
        drop(listener);
        assert_eq!(port_holder(port), "");
    }
}
