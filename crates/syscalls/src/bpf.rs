//! `bpf(2)`: loading a program and attaching it to a cgroup. The instructions are the caller's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::check_long;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// How a program joins those already attached to the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// The only program; a program of a child cgroup replaces it there.
    Override,
    /// One of several, all must agree.
    Multi,
}

/// Loads a program of type "cgroup device"; one `u64` is one eBPF instruction in native byte order.
///
/// # Errors
/// `EINVAL` or `EACCES` if the verifier refuses it, `EPERM` without privileges.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = Attr([0; 16]);
    attr.0[0] = u64::from(BPF_PROG_TYPE_CGROUP_DEVICE) | ((instructions.len() as u64) << 32);
    attr.0[1] = instructions.as_ptr() as u64;
    attr.0[2] = license.as_ptr() as u64;
    // SAFETY: the attribute block has the kernel's layout; the memory it points to lives during the call;
    // the returned descriptor is new.
    unsafe {
        let fd = call(BPF_PROG_LOAD, &mut attr)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Attaches a device program to the cgroup of this open directory.
///
/// # Errors
/// As `bpf`.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd, how: Attach) -> io::Result<()> {
    let flags: u32 = match how {
        Attach::Override => 1,
        Attach::Multi => 2,
    };
    attach_call(BPF_PROG_ATTACH, &cgroup, &program, flags)
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// `ENOENT` if it is not attached.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    attach_call(BPF_PROG_DETACH, &cgroup, &program, 0)
}

fn attach_call(
    command: libc::c_int,
    cgroup: &impl AsFd,
    program: &impl AsFd,
    flags: u32,
) -> io::Result<()> {
    let mut attr = Attr([0; 16]);
    let target = cgroup.as_fd().as_raw_fd() as u32;
    let program = program.as_fd().as_raw_fd() as u32;
    attr.0[0] = u64::from(target) | (u64::from(program) << 32);
    attr.0[1] = u64::from(BPF_CGROUP_DEVICE) | (u64::from(flags) << 32);
    // SAFETY: the attribute block has the kernel's layout and holds no pointers.
    unsafe { call(command, &mut attr) }.map(|_| ())
}

/// `union bpf_attr`, as far as these commands use it.
#[repr(C, align(8))]
struct Attr([u64; 16]);

/// # Safety
/// Pointers inside `attr` must be valid for what the command does with them.
unsafe fn call(command: libc::c_int, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: the block is as long as said; the rest is the caller's promise.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    })
}
