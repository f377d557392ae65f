//! Rolling a global unit's new text out: which machines may take it over already.
//!
//! `PUT /fleet/v1/units/NAME?rolling=true` stores the text and gives nobody a turn: what runs goes on
//! with the old text. Who rolls it out gives turns, watches, and ends it.

use std::collections::BTreeSet;

use fleet_model::MachineId;
use fleet_model::wire::flotilla::Turns;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::super::Api;
use super::super::reply::Reply;
use super::super::request::read_json;
use crate::registry::RegistryError;

/// Machines in one request.
const MAX_MACHINES: usize = 10_000;

fn none() -> Reply {
    Reply::error(
        StatusCode::NOT_FOUND,
        "the unit has no text that is being rolled out",
    )
}

impl Api {
    pub(super) fn unit_turns(&self, name: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let turns = self
            .mirror
            .read()
            .units
            .get(&name)
            .and_then(|u| u.turns.clone());
        match turns {
            Some(turns) => Reply::json(&Turns {
                machines: turns.iter().map(ToString::to_string).collect(),
            }),
            None => none(),
        }
    }

    pub(super) async fn give_turns(&self, name: &str, request: Request<Incoming>) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let turns: Turns = match read_json(request.into_body()).await {
            Ok(turns) => turns,
            Err(reply) => return reply,
        };
        if turns.machines.len() > MAX_MACHINES {
            return Reply::bad_request(format!("more than {MAX_MACHINES} machines"));
        }
        let mut machines = BTreeSet::new();
        for id in &turns.machines {
            match MachineId::parse(id) {
                Some(id) => drop(machines.insert(id)),
                None => return Reply::bad_request(format!("\"{id}\" is no machine ID")),
            }
        }
        self.turned(self.registry.give_turns(&name, &machines).await)
            .await
    }

    pub(super) async fn end_turns(&self, name: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        self.turned(self.registry.end_turns(&name).await).await
    }

    async fn turned(&self, revision: Result<Option<i64>, RegistryError>) -> Reply {
        match revision {
            Ok(Some(revision)) => {
                self.mirror.caught_up(revision).await;
                Reply::Empty(StatusCode::NO_CONTENT)
            }
            Ok(None) => none(),
            Err(error) => Reply::failed(&error),
        }
    }
}
