//! A full check of one file, as `journalctl --verify` does it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::file::{FileReader, ReadError};
use crate::layout::{
    COMPRESSED, OBJ_ARRAY, OBJ_DATA, OBJ_DATA_TABLE, OBJ_ENTRY, OBJ_FIELD, OBJ_FIELD_TABLE,
    OBJ_TAG, State, align8, data, field,
};

/// What was found in a sound file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is being written (or its writer died).
    pub online: bool,
    /// Entries.
    pub n_entries: u64,
    /// Objects of all kinds.
    pub n_objects: u64,
}

/// What walking over all objects has shown.
#[derive(Default)]
struct Seen {
    objects: u64,
    entries: BTreeSet<u64>,
    data: BTreeSet<u64>,
    fields: BTreeSet<u64>,
    arrays: BTreeSet<u64>,
}

/// Checks every object and every link of a file. The first fault found is the error.
pub fn verify(path: &Path) -> Result<Verdict, ReadError> {
    let file = FileReader::open(path)?;
    let seen = walk(&file)?;
    check_counts(&file, &seen)?;
    check_tables(&file, &seen)?;
    check_entries(&file, &seen)?;
    check_data(&file, &seen)?;
    Ok(Verdict {
        online: file.header().state == State::Online,
        n_entries: seen.entries.len() as u64,
        n_objects: seen.objects,
    })
}

fn walk(file: &FileReader) -> Result<Seen, ReadError> {
    let header = file.header();
    let mut seen = Seen::default();
    let mut at = header.header_size;
    if header.tail_object == 0 {
        return Ok(seen);
    }
    loop {
        if at > header.tail_object {
            return Err(file.damaged(at, "the last object is not where the header says"));
        }
        let object = file.object(at, 0)?;
        match object.kind {
            OBJ_DATA => {
                seen.data.insert(at);
                if object.flags & COMPRESSED == 0 {
                    let payload = file.payload(at)?;
                    if header.hash(&payload) != file.word(at + data::HASH)? {
                        return Err(file.damaged(at, "a data object does not match its hash"));
                    }
                }
            }
            OBJ_FIELD => {
                seen.fields.insert(at);
                let name = file.bytes(
                    at + field::PAYLOAD,
                    object.size.saturating_sub(field::PAYLOAD),
                )?;
                if header.hash(&name) != file.word(at + field::HASH)? {
                    return Err(file.damaged(at, "a field object does not match its hash"));
                }
            }
            OBJ_ENTRY => {
                seen.entries.insert(at);
            }
            OBJ_ARRAY => {
                seen.arrays.insert(at);
            }
            OBJ_DATA_TABLE | OBJ_FIELD_TABLE | OBJ_TAG => {}
            _ => return Err(file.damaged(at, "an object is of an unknown kind")),
        }
        seen.objects += 1;
        if at == header.tail_object {
            break;
        }
        at = at.saturating_add(align8(object.size));
    }
    Ok(seen)
}

fn check_counts(file: &FileReader, seen: &Seen) -> Result<(), ReadError> {
    let header = file.header();
    let counts = [
        (
            "the header's number of objects is wrong",
            header.n_objects,
            seen.objects,
        ),
        (
            "the header's number of entries is wrong",
            header.n_entries,
            seen.entries.len() as u64,
        ),
        (
            "the header's number of data objects is wrong",
            header.n_data,
            seen.data.len() as u64,
        ),
        (
            "the header's number of fields is wrong",
            header.n_fields,
            seen.fields.len() as u64,
        ),
        (
            "the header's number of entry arrays is wrong",
            header.n_entry_arrays,
            seen.arrays.len() as u64,
        ),
    ];
    // Files of old writers have no counters behind the 208th byte.
    let known = if header.header_size >= 240 { 5 } else { 2 };
    for (what, said, found) in counts.into_iter().take(known) {
        if said != found {
            return Err(file.damaged(0, what));
        }
    }
    if header
        .arena_size
        .checked_add(header.header_size)
        .is_none_or(|end| end > file.size())
    {
        return Err(file.damaged(96, "the file is shorter than the header says"));
    }
    Ok(())
}

/// Every data and field object must be in the chain of its bucket, once.
fn check_tables(file: &FileReader, seen: &Seen) -> Result<(), ReadError> {
    let header = file.header();
    for ((table, size), objects) in [
        (header.data_table, &seen.data),
        (header.field_table, &seen.fields),
    ] {
        let buckets = size / 16;
        let mut reached = 0;
        for bucket in 0..buckets {
            let mut at = file.word(table + bucket * 16)?;
            let mut last = 0;
            while at != 0 {
                if at <= last || !objects.contains(&at) {
                    return Err(file.damaged(at, "a hash chain leads astray"));
                }
                if file.word(at + data::HASH)? % buckets != bucket {
                    return Err(file.damaged(at, "an object is in the wrong bucket"));
                }
                reached += 1;
                last = at;
                at = file.word(at + data::NEXT_HASH)?;
            }
            if file.word(table + bucket * 16 + 8)? != last {
                return Err(file.damaged(table + bucket * 16, "a bucket's end is wrong"));
            }
        }
        if reached != objects.len() {
            return Err(file.damaged(table, "an object is in no bucket"));
        }
    }
    Ok(())
}

/// Entries are listed completely and in order; numbers rise, time within a boot does not fall.
fn check_entries(file: &FileReader, seen: &Seen) -> Result<(), ReadError> {
    let main = file.main();
    if main.len() != seen.entries.len() as u64 {
        return Err(file.damaged(
            file.header().entry_array,
            "the list of entries is incomplete",
        ));
    }
    let mut before: Option<crate::file::Meta> = None;
    for (index, expected) in seen.entries.iter().enumerate() {
        let offset = main.get(file, index as u64);
        if offset != Some(*expected) {
            return Err(file.damaged(*expected, "the list of entries misses an entry"));
        }
        let meta = file.meta(*expected)?;
        if let Some(before) = before {
            if meta.seqnum <= before.seqnum {
                return Err(file.damaged(*expected, "an entry's number is out of order"));
            }
            if meta.boot_id == before.boot_id && meta.monotonic < before.monotonic {
                return Err(file.damaged(*expected, "an entry's time is out of order"));
            }
        }
        let mut last = 0;
        for item in file.items(*expected)? {
            if item <= last || !seen.data.contains(&item) {
                return Err(file.damaged(*expected, "an entry's field leads astray"));
            }
            last = item;
            // The reverse: the field's list must have the entry.
            if file.entries_with(item)?.first_from(file, *expected) != Some(*expected) {
                return Err(file.damaged(item, "a field's list misses an entry"));
            }
        }
        before = Some(meta);
    }
    Ok(())
}

fn check_data(file: &FileReader, seen: &Seen) -> Result<(), ReadError> {
    for at in &seen.data {
        let chain = file.entries_with(*at)?;
        if chain.len() != file.word(at + data::N_ENTRIES)? {
            return Err(file.damaged(*at, "a field's list is incomplete"));
        }
        let mut last = 0;
        for index in 0..chain.len() {
            match chain.get(file, index) {
                Some(offset) if offset > last && seen.entries.contains(&offset) => last = offset,
                _ => return Err(file.damaged(*at, "a field's list leads astray")),
            }
        }
    }
    Ok(())
}
