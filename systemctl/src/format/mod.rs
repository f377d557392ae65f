//! Values as text, the way systemd's tools print them.

pub(crate) mod property;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod tree;
