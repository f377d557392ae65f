//! `state`: what the machines say of the units on them.

use fleet_model::wire;
use fleet_model::{MachineId, Phase, UnitName, UnitState};
use hyper::StatusCode;

use super::paging::Page;
use super::request::query_values;
use super::{Api, Reply};

impl Api {
    pub(super) async fn list_states(&self, query: &str) -> Reply {
        let page = match Page::from_query(query, self.page_limit) {
            Ok(page) => page,
            Err(reply) => return reply,
        };
        // The first value counts, and an empty one is none.
        let filter = |key| {
            let first = query_values(query, key).into_iter().next();
            first.filter(|value| !value.is_empty())
        };
        let (machine, unit) = (filter("machineID"), filter("unitName"));
        let name = unit.as_deref().map(UnitName::parse);
        let read = match &name {
            // No unit can have that name.
            Some(Err(_)) => Ok(Vec::new()),
            Some(Ok(name)) => self.registry.states(Some((name, name))).await,
            None => self.registry.states(None).await,
        };
        let states: Vec<_> = match read {
            Ok(states) => states
                .iter()
                .filter(|(_, on, s)| {
                    s.phase != Phase::Claimed && machine.as_ref().is_none_or(|m| m == on.as_str())
                })
                .map(to_wire)
                .collect(),
            Err(error) => return Reply::failed(&error),
        };
        let (states, next_page_token) = page.cut(states);
        Reply::json(&wire::UnitStatePage {
            states,
            next_page_token,
        })
    }

    pub(super) async fn get_state(&self, name: &str) -> Reply {
        let missing = || Reply::error(StatusCode::NOT_FOUND, "unit state does not exist");
        let Ok(name) = UnitName::parse(name) else {
            return missing();
        };
        match self.registry.states(Some((&name, &name))).await {
            Ok(states) => states
                .iter()
                .find(|(_, _, state)| state.phase != Phase::Claimed)
                .map_or_else(missing, |state| Reply::json(&to_wire(state))),
            Err(error) => Reply::failed(&error),
        }
    }
}

pub(super) fn to_wire(
    (name, machine, state): &(UnitName, MachineId, UnitState),
) -> wire::UnitState {
    wire::UnitState {
        name: name.to_string(),
        hash: state.hash.clone(),
        machine_id: machine.to_string(),
        systemd_load_state: state.load.clone(),
        systemd_active_state: state.active.clone(),
        systemd_sub_state: state.sub.clone(),
    }
}
