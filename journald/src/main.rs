//! journald and journalctl.

fn main() {}
