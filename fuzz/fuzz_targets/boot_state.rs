//! The boot state block on the EFI partition: any bytes give a state that can start a slot.
#![no_main]

use boot_slots::BootState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut state = BootState::parse(data);
    let _ = state.select(true, |_| true);
    if let Ok(block) = state.serialise() {
        assert_eq!(BootState::parse(&block), state);
    }
});
