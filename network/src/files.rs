//! Small files that others read: replaced as a whole, and only when they changed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes `text` beside `path` and renames it there, durable on disks.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// Remembers what was written.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    written: BTreeMap<PathBuf, String>,
}

impl Writer {
    /// Writes the file if its text changed; whether it did.
    pub(crate) fn put(&mut self, path: PathBuf, text: String) -> io::Result<bool> {
        if self.written.get(&path) == Some(&text) {
            return Ok(false);
        }
        replace(&path, &text)?;
        self.written.insert(path, text);
        Ok(true)
    }

    /// Removes the file if it is there.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<bool> {
        self.written.remove(path);
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}
