//! PID 1 and the initramfs's /init.

fn main() {}
