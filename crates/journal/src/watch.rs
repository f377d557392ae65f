//! Waiting for new entries.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Tells when something in journal directories or files changes.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    /// A watch on nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fd: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
        })
    }

    /// Watches a directory of journal files, or one file.
    pub fn add(&self, path: &Path) -> io::Result<()> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE;
        inotify::add_watch(&self.fd, path, flags)?;
        Ok(())
    }

    /// Waits for a change, at most for `limit`, and takes all that are queued. `false` when the time ran out.
    /// `others` become ready too (a terminal that goes away); then the answer is `true` as well.
    pub fn wait(&self, limit: Option<Duration>, others: &[PollFd<'_>]) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.fd, PollFlags::IN)];
        fds.extend(others.iter().cloned());
        let limit = limit.map(|d| Timespec {
            tv_sec: d.as_secs() as i64,
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        while reader.next().is_ok() {}
        Ok(true)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
