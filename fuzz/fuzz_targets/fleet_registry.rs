//! Keys and values of fleet's registry: whatever anybody has written into etcd. Each line of the
//! input is a key below the prefix and, after a blank, its value; without a value the key is deleted.
#![no_main]

use std::sync::Arc;

use fleetd::registry::{Desired, Registry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let registry = Registry::new(Arc::new(etcd_kv::MemKv::new()), "/f/");
    let mut desired = Desired::default();
    for line in data.split(|b| *b == b'\n').take(64) {
        let at = line.iter().position(|b| *b == b' ');
        let (key, value) = match at {
            Some(at) => (&line[..at], Some(&line[at + 1..])),
            None => (line, None),
        };
        let key = [b"/f/v3/", key].concat();
        desired.set(registry.read_key(&key), value);
    }
    for (name, unit) in &desired.units {
        assert_eq!(*unit.hash, unit.file.hash(), "{name}");
    }
});
