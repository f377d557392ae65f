//! A whole new table: protective MBR, primary and backup header, 128 entries.

use std::collections::BTreeSet;

use crate::bytes::{crc32, put32, put64};
use crate::grow::{padded, sealed};
use crate::table::{ENTRY_LEN, HEADER_LEN};
use crate::{Guid, Partition, SECTOR, Write};

const ENTRIES: u64 = 128;
const ARRAY_SECTORS: u64 = ENTRIES * ENTRY_LEN as u64 / SECTOR;
const LABEL_UNITS: usize = 36;

/// Why there is no such table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not even the table fits.
    #[error("a disk of {sectors} sectors is too small for a partition table")]
    NoRoom {
        /// The disk's.
        sectors: u64,
    },
    /// It would lie over the table, or beyond the disk.
    #[error(
        "partition {label} (sectors {first} to {last}) does not fit a disk of {sectors} sectors"
    )]
    Outside {
        /// Name.
        label: String,
        /// First sector.
        first: u64,
        /// Last sector.
        last: u64,
        /// The disk's.
        sectors: u64,
    },
    /// Two partitions share a sector.
    #[error("partition {label} overlaps partition {other}")]
    Overlap {
        /// Name.
        label: String,
        /// Name of the one before it.
        other: String,
    },
    /// The number is 0, over 128, or given twice.
    #[error("partition {label} cannot have the number {number}")]
    Number {
        /// Name.
        label: String,
        /// The number.
        number: u32,
    },
    /// The name has more than 36 UTF-16 units, or a NUL.
    #[error("partition name {label:?} is too long or has a NUL in it")]
    Label {
        /// Name.
        label: String,
    },
    /// An entry of type zero would not be in use.
    #[error("partition {label} has no type")]
    NoType {
        /// Name.
        label: String,
    },
}

/// Lays out a table with these partitions for a disk of this many sectors: what is to be written, in order.
///
/// # Errors
/// [`LayoutError`] where a partition does not fit, overlaps, or cannot be written down.
pub fn create(
    sectors: u64,
    guid: Guid,
    partitions: &[Partition],
) -> Result<Vec<Write>, LayoutError> {
    let last_usable = sectors
        .checked_sub(2 + ARRAY_SECTORS)
        .filter(|last| *last >= 2 + ARRAY_SECTORS && sectors <= u64::MAX / SECTOR)
        .ok_or(LayoutError::NoRoom { sectors })?;
    check(sectors, last_usable, partitions)?;
    let entries = entries(partitions);
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(b"EFI PART");
    put32(&mut header, 8, 0x0001_0000);
    put32(&mut header, 12, HEADER_LEN as u32);
    put64(&mut header, 40, 2 + ARRAY_SECTORS);
    put64(&mut header, 48, last_usable);
    header[56..72].copy_from_slice(&guid.0);
    put32(&mut header, 80, ENTRIES as u32);
    put32(&mut header, 84, ENTRY_LEN as u32);
    put32(&mut header, 88, crc32(&entries));
    let last = sectors - 1;
    let backup_array = last - ARRAY_SECTORS;
    let mut front = mbr(sectors).to_vec();
    front.extend(padded(sealed(header, 1, last, 2)));
    front.extend(&entries);
    let mut back = entries;
    back.extend(padded(sealed(header, last, 1, backup_array)));
    Ok(vec![
        Write {
            offset: 0,
            bytes: front,
        },
        Write {
            offset: backup_array * SECTOR,
            bytes: back,
        },
    ])
}

fn check(sectors: u64, last_usable: u64, partitions: &[Partition]) -> Result<(), LayoutError> {
    let mut numbers = BTreeSet::new();
    for p in partitions {
        let label = p.label.clone();
        if p.number == 0 || u64::from(p.number) > ENTRIES || !numbers.insert(p.number) {
            let number = p.number;
            return Err(LayoutError::Number { label, number });
        }
        if label.encode_utf16().count() > LABEL_UNITS || label.contains('\0') {
            return Err(LayoutError::Label { label });
        }
        if p.kind.is_zero() {
            return Err(LayoutError::NoType { label });
        }
        if p.first < 2 + ARRAY_SECTORS || p.last < p.first || p.last > last_usable {
            return Err(LayoutError::Outside {
                label,
                first: p.first,
                last: p.last,
                sectors,
            });
        }
    }
    let mut sorted: Vec<&Partition> = partitions.iter().collect();
    sorted.sort_by_key(|p| p.first);
    for pair in sorted.windows(2) {
        if pair[1].first <= pair[0].last {
            return Err(LayoutError::Overlap {
                label: pair[1].label.clone(),
                other: pair[0].label.clone(),
            });
        }
    }
    Ok(())
}

fn entries(partitions: &[Partition]) -> Vec<u8> {
    let mut all = vec![0; ENTRIES as usize * ENTRY_LEN];
    for p in partitions {
        let at = (p.number as usize - 1) * ENTRY_LEN;
        let entry = &mut all[at..at + ENTRY_LEN];
        entry[..16].copy_from_slice(&p.kind.0);
        entry[16..32].copy_from_slice(&p.guid.0);
        put64(entry, 32, p.first);
        put64(entry, 40, p.last);
        for (unit, place) in p.label.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    all
}

/// Tells programs that know no GPT that the whole disk is taken.
fn mbr(sectors: u64) -> [u8; SECTOR as usize] {
    let mut m = [0; SECTOR as usize];
    let len = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    m[446..458].copy_from_slice(&[0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]);
    put32(&mut m, 458, len);
    m[510..].copy_from_slice(&[0x55, 0xAA]);
    m
}
