//! Performing a plan below a root directory.
//!
//! Each change is idempotent: what holds already is left alone and counted as unchanged. The first
//! failing file, account or key set ends the plan, as the format demands; what the service manager
//! refuses is a problem that is remembered while the rest goes on, because a document written for
//! another system may name units that this one does not have. Nothing here decides; see [`crate::plan`].

pub mod accounts;
pub mod keys;
mod programs;
pub mod root;
pub mod units;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

pub use root::Root;
pub use units::{Ended, Patience, SystemBus, UnitError, Units};

use crate::plan::{Change, NewUser, Weight};
use accounts::{Account, AccountError};
use keys::{AddMode, KeyStore, KeysError};
use root::{FsError, Perm};

/// Why a plan was not performed to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file.
    #[error("failed to {0}")]
    File(String, #[source] FsError),
    /// An account.
    #[error("failed to {0}")]
    Account(String, #[source] AccountError),
    /// Keys.
    #[error("failed to {0}")]
    Keys(String, #[source] KeysError),
    /// The kernel's host name.
    #[error("failed to set the host name to {0}")]
    Hostname(String, #[source] std::io::Error),
    /// Not a host name.
    #[error("\"{0}\" is not a host name (letters, digits, dashes and dots, at most 64)")]
    BadHostname(String),
    /// The plan says so.
    #[error("{0}")]
    Refused(String),
}

/// What came of a plan.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Changes that were made.
    pub changed: usize,
    /// Changes that held already.
    pub unchanged: usize,
    /// Changes that need the running system and were left out below another root.
    pub skipped: usize,
    /// Things that went wrong without ending the plan.
    pub problems: Vec<String>,
    /// A file of networkd was changed.
    pub network_changed: bool,
}

impl Summary {
    /// Adds another summary.
    pub fn absorb(&mut self, other: Summary) {
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.skipped += other.skipped;
        self.problems.extend(other.problems);
        self.network_changed |= other.network_changed;
    }
}

/// When networkd is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkRestart {
    /// Whenever the plan says so.
    Always,
    /// Only if one of its files changed: an earlier stage may have written them already.
    IfChanged,
}

/// What performing a plan needs.
pub struct Applier<'a> {
    /// The root directory.
    pub root: &'a Root,
    /// Whether there is a service manager for this root, and programs of it may be run.
    pub manager: bool,
    /// The service manager.
    pub units: &'a mut dyn Units,
    /// How to wait for jobs.
    pub patience: Patience,
    /// When to restart networkd.
    pub network_restart: NetworkRestart,
    /// Workspace for scripts.
    pub workspace: PathBuf,
    /// Instance that once-only commands belong to.
    pub instance: String,
}

impl std::fmt::Debug for Applier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What one change did.
enum Outcome {
    Changed,
    Unchanged,
    Skipped,
    Problem(String),
}

impl From<bool> for Outcome {
    fn from(changed: bool) -> Self {
        if changed {
            Outcome::Changed
        } else {
            Outcome::Unchanged
        }
    }
}

impl Applier<'_> {
    /// Performs the changes in order. On an error the summary of what was done so far comes with it.
    pub fn apply(&mut self, changes: &[Change]) -> (Summary, Option<ApplyError>) {
        let mut summary = Summary::default();
        for change in changes {
            match self.perform(change, &summary) {
                Ok(Outcome::Changed) => {
                    tracing::info!("done: {change}");
                    summary.changed += 1;
                    summary.network_changed |= is_network_file(change);
                }
                Ok(Outcome::Unchanged) => {
                    tracing::debug!("holds already: {change}");
                    summary.unchanged += 1;
                }
                Ok(Outcome::Skipped) => {
                    tracing::debug!("left out: {change}");
                    summary.skipped += 1;
                }
                Ok(Outcome::Problem(text)) => {
                    tracing::error!("{text}");
                    summary.problems.push(text);
                }
                Err(error) => return (summary, Some(error)),
            }
        }
        (summary, None)
    }

    fn perform(&mut self, change: &Change, sofar: &Summary) -> Result<Outcome, ApplyError> {
        match change {
            Change::SetHostname { name } => self.hostname(name),
            Change::CreateGroup { name, members } => self.group(change, name, members),
            Change::CreateUser(user) => self.user(change, user),
            Change::SetPassword { user, hash } => {
                accounts::edit(self.root, |a| a.set_password(user, hash, accounts::today()))
                    .map(Outcome::from)
                    .map_err(|e| ApplyError::Account(change.to_string(), e))
            }
            Change::SetKeys { user, set, keys } => self.keys(change, user, set, keys),
            Change::WriteFile {
                path,
                content,
                mode,
                owner,
                append,
            } => self.file(change, path, content, *mode, owner, *append),
            Change::Link { path, target } => self
                .root
                .link(path, target)
                .map(Outcome::from)
                .map_err(|e| ApplyError::File(change.to_string(), e)),
            Change::Unmask { path } => self
                .root
                .unmask(path)
                .map(Outcome::from)
                .map_err(|e| ApplyError::File(change.to_string(), e)),
            Change::Problem { message, weight } => match weight {
                Weight::Fatal => Err(ApplyError::Refused(message.clone())),
                Weight::Error => Ok(Outcome::Problem(message.clone())),
                Weight::Skipped => {
                    tracing::warn!("{message}");
                    Ok(Outcome::Unchanged)
                }
            },
            _ if !self.manager => Ok(Outcome::Skipped),
            Change::EnableUnit { unit, runtime } => {
                let result = self.units.enable(unit, *runtime).map(|()| Ended::Done);
                Ok(manager(change, result, false))
            }
            Change::Reload => {
                let result = self.units.reload().map(|()| Ended::Done);
                Ok(manager(change, result, false))
            }
            Change::RestartNetworkd => {
                if self.network_restart == NetworkRestart::IfChanged && !sofar.network_changed {
                    return Ok(Outcome::Unchanged);
                }
                let result =
                    self.units
                        .command("systemd-networkd.service", "restart", self.patience);
                Ok(manager(change, result, true))
            }
            Change::UnitCommand {
                unit,
                command,
                generated,
            } => {
                let result = self.units.command(unit, command, self.patience);
                Ok(manager(change, result, *generated))
            }
            Change::Run { args, late } => Ok(self.program(args, *late)),
            Change::RunScript { script } => self.script(change, script),
        }
    }

    fn hostname(&mut self, name: &str) -> Result<Outcome, ApplyError> {
        let valid = name.len() <= 64
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !valid {
            return Err(ApplyError::BadHostname(name.to_owned()));
        }
        let path = Path::new("/etc/hostname");
        let mut changed = self
            .root
            .write(path, format!("{name}\n").as_bytes(), Perm::root(0o644))
            .map_err(|e| ApplyError::File("write /etc/hostname".to_owned(), e))?;
        if self.root.is_live() {
            let uname = rustix::system::uname();
            if uname.nodename().to_bytes() != name.as_bytes() {
                rustix::system::sethostname(name.as_bytes())
                    .map_err(|e| ApplyError::Hostname(name.to_owned(), e.into()))?;
                changed = true;
            }
        }
        Ok(changed.into())
    }

    fn group(
        &mut self,
        change: &Change,
        name: &str,
        members: &[String],
    ) -> Result<Outcome, ApplyError> {
        accounts::edit(self.root, |a| {
            let before = a.clone();
            a.ensure_group(name, None, false)?;
            for member in members {
                a.add_member(name, member)?;
            }
            Ok(*a != before)
        })
        .map(Outcome::from)
        .map_err(|e| ApplyError::Account(change.to_string(), e))
    }

    fn user(&mut self, change: &Change, user: &NewUser) -> Result<Outcome, ApplyError> {
        let failed = |e| ApplyError::Account(change.to_string(), e);
        let made = accounts::edit(self.root, |a| {
            // An earlier document of this boot may have made it.
            if a.account(&user.name).is_some() {
                return Ok(None);
            }
            a.create(user, accounts::today()).map(Some)
        })
        .map_err(failed)?;
        let Some((account, groups)) = made else {
            return Ok(Outcome::Unchanged);
        };
        for group in groups {
            tracing::warn!(user = user.name, group, "group did not exist and was made");
        }
        if user.create_home {
            self.home(&account)
                .map_err(|e| ApplyError::File(format!("make the home of {}", user.name), e))?;
        }
        Ok(Outcome::Changed)
    }

    /// Makes a home directory with the files of `/etc/skel`; one that exists is left alone.
    fn home(&mut self, account: &Account) -> Result<(), FsError> {
        let home = crate::config::clean(&account.home);
        if self.root.exists(&home) {
            return Ok(());
        }
        let fd = self.root.directory(&home, true)?;
        let perm = Perm {
            mode: 0o700,
            uid: account.uid,
            gid: account.gid,
        };
        programs::copy_skeleton(self.root, Path::new("/etc/skel"), &home, account)?;
        root::own(fd.as_fd(), perm).map_err(|e| FsError::Io {
            what: "own",
            path: home.display().to_string(),
            source: e.into(),
        })
    }

    fn keys(
        &mut self,
        change: &Change,
        user: &str,
        set: &str,
        keys: &[String],
    ) -> Result<Outcome, ApplyError> {
        let failed = |e| ApplyError::Account(change.to_string(), e);
        let all = accounts::read(self.root).map_err(|e| failed(AccountError::Files(e)))?;
        let account = all
            .account(user)
            .ok_or_else(|| failed(AccountError::NoUser(user.to_owned())))?;
        let text = keys.join("\n");
        let result = KeyStore::open(self.root, &account).and_then(|store| {
            store.add(
                set,
                &text,
                AddMode {
                    keep: false,
                    force: false,
                },
            )
        });
        match result {
            // An operator who disabled the set means it.
            Err(error @ KeysError::Disabled(_)) => Ok(Outcome::Problem(error.to_string())),
            other => other
                .map(Outcome::from)
                .map_err(|e| ApplyError::Keys(change.to_string(), e)),
        }
    }

    fn file(
        &mut self,
        change: &Change,
        path: &Path,
        content: &[u8],
        mode: u32,
        owner: &str,
        append: bool,
    ) -> Result<Outcome, ApplyError> {
        let failed = |e| ApplyError::File(change.to_string(), e);
        let (uid, gid) = if owner.is_empty() {
            (0, 0)
        } else {
            accounts::read(self.root)
                .map_err(AccountError::Files)
                .and_then(|a| a.owner(owner))
                .map_err(|e| ApplyError::Account(change.to_string(), e))?
        };
        let perm = Perm { mode, uid, gid };
        if append {
            let mut whole = self.root.read(path).map_err(failed)?.unwrap_or_default();
            // Every boot applies the document again; the same text is added once.
            if !whole.ends_with(content) {
                whole.extend_from_slice(content);
            }
            return self
                .root
                .write(path, &whole, perm)
                .map(Outcome::from)
                .map_err(failed);
        }
        self.root
            .write(path, content, perm)
            .map(Outcome::from)
            .map_err(failed)
    }
}

/// The outcome of something asked of the service manager.
fn manager(change: &Change, result: Result<Ended, UnitError>, optional: bool) -> Outcome {
    match result {
        Ok(Ended::Done) => Outcome::Changed,
        Ok(Ended::Queued) => {
            tracing::info!("queued: {change}");
            Outcome::Unchanged
        }
        // The original logs the result of a job and goes on.
        Ok(Ended::Badly(word)) => {
            tracing::warn!("{change}: job ended with {word}");
            Outcome::Unchanged
        }
        Err(error @ UnitError::NoSuchUnit(_)) if optional => {
            tracing::warn!("{change}: {error}");
            Outcome::Unchanged
        }
        Err(error) => Outcome::Problem(format!("{change}: {}", telemetry::chain(&error))),
    }
}

fn is_network_file(change: &Change) -> bool {
    matches!(change, Change::WriteFile { path, .. } | Change::Link { path, .. }
        if path.components().any(|c| c.as_os_str() == "network"))
}
