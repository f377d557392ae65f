//! Who may do what at the same time: workspaces, the lock of a digest, the lock that keeps a sweep away.
//!
//! All are `flock` on open files, so a killed process leaves none.

use super::{Store, StoreError, fail};
use crate::digest::Digest;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory below `tmp/` that goes away with this value, or with its process.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    _lock: File,
}

impl Workspace {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(self.path.with_extension("lock"));
    }
}

/// A lock that one process holds; released when dropped.
#[derive(Debug)]
pub struct Held(#[allow(dead_code)] File);

/// A lock file that is removed with the lock.
#[derive(Debug)]
pub struct Named {
    path: PathBuf,
    _file: File,
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// A locked directory below `tmp/`; leftovers of dead processes are removed first.
    pub fn workspace(&self) -> Result<Workspace, StoreError> {
        let tmp = self.root.join("tmp");
        fs::create_dir_all(&tmp).map_err(fail("make", &tmp))?;
        self.clean_tmp(&tmp)?;
        for attempt in 0u32.. {
            let path = tmp.join(format!("{}-{attempt}", std::process::id()));
            let lock_path = path.with_extension("lock");
            let lock = match OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&lock_path)
            {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(fail("make", &lock_path)(error)),
            };
            if lock.try_lock().is_err() {
                continue;
            }
            if fs::create_dir(&path).is_err() {
                continue;
            }
            return Ok(Workspace { path, _lock: lock });
        }
        Err(fail("make a workspace in", &tmp)(
            io::ErrorKind::AlreadyExists.into(),
        ))
    }

    fn clean_tmp(&self, tmp: &Path) -> Result<(), StoreError> {
        for item in fs::read_dir(tmp).map_err(fail("list", tmp))?.flatten() {
            let path = item.path();
            let lock = match path.extension() {
                Some(extension) if extension == "lock" => path.clone(),
                _ => path.with_extension("lock"),
            };
            match File::open(&lock) {
                Ok(file) if file.try_lock().is_err() => continue,
                Ok(_) => {
                    let _ = fs::remove_dir_all(path.with_extension(""));
                    let _ = fs::remove_file(&lock);
                }
                Err(_) => {
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
        Ok(())
    }

    /// Waits for the only right to fetch or unpack this digest.
    pub fn lock_digest(&self, digest: &Digest) -> Result<Named, StoreError> {
        let path = self
            .root
            .join("blobs")
            .join(format!(".{}.lock", digest.hex()));
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(fail("open", &path))?;
            file.lock().map_err(fail("lock", &path))?;
            // The holder before us removed the file: then this lock is on nothing.
            let same = match (file.metadata(), fs::metadata(&path)) {
                (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
                _ => false,
            };
            if same {
                return Ok(Named { path, _file: file });
            }
        }
    }

    /// Keeps [`Store::sweep`] away while images are added or a container is made.
    pub fn hold(&self) -> Result<Held, StoreError> {
        let path = self.root.join("sweep.lock");
        let file = open_lock(&path)?;
        file.lock_shared().map_err(fail("lock", &path))?;
        Ok(Held(file))
    }
}

pub(super) fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(fail("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspaces_of_the_dead_are_removed_and_those_of_the_living_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let dead = dir.path().join("tmp/4-0");
        fs::create_dir(&dead).unwrap();
        let living = store.workspace().unwrap();
        let second = store.workspace().unwrap();
        assert!(!dead.exists() && living.path().exists() && second.path().exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
