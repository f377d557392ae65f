//! Image names and digests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_image::{Digest, Reference};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(
            reference.to_string().parse::<Reference>().as_ref().ok(),
            Some(&reference)
        );
        let _ = (reference.host(), reference.familiar_repository());
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
});
