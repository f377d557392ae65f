//! Leaving namespaces by `unshare(2)`: only the kinds that leave memory and descriptors of other threads alone.

use std::io;

use crate::check;

/// Gives the calling thread (the process, when it has one thread) its own copy of all mounts.
///
/// # Errors
/// `EPERM` without privileges.
pub fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

/// Puts the calling thread into a new network namespace with nothing but a loopback interface that is down.
///
/// # Errors
/// `EPERM` without privileges.
pub fn unshare_network() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; of the kinds above none changes the descriptor table or memory.
    check(unsafe { libc::unshare(flags) }).map(|_| ())
}
