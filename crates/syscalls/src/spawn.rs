//! Starting a process from a plan that was prepared beforehand.
//!
//! [`ExecPlan`] holds everything the child needs as NUL-terminated strings and pointer arrays, so that
//! between `clone3` and `execve` the child only calls async-signal-safe functions and allocates nothing.
//! The child is put into its cgroup by the kernel (`CLONE_INTO_CGROUP`): there is no moment at which it
//! runs elsewhere. The parent is suspended until the child has called `execve` or failed
//! (`CLONE_VFORK`), and then holds a pidfd that cannot be reused by another process.
//!
//! Failures come back as `(step, errno)` on a pipe ([`Report`]); end of file on it means that the last
//! `execve` in the chain succeeded, because the pipe is close-on-exec there.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::check_long;

/// Step of the child that failed before the planned program ran: arranging descriptors.
pub const STEP_FDS: u32 = 202;
/// Step of the child that failed before the planned program ran: `execve`.
pub const STEP_EXEC: u32 = 203;

/// Length of an encoded [`Report`].
pub const REPORT_LEN: usize = 8;

/// A failure of the child on its way to the program it should become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The step that failed, numbered as the exit codes of systemd's executor (203 = exec …).
    pub step: u32,
    /// The errno of the failed call.
    pub errno: i32,
}

impl Report {
    /// The form in which it travels on the pipe: two little-endian 32-bit numbers.
    pub fn encode(self) -> [u8; REPORT_LEN] {
        let mut out = [0; REPORT_LEN];
        out[..4].copy_from_slice(&self.step.to_le_bytes());
        out[4..].copy_from_slice(&self.errno.to_le_bytes());
        out
    }

    /// Reads the form of [`Report::encode`]; a short or longer text is no report.
    pub fn decode(bytes: &[u8]) -> Option<Report> {
        let bytes: &[u8; REPORT_LEN] = bytes.try_into().ok()?;
        let (step, errno) = bytes.split_at(4);
        Some(Report {
            step: u32::from_le_bytes(step.try_into().ok()?),
            errno: i32::from_le_bytes(errno.try_into().ok()?),
        })
    }
}

/// A started child.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id, valid until it is reaped.
    pub pid: i32,
    /// Its pidfd (close-on-exec).
    pub pidfd: OwnedFd,
    /// Read end of the report pipe, non-blocking.
    pub report: OwnedFd,
}

/// Everything a child needs, prepared before `clone3`.
#[derive(Debug)]
pub struct ExecPlan {
    exe: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    argv_ptrs: Vec<*const libc::c_char>,
    envp_ptrs: Vec<*const libc::c_char>,
    fds: Vec<(OwnedFd, RawFd)>,
    scratch: Vec<RawFd>,
    cgroup: Option<OwnedFd>,
    report_at: Option<RawFd>,
}

impl ExecPlan {
    /// A plan to run `exe` with these arguments (`argv[0]` included) and this whole environment.
    pub fn new(exe: &CStr, argv: Vec<CString>, envp: Vec<CString>) -> ExecPlan {
        let mut plan = ExecPlan {
            exe: exe.to_owned(),
            argv,
            envp,
            argv_ptrs: Vec::new(),
            envp_ptrs: Vec::new(),
            fds: Vec::new(),
            scratch: Vec::new(),
            cgroup: None,
            report_at: None,
        };
        plan.argv_ptrs = pointers(&plan.argv);
        plan.envp_ptrs = pointers(&plan.envp);
        plan
    }

    /// Starts the child inside the cgroup of this open directory.
    #[must_use]
    pub fn cgroup(mut self, dir: OwnedFd) -> ExecPlan {
        self.cgroup = Some(dir);
        self
    }

    /// Gives the child this descriptor under the number `target`, not close-on-exec.
    #[must_use]
    pub fn fd(mut self, source: OwnedFd, target: RawFd) -> ExecPlan {
        self.fds.push((source, target));
        self
    }

    /// Gives the child the write end of the report pipe under this number, so that the program it runs
    /// (an executor) can go on reporting. Without it the pipe closes at the first `execve`.
    #[must_use]
    pub fn report_at(mut self, target: RawFd) -> ExecPlan {
        self.report_at = Some(target);
        self
    }

    /// Starts the child.
    ///
    /// # Errors
    /// Whatever `pipe2` or `clone3` say; failures inside the child come through [`Spawned::report`].
    pub fn spawn(mut self) -> io::Result<Spawned> {
        let (report_read, report_write) = rustix::pipe::pipe_with(
            rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
        )?;
        self.scratch = vec![-1; self.fds.len() + 1];
        let mut flags = libc::CLONE_PIDFD as u64 | libc::CLONE_VFORK as u64;
        let mut pidfd: RawFd = -1;
        let mut args = CloneArgs {
            pidfd: std::ptr::from_mut(&mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        if let Some(dir) = &self.cgroup {
            flags |= CLONE_INTO_CGROUP;
            args.cgroup = dir.as_raw_fd() as u64;
        }
        args.flags = flags;
        // SAFETY: `args` is a valid clone_args of the given size. Without CLONE_VM the child gets a copy
        // of this address space and goes on here on its own copy of the stack, exactly as after fork;
        // it then calls only `child`, which is async-signal-safe and does not return.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                std::ptr::from_mut(&mut args),
                size_of::<CloneArgs>(),
            )
        };
        if ret == 0 {
            self.child(report_write.as_raw_fd());
        }
        let pid = check_long(ret)?;
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a descriptor that is ours.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Spawned {
            pid: i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?,
            pidfd,
            report: report_read,
        })
    }

    /// The child's side: descriptors, default signals, `execve`. Never returns, never allocates.
    fn child(&mut self, report: RawFd) -> ! {
        let mut report = report;
        let result = self.arrange_fds(&mut report);
        let failed = match result {
            Err(errno) => Report {
                step: STEP_FDS,
                errno,
            },
            Ok(()) => {
                // SAFETY: signal-safe calls on local data; the pointer arrays were built from CStrings
                // that live in `self`, and end with a null pointer.
                unsafe {
                    let mut set: libc::sigset_t = std::mem::zeroed();
                    libc::sigemptyset(&mut set);
                    for number in 1..=64 {
                        if number != libc::SIGKILL && number != libc::SIGSTOP {
                            libc::signal(number, libc::SIG_DFL);
                        }
                    }
                    libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
                    libc::execve(
                        self.exe.as_ptr(),
                        self.argv_ptrs.as_ptr(),
                        self.envp_ptrs.as_ptr(),
                    );
                    Report {
                        step: STEP_EXEC,
                        errno: *libc::__errno_location(),
                    }
                }
            }
        };
        let bytes = failed.encode();
        // SAFETY: writes a local buffer to a descriptor and ends this process without running destructors.
        unsafe {
            libc::write(report, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(failed.step as i32);
        }
    }

    /// Puts every descriptor at its number: first all above the highest target, then down to the targets,
    /// so that no source is overwritten before it is used.
    fn arrange_fds(&mut self, report: &mut RawFd) -> Result<(), i32> {
        let highest = self
            .fds
            .iter()
            .map(|(_, t)| *t)
            .chain(self.report_at)
            .max()
            .unwrap_or(2);
        let floor = highest.max(2) + 1;
        // SAFETY: fcntl and dup2 on descriptors; both are async-signal-safe. errno is read right after.
        unsafe {
            let moved = libc::fcntl(*report, libc::F_DUPFD_CLOEXEC, floor);
            if moved < 0 {
                return Err(*libc::__errno_location());
            }
            *report = moved;
            for (slot, (source, _)) in self.scratch.iter_mut().zip(&self.fds) {
                *slot = libc::fcntl(source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor);
                if *slot < 0 {
                    return Err(*libc::__errno_location());
                }
            }
            for (slot, (_, target)) in self.scratch.iter().zip(&self.fds) {
                if libc::dup2(*slot, *target) < 0 {
                    return Err(*libc::__errno_location());
                }
            }
            if let Some(target) = self.report_at
                && libc::dup2(*report, target) < 0
            {
                return Err(*libc::__errno_location());
            }
        }
        Ok(())
    }
}

/// Reads a report: `None` while the child is still on its way, `Some(None)` when it got through.
///
/// # Errors
/// The read error, if it is another than "would block".
pub fn read_report(pipe: BorrowedFd<'_>) -> io::Result<Option<Option<Report>>> {
    let mut buffer = [0; REPORT_LEN];
    match rustix::io::retry_on_intr(|| rustix::io::read(pipe.as_fd(), &mut buffer)) {
        Ok(0) => Ok(Some(None)),
        Ok(len) => Ok(Some(Report::decode(&buffer[..len]))),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Replaces this process by `exe`. Returns only the error.
pub fn execve(exe: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    let argv = pointers(argv);
    let envp = pointers(envp);
    // SAFETY: both arrays point to NUL-terminated strings that outlive the call and end with null.
    unsafe {
        libc::execve(exe.as_ptr(), argv.as_ptr(), envp.as_ptr());
    }
    io::Error::last_os_error()
}

/// Takes a descriptor that the parent passed under an agreed number (socket activation, executors).
/// Returns `None` if no such descriptor is open.
pub fn take_passed_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only asks about the number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and by the protocol of the caller (a number agreed with the parent)
    // nothing else in this process owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves a descriptor to the number `target`, which must not be owned by anything else in this process,
/// and leaves it open across `exec`.
///
/// # Errors
/// As `dup2`.
pub fn place_fd(source: OwnedFd, target: RawFd) -> io::Result<()> {
    if source.as_raw_fd() == target {
        rustix::io::fcntl_setfd(&source, rustix::io::FdFlags::empty())?;
        let _kept_open = source.into_raw_fd();
        return Ok(());
    }
    // SAFETY: dup2 on an open source; the target number is given away by the caller.
    let ret = unsafe { libc::dup2(source.as_raw_fd(), target) };
    crate::check(ret).map(|_| ())
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// As `close_range`.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: changes only a flag of descriptors, none is closed now.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check_long(ret).map(|_| ())
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of the kernel, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn wait(child: &Spawned) -> Option<i32> {
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .and_then(|s| s.exit_status())
    }

    /// The report, waited for: a child of another test holds the pipe too until its own `execve`.
    fn report(child: &Spawned) -> Option<Report> {
        let mut fds = [rustix::event::PollFd::new(
            &child.report,
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit))).unwrap();
        read_report(child.report.as_fd())
            .unwrap()
            .expect("the child is through")
    }

    #[test]
    fn a_child_gets_its_descriptors_arguments_and_environment() {
        let mut file = tempfile::tempfile().unwrap();
        let plan = ExecPlan::new(
            c"/bin/sh",
            vec![
                c("sh"),
                c("-c"),
                c("echo $1-$X >&5; exit 7"),
                c("sh"),
                c("arg"),
            ],
            vec![c("X=env")],
        )
        .fd(file.try_clone().unwrap().into(), 5);
        let child = plan.spawn().unwrap();
        assert_eq!(wait(&child), Some(7));
        assert_eq!(report(&child), None);
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "arg-env\n");
    }

    #[test]
    fn a_missing_program_is_reported_with_step_and_errno() {
        let child = ExecPlan::new(c"/nonexistent/program", vec![c("x")], vec![])
            .spawn()
            .unwrap();
        assert_eq!(wait(&child), Some(203));
        let report = report(&child).unwrap();
        assert_eq!(
            report,
            Report {
                step: STEP_EXEC,
                errno: libc::ENOENT
            }
        );
    }

    #[test]
    fn swapped_descriptors_do_not_overwrite_each_other() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (low, high) = (read.as_raw_fd(), write.as_raw_fd());
        let mut read_here = std::fs::File::from(read.try_clone().unwrap());
        let plan = ExecPlan::new(
            c"/bin/sh",
            vec![c("sh"), c("-c"), c(&format!("echo crossed >&{low}"))],
            vec![],
        )
        .fd(read, high)
        .fd(write, low);
        let child = plan.spawn().unwrap();
        assert_eq!(wait(&child), Some(0));
        let mut text = String::new();
        read_here.read_to_string(&mut text).unwrap();
        assert_eq!(text, "crossed\n");
    }

    #[test]
    fn an_executor_can_go_on_reporting() {
        let child = ExecPlan::new(
            c"/bin/sh",
            vec![
                c("sh"),
                c("-c"),
                c(r"printf '\300\000\000\000\015\000\000\000' >&9"),
            ],
            vec![],
        )
        .report_at(9)
        .spawn()
        .unwrap();
        wait(&child);
        let report = report(&child);
        assert_eq!(
            report,
            Some(Report {
                step: 192,
                errno: 13
            })
        );
    }

    #[test]
    fn reports_survive_encoding_and_other_lengths_are_refused() {
        let report = Report {
            step: 226,
            errno: -1,
        };
        assert_eq!(Report::decode(&report.encode()), Some(report));
        assert_eq!(Report::decode(&[1, 2, 3]), None);
    }
}
