//! Makes a small image of one layer from files in memory: what tests and `xtask up` serve.
//!
//! The same files give the same bytes: times are zero, names sorted.

use crate::digest::Digest;
use crate::manifest::{Descriptor, ImageConfig, Manifest, Platform, RootFs, RunConfig, media};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// One file of the layer.
#[derive(Debug, Clone)]
pub enum Item {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Content.
        bytes: Vec<u8>,
        /// Permissions.
        mode: u32,
    },
    /// A symbolic link.
    Symlink(String),
}

/// A finished image, ready for [`crate::push`].
#[derive(Debug, Clone)]
pub struct Built {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// The packed layer.
    pub layer: Vec<u8>,
}

impl Built {
    /// The image id.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }
}

/// An image of one gzip layer with `files` (by absolute or relative path) that is run as `run` says.
pub fn single_layer(files: &BTreeMap<String, Item>, run: RunConfig) -> io::Result<Built> {
    let archive = archive(files)?;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(&archive)?;
    let layer = packer.finish()?;
    let host = Platform::host();
    let config = ImageConfig {
        architecture: host.architecture,
        os: host.os,
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        author: None,
        config: run,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![Digest::of(&archive)],
        },
        history: Vec::new(),
    };
    let config = serde_json::to_vec(&config)?;
    let descriptor = |media_type: &str, bytes: &[u8]| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        platform: None,
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::DOCKER_MANIFEST.to_owned(),
        config: descriptor(media::DOCKER_CONFIG, &config),
        layers: vec![descriptor(media::DOCKER_LAYER, &layer)],
    };
    Ok(Built {
        manifest: serde_json::to_vec(&manifest)?,
        config,
        layer,
    })
}

fn archive(files: &BTreeMap<String, Item>) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, item) in files {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let path = path.trim_start_matches('/');
        match item {
            Item::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                builder.append_data(&mut header, path, io::empty())?;
            }
            Item::File { bytes, mode } => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, &bytes[..])?;
            }
            Item::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    builder.into_inner()
}
