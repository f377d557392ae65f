//! A unit's fragment and a drop-in: the first line picks the unit, a form feed starts the drop-in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unit_file::UnitName;
use unit_file::document::EntryList;
use unit_file::load::{SourceText, load};
use unit_file::specifier::MachineInfo;

fuzz_target!(|text: &str| {
    let (name, text) = text.split_once('\n').unwrap_or(("a.service", text));
    let Ok(name) = UnitName::parse(name) else {
        return;
    };
    let (fragment, drop_in) = text.split_once('\x0c').unwrap_or((text, ""));
    let sources = [
        SourceText {
            path: "/etc/systemd/system/a",
            text: fragment,
        },
        SourceText {
            path: "/etc/systemd/system/a.d/1.conf",
            text: drop_in,
        },
    ];
    let _ = load(&name, &sources, &MachineInfo::default());
    // Printing groups by section, so an order between sections is given up once and then stays.
    let printed = EntryList::parse(text).to_string();
    assert_eq!(EntryList::parse(&printed).to_string(), printed);
});
