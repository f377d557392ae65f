//! Methods of the bus itself, `org.freedesktop.DBus`.

use dbus_api::wire::{Message, Value};

use crate::client::{MAX_NAMES, MAX_RULES};
use crate::match_rule::MatchRule;
use crate::router::{DRIVER, Destination, OwnerChange};
use crate::server::Server;
use crate::signals::Audience;
use crate::step::Step;

const PATH: &str = "/org/freedesktop/DBus";

impl Server {
    /// A call to the bus.
    pub(crate) fn drive(&mut self, id: u64, mut call: Message) {
        let body = std::mem::take(&mut call.body);
        let text = |index: usize| {
            body.get(index)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let signature: String = body.iter().map(Value::signature).collect();
        let step = match (
            call.interface.as_str(),
            call.member.as_str(),
            signature.as_str(),
        ) {
            (DRIVER | "", "Hello", "") => return self.hello(id, &call),
            (DRIVER | "", "AddMatch", "s") => self.add_match(id, text(0)),
            (DRIVER | "", "RemoveMatch", "s") => self.remove_match(id, &text(0)),
            (DRIVER | "", "RequestName", "su") => self.request_name(
                id,
                &text(0),
                body.get(1).and_then(Value::as_u64).unwrap_or_default(),
            ),
            (DRIVER | "", "ReleaseName", "s") => self.release_name(id, &text(0)),
            (DRIVER | "", "GetNameOwner", "s") => {
                self.with_owner(&text(0), |owner| vec![Value::str(owner)])
            }
            (DRIVER | "", "NameHasOwner", "s") => {
                Step::Reply(vec![Value::Bool(self.names.owner(&text(0)).is_some())])
            }
            (DRIVER | "", "ListQueuedOwners", "s") => {
                self.with_owner(&text(0), |owner| vec![Value::strings([owner])])
            }
            (DRIVER | "", "ListNames", "") => Step::Reply(vec![self.names.list()]),
            (DRIVER | "", "ListActivatableNames", "") => {
                Step::Reply(vec![crate::server::no_strings()])
            }
            // 2 = it runs already.
            (DRIVER | "", "StartServiceByName", "su") => {
                self.with_owner(&text(0), |_| vec![Value::U32(2)])
            }
            (DRIVER | "", "GetConnectionUnixUser", "s") => {
                self.with_credentials(&text(0), |_, uid, _| vec![Value::U32(uid)])
            }
            (DRIVER | "", "GetConnectionUnixProcessID", "s") => {
                self.with_credentials(&text(0), |pid, _, _| vec![Value::U32(pid)])
            }
            (DRIVER | "", "GetConnectionCredentials", "s") => {
                self.with_credentials(&text(0), |pid, uid, gid| {
                    let groups = Value::array("u", vec![Value::U32(gid)]);
                    vec![Value::dict([
                        ("UnixUserID", Value::U32(uid)),
                        ("ProcessID", Value::U32(pid)),
                        ("UnixGroupIDs", groups),
                    ])]
                })
            }
            (DRIVER | "", "GetId", "") => Step::Reply(vec![Value::str(&*self.guid)]),
            ("org.freedesktop.DBus.Peer" | "", "Ping", "") => Step::done(),
            ("org.freedesktop.DBus.Properties", "GetAll", "s") => {
                Step::Reply(vec![Value::dict(bus_properties())])
            }
            ("org.freedesktop.DBus.Properties", "Get", "ss") => {
                let property = text(1);
                match bus_properties()
                    .into_iter()
                    .find(|(name, _)| *name == property)
                {
                    Some((_, value)) => Step::Reply(vec![Value::variant(value)]),
                    None => Step::bus_error(
                        "UnknownProperty",
                        format!("Unknown property '{property}'."),
                    ),
                }
            }
            _ => {
                let text = format!(
                    "Unknown method {}({signature}) or interface {}.",
                    call.member, call.interface
                );
                Step::bus_error("UnknownMethod", text)
            }
        };
        self.finish_as(id, &call, step, DRIVER);
    }

    fn hello(&mut self, id: u64, call: &Message) {
        if self
            .clients
            .get(&id)
            .is_none_or(|client| client.unique.is_some())
        {
            let step = Step::bus_error("Failed", "Already handled an Hello message");
            return self.finish_as(id, call, step, DRIVER);
        }
        let name = self.names.hello(id);
        if let Some(client) = self.clients.get_mut(&id) {
            client.unique = Some(name.clone());
        }
        self.finish_as(id, call, Step::Reply(vec![Value::str(&*name)]), DRIVER);
        self.owner_changed(&(name.clone(), String::new(), name.clone()));
        self.acquired(id, "NameAcquired", &name);
    }

    /// `NameAcquired` or `NameLost`, to the one whom it concerns.
    fn acquired(&mut self, id: u64, member: &str, name: &str) {
        let signal = Message::signal(PATH, DRIVER, member, vec![Value::str(name)]);
        self.send(id, signal, DRIVER, Vec::new());
    }

    pub(crate) fn owner_changed(&mut self, (name, old, new): &OwnerChange) {
        let body = vec![Value::str(&**name), Value::str(&**old), Value::str(&**new)];
        let signal = Message::signal(PATH, DRIVER, "NameOwnerChanged", body);
        self.broadcast(signal, &[DRIVER], Audience::Bus);
    }

    fn add_match(&mut self, id: u64, text: String) -> Step {
        let rule = match MatchRule::parse(&text) {
            Ok(rule) => rule,
            Err(reason) => {
                return Step::bus_error(
                    "MatchRuleInvalid",
                    format!("{reason} in match rule {text:?}"),
                );
            }
        };
        let Some(client) = self.clients.get_mut(&id) else {
            return Step::done();
        };
        if client.rules.len() >= MAX_RULES {
            return Step::bus_error(
                "LimitsExceeded",
                format!("More than {MAX_RULES} match rules"),
            );
        }
        client.rules.push(rule);
        client.rule_texts.push(text);
        Step::done()
    }

    fn remove_match(&mut self, id: u64, text: &str) -> Step {
        let Some(client) = self.clients.get_mut(&id) else {
            return Step::done();
        };
        let wanted = MatchRule::parse(text).ok();
        let found = (0..client.rules.len()).find(|at| {
            client.rule_texts[*at] == text || wanted.as_ref() == Some(&client.rules[*at])
        });
        match found {
            Some(at) => {
                client.rules.swap_remove(at);
                client.rule_texts.swap_remove(at);
                Step::done()
            }
            None => Step::bus_error("MatchRuleNotFound", "The given match rule was not found"),
        }
    }

    fn request_name(&mut self, id: u64, name: &str, flags: u64) -> Step {
        let Some(client) = self.clients.get(&id) else {
            return Step::done();
        };
        if client.peer.uid != 0 {
            return Step::bus_error(
                "AccessDenied",
                format!("Only root may own the name \"{name}\""),
            );
        }
        if client.names.len() >= MAX_NAMES {
            return Step::bus_error("LimitsExceeded", format!("More than {MAX_NAMES} names"));
        }
        match self.names.request(name, id, flags) {
            Err(text) => Step::bus_error("InvalidArgs", text),
            Ok((code, change, loser)) => {
                if let Some(loser) = loser {
                    if let Some(client) = self.clients.get_mut(&loser) {
                        client.names.remove(name);
                    }
                    self.acquired(loser, "NameLost", name);
                }
                if let Some(change) = change {
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.names.insert(name.to_owned());
                    }
                    self.owner_changed(&change);
                    self.acquired(id, "NameAcquired", name);
                }
                Step::Reply(vec![Value::U32(code)])
            }
        }
    }

    fn release_name(&mut self, id: u64, name: &str) -> Step {
        let (code, change) = self.names.release(name, id);
        if let Some(change) = change {
            if let Some(client) = self.clients.get_mut(&id) {
                client.names.remove(name);
            }
            self.acquired(id, "NameLost", name);
            self.owner_changed(&change);
        }
        Step::Reply(vec![Value::U32(code)])
    }

    fn with_owner(&self, name: &str, then: impl FnOnce(String) -> Vec<Value>) -> Step {
        match self.names.owner(name) {
            Some(owner) => Step::Reply(then(owner)),
            None => no_owner(name),
        }
    }

    fn with_credentials(&self, name: &str, then: impl FnOnce(u32, u32, u32) -> Vec<Value>) -> Step {
        match self.names.resolve(name) {
            Destination::Driver | Destination::Services => {
                Step::Reply(then(std::process::id(), 0, 0))
            }
            Destination::Client(id) => match self.clients.get(&id) {
                Some(client) => {
                    let pid = u32::try_from(client.peer.pid).unwrap_or_default();
                    Step::Reply(then(pid, client.peer.uid, client.peer.gid))
                }
                None => no_owner(name),
            },
            Destination::Nobody => no_owner(name),
        }
    }
}

fn no_owner(name: &str) -> Step {
    Step::bus_error(
        "NameHasNoOwner",
        format!("Could not get owner of name '{name}': no such name"),
    )
}

fn bus_properties() -> Vec<(&'static str, Value)> {
    vec![
        ("Features", crate::server::no_strings()),
        ("Interfaces", crate::server::no_strings()),
    ]
}
