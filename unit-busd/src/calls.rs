//! Messages of clients: where each goes, and how a call is carried to its end.

use std::os::fd::OwnedFd;

use dbus_api::wire::{FLAG_NO_REPLY, Kind, Message};
use init_control::{ControlError, Reply};

use crate::client::{Client, Door, End, MAX_PENDING};
use crate::dispatch::dispatch;
use crate::router::{DRIVER, Destination, SERVICES_NAME};
use crate::server::{Server, Waiter};
use crate::signals::Audience;
use crate::step::Step;

impl Server {
    /// Work off what a client sent, while not too much of it is in work.
    pub(crate) fn process(&mut self, id: u64) {
        loop {
            let Some(client) = self.clients.get_mut(&id) else {
                return;
            };
            if client.pending >= MAX_PENDING {
                break;
            }
            match client.next_message() {
                Ok(Some((message, fds))) => self.message(id, message, fds),
                Ok(None) => break,
                Err(end) => {
                    self.doom(id, end);
                    return;
                }
            }
        }
        self.flush_client(id);
    }

    fn message(&mut self, id: u64, mut message: Message, fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        // Whatever the client claims: its name is the one it got.
        message.sender = client.unique.clone().unwrap_or_default();
        match client.door {
            // Answers and signals of a private peer are for nobody.
            Door::Private if message.kind == Kind::Call => self.serve(id, message),
            Door::Private => {}
            Door::Bus => self.route(id, message, fds),
        }
    }

    fn route(&mut self, id: u64, message: Message, fds: Vec<OwnedFd>) {
        let destination = if message.destination.is_empty() {
            if message.kind == Kind::Signal {
                Destination::Nobody
            } else {
                Destination::Driver
            }
        } else {
            self.names.resolve(&message.destination)
        };
        let is_hello = message.kind == Kind::Call
            && destination == Destination::Driver
            && message.member == "Hello";
        if message.sender.is_empty() && !is_hello {
            self.doom(id, End::NoHello);
            return;
        }
        match (message.kind, destination) {
            (Kind::Call, Destination::Driver) => self.drive(id, message),
            (Kind::Call, Destination::Services) => self.serve(id, message),
            (Kind::Call, Destination::Client(to)) => self.forward_call(id, to, message, fds),
            (Kind::Call, Destination::Nobody) => {
                let text = format!(
                    "The name {} was not provided by any service",
                    message.destination
                );
                self.finish_as(
                    id,
                    &message,
                    Step::bus_error("ServiceUnknown", text),
                    DRIVER,
                );
            }
            // Only the one that was asked may answer, and only once.
            (Kind::Return | Kind::Error, Destination::Client(to))
                if self.routed.get(&(to, message.reply_serial)) == Some(&id) =>
            {
                self.routed.remove(&(to, message.reply_serial));
                self.forward(to, &message, fds);
            }
            (Kind::Signal, Destination::Client(to)) => self.forward(to, &message, fds),
            (Kind::Signal, Destination::Nobody) if message.destination.is_empty() => {
                self.client_signal(id, message);
            }
            _ => {}
        }
    }

    fn forward_call(&mut self, id: u64, to: u64, message: Message, fds: Vec<OwnedFd>) {
        if message.wants_reply() {
            let open = self
                .routed
                .keys()
                .filter(|(caller, _)| *caller == id)
                .count();
            if open >= MAX_PENDING {
                let text = "Too many calls without an answer";
                self.finish_as(
                    id,
                    &message,
                    Step::bus_error("LimitsExceeded", text),
                    DRIVER,
                );
                return;
            }
            self.routed.insert((id, message.serial), to);
        }
        self.forward(to, &message, fds);
    }

    /// Pass a message on with its own serial and its true sender.
    fn forward(&mut self, to: u64, message: &Message, fds: Vec<OwnedFd>) {
        self.queue(to, message.encode().into(), fds);
    }

    /// A broadcast of a client: from owners of names only, so that nobody can pose as a service.
    fn client_signal(&mut self, id: u64, message: Message) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        if client.names.is_empty() {
            return;
        }
        let owned: Vec<String> = client
            .unique
            .iter()
            .cloned()
            .chain(client.names.iter().cloned())
            .collect();
        let senders: Vec<&str> = owned.iter().map(String::as_str).collect();
        self.broadcast(message, &senders, Audience::Bus);
    }

    /// A call to our own services.
    fn serve(&mut self, id: u64, message: Message) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let step = dispatch(&message, client.peer, &self.world);
        let mut call = message;
        // What the handler needed of the arguments it has taken.
        call.body = Vec::new();
        self.advance(id, call, step);
    }

    /// Carry a call on until it is answered or waits for PID 1.
    pub(crate) fn advance(&mut self, id: u64, call: Message, step: Step) {
        let (request, next) = match step {
            Step::Ask(request, next) => (request, next),
            Step::Act(act) => return self.act(id, call, act),
            done => return self.finish(id, &call, done),
        };
        if let Some(client) = self.clients.get_mut(&id) {
            client.pending += 1;
        }
        let waiter = Waiter::Call {
            client: id,
            call: Box::new(call),
            next,
        };
        if let Err(Waiter::Call { call, .. }) = self.control.ask(request, waiter) {
            if let Some(client) = self.clients.get_mut(&id) {
                client.pending -= 1;
            }
            self.finish(
                id,
                &call,
                Step::bus_error("LimitsExceeded", "PID 1 is busy, try again"),
            );
        }
    }

    /// An answer of PID 1.
    pub(crate) fn answered(&mut self, waiter: Waiter, result: Result<Reply, ControlError>) {
        match waiter {
            Waiter::Call { client, call, next } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.pending = client.pending.saturating_sub(1);
                }
                let step = match result {
                    Ok(reply) => next(reply),
                    Err(error) => Step::refused(&error),
                };
                self.advance(client, *call, step);
                self.process(client);
            }
            Waiter::Changed(unit) => self.unit_snapshot(&unit, result),
            Waiter::Nobody => {
                if let Err(error) = result {
                    tracing::debug!(%error, "PID 1 refused a note");
                }
            }
        }
    }

    /// The end of a call to our services.
    pub(crate) fn finish(&mut self, id: u64, call: &Message, step: Step) {
        self.finish_as(id, call, step, SERVICES_NAME);
    }

    /// The end of a call, as this sender.
    pub(crate) fn finish_as(&mut self, id: u64, call: &Message, step: Step, sender: &str) {
        if call.flags & FLAG_NO_REPLY != 0 {
            return;
        }
        let (reply, fds) = match step {
            Step::Reply(body) => (call.reply(body), Vec::new()),
            Step::ReplyWithFd(body, fd) => (call.reply(body), vec![fd]),
            Step::Refuse(name, text) => (call.refuse(&name, text), Vec::new()),
            // `advance` lets only the ends through.
            Step::Ask(..) | Step::Act(_) => return,
        };
        self.send(id, reply, sender, fds);
    }

    /// A connection is gone: its names, references and open calls.
    pub(crate) fn forget(&mut self, id: u64, client: &Client) {
        for unit in &client.refs {
            self.unreference(unit);
        }
        for change in self.names.remove(id) {
            self.owner_changed(&change);
        }
        self.routed.retain(|(caller, _), _| *caller != id);
        let orphans: Vec<(u64, u32)> = self
            .routed
            .iter()
            .filter(|(_, callee)| **callee == id)
            .map(|(key, _)| *key)
            .collect();
        for (caller, serial) in orphans {
            self.routed.remove(&(caller, serial));
            let mut call = Message::call(DRIVER, "/", DRIVER, "Gone", Vec::new());
            call.serial = serial;
            let text = "The service ended before it answered";
            self.finish_as(caller, &call, Step::bus_error("NoReply", text), DRIVER);
        }
    }
}
