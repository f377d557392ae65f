//! Builds Flotilla's image parts from Debian packages, our programs and `rootfs/`.
//!
//! Owns: package lock, file tree of /usr, erofs + verity, initramfs, disk image. Does not compile anything: the
//! programs are given with `--programs`. No network access but apt's. Same inputs give the same bytes.

#![forbid(unsafe_code)]

mod disk;
mod initramfs;
mod packages;
mod tool;
mod tree;
mod verity;

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use gpt::Guid;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::packages::{Apt, hex};
use crate::tool::{Run, Tools};

/// Builds Flotilla's disk image, kernel and initramfs.
#[derive(Debug, Parser)]
#[command(
    name = "image-build",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong arguments, 3 a locked version is gone from the mirror.\n\nExample:\n  image-build build --programs target/release --init target/x86_64-unknown-linux-gnu/static --out build/image"
)]
struct Cli {
    /// Directory of image-build's own data: packages.toml, packages.lock, prune.txt, rootfs/.
    #[arg(long, default_value = "image-build")]
    data: PathBuf,
    /// Debian mirror to use in place of the host's own.
    #[arg(long, global = true)]
    mirror: Option<String>,
    /// Download and work cache.
    #[arg(long, global = true, default_value = "build/cache")]
    cache: PathBuf,
    /// Package lock [default: packages.lock in the data directory].
    #[arg(long, global = true)]
    lock: Option<PathBuf>,
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Builds all parts.
    Build {
        /// Directory with our release programs.
        #[arg(long)]
        programs: PathBuf,
        /// Directory with the static `init`.
        #[arg(long)]
        init: PathBuf,
        /// Where the parts go.
        #[arg(long, default_value = "build/image")]
        out: PathBuf,
        /// Commit that the programs were built from, for os-release.
        #[arg(long, default_value = "unknown")]
        build_id: String,
        /// Every stored time, in seconds since 1970.
        #[arg(long, default_value_t = 1)]
        epoch: u64,
    },
    /// Unpacks the peer, a minimal Debian with systemd, and prints its directory.
    Peer,
    /// Resolves packages.toml against the mirror and writes packages.lock.
    UpdateLock,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("image-build: {e:#}");
            if e.is::<packages::Gone>() {
                return ExitCode::from(3);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let lock = cli
        .lock
        .clone()
        .unwrap_or_else(|| cli.data.join("packages.lock"));
    fs::create_dir_all(&cli.cache)?;
    match &cli.command {
        Cmd::UpdateLock => {
            let wanted = packages::wanted(&cli.data.join("packages.toml"))?;
            let apt = Apt::open(&cli.cache.join("apt"), cli.mirror.as_deref())?;
            for change in packages::update_lock(&apt, &wanted, &lock)? {
                println!("{change}");
            }
            Ok(())
        }
        Cmd::Peer => {
            let dir = unpacked(cli, &packages::read_lock(&lock)?, "peer")?;
            println!("{}", dir.display());
            Ok(())
        }
        Cmd::Build {
            programs,
            init,
            out,
            build_id,
            epoch,
        } => {
            let b = Build {
                cli,
                programs,
                init,
                out,
                build_id,
                epoch: *epoch,
            };
            b.run(&packages::read_lock(&lock)?)
        }
    }
}

struct Build<'a> {
    cli: &'a Cli,
    programs: &'a Path,
    init: &'a Path,
    out: &'a Path,
    build_id: &'a str,
    epoch: u64,
}

impl Build<'_> {
    fn run(&self, lock: &[packages::Locked]) -> Result<()> {
        space(&self.cli.cache, 3 << 30)?;
        let version = env!("CARGO_PKG_VERSION");
        fs::create_dir_all(self.out)?;
        let tools = Tools::at(&unpacked(self.cli, lock, "tools")?);
        let base = unpacked(self.cli, lock, "image")?;

        let step = Progress::start("assemble /usr");
        let root = self.cli.cache.join("root");
        let _ = fs::remove_dir_all(&root);
        Command::new("cp")
            .arg("-al")
            .arg(&base)
            .arg(&root)
            .run()
            .context("cannot copy the package tree")?;
        let kernel = only_entry(&root.join("usr/lib/modules"))?;
        let vmlinuz = self.out.join("vmlinuz");
        let modules_text = base.join("usr/lib/modules").join(&kernel);
        Command::new("depmod")
            .arg("-b")
            .arg(&base)
            .arg(&kernel)
            .run()?;
        copy(&self.kernel_image(&kernel), &vmlinuz)?;
        let ca = root
            .join("usr/share/ca-certificates/mozilla")
            .canonicalize()
            .context("the ca-certificates package changed its layout")?;
        tree::finish(&root, &ca, &kernel)?;
        tree::prune(&root, &fs::read_to_string(self.cli.data.join("prune.txt"))?)?;
        tree::keep_etc(&root)?;
        tree::overlay(&self.cli.data.join("rootfs"), &root)?;
        tree::install_programs(&root, self.programs, self.init)?;
        self.os_release(&root, version)?;
        let (bytes, files) = tree::size(&root.join("usr"))?;
        step.done(&format!("{files} files, {} MB", bytes / 1_000_000));

        let step = Progress::start("compress /usr and hash it");
        let usr = self.out.join("usr.img");
        self.erofs(&tools, &root.join("usr"), &usr)?;
        let salt: [u8; 32] = Sha256::digest(format!("flotilla {version}")).into();
        let v = verity::append(
            &usr,
            &salt,
            &"f1071111-0000-4000-8000-0000000000aa".parse::<Guid>()?.0,
        )?;
        let usr_args = format!(
            "flotilla.usrhash={} flotilla.usrdata={} flotilla.usrsalt={} panic=10 oops=panic quiet",
            v.root, v.blocks, v.salt
        );
        step.done(&format!("{} MB", fs::metadata(&usr)?.len() / 1_000_000));

        let step = Progress::start("initramfs");
        let initrd = self.out.join("initrd");
        let cpio = initramfs::build(&self.init.join("init"), &modules_text, &kernel)?;
        fs::write(&initrd, zstd::encode_all(&cpio[..], 15)?)?;
        step.done(&format!("{} kB", fs::metadata(&initrd)?.len() / 1000));

        let step = Progress::start("disk image");
        let raw = self.out.join("flotilla.raw");
        let parts = disk::Parts {
            usr: &usr,
            vmlinuz: &vmlinuz,
            initrd: &initrd,
            usr_args: &usr_args,
            version,
            epoch: self.epoch,
        };
        disk::build(&tools, &parts, &self.cli.cache, &raw)?;
        disk::qcow2(&raw, &self.out.join("flotilla.qcow2"))?;
        fs::write(
            self.out.join("cmdline"),
            format!("{usr_args} flotilla.slot=A\n"),
        )?;
        step.done("flotilla.raw, flotilla.qcow2");
        self.manifest(lock, version, &v.root)
    }

    fn kernel_image(&self, release: &str) -> PathBuf {
        self.cli
            .cache
            .join("root/boot")
            .join(format!("vmlinuz-{release}"))
    }

    fn erofs(&self, tools: &Tools, usr: &Path, out: &Path) -> Result<()> {
        let tmp = out.with_extension("new");
        let _ = fs::remove_file(&tmp);
        tools
            .command("mkfs.erofs")?
            .args(["-zzstd,level=9", "-C65536", "--all-root", "-x-1", "--quiet"])
            .arg(format!("-T{}", self.epoch))
            .arg("--all-time")
            .args(["-U", "f1071111-0000-4000-8000-0000000000a0"])
            .arg(&tmp)
            .arg(usr)
            .run()
            .context("cannot make the /usr file system")?;
        fs::rename(&tmp, out)?;
        Ok(())
    }

    fn os_release(&self, root: &Path, version: &str) -> Result<()> {
        let text = format!(
            "ID=flotilla\nID_LIKE=\"coreos flatcar\"\nNAME=\"Flotilla\"\nPRETTY_NAME=\"Flotilla {version}\"\nVERSION={version}\nVERSION_ID={version}\n\
             IMAGE_ID=flotilla-amd64\nIMAGE_VERSION={version}\nBUILD_ID={}\nBUILD_EPOCH={}\nVARIANT_ID=cloud\nHOME_URL=\"https://flotilla.invalid/\"\n",
            self.build_id, self.epoch
        );
        let _ = fs::remove_file(root.join("usr/lib/os-release"));
        fs::write(root.join("usr/lib/os-release"), text)?;
        let share = root.join("usr/share/flotilla");
        fs::create_dir_all(&share)?;
        fs::write(
            share.join("release"),
            format!("COREOS_RELEASE_VERSION={version}\nCOREOS_RELEASE_BOARD=amd64-usr\n"),
        )?;
        Ok(())
    }

    fn manifest(&self, lock: &[packages::Locked], version: &str, root_hash: &str) -> Result<()> {
        let mut files = serde_json::Map::new();
        for name in ["vmlinuz", "initrd", "usr.img"] {
            let bytes = fs::read(self.out.join(name))?;
            files.insert(
                name.into(),
                serde_json::json!({"size": bytes.len(), "sha256": hex(&Sha256::digest(&bytes))}),
            );
        }
        let doc = serde_json::json!({
            "version": version, "build_id": self.build_id, "usrhash": root_hash, "files": files,
            "packages": lock.iter().filter(|l| l.set == "image").map(|l| format!("{} {}", l.name, l.version)).collect::<Vec<_>>(),
        });
        fs::write(
            self.out.join("manifest.json"),
            serde_json::to_vec_pretty(&doc)?,
        )?;
        Ok(())
    }
}

/// The unpacked, unpruned packages of one set, cached under the lock's hash.
fn unpacked(cli: &Cli, lock: &[packages::Locked], set: &str) -> Result<PathBuf> {
    let mine: Vec<packages::Locked> = lock.iter().filter(|l| l.set == set).cloned().collect();
    if mine.is_empty() {
        bail!("packages.lock has no packages for {set}; make it anew with update-lock");
    }
    let key: String = mine.iter().map(|l| l.sha256.as_str()).collect();
    let dir = cli
        .cache
        .join(format!("{set}-{}", &hex(&Sha256::digest(key))[..16]));
    if dir.exists() {
        return Ok(dir);
    }
    let step = Progress::start(&format!("Debian packages for {set}"));
    let apt = Apt::open(&cli.cache.join("apt"), cli.mirror.as_deref())?;
    let debs = apt.fetch(&mine, &|i, n, name| {
        step.say(&format!("downloading {i}/{n} {name}"));
    })?;
    let tmp = cli.cache.join(format!("{set}.new"));
    tree::unpack(&debs, &tmp, &|i, n| step.say(&format!("unpacking {i}/{n}")))?;
    fs::rename(&tmp, &dir)?;
    step.done(&format!("{} packages", mine.len()));
    Ok(dir)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_file(to);
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn only_entry(dir: &Path) -> Result<String> {
    let names: Vec<String> = fs::read_dir(dir)
        .with_context(|| format!("no {}", dir.display()))?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    match &names[..] {
        [one] => Ok(one.clone()),
        _ => bail!("{} kernels in {}, want one", names.len(), dir.display()),
    }
}

/// Fails where fewer than `want` bytes are free at `path`.
fn space(path: &Path, want: u64) -> Result<()> {
    let s = rustix::fs::statvfs(path)?;
    let free = s.f_bavail * s.f_frsize;
    if free < want {
        bail!(
            "{} MB free at {}, {} MB needed; give another place with --cache",
            free >> 20,
            path.display(),
            want >> 20
        );
    }
    Ok(())
}

/// One step's progress: a spinner on a terminal, one line otherwise.
struct Progress {
    bar: ProgressBar,
    title: String,
}

impl Progress {
    fn start(title: &str) -> Progress {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg} [{elapsed}]")
                .expect("a constant template"),
        );
        bar.set_message(title.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress {
            bar,
            title: title.into(),
        }
    }

    fn say(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.title));
    }

    fn done(self, result: &str) {
        let seconds = self.bar.elapsed().as_secs_f32();
        self.bar.finish_and_clear();
        eprintln!("{}: {result} ({seconds:.1} s)", self.title);
    }
}
