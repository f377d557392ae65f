//! `cargo xtask bench boot`: our boot beside a minimal Debian with systemd, same kernel, same QEMU, same call.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qemu_tests::accel::Accel;
use qemu_tests::{Debian, World, examples};

use crate::{image, setup};

/// One boot's figures; times in seconds.
#[derive(Debug, Default)]
struct Figures {
    /// Kernel start to PID 1 of the real root.
    init: f64,
    /// Kernel start to multi-user.target.
    multi_user: f64,
    /// Kernel start to a command of the first ssh session, by the guest's clock.
    ssh: f64,
    /// PSS of PID 1, kB.
    pid1_kb: u64,
    /// PSS of every process that is not of the measuring session, kB.
    user_space_kb: u64,
    /// Number of those.
    processes: u64,
}

/// Boots each system `runs` times and prints the table.
pub fn boot(runs: u8) -> Result<()> {
    setup::install(&setup::all())?;
    image::build(None, false)?;
    let peer = PathBuf::from(image::peer()?);
    let w = World::new("bench")?;
    println!(
        "accelerator: {}",
        if w.accel == Accel::Kvm {
            "KVM"
        } else {
            "TCG (emulation)"
        }
    );
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let peer = Debian::prepare(&peer, &w)?;
    for run in 1..=runs {
        // Interleaved, so that a noisy host is noisy for both.
        ours.push(flotilla(&w, run)?);
        theirs.push(debian(&peer, &w)?);
    }
    let unit = fleet_unit(&w)?;
    table(&ours, &theirs)?;
    println!("kernel start to a fleet unit running (single member, etcd included): {unit:.1} s");
    println!("\nsizes of the image, bytes:");
    for f in ["vmlinuz", "initrd", "usr.img", "flotilla.qcow2"] {
        println!("  {f:<16} {:>12}", fs::metadata(w.image.file(f))?.len());
    }
    Ok(())
}

/// `sudo` is empty where the session is root's. The measuring session's own processes are left out by their cgroup.
fn measure(run: impl Fn(&str) -> Result<String>) -> Result<Figures> {
    let stamp = |unit: &str, property: &str| -> Result<f64> {
        let text = run(&format!("systemctl show -p {property} --value {unit}"))?;
        Ok(text
            .trim()
            .parse::<f64>()
            .with_context(|| format!("{property}: {text:?}"))?
            / 1e6)
    };
    // Its own process list: pid, PSS; sshd and its children belong to the measurement. Kernel threads have no PSS. Only
    // the shell's own words: a minimal Debian has no awk.
    let list = run(
        "for d in /proc/[0-9]*; do c=$(cat $d/cgroup 2>/dev/null); case $c in *ssh*|*session*) continue;; esac; \
         while read key size unit; do [ $key = Pss: ] && echo ${d#/proc/} $size; done 2>/dev/null <$d/smaps_rollup; done; true",
    )?;
    let rows: Vec<(u64, u64)> = list
        .lines()
        .filter_map(|l| {
            let (p, s) = l.split_once(' ')?;
            Some((p.parse().ok()?, s.trim().parse().ok()?))
        })
        .collect();
    Ok(Figures {
        init: stamp("", "UserspaceTimestampMonotonic")?,
        multi_user: stamp("multi-user.target", "ActiveEnterTimestampMonotonic")?,
        ssh: 0.0,
        pid1_kb: rows.iter().find(|(p, _)| *p == 1).map_or(0, |(_, s)| *s),
        user_space_kb: rows.iter().map(|(_, s)| s).sum(),
        processes: rows.len() as u64,
    })
}

fn flotilla(w: &World, run: u8) -> Result<Figures> {
    let mut spec = w.spec(run)?;
    spec.name = format!("ours{run}");
    spec.seed = Some(w.seed(run, "#cloud-config\n"));
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    let ssh = uptime(&m.ssh(UPTIME)?)?;
    m.wait_until(
        "multi-user.target",
        Duration::from_secs(120),
        "systemctl is-active multi-user.target",
    )?;
    let f = measure(|s| m.ssh(&format!("sudo sh -c '{}'", s.replace('\'', r"'\''"))))?;
    Ok(Figures { ssh, ..f })
}

/// What a session says of the time since the kernel started.
const UPTIME: &str = "cut -d' ' -f1 /proc/uptime";

fn uptime(said: &str) -> Result<f64> {
    said.trim()
        .parse()
        .with_context(|| format!("uptime: {said:?}"))
}

/// Seconds from kernel start to a unit that fleet started: user data brings etcd, fleet, the unit's file and a oneshot
/// that gives it to fleetctl as soon as fleet answers.
fn fleet_unit(w: &World) -> Result<f64> {
    let mut user_data = examples::etcd_member(1, 1).replace("10.0.2.11", "10.0.2.18");
    user_data += "    - name: give.service\n      command: start\n      content: |\n        [Unit]\n        After=fleet.service\n\n        [Service]\n        Type=oneshot\n        ExecStart=/bin/sh -c 'until fleetctl list-machines --no-legend | grep -q .; do sleep 0.2; done; exec fleetctl start --no-block /opt/t.service'\nwrite_files:\n  - path: /opt/t.service\n    content: |\n      [Service]\n      ExecStart=/bin/sleep 1000000\n";
    let mut spec = w.spec(8)?;
    spec.seed = Some(w.seed(8, &user_data));
    let mut m = w.start(spec)?;
    m.wait_ssh(Duration::from_secs(180))?;
    m.wait_until(
        "the unit",
        Duration::from_secs(240),
        "systemctl is-active t.service",
    )?;
    let stamp = m.ssh("systemctl show -p ActiveEnterTimestampMonotonic --value t.service")?;
    Ok(uptime(&stamp)? / 1e6)
}

/// The peer's boot.
fn debian(peer: &Debian, w: &World) -> Result<Figures> {
    let m = peer.boot(w)?;
    let ssh = uptime(&m.ssh(UPTIME)?)?;
    m.wait_until(
        "multi-user.target",
        Duration::from_secs(120),
        "systemctl is-active multi-user.target",
    )?;
    let f = measure(|s| m.ssh(s))?;
    Ok(Figures { ssh, ..f })
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn table(ours: &[Figures], theirs: &[Figures]) -> Result<()> {
    let head = format!("median of {}", ours.len());
    println!(
        "{head:<44} {:>10} {:>10} {:>8}",
        "Flotilla", "Debian", "ratio"
    );
    type Pick = fn(&Figures) -> f64;
    let rows: [(&str, Pick); 6] = [
        ("kernel start to init, s", |f| f.init),
        ("kernel start to multi-user.target, s", |f| f.multi_user),
        ("kernel start to ssh answers, s", |f| f.ssh),
        ("PID 1, kB PSS", |f| f.pid1_kb as f64),
        ("user space without ssh, kB PSS", |f| f.user_space_kb as f64),
        ("processes", |f| f.processes as f64),
    ];
    for (name, pick) in rows {
        let (a, b) = (
            median(ours.iter().map(pick).collect()),
            median(theirs.iter().map(pick).collect()),
        );
        if a <= 0.0 || b <= 0.0 {
            bail!("{name}: nothing was measured (Flotilla {a}, Debian {b})");
        }
        println!("{name:<44} {a:>10.1} {b:>10.1} {:>8.2}", a / b);
    }
    Ok(())
}
