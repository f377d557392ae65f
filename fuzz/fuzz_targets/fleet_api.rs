//! Bodies of fleet's API.
#![no_main]

use fleet_model::wire::{ErrorBody, MachinePage, MetadataPatch, Unit, UnitPage, UnitStatePage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(unit) = serde_json::from_slice::<Unit>(data) {
        let bytes = serde_json::to_vec(&unit).expect("plain values");
        assert_eq!(
            serde_json::from_slice::<Unit>(&bytes).expect("our own bytes"),
            unit
        );
    }
    let _ = serde_json::from_slice::<Vec<MetadataPatch>>(data);
    let _ = serde_json::from_slice::<UnitPage>(data);
    let _ = serde_json::from_slice::<UnitStatePage>(data);
    let _ = serde_json::from_slice::<MachinePage>(data);
    let _ = serde_json::from_slice::<ErrorBody>(data);
});
