//! Three machines and what operators do to them: drain, rolling replace, a partition, a reboot (issue 3, *Shows*).

use std::time::Duration;

use anyhow::{Context, ensure};
use qemu_tests::members::{place_of, placed, three};
use qemu_tests::process::wait_for;
use qemu_tests::{Machine, World};

const MINUTE: Duration = Duration::from_secs(60);

const SLEEPER: &str = "[Unit]\nDescription=first text\n\n[Service]\nExecStart=/bin/sleep 1000000\n\n[X-Fleet]\nConflicts=sleeper@*\n";
/// Runs on one machine at most, whatever happens to the network.
const ONCE: &str = "[Service]\nExecStart=/bin/sh -c 'echo it-runs-here; exec sleep 1000000'\n\n[X-Fleet]\nPartition=stop\n";

fn by_address<'a>(machines: &'a [Machine], address: &str) -> anyhow::Result<&'a Machine> {
    machines
        .iter()
        .find(|m| m.spec.address == address)
        .with_context(|| format!("no machine at {address}"))
}

fn where_is(m: &Machine, unit: &str) -> anyhow::Result<String> {
    wait_for(unit, 2 * MINUTE, || place_of(m, unit))
}

#[test]
fn drain_replace_partition_and_reboot_of_three_machines() -> anyhow::Result<()> {
    let w = World::new("f3")?;
    let mut machines = three(&w)?;
    machines[0].wait_until(
        "three machines",
        5 * MINUTE,
        "test $(fleetctl list-machines --no-legend | wc -l) = 3",
    )?;
    machines[0].upload("sleeper@.service", SLEEPER.as_bytes())?;
    machines[0].upload("once.service", ONCE.as_bytes())?;
    machines[0].wait_until(
        "fleetctl",
        2 * MINUTE,
        "fleetctl start --wait-active sleeper@1 once.service",
    )?;
    logs(&machines)?;
    drain(&machines)?;
    replace(&machines)?;
    partition(&w, &machines)?;
    reboot(&mut machines)
}

/// A unit's log is read on any machine, though it is in one machine's journal only.
fn logs(machines: &[Machine]) -> anyhow::Result<()> {
    let log = "curl -sS --unix-socket /run/fleet.sock http://localhost/flotilla/v1/units/once.service/journal";
    for m in machines {
        m.wait_until("the log", MINUTE, &format!("{log} | grep it-runs-here"))?;
    }
    Ok(())
}

/// Every unit that can leaves the machine and nothing new comes, until it is uncordoned.
fn drain(machines: &[Machine]) -> anyhow::Result<()> {
    let m = &machines[0];
    let old = where_is(m, "sleeper@1.service")?;
    let id = by_address(machines, &old)?.ssh("cat /etc/machine-id")?;
    let said = m.ssh(&format!("fleetctl drain {}", id.trim()))?;
    let new = where_is(m, "sleeper@1.service")?;
    ensure!(new != old, "still on {old}: {said}");
    ensure!(
        placed(m)?.iter().all(|(_, at)| *at != old),
        "something is left on {old}"
    );
    let why = m.ssh("fleetctl explain sleeper@1")?;
    ensure!(
        why.contains("drain") || why.contains("cordon"),
        "the explanation does not name the drain: {why}"
    );
    m.ssh(&format!("fleetctl uncordon {}", id.trim()))?;
    m.wait_until(
        "a second instance, now that there is room",
        2 * MINUTE,
        "fleetctl start --wait-active sleeper@2",
    )?;
    ensure!(where_is(m, "sleeper@2.service")? == old);
    Ok(())
}

/// New text for both instances, one after the other; each on its machine, as a new process.
fn replace(machines: &[Machine]) -> anyhow::Result<()> {
    let m = &machines[0];
    let mut before = Vec::new();
    for unit in ["sleeper@1.service", "sleeper@2.service"] {
        let at = where_is(m, unit)?;
        let pid =
            by_address(machines, &at)?.ssh(&format!("systemctl show -p MainPID --value {unit}"))?;
        before.push((unit, at, pid));
    }
    m.upload(
        "sleeper@.service",
        SLEEPER.replace("first text", "second text").as_bytes(),
    )?;
    m.ssh("fleetctl replace --max-unavailable 1 sleeper@.service")?;
    for (unit, _, pid) in before {
        let text = m.ssh(&format!("fleetctl cat {unit}"))?;
        ensure!(text.contains("second text"), "{text}");
        let at = where_is(m, unit)?;
        let now = by_address(machines, &at)?
            .ssh(&format!("systemctl show -p MainPID -p Description {unit}"))?;
        ensure!(
            now.contains("second text") && !now.contains(&format!("MainPID={pid}")),
            "{unit} was not replaced: {now}"
        );
    }
    // A global unit takes its new text over machine by machine.
    let global = |text: &str| {
        format!(
            "[Unit]\nDescription={text}\n\n[Service]\nExecStart=/bin/sleep 1000000\n\n[X-Fleet]\nGlobal=true\n"
        )
    };
    m.upload("everywhere.service", global("first text").as_bytes())?;
    m.ssh("fleetctl start --wait-active everywhere.service")?;
    m.wait_until(
        "a global unit on all machines",
        MINUTE,
        "test $(fleetctl list-units --no-legend --fields unit,active | grep -c '^everywhere.service.*active') = 3",
    )?;
    m.upload("everywhere.service", global("second text").as_bytes())?;
    let said = m.ssh("fleetctl replace everywhere.service")?;
    ensure!(said.matches("replaced on").count() == 3, "{said}");
    for m in machines {
        let now = m.ssh("systemctl show -p Description -p ActiveState everywhere.service")?;
        ensure!(
            now.contains("second text") && now.contains("=active"),
            "{now}"
        );
    }
    Ok(())
}

/// A machine is cut off: its `Partition=stop` unit has ended there before it starts elsewhere.
fn partition(w: &World, machines: &[Machine]) -> anyhow::Result<()> {
    let at = where_is(&machines[0], "once.service")?;
    let cut = by_address(machines, &at)?;
    let other = machines
        .iter()
        .find(|m| m.spec.address != at)
        .context("three machines")?;
    cut.monitor("set_link n0 off")?;
    let new = wait_for("once.service elsewhere", w.accel.scale(4 * MINUTE), || {
        Ok(place_of(other, "once.service")
            .unwrap_or(None)
            .filter(|a| *a != at))
    });
    cut.monitor("set_link n0 on")?;
    let new = new?;
    let stamp = |m: &Machine, grep: &str| -> anyhow::Result<f64> {
        let script = format!(
            "sudo journalctl -b -u once.service --no-pager -o short-unix | grep '{grep}' | tail -n 1"
        );
        let line = m.wait_until("the journal", 2 * MINUTE, &format!("{script} | grep ."))?;
        line.split_whitespace()
            .next()
            .and_then(|t| t.parse().ok())
            .with_context(|| format!("no time in {line:?}"))
    };
    let started = stamp(by_address(machines, &new)?, "it-runs-here")?;
    let stopped = stamp(cut, "Stopped")?;
    eprintln!(
        "once.service stopped on the machine that was cut off {:.1} s before it started elsewhere",
        started - stopped
    );
    ensure!(
        stopped <= started,
        "ran twice for {:.1} s",
        stopped - started
    );
    other.wait_until(
        "three machines again",
        4 * MINUTE,
        "test $(fleetctl list-machines --no-legend | wc -l) = 3",
    )?;
    ensure!(
        cut.ssh("systemctl is-active once.service || true")?.trim() != "active",
        "it runs on both"
    );
    Ok(())
}

/// An orderly reboot: the machine hands its units over and comes back as the machine it was.
fn reboot(machines: &mut [Machine]) -> anyhow::Result<()> {
    let at = where_is(&machines[0], "sleeper@1.service")?;
    let m = by_address(machines, &at)?;
    let id = m.ssh("cat /etc/machine-id")?;
    let boot = m.ssh("cat /proc/sys/kernel/random/boot_id")?;
    let other = machines
        .iter()
        .find(|m| m.spec.address != at)
        .context("three machines")?;
    let _ = m.try_ssh("sudo systemctl reboot");
    wait_for("sleeper@1 elsewhere", 4 * MINUTE, || {
        Ok(place_of(other, "sleeper@1.service")
            .unwrap_or(None)
            .filter(|a| *a != at))
    })?;
    m.wait_until(
        "the next boot",
        4 * MINUTE,
        &format!(
            "test \"$(cat /proc/sys/kernel/random/boot_id)\" != '{}'",
            boot.trim()
        ),
    )?;
    other.wait_until(
        "the machine in the cluster again",
        4 * MINUTE,
        &format!(
            "fleetctl list-machines --full --no-legend | grep {}",
            id.trim()
        ),
    )?;
    Ok(())
}
