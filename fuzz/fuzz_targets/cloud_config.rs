//! User data: plain, compressed, multipart; cloud-config documents and scripts.
#![no_main]

use cloudinit::config::{from_tree, tree};
use cloudinit::input::{classify, validate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = classify(data);
    let _ = validate(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(Some(root)) = tree(text)
    {
        let _ = from_tree(&root);
    }
});
