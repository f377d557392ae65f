//! Unpacks one layer into a directory of its own, as overlayfs wants it, whatever the archive says.
//!
//! Rules: names resolve inside the directory (`openat2` with `RESOLVE_IN_ROOT`), every file is made by an
//! `*at` call relative to an open directory, nothing is written through a symbolic link; `..` is refused;
//! a later entry replaces an earlier one; `.wh.x` becomes a 0:0 character device and `.wh..wh..opq` the
//! opaque mark; devices and pipes are made as such; `trusted.*` attributes are dropped, because overlayfs
//! reads them; hard links reach files of this layer, or copy one of the layers below.
//!
//! The caller gives an empty directory below the store's `tmp/` and throws it away on any error: a refused
//! archive leaves nothing.

mod files;
mod path;

use crate::archive::{Archive, ArchiveError, Entry, Kind};
use crate::digest::{Digest, HashingReader};
use files::{set_metadata, times, write_file};
use path::{Shown, clean, in_root, readable, remove, reopen};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What an archive may at most be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of file data, with holes.
    pub bytes: u64,
    /// Data may be this many times the packed size, once it is larger than [`RATIO_FREE`].
    pub ratio: u64,
}

/// Data up to here is never a bomb.
pub const RATIO_FREE: u64 = 1 << 30;
const PATH_MAX: usize = 4096;
const LINKS_MAX: usize = 40;
const OPAQUE: &str = "trusted.overlay.opaque";

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 2_000_000,
            bytes: 64 << 30,
            ratio: 1200,
        }
    }
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("the layer's archive is damaged")]
    Archive(#[from] ArchiveError),
    /// A name that leaves the layer or cannot be stored.
    #[error("entry {path:?}: {why}")]
    Refused {
        /// The entry.
        path: String,
        /// Reason.
        why: &'static str,
    },
    /// The host's file system said no.
    #[error("entry {path:?}: failed to {what}")]
    Entry {
        /// The entry.
        path: String,
        /// The step.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// A limit of [`Limits`].
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// entries, bytes.
        what: &'static str,
        /// How many.
        limit: u64,
    },
    /// Directory or stream trouble.
    #[error("failed to {what}")]
    Io {
        /// The step.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of file data.
    pub size: u64,
    /// Entries.
    pub entries: u64,
}

/// Unpacks the layer in `packed` (`packed_size` bytes, any known compression) into the empty directory
/// `target`. `lowers` are the `diff` directories below it, nearest first.
pub fn unpack(
    packed: impl Read,
    packed_size: u64,
    target: &Path,
    lowers: &[PathBuf],
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    let root = fs::open(
        target,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| UnpackError::Io {
        what: "open the layer's directory",
        source: error.into(),
    })?;
    let mut archive = Archive::new(HashingReader::new(decompress(packed)?));
    let mut layer = Layer {
        root,
        lowers,
        limits,
        packed_size,
        size: 0,
        entries: 0,
        parent: None,
        times: Vec::new(),
    };
    while let Some(entry) = archive.next_entry()? {
        layer.count(&entry)?;
        layer.place(&entry, &mut archive)?;
    }
    layer.finish_times()?;
    let (diff_id, _) = archive
        .into_inner()
        .finish()
        .map_err(|source| UnpackError::Io {
            what: "read the end of the archive",
            source,
        })?;
    Ok(Unpacked {
        diff_id,
        size: layer.size,
        entries: layer.entries,
    })
}

/// gzip (several members too), zstd or nothing, by the first bytes.
pub fn decompress<'a>(packed: impl Read + 'a) -> Result<Box<dyn Read + 'a>, UnpackError> {
    let io = |source| UnpackError::Io {
        what: "read the layer",
        source,
    };
    let mut reader = BufReader::with_capacity(65536, packed);
    let mut magic = [0u8; 4];
    let mut have = 0;
    while have < 4 {
        match reader.read(&mut magic[have..]).map_err(io)? {
            0 => break,
            count => have += count,
        }
    }
    let whole = io::Cursor::new(magic).take(have as u64).chain(reader);
    Ok(match &magic[..have] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(65536, whole),
        )),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::new(whole).map_err(io)?;
            // 128 MiB of window: what the zstd program itself accepts.
            decoder.window_log_max(27).map_err(io)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

struct Layer<'a> {
    root: OwnedFd,
    lowers: &'a [PathBuf],
    limits: Limits,
    packed_size: u64,
    size: u64,
    entries: u64,
    /// The directory used last: archives list a directory's files together.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of directories, set last because making files changes them.
    times: Vec<(PathBuf, i64, u32)>,
}

impl Layer<'_> {
    fn count(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        self.size = self.size.saturating_add(entry.size);
        if self.size > self.limits.bytes {
            return Err(UnpackError::Limit {
                what: "bytes",
                limit: self.limits.bytes,
            });
        }
        let allowed = self.packed_size.saturating_mul(self.limits.ratio);
        // A sparse file's holes are no bytes that were packed.
        if entry.segments.is_empty() && self.size > RATIO_FREE && self.size > allowed {
            return Err(UnpackError::Limit {
                what: "bytes for its packed size",
                limit: allowed,
            });
        }
        Ok(())
    }

    fn place(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        let path = clean(&entry.path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(entry);
        };
        let at = Shown(&entry.path);
        let parent_path = path.parent().map(Path::to_owned).unwrap_or_default();
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&parent_path, hidden, at);
        }
        let parent = self.directory(&parent_path, at)?;
        let result = self.make(parent.as_fd(), &name, &path, entry, data);
        self.parent = Some((parent_path, parent));
        result
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let at = Shown(&entry.path);
        if entry.kind != Kind::Directory {
            return Err(at.refuse("only a directory can stand for the root"));
        }
        let root = reopen(&self.root).map_err(|error| at.failed("open the root", error))?;
        set_metadata(root.as_fd(), OsStr::new("."), entry, at)?;
        self.times
            .push((PathBuf::from("."), entry.mtime, entry.mtime_nanos));
        Ok(())
    }

    fn whiteout(&mut self, parent: &Path, hidden: &[u8], at: Shown<'_>) -> Result<(), UnpackError> {
        match hidden {
            b"" | b"." | b".." => return Err(at.refuse("a whiteout must name a file")),
            b".wh..opq" => {
                let directory = self.directory(parent, at)?;
                return fs::fsetxattr(
                    &readable(&directory)
                        .map_err(|error| at.failed("open the directory", error))?,
                    OPAQUE,
                    b"y",
                    XattrFlags::empty(),
                )
                .map_err(|error| at.failed("mark the directory opaque", error));
            }
            other if other.starts_with(b".wh.") => return Ok(()),
            _ => {}
        }
        let directory = self.directory(parent, at)?;
        let name = OsStr::from_bytes(hidden);
        remove(directory.as_fd(), name).map_err(|error| at.failed("replace a file", error))?;
        fs::mknodat(
            &directory,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .map_err(|error| at.failed("make a whiteout", error))
    }

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
        data: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let at = Shown(&entry.path);
        let exists = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let keep = entry.kind == Kind::Directory
            && exists
                .as_ref()
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if exists.is_ok() && !keep {
            self.parent = None;
            remove(parent, name).map_err(|error| at.failed("replace a file", error))?;
        }
        let special = |kind, major, minor| {
            fs::mknodat(
                parent,
                name,
                kind,
                Mode::from_raw_mode(0o600),
                fs::makedev(major, minor),
            )
            .map_err(|error| at.failed("make a special file", error))
        };
        match entry.kind {
            Kind::Directory if keep => {}
            Kind::Directory => fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                .map_err(|error| at.failed("make a directory", error))?,
            Kind::File => write_file(parent, name, entry, data)?,
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= PATH_MAX || entry.link.contains(&0)
                {
                    return Err(at.refuse("the link's target is empty or too long"));
                }
                fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name)
                    .map_err(|error| at.failed("make a link", error))?;
            }
            Kind::HardLink => return self.hard_link(parent, name, entry),
            Kind::CharDevice if entry.major == 0 && entry.minor == 0 => {
                return Err(at.refuse("the device 0:0 is overlayfs's whiteout"));
            }
            Kind::CharDevice => special(FileType::CharacterDevice, entry.major, entry.minor)?,
            Kind::BlockDevice => special(FileType::BlockDevice, entry.major, entry.minor)?,
            Kind::Fifo => special(FileType::Fifo, 0, 0)?,
        }
        set_metadata(parent, name, entry, at)?;
        if entry.kind == Kind::Directory {
            self.times
                .push((path.to_owned(), entry.mtime, entry.mtime_nanos));
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let at = Shown(&entry.path);
        let target = clean(&entry.link)?;
        let Some(target_name) = target.file_name() else {
            return Err(at.refuse("a hard link to the root"));
        };
        let target_parent = target.parent().unwrap_or(Path::new(""));
        if let Ok(directory) = in_root(&self.root, target_parent) {
            match fs::linkat(&directory, target_name, parent, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(at.failed("make a hard link", error)),
            }
        }
        // The file is in a layer below: overlayfs would copy it up, so do we.
        for lower in self.lowers {
            let Ok(lower_root) = fs::open(
                lower,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            ) else {
                continue;
            };
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = match fs::openat2(&lower_root, &target, flags, Mode::empty(), resolve) {
                Ok(source) => source,
                Err(Errno::NOENT) => continue,
                // A whiteout cannot be opened: the file is gone in this view.
                Err(error) => {
                    return Err(at.failed("open a hard link's target in a lower layer", error));
                }
            };
            let stat = fs::fstat(&source)
                .map_err(|error| at.failed("look at a hard link's target", error))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(at.refuse("a hard link to something that is no file of a lower layer"));
            }
            self.size = self.size.saturating_add(stat.st_size as u64);
            let copy = Entry {
                kind: Kind::File,
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: stat.st_mtime,
                mtime_nanos: stat.st_mtime_nsec as u32,
                size: stat.st_size as u64,
                segments: Vec::new(),
                ..entry.clone()
            };
            write_file(parent, name, &copy, &mut std::fs::File::from(source))?;
            return set_metadata(parent, name, &copy, at);
        }
        Err(at.refuse("a hard link to a file that is neither in this layer nor below"))
    }

    /// An open directory of this layer, made with what the layers below know of it where it is missing.
    fn directory(&mut self, path: &Path, at: Shown<'_>) -> Result<OwnedFd, UnpackError> {
        if let Some((known, fd)) = self.parent.take()
            && known == path
        {
            return Ok(fd);
        }
        match in_root(&self.root, path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(at.failed("open its directory", error)),
        }
        self.make_directories(path, at)
    }

    fn make_directories(&mut self, path: &Path, at: Shown<'_>) -> Result<OwnedFd, UnpackError> {
        let mut todo: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
        let mut here: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_bytes() {
                b"/" => {
                    here.clear();
                    continue;
                }
                b"." => continue,
                b".." => {
                    here.pop();
                    continue;
                }
                _ => {}
            }
            let parent_path: PathBuf = here.iter().collect();
            let parent = in_root(&self.root, &parent_path)
                .map_err(|error| at.failed("open its directory", error))?;
            match fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let child = parent_path.join(&name);
                    fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))
                        .map_err(|error| at.failed("make its directory", error))?;
                    self.copy_directory_metadata(parent.as_fd(), &name, &child, at)?;
                }
                Err(error) => return Err(at.failed("look at its directory", error)),
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => {}
                    FileType::Symlink => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(at.refuse("too many symbolic links on the way"));
                        }
                        let target = fs::readlinkat(&parent, &name, Vec::new())
                            .map_err(|error| at.failed("read a link", error))?;
                        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                        todo.extend(target.iter().rev().map(OsStr::to_owned));
                        continue;
                    }
                    _ => return Err(at.refuse("its parent is a file of the same layer")),
                },
            }
            here.push(name);
            if here.len() > PATH_MAX / 2 {
                return Err(at.refuse("the path is too deep"));
            }
        }
        let end: PathBuf = here.iter().collect();
        in_root(&self.root, &end).map_err(|error| at.failed("open its directory", error))
    }

    fn copy_directory_metadata(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        at: Shown<'_>,
    ) -> Result<(), UnpackError> {
        for lower in self.lowers {
            let Ok(stat) = fs::open(
                lower,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .and_then(|root| in_root(&root, path))
            .and_then(fs::fstat) else {
                continue;
            };
            let owner = (
                fs::Uid::from_raw(stat.st_uid),
                fs::Gid::from_raw(stat.st_gid),
            );
            fs::chownat(
                parent,
                name,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|error| at.failed("set its directory's owner", error))?;
            fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                AtFlags::empty(),
            )
            .map_err(|error| at.failed("set its directory's mode", error))?;
            self.times
                .push((path.to_owned(), stat.st_mtime, stat.st_mtime_nsec as u32));
            return Ok(());
        }
        Ok(())
    }

    fn finish_times(&mut self) -> Result<(), UnpackError> {
        for (path, seconds, nanos) in self.times.drain(..).rev() {
            let parent = path.parent().unwrap_or(Path::new(""));
            // A directory that a later entry replaced needs no time any more.
            let Ok(directory) = in_root(&self.root, parent) else {
                continue;
            };
            let name = path.file_name().unwrap_or(OsStr::new("."));
            let _ = fs::utimensat(
                &directory,
                name,
                &times(seconds, nanos),
                AtFlags::SYMLINK_NOFOLLOW,
            );
        }
        Ok(())
    }
}
