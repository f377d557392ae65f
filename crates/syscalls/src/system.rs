//! Whole-system and scheduling calls: reboot with an argument, scheduler and I/O priorities, memory given back.

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

/// Lets the kernel take back the pages of this program's file that are in memory, code above all; what is used again is
/// read again. PID 1 calls it when it has become idle after boot: most of its code has run for the last time by then.
///
/// # Errors
/// `/proc` is not there, or the kernel does not know the advice.
pub fn page_out_program() -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read("/proc/self/maps")?;
    for line in maps.split(|b| *b == b'\n') {
        let Some((start, end)) = mapping_of(line, program.as_os_str().as_bytes()) else {
            continue;
        };
        // SAFETY: the range is mapped, nothing unmaps a program's own file, and the advice changes no contents: a page that
        // was taken is read from the file again at the next access.
        check(unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_PAGEOUT)
        })?;
    }
    Ok(())
}

/// Start and end of a mapping, from a line of `/proc/self/maps`, if it is of this file and cannot be written.
fn mapping_of(line: &[u8], file: &[u8]) -> Option<(usize, usize)> {
    let head = line.strip_suffix(file).filter(|h| h.ends_with(b" "))?;
    let mut words = std::str::from_utf8(head).ok()?.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let protection = words.next()?;
    let range = (
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    );
    (protection.starts_with('r') && !protection.contains('w') && range.0 < range.1).then_some(range)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_mappings_of_the_program_are_named() {
        for (line, wanted) in [
            (
                "1000-3000 r-xp 00001000 fd:00 7    /usr/bin/a",
                Some((0x1000, 0x3000)),
            ),
            (
                "1000-3000 r--p 00001000 fd:00 7    /usr/bin/a",
                Some((0x1000, 0x3000)),
            ),
            ("1000-3000 rw-p 00001000 fd:00 7    /usr/bin/a", None),
            ("1000-3000 ---p 00001000 fd:00 7    /usr/bin/a", None),
            ("1000-3000 r-xp 00001000 fd:00 7    /x/usr/bin/a", None),
            (
                "1000-3000 r-xp 00001000 fd:00 7    /usr/bin/a (deleted)",
                None,
            ),
            ("3000-1000 r-xp 00001000 fd:00 7    /usr/bin/a", None),
            ("x-y r-xp /usr/bin/a", None),
            ("", None),
        ] {
            assert_eq!(mapping_of(line.as_bytes(), b"/usr/bin/a"), wanted, "{line}");
        }
    }

    #[test]
    fn a_program_goes_on_after_its_pages_were_given_back() {
        page_out_program().expect("the kernel knows the advice");
        assert_eq!(errno_text(2), "No such file or directory");
    }
}
