//! A command that stays with a container: passes streams and signals, replaces a killed monitor, and takes over
//! the container's exit status.

use super::{Failure, signals};
use crate::host::Host;
use crate::monitor;
use crate::protocol::{self, Event, Packet, Request};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::termios::{self, OptionalActions, Termios};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// How a command stays attached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Passes its input on.
    pub stdin: bool,
    /// Prints the container's output.
    pub output: bool,
    /// The container has a terminal.
    pub tty: bool,
    /// Passes signals on.
    pub signals: bool,
    /// Its loss ends a container that lives in its unit; also: it replaces a killed monitor.
    pub supervise: bool,
    /// Signals that end programs stop the container by its own signal, once.
    pub in_unit: bool,
    /// Detached in a unit: an end that somebody asked for is a success, as docker's client would have been.
    pub calm: bool,
}

/// How it came to an end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The container ended.
    Exited(i32),
    /// The user left by ctrl-p ctrl-q.
    Detached,
}

/// A terminal in raw mode, put back when dropped.
pub struct RawTerminal(Option<Termios>);

impl RawTerminal {
    /// Of our standard input, if it is one and `wanted`.
    pub fn enter(wanted: bool) -> RawTerminal {
        let stdin = io::stdin();
        if !wanted || !termios::isatty(&stdin) {
            return RawTerminal(None);
        }
        let Ok(old) = termios::tcgetattr(&stdin) else {
            return RawTerminal(None);
        };
        let mut raw = old.clone();
        raw.make_raw();
        match termios::tcsetattr(&stdin, OptionalActions::Now, &raw) {
            Ok(()) => RawTerminal(Some(old)),
            Err(_) => RawTerminal(None),
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, old);
        }
    }
}

/// Rows and columns of our terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout())
        .or_else(|_| termios::tcgetwinsize(io::stdin()))
        .ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Which signals came since the last look.
pub struct Signals {
    pipes: Vec<(i32, UnixStream)>,
}

impl Signals {
    /// Starts watching.
    pub fn watch(numbers: &[i32]) -> io::Result<Signals> {
        let mut pipes = Vec::new();
        for number in numbers {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(*number, write)?;
            pipes.push((*number, read));
        }
        Ok(Signals { pipes })
    }

    /// For poll.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.pipes
            .iter()
            .map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN))
    }

    /// Takes those that came.
    pub fn take(&mut self) -> Vec<i32> {
        let mut came = Vec::new();
        for (number, pipe) in &mut self.pipes {
            let mut bytes = [0; 64];
            if matches!(pipe.read(&mut bytes), Ok(count) if count > 0) {
                came.push(*number);
            }
        }
        came
    }
}

/// What is watched while attached.
// Not SIGPIPE: Rust ignores it, and a handler that writes to a pipe nobody reads any more would raise it for ever.
pub const SIGNALS: [i32; 8] = {
    use signal_hook::consts::{
        SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
    };
    [
        SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
    ]
};

/// An attached command.
pub struct Attached<'a> {
    /// Where things are.
    pub host: &'a Host,
    /// The container.
    pub id: String,
    /// Connection to its monitor.
    pub socket: OwnedFd,
    /// How.
    pub style: Style,
    /// The terminal's other end, kept for the next monitor.
    pub master: Option<OwnedFd>,
    /// Watched signals.
    pub signals: Signals,
    /// Input on its way.
    pub outgoing: VecDeque<Vec<u8>>,
    /// Our input is at its end.
    pub input_ended: bool,
    /// Last byte was ctrl-p.
    pub detaching: bool,
    /// The monitor ends us no more: stop was asked for.
    pub stopping: bool,
}

impl Attached<'_> {
    /// Asks for output; before the start, so that nothing is missed.
    pub fn attach(&self) -> io::Result<()> {
        let request = Request::Attach {
            stdin: self.style.stdin,
            output: self.style.output,
            lossless: self.style.supervise,
        };
        protocol::send(&self.socket, &request)
    }

    /// Stays until the container ends or the user detaches.
    pub fn stay(mut self) -> Result<End, Failure> {
        let _raw = RawTerminal::enter(self.style.tty && self.style.stdin);
        loop {
            let (socket, stdin, signals) = self
                .wait()
                .map_err(|error| Failure::io("wait for the container", error))?;
            if signals {
                self.pass_signals();
            }
            if stdin && self.read_input() {
                return Ok(End::Detached);
            }
            self.flush_input();
            if socket && let Some(code) = self.read_socket()? {
                return Ok(End::Exited(self.verdict(code)));
            }
        }
    }

    fn verdict(&self, code: i32) -> i32 {
        let asked = || {
            self.stopping
                || self
                    .host
                    .load(&self.id)
                    .is_ok_and(|container| container.state.stopped)
        };
        if self.style.calm && asked() { 0 } else { code }
    }

    /// Which of socket, input and signals are ready.
    fn wait(&self) -> io::Result<(bool, bool, bool)> {
        let stdin = io::stdin();
        let mut flags = PollFlags::IN;
        if !self.outgoing.is_empty() {
            flags |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(&self.socket, flags)];
        let wants_input = self.style.stdin && !self.input_ended && self.outgoing.is_empty();
        if wants_input {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        fds.extend(self.signals.poll_fds());
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let first_signal = if wants_input { 2 } else { 1 };
        Ok((
            ready[0],
            wants_input && ready[1],
            ready[first_signal..].contains(&true),
        ))
    }

    /// True when the user detached.
    fn read_input(&mut self) -> bool {
        let mut buffer = vec![0; protocol::PIECE];
        match rustix::io::read(io::stdin(), &mut buffer[..]) {
            Ok(0) | Err(rustix::io::Errno::IO) => {
                self.input_ended = true;
                self.outgoing.push_back(b"c".to_vec());
            }
            Ok(count) => {
                buffer.truncate(count);
                if self.style.tty && self.detach_keys(&buffer) {
                    return true;
                }
                buffer.insert(0, b'i');
                self.outgoing.push_back(buffer);
            }
            Err(_) => {}
        }
        false
    }

    fn detach_keys(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if self.detaching && *byte == 17 {
                return true;
            }
            self.detaching = *byte == 16;
        }
        false
    }

    fn flush_input(&mut self) {
        use rustix::net::SendFlags;
        while let Some(packet) = self.outgoing.front() {
            match rustix::net::send(
                &self.socket,
                packet,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(_) => {
                    self.outgoing.pop_front();
                }
                // A closed connection shows when it is read.
                Err(_) => return,
            }
        }
    }

    fn pass_signals(&mut self) {
        use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
        for number in self.signals.take() {
            match number {
                SIGCHLD => self.collect(),
                SIGWINCH => {
                    if let (true, Some((rows, columns))) = (self.style.tty, size()) {
                        let _ = protocol::send(&self.socket, &Request::Resize { rows, columns });
                    }
                }
                SIGTERM | SIGINT | SIGQUIT | SIGHUP
                    if self.style.in_unit
                    // The unit stops: the image's own signal, once. The manager's time-out decides on the kill.
                    && !self.stopping =>
                {
                    self.stopping = true;
                    let _ = protocol::send(&self.socket, &Request::Stop { timeout: None });
                }
                other if self.style.signals => {
                    let _ = protocol::send(&self.socket, &Request::Kill { signal: other });
                }
                _ => {}
            }
        }
    }

    /// Children: monitors that ended, and a container whose monitor died before it.
    fn collect(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let request = Request::Reaped {
                pid: Pid::as_raw(Some(pid)),
                code: monitor::shell_code(status),
            };
            let _ = protocol::send(&self.socket, &request);
        }
    }

    fn read_socket(&mut self) -> Result<Option<i32>, Failure> {
        loop {
            match protocol::receive::<Event>(&self.socket) {
                Ok(None) => return Ok(None),
                Ok(Some(Packet::Data(error, bytes))) => self.print(error, &bytes),
                Ok(Some(Packet::Message(Event::Exited { code }, _))) => return Ok(Some(code)),
                Ok(Some(Packet::Message(..) | Packet::EndOfInput)) => {}
                Ok(Some(Packet::Closed)) | Err(_) => return self.monitor_died(),
            }
        }
    }

    fn print(&mut self, error: bool, bytes: &[u8]) {
        let written = if error {
            io::stderr().write_all(bytes)
        } else {
            let mut out = io::stdout();
            out.write_all(bytes).and_then(|()| out.flush())
        };
        if written.is_err() {
            // Nobody reads us any more; the container need not know.
            self.style.output = false;
            let _ = self.attach();
        }
    }

    /// The connection broke without an end: the monitor was killed. The container goes on; so do we.
    fn monitor_died(&mut self) -> Result<Option<i32>, Failure> {
        let container = match self.host.load(&self.id) {
            Ok(container) => container,
            // Removed with its monitor's last breath.
            Err(_) => return Ok(Some(255)),
        };
        if !container.running()
            && container.state.status == crate::container::Status::Exited
            && !container.state.finished_at.is_empty()
            && container.state.pid == 0
            && container.state.exit_code != 255
        {
            return Ok(Some(container.state.exit_code));
        }
        tracing::warn!(container = %self.id, "the container's monitor died, starting another one");
        let (socket, _) = monitor::spawn(self.host, &self.id)
            .map_err(|error| Failure::io("start a monitor", error))?;
        self.socket = socket;
        let adopt = Request::Adopt {
            supervise: self.style.supervise,
        };
        let fds: Vec<_> = self.master.iter().map(AsFd::as_fd).collect();
        let asked = protocol::send_with(&self.socket, &adopt, &fds).and_then(|()| self.attach());
        asked.map_err(|error| Failure::io("talk to the new monitor", error))?;
        self.collect();
        Ok(None)
    }
}

/// Whether our standard output is the journal's stream: then the monitor's lines are there already.
pub fn output_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Some((device, inode)) = stream.split_once(':') else {
        return false;
    };
    syscalls::socket::device_and_inode(io::stdout()).is_ok_and(|(own_device, own_inode)| {
        device.parse() == Ok(own_device) && inode.parse() == Ok(own_inode)
    })
}

/// The number of a `-s` flag.
pub fn signal_of(name: &str) -> Result<i32, Failure> {
    signals::number(name).ok_or_else(|| Failure::daemon(format!("Invalid signal: {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(host: &Host, socket: OwnedFd) -> Attached<'_> {
        Attached {
            host,
            id: "0".repeat(64),
            socket,
            style: Style::default(),
            master: None,
            signals: Signals::watch(&[signal_hook::consts::SIGCHLD]).unwrap(),
            outgoing: VecDeque::new(),
            input_ended: false,
            detaching: false,
            stopping: false,
        }
    }

    #[test]
    fn staying_ends_with_the_containers_status_or_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            data: dir.path().join("d"),
            run: dir.path().join("r"),
        };
        let (ours, theirs) = protocol::pair().unwrap();
        protocol::send(&theirs, &Event::Started { pid: 1 }).unwrap();
        protocol::send(&theirs, &Event::Exited { code: 3 }).unwrap();
        assert_eq!(attached(&host, ours).stay().unwrap(), End::Exited(3));
        let (ours, theirs) = protocol::pair().unwrap();
        drop(theirs);
        assert_eq!(attached(&host, ours).stay().unwrap(), End::Exited(255));
    }
}
