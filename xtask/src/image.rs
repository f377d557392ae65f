//! `cargo xtask image`: release programs, the static ones, then image-build; skipped where nothing changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::setup;

/// Packages whose programs go on the image.
const PROGRAMS: &[&str] = &[
    "cloudinit",
    "etcdctl",
    "fleetctl",
    "fleetd",
    "journald",
    "network",
    "runtime",
    "systemctl",
    "unit-busd",
    "update",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Cargo's output directory, absolute: tests run in other directories.
pub fn target_dir() -> PathBuf {
    let dir =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    crate::top().join(dir)
}

/// Directory of the static programs (init, the test web server).
pub fn static_dir() -> PathBuf {
    target_dir().join(TARGET).join("release")
}

/// Runs cargo with the environment of a release build.
pub fn cargo(args: &[&str], statically: bool) -> Result<()> {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.args(args);
    if statically {
        c.env("RUSTFLAGS", "-C target-feature=+crt-static")
            .args(["--target", TARGET]);
    }
    // seccomp is linked into the runtime, so that the image needs no libseccomp for it.
    c.env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu");
    let status = c.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(())
}

/// Builds everything into build/image.
pub fn build(mirror: Option<&str>, force: bool) -> Result<()> {
    setup::install(setup::UP)?;
    let mut args = vec!["build", "--release", "--locked"];
    for p in PROGRAMS {
        args.extend(["-p", p]);
    }
    cargo(&args, false)?;
    cargo(
        &[
            "build",
            "--release",
            "--locked",
            "-p",
            "init",
            "-p",
            "qemu-tests",
            "--bin",
            "init",
            "--bin",
            "web",
        ],
        true,
    )?;
    cargo(
        &["build", "--release", "--locked", "-p", "image-build"],
        false,
    )?;
    let stamp = Path::new("build/image/inputs");
    let key = inputs()?;
    if !force && fs::read_to_string(stamp).is_ok_and(|s| s == key) {
        return Ok(());
    }
    let _ = fs::remove_file(stamp);
    let release = target_dir().join("release");
    let mut c = Command::new(release.join("image-build"));
    c.arg("build")
        .arg("--programs")
        .arg(&release)
        .arg("--init")
        .arg(static_dir());
    let (id, epoch) = commit();
    c.args(["--build-id", &id, "--epoch", &epoch]);
    if let Some(m) = mirror {
        c.args(["--mirror", m]);
    }
    if !c.status().context("cannot run image-build")?.success() {
        bail!("the image was not built");
    }
    fs::write(stamp, key)?;
    Ok(())
}

/// Writes packages.lock anew.
pub fn update_lock(mirror: Option<&str>) -> Result<()> {
    setup::install(setup::UP)?;
    cargo(
        &["build", "--release", "--locked", "-p", "image-build"],
        false,
    )?;
    let mut c = Command::new(target_dir().join("release/image-build"));
    if let Some(m) = mirror {
        c.args(["--mirror", m]);
    }
    if !c.arg("update-lock").status()?.success() {
        bail!("the lock was not changed");
    }
    Ok(())
}

/// The unpacked peer, a minimal Debian with systemd.
pub fn peer() -> Result<String> {
    let out = Command::new(target_dir().join("release/image-build"))
        .arg("peer")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run image-build")?;
    if !out.status.success() {
        bail!("the peer was not unpacked");
    }
    let dir = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()).canonicalize()?;
    Ok(dir.display().to_string())
}

fn commit() -> (String, String) {
    let git = |args: &[&str]| {
        Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|o| o.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string())
    };
    (
        git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into()),
        git(&["log", "-1", "--format=%ct"])
            .filter(|s| !s.is_empty())
            .unwrap_or_else(|| "1".into()),
    )
}

/// A hash over all that the image depends on.
fn inputs() -> Result<String> {
    let mut h = Sha256::new();
    let mut files = vec![
        target_dir().join("release/image-build"),
        static_dir().join("init"),
        PathBuf::from("image-build/packages.lock"),
        PathBuf::from("image-build/prune.txt"),
    ];
    let release = target_dir().join("release");
    for e in fs::read_dir(&release)?.flatten() {
        let p = e.path();
        if p.is_file() && p.extension().is_none() {
            files.push(p);
        }
    }
    walk(Path::new("image-build/rootfs"), &mut files)?;
    files.sort();
    files.dedup();
    for f in files {
        h.update(f.to_string_lossy().as_bytes());
        match fs::read_link(&f) {
            Ok(t) => h.update(t.to_string_lossy().as_bytes()),
            Err(_) => h.update(Sha256::digest(
                fs::read(&f).with_context(|| format!("cannot read {}", f.display()))?,
            )),
        }
    }
    Ok(h.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for e in fs::read_dir(dir)?.flatten() {
        if e.file_type()?.is_dir() {
            walk(&e.path(), out)?;
        } else {
            out.push(e.path());
        }
    }
    Ok(())
}
