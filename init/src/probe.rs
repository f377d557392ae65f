//! What is on a block device: type, label and UUID of its file system, and the names its partition table
//! gives it.
//!
//! Runs in a helper (`init --probe DEVICE`), never in PID 1: a read may hang, and what is read is not ours.
//! The answer is lines `KEY=value`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use gpt::{Gpt, SECTOR};

use crate::initramfs::blockdev::Image;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// `ext4`, `vfat`, `xfs` …
    pub(crate) fs_type: Option<String>,
    /// Label of the file system.
    pub(crate) label: Option<String>,
    /// UUID of the file system, in the form that its tools print.
    pub(crate) uuid: Option<String>,
    /// Name of the partition.
    pub(crate) part_label: Option<String>,
    /// GUID of the partition.
    pub(crate) part_uuid: Option<String>,
}

impl Found {
    /// As lines.
    pub(crate) fn encode(&self) -> String {
        let pairs = [
            ("TYPE", &self.fs_type),
            ("LABEL", &self.label),
            ("UUID", &self.uuid),
            ("PARTLABEL", &self.part_label),
            ("PARTUUID", &self.part_uuid),
        ];
        pairs
            .iter()
            .filter_map(|(k, v)| {
                v.as_ref()
                    .map(|v| format!("{k}={}\n", v.replace('\n', " ")))
            })
            .collect()
    }

    /// From lines; unknown keys are ignored.
    pub(crate) fn decode(text: &str) -> Found {
        let mut found = Found::default();
        for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
            let slot = match key {
                "TYPE" => &mut found.fs_type,
                "LABEL" => &mut found.label,
                "UUID" => &mut found.uuid,
                "PARTLABEL" => &mut found.part_label,
                "PARTUUID" => &mut found.part_uuid,
                _ => continue,
            };
            *slot = Some(value.to_owned());
        }
        found
    }

    /// Links below `/dev/disk` that should point at the device.
    pub(crate) fn links(&self) -> Vec<String> {
        let link = |kind: &str, value: &Option<String>| {
            let value = value.as_ref().filter(|v| !v.is_empty())?;
            Some(format!("/dev/disk/by-{kind}/{}", encode_name(value)))
        };
        [
            link("label", &self.label),
            link("uuid", &self.uuid),
            link("partlabel", &self.part_label),
            link("partuuid", &self.part_uuid),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A value as a file name: everything that is no plain character becomes `\xNN`, as users of
/// `/dev/disk/by-label` know it.
pub(crate) fn encode_name(value: &str) -> String {
    let mut out = String::new();
    for c in value.chars() {
        if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) || !c.is_ascii() {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{:02x}", c as u32));
        }
    }
    out
}

/// Entry of `init --probe DEVICE`.
pub(crate) fn main(device: &str) -> Result<String, std::io::Error> {
    let mut found = self::device(Path::new(device))?;
    partition(device, &mut found);
    Ok(found.encode())
}

/// Reads the superblock of a device or image.
pub(crate) fn device(path: &Path) -> std::io::Result<Found> {
    let mut file = File::open(path)?;
    let mut head = vec![0; 128 << 10];
    let mut len = 0;
    while len < head.len() {
        match file.read(&mut head[len..])? {
            0 => break,
            n => len += n,
        }
    }
    head.truncate(len);
    Ok(superblock(&head, |offset, buffer| {
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(buffer))
            .is_ok()
    }))
}

/// Recognises what the first 128 KiB of a device hold.
fn superblock(head: &[u8], mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Found {
    let at = |offset: usize, len: usize| head.get(offset..offset + len).unwrap_or_default();
    let is = |offset: usize, magic: &[u8]| at(offset, magic.len()) == magic;
    if is(0, b"XFSB") {
        return found("xfs", text(at(108, 12)), uuid(at(32, 16)));
    }
    if is(0x438, &[0x53, 0xEF]) {
        return ext(at(0x400, 1024));
    }
    if is(0x10040, b"_BHRfS_M") {
        return found("btrfs", text(at(0x1012B, 256)), uuid(at(0x10020, 16)));
    }
    if is(1024, &[0xE2, 0xE1, 0xF5, 0xE0]) {
        return found("erofs", text(at(1024 + 64, 16)), uuid(at(1024 + 48, 16)));
    }
    if is(0, b"hsqs") {
        return found("squashfs", None, None);
    }
    if is(32769, b"CD001") {
        return iso9660(head);
    }
    if is(4086, b"SWAPSPACE2") {
        return found("swap", text(at(1052, 16)), uuid(at(1036, 16)));
    }
    if is(0, b"LUKS\xba\xbe") {
        return found("crypto_LUKS", None, text(at(168, 40)));
    }
    if is(0, b"verity\0\0") {
        return found("DM_verity_hash", None, uuid(at(16, 16)));
    }
    if is(510, &[0x55, 0xAA]) {
        return vfat(head, &mut read).unwrap_or_default();
    }
    Found::default()
}

fn found(kind: &str, label: Option<String>, uuid: Option<String>) -> Found {
    Found {
        fs_type: Some(kind.to_owned()),
        label,
        uuid,
        ..Found::default()
    }
}

fn ext(block: &[u8]) -> Found {
    let number = |offset: usize| u32_at(block, offset);
    let (compatible, incompatible, read_only) = (number(92), number(96), number(100));
    const JOURNAL: u32 = 4;
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    let kind = if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        "ext4"
    } else if compatible & JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    found(
        kind,
        text(block.get(120..136).unwrap_or_default()),
        uuid(block.get(104..120).unwrap_or_default()),
    )
}

fn iso9660(head: &[u8]) -> Found {
    let field = |offset: usize, len: usize| {
        head.get(32768 + offset..32768 + offset + len)
            .unwrap_or_default()
    };
    let date = field(813, 16);
    let digits: String = date.iter().map(|b| *b as char).collect();
    let valid = digits.len() == 16
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits.bytes().any(|b| b != b'0');
    let uuid = valid.then(|| {
        let part = |a: usize, b: usize| &digits[a..b];
        [
            part(0, 4),
            part(4, 6),
            part(6, 8),
            part(8, 10),
            part(10, 12),
            part(12, 14),
            part(14, 16),
        ]
        .join("-")
    });
    found(
        "iso9660",
        joliet(head).or_else(|| text(field(40, 32))),
        uuid,
    )
}

/// The long label of a Joliet descriptor, which keeps lower case.
fn joliet(head: &[u8]) -> Option<String> {
    (1..8).map(|i| 32768 + i * 2048).find_map(|start| {
        let sector = head.get(start..start + 2048)?;
        let unicode = sector[0] == 2 && &sector[1..6] == b"CD001" && sector[88..90] == *b"%/";
        let units: Vec<u16> = sector[40..72]
            .chunks_exact(2)
            .map(|c| u16::from_be_bytes([c[0], c[1]]))
            .collect();
        let label = String::from_utf16_lossy(&units);
        let label = label.trim_end_matches([' ', '\0']);
        (unicode && !label.is_empty()).then(|| label.to_owned())
    })
}

/// FAT: told by its boot sector's fields; the label is the root directory's, else the boot sector's.
fn vfat(head: &[u8], read: &mut impl FnMut(u64, &mut [u8]) -> bool) -> Option<Found> {
    let u16_at = |o: usize| u64::from(u16::from_le_bytes([head[o], head[o + 1]]));
    if head.len() < 512 || !(head[0] == 0xEB || head[0] == 0xE9) {
        return None;
    }
    let (sector, cluster, reserved, fats) = (
        u16_at(11),
        u64::from(head[13]),
        u16_at(14),
        u64::from(head[16]),
    );
    if !matches!(sector, 512 | 1024 | 2048 | 4096)
        || !cluster.is_power_of_two()
        || reserved == 0
        || !(1..=2).contains(&fats)
    {
        return None;
    }
    let wide = u16_at(22) == 0;
    let (fat_size, id_at, label_at) = if wide {
        (u64::from(u32_at(head, 36)), 67, 71)
    } else {
        (u16_at(22), 39, 43)
    };
    if !wide && !matches!(&head[54..59], b"FAT12" | b"FAT16" | b"FAT  ")
        || wide && &head[82..87] != b"FAT32"
    {
        return None;
    }
    let data = (reserved + fats * fat_size) * sector;
    let root = if wide {
        data + (u64::from(u32_at(head, 44)).max(2) - 2) * cluster * sector
    } else {
        data
    };
    let mut directory = vec![0; 4096];
    let from_root = if read(root, &mut directory) {
        volume_label(&directory)
    } else {
        None
    };
    let from_boot = text(&head[label_at..label_at + 11]).filter(|l| l != "NO NAME");
    let id = u32_at(head, id_at);
    Some(found(
        "vfat",
        from_root.or(from_boot),
        Some(format!("{:04X}-{:04X}", id >> 16, id & 0xFFFF)),
    ))
}

fn volume_label(directory: &[u8]) -> Option<String> {
    for entry in directory.chunks_exact(32) {
        match (entry[0], entry[11]) {
            (0, _) => return None,
            (0xE5, _) | (_, 0x0F) => {}
            (_, attributes) if attributes & 0x18 == 0x08 => return text(&entry[..11]),
            _ => {}
        }
    }
    None
}

/// What the partition table says about the device: by its disk's GPT, or the MBR's signature.
fn partition(device: &str, out: &mut Found) {
    let name = device.rsplit('/').next().unwrap_or(device);
    let Ok(dir) = std::fs::canonicalize(Path::new("/sys/class/block").join(name)) else {
        return;
    };
    let number = std::fs::read_to_string(dir.join("partition"))
        .ok()
        .and_then(|t| t.trim().parse::<u32>().ok());
    let (Some(number), Some(disk)) = (number, dir.parent().and_then(|p| p.file_name())) else {
        return;
    };
    let Ok(disk) = File::open(Path::new("/dev").join(disk)) else {
        return;
    };
    let bytes = syscalls::block::size(std::os::fd::AsFd::as_fd(&disk)).unwrap_or(0);
    if let Some(gpt) = Gpt::read(&Image(&disk), bytes) {
        if let Some(found) = gpt.partitions().into_iter().find(|p| p.number == number) {
            out.part_uuid = Some(found.guid.to_string());
            out.part_label = Some(found.label).filter(|l| !l.is_empty());
        }
        return;
    }
    let mut mbr = [0; SECTOR as usize];
    if std::os::unix::fs::FileExt::read_exact_at(&disk, &mut mbr, 0).is_ok()
        && mbr[510..] == [0x55, 0xAA]
    {
        out.part_uuid = Some(format!("{:08x}-{number:02x}", u32_at(&mbr, 440)));
    }
}

fn u32_at(data: &[u8], offset: usize) -> u32 {
    let bytes = data.get(offset..offset + 4).and_then(|b| b.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

fn uuid(bytes: &[u8]) -> Option<String> {
    if bytes.len() != 16 || bytes.iter().all(|b| *b == 0) {
        return None;
    }
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Some(
        [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-"),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Makes a file system with the real tool and compares with what we read.
    #[track_caller]
    fn check(size: u64, command: &[&str], want: (&str, &str, Option<&str>)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let out = Command::new(command[0])
            .args(&command[1..])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let found = device(file.path()).unwrap();
        assert_eq!(
            (found.fs_type.as_deref(), found.label.as_deref()),
            (Some(want.0), Some(want.1))
        );
        if let Some(uuid) = want.2 {
            assert_eq!(found.uuid.as_deref(), Some(uuid));
        }
    }

    const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    #[test]
    fn file_systems_of_the_real_tools_are_recognised() {
        check(
            8 << 20,
            &[
                "mke2fs", "-q", "-F", "-t", "ext4", "-L", "my state", "-U", UUID,
            ],
            ("ext4", "my state", Some(UUID)),
        );
        check(
            8 << 20,
            &["mke2fs", "-q", "-F", "-t", "ext2", "-L", "two", "-U", UUID],
            ("ext2", "two", Some(UUID)),
        );
        check(
            1 << 20,
            &["mkswap", "-q", "-L", "sw", "-U", UUID],
            ("swap", "sw", Some(UUID)),
        );
        check(
            4 << 20,
            &["mkfs.vfat", "-n", "CIDATA", "-i", "12345678"],
            ("vfat", "CIDATA", Some("1234-5678")),
        );
        check(
            40 << 20,
            &["mkfs.vfat", "-F32", "-n", "FLOTESP", "-i", "ABCD0001"],
            ("vfat", "FLOTESP", Some("ABCD-0001")),
        );
    }

    #[test]
    fn an_empty_device_holds_nothing() {
        assert_eq!(superblock(&[0; 4096], |_, _| false), Found::default());
        assert_eq!(superblock(&[], |_, _| false), Found::default());
    }

    #[test]
    fn names_for_links_are_escaped() {
        let found = Found {
            label: Some("a b/c".to_owned()),
            part_label: Some("USR-A".to_owned()),
            ..Found::default()
        };
        assert_eq!(
            found.links(),
            [
                "/dev/disk/by-label/a\\x20b\\x2fc",
                "/dev/disk/by-partlabel/USR-A"
            ]
        );
    }

    #[test]
    fn an_answer_survives_its_lines() {
        let found = Found {
            fs_type: Some("ext4".to_owned()),
            label: Some("x=y".to_owned()),
            ..Found::default()
        };
        assert_eq!(Found::decode(&found.encode()), found);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(mut head in proptest::collection::vec(any::<u8>(), 0..2048), boot in any::<bool>()) {
            if boot && head.len() > 512 {
                head[0] = 0xEB;
                head[510..512].copy_from_slice(&[0x55, 0xAA]);
            }
            let _ = superblock(&head, |_, _| false);
        }
    }
}
