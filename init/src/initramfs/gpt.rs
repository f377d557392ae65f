//! The GUID partition table: reading, and growing it to the end of the disk.
//!
//! Growth is planned as a list of writes ([`Growth::writes`]), each followed by a barrier, in an order that
//! leaves a valid table at every cut: first the backup at the new end of the disk, then the primary's array
//! *beside* the old one, then the primary's header, which is one sector and so switches over at once. The
//! old backup is never touched. This module does no I/O but through [`ReadAt`].

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Sector size; disks with another one are refused.
pub(crate) const SECTOR: u64 = 512;
const HEADER_LEN: usize = 92;
const ENTRY_LEN: usize = 128;
/// Start and length of partitions are multiples of this many sectors (1 MiB).
const ALIGN: u64 = 2048;

/// Type of a /usr partition for this architecture (Discoverable Partitions).
pub(crate) const TYPE_USR: Guid = Guid(if cfg!(target_arch = "aarch64") {
    *b"\x50\x10\xe0\xb0\x5f\xee\x90\x43\x94\x9a\x91\x01\xb1\x71\x04\xe9"
} else {
    *b"\x0c\x68\x84\x84\x21\x95\xc6\x48\x9c\x11\xb0\x72\x06\x56\xf6\x9e"
});
/// Type of the STATE partition (root for x86-64).
pub(crate) const TYPE_STATE: Guid =
    Guid(*b"\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09");
/// Generic Linux data, also taken for STATE when the label says so.
pub(crate) const TYPE_LINUX: Guid =
    Guid(*b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4");

/// A GUID in its on-disk byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guid(pub(crate) [u8; 16]);

impl std::fmt::Display for Guid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = &self.0;
        write!(
            f,
            "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-",
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]
        )?;
        write!(f, "{:02x}{:02x}-", b[8], b[9])?;
        b[10..].iter().try_for_each(|x| write!(f, "{x:02x}"))
    }
}

/// Something that can be read at an offset: a device, an image, a test's bytes.
pub(crate) trait ReadAt {
    /// Fills the buffer from this offset.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
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
pub(crate) struct Partition {
    /// Number, from 1.
    pub(crate) number: u32,
    /// Type.
    pub(crate) kind: Guid,
    /// Its own GUID.
    pub(crate) guid: Guid,
    /// First sector.
    pub(crate) first: u64,
    /// Last sector.
    pub(crate) last: u64,
    /// Name.
    pub(crate) label: String,
}

/// A valid table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpt {
    header: [u8; HEADER_LEN],
    entries: Vec<u8>,
    /// Read from the backup because the primary is damaged.
    pub(crate) from_backup: bool,
}

/// What growing needs: the writes and the new size of the grown partition.
#[derive(Debug)]
pub(crate) struct Growth {
    /// Offset and bytes, in order; a barrier follows each.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// First sector and number of sectors of the grown partition.
    pub(crate) partition: (u64, u64),
}

impl Gpt {
    /// Reads the table of a disk of this many bytes: the primary, else the backup in the last sector.
    pub(crate) fn read(disk: &(impl ReadAt + ?Sized), bytes: u64) -> Option<Gpt> {
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

    fn read_one(disk: &(impl ReadAt + ?Sized), lba: u64, sectors: u64) -> Option<Gpt> {
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

    /// The partitions in use.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let used = |(_, e): &(usize, &[u8])| e[..16] != [0; 16];
        self.entries
            .chunks_exact(ENTRY_LEN)
            .enumerate()
            .filter(used)
            .map(|(i, e)| parse_entry(i, e))
            .collect()
    }

    /// Plans growing partition `number` and the table to the end of a disk of this many bytes, with new
    /// GUIDs for the disk and all partitions if `fresh` gives them. `None` if there is nothing to do or a
    /// partition lies behind the one to grow.
    pub(crate) fn grow(
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
        let lowest = all.iter().map(|p| p.first).min()?;
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
        let padded = |header: [u8; HEADER_LEN]| {
            let mut sector = header.to_vec();
            sector.resize(SECTOR as usize, 0);
            sector
        };
        Some(Growth {
            writes: vec![
                (backup_at * SECTOR, entries.clone()),
                ((sectors - 1) * SECTOR, padded(backup)),
                (primary_at * SECTOR, entries),
                (SECTOR, padded(primary)),
            ],
            partition: (grown.first, last + 1 - grown.first),
        })
    }
}

/// The sector size field of the protective MBR for a disk of this many bytes, if the MBR is one and is wrong.
pub(crate) fn protective_mbr(mbr: &[u8; 512], bytes: u64) -> Option<[u8; 512]> {
    let size = u32::try_from(bytes / SECTOR - 1).unwrap_or(u32::MAX);
    let mut new = *mbr;
    new[458..462].copy_from_slice(&size.to_le_bytes());
    (mbr[450] == 0xEE && mbr[510..] == [0x55, 0xAA] && new != *mbr).then_some(new)
}

fn sealed(mut header: [u8; HEADER_LEN], own: u64, other: u64, array: u64) -> [u8; HEADER_LEN] {
    put64(&mut header, 24, own);
    put64(&mut header, 32, other);
    put64(&mut header, 72, array);
    put32(&mut header, 16, 0);
    let crc = crc32(&header);
    put32(&mut header, 16, crc);
    header
}

fn parse_entry(index: usize, entry: &[u8]) -> Partition {
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
        number: index as u32 + 1,
        kind: guid(0),
        guid: guid(16),
        first: get64(entry, 32),
        last: get64(entry, 40),
        label: String::from_utf16_lossy(&units),
    }
}

fn get32(data: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&data[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn get64(data: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&data[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn put32(data: &mut [u8], at: usize, value: u32) {
    data[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(data: &mut [u8], at: usize, value: u64) {
    data[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// CRC-32 (IEEE), bit by bit: a table is not worth its bytes for 16 KiB once per boot.
fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 {
                (c >> 1) ^ 0xEDB8_8320
            } else {
                c >> 1
            }
        })
    };
    !data.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const OLD: usize = 16 << 20;
    const NEW: usize = 40 << 20;

    /// A disk made by sfdisk, enlarged as by a hypervisor.
    fn disk() -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(OLD as u64).unwrap();
        let mut child = Command::new("sfdisk")
            .arg("-q")
            .arg(file.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let script = "label: gpt\nsize=2MiB, name=USR-A, type=8484680C-9521-48C6-9C11-B0720656F69E\n\
                      size=4MiB, name=STATE, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes.resize(NEW, 0);
        bytes
    }

    fn counter() -> impl FnMut() -> [u8; 16] {
        let mut n = 0u8;
        move || {
            n += 1;
            [n; 16]
        }
    }

    fn labels(disk: &[u8]) -> Vec<(String, u64)> {
        let gpt = Gpt::read(disk, disk.len() as u64).expect("a valid table");
        gpt.partitions()
            .into_iter()
            .map(|p| (p.label, p.first))
            .collect()
    }

    fn apply(disk: &mut [u8], write: &(u64, Vec<u8>), len: usize) {
        let at = write.0 as usize;
        disk[at..at + len].copy_from_slice(&write.1[..len]);
    }

    #[test]
    fn a_table_of_sfdisk_is_read() {
        let bytes = disk();
        let gpt = Gpt::read(&bytes[..], OLD as u64).unwrap();
        let parts = gpt.partitions();
        assert_eq!(parts.len(), 2);
        assert_eq!(
            (parts[0].kind, parts[0].label.as_str(), parts[0].first),
            (TYPE_USR, "USR-A", 2048)
        );
        assert_eq!(
            (parts[1].kind, parts[1].label.as_str()),
            (TYPE_STATE, "STATE")
        );
        assert_eq!(
            parts[1].kind.to_string(),
            "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
        );
    }

    #[test]
    fn the_grown_table_satisfies_sfdisk_and_needs_no_second_growth() {
        let mut bytes = disk();
        let gpt = Gpt::read(&bytes[..], NEW as u64).unwrap();
        let growth = gpt.grow(2, NEW as u64, Some(&mut counter())).unwrap();
        for write in &growth.writes {
            apply(&mut bytes, write, write.1.len());
        }
        let again = Gpt::read(&bytes[..], NEW as u64).unwrap();
        let state = &again.partitions()[1];
        assert_eq!(
            (state.first, state.last + 1 - state.first),
            growth.partition
        );
        assert!(state.last * SECTOR > (NEW - (3 << 20)) as u64);
        assert_eq!(state.guid, Guid([2; 16]));
        assert!(again.grow(2, NEW as u64, None).is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let out = Command::new("sfdisk")
            .arg("--verify")
            .arg(file.path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    #[test]
    fn a_cut_at_any_point_leaves_a_table_and_a_second_run_finishes() {
        let original = disk();
        let gpt = Gpt::read(&original[..], NEW as u64).unwrap();
        let growth = gpt.grow(2, NEW as u64, Some(&mut counter())).unwrap();
        for cut in 0..growth.writes.len() {
            let whole = growth.writes[cut].1.len();
            for torn in (0..=whole).step_by(SECTOR as usize) {
                let mut bytes = original.clone();
                for write in &growth.writes[..cut] {
                    apply(&mut bytes, write, write.1.len());
                }
                apply(&mut bytes, &growth.writes[cut], torn);
                assert_eq!(labels(&bytes), labels(&original), "cut {cut} at {torn}");
                let primary = Gpt::read_one(&bytes[..], 1, NEW as u64 / SECTOR);
                assert!(
                    primary.is_some(),
                    "primary must stay valid for the boot loader: cut {cut} at {torn}"
                );
                let retry = Gpt::read(&bytes[..], NEW as u64).unwrap();
                if let Some(second) = retry.grow(2, NEW as u64, None) {
                    for write in &second.writes {
                        apply(&mut bytes, write, write.1.len());
                    }
                }
                let done = Gpt::read(&bytes[..], NEW as u64).unwrap();
                assert_eq!(
                    done.partitions()[1].last + 1 - done.partitions()[1].first,
                    growth.partition.1
                );
            }
        }
    }

    #[test]
    fn a_damaged_primary_is_replaced_by_the_backup() {
        let mut bytes = disk();
        let gpt = Gpt::read(&bytes[..], NEW as u64).unwrap();
        for write in &gpt.grow(2, NEW as u64, None).unwrap().writes {
            apply(&mut bytes, write, write.1.len());
        }
        bytes[512..520].fill(0);
        let backup = Gpt::read(&bytes[..], NEW as u64).unwrap();
        assert!(backup.from_backup);
        assert_eq!(backup.partitions().len(), 2);
    }

    #[test]
    fn garbage_is_no_table() {
        assert!(Gpt::read(&[0u8; 4096][..], 4096).is_none());
        assert!(Gpt::read(&[][..], 0).is_none());
        assert!(Gpt::read(&[0xFFu8; 65536][..], 65536).is_none());
    }

    #[test]
    fn only_a_wrong_protective_mbr_is_rewritten() {
        let mut mbr = [0u8; 512];
        assert!(protective_mbr(&mbr, 1 << 20).is_none());
        mbr[450] = 0xEE;
        mbr[510..].copy_from_slice(&[0x55, 0xAA]);
        let new = protective_mbr(&mbr, 1 << 20).unwrap();
        assert_eq!(new[458..462], 2047u32.to_le_bytes());
        assert!(protective_mbr(&new, 1 << 20).is_none());
    }
}
