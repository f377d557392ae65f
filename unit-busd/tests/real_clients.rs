//! Debian's own `systemctl`, `hostnamectl`, `busctl`, `systemd-inhibit` and `dbus-send` against unit-busd, with a scripted
//! engine in PID 1's place.
//!
//! The engine is the serving side of the control socket only; unit-busd is the real program. Clients run in a mount
//! namespace of their own where `/run` is the test's directory, so this needs root.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod engine;
mod lab;

use dbus_api::login1;
use lab::Lab;

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
