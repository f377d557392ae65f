//! A reader for tar archives from strangers.
//!
//! Understands ustar, GNU (long names, long links, base-256 numbers, old sparse files) and pax
//! (path, linkpath, size, uid, gid, mtime, `SCHILY.xattr.*`). Every extension header is limited in size, so
//! that no archive can make the reader allocate more than [`MAX_EXTENSION`]. Writes nothing anywhere and
//! judges no names: that is [`crate::unpack`].

mod fields;
mod pax;

use fields::{field, narrow, number, signed, trimmed, ustar_path, verify_checksum};
use pax::pax;
use std::io::{self, Read};

const BLOCK: usize = 512;
/// Largest pax or GNU extension header.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Most data segments of a sparse file.
const MAX_SEGMENTS: usize = 1 << 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
}

/// One entry's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name as written.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
    /// Length of the file (of a sparse file: with its holes).
    pub size: u64,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where a sparse file's data belongs; empty for a plain file.
    pub segments: Vec<(u64, u64)>,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes stop early or the decompressor gave up.
    #[error("failed to read the archive")]
    Read(#[source] io::Error),
    /// Wrong checksum.
    #[error("header at byte {0} has a wrong checksum (not a tar archive, or damaged)")]
    Checksum(u64),
    /// A number that is none.
    #[error("header at byte {at} has a bad number in {field}")]
    Number {
        /// Offset.
        at: u64,
        /// Which.
        field: &'static str,
    },
    /// An extension larger than the limit.
    #[error("extension header at byte {at} is {size} bytes long, the limit is {MAX_EXTENSION}")]
    Extension {
        /// Offset.
        at: u64,
        /// Its size.
        size: u64,
    },
    /// A pax record that is none.
    #[error("extension header at byte {0} has a malformed record")]
    Pax(u64),
    /// Something we cannot represent.
    #[error("entry at byte {at} has the unsupported type {kind:?}")]
    Unsupported {
        /// Offset.
        at: u64,
        /// Its type.
        kind: String,
    },
    /// Sparse map that makes no sense.
    #[error("sparse map at byte {0} is malformed")]
    Sparse(u64),
}

/// Reads entries one after the other. Data of an entry is read through [`Archive`]'s `Read`.
#[derive(Debug)]
pub struct Archive<R> {
    inner: R,
    position: u64,
    data: u64,
    padding: u64,
}

#[derive(Default)]
struct Pending {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Archive<R> {
    /// Wraps an uncompressed stream.
    pub fn new(inner: R) -> Self {
        Archive {
            inner,
            position: 0,
            data: 0,
            padding: 0,
        }
    }

    /// Gives the stream back, with whatever follows the end-of-archive mark still in it.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, skipping data of the one before that was not read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut pending = Pending::default();
        loop {
            self.skip_rest()?;
            let at = self.position;
            let mut header = [0u8; BLOCK];
            if !self.read_block(&mut header)? {
                return Ok(None);
            }
            if header.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            verify_checksum(&header, at)?;
            let size = number(&header[124..136], at, "size")?;
            match header[156] {
                b'L' => pending.path = Some(trimmed(self.extension(size, at)?)),
                b'K' => pending.link = Some(trimmed(self.extension(size, at)?)),
                b'x' => {
                    let bytes = self.extension(size, at)?;
                    pax(&bytes, &mut pending, at)?;
                }
                // Global headers carry comments (git archive); nothing in them changes files.
                b'g' => {
                    self.extension(size, at)?;
                }
                kind => return self.entry(&header, kind, size, pending, at).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        size: u64,
        pending: Pending,
        at: u64,
    ) -> Result<Entry, ArchiveError> {
        let stored = pending.size.unwrap_or(size);
        let mut path = pending.path.unwrap_or_else(|| ustar_path(header));
        let kind = match kind {
            0 | b'0' | b'7' if path.last() == Some(&b'/') => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(ArchiveError::Unsupported {
                    at,
                    kind: char::from(other).to_string(),
                });
            }
        };
        while path.len() > 1 && path.last() == Some(&b'/') {
            path.pop();
        }
        let (mut length, mut segments) = (stored, Vec::new());
        if header[156] == b'S' {
            (length, segments) = self.sparse(header, at)?;
            let held = segments
                .iter()
                .try_fold(0u64, |sum, (_, count)| sum.checked_add(*count));
            if held != Some(stored) {
                return Err(ArchiveError::Sparse(at));
            }
        }
        // Only files have data; some writers put a link target's length into a hard link's size.
        if kind == Kind::File {
            self.data = stored;
            self.padding = stored.wrapping_neg() % BLOCK as u64;
        } else {
            length = 0;
        }
        let (mtime, mtime_nanos) = match pending.mtime {
            Some(time) => time,
            None => (signed(&header[136..148], at, "mtime")?, 0),
        };
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Entry {
            kind,
            path,
            link: pending
                .link
                .unwrap_or_else(|| field(&header[157..257]).to_vec()),
            mode: (number(&header[100..108], at, "mode")? & 0o7777) as u32,
            uid: match pending.uid {
                Some(uid) => uid,
                None => narrow(number(&header[108..116], at, "uid")?, at, "uid")?,
            },
            gid: match pending.gid {
                Some(gid) => gid,
                None => narrow(number(&header[116..124], at, "gid")?, at, "gid")?,
            },
            mtime,
            mtime_nanos,
            size: length,
            major: if device {
                narrow(number(&header[329..337], at, "device")?, at, "device")?
            } else {
                0
            },
            minor: if device {
                narrow(number(&header[337..345], at, "device")?, at, "device")?
            } else {
                0
            },
            xattrs: pending.xattrs,
            segments,
        })
    }

    fn sparse(
        &mut self,
        header: &[u8; BLOCK],
        at: u64,
    ) -> Result<(u64, Vec<(u64, u64)>), ArchiveError> {
        let real = number(&header[483..495], at, "sparse size")?;
        let mut segments = Vec::new();
        let mut more = header[482] != 0;
        take_segments(&header[386..482], at, &mut segments)?;
        while more {
            let mut block = [0u8; BLOCK];
            if !self.read_block(&mut block)? || segments.len() > MAX_SEGMENTS {
                return Err(ArchiveError::Sparse(at));
            }
            more = block[504] != 0;
            take_segments(&block[..504], at, &mut segments)?;
        }
        let mut end = 0;
        for (offset, count) in &segments {
            let next = offset.checked_add(*count).ok_or(ArchiveError::Sparse(at))?;
            if *offset < end || next > real {
                return Err(ArchiveError::Sparse(at));
            }
            end = next;
        }
        Ok((real, segments))
    }

    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENSION {
            return Err(ArchiveError::Extension { at, size });
        }
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0u8; 16384];
        while self.data > 0 {
            if self.read(&mut buffer).map_err(ArchiveError::Read)? == 0 {
                return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.inner
            .read_exact(&mut buffer[..padding])
            .map_err(ArchiveError::Read)?;
        self.position += padding as u64;
        Ok(())
    }

    /// False at the end of the stream between two blocks.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ArchiveError> {
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(true)
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

fn take_segments(
    bytes: &[u8],
    at: u64,
    segments: &mut Vec<(u64, u64)>,
) -> Result<(), ArchiveError> {
    for item in bytes.chunks_exact(24) {
        if item[0] == 0 {
            break;
        }
        segments.push((
            number(&item[..12], at, "sparse offset")?,
            number(&item[12..], at, "sparse length")?,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_mtime(7);
        let long = format!("{}/file", "d".repeat(150));
        builder
            .append_data(&mut header, &long, &b"abc"[..])
            .unwrap();
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "l", "target").unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn long_names_modes_and_links_are_read() {
        let bytes = sample();
        let mut archive = Archive::new(&bytes[..]);
        let file = archive.next_entry().unwrap().unwrap();
        assert_eq!(
            (file.kind, file.mode, file.uid, file.mtime, file.size),
            (Kind::File, 0o4755, 1000, 7, 3)
        );
        assert_eq!(file.path.len(), 155);
        let mut text = String::new();
        archive.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        let link = archive.next_entry().unwrap().unwrap();
        assert_eq!((link.kind, &link.link[..]), (Kind::Symlink, &b"target"[..]));
        assert!(archive.next_entry().unwrap().is_none());
    }

    #[test]
    fn base_256_and_octal_numbers_agree() {
        let mut big = [0u8; 12];
        big[0] = 0x80;
        big[11] = 5;
        assert_eq!(number(&big, 0, "x").unwrap(), 5);
        assert_eq!(number(b"00000000005\0", 0, "x").unwrap(), 5);
        assert_eq!(signed(&[0xff; 12], 0, "x").unwrap(), -1);
        assert!(number(&[0xff; 12], 0, "x").is_err());
        assert!(number(b"9", 0, "x").is_err());
    }

    #[test]
    fn a_huge_extension_header_is_refused_before_it_is_read() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(MAX_EXTENSION + 1);
        header.set_cksum();
        let mut archive = Archive::new(&header.as_bytes()[..]);
        assert!(matches!(
            archive.next_entry(),
            Err(ArchiveError::Extension { .. })
        ));
    }

    #[test]
    fn pax_records_override_the_header() {
        let mut pending = Pending::default();
        pax(
            b"12 path=a/b\n16 mtime=-1.500\n25 SCHILY.xattr.user.x=1\n",
            &mut pending,
            0,
        )
        .unwrap();
        assert_eq!(pending.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pending.mtime, Some((-2, 500_000_000)));
        assert_eq!(pending.xattrs, vec![(b"user.x".to_vec(), b"1".to_vec())]);
        for bad in [
            &b"12 path=a/b"[..],
            b"x path=a\n",
            b"0 a=b\n",
            b"99 path=a\n",
            b"5 abc\n",
        ] {
            assert!(pax(bad, &mut Pending::default(), 0).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn damaged_archives_never_panic(flips in proptest::collection::vec((0usize..2560, any::<u8>()), 0..8), cut in 0usize..2560) {
            let mut bytes = sample();
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            let mut archive = Archive::new(&bytes[..]);
            while let Ok(Some(_)) = archive.next_entry() {
                let mut sink = Vec::new();
                if archive.read_to_end(&mut sink).is_err() { break; }
            }
        }

        #[test]
        fn pax_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = pax(&bytes, &mut Pending::default(), 0);
        }
    }
}
