//! A partition table: any bytes are survived, a growth stays within the disk and leaves a table that says the same.
#![no_main]

use gpt::Gpt;
use libfuzzer_sys::fuzz_target;

/// The header's checksum is made right, else nothing but it would ever be tried.
fn sealed(data: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg())
            })
        })
    };
    let mut disk = data.to_vec();
    if disk.len() < 1024 + 128 {
        return disk;
    }
    let header = &mut disk[512..604];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92u32.to_le_bytes());
    header[24..32].copy_from_slice(&1u64.to_le_bytes());
    header[72..80].copy_from_slice(&2u64.to_le_bytes());
    header[84..88].copy_from_slice(&128u32.to_le_bytes());
    let count = u32::from(header[80]).max(1);
    header[80..84].copy_from_slice(&count.to_le_bytes());
    let end = 1024 + 128 * count as usize;
    if let Some(entries) = disk.get(1024..end) {
        let sum = crc(entries);
        disk[600..604].copy_from_slice(&sum.to_le_bytes());
        disk[528..532].fill(0);
        let sum = crc(&disk[512..604]);
        disk[528..532].copy_from_slice(&sum.to_le_bytes());
    }
    disk
}

fuzz_target!(|data: &[u8]| {
    for disk in [data.to_vec(), sealed(data)] {
        let bytes = disk.len() as u64;
        let Some(gpt) = Gpt::read(&disk[..], bytes) else {
            continue;
        };
        for p in gpt.partitions() {
            assert!(p.first <= p.last);
            let Some(growth) = gpt.grow(p.number, bytes, None) else {
                continue;
            };
            let mut grown = disk.clone();
            for write in &growth.writes {
                let at = write.offset as usize;
                grown[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            }
            let again = Gpt::read(&grown[..], bytes).expect("a grown table is one");
            assert_eq!(again.partitions().len(), gpt.partitions().len());
        }
    }
});
