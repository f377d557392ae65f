//! Debian's own `systemctl`, `hostnamectl`, `dbus-send` and our typed client against unit-busd, with a scripted engine
//! in PID 1's place.
//!
//! The engine is the serving side of the control socket only; unit-busd is the real program. Clients run in a mount
//! namespace of their own where `/run` is the test's directory, so this needs root.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod engine;

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use dbus_api::blocking::Connection;
use dbus_api::systemd1::{self, Event, JobMode, Verb};
use dbus_api::{bus, login1};

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

impl Lab {
    fn new() -> Self {
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

    fn bus_address(&self) -> String {
        format!(
            "unix:path={}",
            self.run.path().join("dbus/system_bus_socket").display()
        )
    }

    fn bus(&self) -> Connection {
        Connection::bus(&self.bus_address()).unwrap()
    }

    fn private(&self) -> Connection {
        Connection::peer(&format!(
            "unix:path={}",
            self.run.path().join("systemd/private").display()
        ))
        .unwrap()
    }

    /// Run a program where `/run` is the lab's.
    fn inside(&self, argv: &[&str]) -> Output {
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
    fn systemctl(&self, line: &str, code: i32, stdout: &str, stderr: &str) {
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
    fn output(&self, line: &str) -> String {
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

fn spawn_busd(run: &Path) -> Child {
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

#[test]
fn states_and_exit_codes() {
    let lab = Lab::new();
    lab.systemctl("is-active ssh.service", 0, "active", "");
    lab.systemctl("is-active idle.service", 3, "inactive", "");
    lab.systemctl("is-active nosuch.service", 3, "inactive", "");
    lab.systemctl("is-failed broken.service", 0, "failed", "");
    lab.systemctl("is-system-running", 1, "degraded", "");
    lab.systemctl("get-default", 0, "multi-user.target", "");
    lab.systemctl("is-enabled ssh.service", 0, "enabled", "");
    lab.systemctl("is-enabled idle.service", 1, "disabled", "");
    lab.systemctl("show-environment", 0, "LANG=C.UTF-8\nPATH=/usr/bin", "");
    let missing = lab.output("systemctl is-enabled nosuch.service");
    assert!(
        missing.contains("Failed to get unit file state for nosuch.service"),
        "{missing}"
    );
}

#[test]
fn jobs() {
    let lab = Lab::new();
    lab.systemctl("start idle.service", 0, "", "");
    lab.systemctl("is-active idle.service", 0, "active", "");
    lab.systemctl("restart idle.service", 0, "", "");
    lab.systemctl("stop idle.service", 0, "", "");
    lab.systemctl("is-active idle.service", 3, "inactive", "");
    lab.systemctl(
        "start nosuch.service",
        5,
        "",
        "Failed to start nosuch.service: Unit nosuch.service not found.",
    );
    lab.systemctl(
        "reload idle.service",
        3,
        "",
        "Failed to reload idle.service: Job type reload is not applicable for unit idle.service.",
    );
    lab.systemctl("daemon-reload", 0, "", "");
    let failed = lab.output("systemctl start broken.service");
    assert!(
        failed.contains(
            "Job for broken.service failed because the control process exited with error code."
        ),
        "{failed}"
    );
    lab.systemctl("list-jobs", 0, "No jobs running.", "");
    lab.systemctl("start --no-block idle.service", 0, "", "");
    lab.systemctl("reset-failed broken.service", 0, "", "");
    lab.systemctl("is-failed broken.service", 1, "inactive", "");
    lab.systemctl("kill --signal=SIGHUP ssh.service", 0, "", "");
    assert!(
        lab.engine
            .saw("KillUnit { name: \"ssh.service\", who: All, signal: 1 }")
    );
}

#[test]
fn status_shows_all() {
    let lab = Lab::new();
    let text = lab.output("systemctl status ssh.service --no-pager -l");
    for line in [
        "● ssh.service - OpenBSD Secure Shell server",
        "     Loaded: loaded (/usr/lib/systemd/system/ssh.service; enabled; preset: enabled)",
        "    Drop-In: /etc/systemd/system/ssh.service.d",
        "             └─10-a.conf",
        "     Active: active (running) since Tue 2026-11-10 12:00:00 UTC;",
        "TriggeredBy: ● ssh.socket",
        "       Docs: man:sshd(8)",
        "             man:sshd_config(5)",
        "    Process: 41 ExecStartPre=/usr/sbin/sshd -t (code=exited, status=0/SUCCESS)",
        "   Main PID: ",
        "     Status: \"Listening on port 22\"",
        "      Tasks: 1 (limit: 100)",
        "     Memory: 4.0M",
        "        CPU: 1.500s",
        "     CGroup: /system.slice/ssh.service",
        "             └─sub",
    ] {
        assert!(text.contains(line), "no line {line:?} in\n{text}");
    }
    assert!(text.contains("real_clients"), "no process in\n{text}");
    let missing = lab.inside(&["systemctl", "status", "nosuch.service"]);
    assert_eq!(missing.status.code(), Some(4));
    assert_eq!(
        String::from_utf8_lossy(&missing.stderr).trim(),
        "Unit nosuch.service could not be found."
    );
    assert_eq!(
        lab.inside(&["systemctl", "status", "broken.service"])
            .status
            .code(),
        Some(3)
    );
    let overall = lab.output("systemctl status --no-pager");
    assert!(overall.contains("State: degraded"), "{overall}");
    assert!(overall.contains("Failed: 1 units"), "{overall}");
}

#[test]
fn show_gives_every_property() {
    let lab = Lab::new();
    lab.systemctl(
        "show ssh.service -p Id,ActiveState,SubState,MainPID,Restart,RestartUSec,LimitNOFILE,KillSignal,UMask,MemoryMax,TasksMax,Environment,InvocationID,After,MemoryCurrent,IPIngressBytes,Type",
        0,
        &format!(
            "Type=notify\nRestart=on-failure\nRestartUSec=100ms\nMainPID={}\nMemoryCurrent=4194304\nIPIngressBytes=[no data]\nTasksMax=100\nMemoryMax=1073741824\nEnvironment=A=1 \"B=2 3\"\nLimitNOFILE=65536\nUMask=0077\nKillSignal=15\nId=ssh.service\nAfter=network.target\nActiveState=active\nSubState=running\nInvocationID=0102030405060708090a0b0c0d0e0f10",
            std::process::id()
        ),
        "",
    );
    lab.systemctl("show ssh.service --value -p ExecMainStatus", 0, "0", "");
    let exec = lab.output("systemctl show ssh.service -p ExecStart");
    assert!(
        exec.contains(
            "{ path=/usr/sbin/sshd ; argv[]=/usr/sbin/sshd -D $SSHD_OPTS ; ignore_errors=no ;"
        ),
        "{exec}"
    );
    lab.systemctl(
        "show -p SystemState,NFailedUnits,DefaultTimeoutStartUSec",
        0,
        "NFailedUnits=1\nDefaultTimeoutStartUSec=1min 30s\nSystemState=degraded",
        "",
    );
    for unit in [
        "ssh.service",
        "ssh.socket",
        "daily.timer",
        "multi-user.target",
        "home.mount",
        "x.path",
        "box.scope",
        "system.slice",
        "dev-vdb.device",
        "nosuch.service",
    ] {
        let output = lab.inside(&["systemctl", "show", unit]);
        assert_eq!(output.status.code(), Some(0), "{unit}");
        assert!(
            output.stderr.is_empty(),
            "{unit}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(&format!("Id={unit}")),
            "{unit}"
        );
    }
    let whole = lab.output("systemctl show");
    assert!(whole.contains("Version=252 (Flotilla test)"), "{whole}");
    assert!(!whole.contains("Failed to"), "{whole}");
}

#[test]
fn lists() {
    let lab = Lab::new();
    let units = lab.output("systemctl list-units --no-pager --no-legend --plain");
    assert!(units.contains("ssh.service"), "{units}");
    assert!(
        units.contains("loaded active running OpenBSD Secure Shell server"),
        "{units}"
    );
    assert!(units.contains("broken.service"), "{units}");
    assert!(!units.contains("idle.service"), "{units}");
    let failed = lab.output("systemctl --failed --no-legend --plain");
    assert!(
        failed.starts_with("broken.service loaded failed failed"),
        "{failed}"
    );
    let globbed = lab.output("systemctl list-units --all --no-legend --plain ssh.*");
    assert_eq!(globbed.lines().count(), 2, "{globbed}");
    let files = lab.output("systemctl list-unit-files --no-legend");
    assert!(files.contains("ssh.service"), "{files}");
    let sockets = lab.output("systemctl list-sockets --no-legend");
    assert!(
        sockets.starts_with("0.0.0.0:22 ssh.socket ssh.service"),
        "{sockets}"
    );
    let timers = lab.output("systemctl list-timers --no-legend --all");
    assert!(
        timers.contains("daily.timer") && timers.contains("daily.service"),
        "{timers}"
    );
    let tree = lab.output("systemctl list-dependencies multi-user.target --plain");
    assert!(tree.contains("  ssh.service"), "{tree}");
}

#[test]
fn unit_files() {
    let lab = Lab::new();
    lab.systemctl(
        "enable idle.service",
        0,
        "",
        "Created symlink /etc/systemd/system/multi-user.target.wants/idle.service \u{2192} /usr/lib/systemd/system/idle.service.",
    );
    assert!(lab.engine.saw("UnitFiles(Enable { files: [\"idle.service\"], flags: EnableFlags { runtime: false, force: false } })"));
    assert!(lab.engine.saw("Reload"));
    lab.systemctl(
        "disable idle.service",
        0,
        "",
        "Removed \"/etc/systemd/system/multi-user.target.wants/idle.service\".",
    );
    lab.systemctl(
        "mask --runtime idle.service",
        0,
        "",
        "Created symlink /etc/systemd/system/idle.service \u{2192} /dev/null.",
    );
    lab.systemctl("set-default rescue.target", 0, "", "Created symlink /etc/systemd/system/default.target \u{2192} /usr/lib/systemd/system/rescue.target.\nNote: \"multi-user.target\" is the default unit (possibly a runtime override).");
    for verb in ["reenable", "preset", "unmask", "revert"] {
        assert_eq!(
            lab.inside(&["systemctl", verb, "idle.service"])
                .status
                .code(),
            Some(0),
            "{verb}"
        );
    }
    assert_eq!(
        lab.inside(&["systemctl", "link", "/etc/hostname.service"])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn bus_facade_for_other_clients() {
    let lab = Lab::new();
    // A user who is not root goes by the bus, may read and may not write.
    let read = lab.output(
        "setpriv --reuid=65534 --regid=65534 --clear-groups systemctl is-active ssh.service",
    );
    assert_eq!(read, "active\n");
    let write = lab.output("setpriv --reuid=65534 --regid=65534 --clear-groups systemctl --no-ask-password start idle.service");
    assert!(write.contains("Access denied"), "{write}");
    assert!(!lab.engine.saw("StartUnit"));
    let waited = lab.output("systemctl start --wait once.service");
    assert_eq!(waited, "");
    let names = lab.output("dbus-send --system --print-reply --dest=org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus.ListNames");
    assert!(names.contains("org.freedesktop.systemd1"), "{names}");
    let xml = lab.output("dbus-send --system --print-reply --dest=org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Introspectable.Introspect");
    assert!(xml.contains("StartTransientUnit"), "{xml}");
    let host = lab.output("hostnamectl status");
    assert!(host.contains("Static hostname: lab-1"), "{host}");
    let time = lab.output("timedatectl show -p Timezone -p NTPSynchronized");
    assert!(time.contains("Timezone=UTC\nNTPSynchronized=no"), "{time}");
    let sessions = lab.output("loginctl list-sessions");
    assert!(sessions.contains("No sessions."), "{sessions}");
    let tree = lab.output("busctl --no-pager introspect org.freedesktop.systemd1 /org/freedesktop/systemd1/unit/ssh_2eservice");
    assert!(
        tree.contains(".ActiveState") && tree.contains("\"active\""),
        "{tree}"
    );
}

#[test]
fn typed_client() {
    let lab = Lab::new();
    let mut client = lab.bus();
    assert!(
        client
            .run_job(Verb::Start, "idle.service", JobMode::Replace, None)
            .unwrap()
            .is_done()
    );
    let end = client
        .run_job(Verb::Start, "broken.service", JobMode::Replace, None)
        .unwrap();
    assert_eq!(end.as_str(), "failed");
    let error = client
        .run_job(Verb::Start, "nosuch.service", JobMode::Replace, None)
        .unwrap_err();
    assert!(error.is_no_such_unit(), "{error}");
    let path = client.call(systemd1::unit_by_pid(0)).unwrap();
    assert_eq!(path.unit_name().as_deref(), Some("ssh.service"));
    assert_eq!(
        client.call(systemd1::delegate_self()).unwrap(),
        "/system.slice/ssh.service"
    );
    let scope = [
        systemd1::TransientProperty::pids(&[std::process::id()]),
        systemd1::TransientProperty::slice("machine.slice"),
        systemd1::TransientProperty::delegate(true),
    ];
    let call = systemd1::start_transient_unit("docker-1.scope", JobMode::Fail, &scope);
    assert!(client.run(call, None).unwrap().is_done());
    assert!(lab.engine.saw("machine.slice"));
    let units = client
        .call(systemd1::list_units_by_names(&[
            "ssh.service",
            "nosuch.service",
        ]))
        .unwrap();
    assert_eq!(units[0].active_state, "active");
    assert_eq!(units[1].load_state, "not-found");
    let processes = client
        .call(systemd1::unit_processes("ssh.service"))
        .unwrap();
    assert_eq!(processes[0].control_group, "/system.slice/ssh.service/sub");
    assert_eq!(client.call(systemd1::list_unit_files()).unwrap().len(), 2);
    // Private peers get the manager's signals without asking.
    let mut private = lab.private();
    assert!(
        private
            .run_job(Verb::Stop, "idle.service", JobMode::Replace, None)
            .unwrap()
            .is_done()
    );
}

#[test]
fn property_signals_come_before_the_end_of_the_job() {
    let lab = Lab::new();
    let mut watcher = lab.bus();
    watcher
        .call(bus::add_match(systemd1::MATCH_MANAGER))
        .unwrap();
    watcher
        .call(bus::add_match(systemd1::MATCH_PROPERTIES))
        .unwrap();
    watcher.subscribe().unwrap();
    // The level is raised at the end of the turn; a round trip puts that behind us.
    watcher.call(systemd1::list_jobs()).unwrap();
    let mut other = lab.bus();
    other
        .run_job(Verb::Start, "idle.service", JobMode::Replace, None)
        .unwrap();
    let mut became_active = false;
    loop {
        let message = watcher
            .next_signal(Some(Duration::from_secs(10)))
            .unwrap()
            .expect("signals come");
        match Event::from_message(&message) {
            Some(Event::Changed { unit, changed, .. }) if unit == "idle.service" => {
                became_active |= changed.str("ActiveState") == Some("active");
            }
            Some(Event::JobRemoved { unit, .. }) if unit == "idle.service" => break,
            _ => {}
        }
    }
    assert!(became_active);
}

#[test]
fn names_are_routed_between_clients() {
    let lab = Lab::new();
    let mut service = lab.bus();
    let mut client = lab.bus();
    assert_eq!(
        service
            .call(bus::request_name("com.coreos.update1", bus::DO_NOT_QUEUE))
            .unwrap(),
        bus::PRIMARY_OWNER
    );
    assert!(
        client
            .call(bus::request_name("org.freedesktop.systemd1", 0))
            .is_err()
    );
    let server = std::thread::spawn(move || {
        let call = service
            .next_call(Some(Duration::from_secs(10)))
            .unwrap()
            .expect("a call comes");
        assert!(call.sender.starts_with(":1."));
        let answer = call.reply(vec![dbus_api::wire::Value::str("idle")]);
        service.send(answer).unwrap();
        service
            .next_call(Some(Duration::from_secs(10)))
            .unwrap()
            .expect("another call comes");
    });
    let status = |member: &str| {
        dbus_api::Call::new(
            "com.coreos.update1",
            "/com/coreos/update1",
            "com.coreos.update1.Manager",
            member,
            vec![],
            |body| body.first()?.as_str().map(str::to_owned),
        )
    };
    assert_eq!(client.call(status("GetStatus")).unwrap(), "idle");
    // The service ends with the second call open.
    let gone = client.call(status("Again")).unwrap_err();
    assert_eq!(gone.name(), Some("org.freedesktop.DBus.Error.NoReply"));
    server.join().unwrap();
    let nobody = client.call(status("GetStatus")).unwrap_err();
    assert!(nobody.is_unsupported(), "{nobody}");
}

#[test]
fn power_and_inhibitors() {
    let lab = Lab::new();
    let mut client = lab.bus();
    client.call(login1::reboot()).unwrap();
    assert!(lab.engine.saw("Power { action: Reboot, immediate: false"));
    assert_eq!(
        lab.inside(&["systemctl", "poweroff", "-f"]).status.code(),
        Some(0)
    );
    assert!(lab.engine.saw("Power { action: PowerOff, immediate: true"));
    // Debian's tool takes a lock, with the descriptor passed to it, and gives it back at its end.
    let inside = lab.output("systemd-inhibit --what=shutdown --why=work --mode=block busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager Halt b false");
    assert!(inside.contains("Operation inhibited by"), "{inside}");
    let list = lab.output("systemd-inhibit --list --no-legend");
    assert_eq!(list.trim(), "");
    client.call(login1::halt()).unwrap();
    assert!(lab.engine.saw("Power { action: Halt"));
}

#[test]
fn engine_and_daemon_may_go_and_come_back() {
    let mut lab = Lab::new();
    let mut on_bus = lab.bus();
    let mut private = lab.private();
    lab.engine.hang_up();
    // Private peers are let go, as at a re-execution; the bus stays and asks the new PID 1.
    let end = private.next_signal(Some(Duration::from_secs(10)));
    assert!(matches!(end, Err(dbus_api::Error::Closed)), "{end:?}");
    let state = on_bus.unit_text("ssh.service", "Unit", "ActiveState");
    assert_eq!(state.unwrap(), "active");
    lab.busd.kill().unwrap();
    lab.busd.wait().unwrap();
    assert!(
        on_bus
            .call(bus::list_names())
            .unwrap_err()
            .is_disconnected()
    );
    let _ = std::fs::remove_file(lab.run.path().join("dbus/system_bus_socket"));
    lab.busd = spawn_busd(lab.run.path());
    assert!(
        lab.bus()
            .run_job(Verb::Restart, "idle.service", JobMode::Replace, None)
            .unwrap()
            .is_done()
    );
}

#[test]
fn hostile_clients_do_not_disturb() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    let lab = Lab::new();
    let path = lab.run.path().join("dbus/system_bus_socket");
    let login = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
    let mut huge = login.to_vec();
    huge.extend_from_slice(b"l\x01\x00\x01\xff\xff\xff\x7f\x01\x00\x00\x00\xff\xff\xff\x7f");
    let mut no_hello = login.to_vec();
    no_hello.extend_from_slice(&{
        let mut call = systemd1::list_units().message().clone();
        call.serial = 1;
        call.encode()
    });
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &huge,
        &no_hello,
        &[&login[..], &[0_u8; 64]].concat(),
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // The connection is ended, not left hanging.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    // One that never reads cannot make the daemon grow without bound, or hold up others.
    let mut deaf = UnixStream::connect(&path).unwrap();
    deaf.write_all(login).unwrap();
    let mut hello = bus::hello().message().clone();
    hello.serial = 1;
    deaf.write_all(&hello.encode()).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut call = systemd1::unit_properties("ssh.service").message().clone();
    for serial in 2..20_000 {
        call.serial = serial;
        if deaf.write_all(&call.encode()).is_err() {
            break;
        }
    }
    assert_eq!(
        lab.bus()
            .unit_text("ssh.service", "Unit", "ActiveState")
            .unwrap(),
        "active"
    );
}
