//! Device-mapper devices: create, load a table, resume, remove.
//!
//! The table's meaning (verity parameters) is the caller's; this module only lays out the ioctl buffers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

const BUFFER: usize = 4096;
const HEADER: usize = 312;
const NAME_AT: usize = 48;
const NAME_LEN: usize = 128;
const UUID_AT: usize = 176;
const UUID_LEN: usize = 129;
const FLAGS_AT: usize = 28;
const DEV_AT: usize = 40;
const TARGET_COUNT_AT: usize = 20;
const SPEC: usize = 40;

const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;

const READ_ONLY: u32 = 1;

/// One target of a table.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// First sector (512 bytes) of the mapped device that it covers.
    pub start: u64,
    /// Number of sectors.
    pub length: u64,
    /// Target type, such as `verity`.
    pub kind: &'a str,
    /// Its parameters as one line.
    pub params: &'a str,
}

/// Creates the device `name` with one read-only target and makes it active. Returns its device number.
///
/// # Errors
/// The failing ioctl's errno; a device that was created and could not be loaded is removed again.
pub fn create_read_only(
    control: BorrowedFd<'_>,
    name: &str,
    uuid: &str,
    target: &Target<'_>,
) -> io::Result<u64> {
    let mut request = Request::new(name)?;
    request.text(UUID_AT, UUID_LEN, uuid)?;
    request.call(control, DEV_CREATE)?;
    let device = request.device();
    let loaded =
        load(control, name, target).and_then(|()| Request::new(name)?.call(control, DEV_SUSPEND));
    if let Err(error) = loaded {
        // The first error is the one worth telling; a device left behind only costs its name.
        let _ = remove(control, name);
        return Err(error);
    }
    Ok(device)
}

/// Removes the device `name`.
///
/// # Errors
/// `EBUSY` while it is in use, `ENXIO` if there is none.
pub fn remove(control: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    Request::new(name)?.call(control, DEV_REMOVE)
}

/// Names of all mapped devices.
///
/// # Errors
/// The ioctl's errno; more names than fit into one page are cut off.
pub fn list(control: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut request = Request::new("")?;
    request.call(control, LIST_DEVICES)?;
    let mut names = Vec::new();
    let mut at = HEADER;
    while let (Some(dev), Some(next)) = (request.u64(at), request.u32(at + 8)) {
        if dev == 0 {
            break;
        }
        let text = request.bytes.get(at + 12..).unwrap_or_default();
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        names.push(String::from_utf8_lossy(&text[..end]).into_owned());
        if next == 0 {
            break;
        }
        at += next as usize;
    }
    Ok(names)
}

fn load(control: BorrowedFd<'_>, name: &str, target: &Target<'_>) -> io::Result<()> {
    let mut request = Request::new(name)?;
    request.put(TARGET_COUNT_AT, &1u32.to_ne_bytes());
    request.put(FLAGS_AT, &READ_ONLY.to_ne_bytes());
    request.put(HEADER, &target.start.to_ne_bytes());
    request.put(HEADER + 8, &target.length.to_ne_bytes());
    request.text(HEADER + 24, 16, target.kind)?;
    request.text(HEADER + SPEC, BUFFER - HEADER - SPEC, target.params)?;
    request.call(control, TABLE_LOAD)
}

/// One `struct dm_ioctl` with its payload, 8-byte aligned.
struct Request {
    bytes: Box<Aligned>,
}

#[repr(C, align(8))]
struct Aligned([u8; BUFFER]);

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Request {
    fn new(name: &str) -> io::Result<Request> {
        let mut request = Request {
            bytes: Box::new(Aligned([0; BUFFER])),
        };
        for (i, part) in [4u32, 0, 0, BUFFER as u32, HEADER as u32]
            .into_iter()
            .enumerate()
        {
            request.put(i * 4, &part.to_ne_bytes());
        }
        request.text(NAME_AT, NAME_LEN, name)?;
        Ok(request)
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        self.bytes.0[at..at + data.len()].copy_from_slice(data);
    }

    /// Stores a text that must leave room for its NUL.
    fn text(&mut self, at: usize, room: usize, text: &str) -> io::Result<()> {
        if text.len() >= room || text.as_bytes().contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.put(at, text.as_bytes());
        Ok(())
    }

    fn u64(&self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(
            self.bytes.get(at..at + 8)?.try_into().ok()?,
        ))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.bytes.get(at..at + 4)?.try_into().ok()?,
        ))
    }

    fn device(&self) -> u64 {
        self.u64(DEV_AT).unwrap_or(0)
    }

    fn call(&mut self, control: BorrowedFd<'_>, command: u8) -> io::Result<()> {
        let number: libc::c_ulong = 0xC138_FD00 | libc::c_ulong::from(command);
        // SAFETY: the buffer is BUFFER bytes long, says so in data_size, and the kernel writes no more
        // than that into it.
        check(unsafe { libc::ioctl(control.as_raw_fd(), number as _, self.bytes.0.as_mut_ptr()) })
            .map(|_| ())
    }
}
