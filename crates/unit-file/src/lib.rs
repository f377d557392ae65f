//! systemd unit files as values: names and escaping, lossless parse and print, drop-ins, specifiers,
//! typed sections, capabilities, command lines, environments, calendar expressions, and the plan of enable/disable.
//!
//! Nothing here reads a file or a clock: the caller lists directories and hands texts over. A bad line is
//! a [`Diagnostic`], never a panic; what a unit then means (`bad-setting`) is the caller's decision.
//!
//! Start at [`load::load`]: name + texts in order → [`load::UnitConfig`] + diagnostics.
#![forbid(unsafe_code)]

pub mod calendar;
pub mod capability;
pub mod command;
mod diagnostic;
pub mod document;
pub mod dropin;
pub mod environment;
pub mod install;
pub mod load;
pub mod name;
pub mod settings;
pub mod specifier;
pub mod value;

pub use diagnostic::{Diagnostic, Level};
pub use name::{NameError, UnitName, UnitType};
