//! Messages of the kernel about links, addresses, routes and neighbours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::netlink::wire::{attributes, messages};
use network::netlink::{Address, Link, Neighbour, Route};

fuzz_target!(|data: &[u8]| {
    for message in messages(data) {
        let body = message.body;
        let _ = (
            Link::parse(body),
            Address::parse(body),
            Route::parse(body),
            Neighbour::parse(body),
        );
    }
    for (_, value) in attributes(data) {
        for _ in attributes(value) {}
    }
});
