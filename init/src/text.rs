//! Reading text that others wrote: never anything but a regular file, never more than a limit.
//!
//! PID 1 must not wait for the other end of a pipe, or read a device until memory is full, because a unit names one.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// Larger files are refused.
const LIMIT: u64 = 4 << 20;

/// Reads a regular file of at most 4 MiB; `/dev/null` is one, empty.
pub(crate) fn read(path: impl AsRef<Path>) -> std::io::Result<Vec<u8>> {
    let path = path.as_ref();
    if path == Path::new("/dev/null") {
        return Ok(Vec::new());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd: OwnedFd = openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::InvalidInput, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::from(fd).take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::new(ErrorKind::FileTooLarge, "is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// As [`read`], for UTF-8.
pub(crate) fn read_string(path: impl AsRef<Path>) -> std::io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::new(ErrorKind::InvalidData, "is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_devices_directories_and_giants_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("text"), "ok").unwrap();
        std::fs::write(path("binary"), [0xFF, 0xFE]).unwrap();
        File::create(path("giant"))
            .unwrap()
            .set_len(5 << 20)
            .unwrap();
        rustix::fs::mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read_string(path("text")).unwrap(), "ok");
        assert_eq!(read("/dev/null").unwrap(), b"");
        assert!(!read("/proc/self/stat").unwrap().is_empty());
        for (file, wanted) in [
            (path("binary"), "UTF-8"),
            (path("giant"), "4 MiB"),
            (path("pipe"), "regular"),
            (dir.path().to_path_buf(), "regular"),
            ("/dev/zero".into(), "regular"),
            (path("nosuch"), "No such file"),
        ] {
            let error = read_string(&file).unwrap_err().to_string();
            assert!(error.contains(wanted), "{}: {error}", file.display());
        }
    }
}
