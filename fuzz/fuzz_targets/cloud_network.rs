//! Network configuration of data sources, and the kernel command line.
#![no_main]

use cloudinit::datasource::cmdline::{config_url, prefixed_value, seed, words};
use cloudinit::netconf::{debian, nocloud};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = debian::convert(text);
    let _ = nocloud::convert(text);
    let _ = seed(text);
    let words = words(text);
    let _ = (config_url(&words), prefixed_value(&words, "oem.id"));
});
