//! flotilla-cloudinit: user data to machine.

fn main() {}
