//! What clients and the kernel send to journald.
#![no_main]

use journald_lib::daemon::{kmsg, lines, native, syslog, varlink};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = native::parse(data);
    let _ = (syslog::parse(data), syslog::tag(data));
    let _ = kmsg::parse(data);
    let _ = varlink::parse(data);
    let _ = lines::header(data);
    let (_, used) = lines::split(data, None);
    assert!(used <= data.len());
});
