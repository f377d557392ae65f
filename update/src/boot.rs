//! `/run/flotilla/boot.json`: what stage 1 started.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where init writes it, once per boot.
pub const PATH: &str = "/run/flotilla/boot.json";

/// The part of it that slot programs read. Unknown fields are other programs'.
#[derive(Debug, Clone, Deserialize)]
pub struct BootInfo {
    /// Slot letter; absent where no slot was booted (kernel given by hand, PXE).
    #[serde(default)]
    pub slot: Option<String>,
    /// Root hash of /usr.
    #[serde(default)]
    pub usrhash: Option<String>,
}

/// Why the boot record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootInfoError {
    /// The file is not there: not a Flotilla machine, or stage 1 did not run.
    #[error("cannot read {path}")]
    Read {
        /// Path asked for.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Not the JSON that init writes.
    #[error("{path} is damaged")]
    Parse {
        /// Path read.
        path: PathBuf,
        /// Cause.
        source: serde_json::Error,
    },
}

/// Reads the record at `path`.
///
/// # Errors
/// [`BootInfoError`] where it is absent or damaged.
pub fn read(path: &Path) -> Result<BootInfo, BootInfoError> {
    let text = std::fs::read(path).map_err(|source| BootInfoError::Read {
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| BootInfoError::Parse {
        path: path.into(),
        source,
    })
}
