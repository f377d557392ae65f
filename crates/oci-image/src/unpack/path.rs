//! Names and directories: what an entry may be called, and open directories that no name leads out of.

use super::{PATH_MAX, UnpackError};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The entry's name for messages.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl Shown<'_> {
    pub(super) fn refuse(self, why: &'static str) -> UnpackError {
        let mut path = String::from_utf8_lossy(self.0).into_owned();
        if path.len() > 200 {
            path = path.chars().take(200).collect::<String>() + "…";
        }
        UnpackError::Refused { path, why }
    }

    pub(super) fn failed(self, what: &'static str, error: impl Into<io::Error>) -> UnpackError {
        UnpackError::Entry {
            path: String::from_utf8_lossy(self.0).into_owned(),
            what,
            source: error.into(),
        }
    }
}

/// A name relative to the root: leading slashes and `.` dropped, `..` and what no file can be called refused.
pub(super) fn clean(path: &[u8]) -> Result<PathBuf, UnpackError> {
    let shown = Shown(path);
    if path.len() >= PATH_MAX {
        return Err(shown.refuse("the name is longer than 4096 bytes"));
    }
    if path.is_empty() || path.contains(&0) {
        return Err(shown.refuse("the name is empty or has a zero byte"));
    }
    let mut clean = PathBuf::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(shown.refuse("the name leaves the layer")),
            part if part.len() > 255 => {
                return Err(shown.refuse("a part of the name is longer than 255 bytes"));
            }
            part => clean.push(OsStr::from_bytes(part)),
        }
    }
    Ok(clean)
}

pub(super) fn in_root(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        match fs::openat2(
            root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // The kernel saw a rename of someone else while it walked `..`.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

pub(super) fn reopen(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    fs::openat(
        fd,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

pub(super) fn readable(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    fs::openat(
        fd,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Removes a file, or a directory with all in it, never following a link.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    // Deep trees are walked with a list of paths, not by recursion.
    let mut stack = vec![PathBuf::from(name)];
    while let Some(path) = stack.last().cloned() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::openat(parent, &path, flags, Mode::empty())?;
        let mut deeper = false;
        for item in fs::Dir::read_from(&directory)? {
            let item = item?;
            let child = item.file_name();
            if matches!(child.to_bytes(), b"." | b"..") {
                continue;
            }
            match fs::unlinkat(&directory, child, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => {
                    stack.push(path.join(OsStr::from_bytes(child.to_bytes())));
                    deeper = true;
                }
                Err(error) => return Err(error),
            }
        }
        if !deeper {
            fs::unlinkat(parent, &path, AtFlags::REMOVEDIR)?;
            stack.pop();
        }
    }
    Ok(())
}
