//! The only crate with unsafe code: safe functions over system calls that rustix lacks.

mod inherited;

pub use inherited::take_inherited;
