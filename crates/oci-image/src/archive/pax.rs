//! Extended headers of pax.

use super::{ArchiveError, Pending};

/// Records `LENGTH KEY=VALUE\n`; the length counts itself.
pub(super) fn pax(mut bytes: &[u8], pending: &mut Pending, at: u64) -> Result<(), ArchiveError> {
    let bad = || ArchiveError::Pax(at);
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .take(12)
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let length: usize = ascii_number(&bytes[..space]).ok_or_else(bad)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => pending.path = Some(value.to_vec()),
            b"linkpath" => pending.link = Some(value.to_vec()),
            b"size" => pending.size = Some(ascii_number(value).ok_or_else(bad)?),
            b"uid" => pending.uid = Some(ascii_number(value).ok_or_else(bad)?),
            b"gid" => pending.gid = Some(ascii_number(value).ok_or_else(bad)?),
            b"mtime" => pending.mtime = Some(pax_time(value).ok_or_else(bad)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(ArchiveError::Unsupported {
                    at,
                    kind: "pax sparse file".into(),
                });
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    pending.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

fn ascii_number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn pax_time(bytes: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut nanos = 0u32;
    for index in 0..9 {
        let digit = match fraction.as_bytes().get(index) {
            Some(byte @ b'0'..=b'9') => u32::from(byte - b'0'),
            Some(_) => return None,
            None => 0,
        };
        nanos = nanos * 10 + digit;
    }
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}
