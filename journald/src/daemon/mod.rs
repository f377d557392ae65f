//! The journal daemon: receives what programs, the manager and the kernel log, adds what it knows of the sender, and
//! writes it down.
//!
//! ```text
//! socket (native) ─┐
//! dev-log (syslog) ├─ Daemon (one thread, one epoll loop) ─ Core ─ Storage ─ /run/log/journal → /var/log/journal
//! stdout (streams) │                                         ├ Contexts (/proc)      at `journalctl --flush`
//! /dev/kmsg ───────┘                                         └ RateLimit
//! io.systemd.journal (varlink: flush, rotate, sync)
//! ```
//!
//! No message is lost when journald is killed: input is looked at, stored, and only then taken out of its socket; the
//! manager (PID 1) holds the sockets and, in its descriptor store, every stream's connection. A kill between storing
//! and taking stores a message twice at worst.
//!
//! A message that makes our code panic is dropped with a note: it must not be met again after the restart.

pub mod cgroup;
pub mod config;
mod connections;
mod context;
mod core;
mod datagrams;
mod kernel;
pub mod kmsg;
pub mod lines;
pub mod native;
mod outbox;
pub mod rate;
mod sockets;
mod storage;
mod stream;
pub mod syslog;
pub mod varlink;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use syscalls::socket::{peek, pending, receive};

use self::config::Config;
use self::core::Core;
use self::kernel::KernelLog;
use self::outbox::{Message as Note, Outbox};
use self::sockets::{SocketError, Sockets};
use self::stream::Stream;
use self::varlink::{Call, Connection};

const SIGINT: i32 = 2;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGRTMIN_1: i32 = syscalls::signal::RTMIN + 1;

/// Messages of one socket, or looks into one stream, before others get their turn.
const BATCH: usize = 32;
/// A datagram or file beyond this is not taken.
const ENTRY_MAX: u64 = 64 << 20;
/// Connections beyond this are refused; each costs a descriptor here and one in the manager.
const MAX_CONNECTIONS: usize = 4096;

const SIGNALS: u64 = 0;
const NATIVE: u64 = 1;
const SYSLOG: u64 = 2;
const STDOUT: u64 = 3;
const VARLINK: u64 = 4;
const KMSG: u64 = 5;
const OUTBOX: u64 = 6;
const FIRST_CONNECTION: u64 = 16;

/// journald cannot start, or not go on.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("failed to open the sockets")]
    Sockets(#[source] SocketError),
    #[error("failed to open the journal")]
    Storage(#[source] journal::StoreError),
    #[error("failed to wait for input")]
    Wait(#[source] io::Error),
}

/// The program.
pub fn main() -> ExitCode {
    telemetry::init("journald", telemetry::Sink::Stderr, 0);
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--version") => {
            println!("journald {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("--help") => {
            println!(
                "Usage: journald\n\nCollects log messages. Started by systemd-journald.socket; without passed sockets it makes\n\
                 its own below /run/systemd/journal.\n\nExample: systemctl restart systemd-journald.service"
            );
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!(
                "journald: unknown argument {other:?}\nhint: journald takes no arguments; see journald --help"
            );
            return ExitCode::from(2);
        }
    }
    match Daemon::start(Path::new("/")).and_then(|mut daemon| daemon.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => telemetry::report("journald", &err, None),
    }
}

#[derive(Debug)]
enum Connected {
    Stream(Stream),
    Caller(Connection),
}

#[derive(Debug)]
struct Daemon {
    root: PathBuf,
    core: Core,
    epoll: OwnedFd,
    signals: OwnedFd,
    sockets: Sockets,
    kernel: Option<KernelLog>,
    connections: BTreeMap<u64, Connected>,
    next_token: u64,
    /// Streams with more to read than one turn allows.
    ready: VecDeque<u64>,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    watchdog: Option<Duration>,
    outbox: Outbox,
    stop: bool,
}

impl Daemon {
    fn start(root: &Path) -> Result<Self, DaemonError> {
        let mut sockets = Sockets::open(root).map_err(DaemonError::Sockets)?;
        let (config, complaints) = Config::load(root);
        for complaint in complaints {
            tracing::warn!("{complaint}");
        }
        let read_kmsg = config.read_kmsg;
        let core = Core::new(root, config).map_err(DaemonError::Storage)?;
        let wait = |err: rustix::io::Errno| DaemonError::Wait(err.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wait)?;
        let signals = syscalls::signal::signalfd(&[SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGRTMIN_1])
            .map_err(DaemonError::Wait)?;
        let kernel = read_kmsg.then(|| KernelLog::open(root)).flatten();
        let stored = std::mem::take(&mut sockets.streams);
        let mut daemon = Self {
            root: root.to_owned(),
            core,
            epoll,
            signals,
            sockets,
            kernel,
            connections: BTreeMap::new(),
            next_token: FIRST_CONNECTION,
            ready: VecDeque::new(),
            buffer: vec![0; 64 << 10],
            scratch: vec![0; 64 << 10],
            outbox: Outbox::new(),
            watchdog: sd_daemon::watchdog_interval().map(|interval| interval / 2),
            stop: false,
        };
        daemon.register().map_err(wait)?;
        for fd in stored {
            daemon.add_stream(fd, true);
        }
        let text = format!(
            "Journal started, writing to {}",
            daemon.core.storage.place()
        );
        daemon
            .core
            .driver(6, "f77379a8490b408bbe5f6940505a777b", &text, &[]);
        daemon.outbox.push(Note::Ready(format!(
            "writing to {}",
            daemon.core.storage.place()
        )));
        Ok(daemon)
    }

    fn register(&self) -> rustix::io::Result<()> {
        let add = |fd: std::os::fd::BorrowedFd<'_>, token| {
            epoll::add(
                &self.epoll,
                fd,
                epoll::EventData::new_u64(token),
                epoll::EventFlags::IN,
            )
        };
        add(self.signals.as_fd(), SIGNALS)?;
        add(self.sockets.native.as_fd(), NATIVE)?;
        add(self.sockets.stdout.as_fd(), STDOUT)?;
        if let Some(syslog) = &self.sockets.syslog {
            add(syslog.as_fd(), SYSLOG)?;
        }
        if let Some(varlink) = &self.sockets.varlink {
            add(varlink.as_fd(), VARLINK)?;
        }
        if let Some(fd) = self.outbox.fd() {
            let flags = epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.epoll, fd, epoll::EventData::new_u64(OUTBOX), flags)?;
        }
        // A kernel log that cannot be waited for is no reason not to run.
        if let Some(kernel) = &self.kernel
            && let Err(err) = add(kernel.as_fd(), KMSG)
        {
            tracing::warn!("not reading the kernel's log: {err}");
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), DaemonError> {
        let mut events = Vec::with_capacity(64);
        let mut next_ping = 0;
        while !self.stop {
            let now = self.core.now();
            if let Some(interval) = self.watchdog
                && now >= next_ping
            {
                self.outbox.push(Note::Watchdog);
                next_ping = now + interval.as_micros() as u64;
            }
            if self.core.storage.sync_due().is_some_and(|due| now >= due) {
                self.sync();
            }
            let ping = self.watchdog.map(|_| next_ping);
            let due = [ping, self.core.storage.sync_due()]
                .into_iter()
                .flatten()
                .min();
            let wait = match (self.ready.is_empty(), due) {
                (false, _) => Some(0),
                (true, due) => due.map(|due| due.saturating_sub(now)),
            };
            let wait = wait.map(|usec| Timespec {
                tv_sec: (usec / 1_000_000) as i64,
                tv_nsec: (usec % 1_000_000 * 1000) as i64,
            });
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                wait.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(DaemonError::Wait(errno.into())),
            }
            for event in events.drain(..) {
                self.dispatch(event.data.u64(), event.flags);
            }
            for _ in 0..self.ready.len() {
                if let Some(token) = self.ready.pop_front() {
                    self.stream_turn(token);
                }
            }
        }
        self.finish();
        Ok(())
    }

    fn dispatch(&mut self, token: u64, flags: epoll::EventFlags) {
        match token {
            SIGNALS => self.signal(),
            NATIVE | SYSLOG => {
                self.datagrams(token);
            }
            STDOUT => self.accept_streams(),
            VARLINK => self.accept_callers(),
            OUTBOX => self.outbox.send(),
            KMSG => {
                if let Some(kernel) = &mut self.kernel
                    && !kernel.read(&mut self.core)
                {
                    // Closing it takes it out of the epoll set.
                    self.kernel = None;
                }
            }
            token => match self.connections.get_mut(&token) {
                Some(Connected::Stream(stream)) => {
                    use epoll::EventFlags;
                    stream.hung_up |=
                        flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                    self.stream_turn(token);
                }
                Some(Connected::Caller(_)) => self.caller_turn(token),
                None => {}
            },
        }
    }

    fn signal(&mut self) {
        while let Ok(Some(received)) = syscalls::signal::read(&self.signals) {
            match received.signal {
                SIGUSR1 => drop(self.call(Call::FlushToVar)),
                SIGUSR2 => drop(self.call(Call::Rotate)),
                SIGRTMIN_1 => drop(self.call(Call::Synchronize)),
                _ => self.stop = true,
            }
        }
    }

    fn sync(&mut self) {
        if let Err(err) = self.core.storage.sync() {
            self.core.complain(&err);
        }
    }

    /// Takes up to a batch of datagrams; whether there was any.
    fn datagrams(&mut self, token: u64) -> bool {
        let mut any = false;
        for _ in 0..BATCH {
            let socket = match (token, &self.sockets.syslog) {
                (SYSLOG, Some(socket)) => socket.as_fd(),
                _ => self.sockets.native.as_fd(),
            };
            let mut message = match peek(socket, &mut self.buffer) {
                Ok(message) => message,
                Err(_) => break,
            };
            any = true;
            let mut long = Vec::new();
            if message.truncated
                && let Ok(size) = pending(socket)
                && size as u64 <= ENTRY_MAX
            {
                long.resize(size, 0);
                if let Ok(again) = peek(socket, &mut long) {
                    message = again;
                }
            }
            let data = if long.is_empty() { &self.buffer } else { &long };
            let data = &data[..message.len.min(data.len())];
            let core = &mut self.core;
            let outcome = catch_unwind(AssertUnwindSafe(|| match token {
                SYSLOG => datagrams::log_syslog(core, &message, data),
                _ => datagrams::log_native(core, &message, data),
            }));
            if outcome.is_err() {
                tracing::error!(
                    length = data.len(),
                    "dropped a datagram that could not be handled"
                );
            }
            // Dealt with: out of the socket. Descriptors of the second copy are closed with it.
            let _ = receive(socket, &mut []);
        }
        any
    }

    /// Stores everything that was sent before now.
    fn drain(&mut self) {
        // A bound, so that a sender which never stops does not keep us here.
        for _ in 0..1024 {
            let native = self.datagrams(NATIVE);
            let syslog = self.sockets.syslog.is_some() && self.datagrams(SYSLOG);
            if !native && !syslog {
                break;
            }
        }
        self.accept_streams();
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            self.stream_turn(token);
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.read(&mut self.core);
        }
    }

    fn finish(&mut self) {
        self.outbox.push(Note::Stopping);
        self.drain();
        self.core.driver(
            6,
            "d93fb3c9c24d451a97cea615ce59c00b",
            "Journal stopped",
            &[],
        );
        self.sync();
    }
}
