//! Journals to test with.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::process::{Command, Output};

use journal::{Id128, Limits, Stamp, Store, StoreOptions, Writer, WriterOptions};

pub(crate) const MACHINE: Id128 = Id128([0xab; 16]);
pub(crate) const BOOT: Id128 = Id128([0xb0; 16]);

pub(crate) fn writer_options() -> WriterOptions {
    WriterOptions {
        machine_id: MACHINE,
        max_size: 8 << 20,
        step: 64 << 10,
        gid: None,
    }
}

pub(crate) fn store_options(max_file: u64) -> StoreOptions {
    let limits = Limits {
        max_use: 64 << 20,
        keep_free: 0,
        max_file,
        max_files: 100,
    };
    StoreOptions {
        machine_id: MACHINE,
        limits,
        step: 64 << 10,
        gid: None,
    }
}

pub(crate) fn new_file(path: &Path) -> Writer {
    Writer::create(path, &writer_options(), Id128([5; 16]), 0).expect("create")
}

pub(crate) fn stamp(n: u64) -> Stamp {
    Stamp {
        realtime: 1_700_000_000_000_000 + n * 1000,
        monotonic: 1_000_000 + n * 1000,
        boot_id: BOOT,
    }
}

/// Entry number `n`: fields with few values, with many, and a binary one.
pub(crate) fn fields(n: u64) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = [
        format!("MESSAGE=line {n}"),
        format!("PRIORITY={}", n % 8),
        format!("_PID={}", n % 13),
        "_UID=0".to_owned(),
        format!("_SYSTEMD_UNIT=web@{}.service", n % 3),
        format!("_BOOT_ID={BOOT}"),
        format!("_MACHINE_ID={MACHINE}"),
        "_HOSTNAME=test".to_owned(),
        "_TRANSPORT=journal".to_owned(),
        "SYSLOG_IDENTIFIER=web".to_owned(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    if n.is_multiple_of(5) {
        fields.push([b"BLOB=".as_slice(), &[0, 255, b'\n', n as u8]].concat());
    }
    fields
}

pub(crate) fn fill(writer: &mut Writer, range: std::ops::Range<u64>) {
    for n in range {
        writer.append(stamp(n), &fields(n)).expect("append");
    }
}

pub(crate) fn fill_store(store: &mut Store, range: std::ops::Range<u64>) {
    for n in range {
        store.append(stamp(n), &fields(n)).expect("append");
    }
}

/// Debian's journalctl, not ours.
pub(crate) fn journalctl(args: &[&str]) -> Output {
    Command::new("/usr/bin/journalctl")
        .args(args)
        .args(["--no-pager", "-q"])
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .output()
        .expect("journalctl (package systemd) is installed")
}

pub(crate) fn stdout(args: &[&str]) -> String {
    let output = journalctl(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "journalctl {args:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}
