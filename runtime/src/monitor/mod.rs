//! The monitor of one container.
//!
//! ```text
//! started by a command ─▶ lock, socket ─▶ Start ─▶ network, group, streams, engine ─▶ running
//!                                 Adopt ─▶ pidfd, streams, ports again          ─▶ running
//! running ─ init ends ─▶ drain output, state on disk ─┬─ policy says again ─▶ wait ─▶ Start
//!                                                     └─ network down, --rm, tell all ─▶ exit
//! ```
//!
//! One thread, one poll loop. It ignores the signals that end programs: only the container's end ends it. When
//! it is killed the container goes on; whoever supervises starts another one with `adopt`.

mod clients;
pub mod launch;
pub mod log;
mod policy;
mod run;
pub mod streams;

pub use run::spawn;

use crate::container::{Config, State, Status};
use crate::host::{self, Host};
use crate::network::Connection;
use crate::options::Options;
use crate::protocol::{self, Event, Packet, Request};
use clients::Client;
use log::Log;
use oci_runtime::helper::HelperEngine;
use policy::Backoff;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use streams::{Output, Streams};

/// Why a monitor cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A file or socket operation.
    #[error("failed to {what}")]
    Io {
        /// The step.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// The record.
    #[error(transparent)]
    Container(#[from] crate::container::ContainerError),
    /// Another monitor lives.
    #[error("container {0} has a monitor already")]
    Busy(String),
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |source| MonitorError::Io { what, source }
}

/// The container's first process.
#[derive(Debug)]
struct Init {
    pid: i32,
    /// None if it was gone already when we adopted it.
    pidfd: Option<OwnedFd>,
}

struct Monitor {
    host: Host,
    options: Options,
    config: Config,
    state: State,
    engine: HelperEngine,
    base: String,
    clients: Vec<Client>,
    listener: OwnedFd,
    signals: UnixStream,
    streams: Streams,
    init: Option<Init>,
    execs: Vec<(i32, u64)>,
    exec_number: u64,
    exec_clients: Vec<(u64, OwnedFd)>,
    log: Log,
    network: Option<Connection>,
    size: Option<(u16, u16)>,
    /// When a stop becomes a kill.
    kill_at: Option<Instant>,
    /// When the next start is due.
    restart_at: Option<Instant>,
    /// Until when we wait to hear how an adopted process ended.
    verdict_at: Option<Instant>,
    journal_waits: bool,
    backoff: Backoff,
    started: Instant,
    /// The end is told; leave when everything is sent.
    leaving: Option<Instant>,
    _lock: File,
}

/// Runs a monitor: `start` waits for a command's `Start`, else it adopts. Returns when the container has ended.
pub fn main(data: &Path, id: &str) -> Result<(), MonitorError> {
    let host = Host::new(data);
    // A session of its own: no terminal's hang-up and no shell's job control reach it.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| io_error("become the parent of orphans")(error.into()))?;
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let run = host.run_of(id);
    std::fs::create_dir_all(&run).map_err(io_error("make the runtime directory"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(host.run.join("containers"), mode)
        .map_err(io_error("protect the runtime directory"))?;
    let lock = take_lock(&run, id)?;
    let container = host.load(id)?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|error| io_error("keep the command's connection")(error.into()))?;
    replace_streams()?;
    let signals = watch_signals()?;
    let listener =
        protocol::listen(&run.join("monitor.sock")).map_err(io_error("listen for commands"))?;
    let (options, _) = Options::current();
    let log = Log::open(&host.container(id), &container.config);
    let engine = HelperEngine {
        program: host::monitor_program(),
        directory: run,
    };
    let mut monitor = Monitor {
        log,
        engine,
        listener,
        signals,
        options,
        host,
        config: container.config,
        state: container.state,
        base: String::new(),
        clients: vec![Client::new(control)],
        streams: Streams::default(),
        init: None,
        execs: Vec::new(),
        exec_number: 0,
        exec_clients: Vec::new(),
        network: None,
        size: None,
        kill_at: None,
        restart_at: None,
        verdict_at: None,
        journal_waits: false,
        backoff: Backoff::default(),
        started: Instant::now(),
        leaving: None,
        _lock: lock,
    };
    monitor.work()
}

/// The lock says that a monitor lives. One that is just leaving is waited for.
fn take_lock(run: &Path, id: &str) -> Result<File, MonitorError> {
    let lock = host::open_lock(&run.join("lock")).map_err(io_error("open the container's lock"))?;
    for _ in 0..100 {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(io_error("take the container's lock")(error));
            }
        }
    }
    Err(MonitorError::Busy(id.to_owned()))
}

/// Nothing of the command's streams stays open in us.
fn replace_streams() -> Result<(), MonitorError> {
    let null = streams::null_file().map_err(io_error("open /dev/null"))?;
    let replaced = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    replaced.map_err(|error| io_error("replace the standard streams")(error.into()))
}

/// SIGCHLD wakes the loop; what usually ends programs is taken and forgotten. Handlers, not "ignore": what is
/// ignored would be ignored in the container too.
fn watch_signals() -> Result<UnixStream, MonitorError> {
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    let (read, write) = UnixStream::pair().map_err(io_error("make the signal pipe"))?;
    read.set_nonblocking(true)
        .map_err(io_error("make the signal pipe"))?;
    for signal in [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2] {
        let write = write
            .try_clone()
            .map_err(io_error("make the signal pipe"))?;
        signal_hook::low_level::pipe::register(signal, write)
            .map_err(io_error("handle signals"))?;
    }
    Ok(read)
}

/// What a poll slot stands for.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Signals,
    Listener,
    Client(usize),
    Stdout,
    Stderr,
    Master,
    Input,
    Init,
}

impl Monitor {
    fn work(&mut self) -> Result<(), MonitorError> {
        loop {
            let ready = self.poll()?;
            for (slot, flags) in ready {
                match slot {
                    Slot::Signals => self.reap(),
                    Slot::Listener => self.accept(),
                    Slot::Client(index) => self.serve(index, flags),
                    Slot::Stdout | Slot::Stderr | Slot::Master => self.take_output(slot),
                    Slot::Input => self.streams.push_input(),
                    Slot::Init => self.init_readable(),
                }
            }
            self.timers();
            self.journal_waits = self.log.flush_journal();
            self.forget_closed();
            if self.done() {
                return Ok(());
            }
        }
    }

    /// A monitor without a container, without anybody who may ask for one, is over.
    fn done(&self) -> bool {
        let idle = self.init.is_none() && self.restart_at.is_none() && self.verdict_at.is_none();
        match self.leaving {
            Some(until) => !self.clients.iter().any(Client::pending) || Instant::now() > until,
            None => idle && self.clients.is_empty(),
        }
    }

    fn poll(&self) -> Result<Vec<(Slot, PollFlags)>, MonitorError> {
        let mut slots = vec![Slot::Signals, Slot::Listener];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let input_full = self.streams.input.len() > 1 << 20;
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !(client.stdin && input_full) {
                flags |= PollFlags::IN;
            }
            if client.pending() {
                flags |= PollFlags::OUT;
            }
            slots.push(Slot::Client(index));
            fds.push(PollFd::new(&client.socket, flags));
        }
        let blocked = self.clients.iter().any(Client::blocks);
        let sources = [
            (Slot::Stdout, &self.streams.stdout),
            (Slot::Stderr, &self.streams.stderr),
            (Slot::Master, &self.streams.master),
        ];
        for (slot, fd) in sources {
            let Some(fd) = fd else { continue };
            if blocked || (matches!(slot, Slot::Master) && self.streams.hung_up) {
                continue;
            }
            slots.push(slot);
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        if let (false, Some(sink)) = (self.streams.input.is_empty(), self.streams.sink()) {
            slots.push(Slot::Input);
            fds.push(PollFd::new(sink, PollFlags::OUT));
        }
        if let Some(pidfd) = self
            .init
            .as_ref()
            .and_then(|init| init.pidfd.as_ref())
            .filter(|_| self.verdict_at.is_none())
        {
            slots.push(Slot::Init);
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        let timeout = self.timeout();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(io_error("wait for events")(error.into())),
        }
        Ok(slots
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        for at in [self.kill_at, self.restart_at, self.verdict_at, self.leaving]
            .into_iter()
            .flatten()
        {
            let left = at.saturating_duration_since(now);
            next = Some(next.map_or(left, |next| next.min(left)));
        }
        if self.journal_waits {
            next = Some(
                next.unwrap_or(Duration::MAX)
                    .min(Duration::from_millis(200)),
            );
        }
        // A container in the host's pid namespace leaves orphans to us: they are collected now and then.
        let left = next?;
        rustix::event::Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            let _ = crate::place::hierarchy().kill(&self.state.cgroup);
            self.signal(9);
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.restart();
        }
        if self.verdict_at.is_some_and(|at| at <= now) {
            // Nobody saw how it ended.
            self.verdict_at = None;
            self.ended(255);
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) =
            rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC)
        {
            let root = syscalls::socket::peer_credentials(&socket).is_ok_and(|peer| peer.uid == 0);
            if root {
                self.clients.push(Client::new(socket));
            }
        }
    }

    fn serve(&mut self, index: usize, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.clients[index].flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        // Bounded, so that one busy command cannot keep the others waiting.
        for _ in 0..64 {
            match protocol::receive::<Request>(&self.clients[index].socket) {
                Ok(None) => return,
                Ok(Some(Packet::Message(request, fds))) => self.request(index, request, fds),
                Ok(Some(Packet::Data(_, bytes))) if self.clients[index].stdin => {
                    self.streams.input.extend_from_slice(&bytes);
                    self.streams.push_input();
                }
                Ok(Some(Packet::EndOfInput)) if self.clients[index].stdin => {
                    self.streams.input_ended = self.streams.master.is_none();
                    self.streams.push_input();
                }
                Ok(Some(Packet::Data(..) | Packet::EndOfInput)) => {}
                Ok(Some(Packet::Closed)) | Err(_) => {
                    self.clients[index].closed = true;
                    return;
                }
            }
        }
    }

    fn request(&mut self, index: usize, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Start {
                base,
                in_unit,
                size,
                supervise,
            } => {
                self.clients[index].supervises = supervise;
                self.base = base;
                self.state.in_unit = in_unit;
                self.size = size;
                self.first_start(index);
            }
            Request::Adopt { supervise } => {
                self.clients[index].supervises = supervise;
                self.adopt(fds.into_iter().next());
                self.clients[index].send(&Event::Done);
            }
            Request::Attach {
                stdin,
                output,
                lossless,
            } => {
                let client = &mut self.clients[index];
                (client.stdin, client.output, client.lossless, client.waits) =
                    (stdin, output, lossless, true);
            }
            Request::Kill { signal } => {
                let answer = self.kill(signal);
                self.clients[index].send(&answer);
            }
            Request::Stop { timeout } => {
                self.stop(timeout);
                self.clients[index].send(&Event::Done);
            }
            Request::Wait => {
                self.clients[index].waits = true;
            }
            Request::Exec { plan, console } => self.exec(index, *plan, console, fds),
            Request::Resize { rows, columns } => {
                self.size = Some((rows, columns));
                if let Some(master) = &self.streams.master {
                    let _ = streams::resize(master, rows, columns);
                }
            }
            Request::Reaped { pid, code } => {
                if self.init.as_ref().is_some_and(|init| init.pid == pid) {
                    self.verdict_at = None;
                    self.ended(code);
                }
            }
            Request::RemoveAtEnd => self.config.remove = true,
        }
    }

    fn forget_closed(&mut self) {
        let lost = self
            .clients
            .iter()
            .any(|client| client.closed && client.supervises);
        self.clients.retain(|client| !client.closed);
        if lost && self.state.in_unit && self.init.is_some() && self.leaving.is_none() {
            // The unit's command was killed: its container ends with it.
            self.stop(Some(self.config.stop_timeout));
        }
    }

    fn kill(&mut self, signal: i32) -> Event {
        if self.init.is_none() {
            return Event::Failed {
                code: 1,
                message: format!("Container {} is not running", self.config.id),
            };
        }
        if signal == 9 {
            self.state.stopped = true;
        }
        self.signal(signal);
        Event::Done
    }

    fn signal(&self, signal: i32) {
        if let Some(pidfd) = self.init.as_ref().and_then(|init| init.pidfd.as_ref()) {
            let _ = syscalls::signal::pidfd_kill(pidfd, signal);
        }
    }

    fn stop(&mut self, timeout: Option<u64>) {
        self.state.stopped = true;
        if self.restart_at.take().is_some() {
            self.finish();
            return;
        }
        if self.init.is_none() {
            return;
        }
        // The first asker's signal is the only one; a later one may only shorten the wait.
        if self.kill_at.is_none() {
            self.signal(crate::cli::signals::number(&self.config.stop_signal).unwrap_or(15));
        }
        if let Some(seconds) = timeout {
            let at = Instant::now() + Duration::from_secs(seconds.min(1 << 30));
            self.kill_at = Some(self.kill_at.map_or(at, |old| old.min(at)));
        }
    }

    fn take_output(&mut self, slot: Slot) {
        let fd = match slot {
            Slot::Stdout => &self.streams.stdout,
            Slot::Stderr => &self.streams.stderr,
            _ => &self.streams.master,
        };
        let Some(fd) = fd else { return };
        match Streams::read(fd) {
            Output::Bytes(bytes) => self.spread(matches!(slot, Slot::Stderr), &bytes),
            Output::Nothing => {}
            Output::End => self.streams.hung_up = true,
        }
    }

    fn spread(&mut self, error: bool, bytes: &[u8]) {
        self.log.write(error, bytes);
        for client in self.clients.iter_mut().filter(|client| client.output) {
            client.send_output(error, bytes);
        }
    }

    /// Collects children: the first process, added ones, orphans.
    fn reap(&mut self) {
        let mut bytes = [0; 64];
        while matches!(io::Read::read(&mut self.signals, &mut bytes), Ok(count) if count > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let code = shell_code(status);
            if self.init.as_ref().is_some_and(|init| init.pid == pid) {
                self.ended(code);
            } else if let Some(at) = self.execs.iter().position(|(exec, _)| *exec == pid) {
                let (_, number) = self.execs.swap_remove(at);
                if let Some(at) = self
                    .exec_clients
                    .iter()
                    .position(|(known, _)| *known == number)
                {
                    let (_, socket) = self.exec_clients.swap_remove(at);
                    let _ = protocol::send(&socket, &Event::ExecExited { code });
                }
            }
        }
    }

    /// The pidfd says that the first process ended. If it is not our child, somebody else must say how.
    fn init_readable(&mut self) {
        let Some(Init {
            pid,
            pidfd: Some(_),
        }) = &self.init
        else {
            return;
        };
        let Some(wanted) = Pid::from_raw(*pid) else {
            return;
        };
        match rustix::process::waitpid(Some(wanted), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => self.ended(shell_code(status)),
            Ok(None) => {}
            Err(_) => self.verdict_at = Some(Instant::now() + Duration::from_secs(2)),
        }
    }
}

/// An exit status as the shell counts.
pub fn shell_code(status: rustix::process::WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

/// A handle on a process that is not ours, if it is still the one that started then.
fn pidfd_of(pid: i32, started: u64) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    (host::start_time(pid) == Some(started)).then_some(pidfd)
}

/// Whether a state is one that a monitor may adopt.
pub fn adoptable(state: &State, monitored: bool) -> bool {
    !monitored && state.status == Status::Running && state.pid > 0
}
