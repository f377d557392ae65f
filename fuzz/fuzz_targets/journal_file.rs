//! A journal file that may be damaged: read in both directions, searched, verified.
#![no_main]

use journal::{Journal, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else {
        return;
    };
    if std::fs::write(file.path(), data).is_err() {
        return;
    }
    let _ = verify(file.path());
    let Ok(mut journal) = Journal::open_files(&[file.path().to_owned()]) else {
        return;
    };
    journal.seek_head();
    while journal.next_entry().is_some() {}
    journal.seek_tail();
    while journal.previous_entry().is_some() {}
    journal.seek_realtime(1_700_000_000_000_000);
    let _ = (
        journal.next_entry(),
        journal.boots(),
        journal.field_names(),
        journal.values("MESSAGE"),
    );
});
