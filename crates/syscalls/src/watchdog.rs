//! The hardware or software watchdog (`/dev/watchdog0`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::check;

const WDIOC_KEEPALIVE: libc::c_ulong = 0x8004_5705;
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xC004_5706;

/// Sets the time after which the machine resets unless [`pet`] is called. Returns what the driver took.
///
/// # Errors
/// `EINVAL` if the driver cannot do it.
pub fn set_timeout(device: BorrowedFd<'_>, seconds: i32) -> io::Result<i32> {
    let mut value = seconds;
    // SAFETY: the ioctl reads and stores one int.
    check(unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT as _, &mut value) })?;
    Ok(value)
}

/// Puts off the reset.
///
/// # Errors
/// As the ioctl.
pub fn pet(device: BorrowedFd<'_>) -> io::Result<()> {
    let mut value: libc::c_int = 0;
    // SAFETY: the kernel ignores the argument; the pointer is valid anyway.
    check(unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_KEEPALIVE as _, &mut value) }).map(|_| ())
}

/// Disarms and closes the device (the "magic close").
///
/// # Errors
/// As the write.
pub fn disarm(device: OwnedFd) -> io::Result<()> {
    rustix::io::write(device.as_fd(), b"V")?;
    Ok(())
}
