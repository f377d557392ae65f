//! A minimal Debian with real systemd on the LAN of a [`World`]: what benchmarks hold us against, and where fleet is
//! shown to need nothing of ours.
//!
//! Owns: the way from the peer's unpacked packages (`image-build peer`) to a disk that boots, and the machine that runs
//! from it. What packages' maintainer scripts would have done to make it boot is done here, and no more. Kernel and
//! modules are the image's, so that the user space is all that differs from a machine of ours.
//!
//! ```text
//!   unpacked packages ─ prepare ─▶ disk.img, initrd ─ boot ─▶ QEMU at 10.0.2.20 ─ ssh as root ─▶ what a test does
//! ```
//!
//! Each boot starts from the same disk. Does not unpack or download packages.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accel::Accel;
use crate::machine;
use crate::process::{Owned, wait_for};
use crate::world::{World, free_port};

/// The machine's address in the LAN.
pub const ADDRESS: &str = "10.0.2.20";

/// A user and group for each service that runs as its own, as the packages' scripts make them.
const USERS: &str = "\
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
messagebus:x:102:102::/nonexistent:/usr/sbin/nologin
systemd-network:x:998:998::/:/usr/sbin/nologin
";
const GROUPS: &str = "\
messagebus:x:102:
systemd-network:x:998:
systemd-journal:x:997:
";

/// Directories that no package has.
const DIRECTORIES: &[&str] = &[
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root/.ssh",
    "etc/systemd/network",
    "etc/systemd/system/multi-user.target.wants",
    "etc/systemd/system-preset",
    "var/lib",
    "var/log/journal",
    "etc/ssh",
];

/// The first boot enables every service whose package is there. etcd is there for tests that start it, and no part of a
/// minimal Debian.
const PRESET: (&str, &str) = (
    "etc/systemd/system-preset/10-peer.preset",
    "disable etcd.service\n",
);

/// The initramfs: the one module that the disk needs, and a switch to the disk.
const INIT: &str = "#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /virtio_blk.ko
while [ ! -b /dev/vda ]; do :; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /usr/lib/systemd/systemd
";

/// A disk and an initramfs, to boot from as often as wanted.
#[derive(Debug)]
pub struct Debian {
    dir: PathBuf,
    key: PathBuf,
}

impl Debian {
    /// Turns the unpacked packages in `peer` into a disk that boots. Its root takes the key of `w`.
    ///
    /// # Errors
    /// Where a tool is missing, or the image that lends its kernel was not built.
    pub fn prepare(peer: &Path, w: &World) -> Result<Debian> {
        let dir = w.dir.join("debian");
        let root = dir.join("root");
        fs::create_dir_all(&dir)?;
        sh(Command::new("cp").arg("-a").arg(peer).arg(&root))?;
        let lib = root.join("usr/lib/");
        sh(Command::new("cp").arg("-a").arg(modules()).arg(lib))?;
        for d in DIRECTORIES {
            fs::create_dir_all(root.join(d))?;
        }
        for (file, more) in [("passwd", USERS), ("group", GROUPS)] {
            let master = root.join(format!("usr/share/base-passwd/{file}.master"));
            let text = fs::read_to_string(master)? + more;
            fs::write(root.join("etc").join(file), text)?;
        }
        fs::write(root.join("etc/machine-id"), "uninitialized\n")?;
        fs::write(root.join("etc/hostname"), "debian\n")?;
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost debian\n")?;
        for (name, to) in [("run", "/run"), ("lock", "/run/lock")] {
            let link = root.join("var").join(name);
            fs::remove_dir(&link)?;
            symlink(to, link)?;
        }
        fs::write(root.join(PRESET.0), PRESET.1)?;
        fs::write(
            root.join("etc/systemd/network/lan.network"),
            format!("[Match]\nType=ether\n[Network]\nAddress={ADDRESS}/24\nGateway=10.0.2.2\n"),
        )?;
        fs::write(
            root.join("etc/ssh/sshd_config"),
            "PermitRootLogin prohibit-password\nUsePAM no\n",
        )?;
        sh(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(root.join("etc/ssh/ssh_host_ed25519_key")))?;
        fs::copy(
            w.key().with_extension("pub"),
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
            .args(["-q", "-F", "-t", "ext4", "-L", "debian"])
            .args(["-E", "root_owner=0:0", "-d"])
            .arg(&root)
            .arg(&disk))?;
        fs::remove_dir_all(&root)?;
        initramfs(&dir)?;
        Ok(Debian {
            dir,
            key: w.key().into(),
        })
    }

    /// Starts a machine from the disk, which stays as it is, and waits until root's ssh answers. Its `/root` may not be
    /// what it was in the boot before.
    ///
    /// # Errors
    /// With the console, where it does not come up in time.
    pub fn boot(&self, w: &World) -> Result<Running> {
        let disk = self.dir.join("run.qcow2");
        let _ = fs::remove_file(&disk);
        sh(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(self.dir.join("disk.img"))
            .arg(&disk))?;
        let port = free_port()?;
        w.lan.forward(port, ADDRESS, 22)?;
        let console = self.dir.join("console");
        let _ = fs::remove_file(&console);
        let mut c = Command::new("qemu-system-x86_64");
        c.args(w.accel.args());
        c.args(["-smp", "1", "-m", "768", "-nodefaults", "-no-user-config"]);
        c.args(["-display", "none", "-no-reboot"]);
        c.arg("-serial").arg(format!("file:{}", console.display()));
        c.arg("-kernel").arg(w.image.file("vmlinuz"));
        c.arg("-initrd").arg(self.dir.join("initrd"));
        // Its first boot asks at the console for a locale otherwise.
        let append = "console=ttyS0,115200 quiet panic=-1 systemd.firstboot=off";
        c.args(["-append", append, "-device", "virtio-rng-pci"]);
        let switch = w.lan.switch();
        c.arg("-netdev")
            .arg(format!("vde,id=n0,sock={}", switch.display()));
        c.args(["-device"])
            .arg("virtio-net-pci,netdev=n0,mac=52:54:00:f1:07:20,romfile=");
        let drive = format!("file={},if=none,id=d0,format=qcow2", disk.display());
        c.arg("-drive").arg(drive);
        c.args(["-device", "virtio-blk-pci,drive=d0"]);
        let running = Running {
            qemu: Owned::start(&mut c, &self.dir.join("qemu.log"), false)?,
            accel: w.accel,
            key: self.key.clone(),
            port,
            shared: self.dir.join("ssh"),
            console,
        };
        wait_for(
            "ssh of the Debian machine",
            w.accel.scale(Duration::from_secs(240)),
            || {
                // Attempts before its sshd is there only cost both sides time.
                let up = running.console().contains("login:");
                up.then(|| running.ssh("true").map(|_| ())).transpose()
            },
        )
        .with_context(|| running.console())?;
        Ok(running)
    }
}

/// A machine that runs; it ends with this value, as by a power cut.
#[derive(Debug)]
pub struct Running {
    qemu: Owned,
    accel: Accel,
    key: PathBuf,
    port: u16,
    shared: PathBuf,
    console: PathBuf,
}

impl Running {
    /// What it has printed.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// ssh as root, up to the remote command. All sessions share one connection.
    #[must_use]
    pub fn ssh_command(&self) -> Command {
        machine::ssh("root", &self.key, self.port, Some(&self.shared))
    }

    /// Runs `script` as root, whatever its exit status.
    pub fn try_ssh(&self, script: &str) -> Result<Output> {
        Ok(self
            .ssh_command()
            .arg(script)
            .stdin(Stdio::null())
            .output()?)
    }

    /// Runs `script` as root; a failure carries what it said.
    pub fn ssh(&self, script: &str) -> Result<String> {
        let out = self.try_ssh(script)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            bail!(
                "Debian: `{script}` ended with {}:\n{text}{}",
                out.status,
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Ok(text)
    }

    /// What a deadline for emulation becomes here.
    #[must_use]
    pub fn scale(&self, tcg: Duration) -> Duration {
        self.accel.scale(tcg)
    }

    /// Waits until `script` succeeds; returns its output.
    pub fn wait_until(&self, what: &str, limit: Duration, script: &str) -> Result<String> {
        wait_for(&format!("{what} on Debian"), self.scale(limit), || {
            self.ssh(script).map(Some)
        })
    }

    /// Writes a file there.
    pub fn upload(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut child = self
            .ssh_command()
            .arg(format!("cat > '{path}'"))
            .stdin(Stdio::piped())
            .spawn()?;
        let sent = child
            .stdin
            .take()
            .context("no pipe to ssh")?
            .write_all(bytes);
        if !child.wait()?.success() {
            bail!("cannot write {path} on Debian");
        }
        Ok(sent?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shared.exists() {
            let _ = self.ssh_command().args(["-O", "exit"]).output();
        }
        self.qemu.kill();
    }
}

/// Where the peer's packages are unpacked (`$FLOTILLA_PEER`).
pub fn peer() -> Result<PathBuf> {
    std::env::var_os("FLOTILLA_PEER")
        .map(PathBuf::from)
        .context("FLOTILLA_PEER is not set; `cargo xtask test` sets it")
}

/// The modules of the kernel that boots.
fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/cache/root/usr/lib/modules")
}

/// busybox, [`INIT`] and its module, as `initrd` in `dir`.
fn initramfs(dir: &Path) -> Result<()> {
    let top = dir.join("initramfs");
    for d in ["bin", "root", "proc", "dev"] {
        fs::create_dir_all(top.join(d))?;
    }
    fs::copy("/bin/busybox", top.join("bin/busybox"))
        .context("no /bin/busybox (package busybox-static)")?;
    symlink("busybox", top.join("bin/sh"))?;
    let found = sh(Command::new("find")
        .arg(modules())
        .args(["-name", "virtio_blk.ko.xz"]))?;
    let module = sh(Command::new("xz")
        .arg("-dc")
        .arg(String::from_utf8_lossy(&found).trim()))?;
    fs::write(top.join("virtio_blk.ko"), module)?;
    let init = top.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let cpio = format!(
        "cd '{}' && find . -print0 | cpio --null -o -H newc -R 0:0 --quiet > '{}'",
        top.display(),
        dir.join("initrd").display()
    );
    sh(Command::new("sh").args(["-c", &cpio]))?;
    Ok(())
}

/// What a command that must succeed has said.
fn sh(c: &mut Command) -> Result<Vec<u8>> {
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
    Ok(out.stdout)
}
