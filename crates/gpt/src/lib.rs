//! The GUID partition table (UEFI 2.10 §5), as a value.
//!
//! [`Gpt::read`] reads a table through [`ReadAt`]; [`create`] lays out a whole new one; [`Gpt::grow`] plans growing the
//! last partition and the table to the end of a disk that became larger. What is to be written comes back as a list of
//! [`Write`]s: performing them, with a barrier after each, is the caller's.
//!
//! Invariants: what is read was covered by both checksums; a partition that is told ends behind its start, and its end in
//! bytes is a number; a cut at any point of a growth leaves a valid table. Not here: sectors of another size than 512
//! bytes, devices, what is in a partition.
#![forbid(unsafe_code)]

mod bytes;
mod create;
mod grow;
mod guid;
mod table;

pub use create::{LayoutError, create};
pub use grow::{Growth, protective_mbr};
pub use guid::{BadGuid, Guid};
pub use table::{Gpt, Partition, ReadAt};

/// Logical sector, in bytes; disks with another one are refused.
pub const SECTOR: u64 = 512;

/// Type of a BIOS boot partition.
pub const TYPE_BIOS: Guid =
    Guid(*b"\x48\x61\x68\x21\x49\x64\x6f\x6e\x74\x4e\x65\x65\x64\x45\x46\x49");
/// Type of an EFI system partition.
pub const TYPE_ESP: Guid =
    Guid(*b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b");
/// Type of a /usr partition for this architecture (Discoverable Partitions).
pub const TYPE_USR: Guid = Guid(if cfg!(target_arch = "aarch64") {
    *b"\x50\x10\xe0\xb0\x5f\xee\x90\x43\x94\x9a\x91\x01\xb1\x71\x04\xe9"
} else {
    *b"\x0c\x68\x84\x84\x21\x95\xc6\x48\x9c\x11\xb0\x72\x06\x56\xf6\x9e"
});
/// Type of the STATE partition (root for x86-64).
pub const TYPE_STATE: Guid =
    Guid(*b"\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09");
/// Generic Linux data, also taken for STATE when the label says so.
pub const TYPE_LINUX: Guid =
    Guid(*b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4");

/// Bytes for one place of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where, in bytes from the start of the disk.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}
