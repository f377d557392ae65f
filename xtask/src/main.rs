//! `cargo xtask`: the entry points of developers and users.
//!
//! Owns: what has to be installed, built and run, in which order, for `up`, `test`, `image`, `bench` and `tidy`. The
//! machines themselves are `qemu-tests`, the image is `image-build`.

#![forbid(unsafe_code)]

mod bench;
mod bench_fleet;
mod cluster;
mod conformance;
mod image;
mod layers;
mod setup;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Builds, runs and tests Flotilla.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "Example:\n  cargo xtask up --machines 3\n  cargo xtask ssh 1 -- fleetctl list-machines\n  cargo xtask down"
)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Builds the image and boots a cluster in QEMU with a container on it.
    Up(cluster::UpArgs),
    /// Ends the cluster of `up`: exactly the processes that it started.
    Down(cluster::Name),
    /// Runs a command on machine N, or opens a shell there.
    Ssh {
        #[command(flatten)]
        cluster: cluster::Name,
        /// Machine number, from 1.
        n: u8,
        /// Command and arguments; its output and exit status are passed on.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Attaches to the serial console of machine N (ctrl-] ends).
    Console {
        #[command(flatten)]
        cluster: cluster::Name,
        /// Machine number, from 1.
        n: u8,
    },
    /// Formatting, lints, unit, property, integration and QEMU tests.
    Test {
        /// Run one suite only: fmt, tidy, clippy, unit, qemu, fleet, or a test file of qemu-tests (boot, cluster, single, up).
        suite: Option<String>,
    },
    /// Builds programs and image into build/image.
    Image {
        #[command(subcommand)]
        action: Option<ImageAction>,
        /// Debian mirror to use in place of the host's own.
        #[arg(long)]
        mirror: Option<String>,
        /// Build even where nothing changed.
        #[arg(long)]
        force: bool,
    },
    /// Measures, beside a peer in the same call.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        what: Bench,
    },
    /// Checks layers, documents and manifests.
    Tidy,
    /// Installs the host packages that the other commands need.
    Setup,
    /// Prints a completion script.
    Completion {
        /// bash, zsh or fish.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ImageAction {
    /// Resolves the package list against the mirror and writes packages.lock.
    UpdateLock,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Start of the kernel to init, multi-user.target, ssh and a fleet unit; memory; sizes. The peer is a minimal Debian.
    Boot {
        /// Boots of each system; the medians are printed.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
        runs: u8,
    },
    /// Fleet's latency, writes, planner and memory, up to 1000 machines, with a real etcd; writes docs/fleet/bench.md.
    Fleet,
}

/// The checkout's top directory.
fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(e) = std::env::set_current_dir(top()) {
        eprintln!("xtask: cannot enter {}: {e}", top().display());
        return ExitCode::FAILURE;
    }
    match run(&cli.command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Cmd) -> anyhow::Result<ExitCode> {
    match command {
        Cmd::Up(args) => cluster::up(args)?,
        Cmd::Down(cluster) => cluster::down(cluster)?,
        Cmd::Ssh {
            cluster,
            n,
            command,
        } => return cluster::ssh(cluster, *n, command),
        Cmd::Console { cluster, n } => return cluster::console(cluster, *n),
        Cmd::Test { suite } => test::run(suite.as_deref())?,
        Cmd::Image {
            action: Some(ImageAction::UpdateLock),
            mirror,
            ..
        } => image::update_lock(mirror.as_deref())?,
        Cmd::Image {
            action: None,
            mirror,
            force,
        } => image::build(mirror.as_deref(), *force)?,
        Cmd::Bench { what } => match what {
            Bench::Boot { runs } => bench::boot(*runs)?,
            Bench::Fleet => bench_fleet::fleet()?,
        },
        Cmd::Tidy => tidy::run()?,
        Cmd::Setup => setup::install(&setup::all())?,
        Cmd::Completion { shell } => {
            clap_complete::generate(
                *shell,
                &mut Cli::command(),
                "cargo-xtask",
                &mut std::io::stdout(),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
