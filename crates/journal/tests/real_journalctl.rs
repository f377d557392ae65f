//! Debian's unmodified journalctl reads what we write, and its `--verify` finds it sound.

mod support;

use journal::{Id128, Store, Writer, verify};
use support::{
    BOOT, fill, fill_store, journalctl, new_file, stamp, stdout, store_options, writer_options,
};

#[track_caller]
fn verifies(path: &std::path::Path) {
    let path = path.to_str().expect("utf-8");
    let output = journalctl(&["--verify", "--file", path]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    verify(std::path::Path::new(path)).expect("our own check agrees");
}

#[test]
fn a_file_being_written_is_read_and_sound_at_every_size() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("system.journal");
    let mut writer = new_file(&path);
    for end in [1u64, 2, 3, 5, 6, 7, 20, 21, 100, 1500] {
        let start = writer.header().n_entries;
        fill(&mut writer, start..end);
        verifies(&path);
        let text = path.to_str().expect("utf-8");
        assert_eq!(
            stdout(&["--file", text, "-o", "cat"]).lines().count() as u64,
            end
        );
    }
}

#[test]
fn filters_formats_and_listings_are_right() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("system.journal");
    let mut writer = new_file(&path);
    fill(&mut writer, 0..1000);
    writer.sync().expect("sync");
    let file = path.to_str().expect("utf-8");
    let get = |args: &[&str]| stdout(&[&["--file", file], args].concat());

    assert_eq!(get(&["-o", "cat", "-n", "2"]), "line 998\nline 999\n");
    assert_eq!(
        get(&["-o", "cat", "-u", "web@1.service"]).lines().count(),
        333
    );
    assert_eq!(
        get(&["-o", "cat", "-u", "web@1", "_PID=7"]).lines().next(),
        Some("line 7")
    );
    assert_eq!(get(&["-o", "cat", "-p", "err"]).lines().count(), 500);
    assert_eq!(get(&["-F", "_SYSTEMD_UNIT"]).lines().count(), 3);
    assert_eq!(get(&["-F", "_PID"]).lines().count(), 13);
    assert_eq!(get(&["-o", "cat", "-r", "-n", "1"]), "line 999\n");
    assert_eq!(
        get(&["-o", "cat", "--since", "@1700000000.998"]),
        "line 998\nline 999\n"
    );
    assert!(get(&["--list-boots"]).contains(&BOOT.to_string()));
    let json = get(&["-o", "json", "-n", "1", "_PID=0", "PRIORITY=0"]);
    assert!(
        json.contains("\"_SYSTEMD_UNIT\":\"web@0.service\""),
        "{json}"
    );
    let export = get(&["-o", "export", "-n", "1", "_PID=0"]);
    assert!(export.contains("__CURSOR=s=05050505"), "{export}");
    // A cursor that the real tool prints is one of ours.
    let cursor = export
        .lines()
        .find_map(|l| l.strip_prefix("__CURSOR="))
        .expect("cursor");
    cursor.parse::<journal::Cursor>().expect("valid cursor");
    assert_eq!(
        get(&["-o", "cat", "--after-cursor", cursor]).lines().next(),
        Some("line 989")
    );
}

#[test]
fn a_file_is_continued_after_closing_and_after_a_new_boot() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("system.journal");
    let mut writer = new_file(&path);
    fill(&mut writer, 0..50);
    writer.sync().expect("sync");
    drop(writer);
    let mut writer = Writer::open(&path, &writer_options()).expect("clean file");
    fill(&mut writer, 50..60);
    let mut later = stamp(100);
    later.boot_id = Id128([0xb1; 16]);
    later.monotonic = 5;
    let fields = [
        "MESSAGE=new boot".to_owned(),
        format!("_BOOT_ID={}", later.boot_id),
    ];
    writer.append(later, &fields).expect("append");
    verifies(&path);
    let file = path.to_str().expect("utf-8");
    let boots = stdout(&["--file", file, "--list-boots"]);
    assert_eq!(
        boots
            .lines()
            .filter(|l| l.contains("b0b0b0b0") || l.contains("b1b1b1b1"))
            .count(),
        2
    );
    assert_eq!(
        stdout(&["--file", file, "-b", "-0", "-o", "cat"]),
        "new boot\n"
    );
}

#[test]
fn an_unclean_file_is_set_aside_and_nothing_of_it_is_lost() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut store = Store::open(dir.path(), store_options(8 << 20)).expect("open");
    fill_store(&mut store, 0..100);
    drop(store); // As a killed process: no sync, the state stays "online".
    let mut store = Store::open(dir.path(), store_options(8 << 20)).expect("open again");
    assert_eq!(store.take_set_aside().len(), 1);
    fill_store(&mut store, 100..110);
    let at = dir.path().join(support::MACHINE.to_string());
    let lines = stdout(&["-D", at.to_str().expect("utf-8"), "-o", "cat"]);
    let want: Vec<_> = (0..110).map(|n| format!("line {n}")).collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), want);
    let aside = std::fs::read_dir(&at)
        .expect("read dir")
        .map(|e| e.expect("entry").path())
        .find(|p| p.extension().is_some_and(|e| e == "journal~"))
        .expect("set aside");
    verify(&aside).expect("sound up to its last entry");
}

#[test]
fn rotation_keeps_every_line_and_vacuum_keeps_the_limit() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut options = store_options(1 << 20);
    options.limits.max_use = 4 << 20;
    let mut store = Store::open(dir.path(), options).expect("open");
    fill_store(&mut store, 0..4000);
    let at = dir.path().join(support::MACHINE.to_string());
    let files = journal::journal_files(&at).expect("list");
    assert!(files.len() > 1, "rotated: {files:?}");
    for file in &files {
        verifies(&file.path);
    }
    let text = at.to_str().expect("utf-8");
    assert_eq!(stdout(&["-D", text, "-o", "cat"]).lines().count(), 4000);
    fill_store(&mut store, 4000..20000);
    let lines = stdout(&["-D", text, "-o", "cat"]);
    assert!(lines.lines().count() < 20000, "old ones have gone");
    assert_eq!(lines.lines().last(), Some("line 19999"));
    let used: u64 = std::fs::read_dir(&at)
        .expect("read dir")
        .map(|e| e.expect("entry").metadata().expect("metadata").len())
        .sum();
    assert!(used <= 5 << 20, "{used}");
}

#[test]
fn follow_sees_entries_as_they_are_written() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().expect("temp dir");
    let mut store = Store::open(dir.path(), store_options(1 << 20)).expect("open");
    fill_store(&mut store, 0..10);
    let at = dir.path().join(support::MACHINE.to_string());
    let mut child = std::process::Command::new("/usr/bin/journalctl")
        .args([
            "-D",
            at.to_str().expect("utf-8"),
            "-f",
            "-n",
            "1",
            "-o",
            "cat",
            "-u",
            "web@1.service",
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("journalctl");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("read");
    assert_eq!(next(), "line 7");
    fill_store(&mut store, 10..12);
    assert_eq!(next(), "line 10");
    // Over a rotation too.
    store.rotate().expect("rotate");
    fill_store(&mut store, 12..14);
    assert_eq!(next(), "line 13");
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn large_fields_and_entries_beyond_the_limit() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut store = Store::open(dir.path(), store_options(1 << 20)).expect("open");
    let big = format!("MESSAGE={}", "x".repeat(700_000));
    store.append(stamp(1), &[big.as_bytes()]).expect("fits");
    store
        .append(stamp(2), &[format!("{big}y").as_bytes()])
        .expect("fits after a rotation");
    let huge = format!("MESSAGE={}", "x".repeat(2_000_000));
    let err = store
        .append(stamp(3), &[huge.as_bytes()])
        .expect_err("too large");
    assert!(
        telling(&err).contains("larger than a journal file"),
        "{}",
        telling(&err)
    );
    store
        .append(stamp(4), &[b"MESSAGE=small"])
        .expect("goes on");
    let at = dir.path().join(support::MACHINE.to_string());
    let lines = stdout(&["-D", at.to_str().expect("utf-8"), "-o", "cat", "-a"]);
    assert_eq!(lines.lines().count(), 3);
}

fn telling(err: &dyn std::error::Error) -> String {
    match err.source() {
        Some(source) => format!("{err}: {}", telling(source)),
        None => err.to_string(),
    }
}
