//! Frames from the wire: DHCP answers, the lease in them, and ARP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::dhcp::{Lease, Message, frame};
use network::link_local;

fuzz_target!(|data: &[u8]| {
    let _ = link_local::Arp::decode(data);
    for bytes in [Some(data), frame::payload(data)].into_iter().flatten() {
        let Some(message) = Message::decode(bytes) else {
            continue;
        };
        let _ = (
            message.search_list(),
            message.classless_routes(),
            message.static_routes(),
        );
        if let Some(lease) = Lease::from_message(&message, 1) {
            assert_eq!(Lease::parse(&lease.to_text()), Some(lease));
        }
    }
});
