//! networkd and flanneld.

fn main() {}
