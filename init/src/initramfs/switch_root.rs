//! Leaving the initramfs: its files are deleted (they are memory), the mounts move, the real init runs.

use std::ffi::CString;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::mount_move;

use super::{Boot, SYSROOT, StageError};
use crate::handover;

const INIT: &str = "/usr/lib/flotilla/init";

/// Switches to the real root and runs the system manager. Returns only the error.
pub(super) fn enter(mut boot: Boot) -> StageError {
    match prepare() {
        Ok(()) => {}
        Err(error) => return error,
    }
    if let Some(watchdog) = boot.watchdog.take()
        && rustix::io::fcntl_setfd(&watchdog, rustix::io::FdFlags::empty()).is_ok()
    {
        boot.facts.watchdog_fd = Some(watchdog.into_raw_fd());
    }
    let mut environment: Vec<CString> = Vec::new();
    let facts = format!("{}={}", handover::VARIABLE, boot.facts.encode());
    environment.extend(CString::new(facts));
    // The kernel passes unknown `name=value` arguments as environment; a service manager does not need them.
    environment.extend(
        std::env::var("TERM")
            .ok()
            .and_then(|t| CString::new(format!("TERM={t}")).ok()),
    );
    let path = CString::new(INIT).unwrap_or_default();
    let arguments = [path.clone(), c"--system".to_owned()];
    StageError::Io {
        what: format!("run {INIT}"),
        source: syscalls::spawn::execve(&path, &arguments, &environment),
    }
}

fn prepare() -> Result<(), StageError> {
    if !Path::new(SYSROOT).join(&INIT[1..]).exists() {
        return Err(StageError::Refused(format!("the root has no {INIT}")));
    }
    for name in ["dev", "proc", "sys", "run"] {
        let target = format!("{SYSROOT}/{name}");
        mount_move(format!("/{name}"), &target)
            .map_err(StageError::io(format!("move /{name} to {target}")))?;
    }
    if let Ok(device) = std::fs::symlink_metadata("/").map(|m| m.dev()) {
        empty(Path::new("/"), device);
    }
    rustix::process::chdir(SYSROOT).map_err(StageError::io(format!("enter {SYSROOT}")))?;
    mount_move(".", "/").map_err(StageError::io(format!("move {SYSROOT} to /")))?;
    rustix::process::chroot(".").map_err(StageError::io("change the root"))?;
    rustix::process::chdir("/").map_err(StageError::io("enter /"))
}

/// Deletes everything on this device below `dir`; what cannot be deleted only costs memory.
fn empty(dir: &Path, device: u64) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.dev() != device {
            continue;
        }
        if meta.is_dir() {
            empty(&path, device);
            let _ = std::fs::remove_dir(&path);
        } else {
            let _ = std::fs::remove_file(&path);
        }
    }
}
