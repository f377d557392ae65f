//! The slot state on the ESP: mounted for the moment of one write, in a mount namespace of its own.
//!
//! The file is written in place, never replaced: GRUB writes the same blocks, and a rename on FAT is several sector
//! writes (boot-and-update.md §4.2).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use boot_slots::{BLOCK_LEN, BootState};

/// The ESP of the disk we booted from.
pub const DEVICE: &str = "/dev/disk/by-partlabel/ESP";
/// Where it is mounted, in the private namespace only.
pub const MOUNT: &str = "/run/flotilla/esp";
/// The environment block below the mount.
pub const GRUBENV: &str = "flotilla/grubenv";

/// Why the state could not be changed. The old one is still there.
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    /// Reading or writing the block.
    #[error("cannot {what} {path}")]
    Io {
        /// `open`, `read`, `write`.
        what: &'static str,
        /// File or device.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// What was read back is not what was written.
    #[error("{path} does not hold what was written; the disk may be failing")]
    Verify {
        /// File.
        path: PathBuf,
    },
    /// The version texts are too long.
    #[error("the slot state cannot be stored")]
    State(#[source] boot_slots::TooLong),
    /// mount(8) or unshare(1) said no.
    #[error("cannot mount the ESP: {0}")]
    Mount(String),
}

/// Reads the state, lets `change` edit it, and writes it if it differs. One `pwrite` of the whole block, synced, read back.
///
/// # Errors
/// [`EspError`]; on any of them the sector holds either the old state or the new one.
pub fn edit(grubenv: &Path, change: impl FnOnce(&mut BootState)) -> Result<BootState, EspError> {
    let at = |what: &'static str| {
        move |source| EspError::Io {
            what,
            path: grubenv.into(),
            source,
        }
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(grubenv)
        .map_err(at("open"))?;
    let mut block = vec![0; BLOCK_LEN];
    let n = read_full(&file, &mut block).map_err(at("read"))?;
    let mut state = BootState::parse(&block[..n]);
    change(&mut state);
    let new = state.serialise().map_err(EspError::State)?;
    if new != block {
        file.write_all_at(&new, 0).map_err(at("write"))?;
        file.sync_data().map_err(at("write"))?;
        let mut back = vec![0; BLOCK_LEN];
        read_full(&file, &mut back).map_err(at("read"))?;
        if back != new {
            return Err(EspError::Verify {
                path: grubenv.into(),
            });
        }
    }
    Ok(state)
}

fn read_full(file: &File, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match file.read_at(&mut buf[n..], n as u64)? {
            0 => break,
            k => n += k,
        }
    }
    Ok(n)
}

/// Runs this program again with `args` in a mount namespace where the ESP is mounted at [`MOUNT`].
///
/// # Errors
/// [`EspError::Mount`] where mounting fails; `Ok(false)` where the second run failed and has said why.
pub fn with_esp(args: &[&str]) -> Result<bool, EspError> {
    let me = std::env::current_exe().map_err(|e| EspError::Mount(e.to_string()))?;
    std::fs::create_dir_all(MOUNT).map_err(|e| EspError::Mount(e.to_string()))?;
    // `exec "$@"` keeps the arguments out of the shell's reach.
    let script =
        format!("mount -t vfat -o rw,sync,noatime,umask=077 {DEVICE} {MOUNT} && exec \"$@\"");
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "/bin/sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(me)
        .args(args)
        .status()
        .map_err(|e| EspError::Mount(e.to_string()))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(32) => Err(EspError::Mount(format!("mount of {DEVICE} failed"))),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_slots::Slot;

    #[test]
    fn an_edit_is_in_place_and_read_back() {
        let d = tempfile::tempdir().expect("temp dir");
        let p = d.path().join("grubenv");
        std::fs::write(&p, BootState::shipped("1.0").serialise().expect("fits")).expect("write");
        let before = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&p).expect("stat"));
        let s = edit(&p, |s| s.mark_good(Slot::A)).expect("edit");
        assert!(s.a.good);
        assert_eq!(
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&p).expect("stat")),
            before
        );
        assert_eq!(BootState::parse(&std::fs::read(&p).expect("read")), s);
    }

    #[test]
    fn a_damaged_block_becomes_a_whole_one() {
        let d = tempfile::tempdir().expect("temp dir");
        let p = d.path().join("grubenv");
        std::fs::write(&p, b"garbage").expect("write");
        edit(&p, |s| s.mark_good(Slot::A)).expect("edit");
        let bytes = std::fs::read(&p).expect("read");
        assert_eq!(bytes.len(), BLOCK_LEN);
        assert_eq!(BootState::parse(&bytes).a.tries, boot_slots::TRIES_GOOD);
    }
}
