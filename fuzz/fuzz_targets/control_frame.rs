//! Packets of the control socket: pieces of any size give a frame or an error.
#![no_main]

use init_control::frame::{Assembler, encode};
use init_control::{ClientFrame, ServerFrame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (cut, data) = data
        .split_first()
        .map_or((1, data), |(n, rest)| (usize::from(*n).max(1), rest));
    let mut server = Assembler::new();
    let mut client = Assembler::new();
    for packet in data.chunks(cut) {
        if let Ok(Some(frame)) = server.push::<ClientFrame>(packet) {
            assert!(encode(&frame).is_ok());
        }
        let _ = client.push::<ServerFrame>(packet);
    }
});
