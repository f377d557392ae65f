//! KVM only where a guest really boots under it; the device node alone proves nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualisation, proven by a boot.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accel {
    /// `-machine` and `-cpu` of a guest. TCG gets no `cx16`: its emulation corrupts flags and guests die at random.
    #[must_use]
    pub fn args(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => ["-machine", "q35,accel=kvm", "-cpu", "host"],
            Accel::Tcg => ["-machine", "q35,accel=tcg", "-cpu", "max,-cx16"],
        }
    }

    /// What a deadline for TCG becomes.
    #[must_use]
    pub fn scale(self, tcg: Duration) -> Duration {
        match self {
            Accel::Kvm => tcg / 2,
            Accel::Tcg => tcg,
        }
    }
}

/// Boots `kernel` without a root under KVM and looks for its panic within 10 s. The answer is kept in `cache`.
pub fn probe(kernel: &Path, cache: &Path) -> Result<Accel> {
    let note = cache.join("accel");
    match std::fs::read_to_string(&note).as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        _ => {}
    }
    let accel = if Path::new("/dev/kvm").exists() && boots_under_kvm(kernel)? {
        Accel::Kvm
    } else {
        Accel::Tcg
    };
    std::fs::create_dir_all(cache)?;
    std::fs::write(&note, if accel == Accel::Kvm { "kvm" } else { "tcg" })?;
    Ok(accel)
}

fn boots_under_kvm(kernel: &Path) -> Result<bool> {
    let log = tempfile_path();
    let mut child = Command::new("qemu-system-x86_64")
        .args(Accel::Kvm.args())
        .args([
            "-m",
            "256",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
        ])
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start qemu-system-x86_64 (package qemu-system-x86)")?;
    let start = Instant::now();
    let mut booted = false;
    while start.elapsed() < Duration::from_secs(10) && !booted {
        booted = std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("Unable to mount root fs");
        if matches!(child.try_wait(), Ok(Some(_))) {
            booted = std::fs::read_to_string(&log)
                .unwrap_or_default()
                .contains("Unable to mount root fs");
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_file(&log);
    Ok(booted)
}

fn tempfile_path() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("flotilla-kvm-probe-{}", std::process::id()))
}
