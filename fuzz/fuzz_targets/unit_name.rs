//! Unit names, their escapes and their object paths.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unit_file::UnitName;
use unit_file::name::{
    clean_path, escape, escape_object_path, escape_path, unescape, unescape_object_path,
    unescape_path,
};

fuzz_target!(|text: &str| {
    if let Ok(name) = UnitName::parse(text) {
        assert_eq!(name.as_str(), text);
        let _ = (name.template(), name.to_path(), name.object_path());
        let _ = name.with_instance("i");
    }
    assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
    assert_eq!(
        unescape_object_path(&escape_object_path(text)).as_deref(),
        Some(text)
    );
    let _ = (
        unescape(text),
        unescape_path(text),
        clean_path(text),
        escape_path(text),
    );
});
