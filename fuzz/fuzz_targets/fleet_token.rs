//! Page tokens of fleet's API, in queries as clients send them.
#![no_main]

use fleetd::api::page_number;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let page = page_number(query, 100);
    assert_ne!(page, Some(0), "pages count from 1");
    assert_eq!(page_number("", 100), Some(1));
});
