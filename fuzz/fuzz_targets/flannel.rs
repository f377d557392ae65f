//! flannel's configuration, subnet keys and leases in etcd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::flannel::model::{Attributes, Config, Subnet};

fuzz_target!(|text: &str| {
    if let Some(subnet) = Subnet::from_key(text) {
        assert_eq!(Subnet::from_key(&subnet.key()), Some(subnet));
    }
    let _ = (Subnet::parse(text), Config::parse(text));
    if let Ok(attributes) = serde_json::from_str::<Attributes>(text) {
        let _ = attributes.vtep_mac();
    }
});
