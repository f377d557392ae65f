//! Names, patterns, machine ids and metadata of fleet.
#![no_main]

use fleet_model::{Glob, MachineId, UnitName, mangle, parse_metadata};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = UnitName::parse(text) {
        assert_eq!(name.as_str(), text);
        let _ = (name.prefix(), name.instance(), name.template());
    }
    let _ = (mangle(text), MachineId::parse(text), parse_metadata(text));
    let (pattern, name) = text.split_once('\n').unwrap_or((text, "web@1.service"));
    let _ = Glob::new(pattern).matches(name);
});
