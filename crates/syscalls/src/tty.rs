//! Controlling terminals.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::check;

const TIOCVHANGUP: libc::c_ulong = 0x5437;

/// Gives up the controlling terminal; having none is no error.
///
/// # Errors
/// As the ioctl.
pub fn release_controlling(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: takes no argument.
    match check(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCNOTTY as _) }) {
        Err(error) if error.raw_os_error() != Some(libc::ENOTTY) => Err(error),
        _ => Ok(()),
    }
}

/// Makes the terminal this session's controlling one, taking it from another session if need be.
///
/// # Errors
/// `EPERM` unless this process leads a session without terminal.
pub fn take_controlling(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: the argument is a plain number, 1 = steal.
    check(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSCTTY as _, 1) }).map(|_| ())
}

/// Hangs the terminal up: its other users get SIGHUP and errors.
///
/// # Errors
/// As the ioctl.
pub fn hang_up(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), TIOCVHANGUP as _) }).map(|_| ())
}
