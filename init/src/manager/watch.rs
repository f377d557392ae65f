//! inotify: cgroup files, the paths of path units, written block devices.

use std::collections::HashMap;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use unit_file::UnitName;
use unit_file::settings::{PathKind, PathSettings};

/// One inotify event: the watch, whether the watch is gone, and the name inside a watched directory.
type Raw = (i32, ReadFlags, Option<OsString>);

fn new_inotify() -> Result<OwnedFd, Errno> {
    inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
}

fn read(fd: &OwnedFd) -> Vec<Raw> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut all = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event
            .file_name()
            .map(|n| OsString::from_vec(n.to_bytes().to_vec()));
        all.push((event.wd(), event.events(), name));
    }
    all
}

/// What a cgroup told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CgroupNews {
    /// `memory.events` changed.
    Memory(String),
    /// `cgroup.events` changed.
    Events(String),
}

/// Watches on control files of groups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    fd: OwnedFd,
    watches: HashMap<i32, CgroupNews>,
}

impl Cgroups {
    /// No watches yet.
    pub(crate) fn new() -> Result<Cgroups, Errno> {
        Ok(Cgroups {
            fd: new_inotify()?,
            watches: HashMap::new(),
        })
    }

    /// The descriptor to poll.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Watches a group whose directory is `dir`.
    pub(crate) fn add(&mut self, dir: &Path, group: &str) -> Result<(), Errno> {
        let wd = inotify::add_watch(&self.fd, dir.join("cgroup.events"), WatchFlags::MODIFY)?;
        self.watches
            .insert(wd, CgroupNews::Events(group.to_owned()));
        // Without the memory controller there is no such file, and no such news.
        if let Ok(wd) = inotify::add_watch(&self.fd, dir.join("memory.events"), WatchFlags::MODIFY)
        {
            self.watches
                .insert(wd, CgroupNews::Memory(group.to_owned()));
        }
        Ok(())
    }

    /// What happened, each thing once, memory first.
    pub(crate) fn news(&mut self) -> Vec<CgroupNews> {
        let mut found = Vec::new();
        for (wd, flags, _) in read(&self.fd) {
            if flags.contains(ReadFlags::IGNORED) {
                self.watches.remove(&wd);
            } else if let Some(news) = self.watches.get(&wd) {
                found.push(news.clone());
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Block devices that somebody wrote and closed.
#[derive(Debug)]
pub(crate) struct Devices {
    fd: OwnedFd,
}

impl Devices {
    /// Watches /dev.
    pub(crate) fn new() -> Result<Devices, Errno> {
        let fd = new_inotify()?;
        inotify::add_watch(&fd, "/dev", WatchFlags::CLOSE_WRITE)?;
        Ok(Devices { fd })
    }

    /// The descriptor to poll.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Names below /dev that were written, each once.
    pub(crate) fn news(&self) -> Vec<String> {
        let names = read(&self.fd)
            .into_iter()
            .filter_map(|(_, _, name)| name?.into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        names
    }
}

#[derive(Debug)]
struct Spec {
    unit: UnitName,
    index: usize,
    kind: PathKind,
    path: PathBuf,
    existed: bool,
    watches: Vec<(i32, bool)>,
}

/// The paths of all path units.
#[derive(Debug)]
pub(crate) struct Paths {
    fd: OwnedFd,
    specs: Vec<Spec>,
}

impl Paths {
    /// No watches yet.
    pub(crate) fn new() -> Result<Paths, Errno> {
        Ok(Paths {
            fd: new_inotify()?,
            specs: Vec::new(),
        })
    }

    /// The descriptor to poll.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Watches the paths of a unit, instead of those watched for it before.
    pub(crate) fn add(&mut self, unit: &UnitName, settings: &PathSettings) {
        self.remove(unit);
        for (index, spec) in settings.specs.iter().enumerate() {
            let path = PathBuf::from(&spec.path);
            let mut spec = Spec {
                unit: unit.clone(),
                index,
                kind: spec.kind,
                existed: path.exists(),
                path,
                watches: Vec::new(),
            };
            self.arm(&mut spec);
            self.specs.push(spec);
        }
    }

    /// Watches them no longer.
    pub(crate) fn remove(&mut self, unit: &UnitName) {
        let (gone, kept): (Vec<Spec>, Vec<Spec>) = std::mem::take(&mut self.specs)
            .into_iter()
            .partition(|s| s.unit == *unit);
        self.specs = kept;
        for (wd, _) in gone.iter().flat_map(|s| &s.watches) {
            if !self
                .specs
                .iter()
                .flat_map(|s| &s.watches)
                .any(|(w, _)| w == wd)
            {
                let _ = inotify::remove_watch(&self.fd, *wd);
            }
        }
    }

    /// Units and line numbers for which something happened.
    pub(crate) fn news(&mut self) -> Vec<(UnitName, usize)> {
        let events = read(&self.fd);
        let mut found = Vec::new();
        let mut specs = std::mem::take(&mut self.specs);
        for spec in &mut specs {
            let own = |wd: i32| {
                spec.watches
                    .iter()
                    .find(|(w, _)| *w == wd)
                    .map(|(_, is_self)| *is_self)
            };
            let touched: Vec<bool> = events.iter().filter_map(|(wd, _, _)| own(*wd)).collect();
            if touched.is_empty() {
                continue;
            }
            let before = spec.existed;
            spec.existed = spec.path.exists();
            self.arm(spec);
            // For "changed" and "modified" only the path itself counts, or that it came to be.
            let by_state = !matches!(spec.kind, PathKind::PathChanged | PathKind::PathModified);
            if by_state || touched.contains(&true) || (spec.existed && !before) {
                found.push((spec.unit.clone(), spec.index));
            }
        }
        self.specs = specs;
        found
    }

    /// Puts watches on the path, or on what exists of its parents.
    fn arm(&self, spec: &mut Spec) {
        let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        let content =
            WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
        let own = match spec.kind {
            PathKind::PathModified => {
                gone | content | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB | WatchFlags::MODIFY
            }
            PathKind::PathChanged => gone | content | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB,
            _ => gone | content | WatchFlags::ATTRIB,
        };
        let above = gone | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        spec.watches.clear();
        // A glob is watched at its last part without pattern.
        let fixed: PathBuf = spec
            .path
            .components()
            .take_while(|c| !crate::glob::is_pattern(&c.as_os_str().to_string_lossy()))
            .collect();
        let exact = fixed == spec.path;
        for (depth, path) in fixed.ancestors().enumerate() {
            let is_self = depth == 0 && exact;
            let flags = if depth == 0 { own } else { above };
            if let Ok(wd) = inotify::add_watch(&self.fd, path, flags | WatchFlags::MASK_ADD) {
                spec.watches.push((wd, is_self));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use unit_file::settings::PathSpec;

    use super::*;

    fn watch(kind: PathKind, path: &Path) -> Paths {
        let mut paths = Paths::new().unwrap();
        let spec = PathSpec {
            kind,
            path: path.display().to_string(),
        };
        let settings = PathSettings {
            specs: vec![spec],
            ..PathSettings::default()
        };
        paths.add(&UnitName::parse("a.path").unwrap(), &settings);
        paths
    }

    #[test]
    fn a_path_that_comes_to_be_is_told_even_below_a_missing_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = watch(PathKind::PathExists, &dir.path().join("a/b"));
        fs::create_dir(dir.path().join("a")).unwrap();
        assert!(
            !paths.news().is_empty(),
            "the engine looks whether it exists"
        );
        fs::write(dir.path().join("a/b"), "").unwrap();
        assert_eq!(paths.news().len(), 1);
        assert!(paths.news().is_empty());
    }

    #[test]
    fn a_changed_file_is_told_and_its_neighbour_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "1").unwrap();
        let mut paths = watch(PathKind::PathChanged, &file);
        fs::write(dir.path().join("other"), "x").unwrap();
        assert!(paths.news().is_empty());
        fs::write(&file, "2").unwrap();
        assert_eq!(paths.news().len(), 1);
        paths.remove(&UnitName::parse("a.path").unwrap());
        fs::write(&file, "3").unwrap();
        assert!(paths.news().is_empty());
    }
}
