//! A file's content, owner, attributes, mode and time.

use super::UnpackError;
use super::path::Shown;
use crate::archive::{Entry, Kind};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Makes a file that is not there and fills it with the entry's data.
pub(super) fn write_file(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry,
    data: &mut impl Read,
) -> Result<(), UnpackError> {
    let at = Shown(&entry.path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
        .map_err(|error| at.failed("make a file", error))?;
    let mut file = std::fs::File::from(file);
    let failed = |error| at.failed("write a file", error);
    if entry.segments.is_empty() {
        let copied = io::copy(&mut data.take(entry.size), &mut file).map_err(failed)?;
        if copied != entry.size {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        return Ok(());
    }
    for (offset, count) in &entry.segments {
        file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
        let copied = io::copy(&mut data.take(*count), &mut file).map_err(failed)?;
        if copied != *count {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    file.set_len(entry.size).map_err(failed)?;
    file.flush().map_err(failed)
}

/// For `utimensat`: both times the same.
pub(super) fn times(seconds: i64, nanos: u32) -> fs::Timestamps {
    let time = fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    fs::Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner first, because changing it clears setuid and capabilities; then attributes, mode, time.
pub(super) fn set_metadata(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry,
    at: Shown<'_>,
) -> Result<(), UnpackError> {
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(at.refuse("the owner is not a valid id"));
    }
    let (uid, gid) = (fs::Uid::from_raw(entry.uid), fs::Gid::from_raw(entry.gid));
    fs::chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|error| at.failed("set the owner", error))?;
    for (key, value) in &entry.xattrs {
        if !(key.starts_with(b"user.") || key == b"security.capability") {
            continue;
        }
        // There is no setxattrat before 6.13; the last part of this path is not followed.
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
        path.push(name);
        match fs::lsetxattr(&path, OsStr::from_bytes(key), value, XattrFlags::empty()) {
            // user.* is for files and directories only, and some file systems have none.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(at.failed("set an extended attribute", error)),
        }
    }
    if entry.kind != Kind::Symlink {
        fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(entry.mode),
            AtFlags::empty(),
        )
        .map_err(|error| at.failed("set the mode", error))?;
    }
    fs::utimensat(
        parent,
        name,
        &times(entry.mtime, entry.mtime_nanos),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|error| at.failed("set the time", error))
}
