//! Reader against writer, and the reader against damage.

mod support;

use std::path::{Path, PathBuf};

use journal::{
    Cursor, Direction, Entry, FileReader, Id128, Journal, Match, Stamp, Store, WriteError, verify,
};
use proptest::prelude::*;
use support::{fields, fill, fill_store, new_file, stamp, store_options};

fn messages(entries: impl IntoIterator<Item = Entry>) -> Vec<String> {
    let text =
        |e: Entry| String::from_utf8_lossy(e.get("MESSAGE").unwrap_or_default()).into_owned();
    entries.into_iter().map(text).collect()
}

fn forward(journal: &mut Journal) -> Vec<String> {
    messages(std::iter::from_fn(|| journal.next_entry()).collect::<Vec<_>>())
}

fn lines(range: impl IntoIterator<Item = u64>) -> Vec<String> {
    range.into_iter().map(|n| format!("line {n}")).collect()
}

fn one_file(n: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("system.journal");
    let mut writer = new_file(&path);
    fill(&mut writer, 0..n);
    writer.sync().expect("sync");
    (dir, path)
}

#[test]
fn entries_come_back_as_written_in_both_directions() {
    let (_dir, path) = one_file(40);
    let mut journal = Journal::open_files(&[path]).expect("open");
    assert_eq!(forward(&mut journal), lines(0..40));
    // Behind the last entry, backwards gives the ones before it first.
    assert_eq!(messages(journal.previous_entry()), lines([38]));
    journal.seek_tail();
    assert_eq!(messages(journal.previous_entry()), lines([39]));
    assert_eq!(messages(journal.previous_entry()), lines([38]));
    assert_eq!(messages(journal.next_entry()), lines([39]));
    journal.seek_head();
    let first = journal.next_entry().expect("an entry");
    let mut want = fields(0);
    let mut got = first.fields.clone();
    want.sort();
    got.sort();
    assert_eq!(got, want);
    assert_eq!(journal.previous_entry(), None);
}

#[test]
fn times_and_cursors_lead_to_their_entries() {
    let (_dir, path) = one_file(40);
    let mut journal = Journal::open_files(&[path]).expect("open");
    journal.seek_realtime(stamp(17).realtime);
    let entry = journal.next_entry().expect("an entry");
    let cursor: Cursor = Cursor(entry.meta).to_string().parse().expect("valid");
    assert_eq!(messages([entry]), lines([17]));
    journal.seek_realtime(stamp(17).realtime - 1);
    assert_eq!(messages(journal.next_entry()), lines([17]));
    journal.seek_cursor(&cursor, false);
    assert_eq!(messages(journal.next_entry()), lines([17]));
    journal.seek_cursor(&cursor, true);
    assert_eq!(messages(journal.next_entry()), lines([18]));
    assert!("t=zz".parse::<Cursor>().is_err());
    assert!("s=1".parse::<Cursor>().is_err());
}

#[test]
fn matches_combine() {
    let (_dir, path) = one_file(200);
    let mut journal = Journal::open_files(&[path]).expect("open");
    let unit = Match::field("_SYSTEMD_UNIT", "web@1.service");
    let pids = Match::Or(vec![Match::field("_PID", "3"), Match::field("_PID", "7")]);
    journal.set_match(Match::And(vec![unit, pids]));
    let want: Vec<_> = (0..200)
        .filter(|n| n % 3 == 1 && [3, 7].contains(&(n % 13)))
        .collect();
    assert_eq!(forward(&mut journal), lines(want.clone()));
    journal.seek_tail();
    let back: Vec<_> = std::iter::from_fn(|| journal.previous_entry()).collect();
    assert_eq!(messages(back), lines(want.into_iter().rev()));
    journal.set_match(Match::field("_PID", "99"));
    journal.seek_head();
    assert!(forward(&mut journal).is_empty());
}

#[test]
fn rotated_files_read_as_one_and_new_entries_are_followed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut store = Store::open(dir.path(), store_options(1 << 20)).expect("open");
    fill_store(&mut store, 0..30);
    store.rotate().expect("rotate");
    fill_store(&mut store, 30..60);
    let mut journal = Journal::open_dirs(&[store.dir().to_owned()]);
    assert_eq!(forward(&mut journal), lines(0..60));
    fill_store(&mut store, 60..65);
    assert_eq!(journal.next_entry(), None, "not before the refresh");
    journal.refresh();
    assert_eq!(forward(&mut journal), lines(60..65));
    store.rotate().expect("rotate");
    fill_store(&mut store, 65..70);
    journal.refresh();
    assert_eq!(forward(&mut journal), lines(65..70));

    // From the tail on, without having read anything.
    let mut journal = Journal::open_dirs(&[store.dir().to_owned()]);
    journal.set_match(Match::field("_SYSTEMD_UNIT", "web@0.service"));
    journal.seek_tail();
    assert_eq!(journal.next_entry(), None);
    store.rotate().expect("rotate");
    fill_store(&mut store, 70..73);
    journal.refresh();
    assert_eq!(forward(&mut journal), lines([72]));
    assert!(journal.take_problems().is_empty());
}

#[test]
fn the_clock_going_backwards_starts_a_new_file() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("system.journal");
    let mut writer = new_file(&path);
    fill(&mut writer, 5..6);
    let err = writer.append(stamp(4), &fields(4)).expect_err("refused");
    assert!(matches!(err, WriteError::Order(_)));
    fill(&mut writer, 6..8);
    verify(&path).expect("sound");
}

#[test]
fn boots_values_and_names_are_listed() {
    let (_dir, path) = one_file(30);
    let mut journal = Journal::open_files(&[path]).expect("open");
    let boots = journal.boots();
    assert_eq!(boots.len(), 1);
    assert_eq!(
        (boots[0].first, boots[0].last),
        (stamp(0).realtime, stamp(29).realtime)
    );
    assert_eq!(journal.values("PRIORITY").len(), 8);
    assert!(journal.field_names().contains(&b"BLOB".to_vec()));
    assert!(journal.values("NOTHING").is_empty());
}

#[test]
fn an_entry_without_any_valid_field_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut writer = new_file(&dir.path().join("system.journal"));
    for bad in ["", "x=1", "=1", "1A=1", "NO", "A B=1"] {
        assert!(
            matches!(writer.append(stamp(1), &[bad]), Err(WriteError::Entry(_))),
            "{bad}"
        );
    }
    assert_eq!(writer.header().n_objects, 2);
}

fn read_everything(path: &Path) {
    let Ok(mut journal) = Journal::open_files(&[path.to_owned()]) else {
        return;
    };
    let bound = 100_000;
    let _ = (0..bound)
        .take_while(|_| journal.next_entry().is_some())
        .count();
    journal.set_match(Match::field("_SYSTEMD_UNIT", "web@1.service"));
    journal.seek_tail();
    let _ = (0..bound)
        .take_while(|_| journal.skip(Direction::Backward).is_some())
        .count();
    journal.seek_realtime(stamp(10).realtime);
    let _ = journal.next_entry();
    let _ = (
        journal.boots(),
        journal.values("_PID"),
        journal.field_names(),
    );
    let _ = verify(path);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_makes_the_reader_panic_or_hang(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..40),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (_dir, path) = one_file(25);
        let mut bytes = std::fs::read(&path).expect("read");
        // Damage where the objects are, the empty tables would swallow most of it.
        let used = FileReader::open(&path).expect("open").header().tail_object as usize;
        let objects = used - used.min(9000);
        for (at, value, head) in &flips {
            let at = if *head { at.index(512) } else { objects + at.index(used - objects) };
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, &bytes).expect("write");
        read_everything(&path);
    }

    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec(
        proptest::collection::vec(("[A-Z][A-Z0-9_]{0,5}", proptest::collection::vec(any::<u8>(), 0..300)), 1..6), 1..30
    )) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("system.journal");
        let mut writer = new_file(&path);
        let mut want = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            let mut fields: Vec<Vec<u8>> =
                entry.iter().map(|(k, v)| [k.as_bytes(), b"=", v].concat()).collect();
            let at = Stamp { realtime: n as u64 + 1, monotonic: n as u64, boot_id: Id128([1; 16]) };
            writer.append(at, &fields).expect("append");
            fields.sort();
            fields.dedup();
            want.push(fields);
        }
        verify(&path).expect("sound");
        let mut journal = Journal::open_files(&[path]).expect("open");
        let got: Vec<_> = std::iter::from_fn(|| journal.next_entry())
            .map(|mut e| { e.fields.sort(); e.fields })
            .collect();
        prop_assert_eq!(&got, &want);
        // A match finds exactly the entries that have the field.
        let wanted = &want[0][0];
        journal.set_match(Match::Field(wanted.clone()));
        journal.seek_head();
        let count = std::iter::from_fn(|| journal.next_entry()).count();
        prop_assert_eq!(count, want.iter().filter(|f| f.contains(wanted)).count());
    }
}
