//! The built image's files, as `cargo xtask image` leaves them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The parts of a built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Directory of all of them.
    pub dir: PathBuf,
    /// Kernel arguments that name /usr.
    pub cmdline: String,
}

impl Image {
    /// `$FLOTILLA_IMAGE`, or `build/image` of this checkout.
    pub fn find() -> Result<Image> {
        let dir = std::env::var_os("FLOTILLA_IMAGE").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/image"),
            PathBuf::from,
        );
        Image::at(&dir)
    }

    /// The image in `dir`.
    pub fn at(dir: &Path) -> Result<Image> {
        let dir = dir.canonicalize().with_context(|| {
            format!(
                "no image in {}; `cargo xtask image` builds it",
                dir.display()
            )
        })?;
        for f in ["vmlinuz", "initrd", "flotilla.qcow2", "cmdline"] {
            if !dir.join(f).exists() {
                bail!("no {f} in {}; `cargo xtask image` builds it", dir.display());
            }
        }
        let cmdline = std::fs::read_to_string(dir.join("cmdline"))?
            .trim()
            .to_string();
        Ok(Image { dir, cmdline })
    }

    /// One of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}
