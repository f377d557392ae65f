//! The D-Bus wire format, version 1: values, signatures, messages. No I/O.
//!
//! Everything that comes from outside goes through [`Message::parse`], which checks lengths, nesting, padding
//! of names, UTF-8 and signatures, and never panics. What is written is little-endian; both are read.

mod decode;
mod encode;
mod message;
mod signature;
mod value;

pub use decode::DecodeError;
pub use message::{FLAG_NO_AUTO_START, FLAG_NO_REPLY, Kind, MAX_MESSAGE, Message, PREFIX};
pub use signature::{check as check_signature, split as split_signature};
pub use value::{Value, is_bus_name, is_interface, is_member, is_object_path};
