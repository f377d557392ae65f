//! Reading one file.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::chain::Chain;
use crate::id::Id128;
use crate::layout::{
    COMPRESSED, FormatError, Header, OBJ_DATA, OBJ_ENTRY, OBJ_FIELD, OBJ_HEADER, ObjectHeader,
    data, entry, field, u32_at, u64_at,
};

/// The file is read in blocks of this size, of which this many are kept.
const BLOCK: u64 = 16 * 1024;
const BLOCKS: usize = 128;
/// More items than this in one entry is damage.
const MAX_ITEMS: u64 = 64 * 1024;
/// A payload beyond this is not read (the format's own limit).
const MAX_PAYLOAD: u64 = 768 << 20;

/// A file or a part of it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("failed to read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Not a journal file, or one of another kind.
    #[error("failed to open {path} as a journal file")]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: FormatError,
    },
    /// An object is not what it should be.
    #[error("{path} is damaged at {at:#x}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the object.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Identity and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The sequence that `seqnum` counts in.
    pub seqnum_id: Id128,
    /// Number of the entry.
    pub seqnum: u64,
    /// Microseconds since 1970.
    pub realtime: u64,
    /// Microseconds since boot.
    pub monotonic: u64,
    /// The boot.
    pub boot_id: Id128,
    /// Checksum of the entry's data.
    pub xor_hash: u64,
}

impl Meta {
    /// The order in which entries of several files are shown: by number within a sequence, by monotonic time within a
    /// boot, else by wall clock.
    pub fn order(&self, other: &Self) -> Ordering {
        let by_number = match self.seqnum_id == other.seqnum_id {
            true => self.seqnum.cmp(&other.seqnum),
            false => Ordering::Equal,
        };
        let by_boot = match self.boot_id == other.boot_id {
            true => self.monotonic.cmp(&other.monotonic),
            false => Ordering::Equal,
        };
        by_number
            .then(by_boot)
            .then(self.realtime.cmp(&other.realtime))
            .then(self.xor_hash.cmp(&other.xor_hash))
    }
}

/// One entry with its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Identity and time.
    pub meta: Meta,
    /// `NAME=value`, in the file's order.
    pub fields: Vec<Vec<u8>>,
}

impl Entry {
    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find_map(|f| value_of(f, name))
    }

    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter_map(move |f| value_of(f, name))
    }
}

fn value_of<'a>(payload: &'a [u8], name: &str) -> Option<&'a [u8]> {
    payload.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[derive(Debug, Default)]
struct Blocks {
    kept: HashMap<u64, Box<[u8]>>,
    buffer: Vec<u64>,
}

/// One journal file open for reading. What it shows is the state of the last [`FileReader::refresh`].
#[derive(Debug)]
pub struct FileReader {
    file: File,
    path: PathBuf,
    identity: (u64, u64),
    size: u64,
    header: Header,
    main: Chain,
    blocks: RefCell<Blocks>,
}

impl FileReader {
    /// Opens a file. One that its writer never closed is read as far as it goes.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let io_error = |source| ReadError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io_error)?;
        let meta = file.metadata().map_err(io_error)?;
        let (header, size) = read_header(&file, path)?;
        let mut reader = Self {
            file,
            path: path.to_owned(),
            identity: (meta.dev(), meta.ino()),
            size,
            header,
            main: Chain::default(),
            blocks: RefCell::default(),
        };
        reader.load_main()?;
        Ok(reader)
    }

    fn load_main(&mut self) -> Result<(), ReadError> {
        self.main = Chain::load(self, None, self.header.entry_array, self.header.n_entries)?;
        Ok(())
    }

    /// Takes note of what was appended since. Gives whether there are new entries.
    pub fn refresh(&mut self) -> Result<bool, ReadError> {
        let (header, size) = read_header(&self.file, &self.path)?;
        let grown = header.n_entries != self.header.n_entries;
        self.header = header;
        self.size = size;
        if grown {
            self.blocks.borrow_mut().kept.clear();
            self.load_main()?;
        }
        Ok(grown)
    }

    /// The header as of the last refresh.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where it was opened; it may have been renamed since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode, by which a renamed file is known again.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    pub(crate) fn main(&self) -> &Chain {
        &self.main
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn damaged(&self, at: u64, what: &'static str) -> ReadError {
        ReadError::Damaged {
            path: self.path.clone(),
            at,
            what,
        }
    }

    /// Copies bytes out of the file into `out`.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let end = at
            .checked_add(out.len() as u64)
            .filter(|end| *end <= self.size);
        if end.is_none() {
            return Err(self.damaged(at, "an offset leads behind the end"));
        }
        let io_error = |source| ReadError::Io {
            path: self.path.clone(),
            source,
        };
        if out.len() as u64 > BLOCK {
            return self.file.read_exact_at(out, at).map_err(io_error);
        }
        let mut blocks = self.blocks.borrow_mut();
        let mut done = 0;
        while done < out.len() {
            let position = at + done as u64;
            let (number, within) = (position / BLOCK, (position % BLOCK) as usize);
            if !blocks.kept.contains_key(&number) {
                if blocks.buffer.len() >= BLOCKS {
                    let oldest = blocks.buffer.remove(0);
                    blocks.kept.remove(&oldest);
                }
                let start = number * BLOCK;
                let mut block = vec![0u8; BLOCK.min(self.size - start) as usize];
                self.file
                    .read_exact_at(&mut block, start)
                    .map_err(io_error)?;
                blocks.kept.insert(number, block.into());
                blocks.buffer.retain(|n| *n != number);
                blocks.buffer.push(number);
            }
            // A block kept from before the file grew may be shorter than needed now; read past it directly.
            let block = blocks.kept.get(&number).map_or(&[][..], |b| &b[..]);
            let Some(available) = block.get(within..).filter(|rest| !rest.is_empty()) else {
                return self
                    .file
                    .read_exact_at(&mut out[done..], position)
                    .map_err(io_error);
            };
            let part = available.len().min(out.len() - done);
            out[done..done + part].copy_from_slice(&available[..part]);
            done += part;
        }
        Ok(())
    }

    pub(crate) fn word(&self, at: u64) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn half_word(&self, at: u64) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>, ReadError> {
        if len > MAX_PAYLOAD || at.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(self.damaged(at, "a size leads behind the end"));
        }
        let mut out = vec![0; len as usize];
        self.read(at, &mut out)?;
        Ok(out)
    }

    /// The object header at `at`, checked for place, size and kind (0: any).
    pub(crate) fn object(&self, at: u64, kind: u8) -> Result<ObjectHeader, ReadError> {
        if !at.is_multiple_of(8) || at < self.header.header_size {
            return Err(self.damaged(at, "an offset does not lead to an object"));
        }
        let mut bytes = [0; OBJ_HEADER as usize];
        self.read(at, &mut bytes)?;
        let object = ObjectHeader::parse(&bytes);
        if kind != 0 && object.kind != kind {
            return Err(self.damaged(at, "an object is of the wrong kind"));
        }
        let inside = at
            .checked_add(object.size)
            .is_some_and(|end| end <= self.size);
        if object.size < OBJ_HEADER || !inside {
            return Err(self.damaged(at, "an object's size is impossible"));
        }
        Ok(object)
    }

    /// Time and identity of the entry at `at`.
    pub(crate) fn meta(&self, at: u64) -> Result<Meta, ReadError> {
        let object = self.object(at, OBJ_ENTRY)?;
        if object.size < entry::ITEMS {
            return Err(self.damaged(at, "an entry is too short"));
        }
        let mut bytes = [0; entry::ITEMS as usize];
        self.read(at, &mut bytes)?;
        let mut boot = [0; 16];
        boot.copy_from_slice(&bytes[40..56]);
        Ok(Meta {
            seqnum_id: self.header.seqnum_id,
            seqnum: u64_at(&bytes, 16),
            realtime: u64_at(&bytes, 24),
            monotonic: u64_at(&bytes, 32),
            boot_id: Id128(boot),
            xor_hash: u64_at(&bytes, 56),
        })
    }

    /// Offsets of the data objects of the entry at `at`.
    pub(crate) fn items(&self, at: u64) -> Result<Vec<u64>, ReadError> {
        let object = self.object(at, OBJ_ENTRY)?;
        let width = if self.header.compact() { 4 } else { 16 };
        let count = object.size.saturating_sub(entry::ITEMS) / width;
        if count > MAX_ITEMS {
            return Err(self.damaged(at, "an entry has too many fields"));
        }
        let bytes = self.bytes(at + entry::ITEMS, count * width)?;
        Ok((0..count)
            .map(|i| match width {
                4 => u64::from(u32_at(&bytes, i * 4)),
                _ => u64_at(&bytes, i * 16),
            })
            .collect())
    }

    /// The entry at `at`. A field that is damaged or compressed is left out; so is none of the others.
    pub(crate) fn entry(&self, at: u64) -> Result<Entry, ReadError> {
        let meta = self.meta(at)?;
        let fields = self
            .items(at)?
            .into_iter()
            .filter_map(|item| self.payload(item).ok())
            .collect();
        Ok(Entry { meta, fields })
    }

    pub(crate) fn payload_offset(&self) -> u64 {
        if self.header.compact() {
            data::PAYLOAD_COMPACT
        } else {
            data::PAYLOAD
        }
    }

    /// `NAME=value` of the data object at `at`.
    pub(crate) fn payload(&self, at: u64) -> Result<Vec<u8>, ReadError> {
        let object = self.object(at, OBJ_DATA)?;
        if object.flags & COMPRESSED != 0 {
            return Err(self.damaged(
                at,
                "the field is compressed, which this program cannot undo",
            ));
        }
        let start = self.payload_offset();
        let Some(len) = object.size.checked_sub(start) else {
            return Err(self.damaged(at, "a data object is too short"));
        };
        self.bytes(at + start, len)
    }

    /// Looks a payload up in the data hash table.
    pub(crate) fn find_data(&self, payload: &[u8]) -> Result<Option<u64>, ReadError> {
        let start = self.payload_offset();
        self.find(self.header.data_table, payload, |at| {
            let object = self.object(at, OBJ_DATA)?;
            // A compressed object keeps the hash of the plain payload; the hash alone has to do then.
            Ok(object.flags & COMPRESSED != 0
                || (object.size == start + payload.len() as u64 && self.payload(at)? == payload))
        })
    }

    /// Looks a name up in the field hash table.
    pub(crate) fn find_field(&self, name: &[u8]) -> Result<Option<u64>, ReadError> {
        self.find(self.header.field_table, name, |at| {
            let object = self.object(at, OBJ_FIELD)?;
            Ok(object.size == field::PAYLOAD + name.len() as u64
                && self.bytes(at + field::PAYLOAD, name.len() as u64)? == name)
        })
    }

    fn find(
        &self,
        (table, size): (u64, u64),
        payload: &[u8],
        same: impl Fn(u64) -> Result<bool, ReadError>,
    ) -> Result<Option<u64>, ReadError> {
        let hash = self.header.hash(payload);
        let mut at = self.word(table + hash % (size / 16) * 16)?;
        let mut before = 0;
        while at != 0 {
            if at <= before {
                return Err(self.damaged(at, "a hash chain leads out of order"));
            }
            // Data and field objects have hash and next link at the same places.
            if self.word(at + data::HASH)? == hash && same(at)? {
                return Ok(Some(at));
            }
            before = at;
            at = self.word(at + data::NEXT_HASH)?;
        }
        Ok(None)
    }

    /// The entries that have the data object at `at`.
    pub(crate) fn entries_with(&self, at: u64) -> Result<Chain, ReadError> {
        let n = self.word(at + data::N_ENTRIES)?;
        let first = self.word(at + data::ENTRY)?;
        if n == 0 || first == 0 {
            return Ok(Chain::default());
        }
        Chain::load(self, Some(first), self.word(at + data::ARRAY)?, n)
    }

    /// Offsets of all data objects of a field, newest first.
    pub(crate) fn values_of(&self, name: &[u8]) -> Result<Vec<u64>, ReadError> {
        let Some(field) = self.find_field(name)? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        let mut at = self.word(field + field::HEAD_DATA)?;
        let mut before = u64::MAX;
        while at != 0 {
            if at >= before {
                return Err(self.damaged(at, "a field's list leads out of order"));
            }
            self.object(at, OBJ_DATA)?;
            found.push(at);
            before = at;
            at = self.word(at + data::NEXT_FIELD)?;
        }
        Ok(found)
    }

    /// Names of all fields in the file.
    pub(crate) fn field_names(&self) -> Result<Vec<Vec<u8>>, ReadError> {
        let (table, size) = self.header.field_table;
        let mut names = Vec::new();
        for bucket in 0..size / 16 {
            let mut at = self.word(table + bucket * 16)?;
            let mut before = 0;
            while at != 0 {
                if at <= before {
                    return Err(self.damaged(at, "a hash chain leads out of order"));
                }
                let object = self.object(at, OBJ_FIELD)?;
                names.push(self.bytes(
                    at + field::PAYLOAD,
                    object.size.saturating_sub(field::PAYLOAD),
                )?);
                before = at;
                at = self.word(at + field::NEXT_HASH)?;
            }
        }
        Ok(names)
    }
}

fn read_header(file: &File, path: &Path) -> Result<(Header, u64), ReadError> {
    let io_error = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let size = file.metadata().map_err(io_error)?.len();
    let mut bytes = vec![0; size.min(512) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
    let header = Header::parse(&bytes, size).map_err(|source| ReadError::Format {
        path: path.to_owned(),
        source,
    })?;
    Ok((header, size))
}
