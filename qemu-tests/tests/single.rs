//! One machine: the elasticsearch example, Debian's own clients, kills of our daemons (issue 2, shows 2, 6, 7).

use std::time::Duration;

use qemu_tests::process::wait_for;
use qemu_tests::world::http_get;
use qemu_tests::{World, examples};

/// 2014's user data, unmodified: container answers, unit is active and lists its processes.
#[test]
fn elasticsearch_example_runs_unmodified() -> anyhow::Result<()> {
    let w = World::new("es")?.with_registry()?;
    let m = w.boot(1, examples::ELASTICSEARCH)?;
    let port = w.forward(&m.spec.address, 9200)?;
    let body = wait_for("port 9200", w.accel.scale(Duration::from_secs(180)), || {
        Ok(http_get(port).ok())
    })?;
    assert!(body.contains("flotilla-web"), "{body}");
    assert_eq!(m.ssh("systemctl is-active es.service")?.trim(), "active");
    let status = m.ssh("systemctl status --no-pager es.service")?;
    assert!(status.contains("/web 9200"), "{status}");
    let ps = m.ssh("docker ps")?;
    assert!(
        ps.contains("dockerfile/elasticsearch") && ps.contains("9200->9200/tcp"),
        "{ps}"
    );
    Ok(())
}

const SERVICE: &str = "[Unit]\nDescription=a test service\n\n[Service]\nExecStart=/bin/sh -c 'echo started-here; exec sleep 100000'\nExecReload=/bin/true\n\n[Install]\nWantedBy=multi-user.target\n";

/// Debian's unmodified systemctl and journalctl, as root, against a machine of ours.
#[test]
fn debians_own_systemctl_and_journalctl_work() -> anyhow::Result<()> {
    let w = World::new("deb")?.with_registry()?;
    let m = w.boot(1, "#cloud-config\n")?;
    m.upload(
        "debian.tar",
        &qemu_tests::world::debian_programs(&["systemctl", "journalctl"])?,
    )?;
    m.upload("t.service", SERVICE.as_bytes())?;
    m.ssh(
        "mkdir debian && tar -xf debian.tar -C debian && sudo cp t.service /etc/systemd/system/",
    )?;
    let sc = |args: &str| m.try_ssh(&format!("sudo debian/run systemctl --no-pager {args}"));
    let text = |args: &str| -> anyhow::Result<(i32, String)> {
        let o = sc(args)?;
        Ok((
            o.status.code().unwrap_or(-1),
            format!(
                "{}{}",
                String::from_utf8_lossy(&o.stdout),
                String::from_utf8_lossy(&o.stderr)
            ),
        ))
    };
    let table: &[(&str, i32, &str)] = &[
        ("daemon-reload", 0, ""),
        ("is-active t.service", 3, "inactive"),
        ("start t.service", 0, ""),
        ("is-active t.service", 0, "active"),
        ("status t.service", 0, "Active: active (running)"),
        ("status t.service", 0, "sleep 100000"),
        (
            "show -p Id -p ActiveState -p MainPID t.service",
            0,
            "ActiveState=active",
        ),
        ("cat t.service", 0, "ExecStart=/bin/sh -c"),
        ("is-enabled t.service", 1, "disabled"),
        ("enable t.service", 0, "multi-user.target.wants/t.service"),
        ("is-enabled t.service", 0, "enabled"),
        ("disable t.service", 0, ""),
        ("list-units --all", 0, "t.service"),
        ("list-units --type=service", 0, "a test service"),
        ("restart t.service", 0, ""),
        ("stop t.service", 0, ""),
        ("is-active t.service", 3, "inactive"),
        ("status nosuch.service", 4, "could not be found"),
        ("start nosuch.service", 5, "not found"),
        ("list-jobs", 0, ""),
    ];
    for (args, code, part) in table {
        let (got, said) = text(args)?;
        assert_eq!(got, *code, "systemctl {args}: {said}");
        assert!(
            said.contains(part),
            "systemctl {args}: want {part:?} in {said}"
        );
    }
    let log = m.ssh("sudo debian/run journalctl --no-pager -u t.service")?;
    assert!(
        log.contains("started-here") && log.contains("Started"),
        "{log}"
    );
    let json = m.ssh("sudo debian/run journalctl --no-pager -u t.service -o json -n 1")?;
    assert!(
        serde_json::from_str::<serde_json::Value>(&json)?
            .get("MESSAGE")
            .is_some(),
        "{json}"
    );
    m.ssh("sudo debian/run journalctl --verify")?;
    // An image from Debian's docker-registry; a wrong name and an unreachable registry say what and where.
    assert!(
        m.ssh("sudo docker pull 10.0.2.2:5000/web && sudo docker images")?
            .contains("10.0.2.2:5000/web")
    );
    let missing = m.try_ssh("sudo docker pull 10.0.2.2:5000/nosuch")?;
    assert!(
        !missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("nosuch")
    );
    Ok(())
}

/// User core, of the group docker, needs no sudo: its commands run as root in dockerd's charge, with its own streams, in its
/// own control group. Whoever is not in the group is told so.
#[test]
fn users_of_the_group_docker_run_containers() -> anyhow::Result<()> {
    let w = World::new("core")?.with_registry()?;
    let m = w.boot(1, "#cloud-config\nusers:\n  - name: guest\n")?;
    m.ssh("docker pull 10.0.2.2:5000/busybox")?;
    let said = m.ssh("echo over stdin | docker run --rm -i -e WHO -v $HOME:/home:ro 10.0.2.2:5000/busybox sh -c 'cat; id -u; echo $WHO; tty; exit 5'; echo status=$?")?;
    assert_eq!(said, "over stdin\n0\n\nnot a tty\nstatus=5\n");
    let tty = m
        .ssh_command()
        .arg("-tt")
        .arg("docker run --rm -it 10.0.2.2:5000/busybox tty")
        .stdin(std::process::Stdio::null())
        .output()?;
    assert!(
        String::from_utf8_lossy(&tty.stdout).contains("/dev/pts/0"),
        "{tty:?}"
    );
    let said = m.ssh("docker run --rm 10.0.2.2:5000/busybox /bin/nosuch 2>/dev/null; echo $?; cd /tmp && docker run -d --name nap 10.0.2.2:5000/busybox sleep 1000 >/dev/null && docker ps --format '{{.Names}}'; timeout 2 docker logs -f nap; echo $?; pgrep -cx docker; docker kill nap")?;
    assert_eq!(said, "127\nnap\n124\n0\nnap\n");
    // A container of a session has a scope of its own, not dockerd's.
    m.ssh("docker start nap >/dev/null; systemctl list-units --no-pager --plain 'container-*.scope' | grep -q running; docker rm -f nap")?;
    let refused = m.try_ssh("cd / && sudo -u guest docker run 10.0.2.2:5000/busybox true")?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(125) && why.contains("group docker") && why.contains("hint:"),
        "{why}"
    );
    Ok(())
}

/// kill -9 of each daemon: it is back by itself, no service or container restarted, no line logged before is lost.
#[test]
fn killed_daemons_come_back_and_nothing_else_restarts() -> anyhow::Result<()> {
    let w = World::new("kill")?.with_registry()?;
    let user_data = "#cloud-config\ncoreos:\n  etcd2:\n    name: node1\n  units:\n    - name: etcd2.service\n      command: start\n    - name: fleet.service\n      command: start\n    - name: docker.service\n      command: start\n    - name: web.service\n      command: start\n      content: |\n        [Unit]\n        After=docker.service\n        Requires=docker.service\n\n        [Service]\n        TimeoutStartSec=0\n        ExecStartPre=/usr/bin/docker pull 10.0.2.2:5000/web\n        ExecStart=/usr/bin/docker run --rm --name web -p 80:8080 10.0.2.2:5000/web\n";
    let m = w.boot(1, user_data)?;
    let port = w.forward(&m.spec.address, 80)?;
    wait_for(
        "the web container",
        w.accel.scale(Duration::from_secs(180)),
        || Ok(http_get(port).ok()),
    )?;
    m.wait_until(
        "fleet",
        Duration::from_secs(180),
        "fleetctl list-machines --no-legend | grep -q 10.0.2.11",
    )?;
    let main = |unit: &str| {
        m.ssh(&format!("systemctl show -p MainPID --value {unit}"))
            .map(|s| s.trim().to_string())
    };
    let container = m.ssh("docker inspect --format '{{.State.Pid}}' web")?;
    let web = main("web.service")?;
    for (unit, others) in [
        (
            "unit-busd.service",
            "systemd-journald.service systemd-networkd.service fleet.service etcd.service",
        ),
        (
            "systemd-journald.service",
            "unit-busd.service systemd-networkd.service fleet.service etcd.service",
        ),
        (
            "systemd-networkd.service",
            "unit-busd.service systemd-journald.service fleet.service etcd.service",
        ),
        (
            "fleet.service",
            "unit-busd.service systemd-journald.service systemd-networkd.service etcd.service",
        ),
        (
            "etcd.service",
            "unit-busd.service systemd-journald.service systemd-networkd.service fleet.service",
        ),
    ] {
        let before = main(unit)?;
        let others_before: Vec<String> =
            others.split(' ').map(main).collect::<anyhow::Result<_>>()?;
        m.ssh(&format!("logger -t kill-test 'before the kill of {unit}' || echo '<6>kill-test: before the kill of {unit}' | sudo tee /dev/kmsg"))?;
        m.ssh(&format!("sudo kill -9 {before}"))?;
        let after = m.wait_until(unit, Duration::from_secs(60), &format!("p=$(systemctl show -p MainPID --value {unit}); test \"$p\" != {before} && test \"$p\" != 0 && systemctl is-active {unit} >/dev/null && echo $p"))?;
        assert_ne!(after.trim(), before, "{unit}");
        let others_after: Vec<String> =
            others.split(' ').map(main).collect::<anyhow::Result<_>>()?;
        assert_eq!(
            others_before, others_after,
            "killing {unit} restarted another of {others}"
        );
        assert_eq!(
            main("web.service")?,
            web,
            "killing {unit} restarted the web unit"
        );
        assert!(http_get(port)?.contains("flotilla-web"), "after {unit}");
        m.wait_until(
            "the line before the kill",
            Duration::from_secs(30),
            &format!("sudo journalctl --no-pager -b | grep 'before the kill of {unit}'"),
        )?;
    }
    // The monitor of the unit's container: container and unit go on, a new monitor is there.
    let monitor = m.ssh("pgrep -f container-monitor | head -1")?;
    m.ssh(&format!("sudo kill -9 {}", monitor.trim()))?;
    m.wait_until(
        "a new monitor",
        Duration::from_secs(30),
        &format!("pgrep -f container-monitor | grep -vx {}", monitor.trim()),
    )?;
    assert_eq!(
        m.ssh("docker inspect --format '{{.State.Pid}}' web")?,
        container
    );
    assert_eq!(main("web.service")?, web);
    assert!(http_get(port)?.contains("flotilla-web"));
    m.ssh("sudo systemctl stop web.service && ! docker ps | grep -w web")?;
    Ok(())
}
