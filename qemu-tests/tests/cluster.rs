//! Three machines from `examples/etcd-member.yml`: etcd, fleet, sidekicks, conflicts, the overlay, a machine's death
//! (issue 2, show 3).

use std::time::{Duration, Instant};

use qemu_tests::members::{DATA_DISK, place_of, placed, three, worker};
use qemu_tests::process::wait_for;
use qemu_tests::world::http_get;
use qemu_tests::{Machine, World, examples};

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn three_machines_run_units_side_by_side_and_survive_one() -> anyhow::Result<()> {
    let w = World::new("c3")?.with_registry()?;
    let mut machines = three(&w)?;
    let first = &machines[0];
    first.wait_until(
        "three healthy members",
        5 * MINUTES,
        "etcdctl cluster-health | grep -c '^member .* is healthy' | grep -x 3",
    )?;
    first.wait_until(
        "three machines",
        3 * MINUTES,
        "test $(fleetctl list-machines --no-legend | wc -l) = 3",
    )?;
    first.upload("web@.service", examples::WEB.as_bytes())?;
    first.upload("web-announce@.service", examples::WEB_ANNOUNCE.as_bytes())?;
    first.wait_until(
        "fleetctl",
        MINUTES,
        "fleetctl submit web@.service web-announce@.service",
    )?;
    first.wait_until(
        "fleetctl",
        MINUTES,
        "fleetctl start --no-block web@1 web@2 web-announce@1 web-announce@2",
    )?;
    let limit = w.accel.scale(5 * MINUTES);
    wait_for("two webs and two sidekicks", limit, || {
        Ok((placed(first)?.len() == 4).then_some(()))
    })?;

    // Sidekicks run beside their webs; conflicting instances never share a machine.
    let (web1, web2) = (
        place_of(first, "web@1.service")?,
        place_of(first, "web@2.service")?,
    );
    assert_eq!(place_of(first, "web-announce@1.service")?, web1);
    assert_eq!(place_of(first, "web-announce@2.service")?, web2);
    assert_ne!(web1, web2);
    let announced = first.wait_until(
        "the announcement",
        2 * MINUTES,
        "etcdctl get /services/web/1",
    )?;
    assert!(
        announced.contains(&web1.clone().expect("placed")),
        "{announced}"
    );

    // Of four, one waits, and the leader says why.
    first.wait_until("fleetctl", MINUTES, "fleetctl start --no-block web@3 web@4")?;
    wait_for("the third web", limit, || {
        Ok((placed(first)?
            .iter()
            .filter(|(u, _)| u.starts_with("web@"))
            .count()
            == 3)
            .then_some(()))
    })?;
    let why = machines
        .iter()
        .map(|m| m.ssh("sudo journalctl -u fleet.service --no-pager | grep -iE 'web@[34].*conflict' || true"))
        .collect::<anyhow::Result<Vec<String>>>()?
        .join("");
    assert!(
        why.contains("web@"),
        "no leader's log says why one web waits"
    );
    first.wait_until("fleetctl", MINUTES, "fleetctl destroy web@3 web@4")?;

    // A container on one machine reaches one on another by its own address.
    let by_address = |a: &Option<String>| {
        machines
            .iter()
            .find(|m| Some(&m.spec.address) == a.as_ref())
            .expect("one of ours")
    };
    let (m1, m2) = (by_address(&web1), by_address(&web2));
    let address = m2.ssh("docker inspect --format '{{.NetworkSettings.IPAddress}}' web-2")?;
    assert!(address.starts_with("10.1."), "{address}");
    m1.wait_until(
        "a container of the other machine",
        MINUTES,
        &format!("curl -sf --max-time 5 http://{}:8080/", address.trim()),
    )?;
    let pid = m1.ssh("docker inspect --format '{{.State.Pid}}' web-1")?;
    m1.ssh(&format!(
        "sudo nsenter -t {} -n curl -sf --max-time 5 http://{}:8080/",
        pid.trim(),
        address.trim()
    ))?;

    // The machine of web@1 dies: its units run on the free one within the lease's time + 5 s.
    let dead = machines
        .iter()
        .position(|m| Some(&m.spec.address) == web1.as_ref())
        .expect("one of ours");
    machines[dead].kill();
    let killed = Instant::now();
    let alive = &machines[(dead + 1) % 3];
    let new = wait_for("web@1 elsewhere", Duration::from_secs(120), || {
        Ok(place_of(alive, "web@1.service")
            .unwrap_or(None)
            .filter(|a| Some(a) != web1.as_ref()))
    })?;
    let moved = killed.elapsed();
    assert_ne!(Some(&new), web2.as_ref(), "web@1 conflicts with web@2");
    eprintln!("moved within {:.1} s of the power cut", moved.as_secs_f32());
    let wanted = w.accel.scale(Duration::from_secs(2 * (10 + 5)));
    assert!(
        moved <= wanted,
        "moved after {moved:?}, the lease's 10 s + 5 s ({wanted:?} under emulation)"
    );
    alive.wait_until(
        "a writable cluster",
        MINUTES,
        "etcdctl set /still/writable yes",
    )?;

    // It comes back and rejoins.
    machines[dead].boot()?;
    machines[dead].wait_ssh(4 * MINUTES)?;
    let alive = &machines[(dead + 1) % 3];
    alive.wait_until(
        "three machines again",
        4 * MINUTES,
        "test $(fleetctl list-machines --no-legend | wc -l) = 3",
    )?;
    alive.wait_until(
        "three healthy members again",
        4 * MINUTES,
        "etcdctl cluster-health | grep -c '^member .* is healthy' | grep -x 3",
    )?;
    let port = w.forward(&new, 80)?;
    assert!(http_get(port)?.contains("flotilla-web"));
    the_worker_joins(&w, &machines)
}

/// The worker beside the three (show 4): data disk, static address, proxy, fleet; and again after a reboot.
fn the_worker_joins(w: &World, members: &[Machine]) -> anyhow::Result<()> {
    let m = worker(w)?;
    let disk = m.wait_until("the data disk", 2 * MINUTES, DATA_DISK)?;
    assert!(disk.contains("data") && disk.contains("ext4"), "{disk}");
    assert!(m.ssh("ip -4 addr show dev eth0")?.contains("10.0.2.27/24"));
    m.wait_until(
        "the worker in fleet",
        3 * MINUTES,
        "fleetctl list-machines | grep 'rack=b2'",
    )?;
    m.wait_until(
        "etcdctl through the proxy",
        2 * MINUTES,
        "etcdctl get /still/writable | grep -x yes",
    )?;
    m.ssh("docker pull 10.0.2.2:5000/web && test -n \"$(sudo ls /var/lib/docker/layers)\"")?;
    assert!(m.ssh("cat /etc/hosts")?.contains("worker7") && m.ssh("id ops")?.contains("docker"));
    assert_eq!(
        m.ssh("stat -c '%a %U' /opt/bin/wait-for-disk")?,
        "755 root\n"
    );
    let before = m.ssh("cat /proc/sys/kernel/random/boot_id")?;
    let _ = m.try_ssh("sudo systemctl reboot");
    m.wait_until(
        "the next boot",
        4 * MINUTES,
        &format!(
            "test \"$(cat /proc/sys/kernel/random/boot_id)\" != '{}'",
            before.trim()
        ),
    )?;
    let again = m.wait_until("the data disk again", 2 * MINUTES, DATA_DISK)?;
    assert_eq!(again, disk, "formatted once only");
    // As on CoreOS, settings that user data writes are read at the next boot, unless it restarts systemd-sysctl.
    assert_eq!(m.ssh("sysctl -n fs.inotify.max_user_watches")?, "524288\n");
    assert!(m.ssh("docker images")?.contains("10.0.2.2:5000/web"));
    members[1].wait_until(
        "the worker in fleet again",
        3 * MINUTES,
        "fleetctl list-machines | grep 10.0.2.27",
    )?;
    Ok(())
}
