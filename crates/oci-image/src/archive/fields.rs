//! The fields of a header block: checksum, texts, numbers.

use super::{ArchiveError, BLOCK};

/// Whether the block is a header at all.
pub(super) fn verify_checksum(header: &[u8; BLOCK], at: u64) -> Result<(), ArchiveError> {
    let expected = number(&header[148..156], at, "checksum")?;
    let sum = |map: fn(u8) -> i64| -> i64 {
        header
            .iter()
            .enumerate()
            .map(|(index, byte)| {
                if (148..156).contains(&index) {
                    32
                } else {
                    map(*byte)
                }
            })
            .sum()
    };
    let expected = i64::try_from(expected).map_err(|_| ArchiveError::Checksum(at))?;
    // Old writers summed signed bytes.
    if expected == sum(i64::from) || expected == sum(|byte| i64::from(byte as i8)) {
        return Ok(());
    }
    Err(ArchiveError::Checksum(at))
}

/// Up to the first zero byte.
pub(super) fn field(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    &bytes[..end]
}

/// [`field`] of bytes that are ours.
pub(super) fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = field(&bytes).len();
    bytes.truncate(end);
    bytes
}

/// The name, with what stands before it.
pub(super) fn ustar_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = field(&header[..100]);
    // GNU's magic ends with blanks and uses the prefix field for other things.
    let prefix = field(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

/// Octal text, or base 256 when the first bit is set.
pub(super) fn number(bytes: &[u8], at: u64, name: &'static str) -> Result<u64, ArchiveError> {
    let signed = signed(bytes, at, name)?;
    u64::try_from(signed).map_err(|_| ArchiveError::Number { at, field: name })
}

/// As [`number`], but may be below zero.
pub(super) fn signed(bytes: &[u8], at: u64, field: &'static str) -> Result<i64, ArchiveError> {
    let bad = || ArchiveError::Number { at, field };
    if bytes[0] & 0x80 != 0 {
        let negative = bytes[0] & 0x40 != 0;
        let first = if negative { bytes[0] } else { bytes[0] & 0x7f };
        let mut value = i128::from(if negative {
            i64::from(first as i8)
        } else {
            i64::from(first)
        });
        for byte in &bytes[1..] {
            value = (value << 8) | i128::from(*byte);
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return Err(bad());
            }
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = text.trim_ascii();
    text.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(byte - b'0')))
            .ok_or_else(bad),
        _ => Err(bad()),
    })
}

/// What the kernel takes for ids and devices.
pub(super) fn narrow(value: u64, at: u64, field: &'static str) -> Result<u32, ArchiveError> {
    u32::try_from(value).map_err(|_| ArchiveError::Number { at, field })
}
