//! journald, which collects what programs log, and journalctl, which shows it.
//!
//! The two programs share nothing at run time but files: journalctl reads the journal by itself (crate `journal`) and talks
//! to journald only for `--flush`, `--rotate` and `--sync`. They share this library so that the parsers of what comes from
//! outside can be tested and fuzzed.

#![forbid(unsafe_code)]

pub mod cli;
pub mod daemon;
