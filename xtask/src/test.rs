//! `cargo xtask test`: what CI runs. All checks run; failures are reported together at the end.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{image, setup, tidy};

/// The files of qemu-tests, in the order in which they run.
const QEMU_FILES: &[&str] = &["boot", "cluster", "fleet", "single", "up"];

/// Runs one suite, or all of them.
pub fn run(suite: Option<&str>) -> Result<()> {
    setup::install(setup::ALL)?;
    let mut failed = Vec::new();
    let mut step = |name: &str, f: &dyn Fn() -> Result<()>| {
        let start = Instant::now();
        eprintln!("--- {name}");
        match f() {
            Ok(()) => eprintln!("--- {name}: ok ({} s)", start.elapsed().as_secs()),
            Err(e) => {
                eprintln!(
                    "--- {name}: FAILED ({} s): {e:#}",
                    start.elapsed().as_secs()
                );
                failed.push(name.to_string());
            }
        }
    };
    let all = suite.is_none();
    let wants = |s: &str| all || suite == Some(s);
    if wants("fmt") {
        step("fmt", &|| cargo(&["fmt", "--all", "--check"]));
    }
    if wants("tidy") {
        step("tidy", &tidy::run);
    }
    if wants("clippy") {
        step("clippy", &|| {
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ])
        });
    }
    if wants("unit") {
        step("unit", &|| {
            // The same cases in every run: a commit is not blamed for a bug that chance finds in another part.
            // `cargo test` by hand and the fuzz targets go on looking.
            let seed = std::env::var("PROPTEST_RNG_SEED").unwrap_or_else(|_| "1".to_string());
            let args = [
                "test",
                "--workspace",
                "--exclude",
                "qemu-tests",
                "--locked",
                "--no-fail-fast",
                "--quiet",
            ];
            let all = cargo_with(&args, &[("PROPTEST_RNG_SEED", &seed)]);
            // Panics in PID 1 on purpose: a build of its own, which no image carries.
            let failpoints = cargo(&[
                "test",
                "-p",
                "init",
                "--features",
                "failpoints",
                "--test",
                "failpoints",
                "--locked",
                "--quiet",
            ]);
            all.and(failpoints)
        });
    }
    if suite == Some("fleet") {
        step("fleet", &|| {
            let crates = ["fleet-model", "etcd-kv", "fleetd", "fleetctl"];
            let mut args = vec!["test", "--locked", "--no-fail-fast"];
            args.extend(crates.iter().flat_map(|name| ["-p", name]));
            // Shown: the conformance table, and what the simulation and the faults measured.
            args.extend(["--", "--nocapture"]);
            cargo(&args)
        });
    }
    if all || suite == Some("fleet") {
        step("original fleetctl", &original_fleetctl);
    }
    let qemu = suite.filter(|s| !["fmt", "tidy", "clippy", "unit", "qemu"].contains(s));
    if all || suite == Some("qemu") || qemu.is_some() {
        step("image", &|| image::build(None, false));
        if qemu.is_none() {
            step("same bytes twice", &image::same_bytes);
        }
        for file in qemu.map_or(QEMU_FILES.to_vec(), |name| vec![name]) {
            step(&format!("qemu {file}"), &|| {
                qemu_file(file, &image::peer()?)
            });
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "));
}

/// The original's client against our API. Its program is not part of this project, and is built from
/// its source by whoever wants this comparison.
fn original_fleetctl() -> Result<()> {
    const PROGRAM: &str = "FLOTILLA_ORIGINAL_FLEETCTL";
    if std::env::var_os(PROGRAM).is_none() {
        eprintln!("--- original fleetctl: NOT RUN, {PROGRAM} does not name its program");
        return Ok(());
    }
    let args = ["--features", "original", "--test", "original"];
    let shown = ["--", "--nocapture", "--test-threads=2"];
    cargo(&[&["test", "-p", "fleetctl", "--locked"][..], &args, &shown].concat())
}

/// How many tests of a file run at once. Those of `boot` need one emulated processor and no registry, whose port there is
/// once; where there are two processors, two of them take half the time.
fn threads(file: &str) -> &'static str {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if file == "boot" && processors > 1 {
        "--test-threads=2"
    } else {
        "--test-threads=1"
    }
}

/// One file of QEMU tests. An emulated guest on a busy host may miss a deadline: a file that fails is run once more, and
/// says so; failing twice is a failure.
fn qemu_file(file: &str, peer: &str) -> Result<()> {
    let args = [
        "test",
        "-p",
        "qemu-tests",
        "--locked",
        "--no-fail-fast",
        "--test",
        file,
        "--",
        threads(file),
        "--nocapture",
    ];
    let run = || cargo_with(&args, &[("FLOTILLA_PEER", peer)]);
    run().or_else(|e| {
        eprintln!("--- qemu {file}: FAILED ONCE ({e:#}); running it again");
        run()
    })
}

fn cargo(args: &[&str]) -> Result<()> {
    cargo_with(args, &[])
}

fn cargo_with(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(args)
        .envs(env.iter().copied())
        .env("FLOTILLA_STATIC", image::static_dir())
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {}: {status}", args[0]);
    }
    Ok(())
}
