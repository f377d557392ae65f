//! Builds /usr, initramfs and disk images.

fn main() {}
