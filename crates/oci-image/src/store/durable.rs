//! Files that are whole or not there, also after a power cut.

use super::{StoreError, fail};
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

pub(super) fn sync_directory(path: &Path) {
    // Not every file system can; the rename itself was done.
    if let Ok(directory) = File::open(path) {
        let _ = directory.sync_all();
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(fail("move a file to", to))?;
    sync_directory(to.parent().unwrap_or(Path::new("/")));
    Ok(())
}

/// Temporary name, sync, rename, sync of the directory: old content or new, never half.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&temporary).map_err(fail("make", &temporary))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(fail("write", path)(error));
    }
    rename(&temporary, path)
}

/// [`write_durably`] of a value as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec(value).map_err(|source| StoreError::Record {
        path: path.to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    write_durably(path, &bytes)
}
