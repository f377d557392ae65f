//! The fleet client.

fn main() {}
