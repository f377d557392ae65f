//! Bodies of fleet's API: what is read and written again reads alike.
#![no_main]

use fleet_model::wire::{ErrorBody, MachinePage, MetadataPatch, Unit, UnitPage, UnitStatePage};
use fleet_model::wire::flotilla::{Explanation, Machines, RebalanceRequest, WhoAmI};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let bytes = serde_json::to_vec(&value).expect("plain values");
        assert_eq!(
            serde_json::from_slice::<T>(&bytes).expect("our own bytes"),
            value
        );
    }
}

fuzz_target!(|data: &[u8]| {
    round::<Unit>(data);
    round::<Vec<MetadataPatch>>(data);
    round::<UnitPage>(data);
    round::<UnitStatePage>(data);
    round::<MachinePage>(data);
    round::<ErrorBody>(data);
    round::<Explanation>(data);
    round::<Machines>(data);
    round::<RebalanceRequest>(data);
    round::<WhoAmI>(data);
});
