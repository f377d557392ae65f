//! `cargo xtask bench boot`: our boot beside a minimal Debian with systemd, same kernel, same QEMU, same call.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qemu_tests::accel::Accel;
use qemu_tests::machine;
use qemu_tests::process::{Owned, wait_for};
use qemu_tests::world::free_port;
use qemu_tests::{World, examples};

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
    let debian = Debian::prepare(&peer, &w)?;
    for run in 1..=runs {
        // Interleaved, so that a noisy host is noisy for both.
        ours.push(flotilla(&w, run)?);
        theirs.push(debian.boot(&w)?);
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

/// The peer's disk and initramfs.
struct Debian {
    dir: PathBuf,
    key: PathBuf,
}

impl Debian {
    /// Turns the unpacked packages into a bootable root: what the maintainer scripts would have done, and no more.
    fn prepare(peer: &Path, w: &World) -> Result<Debian> {
        let dir = w.dir.join("debian");
        let root = dir.join("root");
        fs::create_dir_all(&dir)?;
        sh(Command::new("cp").arg("-a").arg(peer).arg(&root))?;
        let modules = Path::new("build/cache/root/usr/lib/modules");
        sh(Command::new("cp")
            .arg("-a")
            .arg(modules)
            .arg(root.join("usr/lib/")))?;
        for d in [
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "root/.ssh",
            "etc/systemd/network",
            "etc/systemd/system/multi-user.target.wants",
            "var/lib",
            "var/log/journal",
            "etc/ssh",
        ] {
            fs::create_dir_all(root.join(d))?;
        }
        for f in ["passwd", "group"] {
            fs::copy(
                root.join(format!("usr/share/base-passwd/{f}.master")),
                root.join("etc").join(f),
            )?;
        }
        append(
            &root.join("etc/passwd"),
            "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\nmessagebus:x:102:102::/nonexistent:/usr/sbin/nologin\nsystemd-network:x:998:998::/:/usr/sbin/nologin\n",
        )?;
        append(
            &root.join("etc/group"),
            "messagebus:x:102:\nsystemd-network:x:998:\nsystemd-journal:x:997:\n",
        )?;
        fs::write(root.join("etc/machine-id"), "uninitialized\n")?;
        fs::write(root.join("etc/hostname"), "debian\n")?;
        fs::write(
            root.join("etc/systemd/network/lan.network"),
            "[Match]\nType=ether\n[Network]\nAddress=10.0.2.20/24\nGateway=10.0.2.2\n",
        )?;
        fs::write(
            root.join("etc/ssh/sshd_config"),
            "PermitRootLogin prohibit-password\nUsePAM no\n",
        )?;
        sh(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(root.join("etc/ssh/ssh_host_ed25519_key")))?;
        let key = w.dir.join("id_ed25519");
        fs::copy(
            key.with_extension("pub"),
            root.join("root/.ssh/authorized_keys"),
        )?;
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        for u in ["ssh.service", "systemd-networkd.service"] {
            symlink(format!("/usr/lib/systemd/system/{u}"), wants.join(u))?;
        }
        symlink(
            "/usr/lib/systemd/system/multi-user.target",
            root.join("etc/systemd/system/default.target"),
        )?;
        let disk = dir.join("disk.img");
        fs::File::create(&disk)?.set_len(2 << 30)?;
        sh(Command::new("/usr/sbin/mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-L",
                "debian",
                "-E",
                "root_owner=0:0",
                "-d",
            ])
            .arg(&root)
            .arg(&disk))?;
        let me = Debian { dir, key };
        me.initramfs()?;
        Ok(me)
    }

    /// busybox, the one module that the disk needs, and a switch to the disk.
    fn initramfs(&self) -> Result<()> {
        let top = self.dir.join("initramfs");
        for d in ["bin", "root", "proc", "dev"] {
            fs::create_dir_all(top.join(d))?;
        }
        fs::copy("/bin/busybox", top.join("bin/busybox"))
            .context("no /bin/busybox (package busybox-static)")?;
        symlink("busybox", top.join("bin/sh"))?;
        let xz = Command::new("find")
            .args([
                "build/cache/root/usr/lib/modules",
                "-name",
                "virtio_blk.ko.xz",
            ])
            .output()?;
        let xz = String::from_utf8_lossy(&xz.stdout).trim().to_string();
        let module = Command::new("xz")
            .args(["-dc", &xz])
            .output()
            .context("cannot run xz")?;
        fs::write(top.join("virtio_blk.ko"), module.stdout)?;
        let init = top.join("init");
        fs::write(
            &init,
            "#!/bin/sh\n/bin/busybox mount -t devtmpfs dev /dev\n/bin/busybox insmod /virtio_blk.ko\nwhile [ ! -b /dev/vda ]; do :; done\n/bin/busybox mount -t ext4 /dev/vda /root\nexec /bin/busybox switch_root /root /usr/lib/systemd/systemd\n",
        )?;
        sh(Command::new("chmod").arg("755").arg(&init))?;
        let cpio = format!(
            "cd '{}' && find . -print0 | cpio --null -o -H newc -R 0:0 --quiet > '{}'",
            top.display(),
            self.dir.join("initrd").display()
        );
        sh(Command::new("sh").args(["-c", &cpio]))
    }

    fn boot(&self, w: &World) -> Result<Figures> {
        let disk = self.dir.join("run.qcow2");
        let _ = fs::remove_file(&disk);
        sh(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(self.dir.join("disk.img"))
            .arg(&disk))?;
        let port = free_port()?;
        w.lan.forward(port, "10.0.2.20", 22)?;
        let console = self.dir.join("console");
        let _ = fs::remove_file(&console);
        let mut c = Command::new("qemu-system-x86_64");
        c.args(w.accel.args()).args([
            "-smp",
            "1",
            "-m",
            "768",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        c.arg("-serial").arg(format!("file:{}", console.display()));
        c.arg("-kernel")
            .arg(w.image.file("vmlinuz"))
            .arg("-initrd")
            .arg(self.dir.join("initrd"));
        c.args([
            "-append",
            // Its first boot asks at the console for a locale otherwise.
            "console=ttyS0,115200 quiet panic=-1 systemd.firstboot=off",
            "-device",
            "virtio-rng-pci",
        ]);
        c.arg("-netdev")
            .arg(format!("vde,id=n0,sock={}", w.lan.switch().display()));
        c.args([
            "-device",
            "virtio-net-pci,netdev=n0,mac=52:54:00:f1:07:20,romfile=",
        ]);
        c.arg("-drive").arg(format!(
            "file={},if=none,id=d0,format=qcow2",
            disk.display()
        ));
        c.args(["-device", "virtio-blk-pci,drive=d0"]);
        let mut qemu = Owned::start(&mut c, &self.dir.join("qemu.log"), false)?;
        let run = |s: &str| -> Result<String> {
            let mut c = machine::ssh("root", &self.key, port, Some(&self.dir.join("ssh")));
            c.arg(s).stdin(Stdio::null());
            let out = c.output()?;
            if !out.status.success() {
                bail!("{s}: {}", String::from_utf8_lossy(&out.stderr));
            }
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        wait_for(
            "ssh of the Debian peer",
            w.accel.scale(Duration::from_secs(240)),
            || {
                // Attempts before its sshd is there only cost both sides time.
                let up = fs::read_to_string(&console).is_ok_and(|text| text.contains("login:"));
                up.then(|| run("true").map(|_| ())).transpose()
            },
        )
        .with_context(|| fs::read_to_string(&console).unwrap_or_default())?;
        let ssh = uptime(&run(UPTIME)?)?;
        wait_for(
            "multi-user.target of the peer",
            Duration::from_secs(120),
            || run("systemctl is-active multi-user.target").map(Some),
        )?;
        let f = measure(run)?;
        qemu.kill();
        Ok(Figures { ssh, ..f })
    }
}

fn append(file: &Path, text: &str) -> Result<()> {
    let mut all = fs::read_to_string(file)?;
    all += text;
    Ok(fs::write(file, all)?)
}

fn sh(c: &mut Command) -> Result<()> {
    let out = c
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", c.get_program()))?;
    if !out.status.success() {
        bail!(
            "{:?}: {}",
            c.get_program(),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(())
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
