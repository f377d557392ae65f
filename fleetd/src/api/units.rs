//! `units`: what is wished for.

use std::collections::BTreeMap;
use std::time::Instant;

use fleet_model::agent::AgentUnit;
use fleet_model::wire;
use fleet_model::{
    MachineId, Requirements, TargetState, UnitFile, UnitName, UnitOption, UnitState, validate_unit,
};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};

use super::paging::Page;
use super::request::{is_json, query_values, read_json};
use super::{Api, Original, Reply};
use crate::registry::{Pace, RegistryError};

/// How often a write is decided again because somebody else was faster.
const TRIES: usize = 4;

/// Options of one unit.
const MAX_OPTIONS: usize = 4096;
/// Bytes of one unit's text. etcd takes no more than 1.5 MiB in one request.
const MAX_TEXT: usize = 512 << 10;

pub(super) type Records = BTreeMap<(UnitName, MachineId), UnitState>;

impl Api {
    pub(super) async fn list_units(&self, query: &str) -> Reply {
        let page = match Page::from_query(query, self.page_limit) {
            Ok(page) => page,
            Err(reply) => return reply,
        };
        let names: Vec<UnitName> = self.mirror.read().units.keys().cloned().collect();
        let (names, next_page_token) = page.cut(names);
        let records = match (names.first(), names.last()) {
            (Some(first), Some(last)) => match self.records(first, last).await {
                Ok(records) => records,
                Err(error) => return Reply::failed(&error),
            },
            _ => Records::new(),
        };
        let desired = self.mirror.read();
        let units = names
            .iter()
            .filter_map(|name| Some(to_wire(name, desired.units.get(name)?, &records)))
            .collect();
        Reply::json(&wire::UnitPage {
            units,
            next_page_token,
        })
    }

    pub(super) async fn get_unit(&self, name: &str, headers: &HeaderMap) -> Reply {
        let found = self
            .mirror
            .read()
            .units
            .get_key_value(name)
            .map(|(n, u)| (n.clone(), u.clone()));
        let Some((name, unit)) = found else {
            return Reply::error(StatusCode::NOT_FOUND, "unit does not exist");
        };
        match self.records(&name, &name).await {
            Ok(records) => {
                let mut unit = to_wire(&name, &unit, &records);
                if Original::is(headers) {
                    self.original.show(&mut unit, Instant::now());
                }
                Reply::json(&unit)
            }
            Err(error) => Reply::failed(&error),
        }
    }

    pub(super) async fn records(
        &self,
        first: &UnitName,
        last: &UnitName,
    ) -> Result<Records, RegistryError> {
        let states = self.registry.states(Some((first, last))).await?;
        Ok(states
            .into_iter()
            .map(|(name, machine, state)| ((name, machine), state))
            .collect())
    }

    pub(super) async fn delete_unit(&self, name: &str) -> Reply {
        let missing = || Reply::error(StatusCode::NOT_FOUND, "unit does not exist");
        let Ok(name) = UnitName::parse(name) else {
            return missing();
        };
        let mut unsure = false;
        for left in (0..TRIES).rev() {
            match self.registry.destroy(&name).await {
                Ok(Some(revision)) => {
                    self.mirror.caught_up(revision).await;
                    return Reply::Empty(StatusCode::NO_CONTENT);
                }
                // Perhaps gone by an attempt of ours of which we never heard.
                Ok(None) if unsure => return Reply::Empty(StatusCode::NO_CONTENT),
                Ok(None) => return missing(),
                Err(error) if error.is_unavailable() && left > 0 => unsure = true,
                Err(error) => return Reply::failed(&error),
            }
        }
        missing()
    }

    pub(super) async fn put_unit(&self, name: &str, request: Request<Incoming>) -> Reply {
        if !is_json(request.headers()) {
            let message = "only \"application/json\" is supported as Content-Type";
            return Reply::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        }
        let original = Original::is(request.headers());
        let pace = match pace(request.uri().query().unwrap_or("")) {
            Ok(pace) => pace,
            Err(reply) => return reply,
        };
        let unit: wire::Unit = match read_json(request.into_body()).await {
            Ok(unit) => unit,
            Err(reply) => return reply,
        };
        let put = match Put::read(name, unit, pace) {
            Ok(put) => put,
            Err(reply) => return reply,
        };
        let active = put.target.is_some_and(|t| t != TargetState::Inactive);
        if let Some(why) = self.no_manager.as_ref().filter(|_| active) {
            return Reply::error(StatusCode::CONFLICT, why);
        }
        if original && put.target == Some(TargetState::Loaded) && self.is_launched(&put.name) {
            self.original.stopped(&put.name, Instant::now());
        }
        for left in (0..TRIES).rev() {
            match self.try_put(&put).await {
                Ok(Some(reply)) => return reply,
                Ok(None) => {}
                // Doing it twice is the same as once.
                Err(error) if error.is_unavailable() && left > 0 => {
                    tracing::debug!("API: again: {}", telemetry::chain(&error));
                }
                Err(error) => return Reply::failed(&error),
            }
        }
        Reply::error(StatusCode::CONFLICT, "the unit is being changed by others")
    }

    fn is_launched(&self, name: &UnitName) -> bool {
        let desired = self.mirror.read();
        desired
            .units
            .get(name)
            .is_some_and(|u| u.target == TargetState::Launched)
    }

    /// Decides by what is there now. `Ok(None)` if that has changed meanwhile.
    async fn try_put(&self, put: &Put) -> Result<Option<Reply>, RegistryError> {
        let there = self
            .mirror
            .read()
            .units
            .get(&put.name)
            .map(|unit| unit.hash.clone());
        let (revision, status) = match (&there, &put.file) {
            (None, None) => {
                let message = "unit does not exist and options field empty";
                return Ok(Some(Reply::error(StatusCode::CONFLICT, message)));
            }
            (None, Some(file)) => {
                if let Some(reply) = put.check_new(file) {
                    return Ok(Some(reply));
                }
                let target = put.target.unwrap_or(TargetState::Inactive);
                (
                    self.registry.create(&put.name, file, target).await?,
                    StatusCode::CREATED,
                )
            }
            (Some(hash), Some(file)) if **hash != *file.hash() => {
                if let Some(reply) = put.check_new(file) {
                    return Ok(Some(reply));
                }
                let target = put.target.unwrap_or(TargetState::Inactive);
                (
                    self.registry
                        .replace(&put.name, file, target, put.pace)
                        .await?,
                    StatusCode::CREATED,
                )
            }
            (Some(_), _) => {
                let Some(target) = put.target else {
                    let message = "must provide desiredState";
                    return Ok(Some(Reply::error(StatusCode::CONFLICT, message)));
                };
                if let Some(reply) = put.check_activation() {
                    return Ok(Some(reply));
                }
                (
                    self.registry.set_target(&put.name, target).await?,
                    StatusCode::NO_CONTENT,
                )
            }
        };
        let Some(revision) = revision else {
            // Made or destroyed by somebody else just now; the mirror hears of it in a moment.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            return Ok(None);
        };
        self.mirror.caught_up(revision).await;
        Ok(Some(Reply::Empty(status)))
    }
}

/// A checked request.
#[derive(Debug)]
struct Put {
    name: UnitName,
    file: Option<UnitFile>,
    target: Option<TargetState>,
    pace: Pace,
}

/// `?rolling=true`: machines are to take a new text over in turns.
fn pace(query: &str) -> Result<Pace, Reply> {
    match query_values(query, "rolling").first().map(String::as_str) {
        None | Some("false") => Ok(Pace::AtOnce),
        Some("true") => Ok(Pace::InTurns),
        Some(_) => Err(Reply::bad_request("rolling is neither true nor false")),
    }
}

impl Put {
    fn read(path_name: &str, unit: wire::Unit, pace: Pace) -> Result<Self, Reply> {
        if !unit.name.is_empty() && unit.name != path_name {
            let message = format!(
                "name in URL \"{path_name}\" differs from unit name \"{}\"",
                unit.name
            );
            return Err(Reply::bad_request(message));
        }
        let name = UnitName::parse(path_name).map_err(|e| Reply::bad_request(e.to_string()))?;
        if unit.options.len() > MAX_OPTIONS {
            let message = format!("unit has more than {MAX_OPTIONS} options");
            return Err(Reply::bad_request(message));
        }
        let length = |o: &UnitOption| o.section.len() + o.name.len() + o.value.len();
        if unit.options.iter().map(length).sum::<usize>() > MAX_TEXT {
            let message = format!("unit is larger than {MAX_TEXT} bytes");
            return Err(Reply::bad_request(message));
        }
        let file = match unit.options {
            options if options.is_empty() => None,
            options => Some(
                UnitFile::from_options(options).map_err(|e| Reply::bad_request(e.to_string()))?,
            ),
        };
        let target = match unit.desired_state.as_str() {
            "" => None,
            text => Some(
                text.parse::<TargetState>()
                    .map_err(|e| Reply::bad_request(e.to_string()))?,
            ),
        };
        let global = |file: &UnitFile| Requirements::of(&name, file).global;
        if pace == Pace::InTurns && !file.as_ref().is_some_and(global) {
            return Err(Reply::bad_request(
                "only a global unit's text can be rolled out in turns",
            ));
        }
        Ok(Self {
            name,
            file,
            target,
            pace,
        })
    }

    /// What is wrong with a text to be stored.
    fn check_new(&self, file: &UnitFile) -> Option<Reply> {
        match validate_unit(&self.name, file) {
            Err(error) => Some(Reply::bad_request(error.to_string())),
            Ok(()) => self.check_activation(),
        }
    }

    fn check_activation(&self) -> Option<Reply> {
        let active = self
            .target
            .is_some_and(|target| target != TargetState::Inactive);
        (active && self.name.is_template())
            .then(|| Reply::bad_request(format!("cannot activate template \"{}\"", self.name)))
    }
}

pub(super) fn to_wire(name: &UnitName, unit: &AgentUnit, records: &Records) -> wire::Unit {
    let record = unit
        .scheduled
        .as_ref()
        .and_then(|m| records.get(&(name.clone(), m.clone())));
    wire::Unit {
        options: unit.file.options().to_vec(),
        ..summary(name, unit, record)
    }
}

/// A unit without its text; `record` is that of the machine where it is scheduled.
pub(super) fn summary(name: &UnitName, unit: &AgentUnit, record: Option<&UnitState>) -> wire::Unit {
    wire::Unit {
        name: name.to_string(),
        options: Vec::new(),
        desired_state: unit.target.to_string(),
        // A global unit has as many as there are machines, so none.
        current_state: if unit.requirements.global {
            String::new()
        } else {
            UnitState::current(record).to_string()
        },
        machine_id: unit
            .scheduled
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}
