//! A connection for programs without an event loop.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use crate::address::{self, Transport};
use crate::systemd1::{self, Event, Job, JobMode, JobResult, Verb};
use crate::wire::{Kind, Message, Value};
use crate::{Call, Error, bus};

/// How long an answer may take. A reload of thousands of units on a slow machine stays below it.
const ANSWER: Duration = Duration::from_secs(90);
/// Signals kept while nobody asks for them; the oldest go first.
const KEPT_SIGNALS: usize = 4096;

/// A connection to a bus, or to a manager's private socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    address: String,
    incoming: Vec<u8>,
    signals: VecDeque<Message>,
    calls: VecDeque<Message>,
    serial: u32,
    unique_name: Option<String>,
    watches_jobs: bool,
}

impl Connection {
    /// The system bus.
    pub fn system() -> Result<Self, Error> {
        Self::bus(&address::system())
    }

    /// A bus at an address (`unix:path=…`).
    pub fn bus(address: &str) -> Result<Self, Error> {
        let mut connection = Self::peer(address)?;
        let name = connection.call(bus::hello())?;
        connection.unique_name = Some(name);
        Ok(connection)
    }

    /// A peer without a bus: the manager's private socket. All its signals come without asking.
    pub fn peer(address: &str) -> Result<Self, Error> {
        let stream = connect(address)?;
        let mut connection = Self {
            stream,
            address: address.to_owned(),
            incoming: Vec::new(),
            signals: VecDeque::new(),
            calls: VecDeque::new(),
            serial: 0,
            unique_name: None,
            watches_jobs: false,
        };
        connection.authenticate()?;
        Ok(connection)
    }

    /// Our name on the bus; none on a private socket.
    pub fn unique_name(&self) -> Option<&str> {
        self.unique_name.as_deref()
    }

    /// Call a method and wait for its answer.
    pub fn call<T>(&mut self, call: Call<T>) -> Result<T, Error> {
        let serial = self.next_serial();
        self.write(&call.with_serial(serial).encode())?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let Some(message) = self.receive(Some(deadline))? else {
                return Err(Error::Timeout {
                    member: call.member().to_owned(),
                    seconds: ANSWER.as_secs(),
                });
            };
            let is_answer = matches!(message.kind, Kind::Return | Kind::Error)
                && message.reply_serial == serial;
            if is_answer {
                return call.finish(&message);
            }
            self.keep(message);
        }
    }

    /// Queue a job and wait until it ends. `timeout` none = as long as it takes.
    pub fn run_job(
        &mut self,
        verb: Verb,
        unit: &str,
        mode: JobMode,
        timeout: Option<Duration>,
    ) -> Result<JobResult, Error> {
        self.run(systemd1::queue_job(verb, unit, mode), timeout)
    }

    /// Make a call that queues a job (e.g. [`systemd1::start_transient_unit`]) and wait until the job ends.
    pub fn run(&mut self, call: Call<Job>, timeout: Option<Duration>) -> Result<JobResult, Error> {
        self.watch_jobs()?;
        // Only what comes from now on can be about our job.
        self.signals.retain(|signal| signal.member != "JobRemoved");
        let job = self.call(call)?;
        self.wait_job(&job, timeout)
    }

    /// Wait until a job ends that was queued after [`Self::watch_jobs`].
    pub fn wait_job(&mut self, job: &Job, timeout: Option<Duration>) -> Result<JobResult, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let ended = |message: &Message| match Event::from_message(message) {
            Some(Event::JobRemoved {
                job: path, result, ..
            }) if path == job.0 => Some(result),
            _ => None,
        };
        if let Some(result) = self.signals.iter().find_map(ended) {
            return Ok(result);
        }
        loop {
            let Some(message) = self.receive(deadline)? else {
                let seconds = timeout.map_or(0, |timeout| timeout.as_secs());
                return Err(Error::Timeout {
                    member: format!("job {}", job.0),
                    seconds,
                });
            };
            let result = ended(&message);
            self.keep(message);
            if let Some(result) = result {
                return Ok(result);
            }
        }
    }

    /// Ask for `JobRemoved` signals, once; a private socket sends them anyway.
    pub fn watch_jobs(&mut self) -> Result<(), Error> {
        if self.watches_jobs || self.unique_name.is_none() {
            return Ok(());
        }
        self.call(bus::add_match(systemd1::MATCH_JOBS))?;
        self.subscribe()?;
        self.watches_jobs = true;
        Ok(())
    }

    /// `Subscribe`, where a second one is no error.
    pub fn subscribe(&mut self) -> Result<(), Error> {
        match self.call(systemd1::subscribe()) {
            Err(error) if error.name() == Some("org.freedesktop.systemd1.AlreadySubscribed") => {
                Ok(())
            }
            other => other,
        }
    }

    /// The next signal, kept ones first; none when the time is over.
    pub fn next_signal(&mut self, timeout: Option<Duration>) -> Result<Option<Message>, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(Some(signal));
            }
            match self.receive(deadline)? {
                Some(message) => self.keep(message),
                None => return Ok(None),
            }
        }
    }

    /// The next call to us, for programs that own a name; none when the time is over.
    pub fn next_call(&mut self, timeout: Option<Duration>) -> Result<Option<Message>, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(call) = self.calls.pop_front() {
                return Ok(Some(call));
            }
            match self.receive(deadline)? {
                Some(message) => self.keep(message),
                None => return Ok(None),
            }
        }
    }

    /// Send a signal or an answer.
    pub fn send(&mut self, mut message: Message) -> Result<(), Error> {
        message.serial = self.next_serial();
        self.write(&message.encode())
    }

    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        self.serial
    }

    fn keep(&mut self, message: Message) {
        let (queue, wanted) = match message.kind {
            Kind::Signal => (&mut self.signals, true),
            Kind::Call => (&mut self.calls, message.wants_reply()),
            // The answer to a call that was given up.
            Kind::Return | Kind::Error => return,
        };
        if wanted {
            if queue.len() == KEPT_SIGNALS {
                queue.pop_front();
            }
            queue.push_back(message);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream
            .write_all(bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Closed,
                _ => Error::Io(error),
            })
    }

    /// One message, or none when the deadline is over.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, Error> {
        loop {
            let length = Message::length(&self.incoming).map_err(Error::Decode)?;
            if let Some(length) = length.filter(|length| self.incoming.len() >= *length) {
                let rest = self.incoming.split_off(length);
                let bytes = std::mem::replace(&mut self.incoming, rest);
                return Message::parse(&bytes).map(Some).map_err(Error::Decode);
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Read more bytes; false when the deadline is over.
    fn fill(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        let timeout = match deadline {
            None => None,
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => Some(left),
                _ => return Ok(false),
            },
        };
        self.stream.set_read_timeout(timeout).map_err(Error::Io)?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Error::Closed),
            Ok(count) => {
                self.incoming.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                io::ErrorKind::Interrupted => Ok(true),
                io::ErrorKind::ConnectionReset => Err(Error::Closed),
                _ => Err(Error::Io(error)),
            },
        }
    }

    /// SASL EXTERNAL, all lines in one write; the credentials are those of the socket.
    fn authenticate(&mut self) -> Result<(), Error> {
        self.write(HANDSHAKE)?;
        let deadline = Instant::now() + ANSWER;
        let mut state = Handshake::default();
        loop {
            if let Some(end) = self.incoming.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.incoming.drain(..end + 2).collect();
                let done =
                    state
                        .line(&String::from_utf8_lossy(&line[..end]))
                        .map_err(|reason| Error::Auth {
                            address: self.address.clone(),
                            reason,
                        })?;
                if done {
                    return Ok(());
                }
            } else if !self.fill(Some(deadline))? {
                return Err(Error::Timeout {
                    member: "authentication".to_owned(),
                    seconds: ANSWER.as_secs(),
                });
            }
        }
    }
}

/// What a client says first.
pub(crate) const HANDSHAKE: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

/// The server's lines to [`HANDSHAKE`]: `DATA`, then `OK guid`.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    challenged: bool,
}

impl Handshake {
    /// Take one line; true when we are in.
    pub(crate) fn line(&mut self, line: &str) -> Result<bool, String> {
        let word = line.split(' ').next().unwrap_or_default();
        match word {
            "DATA" if !self.challenged => {
                self.challenged = true;
                Ok(false)
            }
            "OK" => Ok(true),
            _ => Err(format!("server says {line:?}")),
        }
    }
}

fn connect(address: &str) -> Result<UnixStream, Error> {
    let mut failure = Error::Address {
        address: address.to_owned(),
    };
    for transport in address::parse(address) {
        let result = match &transport {
            Transport::Path(path) => UnixStream::connect(path),
            Transport::Abstract(name) => SocketAddr::from_abstract_name(name)
                .and_then(|address| UnixStream::connect_addr(&address)),
        };
        match result {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                failure = Error::Connect {
                    address: address.to_owned(),
                    source,
                }
            }
        }
    }
    Err(failure)
}

/// Convenience over single properties.
impl Connection {
    /// One property of a unit as text, e.g. `("Unit", "ActiveState")`.
    pub fn unit_text(
        &mut self,
        unit: &str,
        interface: &str,
        property: &str,
    ) -> Result<String, Error> {
        let value: Value = self.call(systemd1::unit_property(unit, interface, property))?;
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::UnexpectedReply {
                member: property.to_owned(),
                found: value.signature(),
            })
    }
}
