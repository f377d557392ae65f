//! One machine: its disk, seed drive, QEMU process, console and ssh.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accel::Accel;
use crate::image::Image;
use crate::process::{Owned, wait_for};
use crate::seed::{self, Seed};
use crate::segment;

/// How the kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// Kernel and initramfs given to QEMU; the disk is the same. Fastest.
    Direct,
    /// SeaBIOS and GRUB.
    Bios,
    /// OVMF and GRUB.
    Uefi,
}

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Name, of files and in messages.
    pub name: String,
    /// Number in the LAN: MAC 52:54:00:f1:07:NN.
    pub number: u8,
    /// Address that ssh is forwarded to.
    pub address: String,
    /// Host port of ssh.
    pub ssh_port: u16,
    /// MiB of memory.
    pub memory: u32,
    /// Disk size, as qemu-img says it.
    pub disk: String,
    /// Sizes of further, blank disks.
    pub more_disks: Vec<String>,
    /// How it boots.
    pub firmware: Firmware,
    /// Documents of its seed drive; none = no drive.
    pub seed: Option<Seed>,
    /// Further kernel arguments ([`Firmware::Direct`] only).
    pub append: String,
    /// Keep running when a guest asks for a reboot.
    pub reboots: bool,
    /// QEMU's cache mode of the system disk.
    pub cache: &'static str,
}

impl MachineSpec {
    /// Machine `number` at its fixed address 10.0.2.(10 + number).
    #[must_use]
    pub fn new(number: u8, ssh_port: u16) -> MachineSpec {
        MachineSpec {
            name: format!("node{number}"),
            number,
            address: format!("10.0.2.{}", 10 + u16::from(number)),
            ssh_port,
            memory: 768,
            disk: "8G".into(),
            more_disks: Vec::new(),
            firmware: Firmware::Direct,
            seed: None,
            append: String::new(),
            reboots: true,
            cache: "writeback",
        }
    }

    /// Hardware address.
    #[must_use]
    pub fn mac(&self) -> String {
        format!("52:54:00:f1:07:{:02x}", self.number)
    }

    /// network-config of its fixed address.
    #[must_use]
    pub fn static_network(&self) -> String {
        format!(
            "version: 2\nethernets:\n  lan:\n    match:\n      macaddress: \"{}\"\n    addresses: [{}/24]\n    gateway4: 10.0.2.2\n    nameservers:\n      addresses: [10.0.2.3]\n",
            self.mac(),
            self.address
        )
    }
}

/// A machine that was started.
#[derive(Debug)]
pub struct Machine {
    /// What it is made of.
    pub spec: MachineSpec,
    dir: PathBuf,
    switch: PathBuf,
    image: Image,
    accel: Accel,
    key: PathBuf,
    detach: bool,
    qemu: Option<Owned>,
    boots: u32,
}

impl Machine {
    /// Makes disk and seed in `dir` and starts it on the LAN of `switch`.
    pub fn start(
        spec: MachineSpec,
        image: &Image,
        accel: Accel,
        dir: &Path,
        switch: &Path,
        key: &Path,
        detach: bool,
    ) -> Result<Machine> {
        let dir = dir.join(&spec.name);
        fs::create_dir_all(&dir)?;
        let disk = dir.join("disk.qcow2");
        if !disk.exists() {
            qemu_img(
                &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"],
                &[&image.file("flotilla.qcow2"), &disk],
                &[&spec.disk],
            )?;
        }
        for (i, size) in spec.more_disks.iter().enumerate() {
            let p = dir.join(format!("disk{}.qcow2", i + 2));
            if !p.exists() {
                qemu_img(&["create", "-q", "-f", "qcow2"], &[&p], &[size])?;
            }
        }
        if spec.firmware == Firmware::Uefi && !dir.join("vars.fd").exists() {
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", dir.join("vars.fd"))
                .context("no OVMF (package ovmf)")?;
        }
        if let Some(s) = &spec.seed {
            seed::write(s, &dir.join("seed.img"))?;
        }
        let mut m = Machine {
            spec,
            dir,
            switch: switch.into(),
            image: image.clone(),
            accel,
            key: key.into(),
            detach,
            qemu: None,
            boots: 0,
        };
        m.boot()?;
        Ok(m)
    }

    /// Starts QEMU (again) on the same disks.
    pub fn boot(&mut self) -> Result<()> {
        self.forget_connection();
        self.boots += 1;
        let console = self.console_path();
        if console.exists() {
            fs::rename(
                &console,
                self.dir.join(format!("console.{}", self.boots - 1)),
            )?;
        }
        let mut c = Command::new("qemu-system-x86_64");
        self.args(&mut c, &console);
        self.qemu = Some(Owned::start(
            &mut c,
            &self.dir.join("qemu.log"),
            self.detach,
        )?);
        Ok(())
    }

    fn args(&self, c: &mut Command, console: &Path) {
        let s = &self.spec;
        c.args(self.accel.args());
        c.args(["-smp", "1", "-m", &s.memory.to_string(), "-name", &s.name]);
        c.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        if !s.reboots {
            c.arg("-no-reboot");
        }
        c.arg("-chardev").arg(format!(
            "socket,id=con,path={},server=on,wait=off,logfile={}",
            self.dir.join("console.sock").display(),
            console.display()
        ));
        c.args(["-serial", "chardev:con"]);
        c.arg("-monitor").arg(format!(
            "unix:{},server=on,wait=off",
            self.dir.join("mon").display()
        ));
        c.args([
            "-device",
            "virtio-rng-pci",
            "-device",
            "i6300esb",
            "-action",
            "watchdog=reset",
        ]);
        c.arg("-netdev")
            .arg(format!("vde,id=n0,sock={}", self.switch.display()));
        c.arg("-device")
            .arg(format!("virtio-net-pci,netdev=n0,mac={},romfile=", s.mac()));
        c.arg("-drive").arg(format!(
            "file={},if=none,id=d0,format=qcow2,cache={},discard=unmap",
            self.dir.join("disk.qcow2").display(),
            s.cache
        ));
        c.args([
            "-device",
            "virtio-blk-pci,drive=d0,bootindex=1,serial=system",
        ]);
        for i in 0..s.more_disks.len() {
            let p = self.dir.join(format!("disk{}.qcow2", i + 2));
            c.arg("-drive").arg(format!(
                "file={},if=none,id=d{},format=qcow2",
                p.display(),
                i + 1
            ));
            c.arg("-device").arg(format!(
                "virtio-blk-pci,drive=d{},serial=data{}",
                i + 1,
                i + 1
            ));
        }
        if s.seed.is_some() {
            c.arg("-drive").arg(format!(
                "file={},if=none,id=seed,format=raw,readonly=on",
                self.dir.join("seed.img").display()
            ));
            c.args(["-device", "virtio-blk-pci,drive=seed,serial=seed"]);
        }
        match s.firmware {
            Firmware::Direct => {
                c.arg("-kernel")
                    .arg(self.image.file("vmlinuz"))
                    .arg("-initrd")
                    .arg(self.image.file("initrd"));
                c.arg("-append").arg(format!(
                    "{} console=ttyS0,115200 {}",
                    self.image.cmdline, s.append
                ));
            }
            Firmware::Bios => {}
            Firmware::Uefi => {
                c.args([
                    "-drive",
                    "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                ]);
                c.arg("-drive").arg(format!(
                    "if=pflash,format=raw,file={}",
                    self.dir.join("vars.fd").display()
                ));
            }
        }
    }

    /// Its directory: disks, console, sockets.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Pid of its QEMU.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.qemu.as_ref().map(Owned::pid)
    }

    fn console_path(&self) -> PathBuf {
        self.dir.join("console")
    }

    /// What the machine has printed since it was last started.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.console_path()).unwrap_or_default()).into_owned()
    }

    /// A power cut.
    pub fn kill(&mut self) {
        self.forget_connection();
        if let Some(q) = &mut self.qemu {
            q.kill();
        }
        self.qemu = None;
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait_ended(&mut self, limit: Duration) -> Result<()> {
        let limit = self.accel.scale(limit);
        let Some(q) = &mut self.qemu else {
            return Ok(());
        };
        wait_for("the machine to end", limit, || Ok(q.ended().then_some(())))?;
        self.qemu = None;
        Ok(())
    }

    /// Says a line to the machine's QEMU monitor.
    pub fn monitor(&self, line: &str) -> Result<String> {
        segment::monitor(&self.dir.join("mon"), line)
    }

    /// The ssh command up to the remote command.
    #[must_use]
    pub fn ssh_command(&self) -> Command {
        let shared = self.shared_connection();
        ssh("core", &self.key, self.spec.ssh_port, Some(&shared))
    }

    /// Where the connection that all sessions share listens: an emulated machine works for a second at each key
    /// exchange. ssh makes it with the first session and ends it some idle time after the last.
    fn shared_connection(&self) -> PathBuf {
        self.dir.join("ssh")
    }

    /// Ends the shared connection: its other end is gone, or about to be.
    fn forget_connection(&self) {
        if self.shared_connection().exists() {
            let _ = self.ssh_command().args(["-O", "exit"]).output();
        }
    }

    /// Runs `script` on the machine as core, whatever its exit status.
    pub fn try_ssh(&self, script: &str) -> Result<Output> {
        Ok(self
            .ssh_command()
            .arg(script)
            .stdin(Stdio::null())
            .output()?)
    }

    /// Runs `script` on the machine as core; a failure carries what it said. A connection that was not made (ssh's
    /// own status 255) is tried again: an emulated machine under load may not answer in time.
    pub fn ssh(&self, script: &str) -> Result<String> {
        let mut tries = 0;
        let out = loop {
            let out = self.try_ssh(script)?;
            tries += 1;
            if out.status.code() != Some(255) || tries == 4 {
                break out;
            }
        };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            bail!(
                "{}: `{script}` ended with {}:\n{text}{}",
                self.spec.name,
                out.status,
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Ok(text)
    }

    /// Waits until ssh answers. A guest that panics ends the wait.
    pub fn wait_ssh(&mut self, limit: Duration) -> Result<()> {
        let limit = self.accel.scale(limit);
        let name = self.spec.name.clone();
        let console = self.console_path();
        let start = std::time::Instant::now();
        let result = wait_for(&format!("ssh of {name}"), limit, || {
            let text = fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if text.contains("Kernel panic") {
                return Ok(Some(false));
            }
            // Attempts before the socket is there only cost both sides time.
            if !text.contains("Listening on sshd.socket") && start.elapsed() < limit / 2 {
                return Ok(None);
            }
            Ok(self
                .try_ssh("true")
                .is_ok_and(|o| o.status.success())
                .then_some(true))
        });
        match result {
            Ok(true) => Ok(()),
            Ok(false) => bail!(
                "{name} died: kernel panic. Console:\n{}",
                self.console_tail()
            ),
            Err(e) => Err(e.context(format!("console of {name}:\n{}", self.console_tail()))),
        }
    }

    /// Waits until `script` succeeds on the machine; returns its output.
    pub fn wait_until(&self, what: &str, limit: Duration, script: &str) -> Result<String> {
        let limit = self.accel.scale(limit);
        wait_for(&format!("{what} on {}", self.spec.name), limit, || {
            self.ssh(script).map(Some)
        })
    }

    /// The end of the console.
    #[must_use]
    pub fn console_tail(&self) -> String {
        let text = self.console();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }
}

/// ssh to a forwarded port of this host, as user core, no questions asked.
#[must_use]
pub fn ssh_command(key: &Path, port: u16) -> Command {
    ssh("core", key, port, None)
}

/// ssh as `user`, each session over its own connection, or over the one that listens at `shared`.
#[must_use]
pub fn ssh(user: &str, key: &Path, port: u16, shared: Option<&Path>) -> Command {
    let mut c = Command::new("ssh");
    c.arg("-i").arg(key).args(["-p", &port.to_string(), "-q"]);
    for o in [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "ConnectTimeout=20",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=6",
        "LogLevel=ERROR",
    ] {
        c.args(["-o", o]);
    }
    if let Some(path) = shared {
        c.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=30"]);
        c.arg("-o").arg(format!("ControlPath={}", path.display()));
    }
    c.arg(format!("{user}@127.0.0.1"));
    c
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.forget_connection();
    }
}

/// Makes an ssh key pair in `dir` and returns the private key's path and the public key's line.
pub fn ssh_key(dir: &Path) -> Result<(PathBuf, String)> {
    let key = dir.join("id_ed25519");
    if !key.exists() {
        fs::create_dir_all(dir)?;
        let out = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "flotilla-up", "-f"])
            .arg(&key)
            .output()
            .context("cannot run ssh-keygen (package openssh-client)")?;
        if !out.status.success() {
            bail!("ssh-keygen: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
    Ok((
        key.clone(),
        fs::read_to_string(key.with_extension("pub"))?
            .trim()
            .to_string(),
    ))
}

fn qemu_img(before: &[&str], paths: &[&Path], after: &[&str]) -> Result<()> {
    let out = Command::new("qemu-img")
        .args(before)
        .args(paths)
        .args(after)
        .output()
        .context("cannot run qemu-img (package qemu-utils)")?;
    if !out.status.success() {
        bail!("qemu-img: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}
