//! Sends images to a registry.

use crate::build::Built;
use crate::digest::Digest;
use crate::manifest::media;
use crate::name::Reference;
use crate::registry::{self, Failure, RegistryConfig, RegistryError};

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No host to ask.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// One request.
    #[error("failed to push {what} to {url}: {failure}")]
    Send {
        /// layer, configuration, manifest.
        what: &'static str,
        /// The host.
        url: String,
        /// Why.
        failure: Failure,
    },
}

/// Pushes an image made by [`crate::build`]; returns the manifest's digest.
pub fn push_built(
    config: &RegistryConfig,
    name: &Reference,
    built: &Built,
) -> Result<Digest, PushError> {
    // Mirrors are for reading: the registry itself is the last of the hosts.
    let remote = registry::remotes(config, name)?
        .pop()
        .ok_or_else(|| RegistryError::NoManifest(name.to_string()))?;
    let failed = |what| {
        let url = remote.url();
        move |failure| PushError::Send { what, url, failure }
    };
    for (what, bytes) in [
        ("the layer", &built.layer),
        ("the configuration", &built.config),
    ] {
        let digest = Digest::of(bytes);
        if !remote.has_blob(&digest).map_err(failed(what))? {
            remote.put_blob(&digest, bytes).map_err(failed(what))?;
        }
    }
    let tag = name.tag.as_deref().unwrap_or("latest");
    remote
        .put_manifest(tag, media::DOCKER_MANIFEST, &built.manifest)
        .map_err(failed("the manifest"))?;
    Ok(Digest::of(&built.manifest))
}
