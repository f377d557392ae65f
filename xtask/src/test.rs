//! `cargo xtask test`: what CI runs. All checks run; failures are reported together at the end.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{bench, image, setup, tidy};

/// The files of qemu-tests, in the order in which they run. Those of one line run side by side: their tests have one
/// machine each, which keeps one processor busy.
const QEMU_FILES: &[&[&str]] = &[&["boot", "single"], &["cluster"], &["fleet"], &["up"]];

/// Those of the suite `fleet`. A stock Debian is not part of the whole: all of CI is to end within 45 minutes, and it
/// takes five emulated ones.
const FLEET_FILES: &[&[&str]] = &[&["fleet"], &["debian"]];

/// Runs one suite, or all of them.
pub fn run(suite: Option<&str>) -> Result<()> {
    setup::install(&setup::all())?;
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
    // The tests below wait a lot, for children, clocks and leases: meanwhile the image's programs are compiled.
    let compiling =
        Cell::new(all.then(|| std::thread::spawn(|| image::compile(image::Priority::Idle))));
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
        // The rules of the contract, and the tests that show them: those below.
        step("conformance table", &tidy::run);
        step("fleet", &|| {
            let crates = ["fleet-model", "etcd-kv", "fleetd", "fleetctl"];
            let mut args = vec!["test", "--locked", "--no-fail-fast"];
            args.extend(crates.iter().flat_map(|name| ["-p", name]));
            // Shown: each rule of the API with its request, and what the simulation and the faults measured.
            args.extend(["--", "--nocapture"]);
            cargo(&args)
        });
    }
    if all || suite == Some("fleet") {
        step("original fleetctl", &original_fleetctl);
    }
    let qemu = suite.filter(|s| !["fmt", "tidy", "clippy", "unit", "qemu"].contains(s));
    if all || suite == Some("qemu") || qemu.is_some() {
        step("image", &|| {
            if let Some(compiling) = compiling.take() {
                let done = compiling.join();
                done.unwrap_or_else(|_| bail!("the compiling thread panicked"))?;
            }
            image::build(None, false)
        });
        if qemu.is_none() {
            step("same bytes twice", &image::same_bytes);
        }
        let one = qemu.map(|name| [name]);
        let files = match &one {
            None => QEMU_FILES.to_vec(),
            Some(["fleet"]) => FLEET_FILES.to_vec(),
            Some(one) => vec![&one[..]],
        };
        for files in files {
            step(&format!("qemu {}", files.join(" and ")), &|| {
                side_by_side(files, &image::peer()?)
            });
        }
        if qemu.is_none() {
            // Once each: that every figure is measured. For the figures themselves, more runs on a quiet machine.
            step("bench boot", &|| bench::boot(1));
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

/// Runs files of QEMU tests at once: the first is shown as it runs, the others when it is done.
fn side_by_side(files: &[&str], peer: &str) -> Result<()> {
    let Some((first, others)) = files.split_first() else {
        return Ok(());
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = others
            .iter()
            .map(|file| {
                let log = PathBuf::from(format!("build/test-{file}.log"));
                let _ = std::fs::remove_file(&log);
                let shown = log.clone();
                let run = scope.spawn(move || qemu_file(file, peer, Some(&log)));
                (shown, run)
            })
            .collect();
        let mut result = qemu_file(first, peer, None);
        for (log, run) in others {
            let other = run.join().unwrap_or_else(|_| bail!("the runner panicked"));
            eprint!("{}", std::fs::read_to_string(&log).unwrap_or_default());
            result = result.and(other);
        }
        result
    })
}

/// One file of QEMU tests. An emulated guest on a busy host may miss a deadline: a file that fails is run once more, and
/// says so; failing twice is a failure.
fn qemu_file(file: &str, peer: &str, log: Option<&Path>) -> Result<()> {
    let args = [
        "test",
        "-p",
        "qemu-tests",
        "--locked",
        "--no-fail-fast",
        "--test",
        file,
        "--",
        // One machine keeps one processor busy; only those of `boot` need no registry, whose port there is once.
        if file == "boot" {
            "--test-threads=2"
        } else {
            "--test-threads=1"
        },
        "--nocapture",
    ];
    let run = || {
        let mut command = cargo_command(&args);
        command.env("FLOTILLA_PEER", peer);
        if let Some(log) = log {
            let to = std::fs::File::options().create(true).append(true).open(log);
            let to = to.with_context(|| format!("cannot write {}", log.display()))?;
            command.stdout(to.try_clone()?).stderr(to);
        }
        finish(&mut command)
    };
    run().or_else(|e| {
        eprintln!("--- qemu {file}: FAILED ONCE ({e:#}); running it again");
        run()
    })
}

fn cargo(args: &[&str]) -> Result<()> {
    cargo_with(args, &[])
}

fn cargo_with(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    finish(cargo_command(args).envs(env.iter().copied()))
}

fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(args)
        .env("FLOTILLA_STATIC", image::static_dir())
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu");
    command
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        let verb = command.get_args().next().unwrap_or_default();
        bail!("cargo {}: {status}", verb.display());
    }
    Ok(())
}
