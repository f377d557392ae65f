//! The image part of the container store on disk.
//!
//! ```text
//! format                         1
//! blobs/sha256/<hex>             packed layers, manifests, configurations
//! layers/<chain-id>/diff/        unpacked; layer.json written last = committed
//! refs/<registry>/<repo>/<tag>   -> {manifest, image}; slashes of the repository are %2F
//! images/<image-id>.json         which layers and manifest make the image
//! tmp/                           workspaces, each locked by its process
//! ```
//!
//! Commit protocol: write below `tmp/`, check, sync, rename, sync the directory; a reference moves last.
//! Locks are `flock` on open files, so a killed process leaves none. Whoever adds images holds the sweep
//! lock shared; [`Store::sweep`] needs it alone and else leaves the work to the next caller.

mod durable;
mod lock;

pub use durable::{write_durably, write_json};
pub use lock::{Held, Named, Workspace};

use crate::digest::Digest;
use crate::manifest::{ImageConfig, ManifestError};
use crate::name::Reference;
use durable::{rename, sync_directory};
use lock::open_lock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The directories of a store; a parent stands before its child.
const DIRECTORIES: &[&str] = &[
    "blobs",
    "blobs/sha256",
    "layers",
    "refs",
    "images",
    "containers",
    "volumes",
    "networks",
    "ipam",
    "tmp",
];

/// The layout this program writes and reads.
pub const FORMAT: u32 = 1;

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation.
    #[error("failed to {what} {path}")]
    Io {
        /// The step.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A newer program wrote it.
    #[error("container store {path} has format {found}, this version knows {FORMAT}")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// Not ours.
    #[error(
        "{0} holds files of another program; choose another directory with \"data-root\" in /etc/docker/daemon.json, or move the files away"
    )]
    Foreign(PathBuf),
    /// A record that cannot be read.
    #[error("{path} is damaged")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A configuration that cannot be read.
    #[error("the configuration of image {0} is damaged")]
    Config(Digest, #[source] ManifestError),
    /// No such image.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// An id prefix that fits several.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
}

/// An image the store holds completely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the manifest it came with.
    pub manifest: Digest,
    /// Identity of each layer with those below it, lowest first.
    pub chain: Vec<Digest>,
    /// Packed layers, lowest first.
    pub blobs: Vec<Digest>,
    /// Unpacked bytes.
    pub size: u64,
}

/// Where a reference points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Manifest the registry named.
    pub manifest: Digest,
    /// Image of this machine.
    pub image: Digest,
}

/// `layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Packed bytes it came from.
    pub blob: Digest,
    /// Bytes of file data.
    pub size: u64,
    /// Entries of the archive.
    pub entries: u64,
}

/// An open store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

fn fail(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

impl Store {
    /// Opens the store, making it where the directory is empty.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(fail("make", &root))?;
        if !Self::is_made(&root)? {
            Self::create(&root)?;
        }
        Ok(Store { root })
    }

    /// The store as it is, for who only looks: where none was made yet it is an empty one, and none is made.
    pub fn look(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        Self::is_made(&root)?;
        Ok(Store { root })
    }

    fn is_made(root: &Path) -> Result<bool, StoreError> {
        let format = root.join("format");
        match fs::read_to_string(&format) {
            Ok(text) if text.trim() == FORMAT.to_string() => Ok(true),
            Ok(text) => Err(StoreError::Newer {
                path: root.to_owned(),
                found: text.trim().to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fail("read", &format)(error)),
        }
    }

    fn create(root: &Path) -> Result<(), StoreError> {
        for item in fs::read_dir(root).map_err(fail("list", root))? {
            let name = item.map_err(fail("list", root))?.file_name();
            let name = name.to_string_lossy();
            let ours = DIRECTORIES.contains(&&*name)
                || ["lost+found", "sweep.lock"].contains(&&*name)
                || name.starts_with(".format");
            if !ours {
                return Err(StoreError::Foreign(root.to_owned()));
            }
        }
        for directory in DIRECTORIES {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(fail("make", &path))?;
        }
        // Whoever could walk in here could run the setuid programs of every image as the host's root.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o710);
        fs::set_permissions(root, mode).map_err(fail("protect", root))?;
        write_durably(&root.join("format"), format!("{FORMAT}\n").as_bytes())
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob is or will be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Where a layer's files are.
    pub fn layer_path(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    /// Whether these bytes are here (they were checked when they came).
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Reads a small blob and checks it again.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(fail("read", &path))?;
        if Digest::of(&bytes) != *digest {
            let damaged = io::Error::new(
                io::ErrorKind::InvalidData,
                "its bytes do not have its digest",
            );
            return Err(fail("verify", &path)(damaged));
        }
        Ok(bytes)
    }

    /// Adds a blob from memory.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest) {
            write_durably(&self.blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Takes over a checked file from a workspace.
    pub fn commit_blob(&self, from: &Path, digest: &Digest) -> Result<(), StoreError> {
        let file = File::open(from).map_err(fail("open", from))?;
        file.sync_all().map_err(fail("sync", from))?;
        rename(from, &self.blob_path(digest))
    }

    /// The layer's record if it is complete.
    pub fn layer(&self, chain: &Digest) -> Option<LayerRecord> {
        let bytes = fs::read(self.layer_path(chain).join("layer.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Takes over an unpacked directory from a workspace: all its files reach the disk before its name does.
    pub fn commit_layer(
        &self,
        from: &Path,
        chain: &Digest,
        record: &LayerRecord,
    ) -> Result<(), StoreError> {
        let directory = File::open(from).map_err(fail("open", from))?;
        rustix::fs::syncfs(&directory).map_err(|error| fail("sync", from)(error.into()))?;
        let target = self.layer_path(chain);
        // Whatever is there without a record is half of something.
        if target.exists() {
            fs::remove_dir_all(&target).map_err(fail("remove", &target))?;
        }
        rename(from, &target)?;
        write_json(&target.join("layer.json"), record)
    }

    /// `diff` directories of an image, nearest (topmost) first, as overlayfs wants them.
    pub fn lowers(&self, chain: &[Digest]) -> Vec<PathBuf> {
        chain
            .iter()
            .rev()
            .map(|id| self.layer_path(id).join("diff"))
            .collect()
    }

    /// Records a complete image.
    pub fn put_image(&self, image: &Image) -> Result<(), StoreError> {
        write_json(&self.image_path(&image.id), image)
    }

    fn image_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    /// An image by its full id.
    pub fn image(&self, id: &Digest) -> Result<Image, StoreError> {
        let path = self.image_path(id);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| StoreError::Record { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::NoSuchImage(id.to_string()))
            }
            Err(error) => Err(fail("read", &path)(error)),
        }
    }

    /// Its configuration.
    pub fn config(&self, image: &Digest) -> Result<ImageConfig, StoreError> {
        ImageConfig::read(&self.read_blob(image)?)
            .map_err(|error| StoreError::Config(image.clone(), error))
    }

    /// All images, in the order of their ids.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let directory = self.root.join("images");
        let mut images = Vec::new();
        for name in list(&directory)? {
            if let Some(id) = name
                .strip_suffix(".json")
                .and_then(|hex| Digest::from_hex(hex).ok())
            {
                images.push(self.image(&id)?);
            }
        }
        images.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(images)
    }

    fn ref_directory(&self, name: &Reference) -> PathBuf {
        self.root
            .join("refs")
            .join(&name.registry)
            .join(name.repository.replace('/', "%2F"))
    }

    fn ref_path(&self, name: &Reference) -> PathBuf {
        let file = match (&name.digest, &name.tag) {
            (Some(digest), _) => format!("@{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        };
        self.ref_directory(name).join(file)
    }

    /// Where a name points.
    pub fn target(&self, name: &Reference) -> Result<Option<Target>, StoreError> {
        let path = self.ref_path(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| StoreError::Record { path, source }),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(fail("read", &path)(error)),
        }
    }

    /// Points a name (and, by tag, the digest form too) at an image. The last step of every pull.
    pub fn set_target(&self, name: &Reference, target: &Target) -> Result<(), StoreError> {
        let directory = self.ref_directory(name);
        fs::create_dir_all(&directory).map_err(fail("make", &directory))?;
        write_json(&self.ref_path(name), target)
    }

    /// Removes a name; true if it was there.
    pub fn remove_target(&self, name: &Reference) -> Result<bool, StoreError> {
        let path = self.ref_path(name);
        match fs::remove_file(&path) {
            Ok(()) => {
                let directory = self.ref_directory(name);
                let _ = fs::remove_dir(&directory);
                sync_directory(directory.parent().unwrap_or(&self.root));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fail("remove", &path)(error)),
        }
    }

    /// Every name with its target, sorted.
    pub fn references(&self) -> Result<Vec<(Reference, Target)>, StoreError> {
        let mut found = Vec::new();
        let root = self.root.join("refs");
        for registry in list(&root)? {
            for repository in list(&root.join(&registry))? {
                let directory = root.join(&registry).join(&repository);
                for file in list(&directory)? {
                    let name = Reference {
                        registry: registry.clone(),
                        repository: repository.replace("%2F", "/"),
                        tag: (!file.starts_with('@')).then(|| file.clone()),
                        digest: file
                            .strip_prefix('@')
                            .and_then(|digest| digest.parse().ok()),
                    };
                    if name.tag.is_none() && name.digest.is_none() {
                        continue;
                    }
                    if let Some(target) = self.target(&name)? {
                        found.push((name, target));
                    }
                }
            }
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(found)
    }

    /// An image by name, id or unambiguous start of an id.
    pub fn find(&self, text: &str) -> Result<Image, StoreError> {
        if let Ok(name) = text.parse::<Reference>()
            && let Some(target) = self.target(&name)?
        {
            return self.image(&target.image);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let none = || StoreError::NoSuchImage(text.to_owned());
        if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none());
        }
        let mut images = self
            .images()?
            .into_iter()
            .filter(|image| image.id.hex().starts_with(hex));
        match (images.next(), images.next()) {
            (Some(image), None) => Ok(image),
            (Some(_), Some(_)) => Err(StoreError::Ambiguous(text.to_owned())),
            (None, _) => Err(none()),
        }
    }

    /// Forgets an image. Its layers and blobs go with the next [`Store::sweep`].
    pub fn remove_image(&self, id: &Digest) -> Result<(), StoreError> {
        let path = self.image_path(id);
        fs::remove_file(&path).map_err(fail("remove", &path))?;
        sync_directory(&self.root.join("images"));
        Ok(())
    }

    /// Removes layers and blobs that no image needs, and returns the layers' chain ids. Does nothing while
    /// somebody adds images.
    pub fn sweep(&self) -> Result<Vec<Digest>, StoreError> {
        let path = self.root.join("sweep.lock");
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
            Err(TryLockError::Error(error)) => return Err(fail("lock", &path)(error)),
        }
        let mut layers = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        for image in self.images()? {
            blobs.extend([image.id, image.manifest]);
            blobs.extend(image.blobs);
            layers.extend(image.chain);
        }
        blobs.extend(
            self.references()?
                .into_iter()
                .map(|(_, target)| target.manifest),
        );
        let mut removed = Vec::new();
        for name in list(&self.root.join("layers"))? {
            let Ok(chain) = Digest::from_hex(&name) else {
                continue;
            };
            if layers.contains(&chain) {
                continue;
            }
            let directory = self.layer_path(&chain);
            // The record first: from here on the layer does not exist.
            let _ = fs::remove_file(directory.join("layer.json"));
            fs::remove_dir_all(&directory).map_err(fail("remove", &directory))?;
            removed.push(chain);
        }
        for name in list(&self.root.join("blobs/sha256"))? {
            let Ok(digest) = Digest::from_hex(&name) else {
                continue;
            };
            if !blobs.contains(&digest) {
                let path = self.blob_path(&digest);
                fs::remove_file(&path).map_err(fail("remove", &path))?;
            }
        }
        Ok(removed)
    }
}

fn list(directory: &Path) -> Result<Vec<String>, StoreError> {
    let items = match fs::read_dir(directory) {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail("list", directory)(error)),
    };
    let mut names: Vec<String> = items
        .flatten()
        .filter_map(|item| item.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_and_newer_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("overlay2")).unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::Foreign(_))
        ));
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        Store::open(dir.path()).unwrap();
        Store::open(dir.path()).unwrap();
        fs::write(dir.path().join("format"), "2\n").unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::Newer { .. })
        ));
    }

    #[test]
    fn looking_makes_nothing_and_finds_nothing_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = Store::look(&root).unwrap();
        assert!(store.images().unwrap().is_empty() && store.references().unwrap().is_empty());
        assert!(matches!(store.find("web"), Err(StoreError::NoSuchImage(_))));
        assert!(!root.exists());
        Store::open(&root).unwrap().put_blob(b"x").unwrap();
        assert!(Store::look(&root).unwrap().has_blob(&Digest::of(b"x")));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&root).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o710);
        fs::write(root.join("format"), "2\n").unwrap();
        assert!(matches!(Store::look(&root), Err(StoreError::Newer { .. })));
    }

    #[test]
    fn tags_and_repositories_with_the_same_name_do_not_collide() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let target = Target {
            manifest: Digest::of(b"m"),
            image: Digest::of(b"i"),
        };
        for name in ["h:1/a:b", "h:1/a/b:c", "x/y", "web"] {
            store.set_target(&name.parse().unwrap(), &target).unwrap();
        }
        let names: Vec<String> = store
            .references()
            .unwrap()
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(names, ["web:latest", "x/y:latest", "h:1/a:b", "h:1/a/b:c"]);
        assert!(store.remove_target(&"web".parse().unwrap()).unwrap());
        assert!(!store.remove_target(&"web".parse().unwrap()).unwrap());
    }

    #[test]
    fn sweep_removes_what_no_image_needs_and_waits_for_pulls() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let orphan = store.put_blob(b"orphan").unwrap();
        let chain = Digest::of(b"layer");
        fs::create_dir_all(store.layer_path(&chain).join("diff")).unwrap();
        let held = store.hold().unwrap();
        assert!(store.sweep().unwrap().is_empty() && store.has_blob(&orphan));
        drop(held);
        assert_eq!(store.sweep().unwrap(), [chain]);
        assert!(!store.has_blob(&orphan));
    }
}
