//! epoll with names: what became ready is told as [`Source`]s, in the order in which they must be handled.

use std::collections::HashMap;
use std::os::fd::AsFd;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use unit_engine::{FdToken, SpawnId};

/// Something that can become ready. The order of the variants is the order of handling within one turn: a
/// notification before the exit of its sender, the mount table before the exit of the mount helper, an
/// empty cgroup after the exits that emptied it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The notify socket.
    Notify,
    /// A report pipe.
    Report(SpawnId),
    /// The mount table.
    Mounts,
    /// The kernel's device events.
    Uevents,
    /// A helper's answer.
    Helper(u64),
    /// Signals, child exits among them.
    Signals,
    /// Somebody connects to the control socket.
    Control,
    /// A connection of the control socket.
    Client(u64),
    /// A listening descriptor of a socket unit.
    Listener(FdToken),
    /// Hang-up of a stored descriptor.
    Stored(FdToken),
    /// Block devices that were written.
    Devices,
    /// Watched paths.
    Paths,
    /// The real-time clock was set.
    Clock,
    /// The next deadline.
    Timer,
    /// cgroup.events and memory.events.
    Cgroups,
}

/// The poll set.
#[derive(Debug)]
pub(crate) struct Poll {
    fd: std::os::fd::OwnedFd,
    sources: HashMap<u64, Source>,
    keys: HashMap<String, u64>,
    next: u64,
}

impl Poll {
    /// An empty set.
    pub(crate) fn new() -> Result<Poll, Errno> {
        Ok(Poll {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
            sources: HashMap::new(),
            keys: HashMap::new(),
            next: 1,
        })
    }

    /// Watches a descriptor for these events.
    pub(crate) fn add(
        &mut self,
        fd: impl AsFd,
        source: Source,
        events: EventFlags,
    ) -> Result<(), Errno> {
        let key = self.next;
        self.next += 1;
        epoll::add(&self.fd, fd, EventData::new_u64(key), events)?;
        self.keys.insert(name(&source), key);
        self.sources.insert(key, source);
        Ok(())
    }

    /// Watches for reading.
    pub(crate) fn add_read(&mut self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        self.add(fd, source, EventFlags::IN)
    }

    /// Changes what is watched.
    pub(crate) fn modify(
        &mut self,
        fd: impl AsFd,
        source: &Source,
        events: EventFlags,
    ) -> Result<(), Errno> {
        match self.keys.get(&name(source)) {
            Some(key) => epoll::modify(&self.fd, fd, EventData::new_u64(*key), events),
            None => Ok(()),
        }
    }

    /// Watches no longer; must be called before the descriptor is closed.
    pub(crate) fn remove(&mut self, fd: impl AsFd, source: &Source) {
        if let Some(key) = self.keys.remove(&name(source)) {
            self.sources.remove(&key);
            // It fails only if it is gone already.
            let _ = epoll::delete(&self.fd, fd);
        }
    }

    /// Whether this source is watched.
    pub(crate) fn contains(&self, source: &Source) -> bool {
        self.keys.contains_key(&name(source))
    }

    /// Waits until something is ready and returns it in order.
    pub(crate) fn wait(&self) -> Vec<Source> {
        let mut events = Vec::<Event>::with_capacity(256);
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            // Nothing can be done about a broken poll set but not to spin on it.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
        let mut ready: Vec<Source> = events
            .iter()
            .filter_map(|e| self.sources.get(&e.data.u64()).cloned())
            .collect();
        ready.sort();
        ready.dedup();
        ready
    }
}

fn name(source: &Source) -> String {
    format!("{source:?}")
}
