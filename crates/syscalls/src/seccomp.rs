//! Installing a seccomp filter on this thread.

use std::io;

use crate::check;

/// One instruction of classic BPF (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Filters every later system call of this thread and its children with `program`.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN or no_new_privs, `EINVAL` for a program the kernel refuses.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let argument = Program {
        len: u16::try_from(program.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: program.as_ptr(),
    };
    // SAFETY: the structure is a `struct sock_fprog` over a slice that lives during the call.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            std::ptr::from_ref(&argument),
            0,
            0,
        )
    })
    .map(|_| ())
}
