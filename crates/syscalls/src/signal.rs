//! Signals as descriptors, masks, and dispositions.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use crate::check;

/// First real-time signal as services and shutdown requests count them (glibc reserves two below).
pub const RTMIN: i32 = 34;

/// What a signalfd tells about one signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The sender's process id, 0 for the kernel.
    pub pid: i32,
    /// The sender's user id.
    pub uid: u32,
}

/// Blocks these signals for this thread and returns a non-blocking, close-on-exec signalfd for them.
///
/// # Errors
/// As `sigprocmask` and `signalfd`.
pub fn signalfd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: plain calls with a valid signal set; the returned descriptor is new and ours.
    unsafe {
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &set,
            std::ptr::null_mut(),
        ))?;
        let fd = check(libc::signalfd(
            -1,
            &set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The next pending signal, `None` when there is none.
///
/// # Errors
/// As `read`.
pub fn read(signalfd: impl AsFd) -> io::Result<Option<Received>> {
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signalfd, &mut buffer) {
        Ok(len) if len == buffer.len() => {
            let at = |i: usize| [buffer[i], buffer[i + 1], buffer[i + 2], buffer[i + 3]];
            Ok(Some(Received {
                signal: i32::from_ne_bytes(at(0)),
                pid: i32::from_ne_bytes(at(12)),
                uid: u32::from_ne_bytes(at(16)),
            }))
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Empties the mask of blocked signals and puts every disposition back to its default, as a program
/// that was just started expects; signals in `ignored` are ignored instead.
///
/// # Errors
/// As `sigprocmask`.
pub fn reset(ignored: &[i32]) -> io::Result<()> {
    // SAFETY: only default and ignore dispositions are set, no handler runs.
    unsafe {
        for number in (1..=64).filter(|n| *n != libc::SIGKILL && *n != libc::SIGSTOP) {
            let action = if ignored.contains(&number) {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            };
            libc::signal(number, action);
        }
        let set = set_of(&[]);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &set,
            std::ptr::null_mut(),
        ))?;
    }
    Ok(())
}

/// Sends a signal to one process (`pid` > 0), a group (`-pgid`) or everything (`-1`).
///
/// # Errors
/// As `kill`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

/// Sends a signal of any number, real-time ones too, to the process of a pidfd.
///
/// # Errors
/// `ESRCH` if it is gone.
pub fn pidfd_kill(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: no memory is involved; a null siginfo means an ordinary kill.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    crate::check_long(ret).map(|_| ())
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the zeroed set; numbers out of range are refused by sigaddset.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}
