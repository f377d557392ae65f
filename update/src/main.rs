//! Health check and mark-good of the running slot.

fn main() {}
