//! Finding a drive by its label and mounting it, read-only, for as long as it is read.
//!
//! The link in `/dev/disk/by-label` is asked first. Because it may not be there yet (or on a system
//! without udev), the labels of all block devices are then read directly: ISO 9660 and FAT.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Types to try; the kernel says which one fits.
const TYPES: [&str; 3] = ["iso9660", "vfat", "udf"];

/// Why a drive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Nothing could be mounted.
    #[error("failed to mount {device} (tried {})", TYPES.join(", "))]
    Mount {
        /// The device.
        device: String,
        /// The last reason.
        #[source]
        source: std::io::Error,
    },
    /// The mount point cannot be made.
    #[error("failed to make the mount point {path}")]
    Place {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A mounted drive; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Mounts a device below `/run`.
    pub fn new(device: &Path, place: &Path) -> Result<Self, DriveError> {
        let shown = place.display().to_string();
        std::fs::create_dir_all(place).map_err(|source| DriveError::Place {
            path: shown,
            source,
        })?;
        let flags =
            MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        let mut last = std::io::Error::from(std::io::ErrorKind::Unsupported);
        for kind in TYPES {
            match rustix::mount::mount(device, place, kind, flags, None) {
                Ok(()) => {
                    return Ok(Self {
                        path: place.to_owned(),
                    });
                }
                // A type that this kernel does not know says less than one that does not fit.
                Err(Errno::NODEV) if last.kind() != std::io::ErrorKind::Unsupported => {}
                Err(errno) => last = errno.into(),
            }
        }
        Err(DriveError::Mount {
            device: device.display().to_string(),
            source: last,
        })
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.path, UnmountFlags::DETACH) {
            tracing::warn!(path = %self.path.display(), %error, "drive stays mounted");
        }
    }
}

/// The device that carries one of the labels.
pub fn find(labels: &[&str]) -> Option<PathBuf> {
    for label in labels {
        let link = Path::new("/dev/disk/by-label").join(label.replace(' ', "\\x20"));
        if let Ok(device) = link.canonicalize() {
            return Some(device);
        }
    }
    block_devices()
        .into_iter()
        .find(|device| read_label(device).is_some_and(|found| labels.iter().any(|l| *l == found)))
}

/// Devices in name order, without those that cannot hold such a drive.
fn block_devices() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/class/block") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| {
            !["ram", "zram", "dm-", "md"]
                .iter()
                .any(|p| n.starts_with(p))
        })
        .collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| Path::new("/dev").join(name))
        .collect()
}

fn read_label(device: &Path) -> Option<String> {
    let mut file = File::open(device).ok()?;
    iso_label(&mut file).or_else(|| fat_label(&mut file))
}

fn read_at(file: &mut (impl Read + Seek), at: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(at)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn label_text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes)
        .ok()?
        .trim_end_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn iso_label(file: &mut (impl Read + Seek)) -> Option<String> {
    let volume = read_at(file, 32_768, 72)?;
    (&volume[1..6] == b"CD001")
        .then(|| label_text(&volume[40..72]))
        .flatten()
}

fn fat_label(file: &mut (impl Read + Seek)) -> Option<String> {
    let boot = read_at(file, 0, 512)?;
    if boot[510..512] != [0x55, 0xaa] {
        return None;
    }
    if &boot[82..87] == b"FAT32" {
        label_text(&boot[71..82])
    } else if &boot[54..57] == b"FAT" {
        label_text(&boot[43..54])
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn labels_of_real_images_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("meta-data"), "instance-id: x\n").unwrap();
        let iso = dir.path().join("seed.iso");
        let made = Command::new("genisoimage")
            .args(["-quiet", "-R", "-J", "-V", "cidata", "-o"])
            .arg(&iso)
            .arg(dir.path().join("meta-data"))
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(read_label(&iso).as_deref(), Some("cidata"));

        let fat = dir.path().join("seed.img");
        File::create(&fat).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("mkfs.vfat")
            .args(["-n", "CONFIG-2"])
            .arg(&fat)
            .output()
            .unwrap();
        assert!(made.status.success());
        assert_eq!(read_label(&fat).as_deref(), Some("CONFIG-2"));

        let junk = dir.path().join("junk");
        std::fs::write(&junk, vec![7; 100_000]).unwrap();
        assert_eq!(read_label(&junk), None);
    }
}
