//! Whole-system and scheduling calls: reboot with an argument, scheduler and I/O priorities, heap trimming.

use std::ffi::CStr;
use std::io;

use crate::{check, check_long};

/// Restarts the machine and passes `argument` to the firmware or boot loader driver.
///
/// # Errors
/// Returns only if it failed.
pub fn restart_with(argument: &CStr) -> io::Result<()> {
    // SAFETY: the argument is NUL-terminated and lives during the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_reboot,
            0xfee1_dead_u32,
            672_274_793_u32,
            0xA1B2_C3D4_u32,
            argument.as_ptr(),
        )
    };
    check_long(ret).map(|_| ())
}

/// Gives this thread namespaces of its own.
///
/// # Errors
/// `EINVAL` for `UnshareFlags::FILES`, which could hide descriptors from other threads; else `unshare`'s.
pub fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    if flags.contains(rustix::thread::UnshareFlags::FILES) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the one dangerous flag was refused above; namespaces do not concern memory.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Sets scheduling policy (0 other, 1 fifo, 2 rr, 3 batch, 5 idle) and static priority of this process.
///
/// # Errors
/// As `sched_setscheduler`.
pub fn set_scheduler(policy: i32, priority: i32, reset_on_fork: bool) -> io::Result<()> {
    let policy = policy
        | if reset_on_fork {
            libc::SCHED_RESET_ON_FORK
        } else {
            0
        };
    // SAFETY: the parameter structure lives during the call.
    unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = priority;
        check(libc::sched_setscheduler(0, policy, &parameters)).map(|_| ())
    }
}

/// Sets the I/O class (1 realtime, 2 best-effort, 3 idle) and level (0–7) of this process.
///
/// # Errors
/// As `ioprio_set`.
pub fn set_io_priority(class: i32, level: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check_long(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, (class << 13) | level) })
        .map(|_| ())
}

/// Sets the execution domain (`personality(2)`).
///
/// # Errors
/// As the call.
pub fn set_personality(value: u64) -> io::Result<()> {
    // SAFETY: plain number.
    check(unsafe { libc::personality(value as _) }).map(|_| ())
}

/// Gives free heap pages back to the kernel; PID 1 calls it when it has become idle after boot.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory of ours is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ends this process at once, without destructors and exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Text of an errno, as `strerror`.
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
