//! Where things are on this machine, and who this boot is.

use oci_image::Store;
use oci_image::store::StoreError;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Everything of one boot: sockets, locks, pids.
pub const RUN: &str = "/run/docker";
/// Options of docker.service as dockerd resolved them.
pub const OPTIONS: &str = "/run/docker/options.json";

/// The directories of one container.
#[derive(Debug, Clone)]
pub struct Host {
    /// Container store.
    pub data: PathBuf,
    /// Runtime directory.
    pub run: PathBuf,
}

impl Host {
    /// With the store at `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Host {
            data: data.into(),
            run: PathBuf::from(RUN),
        }
    }

    /// Opens the store, making it where it is missing.
    pub fn store(&self) -> Result<Store, StoreError> {
        Store::open(&self.data)
    }

    /// `/var/lib/docker/containers`.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// A container's lasting directory.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// A container's directory of this boot.
    pub fn run_of(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// Directory of the engine's state.
    pub fn engine(&self) -> PathBuf {
        self.run.join("engine")
    }

    /// Holds a lock of the runtime directory until the file is dropped.
    pub fn lock(&self, name: &str) -> io::Result<File> {
        std::fs::create_dir_all(&self.run)?;
        let file = open_lock(&self.run.join(name))?;
        file.lock()?;
        Ok(file)
    }
}

/// Opens a file to be locked.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Identity of this boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// When a process started, in clock ticks since boot: tells it from a later one with the same pid.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// 64 random hexadecimal digits.
pub fn random_id() -> io::Result<String> {
    let mut bytes = [0u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The program `container-monitor`: beside ours, else where the image has it.
pub fn monitor_program() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join("container-monitor")));
    match beside {
        Some(path) if path.exists() => path,
        _ => PathBuf::from("/usr/lib/flotilla/container-monitor"),
    }
}
