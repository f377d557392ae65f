//! Descriptors that the service manager passed to this process (socket activation).
//!
//! Owns the one step that needs `unsafe`: making owners out of descriptor numbers. What the numbers mean, and the
//! environment variables, belong to `sd-daemon`.

use std::io;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes ownership of the descriptors in `range`, which must be those passed by the service manager, and marks them
/// close-on-exec. Works once per process: a second call gives an empty list, so that no descriptor gets two owners.
///
/// Must be called before the process opens anything itself, first thing in `main`; a number in `range` that is not
/// open is an error (`EBADF`).
pub fn take_inherited(range: Range<RawFd>) -> io::Result<Vec<OwnedFd>> {
    if range.start < 3 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let mut fds = Vec::with_capacity(range.len());
    for raw in range {
        // SAFETY: `TAKEN` makes this run once, so nothing else of this function's making owns `raw`; the numbers come
        // from the manager's LISTEN_FDS contract, by which they were opened for this process before it started.
        // A number that is not open is never closed: it is turned back into a plain number below.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        match fcntl_getfd(&fd).and_then(|flags| fcntl_setfd(&fd, flags | FdFlags::CLOEXEC)) {
            Ok(()) => fds.push(fd),
            Err(errno) => {
                std::mem::forget(fd);
                return Err(errno.into());
            }
        }
    }
    Ok(fds)
}
