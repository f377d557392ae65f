//! The loop: listeners, clients, the connection to PID 1. One thread, epoll, no state that must outlive it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dbus_api::wire::{Message, Value};
use init_control::{Request, ServerFrame, SubscribeLevel};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::client::{Client, Door, End};
use crate::control::Control;
use crate::login::Logins;
use crate::router::Names;
use crate::signals::Audience;
use crate::step::{Next, Step, World};
use crate::units::Changes;

/// Connections at most, and of one user other than root.
const MAX_CLIENTS: usize = 2048;
const MAX_CLIENTS_OF_USER: usize = 128;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Connections taken at one turn.
const ACCEPTS: usize = 64;

const CONTROL: u64 = 0;
const FIRST_CLIENT: u64 = 16;
const INHIBITOR: u64 = 1 << 62;

/// Who waits for an answer of PID 1.
pub(crate) enum Waiter {
    /// A call of a client; the message has no body any more.
    Call {
        client: u64,
        call: Box<Message>,
        next: Next,
    },
    /// A snapshot for `PropertiesChanged`.
    Changed(String),
    /// Nobody.
    Nobody,
}

/// Where clients come in.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) door: Door,
    pub(crate) socket: OwnedFd,
}

/// The program.
pub(crate) struct Server {
    pub(crate) world: Rc<World>,
    pub(crate) clients: HashMap<u64, Client>,
    pub(crate) names: Names,
    pub(crate) control: Control<Waiter>,
    pub(crate) logins: Logins,
    /// An end of the machine that waits for delay locks.
    pub(crate) delayed_end: Option<(Instant, init_control::PowerAction)>,
    pub(crate) changes: Changes,
    /// Calls routed to other clients: (caller, serial) → (callee).
    pub(crate) routed: HashMap<(u64, u32), u64>,
    /// How many clients hold a reference on a unit.
    pub(crate) references: HashMap<String, usize>,
    pub(crate) guid: String,
    pub(crate) level: SubscribeLevel,
    listeners: Vec<Listener>,
    epoll: OwnedFd,
    next_client: u64,
    serial: u32,
    doomed: Vec<(u64, End)>,
    control_interest: bool,
}

impl Server {
    pub(crate) fn new(
        listeners: Vec<Listener>,
        control: PathBuf,
        world: World,
        guid: String,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, listener) in listeners.iter().enumerate() {
            rustix::io::ioctl_fionbio(&listener.socket, true)?;
            let token = epoll::EventData::new_u64(1 + index as u64);
            epoll::add(&epoll, &listener.socket, token, epoll::EventFlags::IN)?;
        }
        let logins = Logins::load(&world.root);
        Ok(Self {
            world: Rc::new(world),
            clients: HashMap::new(),
            names: Names::default(),
            control: Control::new(control),
            logins,
            delayed_end: None,
            changes: Changes::default(),
            routed: HashMap::new(),
            references: HashMap::new(),
            guid,
            level: SubscribeLevel::Off,
            listeners,
            epoll,
            next_client: FIRST_CLIENT,
            serial: 0,
            doomed: Vec::new(),
            control_interest: false,
        })
    }

    /// Serve for ever; only a broken epoll ends it.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(128);
        loop {
            self.connect_control();
            self.run_timers();
            self.flush_control();
            self.bury();
            let timeout = self.timeout().map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.event(event.data.u64(), event.flags);
            }
        }
    }

    fn event(&mut self, token: u64, flags: epoll::EventFlags) {
        let readable = flags
            .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if token == CONTROL {
            self.read_control();
        } else if token & INHIBITOR != 0 {
            self.inhibitor_released(token & !INHIBITOR);
        } else if token < FIRST_CLIENT {
            self.accept(usize::try_from(token - 1).unwrap_or_default());
        } else {
            if flags.contains(epoll::EventFlags::OUT) {
                self.flush_client(token);
            }
            if readable {
                let result = self.clients.get_mut(&token).map(Client::read);
                self.process(token);
                if let Some(Err(end)) = result {
                    self.doom(token, end);
                }
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let handshake = self
            .clients
            .values()
            .filter(|client| !client.is_ready())
            .map(|client| client.since + HANDSHAKE)
            .min();
        let scheduled = self.logins.scheduled().map(|(_, at)| now + until(at));
        [
            handshake,
            self.control.retry_at(),
            self.delayed_end.map(|(at, _)| at),
            scheduled,
        ]
        .into_iter()
        .flatten()
        .min()
        // A millisecond more, so that it is over when we wake.
        .map(|at| at.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| !client.is_ready() && client.since + HANDSHAKE <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.doom(id, End::Handshake);
        }
        if self.delayed_end.is_some_and(|(at, _)| at <= now) {
            self.end_delayed();
        }
        if self
            .logins
            .scheduled()
            .is_some_and(|(_, at)| until(at).is_zero())
        {
            self.end_scheduled();
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&listener.socket, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    return;
                }
            };
            let door = listener.door;
            if let Err(error) = self.admit(socket, door) {
                tracing::warn!(%error, "failed to admit a connection");
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd, door: Door) -> io::Result<()> {
        let peer = syscalls::socket::peer_credentials(&socket)?;
        let of_user = self
            .clients
            .values()
            .filter(|client| client.peer.uid == peer.uid)
            .count();
        if self.clients.len() >= MAX_CLIENTS || (peer.uid != 0 && of_user >= MAX_CLIENTS_OF_USER) {
            tracing::warn!(uid = peer.uid, "too many connections, one more is refused");
            return Ok(());
        }
        if door == Door::Private && peer.uid != 0 {
            tracing::warn!(uid = peer.uid, "the private socket is for root");
            return Ok(());
        }
        let id = self.next_client;
        self.next_client += 1;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(id),
            epoll::EventFlags::IN,
        )?;
        self.clients.insert(
            id,
            Client::new(socket, door, peer, &self.guid, Instant::now()),
        );
        Ok(())
    }

    /// A serial for a message of ours.
    pub(crate) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        self.serial
    }

    /// Send a message to one client; `sender` is left out on the private socket.
    pub(crate) fn send(&mut self, id: u64, mut message: Message, sender: &str, fds: Vec<OwnedFd>) {
        let serial = self.next_serial();
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        message.serial = serial;
        message.unix_fds = u32::try_from(fds.len()).unwrap_or_default();
        match client.door {
            Door::Private => {
                message.sender.clear();
                message.destination.clear();
            }
            Door::Bus => {
                sender.clone_into(&mut message.sender);
                message.destination = client.unique.clone().unwrap_or_default();
            }
        }
        self.queue(id, message.encode().into(), fds);
    }

    /// Queue bytes and write what goes.
    pub(crate) fn queue(&mut self, id: u64, bytes: Rc<[u8]>, fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        match client.send(bytes, fds) {
            Ok(()) => self.flush_client(id),
            Err(end) => self.doom(id, end),
        }
    }

    /// Send a signal of `senders` (unique name first) to all who want it.
    pub(crate) fn broadcast(&mut self, mut message: Message, senders: &[&str], audience: Audience) {
        message.serial = self.next_serial();
        message.destination.clear();
        message.sender.clear();
        let mut private: Option<Rc<[u8]>> = None;
        let mut public: Option<Rc<[u8]>> = None;
        let ids: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| c.is_ready())
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(client) = self.clients.get(&id) else {
                continue;
            };
            let bytes = match client.door {
                Door::Private => {
                    let wanted = audience == Audience::Manager
                        || (audience == Audience::Units && client.subscribed);
                    if !wanted {
                        continue;
                    }
                    private.get_or_insert_with(|| message.encode().into())
                }
                Door::Bus => {
                    if !client
                        .rules
                        .iter()
                        .any(|rule| rule.matches(&message, senders))
                    {
                        continue;
                    }
                    public.get_or_insert_with(|| {
                        let sender = senders.first().copied().unwrap_or_default().to_owned();
                        Message {
                            sender,
                            ..message.clone()
                        }
                        .encode()
                        .into()
                    })
                }
            };
            let bytes = Rc::clone(bytes);
            self.queue(id, bytes, Vec::new());
        }
    }

    pub(crate) fn flush_client(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        match client.flush() {
            Ok(()) => self.watch(id),
            Err(end) => self.doom(id, end),
        }
    }

    /// Tell epoll what the client waits for: no reading while too much of it is in work.
    pub(crate) fn watch(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let wanted = (
            client.pending < crate::client::MAX_PENDING,
            client.has_output(),
        );
        if wanted == client.interest {
            return;
        }
        client.interest = wanted;
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, wanted.0);
        flags.set(epoll::EventFlags::OUT, wanted.1);
        if let Err(error) = epoll::modify(
            &self.epoll,
            client.socket(),
            epoll::EventData::new_u64(id),
            flags,
        ) {
            self.doom(id, End::Io(error.into()));
        }
    }

    /// End a connection at the end of this turn: it may be in use further up.
    pub(crate) fn doom(&mut self, id: u64, end: End) {
        self.doomed.push((id, end));
    }

    fn bury(&mut self) {
        let mut seen = HashSet::new();
        while let Some((id, end)) = self.doomed.pop() {
            if !seen.insert(id) {
                continue;
            }
            let Some(client) = self.clients.remove(&id) else {
                continue;
            };
            match end {
                End::Closed | End::ManagerGone => {}
                end => {
                    tracing::info!(pid = client.peer.pid, uid = client.peer.uid, reason = %end, "connection ended");
                }
            }
            // The descriptor leaves epoll when it is closed with `client`.
            self.forget(id, &client);
        }
        self.adjust_level();
    }

    /// Wait on an inhibitor's pipe.
    pub(crate) fn watch_inhibitor(&self, key: u64) -> io::Result<()> {
        let Some(pipe) = self.logins.pipe(key) else {
            return Ok(());
        };
        let data = epoll::EventData::new_u64(INHIBITOR | key);
        // Nothing is ever written: the only event is the hang-up, which needs no flag.
        Ok(epoll::add(
            &self.epoll,
            pipe.as_fd(),
            data,
            epoll::EventFlags::empty(),
        )?)
    }

    // ---- PID 1 -------------------------------------------------------------------------------------------------

    fn connect_control(&mut self) {
        match self.control.connect(Instant::now()) {
            Ok(false) => {}
            Ok(true) => {
                if let Some(socket) = self.control.socket() {
                    let data = epoll::EventData::new_u64(CONTROL);
                    if let Err(error) = epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)
                    {
                        tracing::error!(%error, "failed to watch the connection to PID 1");
                    }
                }
                self.control_interest = false;
                self.level = SubscribeLevel::Off;
                self.adjust_level();
                for name in self.references.keys().cloned().collect::<Vec<_>>() {
                    self.tell(Request::Ref { name });
                }
            }
            Err(error) => {
                tracing::debug!(error = %telemetry::chain(&error), "PID 1 is not there yet");
            }
        }
    }

    /// Ask PID 1 something whose answer nobody needs.
    pub(crate) fn tell(&mut self, request: Request) {
        if self.control.ask(request, Waiter::Nobody).is_err() {
            tracing::warn!("PID 1 is far behind; a note to it is lost");
        }
    }

    fn adjust_level(&mut self) {
        let wants = |client: &Client| match client.door {
            Door::Private => client.subscribed,
            Door::Bus => client
                .rules
                .iter()
                .any(crate::match_rule::MatchRule::wants_unit_signals),
        };
        let level = if self.clients.values().any(wants) {
            SubscribeLevel::Units
        } else {
            SubscribeLevel::Jobs
        };
        if level != self.level && self.control.socket().is_some() {
            self.level = level;
            self.tell(Request::Subscribe { level });
            self.flush_control();
        }
    }

    fn flush_control(&mut self) {
        if let Err(error) = self.control.flush() {
            self.lose_control(&error);
            return;
        }
        let wanted = self.control.has_output();
        if wanted == self.control_interest {
            return;
        }
        let Some(socket) = self.control.socket() else {
            return;
        };
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, wanted);
        if let Err(error) = epoll::modify(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(CONTROL),
            flags,
        ) {
            tracing::error!(%error, "failed to watch the connection to PID 1");
        }
        self.control_interest = wanted;
    }

    fn read_control(&mut self) {
        loop {
            match self.control.receive() {
                Ok(None) => return,
                Ok(Some(ServerFrame::Signal(signal))) => self.signal(signal),
                Ok(Some(ServerFrame::Reply { id, result })) => match self.control.take_waiter(id) {
                    Some(waiter) => self.answered(waiter, result),
                    None => tracing::warn!(id, "PID 1 answers what was not asked"),
                },
                Err(error) => {
                    self.lose_control(&error);
                    return;
                }
            }
        }
    }

    /// PID 1 re-executes, or is no longer of our build. Private peers expect their connection to end then; on the
    /// bus the calls in work get an error.
    fn lose_control(&mut self, error: &crate::control::ControlFailure) {
        tracing::info!(reason = %telemetry::chain(error), "connection to PID 1 ended");
        let waiting = self.control.reset(Instant::now());
        self.changes.clear();
        for waiter in waiting {
            if let Waiter::Call { client, call, .. } = waiter {
                let text = "PID 1 went away before it answered";
                self.finish(client, &call, Step::bus_error("NoReply", text));
            }
        }
        let private: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| c.door == Door::Private)
            .map(|(id, _)| *id)
            .collect();
        for id in private {
            self.doom(id, End::ManagerGone);
        }
    }
}

/// Time until a moment of the real-time clock.
fn until(at_usec: u64) -> Duration {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Duration::from_micros(at_usec).saturating_sub(now)
}

/// `PropertiesChanged` and its like carry nothing invalidated.
pub(crate) fn no_strings() -> Value {
    Value::strings(Vec::<String>::new())
}
