//! Disks and partitions as /sys shows them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpt::{Gpt, Partition, ReadAt, SECTOR};

/// A device or image as a partition table's reader takes it.
#[derive(Debug)]
pub(crate) struct Image<'a>(pub(crate) &'a File);

impl ReadAt for Image<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// A whole disk with a valid partition table.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Kernel name, `vda`.
    pub(crate) name: String,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// Its table.
    pub(crate) gpt: Gpt,
}

impl Disk {
    /// Device node.
    pub(crate) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Device node of a partition, if the kernel knows it.
    pub(crate) fn partition_node(&self, partition: &Partition) -> Option<PathBuf> {
        let dir = Path::new("/sys/class/block").join(&self.name);
        let number = partition.number.to_string();
        let entries = std::fs::read_dir(dir).ok()?;
        entries.flatten().find_map(|entry| {
            let found = std::fs::read_to_string(entry.path().join("partition")).ok()?;
            (found.trim() == number).then(|| Path::new("/dev").join(entry.file_name()))
        })
    }
}

/// Names of all whole disks, sorted; memory disks, loops and mapped devices are left out.
pub(crate) fn disk_names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/block") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| !e.path().join("partition").exists() && e.path().join("device").exists())
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| {
            !["ram", "loop", "dm-", "zram", "fd", "sr"]
                .iter()
                .any(|p| n.starts_with(p))
        })
        .collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// Reads the partition tables of all disks.
pub(crate) fn disks() -> Vec<Disk> {
    disk_names()
        .into_iter()
        .filter_map(|name| read_disk(&name))
        .collect()
}

/// Reads one disk's table; none if there is none, or its sectors are not of 512 bytes.
pub(crate) fn read_disk(name: &str) -> Option<Disk> {
    let file = File::open(Path::new("/dev").join(name)).ok()?;
    let fd = std::os::fd::AsFd::as_fd(&file);
    if syscalls::block::sector_size(fd).ok()? != SECTOR as u32 {
        return None;
    }
    let bytes = syscalls::block::size(fd).ok()?;
    let gpt = Gpt::read(&Image(&file), bytes)?;
    Some(Disk {
        name: name.to_owned(),
        bytes,
        gpt,
    })
}

/// Asks `look` again every 10 ms until it finds something or the limit is over: in the initramfs there is
/// nobody to tell us, and devices are found by the kernel within milliseconds.
pub(crate) fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
