//! OCI and docker images: names, registries, the store on disk, unpacking of layers.
//!
//! ```text
//!  "web:1"  --name-->  Reference  --registry-->  manifest, config, blobs
//!                                                     |  pull (size, digest, diff-id checked)
//!                                                     v
//!            Store: blobs/ --unpack--> layers/<chain-id>/diff    tag moves last
//! ```
//!
//! Owns: what an image name means ([`name`]), how bytes come from a registry ([`registry`]) and may be
//! trusted ([`digest`]), the layout and the commit protocol of the image part of the container store
//! ([`store`]), and how a hostile archive is kept from harming the host ([`archive`], [`unpack`]).
//! Does not own: containers, mounts, networks, command lines.
//!
//! What must stay true: nothing under its final name in the store is incomplete; a layer exists only
//! when its `layer.json` does; an archive that is refused leaves nothing behind.
#![forbid(unsafe_code)]

pub mod archive;
pub mod build;
pub mod digest;
pub mod manifest;
pub mod name;
pub mod pull;
pub mod push;
pub mod registry;
pub mod store;
pub mod unpack;

pub use digest::Digest;
pub use name::Reference;
pub use store::Store;
