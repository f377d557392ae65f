//! Unit signals, and what calls change in the server: subscriptions, references, ending the machine.

use std::collections::HashMap;
use std::time::Instant;

use dbus_api::wire::{Message, Value};
use init_control::{ControlError, ErrorKind, PowerAction, Reply, Request, Signal};

use crate::login;
use crate::properties::of_unit;
use crate::router::OUR_NAMES;
use crate::server::{Server, Waiter};
use crate::signals::{self, Audience};
use crate::step::{Act, Step};

/// Units whose change is being looked at. News about them wait, so that a client that sees `JobRemoved` has seen the
/// state it led to.
#[derive(Debug, Default)]
pub(crate) struct Changes(HashMap<String, Held>);

#[derive(Debug, Default)]
struct Held {
    /// It changed again while the snapshot was on its way.
    again: bool,
    after: Vec<Signal>,
}

impl Changes {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Server {
    /// News from PID 1.
    pub(crate) fn signal(&mut self, signal: Signal) {
        match &signal {
            Signal::UnitChanged { unit, .. } => {
                if let Some(held) = self.changes.0.get_mut(unit) {
                    held.again = true;
                } else {
                    self.look_at(unit.clone());
                }
                return;
            }
            Signal::JobRemoved { unit, .. } | Signal::UnitRemoved { unit } => {
                if let Some(held) = self.changes.0.get_mut(unit) {
                    held.after.push(signal);
                    return;
                }
            }
            _ => {}
        }
        self.emit(&signal);
    }

    fn emit(&mut self, signal: &Signal) {
        if let Some((message, audience)) = signals::message(signal) {
            self.broadcast(message, OUR_NAMES, audience);
        }
    }

    fn look_at(&mut self, unit: String) {
        let waiter = Waiter::Changed(unit.clone());
        let ask = Request::UnitSnapshot { name: unit.clone() };
        if self.control.ask(ask, waiter).is_ok() {
            self.changes.0.entry(unit).or_default().again = false;
        } else {
            self.release(&unit);
        }
    }

    /// The snapshot of a unit that changed.
    pub(crate) fn unit_snapshot(&mut self, unit: &str, result: Result<Reply, ControlError>) {
        if let Ok(Reply::Unit(snapshot)) = result {
            for message in signals::changed(unit, of_unit(&snapshot, &self.world)) {
                self.broadcast(message, OUR_NAMES, Audience::Units);
            }
        }
        if self.changes.0.get(unit).is_some_and(|held| held.again) {
            self.look_at(unit.to_owned());
        } else {
            self.release(unit);
        }
    }

    fn release(&mut self, unit: &str) {
        for signal in self.changes.0.remove(unit).unwrap_or_default().after {
            self.emit(&signal);
        }
    }

    /// Do what a call wants of the server.
    pub(crate) fn act(&mut self, id: u64, call: Message, act: Act) {
        let step = match act {
            Act::Subscribe(on) => self.subscribe(id, on),
            Act::Reference { unit, add } => return self.reference(id, call, unit, add),
            Act::Power {
                action,
                check_inhibitors,
            } => return self.power(id, call, action, check_inhibitors),
            Act::Inhibit {
                what,
                who,
                why,
                mode,
                peer,
            } => match self.logins.inhibit(&what, &who, &why, &mode, peer) {
                Ok((key, lock)) => match self.watch_inhibitor(key) {
                    Ok(()) => Step::ReplyWithFd(vec![Value::Fd(0)], lock),
                    Err(error) => {
                        self.logins.release(key);
                        Step::refuse(
                            ErrorKind::Failed,
                            format!("failed to watch the lock: {error}"),
                        )
                    }
                },
                Err((kind, text)) => Step::refuse(kind, text),
            },
            Act::Schedule(wanted) => self.schedule(wanted),
            Act::ListInhibitors => Step::Reply(vec![self.logins.list()]),
            Act::LoginProperty(name) => self.logins.property(&name),
        };
        self.finish(id, &call, step);
    }

    fn subscribe(&mut self, id: u64, on: bool) -> Step {
        let Some(client) = self.clients.get_mut(&id) else {
            return Step::done();
        };
        match (client.subscribed, on) {
            (true, true) => Step::refuse(
                ErrorKind::AlreadySubscribed,
                "Client is already subscribed.",
            ),
            (false, false) => Step::refuse(ErrorKind::NotSubscribed, "Client is not subscribed."),
            _ => {
                client.subscribed = on;
                Step::done()
            }
        }
    }

    /// PID 1 counts us once; we count our clients.
    fn reference(&mut self, id: u64, call: Message, unit: String, add: bool) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if add {
            client.refs.push(unit.clone());
            let count = self.references.entry(unit.clone()).or_default();
            *count += 1;
            if *count > 1 {
                return self.finish(id, &call, Step::done());
            }
            return self.advance(id, call, Step::ask_done(Request::Ref { name: unit }));
        }
        match client.refs.iter().position(|held| *held == unit) {
            Some(at) => {
                client.refs.swap_remove(at);
                self.unreference(&unit);
                self.finish(id, &call, Step::done());
            }
            None => {
                let text = format!("Unit {unit} is not referenced by this client.");
                self.finish(id, &call, Step::refuse(ErrorKind::NotReferenced, text));
            }
        }
    }

    pub(crate) fn unreference(&mut self, unit: &str) {
        let Some(count) = self.references.get_mut(unit) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.references.remove(unit);
            self.tell(Request::Unref {
                name: unit.to_owned(),
            });
        }
    }

    fn power(&mut self, id: u64, call: Message, action: PowerAction, check_inhibitors: bool) {
        if let Some(who) = self.logins.blocker().filter(|_| check_inhibitors) {
            let name = "org.freedesktop.login1.BlockedByInhibitorLock".to_owned();
            let step = Step::Refuse(name, format!("Operation inhibited by {who}"));
            return self.finish(id, &call, step);
        }
        if self.delayed_end.is_some() {
            let name = "org.freedesktop.login1.OperationInProgress".to_owned();
            let step = Step::Refuse(name, "The machine is ending already".to_owned());
            return self.finish(id, &call, step);
        }
        self.prepare(true);
        if self.logins.is_delayed() {
            self.delayed_end = Some((Instant::now() + login::DELAY_MAX, action));
            return self.finish(id, &call, Step::done());
        }
        self.advance(id, call, Step::ask_done(end(action)));
    }

    /// `PrepareForShutdown`
    fn prepare(&mut self, begins: bool) {
        self.logins.preparing = begins;
        let signal = Message::signal(
            login::PATH,
            login::MANAGER,
            "PrepareForShutdown",
            vec![Value::Bool(begins)],
        );
        self.broadcast(signal, OUR_NAMES, Audience::Bus);
    }

    /// A lock was closed.
    pub(crate) fn inhibitor_released(&mut self, key: u64) {
        // Dropping the pipe takes it out of epoll.
        self.logins.release(key);
        if self.delayed_end.is_some() && !self.logins.is_delayed() {
            self.end_delayed();
        }
    }

    /// All have had their moment.
    pub(crate) fn end_delayed(&mut self) {
        if let Some((_, action)) = self.delayed_end.take() {
            self.end_now(action);
        }
    }

    /// The scheduled time has come.
    pub(crate) fn end_scheduled(&mut self) {
        let Some((action, _)) = self.logins.scheduled() else {
            return;
        };
        if let Err(error) = self.logins.schedule(None) {
            tracing::warn!(%error, "failed to remove the schedule");
        }
        if let Some(who) = self.logins.blocker() {
            tracing::warn!(%who, %action, "scheduled end of the machine is inhibited");
            return;
        }
        self.prepare(true);
        self.end_now(action);
    }

    fn end_now(&mut self, action: PowerAction) {
        tracing::info!(%action, "ending the machine");
        if self.control.ask(end(action), Waiter::Nobody).is_err() {
            tracing::error!(%action, "PID 1 cannot be asked to end the machine");
        }
    }

    fn schedule(&mut self, wanted: Option<(String, u64)>) -> Step {
        let cancels = wanted.is_none();
        let wanted = match wanted {
            None => None,
            Some((word, at)) => {
                let action =
                    PowerAction::from_word(&word).filter(|a| !matches!(a, PowerAction::SoftReboot));
                let Some(action) = action else {
                    return Step::refuse(
                        ErrorKind::InvalidArgs,
                        format!("Unsupported shutdown type {word}"),
                    );
                };
                Some((action, at))
            }
        };
        match self.logins.schedule(wanted) {
            Ok(had) if cancels => Step::Reply(vec![Value::Bool(had)]),
            Ok(_) => Step::done(),
            Err(error) => Step::refuse(
                ErrorKind::Failed,
                format!("failed to keep the schedule: {error}"),
            ),
        }
    }
}

fn end(action: PowerAction) -> Request {
    Request::Power {
        action,
        immediate: false,
        argument: None,
    }
}
