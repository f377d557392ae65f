//! Unit texts given to fleet: what is printed reads back alike.
#![no_main]

use fleet_model::{Requirements, UnitFile, UnitName, unknown_options, validate_options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(file) = UnitFile::parse(text) else {
        return;
    };
    let again = UnitFile::parse(&file.to_string()).expect("our own text");
    assert_eq!(again.options(), file.options());
    let _ = (validate_options(&file), unknown_options(&file), file.hash());
    let name = UnitName::parse("a@1.service").expect("a constant");
    let _ = Requirements::of(&name, &file);
});
