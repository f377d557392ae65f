//! Re-execution: what is kept, and how it travels.
//!
//! The engine's state and the list of descriptors go into a memory file; the descriptors themselves stay
//! open across `exec`. Clients of the control socket see their connection close and come again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use init_control::BootTimes;
use rustix::fs::MemfdFlags;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use unit_engine::{FdToken, SpawnId};
use unit_file::UnitName;
use unit_file::settings::Listen;

use super::{Held, Inherited, Manager};
use crate::log::{self, Level};

const PROGRAM: &str = "/usr/lib/flotilla/init";

/// Everything that a re-executed manager needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// The engine's own state.
    pub(crate) engine: Vec<u8>,
    /// When things happened at boot.
    pub(crate) times: BootTimes,
    /// Whether this is still the first boot.
    pub(crate) first_boot: bool,
    /// Key of the private directories.
    pub(crate) private_tmp_key: String,
    /// Log level.
    pub(crate) log_level: String,
    control: i32,
    notify: i32,
    watchdog: Option<i32>,
    held: Vec<(String, i32)>,
    fds: Vec<SavedFd>,
    reports: Vec<(SpawnId, i32)>,
    next_token: u64,
    /// When the manager panicked, of late.
    panics: Vec<u64>,
}

/// A descriptor the engine knows: its token, its number, and the socket unit's line it was opened for.
type SavedFd = (FdToken, i32, Option<(UnitName, Listen)>);

impl Saved {
    /// Reads what the manager before us left in descriptor `number`.
    pub(crate) fn read(number: i32) -> Result<Saved, String> {
        let fd = syscalls::spawn::take_passed_fd(number).ok_or("no state was passed")?;
        let mut file = std::fs::File::from(fd);
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map_err(|e| e.to_string())?;
        postcard::from_bytes(&bytes).map_err(|e| e.to_string())
    }

    /// Takes the descriptors; those that are not open any more are left out, but for the two that a manager
    /// cannot be without.
    pub(crate) fn inherit(&self) -> Result<Inherited, String> {
        let take = |number: i32| {
            let fd = syscalls::spawn::take_passed_fd(number)?;
            fcntl_setfd(&fd, FdFlags::CLOEXEC).ok()?;
            Some(fd)
        };
        let mut fds = HashMap::new();
        for (token, number, listen) in &self.fds {
            fds.extend(take(*number).map(|fd| {
                (
                    *token,
                    Held {
                        fd,
                        listen: listen.clone(),
                    },
                )
            }));
        }
        Ok(Inherited {
            control: take(self.control).ok_or("the control socket was not passed")?,
            notify: take(self.notify).ok_or("the notify socket was not passed")?,
            held: self
                .held
                .iter()
                .filter_map(|(path, n)| Some((path.clone(), take(*n)?)))
                .collect::<BTreeMap<_, _>>(),
            watchdog: self.watchdog.and_then(take),
            fds,
            reports: self
                .reports
                .iter()
                .filter_map(|(id, n)| Some((*id, take(*n)?)))
                .collect(),
            next_token: self.next_token,
            panics: self.panics.clone(),
        })
    }
}

impl Manager {
    /// Executes the manager anew with its state; goes on if that fails.
    pub(super) fn reexecute(&mut self) {
        log::say(Level::Info, format_args!("executing anew"));
        let state = self.engine.serialise();
        self.control.flush_all(&mut self.poll);
        let error = self.execute_anew(&state);
        log::say(
            Level::Error,
            format_args!("re-execution failed: {error}; going on"),
        );
    }

    /// Executes the manager anew with this state of the engine. Returns only the error.
    pub(super) fn execute_anew(&mut self, engine: &[u8]) -> std::io::Error {
        match self.prepare(engine) {
            Ok(memory) => {
                let argument = format!("--restore={}", memory.as_raw_fd());
                let Ok(argument) = CString::new(argument) else {
                    return std::io::ErrorKind::InvalidInput.into();
                };
                let program = CString::new(PROGRAM).unwrap_or_default();
                let environment = [c"TERM=linux".to_owned()];
                let first = syscalls::spawn::execve(
                    &program,
                    &[program.clone(), argument.clone()],
                    &environment,
                );
                // The installed program may be gone; the running one still is there.
                let second =
                    syscalls::spawn::execve(c"/proc/self/exe", &[program, argument], &environment);
                self.close_on_exec();
                if first.kind() == std::io::ErrorKind::NotFound {
                    second
                } else {
                    first
                }
            }
            Err(error) => error,
        }
    }

    fn prepare(&self, engine: &[u8]) -> std::io::Result<std::fs::File> {
        let number = |fd: &OwnedFd| fd.as_raw_fd();
        let saved = Saved {
            engine: engine.to_vec(),
            times: self.times,
            first_boot: self.system.first_boot,
            private_tmp_key: self.private_tmp_key.clone(),
            log_level: log::threshold().name().to_owned(),
            control: number(self.control.listener()),
            notify: number(&self.inherited_notify),
            watchdog: self.watchdog.as_ref().map(|(fd, _)| number(fd)),
            held: self
                .held
                .iter()
                .map(|(p, fd)| (p.clone(), number(fd)))
                .collect(),
            fds: self
                .fds
                .iter()
                .map(|(t, h)| (*t, number(&h.fd), h.listen.clone()))
                .collect(),
            reports: self
                .reports
                .iter()
                .map(|(id, fd)| (*id, number(fd)))
                .collect(),
            next_token: self.next_token,
            panics: self.panics.clone(),
        };
        let bytes = postcard::to_allocvec(&saved)
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
        let fd = rustix::fs::memfd_create("manager-state", MemfdFlags::empty())?;
        let mut file = std::fs::File::from(fd);
        file.write_all(&bytes)?;
        for fd in self.kept() {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(file)
    }

    fn kept(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.control.listener(), &self.inherited_notify]
            .into_iter()
            .chain(self.watchdog.as_ref().map(|(fd, _)| fd))
            .chain(self.held.values())
            .chain(self.fds.values().map(|h| &h.fd))
            .chain(self.reports.values())
            .map(AsFd::as_fd)
    }

    /// After a failed exec: services started from now on must not get these.
    fn close_on_exec(&self) {
        for fd in self.kept() {
            let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
    }
}
