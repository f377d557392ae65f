//! Names and places of journal files.
//!
//! `system.journal` is being written; `system@SEQNUMID-SEQNUM-REALTIME.journal` was rotated away;
//! `system@REALTIME-RANDOM.journal~` was found unclean and set aside.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::Id128;
use crate::layout::Header;

/// What a file name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The one being written.
    Active,
    /// Rotated away in order.
    Archived {
        /// Sequence that the file belongs to.
        seqnum_id: Id128,
        /// Its first entry's number.
        seqnum: u64,
        /// Its first entry's time.
        realtime: u64,
    },
    /// Set aside as unclean at that time.
    Unclean {
        /// When.
        realtime: u64,
    },
}

/// A journal file found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPath {
    /// Where it is.
    pub path: PathBuf,
    /// `system`, `user-1000`, …
    pub prefix: String,
    /// From the name.
    pub kind: Kind,
}

/// Reads a file name; `None` if it is no journal file's.
pub fn parse_name(name: &str) -> Option<(&str, Kind)> {
    if let Some(stem) = name.strip_suffix(".journal~") {
        let (prefix, rest) = stem.rsplit_once('@')?;
        let (time, random) = rest.split_once('-')?;
        hex(random)?;
        return Some((
            prefix,
            Kind::Unclean {
                realtime: hex(time)?,
            },
        ));
    }
    let stem = name.strip_suffix(".journal")?;
    match stem.rsplit_once('@') {
        None if stem.is_empty() => None,
        None => Some((stem, Kind::Active)),
        Some((prefix, rest)) => {
            let mut parts = rest.split('-');
            let seqnum_id = Id128::parse(parts.next()?)?;
            let (seqnum, realtime) = (hex(parts.next()?)?, hex(parts.next()?)?);
            parts.next().is_none().then_some((
                prefix,
                Kind::Archived {
                    seqnum_id,
                    seqnum,
                    realtime,
                },
            ))
        }
    }
}

fn hex(text: &str) -> Option<u64> {
    (text.len() == 16)
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// The name under which a file is archived.
pub(crate) fn archive_name(path: &Path, header: &Header) -> PathBuf {
    let prefix = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(
        "{prefix}@{}-{:016x}-{:016x}.journal",
        header.seqnum_id, header.head_seqnum, header.head_realtime
    ))
}

/// The name under which an unclean file is set aside.
pub(crate) fn unclean_name(path: &Path, realtime: u64, random: u64) -> PathBuf {
    let prefix = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}@{realtime:016x}-{random:016x}.journal~"))
}

/// The journal files directly in `dir`, sorted by name. An absent directory has none.
pub fn journal_files(dir: &Path) -> io::Result<Vec<JournalPath>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if let Some((prefix, kind)) = name.to_str().and_then(parse_name) {
            files.push(JournalPath {
                path: entry.path(),
                prefix: prefix.to_owned(),
                kind,
            });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, want: Option<(&str, Kind)>) {
        assert_eq!(parse_name(name), want, "{name}");
    }

    #[test]
    fn names_say_what_a_file_is() {
        check("system.journal", Some(("system", Kind::Active)));
        check("user-1000.journal", Some(("user-1000", Kind::Active)));
        check(
            "system@0123456789abcdef0123456789abcdef-0000000000000010-00062f0000000000.journal",
            Some((
                "system",
                Kind::Archived {
                    seqnum_id: Id128::parse("0123456789abcdef0123456789abcdef").expect("id"),
                    seqnum: 16,
                    realtime: 0x0006_2f00_0000_0000,
                },
            )),
        );
        check(
            "system@00062f0000000000-1122334455667788.journal~",
            Some((
                "system",
                Kind::Unclean {
                    realtime: 0x0006_2f00_0000_0000,
                },
            )),
        );
        for other in [
            "fss",
            ".journal",
            "system@x.journal",
            "system.journal~",
            "system@1-2.journal~",
            "",
        ] {
            check(other, None);
        }
    }

    proptest! {
        #[test]
        fn no_name_makes_the_parser_panic(name in "\\PC{0,80}") {
            let _ = parse_name(&name);
        }
    }
}
