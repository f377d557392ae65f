//! PID 1 and the initramfs's /init: one static binary.
//!
//! Who it is depends on how it was started:
//!
//! * PID 1 in a root that is kept in memory and has no `/usr`: **stage 1** ([`initramfs`]), which finds the
//!   verified /usr and the machine's own root and executes the system manager there.
//! * any other PID 1: the **system manager**.
#![forbid(unsafe_code)]

mod clock;
mod cmdline;
mod console;
mod handover;
mod initramfs;
mod log;

fn main() {
    if rustix::process::getpid().is_init() && initramfs::is_here() {
        initramfs::run();
    }
}
