//! Unit texts given to fleet: what is printed reads back alike, and what is accepted can be read.
#![no_main]

use fleet_model::{
    Requirements, UnitFile, UnitName, unknown_options, validate_options, validate_unit,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(file) = UnitFile::parse(text) else {
        return;
    };
    let again = UnitFile::parse(&file.to_string()).expect("our own text");
    assert_eq!(again.to_string(), file.to_string());
    // Printing brings the parts of a section together.
    let by_section = |file: &UnitFile| {
        let mut options = file.options().to_vec();
        options.sort_by(|a, b| a.section.cmp(&b.section));
        options
    };
    assert_eq!(by_section(&again), by_section(&file));
    let _ = (validate_options(&file), unknown_options(&file), file.hash());
    let name = UnitName::parse("a@1.service").expect("a constant");
    let requirements = Requirements::of(&name, &file);
    if validate_unit(&name, &file).is_ok() {
        assert_eq!(requirements.invalid, None);
    }
    assert!(!requirements.after.contains_key(name.as_str()));
});
