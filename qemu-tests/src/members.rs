//! The machines of the examples: three etcd members that run fleet, what fleet says of its units, the bare-metal worker.

use std::time::Duration;

use anyhow::Result;

use crate::{Machine, World, examples};

/// Three machines of `examples/etcd-member.yml`, up to ssh.
///
/// # Errors
/// Where one does not come.
pub fn three(w: &World) -> Result<Vec<Machine>> {
    let mut machines = Vec::new();
    for n in 1..=3 {
        let mut spec = w.spec(n)?;
        spec.seed = Some(w.seed(n, &examples::etcd_member(n, 3)));
        machines.push(w.start(spec)?);
    }
    for m in &mut machines {
        m.wait_ssh(Duration::from_secs(240))?;
    }
    Ok(machines)
}

/// `unit, machine address` of units that run.
///
/// # Errors
/// Where fleetctl on `m` fails.
pub fn placed(m: &Machine) -> Result<Vec<(String, String)>> {
    let text = m.ssh("fleetctl list-units --full --no-legend --fields=unit,machine,sub")?;
    Ok(text
        .lines()
        .filter_map(|l| {
            let f: Vec<&str> = l.split_whitespace().collect();
            match f[..] {
                // A machine that is gone has no address; its units' last state lingers for a moment.
                [unit, machine, "running"] => {
                    Some((unit.to_string(), machine.split_once('/')?.1.to_string()))
                }
                _ => None,
            }
        })
        .collect())
}

/// Address of the machine that runs `unit`.
///
/// # Errors
/// As [`placed`].
pub fn place_of(m: &Machine, unit: &str) -> Result<Option<String>> {
    Ok(placed(m)?
        .into_iter()
        .find(|(u, _)| u == unit)
        .map(|(_, a)| a))
}

/// The machine of `examples/worker-bare-metal.yml`, with its second disk, blank.
///
/// # Errors
/// Where it does not come.
pub fn worker(w: &World) -> Result<Machine> {
    let mut spec = w.spec(7)?;
    spec.address = "10.0.2.27".into();
    spec.ssh_port = w.forward("10.0.2.27", 22)?;
    spec.more_disks = vec!["2G".into()];
    let mut seed = w.seed(7, examples::WORKER);
    seed.network_config = None;
    spec.seed = Some(seed);
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(240))?;
    Ok(m)
}

/// What is mounted for containers, and its file system: label, type, UUID.
pub const DATA_DISK: &str = "test \"$(findmnt -n -o SOURCE /var/lib/docker)\" = /dev/vdb && sudo blkid -p -o value -s LABEL -s TYPE -s UUID /dev/vdb";
