//! One LAN without root: a learning switch (vde) with a machine-less QEMU as gateway, DNS and port forwarder.
//!
//! The gateway's 10.0.2.2 is the host's loopback. Nothing is sent to the host's networks but through it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Owned, wait_for};

/// A running LAN.
#[derive(Debug)]
pub struct Segment {
    dir: PathBuf,
    switch: Owned,
    gateway: Owned,
}

impl Segment {
    /// Starts switch and gateway with their sockets in `dir`. `detach`: they outlive this process.
    pub fn start(dir: &Path, detach: bool) -> Result<Segment> {
        std::fs::create_dir_all(dir)?;
        let sock = dir.join("switch");
        let _ = std::fs::remove_dir_all(&sock);
        let mut c = Command::new("vde_switch");
        c.arg("-s").arg(&sock).args(["-m", "600"]);
        if detach {
            c.arg("-d").arg("-p").arg(dir.join("switch.pid")); // it would end with its standard input
        }
        let switch = Owned::start(&mut c, &dir.join("switch.log"), detach)?;
        wait_for("the switch's socket", Duration::from_secs(10), || {
            Ok(sock.join("ctl").exists().then_some(()))
        })?;
        let monitor = dir.join("gw.mon");
        let mut c = Command::new("qemu-system-x86_64");
        c.args([
            "-machine",
            "none",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-monitor",
        ])
        .arg(format!("unix:{},server=on,wait=off", monitor.display()))
        .args([
            "-netdev",
            "user,id=u,net=10.0.2.0/24,dhcpstart=10.0.2.100",
            "-netdev",
            "hubport,id=hu,hubid=0,netdev=u",
        ])
        .args([
            "-netdev",
            &format!("vde,id=v,sock={}", sock.display()),
            "-netdev",
            "hubport,id=hv,hubid=0,netdev=v",
        ]);
        let gateway = Owned::start(&mut c, &dir.join("gw.log"), detach)?;
        wait_for("the gateway's monitor", Duration::from_secs(10), || {
            Ok(monitor.exists().then_some(()))
        })?;
        Ok(Segment {
            dir: dir.into(),
            switch,
            gateway,
        })
    }

    /// The switch's socket directory, for `-netdev vde`.
    #[must_use]
    pub fn switch(&self) -> PathBuf {
        self.dir.join("switch")
    }

    /// Pids of the processes, for the cluster's record.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let daemon = std::fs::read_to_string(self.dir.join("switch.pid"))
            .ok()
            .and_then(|p| p.trim().parse().ok());
        vec![daemon.unwrap_or(self.switch.pid()), self.gateway.pid()]
    }

    /// Makes 127.0.0.1:`host` lead to `to`:`port`.
    ///
    /// # Errors
    /// Where the host port is taken.
    pub fn forward(&self, host: u16, to: &str, port: u16) -> Result<()> {
        forward(&self.dir, host, to, port)
    }
}

/// [`Segment::forward`] for a cluster that runs already, by its directory.
pub fn forward(dir: &Path, host: u16, to: &str, port: u16) -> Result<()> {
    let said = monitor(
        &dir.join("gw.mon"),
        &format!("hostfwd_add u tcp:127.0.0.1:{host}-{to}:{port}"),
    )?;
    if said.contains("could not") || said.contains("invalid") {
        bail!("cannot forward 127.0.0.1:{host} to {to}:{port}: {said}");
    }
    Ok(())
}

/// Says one line to a QEMU monitor socket and returns the answer.
pub fn monitor(socket: &Path, line: &str) -> Result<String> {
    let mut s = UnixStream::connect(socket)
        .with_context(|| format!("no monitor at {}", socket.display()))?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    read_prompt(&mut s)?;
    writeln!(s, "{line}")?;
    let text = read_prompt(&mut s)?;
    let text: String = text.replace("\r", "");
    Ok(text
        .lines()
        .skip(1)
        .collect::<Vec<_>>()
        .join("\n")
        .trim_end_matches("(qemu) ")
        .trim()
        .to_string())
}

fn read_prompt(s: &mut UnixStream) -> Result<String> {
    let mut all = Vec::new();
    let mut buf = [0; 1024];
    while !all.ends_with(b"(qemu) ") {
        let n = s.read(&mut buf).context("the monitor does not answer")?;
        if n == 0 {
            break;
        }
        all.extend_from_slice(&buf[..n]);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}
