//! docker, container-monitor and dockerd.

fn main() {}
