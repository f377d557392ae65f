//! cgroup v2 directories and control files.
//!
//! [`Hierarchy`] is the mounted tree; groups are named by their path from its root (`/system.slice/a.service`).
//! The crate creates and removes groups, switches controllers on top-down as far as a group needs them, writes
//! settings, reads `cgroup.events`, kills, and finds the group of a process. It knows no units, keeps no state
//! and decides nothing: what to write is the caller's.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags};

/// A failed operation on a group.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} of control group {group}")]
pub struct CgroupError {
    /// What was attempted, e.g. `write cpu.max`.
    pub what: String,
    /// The group's path.
    pub group: String,
    /// The system's answer.
    pub source: io::Error,
}

impl CgroupError {
    /// The errno behind it, if there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// What `cgroup.events` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Processes live in the group or below it.
    pub populated: bool,
    /// The group is frozen.
    pub frozen: bool,
}

/// A mounted cgroup v2 tree.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    root: PathBuf,
}

impl Default for Hierarchy {
    fn default() -> Self {
        Hierarchy::at("/sys/fs/cgroup")
    }
}

impl Hierarchy {
    /// The tree mounted at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Hierarchy {
        Hierarchy { root: root.into() }
    }

    /// Directory of a group.
    pub fn path(&self, group: &str) -> PathBuf {
        self.root.join(group.trim_start_matches('/'))
    }

    /// Creates the group and its parents; it may exist.
    ///
    /// # Errors
    /// `mkdir`'s.
    pub fn create(&self, group: &str) -> Result<(), CgroupError> {
        fs::create_dir_all(self.path(group)).map_err(|e| fail("create the directory", group, e))
    }

    /// Opens the group's directory, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// `open`'s.
    pub fn open(&self, group: &str) -> Result<OwnedFd, CgroupError> {
        rustix::fs::open(
            self.path(group),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| fail("open the directory", group, e.into()))
    }

    /// Whether the group exists.
    pub fn exists(&self, group: &str) -> bool {
        self.path(group).is_dir()
    }

    /// Makes these controllers available *in* `group`, by enabling them in all its ancestors, top-down.
    /// Controllers that the kernel does not offer are skipped: a limit that cannot be set shows when it is
    /// written.
    ///
    /// # Errors
    /// The first refused write.
    pub fn enable(&self, group: &str, controllers: &[&str]) -> Result<(), CgroupError> {
        if controllers.is_empty() {
            return Ok(());
        }
        let mut at = String::from("/");
        for part in group.split('/').filter(|p| !p.is_empty()) {
            self.enable_below(&at, controllers)?;
            if !at.ends_with('/') {
                at.push('/');
            }
            at.push_str(part);
        }
        Ok(())
    }

    /// Enables controllers for the children of one group.
    fn enable_below(&self, group: &str, controllers: &[&str]) -> Result<(), CgroupError> {
        let offered = self.read(group, "cgroup.controllers")?;
        let enabled = self.read(group, "cgroup.subtree_control")?;
        let has = |list: &str, c: &str| list.split_whitespace().any(|w| w == c);
        let missing: Vec<String> = controllers
            .iter()
            .filter(|c| has(&offered, c) && !has(&enabled, c))
            .map(|c| format!("+{c}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.write(group, "cgroup.subtree_control", &missing.join(" "))
    }

    /// Writes a control file of the group.
    ///
    /// # Errors
    /// `ENOENT` when the controller is off or the kernel lacks the file.
    pub fn write(&self, group: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        fs::OpenOptions::new()
            .write(true)
            .open(self.path(group).join(file))
            .and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
            .map_err(|e| fail(&format!("write {file}"), group, e))
    }

    /// Reads a control file of the group.
    ///
    /// # Errors
    /// `open`'s and `read`'s.
    pub fn read(&self, group: &str, file: &str) -> Result<String, CgroupError> {
        fs::read_to_string(self.path(group).join(file))
            .map_err(|e| fail(&format!("read {file}"), group, e))
    }

    /// A control file that holds one number; `max` gives none.
    pub fn number(&self, group: &str, file: &str) -> Option<u64> {
        self.read(group, file).ok()?.trim().parse().ok()
    }

    /// The value of `key` in a flat keyed file such as `memory.events`.
    pub fn keyed(&self, group: &str, file: &str, key: &str) -> Option<u64> {
        keyed_value(&self.read(group, file).ok()?, key)
    }

    /// State of the group as `cgroup.events` tells it; a group that is gone is empty.
    pub fn events(&self, group: &str) -> Events {
        self.read(group, "cgroup.events")
            .map_or_else(|_| Events::default(), |t| parse_events(&t))
    }

    /// Processes of this group alone, not of those below it.
    pub fn processes(&self, group: &str) -> Vec<i32> {
        self.read(group, "cgroup.procs")
            .map(|t| t.lines().filter_map(|l| l.trim().parse().ok()).collect())
            .unwrap_or_default()
    }

    /// Processes of the group and of all groups below it.
    pub fn processes_below(&self, group: &str) -> Vec<i32> {
        let mut found = self.processes(group);
        for child in self.children(group) {
            found.extend(self.processes_below(&child));
        }
        found
    }

    /// Groups right below this one, sorted.
    pub fn children(&self, group: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(group)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .map(|name| format!("{}/{name}", group.trim_end_matches('/')))
            .collect();
        names.sort();
        names
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// `ESRCH` if it is gone, `EBUSY` if the group may hold no processes.
    pub fn attach(&self, group: &str, pid: i32) -> Result<(), CgroupError> {
        self.write(group, "cgroup.procs", &pid.to_string())
    }

    /// Kills every process of the group and below it, at once.
    ///
    /// # Errors
    /// As the write of `cgroup.kill`.
    pub fn kill(&self, group: &str) -> Result<(), CgroupError> {
        self.write(group, "cgroup.kill", "1")
    }

    /// Removes the group and the empty groups below it. A group that is gone already is no error.
    ///
    /// # Errors
    /// `EBUSY` while processes live in it.
    pub fn remove(&self, group: &str) -> Result<(), CgroupError> {
        for child in self.children(group) {
            self.remove(&child)?;
        }
        match fs::remove_dir(self.path(group)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fail("remove the directory", group, error))
            }
            _ => Ok(()),
        }
    }

    /// Sets an extended attribute of the group (`trusted.invocation_id`, `trusted.delegate`).
    ///
    /// # Errors
    /// `EPERM` without privileges.
    pub fn set_xattr(&self, group: &str, name: &str, value: &[u8]) -> Result<(), CgroupError> {
        rustix::fs::setxattr(self.path(group), name, value, XattrFlags::empty())
            .map_err(|e| fail(&format!("set attribute {name}"), group, e.into()))
    }

    /// Gives the group to a user: the directory and the files that a delegate must write.
    ///
    /// # Errors
    /// The first refused `chown`; files that the kernel does not have are passed over.
    pub fn delegate(&self, group: &str, uid: u32, gid: u32) -> Result<(), CgroupError> {
        let dir = self.path(group);
        let files = [
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
            "memory.oom.group",
        ];
        let all = std::iter::once(dir.clone()).chain(files.iter().map(|f| dir.join(f)));
        for path in all.filter(|p| p.exists()) {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid))
                .map_err(|e| fail("change the owner", group, e))?;
        }
        Ok(())
    }
}

/// The group of a process, from `/proc/PID/cgroup`; none if it is gone (or a zombie without group).
pub fn group_of(pid: i32) -> Option<String> {
    parse_proc(&fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).ok()?)
}

/// The cgroup v2 path in the text of `/proc/PID/cgroup`.
pub fn parse_proc(text: &str) -> Option<String> {
    let path = text.lines().find_map(|l| l.strip_prefix("0::"))?;
    Some(path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
}

/// Parses the text of `cgroup.events`.
pub fn parse_events(text: &str) -> Events {
    Events {
        populated: keyed_value(text, "populated") == Some(1),
        frozen: keyed_value(text, "frozen") == Some(1),
    }
}

/// The value of `key` in the text of a flat keyed file.
pub fn keyed_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

fn fail(what: &str, group: &str, source: io::Error) -> CgroupError {
    CgroupError {
        what: what.to_owned(),
        group: group.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_keyed_files_are_read() {
        assert_eq!(
            parse_events("populated 1\nfrozen 0\n"),
            Events {
                populated: true,
                frozen: false
            }
        );
        assert_eq!(parse_events(""), Events::default());
        assert_eq!(keyed_value("oom 3\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(keyed_value("oom x\n", "oom"), None);
    }

    #[test]
    fn the_group_of_a_process_is_the_unified_line() {
        let text = "4:memory:/x\n0::/system.slice/a.service\n";
        assert_eq!(parse_proc(text).as_deref(), Some("/system.slice/a.service"));
        assert_eq!(parse_proc("0::/gone (deleted)\n").as_deref(), Some("/gone"));
        assert_eq!(parse_proc("4:memory:/x\n"), None);
    }

    /// Control files are plain files here; what the kernel does with them is shown in QEMU.
    fn fake(groups: &[&str]) -> (tempfile::TempDir, Hierarchy) {
        let dir = tempfile::tempdir().unwrap();
        for group in groups {
            let path = dir.path().join(group);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.controllers"), "cpu memory pids").unwrap();
            fs::write(path.join("cgroup.subtree_control"), "").unwrap();
        }
        let tree = Hierarchy::at(dir.path());
        (dir, tree)
    }

    #[test]
    fn controllers_are_enabled_in_every_ancestor_and_not_in_the_group() {
        let (_dir, tree) = fake(&["", "a.slice", "a.slice/b.service"]);
        tree.enable("/a.slice/b.service", &["memory", "rdma"])
            .unwrap();
        assert_eq!(tree.read("/", "cgroup.subtree_control").unwrap(), "+memory");
        assert_eq!(
            tree.read("/a.slice", "cgroup.subtree_control").unwrap(),
            "+memory"
        );
        assert_eq!(
            tree.read("/a.slice/b.service", "cgroup.subtree_control")
                .unwrap(),
            ""
        );
    }

    #[test]
    fn a_missing_file_names_itself_and_the_group() {
        let (_dir, tree) = fake(&[""]);
        let error = tree.write("/x", "cpu.max", "1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to write cpu.max of control group /x"
        );
        assert_eq!(error.errno(), Some(2));
    }

    #[test]
    fn removing_a_group_that_is_gone_is_no_error() {
        let (_dir, tree) = fake(&[""]);
        tree.remove("/nothing").unwrap();
        tree.create("/a/b/c").unwrap();
        tree.remove("/a").unwrap();
        assert!(!tree.exists("/a"));
    }
}
