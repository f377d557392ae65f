//! A layer unpacked into a directory: nothing may appear outside. Run it in a container or a VM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_image::unpack::{Limits, unpack};

fuzz_target!(|data: &[u8]| {
    let Ok(scratch) = tempfile::tempdir() else {
        return;
    };
    let target = scratch.path().join("target");
    if std::fs::create_dir(&target).is_err() {
        return;
    }
    let limits = Limits {
        entries: 1000,
        bytes: 1 << 20,
        ratio: 1200,
    };
    let _ = unpack(data, data.len() as u64, &target, &[], limits);
    let beside = std::fs::read_dir(scratch.path())
        .into_iter()
        .flatten()
        .count();
    assert_eq!(beside, 1);
});
