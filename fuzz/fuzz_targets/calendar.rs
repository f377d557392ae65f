//! `OnCalendar=`: the next moment is later than the given one, and is itself a match.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unit_file::calendar::Calendar;

fuzz_target!(|text: &str| {
    let Ok(calendar) = Calendar::parse(text) else {
        return;
    };
    let mut at = 1_700_000_000_000_000;
    for _ in 0..4 {
        let Some(next) = calendar.next_after(at) else {
            return;
        };
        assert!(next > at);
        assert_eq!(calendar.next_after(next - 1), Some(next));
        at = next;
    }
});
