//! `Exec*=` values and the words, times, sizes and environment files beside them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unit_file::UnitName;
use unit_file::command::parse_commands;
use unit_file::environment::parse_environment_file;
use unit_file::specifier::{MachineInfo, Specifiers};
use unit_file::value::{
    next_word, parse_amount, parse_mode, parse_permyriad, parse_signal, parse_size, parse_span,
};

fuzz_target!(|text: &str| {
    let unit = UnitName::parse("a@b.service").expect("a constant");
    let machine = MachineInfo::default();
    let specifiers = Specifiers {
        unit: &unit,
        machine: &machine,
        fragment_path: "/etc/systemd/system/a@.service",
    };
    let _ = parse_commands(text, &specifiers);
    let mut rest = text;
    while let Ok(Some((_, after))) = next_word(rest) {
        assert!(after.len() < rest.len());
        rest = after;
    }
    let _ = (
        parse_span(text),
        parse_size(text),
        parse_amount(text),
        parse_permyriad(text),
    );
    let _ = (
        parse_mode(text),
        parse_signal(text),
        parse_environment_file(text),
    );
});
