//! systemctl and the small commands that unit files call.

fn main() {}
