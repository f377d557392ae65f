//! Our systemctl beside Debian's: the same command line against the same units must print the same and end the same.
//!
//! PID 1 is the scripted engine of unit-busd's tests. Ours asks it directly (and by the bus as another user), Debian's
//! goes through unit-busd. Both run in a mount namespace where `/run` is the test's directory, so this needs root.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

#[path = "../../unit-busd/tests/engine/mod.rs"]
mod engine;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use engine::Engine;

struct Lab {
    run: tempfile::TempDir,
    engine: Engine,
    busd: Child,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.busd.kill();
        let _ = self.busd.wait();
    }
}

/// unit-busd, built beside our program.
fn busd() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "-q", "-p", "unit-busd"])
            .status()
            .unwrap();
        assert!(built.success());
        Path::new(env!("CARGO_BIN_EXE_systemctl")).with_file_name("unit-busd")
    })
}

impl Lab {
    fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let path = run.path();
        for directory in ["systemd/system", "flotilla", "dbus", "root/etc", "bin"] {
            std::fs::create_dir_all(path.join(directory)).unwrap();
        }
        for name in [
            "hostnamectl",
            "timedatectl",
            "loginctl",
            "systemd-run",
            "systemd-escape",
            "systemd-analyze",
            "reboot",
            "shutdown",
        ] {
            std::os::unix::fs::symlink(
                env!("CARGO_BIN_EXE_systemctl"),
                path.join("bin").join(name),
            )
            .unwrap();
        }
        let engine = Engine::start(&path.join("flotilla/init.sock"));
        let busd = Command::new(busd())
            .arg("--control")
            .arg(path.join("flotilla/init.sock"))
            .arg("--private")
            .arg(path.join("systemd/private"))
            .arg("--system-bus")
            .arg(path.join("dbus/system_bus_socket"))
            .arg("--root")
            .arg(path.join("root"))
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !path.join("dbus/system_bus_socket").exists() {
            assert!(Instant::now() < deadline, "unit-busd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { run, engine, busd }
    }

    fn inside(&self, argv: &[&str]) -> Output {
        Command::new("unshare")
            .args([
                "-m",
                "sh",
                "-c",
                "mount --bind \"$0\" /run && exec timeout 20 \"$@\"",
            ])
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

    fn run(&self, program: &str, line: &str) -> (Option<i32>, String, String) {
        let mut argv = vec![program];
        argv.extend(line.split(' ').filter(|word| !word.is_empty()));
        let output = self.inside(&argv);
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .lines()
                .map(str::trim_end)
                .collect::<Vec<_>>()
                .join("\n")
        };
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Both programs must agree.
    #[track_caller]
    fn same(&self, line: &str) {
        let debian = self.run("/usr/bin/systemctl", line);
        let ours = self.run(env!("CARGO_BIN_EXE_systemctl"), line);
        assert_eq!(ours, debian, "systemctl {line} (ours left, Debian's right)");
    }

    /// Both programs must agree on all properties but those that 252 does not know to print when they are not set.
    #[track_caller]
    fn same_properties(&self, line: &str) {
        let known = |text: &str| -> Vec<String> {
            let newer = ["MemoryPeak=", "MemoryZSwapMax=", "IORead", "IOWrite"];
            let lines = text
                .lines()
                .filter(|line| !newer.iter().any(|name| line.starts_with(name)));
            lines.map(str::to_owned).collect()
        };
        let debian = self.run("/usr/bin/systemctl", line);
        let ours = self.run(env!("CARGO_BIN_EXE_systemctl"), line);
        assert_eq!(
            known(&ours.1),
            known(&debian.1),
            "systemctl {line} (ours left, Debian's right)"
        );
        assert_eq!((ours.0, ours.2), (debian.0, debian.2), "systemctl {line}");
    }

    fn ours(&self, name: &str, line: &str) -> (Option<i32>, String, String) {
        self.run(
            self.run.path().join("bin").join(name).to_str().unwrap(),
            line,
        )
    }
}

#[test]
fn states() {
    let lab = Lab::new();
    for line in [
        "is-active ssh.service",
        "is-active ssh",
        "is-active idle nosuch",
        "is-active -q ssh",
        "is-failed broken.service",
        "is-failed ssh.service",
        "is-system-running",
        "get-default",
        "is-enabled ssh.service",
        "is-enabled idle.service",
        "is-enabled nosuch.service",
        "show-environment",
        "list-jobs",
        "frobnicate",
    ] {
        lab.same(line);
    }
    // PID 1 ends all connections when it re-executes; the next question makes a new one.
    lab.engine.hang_up();
    lab.same("is-active ssh.service");
}

#[test]
fn jobs() {
    let lab = Lab::new();
    for line in [
        "start idle.service",
        "stop idle",
        "restart idle.service once.service",
        "try-restart idle",
        "reload-or-restart idle",
        "reload idle.service",
        "start nosuch.service",
        "start -q nosuch.service",
        "start broken.service",
        "stop ssh.service",
        "start --no-block idle.service",
        "isolate multi-user.target",
        "kill -s HUP ssh.service",
        "daemon-reload",
        "reset-failed broken",
        "reset-failed",
        "set-environment A=b",
    ] {
        lab.same(line);
    }
    assert!(
        lab.engine
            .saw("KillUnit { name: \"ssh.service\", who: All, signal: 1 }")
    );
}

#[test]
fn unit_files() {
    let lab = Lab::new();
    for line in [
        "enable idle.service",
        "disable idle",
        "mask idle.service",
        "unmask idle.service",
        "preset idle.service",
        "reenable -q idle.service",
        "link /etc/x.service",
        "revert idle.service",
        "enable --now idle.service",
        "disable --now idle.service",
        "add-wants multi-user.target idle.service",
        "list-unit-files --no-legend",
    ] {
        lab.same(line);
    }
}

#[test]
fn lists() {
    let lab = Lab::new();
    for line in [
        "list-units",
        "list-units --all",
        "list-units --no-legend --plain",
        "list-units -t service,socket",
        "list-units --state=failed",
        "--failed --no-legend",
        "list-units ssh*",
        "list-units --all idle*",
        "list-sockets",
        "list-sockets --show-types --no-legend",
        "list-dependencies multi-user.target",
        "list-dependencies --plain multi-user.target",
        "list-timers --no-legend --all",
    ] {
        lab.same(line);
    }
}

#[test]
fn properties() {
    let lab = Lab::new();
    for line in [
        "show ssh.service -p Id,ActiveState,MainPID,ExecStart,Environment,RestartUSec,UMask",
        "show ssh.service --value -p MainPID",
        "show -P ActiveState ssh.service",
        "show idle.service -p FragmentPath,StatusText,Job,LoadError",
        "show nosuch.service -p LoadState,ActiveState,FragmentPath",
        "show -p SystemState,NFailedUnits,Environment,DefaultTimeoutStartUSec",
        "show ssh.socket -p Listen,Accept,Triggers",
        "show daily.timer -p TimersCalendar,NextElapseUSecRealtime",
        "show ssh.service idle.service -p Id",
    ] {
        lab.same(line);
    }
    // All properties: the same set in the same order, but for what Debian's prints of the moment.
    for unit in [
        "ssh.service",
        "ssh.socket",
        "daily.timer",
        "home.mount",
        "box.scope",
        "multi-user.target",
        "nosuch.service",
    ] {
        lab.same_properties(&format!("show {unit}"));
    }
    lab.same_properties("show");
}

#[test]
fn status() {
    let lab = Lab::new();
    for line in [
        "status -n0 ssh.service",
        "status -n0 broken.service",
        "status -n0 idle.service",
        "status -n0 nosuch.service",
        "status -n0 ssh.socket",
        "status -n0 home.mount",
        "status -n0 multi-user.target",
        "status -n0 ssh.service idle.service",
        "status -n0 dev-vdb.device",
    ] {
        lab.same(line);
    }
}

#[test]
fn users_go_by_the_bus() {
    let lab = Lab::new();
    let user = "--reuid=65534 --regid=65534 --clear-groups";
    for line in [
        "is-active ssh.service",
        "list-units --no-legend",
        "show ssh.service -p Id,MainPID",
        "is-system-running",
    ] {
        let debian = lab.run("setpriv", &format!("{user} /usr/bin/systemctl {line}"));
        let ours = lab.run(
            "setpriv",
            &format!("{user} {} {line}", env!("CARGO_BIN_EXE_systemctl")),
        );
        assert_eq!(ours, debian, "{line}");
    }
    let refused = lab.run(
        "setpriv",
        &format!(
            "{user} {} start idle.service",
            env!("CARGO_BIN_EXE_systemctl")
        ),
    );
    assert_eq!(refused.0, Some(4));
    assert!(refused.2.contains("Access denied"), "{refused:?}");
}

#[test]
fn other_names() {
    let lab = Lab::new();
    std::fs::write(lab.run.path().join("root/etc/hostname"), "lab-1\n").unwrap();
    assert_eq!(lab.ours("hostnamectl", "hostname --static").1, "lab-1");
    assert!(
        lab.ours("hostnamectl", "")
            .1
            .contains("Static hostname: lab-1")
    );
    assert_eq!(lab.ours("timedatectl", "show -p Timezone --value").1, "UTC");
    assert_eq!(lab.ours("loginctl", "list-sessions").1, "No sessions.");
    for line in [
        "--path /var/lib/x",
        "-u a\\x20b",
        "--suffix=service a/b",
        "--template=a@.service x",
    ] {
        assert_eq!(
            lab.ours("systemd-escape", line),
            lab.run("/usr/bin/systemd-escape", line),
            "{line}"
        );
    }
    let run = lab.ours("systemd-run", "--unit=job --description=test /bin/true");
    assert_eq!(run.0, Some(0), "{run:?}");
    assert!(lab.engine.saw("ExecStart"));
    let scope = lab.ours("systemd-run", "--scope --quiet /bin/echo inside");
    assert_eq!((scope.0, scope.1.as_str()), (Some(0), "inside"));
    assert_eq!(lab.ours("reboot", "").0, Some(0));
    assert!(lab.engine.saw("Power { action: Reboot, immediate: false"));
    assert_eq!(lab.ours("shutdown", "-h +60").0, Some(0));
    assert_eq!(lab.ours("shutdown", "-c").0, Some(0));
    assert_eq!(lab.ours("reboot", "-f").0, Some(0));
    assert!(lab.engine.saw("Power { action: Reboot, immediate: true"));
}

#[test]
fn without_a_manager() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""])
        .arg(empty.path())
        .args([env!("CARGO_BIN_EXE_systemctl"), "is-active", "x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not been booted"));
}
