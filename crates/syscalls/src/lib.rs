//! The only crate with `unsafe` code: safe functions over the system calls that rustix lacks.
//!
//! Each module wraps one family of kernel interfaces and owns nothing else: no policy, no logging, no
//! retries. Descriptors go in as [`BorrowedFd`](std::os::fd::BorrowedFd) and come out as
//! [`OwnedFd`](std::os::fd::OwnedFd); errors are [`std::io::Error`] with the kernel's errno.
//!
//! * [`spawn`]: `clone3` into a cgroup with a pidfd and a prepared plan; nothing allocates before `exec`.
//! * [`dm`]: device-mapper devices (verity).
//! * [`block`]: sizes, partitions, loop devices, online growth of file systems.
//! * [`socket`]: credentials, descriptors, uevents, loopback.
//! * [`packet`]: raw Ethernet sockets with a filter.
//! * [`signal`], [`tty`], [`watchdog`], [`mount`], [`namespace`], [`system`], [`seccomp`], [`bpf`]: as named.
//!
//! What rustix offers safely is used from rustix directly and not wrapped again here.

pub mod block;
pub mod bpf;
pub mod dm;
mod inherited;
pub mod mount;
pub mod namespace;
pub mod packet;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod system;
pub mod tty;
pub mod watchdog;

pub use inherited::take_inherited;

/// Turns the `-1` convention of libc into a `Result`.
fn check(ret: libc::c_int) -> std::io::Result<libc::c_int> {
    if ret < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// As [`check`], for calls made through `syscall(2)`.
fn check_long(ret: libc::c_long) -> std::io::Result<libc::c_long> {
    if ret < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}
