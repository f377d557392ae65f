//! The systemd1 and login1 D-Bus surface in front of PID 1.

fn main() {}
