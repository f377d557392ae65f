//! A directory that is written: the active file, rotation, setting aside of unclean files, vacuuming.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Gid;

use crate::dir::{self, Kind};
use crate::file::FileReader;
use crate::id::Id128;
use crate::vacuum::{Archive, Limits, plan_vacuum};
use crate::writer::{MAX_SEQNUM, Stamp, WriteError, Writer, WriterOptions};

/// How a directory is kept.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Whose journal it is.
    pub machine_id: Id128,
    /// Sizes.
    pub limits: Limits,
    /// Allocation step of the active file.
    pub step: u64,
    /// Group that may read.
    pub gid: Option<u32>,
}

/// The directory cannot be used, or an entry could not be written even to a new file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory or a name in it.
    #[error("failed to {what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file.
    #[error("failed to write the journal")]
    Write(#[source] WriteError),
}

/// The journal directory of this machine, open for writing.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    options: StoreOptions,
    writer: Writer,
    /// Files set aside at opening, for the log.
    set_aside: Vec<PathBuf>,
}

impl Store {
    /// Opens `base/MACHINE-ID`, making it if needed. `base` itself must exist for a persistent journal to be wanted; the
    /// caller decides that. An unclean `system.journal` is renamed and a new one continues its sequence.
    pub fn open(base: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let dir = base.join(options.machine_id.to_string());
        for (path, mode) in [(base, 0o755), (dir.as_path(), 0o2755)] {
            make_dir(path, mode, options.gid).map_err(|source| StoreError::Io {
                what: "make",
                path: path.to_owned(),
                source,
            })?;
        }
        let path = dir.join("system.journal");
        let file_options = WriterOptions {
            machine_id: options.machine_id,
            max_size: options.limits.max_file,
            step: options.step,
            gid: options.gid,
        };
        let mut set_aside = Vec::new();
        let writer = match Writer::open(&path, &file_options) {
            Ok(writer) => writer,
            Err(WriteError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let (id, after) = last_sequence(&dir, options.machine_id)
                    .map_or_else(|| Id128::random().map(|id| (id, 0)), Ok)
                    .map_err(|source| StoreError::Io {
                        what: "number",
                        path: dir.clone(),
                        source,
                    })?;
                Writer::create(&path, &file_options, id, after).map_err(StoreError::Write)?
            }
            Err(WriteError::Unclean { .. } | WriteError::Io { .. }) => {
                // Entries behind the last counted one may exist after a power cut; their numbers are not used again.
                let sequence = sequence_of(&path, options.machine_id).map(|(id, n)| (id, n + 1000));
                set_aside.push(move_aside(&path)?);
                let (id, after) = sequence
                    .map_or_else(|| Id128::random().map(|id| (id, 0)), Ok)
                    .map_err(|source| StoreError::Io {
                        what: "number",
                        path: dir.clone(),
                        source,
                    })?;
                Writer::create(&path, &file_options, id, after).map_err(StoreError::Write)?
            }
            Err(err) => return Err(StoreError::Write(err)),
        };
        Ok(Self {
            dir,
            options,
            writer,
            set_aside,
        })
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file being written.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Unclean files that opening has renamed; empties the list.
    pub fn take_set_aside(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.set_aside)
    }

    /// Appends one entry; rotates first where the active file is full, worn or would go backwards in time. A full disk
    /// deletes the oldest archives and tries once more.
    pub fn append<F: AsRef<[u8]>>(
        &mut self,
        stamp: Stamp,
        fields: &[F],
    ) -> Result<u64, StoreError> {
        if self.writer.is_worn() {
            self.rotate()?;
        }
        match self.writer.append(stamp, fields) {
            Err(WriteError::Full(_) | WriteError::Order(_)) => {
                self.rotate()?;
                self.vacuum(None)?;
            }
            Err(WriteError::Unclean { .. }) => self.replace()?,
            Err(WriteError::Io { source, .. }) => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    self.vacuum(None)?;
                }
                // Damage or a failing disk: what was written before stays readable under another name.
                _ => self.replace()?,
            },
            other => return other.map_err(StoreError::Write),
        }
        self.writer.append(stamp, fields).map_err(StoreError::Write)
    }

    /// Archives the active file and starts another, which continues the sequence. An empty file stays.
    pub fn rotate(&mut self) -> Result<(), StoreError> {
        let header = self.writer.header().clone();
        if header.n_entries == 0 {
            return Ok(());
        }
        let path = self.writer.path().to_owned();
        let archived = dir::archive_name(&path, &header);
        fs::rename(&path, &archived).map_err(|source| StoreError::Io {
            what: "rename",
            path: path.clone(),
            source,
        })?;
        match Writer::create(
            &path,
            &self.file_options(),
            header.seqnum_id,
            header.tail_seqnum,
        ) {
            Ok(new) => {
                let old = std::mem::replace(&mut self.writer, new);
                // The name is right already; what remains is the state and the length.
                old.finish_archive().map_err(StoreError::Write)
            }
            Err(err) => {
                // No room for another file: go on with this one.
                fs::rename(&archived, &path).map_err(|source| StoreError::Io {
                    what: "rename",
                    path: archived,
                    source,
                })?;
                Err(StoreError::Write(err))
            }
        }
    }

    /// Sets the active file aside as unclean and starts another.
    fn replace(&mut self) -> Result<(), StoreError> {
        let header = self.writer.header().clone();
        let path = self.writer.path().to_owned();
        if path.exists() {
            let moved = move_aside(&path)?;
            self.set_aside.push(moved);
        }
        self.writer = Writer::create(
            &path,
            &self.file_options(),
            header.seqnum_id,
            header.tail_seqnum,
        )
        .map_err(StoreError::Write)?;
        Ok(())
    }

    fn file_options(&self) -> WriterOptions {
        WriterOptions {
            machine_id: self.options.machine_id,
            max_size: self.options.limits.max_file,
            step: self.options.step,
            gid: self.options.gid,
        }
    }

    /// Deletes archives beyond the limits, or older than `oldest` (microseconds since 1970). Gives the number of bytes freed.
    pub fn vacuum(&mut self, oldest: Option<u64>) -> Result<u64, StoreError> {
        vacuum_dir(&self.dir, &self.options.limits, oldest)
    }

    /// See [`Writer::flush`].
    pub fn flush(&self) -> Result<(), StoreError> {
        self.writer.flush().map_err(StoreError::Write)
    }

    /// See [`Writer::sync`].
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.writer.sync().map_err(StoreError::Write)
    }
}

/// Deletes archives in `dir` beyond the limits or older than `oldest`; for `journalctl --vacuum-…`, which has no open
/// file. Gives the number of bytes freed.
pub fn vacuum_dir(dir: &Path, limits: &Limits, oldest: Option<u64>) -> Result<u64, StoreError> {
    let io_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { what, path, source }
    };
    let mut archives = Vec::new();
    let mut active = 0;
    for found in dir::journal_files(dir).map_err(io_error("read", dir))? {
        let meta = match fs::metadata(&found.path) {
            Ok(meta) => meta,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(io_error("read", &found.path)(err)),
        };
        let size = meta.blocks() * 512;
        let realtime = match found.kind {
            Kind::Active => {
                active += size;
                continue;
            }
            Kind::Archived { realtime, .. } | Kind::Unclean { realtime } => realtime,
        };
        let empty = FileReader::open(&found.path).is_ok_and(|file| file.header().n_entries == 0);
        archives.push(Archive {
            path: found.path,
            size,
            realtime,
            empty,
        });
    }
    let stat = rustix::fs::statvfs(dir).map_err(|errno| io_error("stat", dir)(errno.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let sizes: Vec<_> = archives.iter().map(|a| (a.path.clone(), a.size)).collect();
    let mut freed = 0;
    for path in plan_vacuum(archives, active, free, limits, oldest) {
        match fs::remove_file(&path) {
            Ok(()) => {
                freed += sizes
                    .iter()
                    .find(|(p, _)| *p == path)
                    .map_or(0, |(_, size)| *size);
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("delete", &path)(err)),
        }
    }
    Ok(freed)
}

/// Makes a directory with exactly this mode, unless it is there.
fn make_dir(path: &Path, mode: u32, gid: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode & 0o777).create(path) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            // /run/log, /var/log: made on the way.
            let parent = path.parent().ok_or(err)?;
            fs::DirBuilder::new()
                .mode(0o755)
                .recursive(true)
                .create(parent)?;
            fs::DirBuilder::new().mode(mode & 0o777).create(path)?;
        }
        other => other?,
    }
    if let Some(gid) = gid {
        rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
    }
    // After the change of group, which would clear the set-group-id bit.
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?;
    Ok(())
}

fn move_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let io_error = |source| StoreError::Io {
        what: "set aside",
        path: path.to_owned(),
        source,
    };
    let now = Stamp::now(Id128::default()).realtime;
    let random = Id128::random().map_err(io_error)?;
    let random = random.0[..8]
        .iter()
        .fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let target = dir::unclean_name(path, now, random);
    fs::rename(path, &target).map_err(io_error)?;
    Ok(target)
}

/// Identifier and last number of the sequence in a file of this machine.
fn sequence_of(path: &Path, machine: Id128) -> Option<(Id128, u64)> {
    let file = FileReader::open(path).ok()?;
    let header = file.header();
    let sane = header.seqnum_id != Id128::default() && header.tail_seqnum < MAX_SEQNUM;
    (header.machine_id == machine && sane).then_some((header.seqnum_id, header.tail_seqnum))
}

/// The sequence to go on with when there is no active file: that of the newest archive.
fn last_sequence(dir: &Path, machine: Id128) -> Option<(Id128, u64)> {
    let newest = dir::journal_files(dir)
        .ok()?
        .into_iter()
        .filter(|f| f.prefix == "system")
        .max_by_key(|f| match f.kind {
            Kind::Active => u64::MAX,
            Kind::Archived { realtime, .. } | Kind::Unclean { realtime } => realtime,
        })?;
    sequence_of(&newest.path, machine)
}
