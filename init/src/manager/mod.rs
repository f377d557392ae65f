//! The system manager's loop: one thread, one poll set. Everything that happens becomes an
//! [`Event`](unit_engine::Event) for the engine; everything the engine decides is done by [`actions`].
//!
//! ```text
//! poll ─▶ sources in order ─▶ Event ─▶ engine.handle ─▶ actions ─▶ (Spawned, SocketsOpened …) ─▶ Event
//! ```
//!
//! The loop never blocks but in `epoll_wait`, never waits for a lock, a name service or the network, and
//! never ends. A panic in the engine is caught here: it is logged, and the manager executes itself anew from
//! its serialised state.

mod actions;
mod answers;
mod control;
mod launch;
mod poll;
mod sources;
pub(crate) mod state;
mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use init_control::BootTimes;
use rustix::event::epoll::EventFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use unit_engine::{Action, Engine, Event, FdToken, Now, SpawnId};
use unit_file::UnitName;
use unit_file::settings::Listen;

use crate::clock;
use crate::devices::{Links, Uevent};
use crate::host::System;
use crate::log::{self, Level};
use control::Control;
pub(crate) use launch::BUS_SOCKETS;
use poll::{Poll, Source};
use sources::{SIGCHLD, SIGHUP, SIGINT, SIGPWR, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use watch::{Cgroups, Devices, Paths};

/// Descriptors that the manager has from its start, or keeps over a re-execution.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The control socket, listening.
    pub(crate) control: OwnedFd,
    /// The notify socket.
    pub(crate) notify: OwnedFd,
    /// Listening sockets bound before any unit, by path: those of the buses.
    pub(crate) held: BTreeMap<String, OwnedFd>,
    /// The armed watchdog.
    pub(crate) watchdog: Option<OwnedFd>,
    /// Descriptors the engine knows.
    pub(crate) fds: HashMap<FdToken, Held>,
    /// Report pipes of processes on their way.
    pub(crate) reports: HashMap<SpawnId, OwnedFd>,
    /// The next token.
    pub(crate) next_token: u64,
    /// When the manager panicked, of late.
    pub(crate) panics: Vec<u64>,
}

/// A descriptor held for the engine.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) fd: OwnedFd,
    /// The socket unit and line it was opened for.
    pub(crate) listen: Option<(UnitName, Listen)>,
}

/// A helper process that answers on a pipe.
#[derive(Debug)]
struct Helper {
    event: Uevent,
    pipe: OwnedFd,
    text: Vec<u8>,
}

/// The running manager.
#[derive(Debug)]
pub(crate) struct Manager {
    engine: Engine,
    system: System,
    poll: Poll,
    queue: VecDeque<Event>,
    control: Control,
    inherited_notify: OwnedFd,
    held: BTreeMap<String, OwnedFd>,
    watchdog: Option<(OwnedFd, u64)>,
    signals: OwnedFd,
    timer: OwnedFd,
    clock_timer: OwnedFd,
    mount_table: std::fs::File,
    uevents: OwnedFd,
    cgroup_watch: Cgroups,
    oom_kills: HashMap<String, u64>,
    path_watch: Paths,
    device_watch: Devices,
    links: Links,
    fds: HashMap<FdToken, Held>,
    next_token: u64,
    listeners: HashMap<FdToken, (UnitName, bool)>,
    reports: HashMap<SpawnId, OwnedFd>,
    helpers: HashMap<u64, Helper>,
    next_helper: u64,
    machine: crate::cgroups::Machine,
    private_tmp_key: String,
    times: BootTimes,
    ctrl_alt_del: Vec<u64>,
    status_lines: bool,
    /// When memory that only the boot needed is given back, if nothing happens before.
    give_back_at: Option<u64>,
    panics: Vec<u64>,
}

/// What the manager needs besides its descriptors.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    pub(crate) system: System,
    pub(crate) times: BootTimes,
    pub(crate) private_tmp_key: String,
    pub(crate) uevents: OwnedFd,
    pub(crate) links: Links,
}

const WATCHDOG_PERIOD_USEC: u64 = 30_000_000;
/// Nothing has happened for so long after the boot: it is really over.
const QUIET_USEC: u64 = 10_000_000;
/// More panics than this within the time after it: going on is no use.
const PANICS_AT_MOST: usize = 5;
const PANICS_WITHIN_USEC: u64 = 60_000_000;

impl Manager {
    /// Puts the manager together; nothing has happened yet.
    pub(crate) fn new(setup: Setup, inherited: Inherited) -> std::io::Result<Manager> {
        let mut handled = vec![
            SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGTERM, SIGCHLD, SIGWINCH, SIGPWR,
        ];
        handled.extend(syscalls::signal::RTMIN..=syscalls::signal::RTMIN + 30);
        let mut manager = Manager {
            engine: setup.engine,
            system: setup.system,
            poll: Poll::new()?,
            queue: VecDeque::new(),
            control: Control::new(inherited.control),
            inherited_notify: inherited.notify,
            held: inherited.held,
            watchdog: inherited.watchdog.map(|fd| (fd, 0)),
            signals: syscalls::signal::signalfd(&handled)?,
            timer: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
            clock_timer: timerfd_create(
                TimerfdClockId::Realtime,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
            mount_table: std::fs::File::open("/proc/self/mountinfo")?,
            uevents: setup.uevents,
            cgroup_watch: Cgroups::new()?,
            oom_kills: HashMap::new(),
            path_watch: Paths::new()?,
            device_watch: Devices::new()?,
            links: setup.links,
            fds: inherited.fds,
            next_token: inherited.next_token,
            listeners: HashMap::new(),
            reports: HashMap::new(),
            helpers: HashMap::new(),
            next_helper: 1,
            machine: crate::cgroups::Machine::this(),
            private_tmp_key: setup.private_tmp_key,
            times: setup.times,
            ctrl_alt_del: Vec::new(),
            status_lines: true,
            give_back_at: None,
            panics: inherited.panics,
        };
        manager.register(inherited.reports)?;
        Ok(manager)
    }

    fn register(&mut self, reports: HashMap<SpawnId, OwnedFd>) -> std::io::Result<()> {
        self.poll.add_read(&self.inherited_notify, Source::Notify)?;
        self.poll.add_read(&self.signals, Source::Signals)?;
        self.poll
            .add_read(self.control.listener(), Source::Control)?;
        self.poll.add_read(&self.timer, Source::Timer)?;
        self.poll.add_read(&self.uevents, Source::Uevents)?;
        self.poll
            .add_read(self.cgroup_watch.fd(), Source::Cgroups)?;
        self.poll.add_read(self.path_watch.fd(), Source::Paths)?;
        self.poll
            .add_read(self.device_watch.fd(), Source::Devices)?;
        self.poll.add(
            &self.mount_table,
            Source::Mounts,
            EventFlags::PRI | EventFlags::ERR,
        )?;
        self.arm_clock_timer();
        self.poll.add_read(&self.clock_timer, Source::Clock)?;
        for (id, fd) in reports {
            self.poll.add_read(&fd, Source::Report(id))?;
            self.reports.insert(id, fd);
        }
        Ok(())
    }

    /// Handles these events first, then runs for ever.
    pub(crate) fn run(mut self, first: Vec<Event>, restored: Vec<Action>) -> ! {
        self.perform_all(restored);
        self.read_mounts();
        self.queue.extend(first);
        self.drain();
        loop {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.turn())) {
                self.recover("a turn of the loop", panic.as_ref());
            }
        }
    }

    fn turn(&mut self) {
        self.arm_timer();
        self.pet_watchdog();
        let ready = self.poll.wait();
        if self.give_back_at.is_some() && ready.iter().any(|s| *s != Source::Timer) {
            self.give_back_later();
        }
        self.system.new_turn();
        for source in ready {
            self.handle(source);
            self.drain();
        }
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Notify => self.read_notifications(),
            Source::Report(id) => self.read_report(id),
            Source::Mounts => self.read_mounts(),
            Source::Uevents => self.read_uevents(),
            Source::Helper(id) => self.read_helper(id),
            Source::Signals => self.read_signals(),
            Source::Control => self.control.accept(&mut self.poll),
            Source::Client(id) => {
                for (id, request) in self.control.ready(id, &mut self.poll) {
                    self.queue.push_back(Event::Request { id, request });
                    self.drain();
                }
            }
            Source::Listener(token) => self.listener_ready(token),
            Source::Stored(token) => {
                self.forget(token);
                self.queue.push_back(Event::StoredFdGone { token });
            }
            Source::Devices => {
                for name in self.device_watch.news() {
                    self.probe_again(&name);
                }
            }
            Source::Paths => {
                for (unit, index) in self.path_watch.news() {
                    self.queue.push_back(Event::PathTriggered { unit, index });
                }
            }
            Source::Clock => {
                // A set clock cancels the timer; reading it says so once, then it is armed anew.
                let _ = rustix::io::read(&self.clock_timer, &mut [0; 8]);
                self.arm_clock_timer();
                self.queue.push_back(Event::ClockChanged);
            }
            Source::Timer => {
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                if self
                    .give_back_at
                    .take_if(|at| *at <= clock::monotonic_usec())
                    .is_some()
                {
                    give_back_memory();
                }
                if self
                    .engine
                    .next_deadline()
                    .is_some_and(|d| d <= clock::monotonic_usec())
                {
                    self.queue.push_back(Event::TimerElapsed);
                }
            }
            Source::Cgroups => self.read_cgroups(),
        }
    }

    /// Lets the engine handle everything that is queued.
    fn drain(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            let now = now();
            let (engine, system) = (&mut self.engine, &self.system);
            let name = describe(&event);
            match catch_unwind(AssertUnwindSafe(|| {
                crate::failpoint::event();
                engine.handle(now, event, system)
            })) {
                Ok(actions) => self.perform_all(actions),
                Err(panic) => self.recover(&name, panic.as_ref()),
            }
        }
    }

    /// After a panic: the manager anew, with the engine as it is now. An older state would be worse than none: its pids may
    /// be those of others by now.
    fn recover(&mut self, event: &str, panic: &(dyn std::any::Any + Send)) {
        let text = panic_text(panic);
        log::say(
            Level::Critical,
            format_args!("internal error while handling {event}: {text}"),
        );
        let now = clock::monotonic_usec();
        self.panics
            .retain(|at| now.saturating_sub(*at) < PANICS_WITHIN_USEC);
        self.panics.push(now);
        if self.panics.len() > PANICS_AT_MOST {
            crate::boot::hold_on("internal errors come one after the other");
        }
        let engine = &self.engine;
        match catch_unwind(AssertUnwindSafe(|| engine.serialise())) {
            Ok(state) => {
                let error = self.execute_anew(&state);
                log::say(
                    Level::Critical,
                    format_args!("re-execution failed: {error}; going on"),
                );
            }
            Err(_) => log::say(
                Level::Critical,
                format_args!("no state to go on from; going on with what there is"),
            ),
        }
    }

    fn arm_timer(&self) {
        let watchdog = self
            .watchdog
            .as_ref()
            .map(|(_, petted)| petted + WATCHDOG_PERIOD_USEC);
        let deadline = [self.engine.next_deadline(), watchdog, self.give_back_at]
            .into_iter()
            .flatten()
            .min();
        // Zero would disarm: a deadline at the origin of the clock is one microsecond late instead.
        let at = deadline.map_or(0, |d| d.max(1));
        let spec = Itimerspec {
            it_interval: timespec(0),
            it_value: timespec(at),
        };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec);
    }

    fn arm_clock_timer(&self) {
        let far = Timespec {
            tv_sec: i64::MAX / 2,
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval: timespec(0),
            it_value: far,
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let _ = timerfd_settime(&self.clock_timer, flags, &spec);
    }

    /// The boot is over; what it needed is given back once it is quiet.
    fn give_back_later(&mut self) {
        self.give_back_at = Some(clock::monotonic_usec() + QUIET_USEC);
    }

    fn pet_watchdog(&mut self) {
        let now = clock::monotonic_usec();
        if let Some((device, petted)) = &mut self.watchdog
            && now >= *petted + WATCHDOG_PERIOD_USEC
        {
            let _ = syscalls::watchdog::pet(device.as_fd());
            *petted = now;
        }
    }

    fn listener_ready(&mut self, token: FdToken) {
        let Some((unit, accept)) = self.listeners.get(&token).cloned() else {
            return;
        };
        if !accept {
            self.unwatch_sockets(&unit);
            self.queue.push_back(Event::SocketReady { unit });
            return;
        }
        // Bounded: the engine's limits (MaxConnections=, TriggerLimit*=) are to be asked in between.
        for _ in 0..16 {
            let Some(held) = self.fds.get(&token) else {
                return;
            };
            match crate::sockets::accept(held.fd.as_fd()) {
                Ok((connection, peer)) => {
                    let connection = self.hold(connection, None);
                    self.queue.push_back(Event::Accepted {
                        unit: unit.clone(),
                        token: connection,
                        peer,
                    });
                    self.drain();
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// Keeps a descriptor and names it.
    fn hold(&mut self, fd: OwnedFd, listen: Option<(UnitName, Listen)>) -> FdToken {
        let token = FdToken(self.next_token);
        self.next_token += 1;
        self.fds.insert(token, Held { fd, listen });
        token
    }

    /// Closes a descriptor, wherever it is watched.
    fn forget(&mut self, token: FdToken) {
        self.listeners.remove(&token);
        if let Some(held) = self.fds.remove(&token) {
            self.poll.remove(&held.fd, &Source::Listener(token));
            self.poll.remove(&held.fd, &Source::Stored(token));
        }
    }

    fn unwatch_sockets(&mut self, unit: &UnitName) {
        let tokens: Vec<FdToken> = self
            .listeners
            .iter()
            .filter(|(_, (u, _))| u == unit)
            .map(|(t, _)| *t)
            .collect();
        for token in tokens {
            self.listeners.remove(&token);
            if let Some(held) = self.fds.get(&token) {
                self.poll.remove(&held.fd, &Source::Listener(token));
            }
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown")
}

/// Booting takes more code and more heap than anything that comes later. Where the kernel does not take it, it stays.
fn give_back_memory() {
    syscalls::system::trim_heap();
    if let Err(error) = syscalls::system::page_out_program() {
        log::say(
            Level::Debug,
            format_args!("pages of the program stay in memory: {error}"),
        );
    }
}

/// All clocks, now.
pub(crate) fn now() -> Now {
    Now {
        monotonic: clock::monotonic_usec(),
        realtime: clock::realtime_usec(),
        boottime: clock::boottime_usec(),
    }
}

fn timespec(usec: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(usec / 1_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(usec % 1_000_000).unwrap_or(0) * 1000,
    }
}

/// The event in a few words, for the log after a panic.
fn describe(event: &Event) -> String {
    let mut text = format!("{event:?}");
    let end = text.char_indices().map(|(i, _)| i).find(|i| *i >= 200);
    if let Some(end) = end {
        text.truncate(end);
    }
    text
}
