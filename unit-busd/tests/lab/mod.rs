//! unit-busd before a scripted engine, in a directory that clients see as `/run`.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use dbus_api::blocking::Connection;

use crate::engine::Engine;

/// Everything torn down with it.
pub(crate) struct Lab {
    pub(crate) run: tempfile::TempDir,
    pub(crate) engine: Engine,
    pub(crate) busd: Child,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.busd.kill();
        let _ = self.busd.wait();
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        for directory in [
            "systemd/system",
            "flotilla",
            "dbus",
            "root/etc",
            "cgroup/system.slice/ssh.service/sub",
        ] {
            std::fs::create_dir_all(run.path().join(directory)).unwrap();
        }
        std::fs::write(run.path().join("root/etc/hostname"), "lab-1\n").unwrap();
        let group = run.path().join("cgroup/system.slice/ssh.service");
        std::fs::write(group.join("memory.current"), "4194304\n").unwrap();
        std::fs::write(group.join("pids.current"), "1\n").unwrap();
        std::fs::write(group.join("cpu.stat"), "usage_usec 1500000\n").unwrap();
        std::fs::write(group.join("cgroup.procs"), "").unwrap();
        std::fs::write(
            group.join("sub/cgroup.procs"),
            format!("{}\n", std::process::id()),
        )
        .unwrap();
        let engine = Engine::start(&run.path().join("flotilla/init.sock"));
        let busd = spawn_busd(run.path());
        Self { run, engine, busd }
    }

    pub(crate) fn bus_address(&self) -> String {
        format!(
            "unix:path={}",
            self.run.path().join("dbus/system_bus_socket").display()
        )
    }

    pub(crate) fn bus(&self) -> Connection {
        Connection::bus(&self.bus_address()).unwrap()
    }

    pub(crate) fn private(&self) -> Connection {
        Connection::peer(&format!(
            "unix:path={}",
            self.run.path().join("systemd/private").display()
        ))
        .unwrap()
    }

    /// Run a program where `/run` is the lab's.
    pub(crate) fn inside(&self, argv: &[&str]) -> Output {
        Command::new("unshare")
            .args(["-m", "sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""])
            .arg(self.run.path())
            .args(argv)
            .env("SYSTEMD_PAGER", "")
            .env("SYSTEMD_COLORS", "0")
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env_remove("DBUS_SYSTEM_BUS_ADDRESS")
            .output()
            .unwrap()
    }

    /// `systemctl` as root, by the private socket: exit code and output must be these.
    #[track_caller]
    pub(crate) fn systemctl(&self, line: &str, code: i32, stdout: &str, stderr: &str) {
        let mut argv = vec!["timeout", "20", "systemctl"];
        argv.extend(line.split(' '));
        let output = self.inside(&argv);
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), out.trim_end(), err.trim_end()),
            (Some(code), stdout.trim_end(), stderr.trim_end()),
            "systemctl {line}"
        );
    }

    #[track_caller]
    pub(crate) fn output(&self, line: &str) -> String {
        let mut argv = vec!["timeout", "20"];
        argv.extend(line.split(' '));
        let output = self.inside(&argv);
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

pub(crate) fn spawn_busd(run: &Path) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_unit-busd"))
        .arg("--control")
        .arg(run.join("flotilla/init.sock"))
        .arg("--private")
        .arg(run.join("systemd/private"))
        .arg("--system-bus")
        .arg(run.join("dbus/system_bus_socket"))
        .arg("--cgroups")
        .arg(run.join("cgroup"))
        .arg("--root")
        .arg(run.join("root"))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !run.join("dbus/system_bus_socket").exists() {
        assert!(Instant::now() < deadline, "unit-busd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
