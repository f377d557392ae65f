//! Scripts, once-only commands, and the skeleton of a home directory.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Dir, FileType};

use super::accounts::Account;
use super::root::{FsError, Perm, Root};
use super::{Applier, ApplyError, Ended, Outcome};
use crate::plan::Change;

/// Where marks of what was done once are kept.
const STATE: &str = "/var/lib/flotilla/cloudinit";
/// Deepest directory below the skeleton.
const MAX_DEPTH: usize = 8;

impl Applier<'_> {
    /// Runs a program of `bootcmd` or, once per instance, of `runcmd`.
    pub(super) fn program(&mut self, args: &[String], late: bool) -> Outcome {
        let mark = late.then(|| self.mark(args));
        if mark.as_ref().is_some_and(|mark| self.root.exists(mark)) {
            return Outcome::Unchanged;
        }
        let Some((program, rest)) = args.split_first() else {
            return Outcome::Unchanged;
        };
        let status = Command::new(program)
            .args(rest)
            .stdin(Stdio::null())
            .status();
        let problem = match status {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("{}: {status}", program)),
            Err(error) => Some(format!("{}: {error}", program)),
        };
        if let Some(mark) = mark
            && let Err(error) = self.root.write(&mark, b"", Perm::root(0o600))
        {
            tracing::warn!("cannot remember that a command was run: {error}");
        }
        problem.map_or(Outcome::Changed, Outcome::Problem)
    }

    /// The file that says that a command was run in this instance.
    fn mark(&self, args: &[String]) -> std::path::PathBuf {
        let instance: String = self
            .instance
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .take(128)
            .collect();
        let instance = if instance.is_empty() {
            "none".to_owned()
        } else {
            instance
        };
        // A checksum is enough: two commands of one document that collide are not a thing to defend against.
        let mut crc = flate2::Crc::new();
        for arg in args {
            crc.update(arg.as_bytes());
            crc.update(&[0]);
        }
        Path::new(STATE)
            .join(instance)
            .join(format!("runcmd-{:08x}", crc.sum()))
    }

    /// Stores a script in the workspace and runs it in a unit of its own.
    pub(super) fn script(&mut self, change: &Change, script: &str) -> Result<Outcome, ApplyError> {
        let failed = |e| ApplyError::File(change.to_string(), e);
        let scripts = self.workspace.join("scripts");
        self.root.directory(&scripts, true).map_err(failed)?;
        let number = random_number();
        let path = scripts.join(number.to_string());
        self.root
            .write(&path, script.as_bytes(), Perm::root(0o744))
            .map_err(failed)?;
        let unit = format!("coreos-cloudinit-{number}.service");
        let argv = ["/bin/bash".to_owned(), path.display().to_string()];
        let result = self.units.run(
            &unit,
            "Unit generated and executed by coreos-cloudinit on behalf of user",
            &argv,
            self.patience,
        );
        let outcome = match result {
            Ok(Ended::Badly(word)) => Outcome::Problem(format!("script {unit} ended with {word}")),
            Ok(_) => Outcome::Changed,
            Err(error) => Outcome::Problem(format!("{change}: {}", telemetry::chain(&error))),
        };
        let name = scripts.join("unit-name");
        self.root
            .write(&name, unit.as_bytes(), Perm::root(0o644))
            .map_err(failed)?;
        Ok(outcome)
    }
}

fn random_number() -> u32 {
    let mut bytes = [0_u8; 4];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u32::from_le_bytes(bytes) & 0x7fff_ffff,
        Err(_) => std::process::id(),
    }
}

/// Copies the files below `skeleton` into a new home, owned by the account.
pub(super) fn copy_skeleton(
    root: &Root,
    skeleton: &Path,
    home: &Path,
    account: &Account,
) -> Result<(), FsError> {
    copy_level(root, skeleton, home, account, 0)
}

fn copy_level(
    root: &Root,
    from: &Path,
    to: &Path,
    account: &Account,
    depth: usize,
) -> Result<(), FsError> {
    let dir = match root.directory(from, false) {
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    let failed = |e: rustix::io::Errno| FsError::Io {
        what: "copy",
        path: from.display().to_string(),
        source: e.into(),
    };
    for entry in Dir::read_from(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let (source, target) = (from.join(&name), to.join(&name));
        let stat = rustix::fs::statat(&dir, &*name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
        let perm = Perm {
            mode: stat.st_mode & 0o777,
            uid: account.uid,
            gid: account.gid,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let bytes = root.read(&source)?.unwrap_or_default();
                root.write(&target, &bytes, perm)?;
            }
            FileType::Directory if depth < MAX_DEPTH => {
                let made = root.directory(&target, true)?;
                copy_level(root, &source, &target, account, depth + 1)?;
                super::root::own(made.as_fd(), perm).map_err(failed)?;
            }
            // Links and others are rare in a skeleton and not worth a rule.
            _ => {}
        }
    }
    Ok(())
}
