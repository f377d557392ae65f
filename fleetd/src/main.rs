//! The fleet daemon: agent, engine, API.

fn main() {}
