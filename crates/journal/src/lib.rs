//! The journal file format: reader and writer.
//!
//! The format is systemd's, so that every journal tool works on our files unmodified. We write one profile of it: keyed
//! hashes, no compression, not compact, no sealing (each `journalctl` since version 246 reads that). We read this and the
//! compact form; compressed objects of other writers are reported as such, never guessed at.
//!
//! ```text
//! Store (a directory: system.journal, archives, vacuum)
//!   └─ Writer (one file, append only)              Journal (many files merged, matches, seeking, follow)
//!                                                    └─ FileReader (one file) ── Chain (entry lists)
//!        layout (header and objects as bytes), hash (SipHash-2-4, lookup3), Id128
//! ```
//!
//! How an entry becomes visible: all new objects of an entry (data, fields, entry arrays, the entry) are composed in memory
//! and written behind the last object in one go; then the links to them (hash buckets, array slots, counters of
//! older objects); then the header with the new counters. A reader that trusts the header never sees half an entry, a
//! killed writer loses nothing that it had acknowledged, and a full disk is noticed before anything was changed.
//!
//! All access is by `pread`/`pwrite`, not by mapped memory: no `unsafe`, no SIGBUS on a truncated file, small memory;
//! the readers of others (which map the file) see the same pages.
//!
//! Everything read from a file is untrusted: lists must move strictly forwards (or backwards) in the file, so none can
//! cycle; no size is believed beyond the end of the file.
//!
//! What this crate does not do: it receives no messages and knows no field but `_BOOT_ID` (journald's business), and
//! formats no output (journalctl's).

#![forbid(unsafe_code)]

mod chain;
mod dir;
mod file;
mod hash;
mod id;
mod layout;
mod matches;
mod merge;
mod store;
mod vacuum;
mod verify;
mod watch;
mod writer;

pub use dir::{JournalPath, Kind, journal_files, parse_name};
pub use file::{Entry, FileReader, Meta, ReadError};
pub use id::Id128;
pub use layout::{FormatError, Header, State};
pub use matches::Match;
pub use merge::{Boot, Cursor, CursorError, Direction, Journal};
pub use store::{Store, StoreError, StoreOptions, vacuum_dir};
pub use vacuum::{Archive, Limits, plan_vacuum};
pub use verify::{Verdict, verify};
pub use watch::Watch;
pub use writer::{Stamp, WriteError, Writer, WriterOptions};
