//! A unit on all its machines, with what v1 does not tell.

use fleet_model::Phase;
use fleet_model::wire::flotilla::{UnitRun, UnitRuns};

use super::super::Api;
use super::super::reply::Reply;

impl Api {
    pub(super) async fn unit_runs(&self, name: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let restart = self.mirror.read().units.get(&name).map_or(0, |u| u.restart);
        let states = match self.registry.states(Some((&name, &name))).await {
            Ok(states) => states,
            Err(error) => return Reply::failed(&error),
        };
        let told = states
            .into_iter()
            .filter(|(_, _, s)| s.phase != Phase::Claimed);
        let states = told
            .map(|(_, machine, state)| UnitRun {
                machine: machine.to_string(),
                hash: state.hash,
                load: state.load,
                active: state.active,
                sub: state.sub,
                since: state.since,
                restart: state.restart,
                ready: state.ready,
            })
            .collect();
        Reply::json(&UnitRuns { restart, states })
    }
}
