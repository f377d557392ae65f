//! Brings an image from a registry into the store.
//!
//! Blobs are fetched by up to three threads and unpacked in order. Each blob is written to a workspace
//! while it is hashed, never beyond the size its descriptor names, resumed with Range after a broken
//! connection, and refused when size or digest differ. The name moves last, so a killed or refused pull
//! leaves what was there.

use crate::digest::{Digest, Hasher};
use crate::manifest::{
    self, Descriptor, Document, ImageConfig, MAX_CONFIG, Manifest, ManifestError, Platform,
};
use crate::name::Reference;
use crate::registry::{self, Failure, RawManifest, RegistryConfig, RegistryError, Remote};
use crate::store::{Image, LayerRecord, Store, StoreError, Target, Workspace};
use crate::unpack::{self, Limits, UnpackError, Unpacked};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const ATTEMPTS: u32 = 5;
const THREADS: usize = 3;

/// What happens to a layer, for progress lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// In the store already.
    Exists,
    /// So many bytes are here.
    Downloading(u64),
    /// All bytes are here and right.
    Downloaded,
    /// Being unpacked.
    Extracting,
    /// Done.
    Complete,
}

/// Told about the progress of each layer. Called from several threads.
pub trait Progress: Sync {
    /// A layer reached a step.
    fn layer(&self, layer: &Descriptor, step: Step);
}

impl Progress for () {
    fn layer(&self, _: &Descriptor, _: Step) {}
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// One request to the chosen host.
    #[error("failed to fetch {what} from {url}: {failure}")]
    Fetch {
        /// manifest, configuration, layer.
        what: String,
        /// The host.
        url: String,
        /// Why.
        failure: Failure,
    },
    /// The manifest or configuration.
    #[error("image {0} is refused")]
    Manifest(String, #[source] ManifestError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer's archive.
    #[error("layer {0} is refused")]
    Unpack(Digest, #[source] UnpackError),
    /// The archive is not the one the configuration names.
    #[error("layer {blob} is refused: its content is {found}, the image names {wanted}")]
    DiffId {
        /// The packed layer.
        blob: Digest,
        /// By the configuration.
        wanted: Digest,
        /// Unpacked.
        found: Digest,
    },
}

/// Choices of one pull.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Keep packed layers after unpacking.
    pub keep_blobs: bool,
    /// Limits of a layer.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            keep_blobs: true,
            limits: Limits::default(),
        }
    }
}

/// What a pull brought.
#[derive(Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Digest of what the name pointed to at the registry (an index, perhaps).
    pub digest: Digest,
    /// Whether anything was new.
    pub new: bool,
}

/// Pulls `name`.
pub fn pull(
    store: &Store,
    config: &RegistryConfig,
    name: &Reference,
    options: Options,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let _held = store.hold()?;
    let (remote, top) = registry::find_manifest(config, name)?;
    let digest = top.digest.clone();
    let (manifest, raw) = resolve(&remote, name, top)?;
    let refuse = |error| PullError::Manifest(name.to_string(), error);
    let config_bytes = config_blob(store, &remote, &manifest)?;
    let image_config =
        ImageConfig::parse(&config_bytes, &manifest, &Platform::host()).map_err(refuse)?;
    let image = fetch_layers(
        store,
        &remote,
        &manifest,
        &image_config,
        &raw,
        options,
        progress,
    )?;
    store.put_blob(&raw.bytes)?;
    let new = store.image(&image.id).ok().as_ref() != Some(&image);
    if new {
        store.put_image(&image)?;
    }
    let target = Target {
        manifest: digest.clone(),
        image: image.id.clone(),
    };
    let moved = store.target(name)?.as_ref() != Some(&target);
    if moved {
        store.set_target(name, &target)?;
    }
    Ok(Pulled {
        image,
        digest,
        new: new || moved,
    })
}

fn resolve(
    remote: &Remote,
    name: &Reference,
    top: RawManifest,
) -> Result<(Manifest, RawManifest), PullError> {
    let refuse = |error| PullError::Manifest(name.to_string(), error);
    match manifest::parse(&top.bytes, &top.content_type).map_err(refuse)? {
        Document::Manifest(manifest) => Ok((manifest, top)),
        Document::Index(index) => {
            let chosen = manifest::choose(&index, &Platform::host()).map_err(refuse)?;
            let raw =
                remote
                    .manifest(chosen.digest.as_str())
                    .map_err(|failure| PullError::Fetch {
                        what: format!("manifest {}", chosen.digest),
                        url: remote.url(),
                        failure,
                    })?;
            match manifest::parse(&raw.bytes, &raw.content_type).map_err(refuse)? {
                Document::Manifest(manifest) => Ok((manifest, raw)),
                Document::Index(_) => Err(refuse(ManifestError::MediaType(
                    "an index inside an index".into(),
                ))),
            }
        }
    }
}

fn config_blob(store: &Store, remote: &Remote, manifest: &Manifest) -> Result<Vec<u8>, PullError> {
    let descriptor = &manifest.config;
    if store.has_blob(&descriptor.digest) {
        return Ok(store.read_blob(&descriptor.digest)?);
    }
    let failed = |failure| PullError::Fetch {
        what: "the image configuration".into(),
        url: remote.url(),
        failure,
    };
    if descriptor.size > MAX_CONFIG {
        return Err(failed(Failure::TooLarge(MAX_CONFIG)));
    }
    let mut bytes = Vec::new();
    let (reader, _) = remote.blob(&descriptor.digest, 0).map_err(failed)?;
    reader
        .take(descriptor.size + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(Failure::Broken(error.to_string())))?;
    let found = Digest::of(&bytes);
    if found != descriptor.digest {
        return Err(failed(Failure::Digest {
            wanted: descriptor.digest.to_string(),
            found,
        }));
    }
    store.put_blob(&bytes)?;
    Ok(bytes)
}

fn fetch_layers(
    store: &Store,
    remote: &Remote,
    manifest: &Manifest,
    config: &ImageConfig,
    raw: &RawManifest,
    options: Options,
    progress: &dyn Progress,
) -> Result<Image, PullError> {
    let chain = config.chain_ids();
    let missing: Vec<usize> = (0..chain.len())
        .filter(|index| store.layer(&chain[*index]).is_none())
        .collect();
    for (index, layer) in manifest.layers.iter().enumerate() {
        if !missing.contains(&index) {
            progress.layer(layer, Step::Exists);
        }
    }
    let work = store.workspace()?;
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| -> Result<(), PullError> {
        for _ in 0..THREADS.min(missing.len()) {
            let (sender, next, missing, work) = (sender.clone(), &next, &missing, &work);
            scope.spawn(move || {
                while let Some(index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = fetch(store, remote, work, &manifest.layers[*index], progress);
                    let stop = result.is_err();
                    if sender.send((*index, result)).is_err() || stop {
                        // Nobody waits for the rest any more.
                        next.store(missing.len(), Ordering::Relaxed);
                    }
                }
            });
        }
        drop(sender);
        let mut ready = vec![false; chain.len()];
        for index in &missing {
            while !ready[*index] {
                let Ok((done, result)) = receiver.recv() else {
                    break;
                };
                result?;
                ready[done] = true;
            }
            let layer = &manifest.layers[*index];
            progress.layer(layer, Step::Extracting);
            extract(
                store,
                &work,
                layer,
                &chain[..=*index],
                &config.rootfs.diff_ids[*index],
                options.limits,
            )?;
            progress.layer(layer, Step::Complete);
        }
        Ok(())
    })?;
    if !options.keep_blobs {
        for layer in &manifest.layers {
            let _ = std::fs::remove_file(store.blob_path(&layer.digest));
        }
    }
    let size = chain
        .iter()
        .filter_map(|id| store.layer(id))
        .map(|layer| layer.size)
        .sum();
    Ok(Image {
        id: manifest.config.digest.clone(),
        manifest: raw.digest.clone(),
        blobs: manifest
            .layers
            .iter()
            .map(|layer| layer.digest.clone())
            .collect(),
        chain,
        size,
    })
}

/// One blob into the store; waits when another process fetches it already.
fn fetch(
    store: &Store,
    remote: &Remote,
    work: &Workspace,
    layer: &Descriptor,
    progress: &dyn Progress,
) -> Result<(), PullError> {
    let _lock = store.lock_digest(&layer.digest)?;
    if store.has_blob(&layer.digest) {
        progress.layer(layer, Step::Downloaded);
        return Ok(());
    }
    let path = work.path().join(layer.digest.hex());
    let failed = |failure| PullError::Fetch {
        what: format!("layer {}", layer.digest),
        url: remote.url(),
        failure,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|error| failed(Failure::Local(error)))?;
    let mut sink = Sink {
        file,
        hasher: Hasher::default(),
        done: 0,
    };
    let mut tries = 0;
    while sink.done < layer.size {
        let before = sink.done;
        let Err(failure) = receive(remote, layer, &mut sink, progress) else {
            break;
        };
        // Progress earns new tries: a slow, breaking line still gets a large layer here.
        tries = if sink.done > before { 1 } else { tries + 1 };
        if !failure.passing() || tries >= ATTEMPTS {
            return Err(failed(failure));
        }
        std::thread::sleep(Duration::from_millis(250 << tries));
    }
    let found = sink.hasher.finish();
    if sink.done != layer.size || found != layer.digest {
        return Err(failed(Failure::Digest {
            wanted: layer.digest.to_string(),
            found,
        }));
    }
    store.commit_blob(&path, &layer.digest)?;
    progress.layer(layer, Step::Downloaded);
    Ok(())
}

struct Sink {
    file: File,
    hasher: Hasher,
    done: u64,
}

fn receive(
    remote: &Remote,
    layer: &Descriptor,
    sink: &mut Sink,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (mut reader, start) = remote.blob(&layer.digest, sink.done)?;
    // Without Range support the server begins again: what we have is read over.
    let mut skip = sink.done - start;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) if sink.done < layer.size => {
                return Err(Failure::Broken(format!(
                    "it ended after {} of {} bytes",
                    sink.done, layer.size
                )));
            }
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => return Err(Failure::Broken(error.to_string())),
        };
        let over = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
        skip -= over as u64;
        let fresh = &buffer[over..count];
        if sink.done + fresh.len() as u64 > layer.size {
            return Err(Failure::TooLarge(layer.size));
        }
        sink.file.write_all(fresh).map_err(Failure::Local)?;
        sink.hasher.update(fresh);
        sink.done += fresh.len() as u64;
        progress.layer(layer, Step::Downloading(sink.done));
    }
}

/// Unpacks a blob of the store as the last layer of `chain`.
pub fn extract(
    store: &Store,
    work: &Workspace,
    layer: &Descriptor,
    chain: &[Digest],
    diff_id: &Digest,
    limits: Limits,
) -> Result<Option<Unpacked>, PullError> {
    let (id, below) = match chain.split_last() {
        Some(parts) => parts,
        None => return Ok(None),
    };
    let _lock = store.lock_digest(id)?;
    if store.layer(id).is_some() {
        return Ok(None);
    }
    let directory = work.path().join(format!("layer-{}", id.short()));
    let diff = directory.join("diff");
    let refuse = |error| PullError::Unpack(layer.digest.clone(), error);
    let io = |what| move |source| UnpackError::Io { what, source };
    std::fs::create_dir_all(&diff)
        .map_err(io("make the layer's directory"))
        .map_err(refuse)?;
    std::fs::set_permissions(&diff, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(io("protect the layer's directory"))
        .map_err(refuse)?;
    let packed = File::open(store.blob_path(&layer.digest))
        .map_err(io("open the packed layer"))
        .map_err(refuse)?;
    let unpacked = unpack::unpack(packed, layer.size, &diff, &store.lowers(below), limits);
    let unpacked = unpacked.map_err(refuse).and_then(|unpacked| {
        if unpacked.diff_id == *diff_id {
            return Ok(unpacked);
        }
        Err(PullError::DiffId {
            blob: layer.digest.clone(),
            wanted: diff_id.clone(),
            found: unpacked.diff_id,
        })
    });
    let unpacked = match unpacked {
        Ok(unpacked) => unpacked,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&directory);
            return Err(error);
        }
    };
    let record = LayerRecord {
        diff_id: unpacked.diff_id.clone(),
        blob: layer.digest.clone(),
        size: unpacked.size,
        entries: unpacked.entries,
    };
    store.commit_layer(&directory, id, &record)?;
    Ok(Some(unpacked))
}
