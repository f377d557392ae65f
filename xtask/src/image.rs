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
/// What image-build leaves.
const IMAGE_FILES: &[&str] = &[
    "vmlinuz",
    "initrd",
    "usr.img",
    "cmdline",
    "manifest.json",
    "flotilla.raw",
    "flotilla.qcow2",
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
    target_dir().join(TARGET).join("static")
}

/// When a build may use the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// As any process.
    Normal,
    /// Only while nothing else wants them.
    Idle,
}

/// Runs cargo with the environment of a release build.
fn cargo(args: &[&str], statically: bool, priority: Priority) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut c = match priority {
        Priority::Normal => Command::new(cargo),
        Priority::Idle => {
            let mut c = Command::new("nice");
            c.args(["-n", "19"]).arg(cargo);
            c
        }
    };
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

/// Compiles what the image carries and what builds it.
pub fn compile(priority: Priority) -> Result<()> {
    let mut args = vec!["build", "--release", "--locked", "-p", "image-build"];
    for p in PROGRAMS {
        args.extend(["-p", p]);
    }
    cargo(&args, false, priority)?;
    let statics = ["-p", "init", "-p", "web", "--bin", "init", "--bin", "web"];
    let args = ["build", "--profile", "static", "--locked"];
    cargo(&[&args[..], &statics].concat(), true, priority)
}

/// Builds everything into build/image.
pub fn build(mirror: Option<&str>, force: bool) -> Result<()> {
    setup::install(setup::UP)?;
    compile(Priority::Normal)?;
    let stamp = Path::new("build/image/inputs");
    let key = inputs()?;
    if !force && fs::read_to_string(stamp).is_ok_and(|s| s == key) {
        return Ok(());
    }
    let _ = fs::remove_file(stamp);
    image_build(Path::new("build/image"), mirror, &[])?;
    fs::write(stamp, inputs()?)?;
    Ok(())
}

/// Runs image-build on what was compiled, into `out`.
fn image_build(out: &Path, mirror: Option<&str>, env: &[(&str, &str)]) -> Result<()> {
    let release = target_dir().join("release");
    let (id, epoch) = commit();
    with_lock(mirror, || {
        let mut c = Command::new(release.join("image-build"));
        c.arg("build")
            .arg("--programs")
            .arg(&release)
            .arg("--init")
            .arg(static_dir())
            .arg("--out")
            .arg(out)
            .args(["--build-id", &id, "--epoch", &epoch])
            .envs(env.iter().copied());
        c
    })
    .context("the image was not built")?;
    Ok(())
}

/// The lock of the tree, and the one that stands in for it where the mirrors no longer have its versions.
const LOCK: &str = "image-build/packages.lock";
const NEWER_LOCK: &str = "build/cache/packages.lock";

/// Runs image-build with the tree's lock; returns its output. Debian keeps only the newest version of a package, so a
/// checkout of last month may name versions that are gone: then the list is resolved anew, from the same signed indexes,
/// into a lock of this machine. Said each time, because the image is then not the one that others built.
fn with_lock(mirror: Option<&str>, command: impl Fn() -> Command) -> Result<String> {
    let mark = Path::new(NEWER_LOCK).with_extension("instead-of");
    let tree = fs::read_to_string(LOCK).with_context(|| format!("cannot read {LOCK}"))?;
    let run = |mut c: Command, newer: bool| -> Result<Option<String>> {
        if let Some(m) = mirror {
            c.args(["--mirror", m]);
        }
        if newer {
            c.args(["--lock", NEWER_LOCK]);
        }
        let out = c
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("cannot run image-build")?;
        match out.status.code() {
            Some(0) => Ok(Some(String::from_utf8_lossy(&out.stdout).into_owned())),
            Some(3) => Ok(None),
            _ => bail!("image-build failed"),
        }
    };
    let mut newer = fs::read_to_string(&mark).is_ok_and(|m| m == tree);
    loop {
        if newer {
            eprintln!(
                "xtask: the mirror has newer packages than {LOCK} names; using {NEWER_LOCK} (`cargo xtask image update-lock` puts them into the tree)"
            );
        }
        if let Some(said) = run(command(), newer)? {
            return Ok(said);
        }
        eprintln!(
            "xtask: locked versions are gone from the mirror; resolving the package list anew"
        );
        let mut c = Command::new(target_dir().join("release/image-build"));
        c.arg("update-lock");
        let _ = fs::remove_file(&mark);
        // From the tree's: what it prints is what has changed.
        fs::copy(LOCK, NEWER_LOCK).with_context(|| format!("cannot write {NEWER_LOCK}"))?;
        let changes = run(c, true)?.context("the mirror changes while it is read; try again")?;
        eprint!("{changes}");
        fs::write(&mark, &tree)?;
        if newer {
            bail!(
                "the mirror does not have what its own index names; try again later, or another one with --mirror URL"
            );
        }
        newer = true;
    }
}

/// Builds the image once more from the same inputs, elsewhere and with another environment, and compares every file:
/// same inputs give the same bytes.
pub fn same_bytes() -> Result<()> {
    let (first, again) = (Path::new("build/image"), Path::new("build/image-again"));
    let _ = fs::remove_dir_all(again);
    let env = [
        ("TZ", "Asia/Kathmandu"),
        ("LC_ALL", "C.UTF-8"),
        ("HOME", "/"),
    ];
    image_build(again, None, &env)?;
    let mut differing = Vec::new();
    for file in IMAGE_FILES {
        if !same(&first.join(file), &again.join(file))? {
            differing.push(*file);
        }
    }
    if differing.is_empty() {
        fs::remove_dir_all(again)?;
        return Ok(());
    }
    bail!(
        "two builds from the same inputs differ in {}; compare {} and {}",
        differing.join(", "),
        first.display(),
        again.display()
    );
}

/// Whether two files have the same bytes; by cmp(1), because this program is not optimised and a disk image is large.
fn same(a: &Path, b: &Path) -> Result<bool> {
    let status = Command::new("cmp").arg("-s").args([a, b]).status();
    match status.context("cannot run cmp (package diffutils)")?.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("cannot compare {} and {}", a.display(), b.display()),
    }
}

/// Writes packages.lock anew.
pub fn update_lock(mirror: Option<&str>) -> Result<()> {
    setup::install(setup::UP)?;
    let args = ["build", "--release", "--locked", "-p", "image-build"];
    cargo(&args, false, Priority::Normal)?;
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
    let said = with_lock(None, || {
        let mut c = Command::new(target_dir().join("release/image-build"));
        c.arg("peer");
        c
    })
    .context("the peer was not unpacked")?;
    let dir = PathBuf::from(said.trim()).canonicalize()?;
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
    // os-release names the commit.
    h.update(format!("{:?}", commit()));
    let mut files = vec![
        target_dir().join("release/image-build"),
        static_dir().join("init"),
        PathBuf::from(LOCK),
        PathBuf::from("image-build/prune.txt"),
    ];
    let release = target_dir().join("release");
    for e in fs::read_dir(&release)?.flatten() {
        let p = e.path();
        if p.is_file() && p.extension().is_none() {
            files.push(p);
        }
    }
    if Path::new(NEWER_LOCK).exists() {
        files.push(NEWER_LOCK.into());
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
