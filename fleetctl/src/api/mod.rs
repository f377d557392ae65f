//! The API as typed calls: fleet's v1 here, what Flotilla adds in [`beyond`].

mod beyond;

use fleet_model::{TargetState, UnitFile, wire};
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::net::{Answer, Transport};

/// A client of one endpoint.
#[derive(Debug)]
pub(crate) struct Client {
    transport: Transport,
}

impl Client {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport }
    }

    /// The way to machines.
    pub(crate) fn ssh(&self) -> &crate::net::ssh::Ssh {
        &self.transport.ssh
    }

    fn read<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, Failure> {
        let answer = self.transport.request(what, "GET", path, None)?;
        self.expect(what, &answer, &[200])?;
        self.decode(what, &answer)
    }

    fn decode<T: DeserializeOwned>(&self, what: &str, answer: &Answer) -> Result<T, Failure> {
        serde_json::from_slice(&answer.body).map_err(|error| Failure::Answer {
            what: what.to_owned(),
            endpoint: self.transport.endpoint.to_string(),
            reason: error.to_string(),
        })
    }

    fn expect(&self, what: &str, answer: &Answer, statuses: &[u16]) -> Result<(), Failure> {
        let status = answer.status;
        if statuses.contains(&status) {
            return Ok(());
        }
        let message = message(answer);
        let message = if message.is_empty() {
            format!("fleetd answered {status}")
        } else {
            message
        };
        Err(Failure::Api {
            what: what.to_owned(),
            status,
            message,
        })
    }

    /// Reads all pages of a list.
    fn pages<P: DeserializeOwned, T>(
        &self,
        what: &str,
        path: &str,
        split: impl Fn(P) -> (Vec<T>, String),
    ) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = match token.as_str() {
                "" => path.to_owned(),
                token => format!("{path}{joint}nextPageToken={}", encode(token)),
            };
            let (items, next) = split(self.read(what, &page)?);
            all.extend(items);
            if next.is_empty() {
                return Ok(all);
            }
            token = next;
        }
    }

    pub(crate) fn units(&self) -> Result<Vec<wire::Unit>, Failure> {
        let split = |page: wire::UnitPage| (page.units, page.next_page_token);
        self.pages("list units", "/fleet/v1/units", split)
    }

    pub(crate) fn states(&self, unit: Option<&str>) -> Result<Vec<wire::UnitState>, Failure> {
        let path = match unit {
            Some(unit) => format!("/fleet/v1/state?unitName={}", encode(unit)),
            None => "/fleet/v1/state".to_owned(),
        };
        self.state_pages(&path)
    }

    /// What one machine says of its units.
    pub(crate) fn states_on(&self, machine: &str) -> Result<Vec<wire::UnitState>, Failure> {
        self.state_pages(&format!("/fleet/v1/state?machineID={}", encode(machine)))
    }

    fn state_pages(&self, path: &str) -> Result<Vec<wire::UnitState>, Failure> {
        let split = |page: wire::UnitStatePage| (page.states, page.next_page_token);
        self.pages("list states", path, split)
    }

    pub(crate) fn machines(&self) -> Result<Vec<wire::Machine>, Failure> {
        let split = |page: wire::MachinePage| (page.machines, page.next_page_token);
        self.pages("list machines", "/fleet/v1/machines", split)
    }

    /// A unit; `None` if there is none of that name.
    pub(crate) fn unit(&self, name: &str) -> Result<Option<wire::Unit>, Failure> {
        let what = format!("read unit {name}");
        let answer = self
            .transport
            .request(&what, "GET", &unit_path(name), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.expect(&what, &answer, &[200])?;
        self.decode(&what, &answer).map(Some)
    }

    /// Stores a unit, or replaces one that differs; its target state becomes `target`.
    pub(crate) fn create(
        &self,
        name: &str,
        file: &UnitFile,
        target: TargetState,
    ) -> Result<(), Failure> {
        let unit = whole(name, file, target);
        self.put(&format!("create unit {name}"), &unit_path(name), &unit)
    }

    /// Gives a global unit another text, which each machine takes over when it has its turn.
    pub(crate) fn create_rolling(
        &self,
        name: &str,
        file: &UnitFile,
        target: TargetState,
    ) -> Result<(), Failure> {
        let unit = whole(name, file, target);
        let path = format!("{}?rolling=true", unit_path(name));
        self.put(&format!("replace unit {name}"), &path, &unit)
    }

    /// Sets what is wanted of a unit.
    pub(crate) fn set_target(&self, name: &str, target: TargetState) -> Result<(), Failure> {
        let unit = wire::Unit {
            name: name.to_owned(),
            desired_state: target.to_string(),
            ..wire::Unit::default()
        };
        self.put(
            &format!("set the state of unit {name}"),
            &unit_path(name),
            &unit,
        )
    }

    fn put(&self, what: &str, path: &str, unit: &wire::Unit) -> Result<(), Failure> {
        let body = serde_json::to_vec(unit).expect("plain strings always serialise");
        let answer = self.transport.request(what, "PUT", path, Some(&body))?;
        self.expect(what, &answer, &[201, 204])
    }

    /// Sets a value of a machine's metadata that lasts, whether or not the machine is there.
    pub(crate) fn set_metadata(&self, changes: &[wire::MetadataPatch]) -> Result<(), Failure> {
        let what = "set metadata of machines";
        let body = serde_json::to_vec(changes).expect("plain strings always serialise");
        let path = "/fleet/v1/machines";
        let answer = self.transport.request(what, "PATCH", path, Some(&body))?;
        self.expect(what, &answer, &[204])
    }

    /// Destroys a unit; false if there is none of that name.
    pub(crate) fn destroy(&self, name: &str) -> Result<bool, Failure> {
        let what = format!("destroy unit {name}");
        let answer = self
            .transport
            .request(&what, "DELETE", &unit_path(name), None)?;
        if answer.status == 404 {
            return Ok(false);
        }
        self.expect(&what, &answer, &[204])?;
        Ok(true)
    }
}

/// What an answer says that is an error; may be empty.
fn message(answer: &Answer) -> String {
    serde_json::from_slice::<wire::ErrorBody>(&answer.body)
        .map(|body| body.error.message)
        .unwrap_or_default()
}

fn whole(name: &str, file: &UnitFile, target: TargetState) -> wire::Unit {
    wire::Unit {
        name: name.to_owned(),
        options: file.options().to_vec(),
        desired_state: target.to_string(),
        ..wire::Unit::default()
    }
}

fn unit_path(name: &str) -> String {
    format!("/fleet/v1/units/{}", encode(name))
}

/// Percent-encodes whatever might mean something in a URL.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~@:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
