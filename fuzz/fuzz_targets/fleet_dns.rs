//! DNS queries as fleet's server gets them: never a panic, never an answer that a datagram cannot carry.
#![no_main]

use std::sync::LazyLock;

use fleet_model::{MachineId, UnitName};
use fleetd::dns::message::{Transport, answer};
use fleetd::dns::zone::Zone;
use fleetd::registry::Announcement;
use libfuzzer_sys::fuzz_target;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut zone = Zone::default();
    for i in 0..100u8 {
        let unit = UnitName::parse(&format!("web@{i}.service")).expect("a good name");
        let machine = MachineId::parse(&format!("m{i}")).expect("a good ID");
        let announcement = Announcement {
            address: [10, 0, 0, i].into(),
            port: 80,
            proto: "tcp".into(),
        };
        zone.set(&i.to_string(), Some(("web", &unit, &machine, &announcement)));
    }
    zone
});

fuzz_target!(|data: &[u8]| {
    if let Some(reply) = answer(data, Some(&ZONE), Transport::Udp) {
        assert!(reply.len() <= 1232 && reply[..2] == data[..2]);
        assert!(reply[2] & 0x80 != 0, "an answer says that it is one");
    }
    let _ = answer(data, Some(&ZONE), Transport::Tcp);
    let _ = answer(data, None, Transport::Udp);
});
