//! A connection for programs on tokio.
//!
//! One task reads and hands out answers and signals, one writes; a dropped call leaves the stream whole. When the
//! connection ends, every call that waits gets [`Error::Closed`] and signal receivers end; connect anew then.

use std::collections::HashMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OnceCell, broadcast, mpsc, oneshot};
use tokio::time;

use crate::address::{self, Transport};
use crate::blocking::{HANDSHAKE, Handshake};
use crate::systemd1::{self, Event, Job, JobMode, JobResult, Verb};
use crate::wire::{Kind, Message};
use crate::{Call, Error, bus};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(90);
/// Messages waiting to be written.
const WRITE_QUEUE: usize = 256;
/// Signals a slow receiver may lag behind before it loses some.
const SIGNAL_QUEUE: usize = 4096;

/// A connection; clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    serial: AtomicU32,
    pending: Mutex<Pending>,
    writer: mpsc::Sender<Vec<u8>>,
    unique_name: OnceCell<String>,
    watches_jobs: OnceCell<()>,
    watches_units: OnceCell<()>,
}

#[derive(Debug, Default)]
struct Pending {
    answers: HashMap<u32, oneshot::Sender<Message>>,
    /// None when the connection has ended.
    signals: Option<broadcast::Sender<Arc<Message>>>,
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        // A panic while it is held cannot leave the maps half changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut pending = self.pending();
        pending.answers.clear();
        pending.signals = None;
    }
}

/// Takes the entry out when a call is dropped before its answer.
struct Waiting<'a> {
    shared: &'a Shared,
    serial: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.pending().answers.remove(&self.serial);
    }
}

impl Connection {
    /// The system bus.
    pub async fn system() -> Result<Self, Error> {
        Self::bus(&address::system()).await
    }

    /// A bus at an address (`unix:path=…`).
    pub async fn bus(address: &str) -> Result<Self, Error> {
        let connection = Self::peer(address).await?;
        let name = connection.call(bus::hello()).await?;
        // The cell is empty: this connection is ours alone so far.
        let _ = connection.shared.unique_name.set(name);
        Ok(connection)
    }

    /// A peer without a bus: the manager's private socket.
    pub async fn peer(address: &str) -> Result<Self, Error> {
        let mut stream = connect(address).await?;
        let rest = time::timeout(ANSWER, authenticate(&mut stream, address))
            .await
            .map_err(|_| Error::Timeout {
                member: "authentication".to_owned(),
                seconds: ANSWER.as_secs(),
            })??;
        let (read_half, write_half) = stream.into_split();
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let pending = Pending {
            answers: HashMap::new(),
            signals: Some(broadcast::channel(SIGNAL_QUEUE).0),
        };
        let shared = Arc::new(Shared {
            serial: AtomicU32::new(1),
            pending: Mutex::new(pending),
            writer,
            unique_name: OnceCell::new(),
            watches_jobs: OnceCell::new(),
            watches_units: OnceCell::new(),
        });
        tokio::spawn(write_all(write_half, queue));
        tokio::spawn(read_all(read_half, rest, Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    /// Our name on the bus; none on a private socket.
    pub fn unique_name(&self) -> Option<&str> {
        self.shared.unique_name.get().map(String::as_str)
    }

    /// Has the connection ended?
    pub fn is_closed(&self) -> bool {
        self.shared.pending().signals.is_none()
    }

    /// Call a method and wait for its answer.
    pub async fn call<T>(&self, call: Call<T>) -> Result<T, Error> {
        // Serial 0 is not allowed; after four thousand million calls it is skipped.
        let mut serial = self.shared.serial.fetch_add(1, Ordering::Relaxed);
        if serial == 0 {
            serial = self.shared.serial.fetch_add(1, Ordering::Relaxed);
        }
        let (sender, receiver) = oneshot::channel();
        {
            let mut pending = self.shared.pending();
            if pending.signals.is_none() {
                return Err(Error::Closed);
            }
            pending.answers.insert(serial, sender);
        }
        let _waiting = Waiting {
            shared: &self.shared,
            serial,
        };
        let bytes = call.with_serial(serial).encode();
        self.shared
            .writer
            .send(bytes)
            .await
            .map_err(|_| Error::Closed)?;
        match time::timeout(ANSWER, receiver).await {
            Ok(Ok(answer)) => call.finish(&answer),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Timeout {
                member: call.member().to_owned(),
                seconds: ANSWER.as_secs(),
            }),
        }
    }

    /// All signals from now on. Ask for them first: [`Self::watch_jobs`], [`Self::watch_units`], or
    /// [`bus::add_match`]. A receiver that lags must look at the state anew.
    pub fn signals(&self) -> Result<broadcast::Receiver<Arc<Message>>, Error> {
        self.shared
            .pending()
            .signals
            .as_ref()
            .map(broadcast::Sender::subscribe)
            .ok_or(Error::Closed)
    }

    /// Ask for the manager's signals (`JobRemoved`, `UnitNew`, `Reloading` …), once.
    pub async fn watch_jobs(&self) -> Result<(), Error> {
        if self.unique_name().is_none() {
            return Ok(());
        }
        self.shared
            .watches_jobs
            .get_or_try_init(|| async {
                self.call(bus::add_match(systemd1::MATCH_MANAGER)).await?;
                match self.call(systemd1::subscribe()).await {
                    Err(error)
                        if error.name() == Some("org.freedesktop.systemd1.AlreadySubscribed") =>
                    {
                        Ok(())
                    }
                    other => other,
                }
            })
            .await?;
        Ok(())
    }

    /// Ask for `PropertiesChanged` of all units too, once.
    pub async fn watch_units(&self) -> Result<(), Error> {
        self.watch_jobs().await?;
        if self.unique_name().is_none() {
            return Ok(());
        }
        self.shared
            .watches_units
            .get_or_try_init(|| self.call(bus::add_match(systemd1::MATCH_PROPERTIES)))
            .await?;
        Ok(())
    }

    /// Queue a job and wait until it ends. `timeout` none = as long as it takes.
    pub async fn run_job(
        &self,
        verb: Verb,
        unit: &str,
        mode: JobMode,
        timeout: Option<Duration>,
    ) -> Result<JobResult, Error> {
        self.run(systemd1::queue_job(verb, unit, mode), timeout)
            .await
    }

    /// Make a call that queues a job and wait until the job ends.
    pub async fn run(
        &self,
        call: Call<Job>,
        timeout: Option<Duration>,
    ) -> Result<JobResult, Error> {
        self.watch_jobs().await?;
        let signals = self.signals()?;
        let job = self.call(call).await?;
        let wait = self.job_end(&job, signals);
        match timeout {
            None => wait.await,
            Some(timeout) => time::timeout(timeout, wait).await.unwrap_or_else(|_| {
                Err(Error::Timeout {
                    member: format!("job {}", job.0),
                    seconds: timeout.as_secs(),
                })
            }),
        }
    }

    async fn job_end(
        &self,
        job: &Job,
        mut signals: broadcast::Receiver<Arc<Message>>,
    ) -> Result<JobResult, Error> {
        loop {
            match signals.recv().await {
                Ok(message) => match Event::from_message(&message) {
                    Some(Event::JobRemoved {
                        job: path, result, ..
                    }) if path == job.0 => return Ok(result),
                    _ => {}
                },
                Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
                // Signals were lost, ours perhaps among them: then the job is no longer listed.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let jobs = self.call(systemd1::list_jobs()).await?;
                    if !jobs.iter().any(|entry| Some(entry.id) == job.id()) {
                        return Ok(JobResult::Other("unknown".to_owned()));
                    }
                }
            }
        }
    }

    /// Send a signal or an answer.
    pub async fn send(&self, mut message: Message) -> Result<(), Error> {
        message.serial = self.shared.serial.fetch_add(1, Ordering::Relaxed).max(1);
        self.shared
            .writer
            .send(message.encode())
            .await
            .map_err(|_| Error::Closed)
    }
}

async fn connect(address: &str) -> Result<UnixStream, Error> {
    let mut failure = Error::Address {
        address: address.to_owned(),
    };
    for transport in address::parse(address) {
        let result = match &transport {
            Transport::Path(path) => UnixStream::connect(path).await,
            Transport::Abstract(name) => connect_abstract(name),
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

fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Gives the bytes that came after the handshake.
async fn authenticate(stream: &mut UnixStream, address: &str) -> Result<Vec<u8>, Error> {
    stream.write_all(HANDSHAKE).await.map_err(Error::Io)?;
    let mut incoming = Vec::new();
    let mut state = Handshake::default();
    loop {
        if let Some(end) = incoming.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = incoming.drain(..end + 2).collect();
            let done = state
                .line(&String::from_utf8_lossy(&line[..end]))
                .map_err(|reason| Error::Auth {
                    address: address.to_owned(),
                    reason,
                })?;
            if done {
                return Ok(incoming);
            }
        } else if stream.read_buf(&mut incoming).await.map_err(Error::Io)? == 0 {
            return Err(Error::Closed);
        }
    }
}

async fn write_all(mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            // The reader sees the end of the stream and tells everybody.
            return;
        }
    }
}

async fn read_all(
    mut stream: OwnedReadHalf,
    mut incoming: Vec<u8>,
    shared: std::sync::Weak<Shared>,
) {
    loop {
        loop {
            let Ok(length) = Message::length(&incoming) else {
                return close(&shared);
            };
            let Some(length) = length.filter(|length| incoming.len() >= *length) else {
                break;
            };
            let rest = incoming.split_off(length);
            let bytes = std::mem::replace(&mut incoming, rest);
            let Ok(message) = Message::parse(&bytes) else {
                return close(&shared);
            };
            let Some(shared) = shared.upgrade() else {
                return;
            };
            deliver(&shared, message);
        }
        match stream.read_buf(&mut incoming).await {
            Ok(count) if count > 0 => {}
            _ => return close(&shared),
        }
    }
}

fn close(shared: &std::sync::Weak<Shared>) {
    if let Some(shared) = shared.upgrade() {
        shared.close();
    }
}

fn deliver(shared: &Shared, message: Message) {
    let mut pending = shared.pending();
    match message.kind {
        Kind::Return | Kind::Error => {
            if let Some(sender) = pending.answers.remove(&message.reply_serial) {
                // The caller may have given up between the look-up and now.
                let _ = sender.send(message);
            }
        }
        Kind::Signal => {
            if let Some(signals) = &pending.signals {
                // Nobody listening is fine.
                let _ = signals.send(Arc::new(message));
            }
        }
        // Programs that serve objects use the blocking connection.
        Kind::Call => {}
    }
}
