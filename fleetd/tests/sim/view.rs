//! What the leader would do about a registry as it is.

use std::collections::BTreeMap;

use fleet_model::engine::{Access, ClusterView, MachineView, Plan, UnitView, plan as plan_for};
use fleet_model::{Activity, Machine, MachineId, Metadata, UnitName, merge_metadata};
use fleetd::registry::Desired;

pub(crate) fn plan(
    desired: &Desired,
    machines: &BTreeMap<MachineId, Machine>,
    states: &BTreeMap<(UnitName, MachineId), Activity>,
) -> Plan {
    let none = Metadata::new();
    let machines = machines.iter().map(|(id, machine)| {
        let overlay = desired.overlays.get(id).unwrap_or(&none);
        let view = MachineView {
            metadata: merge_metadata(&machine.metadata, overlay),
            offer: machine.offer(),
            access: match desired.cordons.get(id) {
                None => Access::Open,
                Some(cordon) if cordon.drain => Access::Draining,
                Some(_) => Access::Cordoned,
            },
        };
        (id.clone(), view)
    });
    let units = desired.units.iter().map(|(name, unit)| {
        let held = states.iter().filter(|((unit, _), _)| unit == name);
        let view = UnitView {
            requirements: unit.requirements.clone(),
            target: unit.target,
            scheduled: unit.scheduled.clone(),
            held_by: held
                .map(|((_, machine), activity)| (machine.clone(), *activity))
                .collect(),
            result: unit.result.clone(),
        };
        (name.clone(), view)
    });
    plan_for(&ClusterView {
        units: units.collect(),
        machines: machines.collect(),
    })
}
