//! Tables against those of util-linux and gptfdisk, cuts while growing, and hostile bytes.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use gpt::{Gpt, Guid, LayoutError, Partition, SECTOR, TYPE_STATE, TYPE_USR, Write};
use proptest::prelude::*;

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
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
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

fn read(disk: &[u8]) -> Gpt {
    Gpt::read(disk, disk.len() as u64).expect("a valid table")
}

fn places(disk: &[u8]) -> Vec<(String, u64)> {
    let partitions = read(disk).partitions();
    partitions.into_iter().map(|p| (p.label, p.first)).collect()
}

fn apply(disk: &mut [u8], write: &Write, len: usize) {
    let at = write.offset as usize;
    disk[at..at + len].copy_from_slice(&write.bytes[..len]);
}

fn perform(disk: &mut [u8], writes: &[Write]) {
    for write in writes {
        apply(disk, write, write.bytes.len());
    }
}

/// What a program of others says about the disk.
fn judged_by(program: &str, option: &str, disk: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), disk).unwrap();
    let out = Command::new(program)
        .args(option.split(' '))
        .arg(file.path())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{program}: {text}{errors}");
    text
}

fn part(number: u32, label: &str, first: u64, sectors: u64) -> Partition {
    Partition {
        number,
        kind: gpt::TYPE_LINUX,
        guid: Guid([number as u8; 16]),
        first,
        last: first + sectors - 1,
        label: label.to_owned(),
    }
}

#[test]
fn a_table_of_sfdisk_is_read() {
    let parts = read(&disk()).partitions();
    let seen: Vec<_> = parts
        .iter()
        .map(|p| (p.kind, &*p.label, p.first, p.sectors()))
        .collect();
    assert_eq!(
        seen,
        [
            (TYPE_USR, "USR-A", 2048, 4096),
            (TYPE_STATE, "STATE", 6144, 8192)
        ]
    );
}

#[test]
fn a_new_table_satisfies_others_and_is_read_back() {
    let mut bytes = vec![0; 64 << 20];
    let parts = [part(1, "ONE", 2048, 2048), part(9, "NINE é", 4096, 8192)];
    let sectors = bytes.len() as u64 / SECTOR;
    let writes = gpt::create(sectors, Guid([0xAA; 16]), &parts).unwrap();
    perform(&mut bytes, &writes);
    assert_eq!(read(&bytes).partitions(), parts);
    assert!(!read(&bytes).from_backup());
    let text = judged_by("sgdisk", "-v", &bytes);
    assert!(text.contains("No problems found"), "{text}");
    let text = judged_by("sgdisk", "-i 9", &bytes);
    assert!(
        text.contains("'NINE é'") && text.contains("09090909-0909"),
        "{text}"
    );
    // The size in the protective MBR is right from the start.
    let mbr: &[u8; 512] = bytes[..512].try_into().unwrap();
    assert!(gpt::protective_mbr(mbr, bytes.len() as u64).is_none());
    // Without the primary, the backup tells the same.
    bytes[512..1024].fill(0);
    assert!(read(&bytes).from_backup());
    assert_eq!(read(&bytes).partitions(), parts);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let ok = part(1, "A", 64, 64);
    let mut typeless = part(2, "B", 128, 64);
    typeless.kind = Guid::default();
    for (sectors, other, wanted) in [
        (60, part(2, "B", 128, 8), "too small"),
        (2048, part(2, "B", 128, 4000), "does not fit"),
        (2048, part(2, "B", 20, 8), "does not fit"),
        (2048, part(2, "B", 100, 8), "overlaps partition A"),
        (2048, part(1, "B", 128, 8), "number 1"),
        (2048, part(0, "B", 128, 8), "number 0"),
        (2048, part(129, "B", 128, 8), "number 129"),
        (2048, part(2, &"x".repeat(37), 128, 8), "too long"),
        (2048, typeless, "no type"),
    ] {
        let error = gpt::create(sectors, Guid::default(), &[ok.clone(), other]).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let error = gpt::create(0, Guid::default(), &[]).unwrap_err();
    assert_eq!(error, LayoutError::NoRoom { sectors: 0 });
}

#[test]
fn the_grown_table_satisfies_sfdisk_and_needs_no_second_growth() {
    let mut bytes = disk();
    let growth = read(&bytes)
        .grow(2, NEW as u64, Some(&mut counter()))
        .unwrap();
    perform(&mut bytes, &growth.writes);
    let again = read(&bytes);
    let state = &again.partitions()[1];
    assert_eq!((state.first, state.sectors()), growth.partition);
    assert!(state.last * SECTOR > (NEW - (3 << 20)) as u64);
    assert_eq!(state.guid, Guid([2; 16]));
    assert!(again.grow(2, NEW as u64, None).is_none());
    judged_by("sfdisk", "--verify", &bytes);
}

#[test]
fn a_cut_at_any_point_leaves_a_table_and_a_second_run_finishes() {
    let original = disk();
    let growth = read(&original)
        .grow(2, NEW as u64, Some(&mut counter()))
        .unwrap();
    for (cut, write) in growth.writes.iter().enumerate() {
        for torn in (0..=write.bytes.len()).step_by(SECTOR as usize) {
            let mut bytes = original.clone();
            perform(&mut bytes, &growth.writes[..cut]);
            apply(&mut bytes, write, torn);
            assert_eq!(places(&bytes), places(&original), "cut {cut} at {torn}");
            let retry = read(&bytes);
            assert!(
                !retry.from_backup(),
                "the primary must stay valid for the boot loader: cut {cut} at {torn}"
            );
            if let Some(second) = retry.grow(2, NEW as u64, None) {
                perform(&mut bytes, &second.writes);
            }
            assert_eq!(read(&bytes).partitions()[1].sectors(), growth.partition.1);
        }
    }
}

#[test]
fn a_damaged_primary_is_replaced_by_the_backup() {
    let mut bytes = disk();
    let growth = read(&bytes).grow(2, NEW as u64, None).unwrap();
    perform(&mut bytes, &growth.writes);
    bytes[512..520].fill(0);
    let backup = read(&bytes);
    assert!(backup.from_backup());
    assert_eq!(backup.partitions().len(), 2);
    let repair = backup.grow(2, NEW as u64, None).unwrap();
    perform(&mut bytes, &repair.writes);
    assert!(!read(&bytes).from_backup());
    judged_by("sfdisk", "--verify", &bytes);
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
    assert!(gpt::protective_mbr(&mbr, 1 << 20).is_none());
    mbr[450] = 0xEE;
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    let new = gpt::protective_mbr(&mbr, 1 << 20).unwrap();
    assert_eq!(new[458..462], 2047u32.to_le_bytes());
    assert!(gpt::protective_mbr(&new, 1 << 20).is_none());
    assert!(gpt::protective_mbr(&mbr, 0).is_none());
}

/// Up to five partitions behind one another, as (gap, sectors).
fn layouts() -> impl Strategy<Value = Vec<Partition>> {
    proptest::collection::vec((0u64..5000, 1u64..5000, "[A-Z]{0,36}"), 1..5).prop_map(|list| {
        let mut at = 34;
        let mut all = Vec::new();
        for ((gap, sectors, label), number) in list.into_iter().zip(1..) {
            all.push(part(number, &label, at + gap, sectors));
            at += gap + sectors;
        }
        all
    })
}

proptest! {
    #[test]
    fn what_is_laid_out_is_read_back_and_grows_once(parts in layouts(), more in 0u64..8000) {
        let end = parts.iter().map(|p| p.last).max().unwrap();
        let mut bytes = vec![0; (end + 34) as usize * SECTOR as usize];
        let sectors = bytes.len() as u64 / SECTOR;
        perform(&mut bytes, &gpt::create(sectors, Guid([9; 16]), &parts).unwrap());
        prop_assert_eq!(&read(&bytes).partitions(), &parts);
        bytes.resize(bytes.len() + (more * SECTOR) as usize, 0);
        let size = bytes.len() as u64;
        for p in &parts {
            if let Some(growth) = read(&bytes).grow(p.number, size, None) {
                perform(&mut bytes, &growth.writes);
                let again = read(&bytes);
                prop_assert!(!again.from_backup());
                prop_assert!(again.grow(p.number, size, None).is_none(), "a second growth has nothing to do");
                let now = again.partitions();
                prop_assert_eq!(now.len(), parts.len());
                for (before, after) in parts.iter().zip(&now) {
                    prop_assert_eq!((before.first, &before.label), (after.first, &after.label));
                    prop_assert!(after.last >= before.last && after.last < size / SECTOR - 33);
                }
            }
        }
    }

    /// Whatever an entry says: nothing panics, and no write leaves the disk.
    #[test]
    fn any_entry_is_survived(
        entry in proptest::collection::vec(any::<u8>(), 128),
        first in prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>(), 0u64..4000],
        last in prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0u64..4000],
        bytes in 0u64..(4 << 20),
    ) {
        let mut disk = vec![0; 2 << 20];
        let parts = [part(1, "A", 100, 10)];
        let mut writes = gpt::create(4096, Guid([9; 16]), &parts).unwrap();
        let array = &mut writes[0].bytes[1024..];
        array[128..256].copy_from_slice(&entry);
        array[160..168].copy_from_slice(&first.to_le_bytes());
        array[168..176].copy_from_slice(&last.to_le_bytes());
        let crc = crc32(array);
        let header = &mut writes[0].bytes[512..604];
        header[88..92].copy_from_slice(&crc.to_le_bytes());
        header[16..20].fill(0);
        let crc = crc32(header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        perform(&mut disk, &writes);
        let gpt = read(&disk);
        prop_assert!(!gpt.from_backup());
        for p in gpt.partitions() {
            prop_assert!(p.first <= p.last);
            if let Some(growth) = gpt.grow(p.number, bytes, Some(&mut counter())) {
                for write in growth.writes {
                    prop_assert!(write.offset + write.bytes.len() as u64 <= bytes);
                }
            }
        }
    }
}

/// By the table-driven way, so that the crate's own is held against another one.
fn crc32(data: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|n| {
            (0..8).fold(n, |c, _| {
                if c & 1 == 1 {
                    0xEDB8_8320 ^ (c >> 1)
                } else {
                    c >> 1
                }
            })
        })
        .collect();
    !data.iter().fold(!0u32, |crc, byte| {
        table[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8)
    })
}
