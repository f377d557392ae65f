//! Why a unit is where it is, or nowhere: the planner's own answer, from what the registry holds.
//!
//! Any machine can answer, not only the leader: equal facts give equal plans. It costs a plan of
//! the whole cluster, so only a few are made at once.

use std::collections::BTreeMap;

use fleet_model::MachineId;
use fleet_model::engine::explain;

use super::super::Api;
use super::super::reply::Reply;

impl Api {
    pub(super) async fn explain_unit(&self, name: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let Ok(_turn) = self.explaining.acquire().await else {
            return Reply::not_found();
        };
        let machines = match self.registry.machines().await {
            Ok(machines) => machines.into_iter().collect::<BTreeMap<_, _>>(),
            Err(error) => return Reply::failed(&error),
        };
        let states = match self.registry.states(None).await {
            Ok(states) => states,
            Err(error) => return Reply::failed(&error),
        };
        let states = states.iter();
        let states = states.map(|(unit, machine, state)| (unit, machine, state.activity()));
        let view = self.mirror.read().cluster(&machines, states);
        // A large cluster keeps a processor busy for a while.
        let explained = tokio::task::spawn_blocking(move || {
            let address = |id: &MachineId| {
                let machine = machines.get(id);
                machine.map(|m| m.public_ip.clone()).unwrap_or_default()
            };
            explain(&view, &name).map(|e| e.to_wire(address))
        });
        match explained.await {
            Ok(Some(explanation)) => Reply::json(&explanation),
            Ok(None) => Reply::error(hyper::StatusCode::NOT_FOUND, "unit does not exist"),
            Err(error) => {
                tracing::error!("failed to explain: {error}");
                Reply::error(
                    hyper::StatusCode::INTERNAL_SERVER_ERROR,
                    "failed to explain",
                )
            }
        }
    }
}
