//! `networkd-wait-online`: returns when the machine is online, or says what is missing when the time is up.
//!
//! Event driven: the daemon renames its `state` file whenever something changed, and this watches the directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::facts;
use super::kernel::Kernel;
use super::manager::now;
use super::publish::unmanaged;
use crate::config::values::glob;
use crate::netlink::{Handle, Link, NetlinkError};
use crate::status::{LinkStatus, online};

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Root of the file system.
    pub(super) root: PathBuf,
    /// Give up after this; zero is never.
    pub(super) timeout: Duration,
    /// Only these links, by pattern; empty is all that are required.
    pub(super) only: Vec<String>,
    /// Not these links.
    pub(super) ignore: Vec<String>,
    /// One link is enough, whatever the others do.
    pub(super) any: bool,
}

/// Why it was in vain.
#[derive(Debug, thiserror::Error)]
pub(super) enum WaitError {
    /// Time is up.
    #[error("not online after {seconds} s: {missing}")]
    TimedOut {
        /// How long it waited.
        seconds: u64,
        /// What is missing.
        missing: String,
    },
    /// The state files cannot be watched.
    #[error("failed to watch {path}")]
    Watch {
        /// The directory.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The links cannot be listed.
    #[error("failed to list links")]
    Links(#[source] NetlinkError),
}

/// Waits.
pub(super) fn wait(options: &Options) -> Result<(), WaitError> {
    let directory = options.root.join("run/systemd/netif");
    let failed = |source: io::Error| WaitError::Watch {
        path: directory.display().to_string(),
        source,
    };
    fs::create_dir_all(&directory).map_err(failed)?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .map_err(|e| failed(e.into()))?;
    inotify::add_watch(&watch, &directory, inotify::WatchFlags::MOVED_TO)
        .map_err(|e| failed(e.into()))?;
    let started = Instant::now();
    loop {
        let missing = match judge(&directory, options)? {
            Ok(()) => return Ok(()),
            Err(missing) => missing.join("; "),
        };
        let left = match options.timeout {
            Duration::ZERO => None,
            timeout => match timeout
                .checked_sub(started.elapsed())
                .filter(|left| !left.is_zero())
            {
                Some(left) => Timespec::try_from(left + Duration::from_millis(1)).ok(),
                None => {
                    return Err(WaitError::TimedOut {
                        seconds: timeout.as_secs(),
                        missing,
                    });
                }
            },
        };
        let mut fds = [PollFd::new(&watch, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let mut buffer = [0; 4096];
        while rustix::io::read(&watch, &mut buffer).is_ok_and(|n| n > 0) {}
    }
}

/// Whether the machine is online now, and what is missing.
fn judge(directory: &Path, options: &Options) -> Result<Result<(), Vec<String>>, WaitError> {
    if !directory.join("state").exists() {
        return Ok(Err(vec!["networkd has not reported yet".to_owned()]));
    }
    let mut links = read_links(directory)?;
    links.retain(|link| !named(&options.ignore, link));
    if !options.only.is_empty() {
        links.retain(|link| named(&options.only, link));
        links.iter_mut().for_each(|link| link.required = true);
        if links.is_empty() {
            return Ok(Err(vec![format!(
                "no link is named {}",
                options.only.join(", ")
            )]));
        }
    }
    if options.any {
        let one = links
            .iter()
            .any(|link| online(std::slice::from_ref(link)).is_ok());
        return Ok(if one { Ok(()) } else { online(&links) });
    }
    if !options.only.is_empty() {
        // Named links are all waited for.
        let each: Vec<String> = links
            .iter()
            .filter_map(|link| online(std::slice::from_ref(link)).err())
            .flatten()
            .collect();
        return Ok(if each.is_empty() { Ok(()) } else { Err(each) });
    }
    Ok(online(&links))
}

fn named(patterns: &[String], link: &LinkStatus) -> bool {
    patterns.iter().any(|pattern| glob(pattern, &link.name))
}

/// The states of all links that the kernel has now: the daemon's word for managed ones, the kernel's for others.
pub(super) fn read_links(directory: &Path) -> Result<Vec<LinkStatus>, WaitError> {
    let mut kernel = Kernel::default();
    Handle::new()
        .and_then(|mut handle| kernel.list(&mut handle, now()))
        .map_err(WaitError::Links)?;
    let read = |link: &Link| {
        let path = directory.join("links").join(link.index.to_string());
        let published = fs::read_to_string(path).ok();
        let published = published.and_then(|text| LinkStatus::parse(link.index, &text));
        published.unwrap_or_else(|| {
            unmanaged(link, facts::link(link).kind, &kernel.addresses(link.index))
        })
    };
    Ok(kernel
        .links
        .values()
        .filter(|l| !l.is_loopback())
        .map(read)
        .collect())
}
