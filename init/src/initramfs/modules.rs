//! Kernel modules, in the order of the list that the image build made.

use std::fs::File;

use super::StageError;
use crate::log::{self, Level};

const LIST: &str = "/etc/modules.list";
/// The kernel decompresses the file itself (its signature is inside).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Loads every module of the list. Absent hardware, and a module that is built in or loaded already, are no
/// errors; another failure is told and passed over, because what needs the module says so better.
pub(super) fn load() -> Result<(), StageError> {
    let Ok(list) = std::fs::read_to_string(LIST) else {
        log::say(Level::Info, format_args!("no {LIST}: no modules loaded"));
        return Ok(());
    };
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    for name in list
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        load_one(&format!("/lib/modules/{release}/{name}"));
    }
    Ok(())
}

fn load_one(path: &str) {
    let flags = if path.ends_with(".ko") {
        0
    } else {
        MODULE_INIT_COMPRESSED_FILE
    };
    let result =
        File::open(path).and_then(|file| Ok(rustix::system::finit_module(file, c"", flags)?));
    if let Err(error) = result {
        let errno = rustix::io::Errno::from_io_error(&error);
        let expected = [
            rustix::io::Errno::EXIST,
            rustix::io::Errno::NODEV,
            rustix::io::Errno::NOENT,
        ];
        let level = if errno.is_some_and(|e| expected.contains(&e)) {
            Level::Debug
        } else {
            Level::Warning
        };
        log::say(level, format_args!("module {path} not loaded: {error}"));
    }
}
