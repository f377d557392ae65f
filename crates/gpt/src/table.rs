//! Reading a table.

use crate::bytes::{crc32, get32, get64, put32};
use crate::{Guid, SECTOR};

pub(crate) const HEADER_LEN: usize = 92;
pub(crate) const ENTRY_LEN: usize = 128;

/// Something that can be read at an offset: a device, an image, a test's bytes.
pub trait ReadAt {
    /// Fills the buffer from this offset.
    ///
    /// # Errors
    /// The bytes are not all there, or cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = start
            .checked_add(buffer.len())
            .and_then(|end| self.get(start..end));
        buffer.copy_from_slice(source.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1.
    pub number: u32,
    /// Type.
    pub kind: Guid,
    /// Its own GUID.
    pub guid: Guid,
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
    /// Name, at most 36 UTF-16 units.
    pub label: String,
}

impl Partition {
    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.last.saturating_sub(self.first) + 1
    }
}

/// A valid table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpt {
    pub(crate) header: [u8; HEADER_LEN],
    pub(crate) entries: Vec<u8>,
    pub(crate) from_backup: bool,
}

impl Gpt {
    /// Reads the table of a disk of this many bytes: the primary, else the backup in the last sector.
    pub fn read(disk: &(impl ReadAt + ?Sized), bytes: u64) -> Option<Gpt> {
        if let Some(gpt) = Gpt::read_one(disk, 1, bytes / SECTOR) {
            return Some(gpt);
        }
        let last = (bytes / SECTOR).checked_sub(1)?;
        let gpt = Gpt::read_one(disk, last, bytes / SECTOR)?;
        Some(Gpt {
            from_backup: true,
            ..gpt
        })
    }

    /// Whether the primary is damaged, and this was read from the backup.
    pub fn from_backup(&self) -> bool {
        self.from_backup
    }

    /// The table whose header is in this sector.
    pub(crate) fn read_one(disk: &(impl ReadAt + ?Sized), lba: u64, sectors: u64) -> Option<Gpt> {
        let mut sector = [0; SECTOR as usize];
        disk.read_at(lba.checked_mul(SECTOR)?, &mut sector).ok()?;
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&sector[..HEADER_LEN]);
        if &header[..8] != b"EFI PART"
            || get32(&header, 12) as usize != HEADER_LEN
            || get64(&header, 24) != lba
        {
            return None;
        }
        let mut blank = header;
        put32(&mut blank, 16, 0);
        let (count, size) = (get32(&header, 80) as usize, get32(&header, 84) as usize);
        if crc32(&blank) != get32(&header, 16) || size != ENTRY_LEN || count == 0 || count > 1024 {
            return None;
        }
        let at = get64(&header, 72);
        if at < 2 || at >= sectors {
            return None;
        }
        let mut entries = vec![0; count * size];
        disk.read_at(at * SECTOR, &mut entries).ok()?;
        (crc32(&entries) == get32(&header, 88)).then_some(Gpt {
            header,
            entries,
            from_backup: false,
        })
    }

    /// The partitions in use; an entry that ends before it begins, or beyond what can be counted in bytes, is none.
    pub fn partitions(&self) -> Vec<Partition> {
        self.entries
            .chunks_exact(ENTRY_LEN)
            .zip(1..)
            .map(|(entry, number)| parse_entry(number, entry))
            .filter(|p| !p.kind.is_zero() && p.first <= p.last && p.last < u64::MAX / SECTOR)
            .collect()
    }
}

fn parse_entry(number: u32, entry: &[u8]) -> Partition {
    let guid = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&entry[at..at + 16]);
        Guid(bytes)
    };
    let units: Vec<u16> = entry[56..]
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|u| *u != 0)
        .collect();
    Partition {
        number,
        kind: guid(0),
        guid: guid(16),
        first: get64(entry, 32),
        last: get64(entry, 40),
        label: String::from_utf16_lossy(&units),
    }
}
