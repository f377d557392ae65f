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
        let store = Store::open(&self.data)?;
        self.share();
        Ok(store)
    }

    /// The store for who only looks, which the group docker may without being root.
    pub fn look(&self) -> Result<Store, StoreError> {
        Store::look(&self.data)
    }

    /// Closes the store to everybody and opens it to the group docker. A mounted data disk begins as 0755; what an
    /// operator gave to another group stays as it is.
    fn share(&self) {
        let Ok(stat) = rustix::fs::stat(&self.data) else {
            return;
        };
        let group = std::fs::read_to_string("/etc/group")
            .ok()
            .and_then(|text| group_id(&text, "docker"));
        if stat.st_mode & 0o007 == 0 && (stat.st_gid != 0 || group.is_none()) {
            return;
        }
        let group = group.unwrap_or(stat.st_gid);
        let shared = std::os::unix::fs::chown(&self.data, None, Some(group)).and_then(|()| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o710);
            std::fs::set_permissions(&self.data, mode)
        });
        if let Err(error) = shared {
            tracing::warn!(%error, store = %self.data.display(), "the container store is open to everybody");
        }
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

/// The number of a group in the text of `/etc/group`.
fn group_id(text: &str, name: &str) -> Option<u32> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| fields.get(2)?.parse().ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\ndockerx:x:9:\ndocker:x:233:core\nbroken\ndocker2:x:y:\n";
        assert_eq!(group_id(text, "docker"), Some(233));
        assert_eq!(group_id(text, "docker2"), None);
        assert_eq!(group_id(text, "broken"), None);
        assert_eq!(group_id("", "docker"), None);
    }

    #[test]
    fn a_store_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path().join("store"));
        let mode = || std::fs::metadata(&host.data).unwrap().permissions().mode() & 0o777;
        host.store().unwrap();
        assert_eq!(mode(), 0o710);
        // As an older version, or the mount of a fresh disk, leaves it.
        std::fs::set_permissions(&host.data, PermissionsExt::from_mode(0o755)).unwrap();
        host.store().unwrap();
        assert_eq!(mode(), 0o710);
    }
}
