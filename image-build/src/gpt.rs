//! Writing a GUID partition table: protective MBR, primary and backup header, 128 entries (UEFI 2.10 §5).
//!
//! Only whole new tables are written here; growing one on a live disk is init's business.

use std::io::{Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};

/// Logical sector, in bytes.
pub const SECTOR: u64 = 512;
const ENTRIES: u64 = 128;
const ENTRY_SECTORS: u64 = ENTRIES * 128 / SECTOR;

/// A partition to write.
#[derive(Debug, Clone)]
pub struct Partition {
    /// Number, from 1.
    pub number: usize,
    /// Label, at most 36 UTF-16 units.
    pub label: &'static str,
    /// Type GUID in its text form.
    pub kind: &'static str,
    /// Unique GUID in its text form.
    pub guid: String,
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub len: u64,
}

/// Writes the table to `disk`, which is `sectors` long.
pub fn write(
    disk: &mut (impl Write + Seek),
    sectors: u64,
    guid: &str,
    parts: &[Partition],
) -> Result<()> {
    let entries = entries(parts)?;
    let array_crc = crc32fast::hash(&entries);
    let last = sectors - 1;
    for p in parts {
        if p.start < 2 + ENTRY_SECTORS || p.start + p.len > last - ENTRY_SECTORS {
            bail!(
                "partition {} does not fit a disk of {sectors} sectors",
                p.label
            );
        }
    }
    let guid = guid_bytes(guid)?;
    let backup_array = last - ENTRY_SECTORS;
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&protective_mbr(sectors))?;
    disk.write_all(&header(1, last, 2, sectors, &guid, array_crc))?;
    disk.write_all(&entries)?;
    disk.seek(SeekFrom::Start(backup_array * SECTOR))?;
    disk.write_all(&entries)?;
    disk.write_all(&header(last, 1, backup_array, sectors, &guid, array_crc))?;
    Ok(())
}

fn protective_mbr(sectors: u64) -> [u8; 512] {
    let mut m = [0; 512];
    let len = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    m[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    m[458..462].copy_from_slice(&len.to_le_bytes());
    m[510] = 0x55;
    m[511] = 0xaa;
    m
}

fn header(
    me: u64,
    other: u64,
    array: u64,
    sectors: u64,
    guid: &[u8; 16],
    array_crc: u32,
) -> [u8; 512] {
    let mut h = [0; 512];
    h[..8].copy_from_slice(b"EFI PART");
    h[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
    h[12..16].copy_from_slice(&92u32.to_le_bytes());
    h[24..32].copy_from_slice(&me.to_le_bytes());
    h[32..40].copy_from_slice(&other.to_le_bytes());
    h[40..48].copy_from_slice(&(2 + ENTRY_SECTORS).to_le_bytes());
    h[48..56].copy_from_slice(&(sectors - 2 - ENTRY_SECTORS).to_le_bytes());
    h[56..72].copy_from_slice(guid);
    h[72..80].copy_from_slice(&array.to_le_bytes());
    h[80..84].copy_from_slice(&128u32.to_le_bytes());
    h[84..88].copy_from_slice(&128u32.to_le_bytes());
    h[88..92].copy_from_slice(&array_crc.to_le_bytes());
    let crc = crc32fast::hash(&h[..92]);
    h[16..20].copy_from_slice(&crc.to_le_bytes());
    h
}

fn entries(parts: &[Partition]) -> Result<Vec<u8>> {
    let mut e = vec![0; usize::try_from(ENTRIES * 128)?];
    for p in parts {
        let at = (p.number - 1) * 128;
        e[at..at + 16].copy_from_slice(&guid_bytes(p.kind)?);
        e[at + 16..at + 32].copy_from_slice(&guid_bytes(&p.guid)?);
        e[at + 32..at + 40].copy_from_slice(&p.start.to_le_bytes());
        e[at + 40..at + 48].copy_from_slice(&(p.start + p.len - 1).to_le_bytes());
        for (i, u) in p.label.encode_utf16().take(36).enumerate() {
            e[at + 56 + 2 * i..at + 58 + 2 * i].copy_from_slice(&u.to_le_bytes());
        }
    }
    Ok(e)
}

/// The 16 bytes of a GUID on disk (first three fields little-endian).
pub fn guid_bytes(text: &str) -> Result<[u8; 16]> {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    if hex.len() != 32 || !hex.is_ascii() {
        bail!("not a GUID: {text}");
    }
    let mut b = [0; 16];
    for (i, byte) in b.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16)
            .with_context(|| format!("not a GUID: {text}"))?;
    }
    b[..4].reverse();
    b[4..6].reverse();
    b[6..8].reverse();
    Ok(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn sgdisk_finds_nothing_wrong() {
        let d = tempfile::tempdir().expect("temp dir");
        let p = d.path().join("disk");
        let mut f = std::fs::File::create(&p).expect("create");
        let sectors = 64 * 2048;
        f.set_len(sectors * SECTOR).expect("size");
        let parts = [
            Partition {
                number: 1,
                label: "ONE",
                kind: "21686148-6449-6E6F-744E-656564454649",
                guid: "11111111-2222-4333-8444-555555555555".into(),
                start: 2048,
                len: 2048,
            },
            Partition {
                number: 9,
                label: "NINE",
                kind: "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
                guid: "11111111-2222-4333-8444-555555555556".into(),
                start: 4096,
                len: 8192,
            },
        ];
        write(
            &mut f,
            sectors,
            "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            &parts,
        )
        .expect("write");
        let out = Command::new("sgdisk")
            .arg("-v")
            .arg(&p)
            .output()
            .expect("sgdisk runs (package gdisk)");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("No problems found"), "{text}");
        let out = Command::new("sgdisk")
            .args(["-i", "9"])
            .arg(&p)
            .output()
            .expect("sgdisk");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            text.contains("'NINE'") && text.contains("11111111-2222-4333-8444-555555555556"),
            "{text}"
        );
    }

    #[test]
    fn a_partition_beyond_the_disk_is_refused() {
        let mut f = std::io::Cursor::new(vec![0; 1 << 20]);
        let p = Partition {
            number: 1,
            label: "X",
            kind: "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            guid: "11111111-2222-4333-8444-555555555555".into(),
            start: 34,
            len: 4000,
        };
        assert!(write(&mut f, 2048, "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", &[p]).is_err());
    }
}
