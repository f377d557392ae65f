//! Manifests, indexes and configurations from registries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_image::manifest::{ImageConfig, parse};

fuzz_target!(|data: &[u8]| {
    for kind in [
        "",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ] {
        let _ = parse(data, kind);
    }
    if let Ok(config) = ImageConfig::read(data) {
        let _ = config.chain_ids();
    }
});
