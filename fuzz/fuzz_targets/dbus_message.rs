//! D-Bus messages, signatures and addresses: what is understood is written and read again alike.
#![no_main]

use dbus_api::address;
use dbus_api::wire::{Message, split_signature};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Message::length(data);
    if let Ok(message) = Message::parse(data) {
        let again = Message::parse(&message.encode()).expect("our own bytes");
        assert_eq!(again.body.len(), message.body.len());
        assert_eq!(again.signature(), message.signature());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = (address::parse(text), split_signature(text));
    }
});
