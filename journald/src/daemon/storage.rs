//! Where entries go: the directory in `/run`, the one in `/var`, and the move from one to the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use journal::{Id128, Journal, Limits, Stamp, Store, StoreError, StoreOptions};

use super::config::{Config, Storage as Wanted};

const VOLATILE: &str = "run/log/journal";
const PERSISTENT: &str = "var/log/journal";
/// Exists from the move to `/var` on; `journalctl --flush` looks for it too.
const FLUSHED: &str = "run/systemd/journal/flushed";
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// The journal's files, open for writing.
#[derive(Debug)]
pub(crate) struct Storage {
    root: PathBuf,
    config: Config,
    machine_id: Id128,
    gid: Option<u32>,
    system: Option<Store>,
    runtime: Option<Store>,
    /// When the first entry not yet synced was written (steady clock, microseconds).
    unsynced: Option<u64>,
}

impl Storage {
    /// Opens `/var` when the journal was moved there earlier in this boot, else `/run`. `root` is `/` but in tests.
    pub(crate) fn open(root: &Path, config: Config, machine_id: Id128) -> Result<Self, StoreError> {
        let mut storage = Self {
            root: root.to_owned(),
            config,
            machine_id,
            gid: group(root, "systemd-journal"),
            system: None,
            runtime: None,
            unsynced: None,
        };
        if storage.config.storage == Wanted::None {
            return Ok(storage);
        }
        if storage.root.join(FLUSHED).exists() && storage.wants_disk() {
            match storage.open_in(PERSISTENT) {
                Ok(store) => {
                    storage.system = Some(store);
                    return Ok(storage);
                }
                Err(err) => tracing::error!("writing to memory: {}", telemetry::chain(&err)),
            }
        }
        storage.runtime = Some(storage.open_in(VOLATILE)?);
        Ok(storage)
    }

    fn open_in(&self, place: &str) -> Result<Store, StoreError> {
        let base = self.root.join(place);
        let parent = base.ancestors().find(|p| p.exists()).unwrap_or(&self.root);
        let stat = rustix::fs::statvfs(parent).map_err(|errno| StoreError::Io {
            what: "stat",
            path: parent.to_owned(),
            source: errno.into(),
        })?;
        let mut limits = Limits::for_file_system(stat.f_blocks.saturating_mul(stat.f_frsize));
        let c = &self.config;
        let (max_use, keep_free, max_file) = match place {
            PERSISTENT => (c.system_max_use, c.system_keep_free, c.system_max_file_size),
            _ => (
                c.runtime_max_use,
                c.runtime_keep_free,
                c.runtime_max_file_size,
            ),
        };
        if let Some(max_use) = max_use {
            limits = limits.with_max_use(max_use);
        }
        limits.keep_free = keep_free.unwrap_or(limits.keep_free);
        limits.max_file = max_file.unwrap_or(limits.max_file).max(512 << 10);
        // Memory is allocated when the file is: small steps there.
        let largest = if place == PERSISTENT {
            8 << 20
        } else {
            256 << 10
        };
        let step = (limits.max_file / 4).clamp(64 << 10, largest);
        let options = StoreOptions {
            machine_id: self.machine_id,
            limits,
            step,
            gid: self.gid,
        };
        let mut store = Store::open(&base, options)?;
        for path in store.take_set_aside() {
            tracing::warn!(path = %path.display(), "a journal file was not closed in order and was set aside");
        }
        store.vacuum(self.oldest())?;
        Ok(store)
    }

    fn oldest(&self) -> Option<u64> {
        let now = Stamp::now(Id128::default()).realtime;
        (self.config.max_retention > 0).then(|| now.saturating_sub(self.config.max_retention))
    }

    /// Whether `/var/log/journal` is to be used: asked for, or its file system is on a disk.
    fn wants_disk(&self) -> bool {
        match self.config.storage {
            Wanted::Persistent => true,
            Wanted::Volatile | Wanted::None => false,
            Wanted::Auto => {
                let base = self.root.join(PERSISTENT);
                let nearest = base.ancestors().find(|p| p.exists()).unwrap_or(&self.root);
                // The field's type differs between architectures.
                #[allow(clippy::unnecessary_cast)]
                rustix::fs::statfs(nearest)
                    .is_ok_and(|s| ![TMPFS, RAMFS].contains(&(s.f_type as i64)))
            }
        }
    }

    /// Stores an entry. When the disk does not take it, memory does.
    pub(crate) fn append(&mut self, stamp: Stamp, fields: &[Vec<u8>]) -> Result<(), StoreError> {
        if self.config.storage == Wanted::None {
            return Ok(());
        }
        self.unsynced.get_or_insert(stamp.monotonic);
        let failed = match &mut self.system {
            Some(store) => match store.append(stamp, fields) {
                Ok(_) => return Ok(()),
                Err(err) => Some(err),
            },
            None => None,
        };
        if self.runtime.is_none() {
            self.runtime = Some(self.open_in(VOLATILE)?);
        }
        if let Some(store) = &mut self.runtime {
            store.append(stamp, fields)?;
        }
        // The entry is safe, but the disk's failure must be told.
        failed.map_or(Ok(()), Err)
    }

    /// Moves what is in `/run` to `/var` and writes there from now on. `false` when there is no disk to move to.
    pub(crate) fn flush_to_var(&mut self) -> Result<bool, StoreError> {
        if !self.wants_disk() {
            self.mark_flushed()?;
            return Ok(false);
        }
        if self.system.is_none() {
            self.system = Some(self.open_in(PERSISTENT)?);
        }
        let (Some(system), Some(runtime)) = (&mut self.system, &self.runtime) else {
            self.mark_flushed()?;
            return Ok(true);
        };
        let dir = runtime.dir().to_owned();
        let mut source = Journal::open_dirs(std::slice::from_ref(&dir));
        while let Some(entry) = source.next_entry() {
            let meta = entry.meta;
            let stamp = Stamp {
                realtime: meta.realtime,
                monotonic: meta.monotonic,
                boot_id: meta.boot_id,
            };
            system.append(stamp, &entry.fields)?;
        }
        for problem in source.take_problems() {
            tracing::warn!(
                "part of the journal in memory is lost: {}",
                telemetry::chain(&problem)
            );
        }
        system.sync()?;
        self.runtime = None;
        for file in journal::journal_files(&dir).into_iter().flatten() {
            // What stays is shown twice, nothing worse.
            let _ = fs::remove_file(file.path);
        }
        let _ = fs::remove_dir(&dir);
        self.mark_flushed()?;
        Ok(true)
    }

    fn mark_flushed(&self) -> Result<(), StoreError> {
        let path = self.root.join(FLUSHED);
        fs::write(&path, "").map_err(|source| StoreError::Io {
            what: "make",
            path,
            source,
        })
    }

    /// Writes to `/run` again, so that `/var` can be unmounted.
    pub(crate) fn relinquish_var(&mut self) -> Result<(), StoreError> {
        if let Some(mut system) = self.system.take() {
            system.sync()?;
            let _ = fs::remove_file(self.root.join(FLUSHED));
            if self.runtime.is_none() {
                self.runtime = Some(self.open_in(VOLATILE)?);
            }
        }
        Ok(())
    }

    fn each(
        &mut self,
        mut f: impl FnMut(&mut Store) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for store in [&mut self.system, &mut self.runtime].into_iter().flatten() {
            // One that fails must not keep the other from being done.
            outcome = outcome.and(f(store));
        }
        outcome
    }

    /// Archives the active files.
    pub(crate) fn rotate(&mut self) -> Result<(), StoreError> {
        let oldest = self.oldest();
        self.each(|store| {
            store.rotate()?;
            store.vacuum(oldest).map(drop)
        })
    }

    /// Brings all to disk, and marks the files as closed in order until the next entry.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.unsynced = None;
        self.each(Store::sync)
    }

    /// Brings all to disk now, for messages that must survive.
    pub(crate) fn flush_now(&mut self) -> Result<(), StoreError> {
        self.each(|store| store.flush())
    }

    /// When [`Storage::sync`] is due, on the steady clock.
    pub(crate) fn sync_due(&self) -> Option<u64> {
        self.unsynced
            .map(|since| since.saturating_add(self.config.sync_interval))
    }

    /// Where entries go, for the log.
    pub(crate) fn place(&self) -> String {
        let store = self.system.as_ref().or(self.runtime.as_ref());
        store.map_or_else(|| "nowhere".to_owned(), |s| s.dir().display().to_string())
    }
}

/// Number of a group, by the file: a static program cannot load the name service.
fn group(root: &Path, name: &str) -> Option<u32> {
    let text: io::Result<String> = fs::read_to_string(root.join("etc/group"));
    text.ok()?.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next()? == name).then(|| parts.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Id128 = Id128([7; 16]);

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp dir");
        for sub in ["run/systemd/journal", "var/log", "etc"] {
            fs::create_dir_all(dir.path().join(sub)).expect("mkdir");
        }
        dir
    }

    fn open(root: &Path, storage: Wanted) -> Storage {
        let config = Config {
            storage,
            ..Config::default()
        };
        Storage::open(root, config, MACHINE).expect("open")
    }

    fn log(storage: &mut Storage, n: u64) {
        let stamp = Stamp {
            realtime: n,
            monotonic: n,
            boot_id: Id128([1; 16]),
        };
        storage
            .append(stamp, &[format!("MESSAGE={n}").into_bytes()])
            .expect("append");
    }

    fn read(dir: &Path) -> usize {
        let mut journal = Journal::open_dirs(&[dir.join(MACHINE.to_string())]);
        std::iter::from_fn(|| journal.next_entry()).count()
    }

    #[test]
    fn the_flush_moves_everything_to_disk_once() {
        let root = root();
        let (run, var) = (root.path().join(VOLATILE), root.path().join(PERSISTENT));
        let mut storage = open(root.path(), Wanted::Persistent);
        (1..=20).for_each(|n| log(&mut storage, n));
        assert_eq!((read(&run), read(&var)), (20, 0));
        assert!(storage.flush_to_var().expect("flush"));
        log(&mut storage, 21);
        assert_eq!((read(&run), read(&var)), (0, 21));
        assert!(storage.flush_to_var().expect("again"));
        assert_eq!(read(&var), 21);
        storage.sync().expect("sync");
        drop(storage);
        // A restart after the flush goes on there.
        let mut storage = open(root.path(), Wanted::Persistent);
        log(&mut storage, 22);
        assert_eq!((read(&run), read(&var)), (0, 22));
        storage.relinquish_var().expect("relinquish");
        log(&mut storage, 23);
        assert_eq!((read(&run), read(&var)), (1, 22));
    }

    #[test]
    fn a_volatile_journal_stays_in_memory() {
        let root = root();
        let mut storage = open(root.path(), Wanted::Volatile);
        log(&mut storage, 1);
        assert!(!storage.flush_to_var().expect("flush"));
        log(&mut storage, 2);
        assert_eq!(read(&root.path().join(VOLATILE)), 2);
    }

    #[test]
    fn memory_takes_what_the_disk_does_not() {
        let root = root();
        let mut storage = open(root.path(), Wanted::Persistent);
        storage.flush_to_var().expect("flush");
        log(&mut storage, 1);
        // Neither the file nor a new one can be written any more.
        fs::remove_dir_all(root.path().join(PERSISTENT)).expect("remove");
        storage.rotate().expect_err("the directory is gone");
        let stamp = Stamp {
            realtime: 2,
            monotonic: 0,
            boot_id: Id128([1; 16]),
        };
        storage
            .append(stamp, &[b"MESSAGE=2".to_vec()])
            .expect_err("told");
        assert_eq!(read(&root.path().join(VOLATILE)), 1);
    }

    #[test]
    fn groups_are_found_in_the_file() {
        let root = root();
        fs::write(
            root.path().join("etc/group"),
            "root:x:0:\nsystemd-journal:x:248:core\n",
        )
        .expect("write");
        assert_eq!(group(root.path(), "systemd-journal"), Some(248));
        assert_eq!(group(root.path(), "nobody"), None);
    }
}
