//! Why a unit is where it is, or nowhere: the planner's own answer, from what the registry holds.
//!
//! Any machine can answer, not only the leader: equal facts give equal plans. It costs a plan of
//! the whole cluster, so only a few are made at once.

use std::collections::BTreeMap;

use fleet_model::engine::{Access, ClusterView, MachineView, UnitView, explain};
use fleet_model::{Machine, MachineId, Metadata, UnitName, UnitState, merge_metadata};

use super::super::Api;
use super::super::reply::Reply;
use crate::registry::Desired;

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
        let view = cluster_view(&self.mirror.read(), &machines, &states);
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

/// The cluster as the planner wants it.
fn cluster_view(
    desired: &Desired,
    machines: &BTreeMap<MachineId, Machine>,
    states: &[(UnitName, MachineId, UnitState)],
) -> ClusterView {
    let none = Metadata::new();
    let mut view = ClusterView::default();
    for (id, machine) in machines {
        let overlay = desired.overlays.get(id).unwrap_or(&none);
        let machine = MachineView {
            metadata: merge_metadata(&machine.metadata, overlay),
            offer: machine.offer(),
            access: match desired.cordons.get(id) {
                None => Access::Open,
                Some(cordon) if cordon.drain => Access::Draining,
                Some(_) => Access::Cordoned,
            },
        };
        view.machines.insert(id.clone(), machine);
    }
    for (name, unit) in &desired.units {
        let unit = UnitView {
            requirements: unit.requirements.clone(),
            target: unit.target,
            scheduled: unit.scheduled.clone(),
            held_by: BTreeMap::new(),
            result: desired.results.get(name).cloned(),
        };
        view.units.insert(name.clone(), unit);
    }
    for (name, machine, state) in states {
        if let Some(unit) = view.units.get_mut(name) {
            unit.held_by.insert(machine.clone(), state.activity());
        }
    }
    view
}
