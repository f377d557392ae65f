//! Growing a table to the end of its disk.
//!
//! Growth is a list of writes, each followed by a barrier, in an order that leaves a valid table at every cut: first the
//! backup at the new end of the disk, then the primary's array *beside* the old one, then the primary's header, which is
//! one sector and so switches over at once. The old backup is never touched.

use crate::bytes::{crc32, get64, put32, put64};
use crate::table::{ENTRY_LEN, HEADER_LEN};
use crate::{Gpt, SECTOR, Write};

/// Start and length of partitions are multiples of this many sectors (1 MiB).
const ALIGN: u64 = 2048;

/// What growing needs: the writes and the new size of the grown partition.
#[derive(Debug)]
pub struct Growth {
    /// In order; a barrier follows each.
    pub writes: Vec<Write>,
    /// First sector and number of sectors of the grown partition.
    pub partition: (u64, u64),
}

impl Gpt {
    /// Plans growing partition `number` and the table to the end of a disk of this many bytes, with new
    /// GUIDs for the disk and all partitions if `fresh` gives them. `None` if there is nothing to do, or no room
    /// for the table. A partition with another one behind it keeps its size.
    pub fn grow(
        &self,
        number: u32,
        bytes: u64,
        fresh: Option<&mut dyn FnMut() -> [u8; 16]>,
    ) -> Option<Growth> {
        let sectors = bytes / SECTOR;
        let array = (self.entries.len() as u64).div_ceil(SECTOR);
        let mut entries = self.entries.clone();
        let last_usable = sectors.checked_sub(array + 2)?;
        let all = self.partitions();
        let grown = all.iter().find(|p| p.number == number)?;
        let lowest = all.iter().map(|p| p.first).min()?;
        let highest = all.iter().map(|p| p.last).max()?;
        if lowest < 2 + array || highest > last_usable {
            return None;
        }
        let in_the_way = all.iter().any(|p| p.first > grown.first);
        let new_last = ((last_usable + 1) / ALIGN * ALIGN).checked_sub(1)?;
        let last = if in_the_way {
            grown.last
        } else {
            new_last.max(grown.last)
        };
        if fresh.is_none()
            && !self.from_backup
            && last == grown.last
            && get64(&self.header, 32) == sectors - 1
        {
            return None;
        }
        let slot = (number as usize - 1) * ENTRY_LEN;
        put64(&mut entries, slot + 40, last);
        let mut header = self.header;
        if let Some(fresh) = fresh {
            for entry in entries
                .chunks_exact_mut(ENTRY_LEN)
                .filter(|e| e[..16] != [0; 16])
            {
                entry[16..32].copy_from_slice(&fresh());
            }
            header[56..72].copy_from_slice(&fresh());
        }
        // The array moves between two places in front of the first partition, if both fit there.
        let at = if self.from_backup {
            0
        } else {
            get64(&self.header, 72)
        };
        let primary_at = if lowest >= 2 + 2 * array && at == 2 {
            2 + array
        } else {
            2
        };
        put64(&mut header, 48, last_usable);
        let first_usable = get64(&header, 40).max((2 + 2 * array).min(lowest));
        put64(&mut header, 40, first_usable);
        put32(&mut header, 88, crc32(&entries));
        let backup_at = sectors - 1 - array;
        let backup = sealed(header, sectors - 1, 1, backup_at);
        let primary = sealed(header, 1, sectors - 1, primary_at);
        let write = |sector: u64, bytes: Vec<u8>| Write {
            offset: sector * SECTOR,
            bytes,
        };
        Some(Growth {
            partition: (grown.first, last + 1 - grown.first),
            writes: vec![
                write(backup_at, entries.clone()),
                write(sectors - 1, padded(backup)),
                write(primary_at, entries),
                write(1, padded(primary)),
            ],
        })
    }
}

/// The protective MBR for a disk of this many bytes, if this is one whose size is wrong.
pub fn protective_mbr(mbr: &[u8; 512], bytes: u64) -> Option<[u8; 512]> {
    let size = u32::try_from((bytes / SECTOR).checked_sub(1)?).unwrap_or(u32::MAX);
    let mut new = *mbr;
    put32(&mut new, 458, size);
    (mbr[450] == 0xEE && mbr[510..] == [0x55, 0xAA] && new != *mbr).then_some(new)
}

/// A header for this place, with its checksum.
pub(crate) fn sealed(
    mut header: [u8; HEADER_LEN],
    own: u64,
    other: u64,
    array: u64,
) -> [u8; HEADER_LEN] {
    put64(&mut header, 24, own);
    put64(&mut header, 32, other);
    put64(&mut header, 72, array);
    put32(&mut header, 16, 0);
    let crc = crc32(&header);
    put32(&mut header, 16, crc);
    header
}

/// A header fills its sector.
pub(crate) fn padded(header: [u8; HEADER_LEN]) -> Vec<u8> {
    let mut sector = header.to_vec();
    sector.resize(SECTOR as usize, 0);
    sector
}
