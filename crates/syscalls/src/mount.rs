//! `mount_setattr`: changing flags of whole mount trees at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::check_long;

/// Flags of a mount as `mount_setattr` takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Flags to set (`READ_ONLY`, `NO_SUID`, `NO_DEV`, `NO_EXEC`).
    pub set: u64,
    /// Flags to clear.
    pub clear: u64,
}

/// No writing through this mount.
pub const READ_ONLY: u64 = 1;
/// No effect of set-user-id bits.
pub const NO_SUID: u64 = 2;
/// No device nodes.
pub const NO_DEV: u64 = 4;
/// No execution.
pub const NO_EXEC: u64 = 8;

/// Changes the mount at the open directory or file `at`, and with `recursive` everything below it.
///
/// # Errors
/// `EINVAL` if `at` is no mount point.
pub fn set_attributes(at: impl AsFd, recursive: bool, attributes: Attributes) -> io::Result<()> {
    let argument = [attributes.set, attributes.clear, 0u64, 0u64];
    let flags = libc::AT_EMPTY_PATH | if recursive { 0x8000 } else { 0 };
    // SAFETY: `argument` is a `struct mount_attr` (four u64) of the size given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            argument.as_ptr(),
            size_of_val(&argument),
        )
    };
    check_long(ret).map(|_| ())
}
