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
mod context;
mod core;
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
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use syscalls::socket::{Message, peek, peer_credentials, pending, receive};

use self::config::Config;
use self::core::{Core, Sender, Transport};
use self::kernel::KernelLog;
use self::native::ClientEntry;
use self::outbox::{Message as Note, Outbox};
use self::sockets::{SocketError, Sockets};
use self::stream::{Look, Stream};
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
                SYSLOG => log_syslog(core, &message, data),
                _ => log_native(core, &message, data),
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

    fn accept_streams(&mut self) {
        for _ in 0..BATCH {
            match self.sockets.stdout.accept() {
                Ok((stream, _)) => self.add_stream(stream.into(), false),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    fn add_stream(&mut self, fd: OwnedFd, from_store: bool) {
        if self.connections.len() >= MAX_CONNECTIONS {
            tracing::warn!("refused a stream, there are {MAX_CONNECTIONS} already");
            return;
        }
        match Stream::new(&self.root, fd, from_store) {
            Ok(stream) => {
                // Before anything is read: from here on the connection outlives us.
                if !from_store && let Ok(copy) = stream.fd.try_clone() {
                    self.outbox
                        .push(Note::Store(stream.stored_as.clone(), copy));
                }
                self.watch(Connected::Stream(stream));
            }
            Err(err) => tracing::warn!("failed to take a stream: {err}"),
        }
    }

    fn watch(&mut self, connected: Connected) {
        use epoll::EventFlags;
        let (fd, flags) = match &connected {
            // Edge-triggered: a line without its end stays in the socket and must not wake us again and again.
            Connected::Stream(stream) => (
                stream.fd.as_fd(),
                EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            ),
            Connected::Caller(caller) => (caller.stream.as_fd(), EventFlags::IN),
        };
        let token = self.next_token;
        match epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags) {
            Ok(()) => {
                self.next_token += 1;
                self.connections.insert(token, connected);
            }
            Err(err) => tracing::warn!("failed to wait for a connection: {err}"),
        }
    }

    /// Reads a stream for one turn.
    fn stream_turn(&mut self, token: u64) {
        for _ in 0..BATCH {
            let Some(Connected::Stream(stream)) = self.connections.get_mut(&token) else {
                return;
            };
            match stream.look(&mut self.buffer) {
                Look::Idle => return,
                Look::Closed => return self.drop_stream(token),
                Look::Data(len, sender, rest) => {
                    let data = &self.buffer[..len];
                    let used = match &stream.header {
                        None => match stream.read_header(data, rest) {
                            Ok(used) => used,
                            Err(what) => {
                                tracing::warn!("closed a stream whose header {what}");
                                return self.drop_stream(token);
                            }
                        },
                        Some(_) => {
                            let core = &mut self.core;
                            let outcome = catch_unwind(AssertUnwindSafe(|| {
                                log_lines(core, stream, sender, data, rest)
                            }));
                            outcome.unwrap_or_else(|_| {
                                tracing::error!(
                                    length = len,
                                    "dropped lines that could not be handled"
                                );
                                len
                            })
                        }
                    };
                    if used == 0 {
                        return;
                    }
                    stream.take(used, &mut self.scratch);
                }
            }
        }
        self.ready.push_back(token);
    }

    fn drop_stream(&mut self, token: u64) {
        if let Some(Connected::Stream(stream)) = self.connections.remove(&token) {
            stream.forget();
            self.outbox.push(Note::Remove(stream.stored_as));
        }
    }

    fn accept_callers(&mut self) {
        let Some(varlink) = &self.sockets.varlink else {
            return;
        };
        if let Ok((stream, _)) = varlink.accept()
            && let Ok(caller) = Connection::new(stream)
        {
            self.watch(Connected::Caller(caller));
        }
    }

    fn caller_turn(&mut self, token: u64) {
        let Some(Connected::Caller(mut caller)) = self.connections.remove(&token) else {
            return;
        };
        let open = caller.fill();
        let root = peer_credentials(&caller.stream).is_ok_and(|c| c.uid == 0);
        let mut answered = true;
        while let Some(request) = caller.next_request() {
            let (reply, oneway) = match varlink::parse(&request) {
                Err(reply) => (reply, false),
                Ok((_, oneway)) if !root => (varlink::denied(), oneway),
                Ok((call, oneway)) => match self.call(call) {
                    Ok(()) => (varlink::done(call), oneway),
                    Err(err) => (varlink::failed(&telemetry::chain(&err)), oneway),
                },
            };
            answered &= oneway || caller.reply(&reply).is_ok();
        }
        if open && answered {
            self.connections.insert(token, Connected::Caller(caller));
        }
    }

    /// Does what a caller or a signal asks for.
    fn call(&mut self, call: Call) -> Result<(), journal::StoreError> {
        let outcome = match call {
            Call::GetInfo => Ok(()),
            Call::FlushToVar => self.core.storage.flush_to_var().map(|on_disk| {
                let place = self.core.storage.place();
                let text = match on_disk {
                    true => format!("Journal is written to {place}"),
                    false => format!("Journal stays in memory, {place}: there is no disk for it"),
                };
                self.core
                    .driver(6, "ec387f577b844b8fa948f33cad9a75e6", &text, &[]);
                self.outbox.push(Note::Status(text));
            }),
            Call::RelinquishVar => self.core.storage.relinquish_var(),
            Call::Rotate => self.core.storage.rotate(),
            Call::Synchronize => {
                self.drain();
                self.core.storage.sync()
            }
        };
        outcome.inspect_err(|err| self.core.complain(err))
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

fn log_native(core: &mut Core, message: &Message, data: &[u8]) {
    let sender = Sender {
        transport: Transport::Journal,
        credentials: message.credentials,
        unit: None,
    };
    let from_file;
    let data = match &message.fds[..] {
        [] => data,
        // An empty datagram with one file: the entry is in there.
        [fd] if data.is_empty() => match read_file(fd) {
            Ok(bytes) => {
                from_file = bytes;
                &from_file
            }
            Err(what) => {
                tracing::warn!("ignored an entry in a file: {what}");
                return;
            }
        },
        _ => {
            tracing::warn!("ignored a datagram with {} descriptors", message.fds.len());
            return;
        }
    };
    for mut entry in native::parse(data) {
        entry.fields.extend(sent_at(message));
        core.log(sender, entry);
    }
}

/// When the kernel took the message from its sender, as a field.
fn sent_at(message: &Message) -> Option<Vec<u8>> {
    let usec = message.realtime_usec?;
    Some(format!("_SOURCE_REALTIME_TIMESTAMP={usec}").into_bytes())
}

/// Reads an entry that was sent as a file: memory or a local disk, where reading cannot be made to wait.
fn read_file(fd: &OwnedFd) -> Result<Vec<u8>, String> {
    const LOCAL: [i64; 4] = [0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e];
    let stat = rustix::fs::fstat(fd).map_err(|err| err.to_string())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err("it is not a regular file".to_owned());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > ENTRY_MAX {
        return Err(format!("it has {size} bytes"));
    }
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let kind = rustix::fs::fstatfs(fd)
        .map_err(|err| err.to_string())?
        .f_type as i64;
    if !LOCAL.contains(&kind) {
        return Err(format!("it is on a file system of kind {kind:#x}"));
    }
    let copy = fd.try_clone().map_err(|err| err.to_string())?;
    let mut file = File::from(copy);
    let mut bytes = Vec::with_capacity(size as usize);
    io::Seek::rewind(&mut file).map_err(|err| err.to_string())?;
    file.take(ENTRY_MAX)
        .read_to_end(&mut bytes)
        .map_err(|err| err.to_string())?;
    Ok(bytes)
}

fn log_syslog(core: &mut Core, message: &Message, data: &[u8]) {
    // Some senders end a message with a NUL.
    let data = data.strip_suffix(&[0]).unwrap_or(data);
    let parts = syslog::parse(data);
    if parts.text.is_empty() {
        return;
    }
    let mut entry = ClientEntry {
        priority: Some(parts.priority),
        ..ClientEntry::default()
    };
    let mut add = |name: &str, value: &[u8]| {
        entry.fields.push([name.as_bytes(), b"=", value].concat());
    };
    add("PRIORITY", parts.priority.to_string().as_bytes());
    if let Some(facility) = parts.facility {
        add("SYSLOG_FACILITY", facility.to_string().as_bytes());
    }
    for (name, value) in [
        ("SYSLOG_IDENTIFIER", parts.identifier),
        ("SYSLOG_PID", parts.pid),
        ("SYSLOG_TIMESTAMP", parts.timestamp),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    add("MESSAGE", parts.text);
    entry.fields.extend(sent_at(message));
    let sender = Sender {
        transport: Transport::Syslog,
        credentials: message.credentials,
        unit: None,
    };
    core.log(sender, entry);
}

/// Stores the lines in `data`; gives the bytes used.
fn log_lines(
    core: &mut Core,
    stream: &Stream,
    credentials: syscalls::socket::Credentials,
    data: &[u8],
    rest: Option<lines::Break>,
) -> usize {
    let Some(header) = &stream.header else {
        return 0;
    };
    let (lines, used) = lines::split(data, rest);
    let unit = (stream.trusted && !header.unit.is_empty()).then_some(header.unit.as_str());
    let sender = Sender {
        transport: Transport::Stdout,
        credentials: Some(credentials),
        unit,
    };
    for (line, how) in lines {
        let (priority, line) = match syslog::priority(line).filter(|_| header.level_prefix) {
            // A level without a facility keeps the stream's.
            Some((value, rest)) if value < 8 => (header.priority & !7 | value, rest),
            Some((value, rest)) => (value, rest),
            None => (header.priority, line),
        };
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let level = (priority & 7) as u8;
        let mut entry = ClientEntry {
            priority: Some(level),
            ..ClientEntry::default()
        };
        let mut add = |name: &str, value: &[u8]| {
            entry.fields.push([name.as_bytes(), b"=", value].concat());
        };
        add("PRIORITY", level.to_string().as_bytes());
        add("SYSLOG_FACILITY", (priority >> 3).to_string().as_bytes());
        if !header.identifier.is_empty() {
            add("SYSLOG_IDENTIFIER", header.identifier.as_bytes());
        }
        add("_STREAM_ID", stream.id.as_bytes());
        if let Some(how) = how.field() {
            add("_LINE_BREAK", how.as_bytes());
        }
        add("MESSAGE", line);
        core.log(sender, entry);
        if header.to_console {
            core.write_console(&header.identifier, credentials.pid, line);
        }
        if header.to_kmsg {
            core.write_kmsg(level, &header.identifier, credentials.pid, line);
        }
    }
    used
}
