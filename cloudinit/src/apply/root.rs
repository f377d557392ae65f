//! File access below a root directory that never leaves it.
//!
//! Paths are walked one component at a time with descriptors: a symbolic link in the middle is followed
//! inside the root, and only if root or we own it; the last component is never followed when writing.
//! A file appears whole or not at all: temporary file in the same directory, private until its owner
//! is right, synced, renamed over the target. The temporary file is removed on every failure.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Most symbolic links in one path.
const MAX_LINKS: usize = 40;
/// Largest file that is read into memory.
const MAX_READ: u64 = 256 << 20;

/// Why a file below the root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A system call failed.
    #[error("failed to {what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Path below the root.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A link that another user could have put there.
    #[error("refusing to follow the symbolic link {path}: it belongs to user {owner}")]
    ForeignLink {
        /// The link.
        path: String,
        /// Its owner.
        owner: u32,
    },
    /// The path has no last component.
    #[error("{path} is not a file name")]
    NoName {
        /// The path.
        path: String,
    },
}

impl FsError {
    /// Whether the file is simply absent.
    pub fn is_not_found(&self) -> bool {
        matches!(self, FsError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

fn io(what: &'static str, path: &Path, errno: Errno) -> FsError {
    FsError::Io {
        what,
        path: path.display().to_string(),
        source: errno.into(),
    }
}

/// Owner and mode of a file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perm {
    /// Permission bits.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Perm {
    /// Root's file with these bits.
    pub const fn root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the directory.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(|e| io("open directory", path, e))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// The directory's path outside.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the running system itself.
    pub fn is_live(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The directory at `path`; missing ones are made 0755 if `make` is set.
    pub fn directory(&self, path: &Path, make: bool) -> Result<OwnedFd, FsError> {
        let mut todo = components(path);
        let mut stack: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                stack.pop();
                continue;
            }
            let top = stack.last().map_or(self.fd.as_fd(), AsFd::as_fd);
            let fd = match open_node(top, &name) {
                Err(Errno::NOENT) if make => {
                    match fs::mkdirat(top, &name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(io("make directory", path, e)),
                    }
                    open_node(top, &name).map_err(|e| io("open", path, e))?
                }
                other => other.map_err(|e| io("open", path, e))?,
            };
            let stat = fs::fstat(&fd).map_err(|e| io("look at", path, e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => stack.push(fd),
                FileType::Symlink => {
                    links += 1;
                    let target = self.follow(&fd, stat.st_uid, path, links)?;
                    if target.is_absolute() {
                        stack.clear();
                    }
                    for part in components(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                _ => return Err(io("enter", path, Errno::NOTDIR)),
            }
        }
        let top = stack.last().map_or(self.fd.as_fd(), AsFd::as_fd);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat(top, ".", flags, Mode::empty()).map_err(|e| io("open directory", path, e))
    }

    fn follow(
        &self,
        link: &OwnedFd,
        owner: u32,
        path: &Path,
        links: usize,
    ) -> Result<PathBuf, FsError> {
        if links > MAX_LINKS {
            return Err(io("follow links of", path, Errno::LOOP));
        }
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(FsError::ForeignLink {
                path: path.display().to_string(),
                owner,
            });
        }
        let target = fs::readlinkat(link, "", Vec::new()).map_err(|e| io("read link", path, e))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// The directory that holds `path`, and the name in it.
    pub fn parent(&self, path: &Path, make: bool) -> Result<(OwnedFd, OsString), FsError> {
        let name = path
            .file_name()
            .ok_or_else(|| FsError::NoName {
                path: path.display().to_string(),
            })?
            .to_owned();
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.directory(parent, make)?, name))
    }

    /// The bytes of a file, links followed; `None` if it does not exist.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FsError> {
        let mut path = path.to_owned();
        for links in 1..=MAX_LINKS {
            let (dir, name) = match self.parent(&path, false) {
                Err(e) if e.is_not_found() => return Ok(None),
                other => other?,
            };
            let node = match open_node(dir.as_fd(), &name) {
                Err(Errno::NOENT) => return Ok(None),
                other => other.map_err(|e| io("open", &path, e))?,
            };
            let stat = fs::fstat(&node).map_err(|e| io("look at", &path, e))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                let target = self.follow(&node, stat.st_uid, &path, links)?;
                let base = path.parent().unwrap_or(Path::new("/"));
                path = base.join(target);
                continue;
            }
            return read_at(dir.as_fd(), &name)
                .map(Some)
                .map_err(|e| io("read", &path, e));
        }
        Err(io("follow links of", &path, Errno::LOOP))
    }

    /// The text of a file, bad bytes replaced; `None` if it does not exist.
    pub fn read_text(&self, path: &Path) -> Result<Option<String>, FsError> {
        Ok(self
            .read(path)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether something is at `path`, a dangling link included.
    pub fn exists(&self, path: &Path) -> bool {
        self.parent(path, false)
            .is_ok_and(|(dir, name)| open_node(dir.as_fd(), &name).is_ok())
    }

    /// Writes a whole file. Returns false if it was there already with the same bytes, mode and owner.
    pub fn write(&self, path: &Path, content: &[u8], perm: Perm) -> Result<bool, FsError> {
        let (dir, name) = self.parent(path, true)?;
        if same_file(dir.as_fd(), &name, content, perm) {
            return Ok(false);
        }
        write_at(dir.as_fd(), &name, content, perm).map_err(|e| io("write", path, e))?;
        Ok(true)
    }

    /// Makes a symbolic link in place of what was there. Returns false if it was there already.
    pub fn link(&self, path: &Path, target: &Path) -> Result<bool, FsError> {
        let (dir, name) = self.parent(path, true)?;
        if let Ok(now) = fs::readlinkat(&dir, &name, Vec::new())
            && now.as_bytes() == target.as_os_str().as_bytes()
        {
            return Ok(false);
        }
        let temporary = temporary_name();
        fs::symlinkat(target, &dir, &temporary).map_err(|e| io("make link", path, e))?;
        if let Err(e) = fs::renameat(&dir, &temporary, &dir, &name) {
            // The link is of no use to anybody; the error that matters is the rename's.
            let _ = fs::unlinkat(&dir, &temporary, AtFlags::empty());
            return Err(io("make link", path, e));
        }
        sync(dir.as_fd()).map_err(|e| io("sync", path, e))?;
        Ok(true)
    }

    /// Removes a file. Returns false if it was not there.
    pub fn remove(&self, path: &Path) -> Result<bool, FsError> {
        let (dir, name) = match self.parent(path, false) {
            Err(e) if e.is_not_found() => return Ok(false),
            other => other?,
        };
        match fs::unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(io("remove", path, e)),
        }
    }

    /// Removes a unit file that only masks: empty, or a link to /dev/null.
    pub fn unmask(&self, path: &Path) -> Result<bool, FsError> {
        let (dir, name) = match self.parent(path, false) {
            Err(e) if e.is_not_found() => return Ok(false),
            other => other?,
        };
        let Ok(node) = open_node(dir.as_fd(), &name) else {
            return Ok(false);
        };
        let stat = fs::fstat(&node).map_err(|e| io("look at", path, e))?;
        let masks = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => fs::readlinkat(&node, "", Vec::new())
                .is_ok_and(|target| target.as_bytes() == b"/dev/null"),
            FileType::RegularFile => stat.st_size == 0,
            _ => false,
        };
        if masks { self.remove(path) } else { Ok(false) }
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

fn open_node(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    fs::openat(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Reads a regular file in a directory; links are not followed.
pub(crate) fn read_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(MAX_READ)
        .read_to_end(&mut bytes)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

fn same_file(dir: BorrowedFd<'_>, name: &OsStr, content: &[u8], perm: Perm) -> bool {
    let Ok(stat) = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return false;
    };
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_mode & 0o7777 == perm.mode
        && (stat.st_uid, stat.st_gid) == (perm.uid, perm.gid)
        && u64::try_from(stat.st_size).ok() == Some(content.len() as u64)
        && read_at(dir, name).is_ok_and(|now| now == content)
}

/// Writes a file in a directory: temporary, owner, mode, sync, rename, sync of the directory.
pub(crate) fn write_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    content: &[u8],
    perm: Perm,
) -> Result<(), Errno> {
    let temporary = temporary_name();
    let result = fill(dir, &temporary, content, perm)
        .and_then(|()| fs::renameat(dir, &temporary, dir, name));
    if let Err(errno) = result {
        // Nothing of a failed write may stay; the first error is the one to report.
        let _ = fs::unlinkat(dir, &temporary, AtFlags::empty());
        return Err(errno);
    }
    sync(dir)
}

fn fill(dir: BorrowedFd<'_>, name: &OsStr, content: &[u8], perm: Perm) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    own(file.as_fd(), perm)?;
    fs::fsync(&file)
}

/// Gives owner, then mode: the other way round the kernel would drop setuid bits.
pub(crate) fn own(fd: BorrowedFd<'_>, perm: Perm) -> Result<(), Errno> {
    let (uid, gid) = (
        rustix::process::Uid::from_raw(perm.uid),
        rustix::process::Gid::from_raw(perm.gid),
    );
    fs::fchown(fd, Some(uid), Some(gid))?;
    fs::fchmod(fd, Mode::from_raw_mode(perm.mode))
}

fn sync(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    match fs::fsync(dir) {
        // Some file systems cannot sync a directory; the rename is still atomic there.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

fn temporary_name() -> OsString {
    let mut random = [0_u8; 8];
    let filled = rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty());
    if filled.is_err() {
        random = u64::from(std::process::id()).to_le_bytes();
    }
    OsString::from(format!(
        ".cloudinit-temp-{:016x}",
        u64::from_le_bytes(random)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn files_are_written_whole_and_only_when_they_differ() {
        let (dir, root) = root();
        let path = Path::new("/a/b/c.conf");
        let perm = Perm {
            mode: 0o4751,
            uid: 12,
            gid: 34,
        };
        assert!(root.write(path, b"x", perm).unwrap());
        assert!(!root.write(path, b"x", perm).unwrap());
        assert!(root.write(path, b"y", perm).unwrap());
        let meta = std::fs::metadata(dir.path().join("a/b/c.conf")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()),
            (0o4751, 12, 34)
        );
        let parent = std::fs::metadata(dir.path().join("a/b")).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o755);
        assert_eq!(
            std::fs::read_dir(dir.path().join("a/b")).unwrap().count(),
            1
        );
    }

    #[test]
    fn links_stay_inside_the_root_and_targets_are_replaced() {
        let (dir, root) = root();
        let base = dir.path();
        std::fs::create_dir_all(base.join("etc/flotilla")).unwrap();
        symlink("/etc/flotilla", base.join("etc/coreos")).unwrap();
        symlink("../../../../../etc", base.join("up")).unwrap();
        root.write(
            Path::new("/etc/coreos/update.conf"),
            b"1",
            Perm::root(0o644),
        )
        .unwrap();
        assert!(base.join("etc/flotilla/update.conf").exists());
        root.write(Path::new("/up/x"), b"1", Perm::root(0o644))
            .unwrap();
        assert!(base.join("etc/x").exists());

        std::fs::write(base.join("aim"), "keep").unwrap();
        symlink("aim", base.join("target")).unwrap();
        root.write(Path::new("/target"), b"new", Perm::root(0o644))
            .unwrap();
        assert_eq!(std::fs::read(base.join("aim")).unwrap(), b"keep");
        assert_eq!(root.read(Path::new("/target")).unwrap().unwrap(), b"new");
        assert_eq!(root.read(Path::new("/missing/x")).unwrap(), None);
    }

    #[test]
    fn foreign_links_and_wrong_parents_are_refused_without_leftovers() {
        let (dir, root) = root();
        let base = dir.path();
        symlink("/etc", base.join("trap")).unwrap();
        std::os::unix::fs::lchown(base.join("trap"), Some(1234), Some(1234)).unwrap();
        let error = root
            .write(Path::new("/trap/x"), b"1", Perm::root(0o644))
            .unwrap_err();
        assert!(matches!(error, FsError::ForeignLink { owner: 1234, .. }));
        std::fs::write(base.join("file"), "").unwrap();
        assert!(
            root.write(Path::new("/file/x"), b"1", Perm::root(0o644))
                .is_err()
        );
        std::fs::create_dir(base.join("dir")).unwrap();
        assert!(
            root.write(Path::new("/dir"), b"1", Perm::root(0o644))
                .is_err()
        );
        symlink("loop", base.join("loop")).unwrap();
        assert!(
            root.write(Path::new("/loop/x"), b"1", Perm::root(0o644))
                .is_err()
        );
        let left = std::fs::read_dir(base).unwrap();
        assert!(
            left.flatten()
                .all(|e| !e.file_name().to_string_lossy().contains("temp"))
        );
    }

    #[test]
    fn masks_come_and_go() {
        let (dir, root) = root();
        let path = Path::new("/run/systemd/system/a.service");
        assert!(!root.unmask(path).unwrap());
        assert!(root.link(path, Path::new("/dev/null")).unwrap());
        assert!(!root.link(path, Path::new("/dev/null")).unwrap());
        assert!(root.unmask(path).unwrap());
        root.write(path, b"[Unit]", Perm::root(0o644)).unwrap();
        assert!(!root.unmask(path).unwrap());
        assert!(root.link(path, Path::new("/dev/null")).unwrap());
        assert!(dir.path().join("run/systemd/system/a.service").is_symlink());
    }
}
