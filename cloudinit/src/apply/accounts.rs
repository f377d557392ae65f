//! Accounts: the texts of passwd, group, shadow and gshadow, and edits of them.
//!
//! The edits are pure ([`Accounts`]); [`edit`] reads and writes the four files under the lock that
//! the C library's own tools take. There is no useradd on the image.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::root::{FsError, Perm, Root};
use crate::plan::{NewUser, valid_account_name};

/// Ids of people's accounts and groups.
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=59_999;
/// Ids of system accounts and groups.
const SYSTEM: std::ops::RangeInclusive<u32> = 600..=999;
/// The group `users`, for accounts without one of their own.
const USERS_GID: u32 = 100;
/// How long to wait for another program that edits accounts.
const LOCK_WAIT: Duration = Duration::from_secs(15);

/// Why an account cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// A file cannot be read or written.
    #[error("failed to edit the account files")]
    Files(#[source] FsError),
    /// Another program holds the lock.
    #[error("the account files are locked by another program")]
    Locked,
    /// The range is used up.
    #[error("no free {0} id")]
    NoFreeId(&'static str),
    /// The wanted id belongs to another account.
    #[error("user id {0} is taken")]
    UidTaken(u32),
    /// No such account.
    #[error("user {0} does not exist")]
    NoUser(String),
    /// No such group.
    #[error("group {0} does not exist")]
    NoGroup(String),
    /// A value that would break a line of the files.
    #[error("{field} contains a colon or a control character")]
    BadText {
        /// The field.
        field: &'static str,
    },
    /// A date that is not `YYYY-MM-DD` or a number of days.
    #[error("\"{0}\" is not a date")]
    BadDate(String),
}

/// One account as passwd says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// The four texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    passwd: Vec<String>,
    group: Vec<String>,
    shadow: Vec<String>,
    gshadow: Vec<String>,
}

/// A number that can be an owner: the largest one means "leave it" to the kernel.
fn id_of(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn field(line: &str, at: usize) -> &str {
    line.split(':').nth(at).unwrap_or_default()
}

fn with_field(line: &str, at: usize, value: &str) -> String {
    let mut fields: Vec<&str> = line.split(':').collect();
    if fields.len() <= at {
        fields.resize(at + 1, "");
    }
    fields[at] = value;
    fields.join(":")
}

fn clean_text(text: &str, name: &'static str) -> Result<(), AccountError> {
    if text.chars().any(|c| c == ':' || c.is_control()) {
        return Err(AccountError::BadText { field: name });
    }
    Ok(())
}

impl Accounts {
    /// Reads the texts.
    pub fn parse(passwd: &str, group: &str, shadow: &str, gshadow: &str) -> Self {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        Self {
            passwd: lines(passwd),
            group: lines(group),
            shadow: lines(shadow),
            gshadow: lines(gshadow),
        }
    }

    /// Names of all accounts.
    pub fn names(&self) -> BTreeSet<String> {
        self.passwd
            .iter()
            .map(|l| field(l, 0).to_owned())
            .filter(|n| !n.is_empty())
            .collect()
    }

    /// One account.
    pub fn account(&self, name: &str) -> Option<Account> {
        let line = self.passwd.iter().find(|l| field(l, 0) == name)?;
        Some(Account {
            name: name.to_owned(),
            uid: id_of(field(line, 2))?,
            gid: id_of(field(line, 3))?,
            home: field(line, 5).to_owned(),
        })
    }

    /// The id of a group given by name or number.
    pub fn gid(&self, group: &str) -> Option<u32> {
        let named = self.group.iter().find(|l| field(l, 0) == group);
        match named {
            Some(line) => id_of(field(line, 2)),
            None => id_of(group),
        }
    }

    /// Owner as for chown: `u`, `u:g`, `u:`, `:g`, names or numbers. Empty: root.
    pub fn owner(&self, text: &str) -> Result<(u32, u32), AccountError> {
        if text.is_empty() {
            return Ok((0, 0));
        }
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let no_user = || AccountError::NoUser(user.to_owned());
        let account = self.account(user);
        let uid = match (&account, user) {
            (Some(account), _) => account.uid,
            (None, "") => 0,
            (None, number) => id_of(number).ok_or_else(no_user)?,
        };
        let gid = match group {
            // chown leaves the group alone without a colon; new files are root's.
            None => 0,
            Some("") => account.map(|a| a.gid).ok_or_else(no_user)?,
            Some(group) => self
                .gid(group)
                .ok_or_else(|| AccountError::NoGroup(group.to_owned()))?,
        };
        Ok((uid, gid))
    }

    fn free_gid(&self, wish: Option<u32>, system: bool) -> Result<u32, AccountError> {
        let taken: BTreeSet<u32> = self
            .group
            .iter()
            .filter_map(|l| field(l, 2).parse().ok())
            .collect();
        pick(&taken, wish, system).ok_or(AccountError::NoFreeId("group"))
    }

    fn free_uid(&self, system: bool) -> Result<u32, AccountError> {
        let taken: BTreeSet<u32> = self
            .passwd
            .iter()
            .filter_map(|l| field(l, 2).parse().ok())
            .collect();
        pick(&taken, None, system).ok_or(AccountError::NoFreeId("user"))
    }

    /// Makes a group if it is missing; true if it was.
    pub fn ensure_group(
        &mut self,
        name: &str,
        wish: Option<u32>,
        system: bool,
    ) -> Result<bool, AccountError> {
        if !valid_account_name(name) {
            return Err(AccountError::NoGroup(name.to_owned()));
        }
        if self.group.iter().any(|l| field(l, 0) == name) {
            return Ok(false);
        }
        let gid = self.free_gid(wish, system)?;
        self.group.push(format!("{name}:x:{gid}:"));
        self.gshadow.retain(|l| field(l, 0) != name);
        self.gshadow.push(format!("{name}:!::"));
        Ok(true)
    }

    /// Puts an account into a group.
    pub fn add_member(&mut self, group: &str, user: &str) -> Result<(), AccountError> {
        let missing = || AccountError::NoGroup(group.to_owned());
        let line = self
            .group
            .iter_mut()
            .find(|l| field(l, 0) == group)
            .ok_or_else(missing)?;
        *line = with_member(line, user);
        if let Some(line) = self.gshadow.iter_mut().find(|l| field(l, 0) == group) {
            *line = with_member(line, user);
        }
        Ok(())
    }

    /// Makes an account; returns it with the groups that had to be made for it.
    pub fn create(
        &mut self,
        new: &NewUser,
        today: u64,
    ) -> Result<(Account, Vec<String>), AccountError> {
        for (text, name) in [
            (&new.gecos, "gecos"),
            (&new.home, "homedir"),
            (&new.shell, "shell"),
            (&new.passwd, "passwd"),
            (&new.inactive, "inactive"),
        ] {
            clean_text(text, name)?;
        }
        let expires = days_of_date(&new.expiredate)?;
        let uid = match new.uid {
            Some(uid) if self.passwd.iter().any(|l| field(l, 2).parse() == Ok(uid)) => {
                return Err(AccountError::UidTaken(uid));
            }
            Some(uid) => uid,
            None => self.free_uid(new.system)?,
        };
        let mut made = Vec::new();
        let gid = if !new.primary_group.is_empty() {
            self.gid(&new.primary_group)
                .ok_or_else(|| AccountError::NoGroup(new.primary_group.clone()))?
        } else if new.user_group {
            self.ensure_group(&new.name, Some(uid), new.system)?;
            self.gid(&new.name)
                .ok_or_else(|| AccountError::NoGroup(new.name.clone()))?
        } else {
            USERS_GID
        };
        for group in &new.groups {
            // A document may name a group of another system; a missing one must not cost the account.
            if self.ensure_group(group, None, true)? {
                made.push(group.clone());
            }
            self.add_member(group, &new.name)?;
        }
        let NewUser {
            name,
            gecos,
            home,
            shell,
            passwd,
            inactive,
            ..
        } = new;
        self.passwd
            .push(format!("{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}"));
        self.shadow.retain(|l| field(l, 0) != name);
        self.shadow.push(format!(
            "{name}:{passwd}:{today}:0:99999:7:{inactive}:{expires}:"
        ));
        let account = Account {
            name: name.clone(),
            uid,
            gid,
            home: home.clone(),
        };
        Ok((account, made))
    }

    /// Sets a password hash; false if it was the same.
    pub fn set_password(
        &mut self,
        user: &str,
        hash: &str,
        today: u64,
    ) -> Result<bool, AccountError> {
        clean_text(hash, "passwd")?;
        if self.account(user).is_none() {
            return Err(AccountError::NoUser(user.to_owned()));
        }
        match self.shadow.iter_mut().find(|l| field(l, 0) == user) {
            Some(line) if field(line, 1) == hash => Ok(false),
            Some(line) => {
                *line = with_field(&with_field(line, 1, hash), 2, &today.to_string());
                Ok(true)
            }
            None => {
                self.shadow
                    .push(format!("{user}:{hash}:{today}:0:99999:7:::"));
                Ok(true)
            }
        }
    }
}

fn with_member(line: &str, user: &str) -> String {
    let members = field(line, 3);
    if members.split(',').any(|m| m == user) {
        return line.to_owned();
    }
    let new = if members.is_empty() {
        user.to_owned()
    } else {
        format!("{members},{user}")
    };
    with_field(line, 3, &new)
}

/// The wish if it is free, else for people the next after the highest, for systems the highest free.
fn pick(taken: &BTreeSet<u32>, wish: Option<u32>, system: bool) -> Option<u32> {
    if let Some(wish) = wish.filter(|id| !taken.contains(id)) {
        return Some(wish);
    }
    if system {
        return SYSTEM.rev().find(|id| !taken.contains(id));
    }
    let next = taken
        .range(PEOPLE)
        .next_back()
        .map_or(*PEOPLE.start(), |highest| highest + 1);
    if PEOPLE.contains(&next) {
        return Some(next);
    }
    PEOPLE.into_iter().find(|id| !taken.contains(id))
}

/// shadow counts in days since 1970; empty stays empty.
fn days_of_date(text: &str) -> Result<String, AccountError> {
    if text.is_empty() || text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    let bad = || AccountError::BadDate(text.to_owned());
    let parts: Vec<i64> = text
        .split('-')
        .map(|p| p.parse().map_err(|_| bad()))
        .collect::<Result<_, _>>()?;
    let &[year, month, day] = parts.as_slice() else {
        return Err(bad());
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(bad());
    }
    // Days from civil date, counted in years that begin in March.
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let era = y / 400;
    let of_era = y - era * 400;
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Ok(days.to_string())
}

/// The account files below a root, read without the lock.
pub fn read(root: &Root) -> Result<Accounts, FsError> {
    let text = |path: &str| Ok(root.read_text(Path::new(path))?.unwrap_or_default());
    Ok(Accounts::parse(
        &text("/etc/passwd")?,
        &text("/etc/group")?,
        &text("/etc/shadow")?,
        &text("/etc/gshadow")?,
    ))
}

/// Reads the files, lets `change` edit them, writes those that differ; all under the lock.
pub fn edit<T>(
    root: &Root,
    change: impl FnOnce(&mut Accounts) -> Result<T, AccountError>,
) -> Result<T, AccountError> {
    let _held = lock(root)?;
    let before = read(root).map_err(AccountError::Files)?;
    let mut after = before.clone();
    let result = change(&mut after)?;
    // Groups first: an account must never name a group that is not there.
    write(root, "/etc/group", &before.group, &after.group, 0o644)?;
    write(root, "/etc/gshadow", &before.gshadow, &after.gshadow, 0o600)?;
    write(root, "/etc/shadow", &before.shadow, &after.shadow, 0o600)?;
    write(root, "/etc/passwd", &before.passwd, &after.passwd, 0o644)?;
    Ok(result)
}

fn write(
    root: &Root,
    path: &str,
    before: &[String],
    after: &[String],
    default_mode: u32,
) -> Result<(), AccountError> {
    if before == after {
        return Ok(());
    }
    let path = Path::new(path);
    let mut text = after.join("\n");
    text.push('\n');
    let perm = current_perm(root, path).unwrap_or(Perm::root(default_mode));
    root.write(path, text.as_bytes(), perm)
        .map_err(AccountError::Files)?;
    Ok(())
}

fn current_perm(root: &Root, path: &Path) -> Option<Perm> {
    let (dir, name) = root.parent(path, false).ok()?;
    let stat = rustix::fs::statat(&dir, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(Perm {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

/// The lock that the C library's `lckpwdf` takes; released when the descriptor is closed.
fn lock(root: &Root) -> Result<OwnedFd, AccountError> {
    let path = Path::new("/etc/.pwd.lock");
    let (dir, name) = root.parent(path, true).map_err(AccountError::Files)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o600)).map_err(|e| {
        AccountError::Files(FsError::Io {
            what: "open",
            path: path.display().to_string(),
            source: e.into(),
        })
    })?;
    let start = Instant::now();
    loop {
        let taken = rustix::fs::fcntl_lock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive);
        if taken.is_ok() {
            return Ok(fd);
        }
        if start.elapsed() > LOCK_WAIT {
            return Err(AccountError::Locked);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Days since 1970, for shadow.
pub(crate) fn today() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs() / 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Accounts {
        Accounts::parse(
            "root:x:0:0::/root:/bin/bash\ncore:x:500:500::/home/core:/bin/bash\n",
            "root:x:0:\nsudo:x:150:core\ncore:x:500:\n",
            "root:*:1::::::\ncore:*:1::::::\n",
            "sudo:!::core\n",
        )
    }

    fn new(name: &str) -> NewUser {
        NewUser {
            name: name.into(),
            passwd: "*".into(),
            home: format!("/home/{name}"),
            user_group: true,
            shell: "/bin/bash".into(),
            ..NewUser::default()
        }
    }

    #[test]
    fn people_and_systems_get_ids_of_their_range() {
        let mut accounts = base();
        let (first, _) = accounts.create(&new("ops"), 7).unwrap();
        assert_eq!((first.uid, first.gid), (1000, 1000));
        let (second, _) = accounts.create(&new("dev"), 7).unwrap();
        assert_eq!((second.uid, second.gid), (1001, 1001));
        let (system, _) = accounts
            .create(
                &NewUser {
                    system: true,
                    ..new("svc")
                },
                7,
            )
            .unwrap();
        assert_eq!((system.uid, system.gid), (999, 999));
        let fixed = NewUser {
            uid: Some(4321),
            ..new("fix")
        };
        assert_eq!(accounts.create(&fixed, 7).unwrap().0.uid, 4321);
        let again = NewUser {
            uid: Some(4321),
            ..new("fix2")
        };
        assert!(matches!(
            accounts.create(&again, 7),
            Err(AccountError::UidTaken(4321))
        ));
        assert_eq!(
            accounts
                .passwd
                .iter()
                .filter(|l| l.starts_with("ops:"))
                .count(),
            1
        );
        assert!(accounts.shadow.contains(&"ops:*:7:0:99999:7:::".to_owned()));
    }

    #[test]
    fn groups_are_joined_and_missing_ones_are_made() {
        let mut accounts = base();
        let user = NewUser {
            groups: vec!["sudo".into(), "rkt".into()],
            ..new("ops")
        };
        let (_, made) = accounts.create(&user, 7).unwrap();
        assert_eq!(made, ["rkt"]);
        assert!(accounts.group.contains(&"sudo:x:150:core,ops".to_owned()));
        assert!(accounts.gshadow.contains(&"sudo:!::core,ops".to_owned()));
        assert!(accounts.group.contains(&"rkt:x:999:ops".to_owned()));
        let other = NewUser {
            primary_group: "sudo".into(),
            user_group: false,
            ..new("b")
        };
        assert_eq!(accounts.create(&other, 7).unwrap().0.gid, 150);
        let plain = NewUser {
            user_group: false,
            ..new("c")
        };
        assert_eq!(accounts.create(&plain, 7).unwrap().0.gid, 100);
    }

    #[test]
    fn lines_cannot_be_broken() {
        let mut accounts = base();
        for user in [
            NewUser {
                gecos: "a:b".into(),
                ..new("x")
            },
            NewUser {
                shell: "/bin/sh\nroot2:x:0:0".into(),
                ..new("x")
            },
            NewUser {
                expiredate: "soon".into(),
                ..new("x")
            },
        ] {
            assert!(accounts.create(&user, 7).is_err());
        }
        assert!(accounts.set_password("core", "a:b", 7).is_err());
        assert!(accounts.set_password("nobody", "x", 7).is_err());
    }

    #[test]
    fn passwords_change_once() {
        let mut accounts = base();
        assert!(accounts.set_password("core", "$6$x", 9).unwrap());
        assert!(!accounts.set_password("core", "$6$x", 9).unwrap());
        assert!(accounts.shadow.contains(&"core:$6$x:9::::::".to_owned()));
    }

    #[test]
    fn owners_are_read_as_chown_does() {
        let accounts = base();
        let cases = [
            ("", (0, 0)),
            ("core", (500, 0)),
            ("core:", (500, 500)),
            ("core:sudo", (500, 150)),
            (":sudo", (0, 150)),
            ("12:34", (12, 34)),
        ];
        for (text, want) in cases {
            assert_eq!(accounts.owner(text).unwrap(), want, "{text}");
        }
        assert!(accounts.owner("nobody").is_err());
        assert!(accounts.owner("core:nogroup").is_err());
    }

    #[test]
    fn dates_become_days() {
        assert_eq!(days_of_date("1970-01-01").unwrap(), "0");
        assert_eq!(days_of_date("2024-02-29").unwrap(), "19782");
        assert_eq!(days_of_date("12345").unwrap(), "12345");
        assert!(days_of_date("2024-13-01").is_err());
    }
}
