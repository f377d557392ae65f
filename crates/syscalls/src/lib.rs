//! The only crate with unsafe code: safe functions over system calls that rustix lacks.
