//! One file, append only. See the crate's documentation for the order in which an entry is published.

mod objects;
mod pending;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Gid, Mode};

use crate::id::Id128;
use crate::layout::{
    FLAG_KEYED, FormatError, HEADER_SIZE, Header, OBJ_DATA_TABLE, OBJ_FIELD_TABLE, OBJ_HEADER,
    ObjectHeader, State, align8,
};

/// No sequence gets here; a greater number in a header is damage.
pub(crate) const MAX_SEQNUM: u64 = 1 << 62;
const FIELD_BUCKETS: u64 = 1023;
const MIN_DATA_BUCKETS: u64 = 2047;
/// Entry arrays double up to this many slots (256 KiB), so that the last one of a file wastes little.
const MAX_ARRAY: u64 = 32 * 1024;
/// Longer hash chains make a file slow; the directory then starts a new one.
const MAX_CHAIN: u64 = 100;
/// Data objects whose state is remembered between entries, and the longest payload kept for comparing.
const CACHE_OBJECTS: usize = 512;
const CACHE_PAYLOAD: usize = 256;

/// When an entry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Microseconds since 1970.
    pub realtime: u64,
    /// Microseconds of `CLOCK_MONOTONIC`.
    pub monotonic: u64,
    /// The boot that `monotonic` counts in.
    pub boot_id: Id128,
}

impl Stamp {
    /// This moment.
    pub fn now(boot_id: Id128) -> Self {
        let usec = |id| {
            let t = rustix::time::clock_gettime(id);
            (t.tv_sec as u64).saturating_mul(1_000_000) + t.tv_nsec as u64 / 1000
        };
        Self {
            realtime: usec(rustix::time::ClockId::Realtime),
            monotonic: usec(rustix::time::ClockId::Monotonic),
            boot_id,
        }
    }
}

/// How a new file is made.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Stands in the header; readers check it against the directory they look in.
    pub machine_id: Id128,
    /// The file never grows beyond this.
    pub max_size: u64,
    /// Space is allocated in steps of this size.
    pub step: u64,
    /// Group that may read the file (`systemd-journal`).
    pub gid: Option<u32>,
}

/// An entry or a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file is at its size limit or its hash chains are long: rotate and write again.
    #[error("the journal file {0} is full")]
    Full(PathBuf),
    /// The entry alone is larger than any file may be, or has no valid field.
    #[error("the entry cannot be stored: {0}")]
    Entry(&'static str),
    /// The time stamp or boot goes backwards within the file: rotate and write again.
    #[error("the clock went backwards within {0}")]
    Order(PathBuf),
    /// The file was not closed in order, or is damaged: set it aside.
    #[error("the journal file {path} cannot be continued: {why}")]
    Unclean {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The operating system refused.
    #[error("failed to {what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Where the next slot of an entry list is.
#[derive(Debug, Clone, Copy)]
struct ArrayTail {
    offset: u64,
    capacity: u64,
    used: u64,
}

/// What is remembered of a data object.
#[derive(Debug)]
struct Data {
    offset: u64,
    n_entries: u64,
    array: Option<ArrayTail>,
    payload: Box<[u8]>,
}

/// Changes of one entry before they reach the file.
#[derive(Debug, Default)]
struct Pending {
    base: u64,
    objects: Vec<u8>,
    /// New values of words that are in the file already, in the order in which they must be written.
    links: Vec<(u64, u64)>,
}

/// A journal file open for appending. Only one may exist per file.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    header: Header,
    max_size: u64,
    step: u64,
    /// First byte behind the last object.
    tail: u64,
    pending: Pending,
    cache: HashMap<u64, Data>,
    fields: HashMap<Vec<u8>, u64>,
    main: Option<ArrayTail>,
}

impl Writer {
    /// Makes a new file; its sequence goes on at `after` in the sequence `seqnum_id`.
    pub fn create(
        path: &Path,
        options: &WriterOptions,
        seqnum_id: Id128,
        after: u64,
    ) -> Result<Self, WriteError> {
        let io_error = |what| {
            move |source| WriteError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(path)
            .map_err(io_error("create"))?;
        match Self::set_up(file, path, options, seqnum_id, after) {
            Ok(writer) => Ok(writer),
            Err(source) => {
                // A half-made file would only be set aside as damaged at the next start.
                let _ = std::fs::remove_file(path);
                Err(io_error("create")(source))
            }
        }
    }

    fn set_up(
        file: File,
        path: &Path,
        options: &WriterOptions,
        seqnum_id: Id128,
        after: u64,
    ) -> io::Result<Self> {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640))?;
        if let Some(gid) = options.gid {
            rustix::fs::fchown(&file, None, Some(Gid::from_raw(gid)))?;
        }
        let data_buckets = (options.max_size / 576).max(MIN_DATA_BUCKETS);
        let field_object = HEADER_SIZE;
        let data_object = field_object + OBJ_HEADER + FIELD_BUCKETS * 16;
        let tail = data_object + OBJ_HEADER + data_buckets * 16;
        let size = tail.next_multiple_of(options.step.max(4096));
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?;
        for (offset, kind, buckets) in [
            (field_object, OBJ_FIELD_TABLE, FIELD_BUCKETS),
            (data_object, OBJ_DATA_TABLE, data_buckets),
        ] {
            file.write_all_at(&object_header(kind, OBJ_HEADER + buckets * 16), offset)?;
        }
        let header = Header {
            compatible: 0,
            incompatible: FLAG_KEYED,
            state: State::Online,
            file_id: Id128::random()?,
            machine_id: options.machine_id,
            tail_entry_boot_id: Id128::default(),
            seqnum_id,
            header_size: HEADER_SIZE,
            arena_size: size - HEADER_SIZE,
            data_table: (data_object + OBJ_HEADER, data_buckets * 16),
            field_table: (field_object + OBJ_HEADER, FIELD_BUCKETS * 16),
            tail_object: data_object,
            n_objects: 2,
            n_entries: 0,
            tail_seqnum: after,
            head_seqnum: 0,
            entry_array: 0,
            head_realtime: 0,
            tail_realtime: 0,
            tail_monotonic: 0,
            n_data: 0,
            n_fields: 0,
            n_tags: 0,
            n_entry_arrays: 0,
            data_chain_depth: 0,
            field_chain_depth: 0,
        };
        file.write_all_at(&header.to_bytes(), 0)?;
        Ok(Self::with(file, path, header, options, tail, None))
    }

    /// Continues a file that was closed in order.
    pub fn open(path: &Path, options: &WriterOptions) -> Result<Self, WriteError> {
        let unclean = |why: String| WriteError::Unclean {
            path: path.to_owned(),
            why,
        };
        let io_error = |source| WriteError::Io {
            what: "open",
            path: path.to_owned(),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(io_error)?;
        let size = file.metadata().map_err(io_error)?.len();
        let mut bytes = vec![0u8; size.min(HEADER_SIZE) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
        let mut header =
            Header::parse(&bytes, size).map_err(|err: FormatError| unclean(err.to_string()))?;
        if header.state != State::Offline {
            return Err(unclean("it was not closed".to_owned()));
        }
        if header.incompatible != FLAG_KEYED || header.header_size != HEADER_SIZE {
            return Err(unclean("another program wrote it".to_owned()));
        }
        if header.tail_seqnum >= MAX_SEQNUM {
            return Err(unclean("its sequence number is impossible".to_owned()));
        }
        if header.machine_id != options.machine_id {
            return Err(unclean("it is another machine's".to_owned()));
        }
        let mut head = [0u8; OBJ_HEADER as usize];
        let tail = file
            .read_exact_at(&mut head, header.tail_object)
            .ok()
            .map(|()| {
                header
                    .tail_object
                    .saturating_add(align8(ObjectHeader::parse(&head).size))
            })
            .filter(|tail| {
                *tail <= header.header_size.saturating_add(header.arena_size) && *tail <= size
            })
            .ok_or_else(|| unclean("its last object is damaged".to_owned()))?;
        // The allocation may have been cut or grown behind our back.
        header.arena_size = size - header.header_size;
        let mut writer = Self::with(file, path, header, options, tail, None);
        writer.main = writer
            .load_array(writer.header.entry_array, writer.header.n_entries)
            .map_err(|err| unclean(err.to_string()))?;
        Ok(writer)
    }

    fn with(
        file: File,
        path: &Path,
        header: Header,
        options: &WriterOptions,
        tail: u64,
        main: Option<ArrayTail>,
    ) -> Self {
        Self {
            file,
            path: path.to_owned(),
            header,
            max_size: options.max_size,
            step: options.step.max(4096),
            tail,
            pending: Pending::default(),
            cache: HashMap::new(),
            fields: HashMap::new(),
            main,
        }
    }

    /// The header as it stands.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it should be rotated although it takes more entries.
    pub fn is_worn(&self) -> bool {
        self.header.data_chain_depth > MAX_CHAIN || self.header.field_chain_depth > MAX_CHAIN
    }

    /// Appends one entry. Each field is `NAME=value`; what has no valid name is left out, repetitions count once.
    /// Gives the entry's sequence number. After an error nothing of the entry is in the file.
    pub fn append<F: AsRef<[u8]>>(
        &mut self,
        stamp: Stamp,
        fields: &[F],
    ) -> Result<u64, WriteError> {
        let mut payloads: Vec<&[u8]> = fields
            .iter()
            .map(AsRef::as_ref)
            .filter(|f| field_name(f).is_some())
            .collect();
        payloads.sort_unstable();
        payloads.dedup();
        if payloads.is_empty() {
            return Err(WriteError::Entry("it has no field with a valid name"));
        }
        let same_boot = self.header.tail_entry_boot_id == stamp.boot_id;
        if self.header.n_entries > 0 && same_boot && stamp.monotonic < self.header.tail_monotonic {
            return Err(WriteError::Order(self.path.clone()));
        }

        let before = self.header.clone();
        self.pending = Pending {
            base: self.tail,
            objects: Vec::new(),
            links: Vec::new(),
        };
        let done = self
            .compose(stamp, &payloads)
            .and_then(|()| self.commit(&before));
        match done {
            Ok(()) => {
                self.tail += self.pending.objects.len() as u64;
                self.pending = Pending::default();
                if self.cache.len() > CACHE_OBJECTS {
                    self.cache.clear();
                }
                Ok(self.header.tail_seqnum)
            }
            Err(err) => {
                // What was composed is forgotten, and with it everything remembered about it.
                self.header = before;
                self.pending = Pending::default();
                self.cache.clear();
                self.fields.clear();
                self.main = self
                    .load_array(self.header.entry_array, self.header.n_entries)
                    .map_err(|source| self.io_error("read", source))?;
                Err(err)
            }
        }
    }

    fn commit(&mut self, before: &Header) -> Result<(), WriteError> {
        let end = self.tail + self.pending.objects.len() as u64;
        let allocated = self.header.header_size + self.header.arena_size;
        if end > allocated {
            let size = end.next_multiple_of(self.step).min(self.max_size.max(end));
            rustix::fs::fallocate(
                &self.file,
                FallocateFlags::empty(),
                allocated,
                size - allocated,
            )
            .map_err(|errno| self.io_error("allocate space for", errno.into()))?;
            self.header.arena_size = size - self.header.header_size;
        }
        let write = || -> io::Result<()> {
            if before.state != State::Online {
                // Say that the file is in use before the first change, and have that on disk, so that a power cut
                // cannot leave a half-written file that claims to be whole.
                self.file.write_all_at(&[State::Online as u8], 16)?;
                self.file.sync_data()?;
            }
            self.file
                .write_all_at(&self.pending.objects, self.pending.base)?;
            for (at, value) in &self.pending.links {
                self.file.write_all_at(&value.to_le_bytes(), *at)?;
            }
            let mut header = self.header.clone();
            header.state = State::Online;
            self.file.write_all_at(&header.to_bytes(), 0)
        };
        write().map_err(|source| self.io_error("write", source))?;
        self.header.state = State::Online;
        Ok(())
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> WriteError {
        WriteError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }

    /// Brings everything to the disk and leaves the file in use: for messages that must survive a power cut.
    pub fn flush(&self) -> Result<(), WriteError> {
        self.file
            .sync_data()
            .map_err(|source| self.io_error("sync", source))
    }

    /// Brings everything to the disk and marks the file as closed in order; the next entry opens it again.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        self.set_state(State::Offline)
    }

    /// Marks the file as archived and cuts what was allocated too much. The caller has renamed it.
    pub(crate) fn finish_archive(mut self) -> Result<(), WriteError> {
        self.file
            .set_len(self.tail)
            .map_err(|source| self.io_error("shorten", source))?;
        self.header.arena_size = self.tail - self.header.header_size;
        self.set_state(State::Archived)
    }

    fn set_state(&mut self, state: State) -> Result<(), WriteError> {
        if self.header.state == state {
            return Ok(());
        }
        let mut header = self.header.clone();
        header.state = state;
        let write = || {
            self.file.sync_data()?;
            self.file.write_all_at(&header.to_bytes(), 0)?;
            self.file.sync_data()
        };
        write().map_err(|source| self.io_error("sync", source))?;
        self.header = header;
        Ok(())
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn object_header(kind: u8, size: u64) -> [u8; OBJ_HEADER as usize] {
    let mut out = [0u8; OBJ_HEADER as usize];
    out[0] = kind;
    out[8..].copy_from_slice(&size.to_le_bytes());
    out
}

/// The name in `NAME=value`, if it is one: `A-Z0-9_`, at most 64, no digit first.
pub(crate) fn field_name(payload: &[u8]) -> Option<&[u8]> {
    let at = payload.iter().take(65).position(|b| *b == b'=')?;
    let name = &payload[..at];
    let valid = !name.is_empty()
        && !name[0].is_ascii_digit()
        && name
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    valid.then_some(name)
}
