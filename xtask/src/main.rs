//! Developer and user entry points.

fn main() {}
