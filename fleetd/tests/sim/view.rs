//! What the leader would do about a registry as it is.

use std::collections::BTreeMap;

use fleet_model::engine::{Plan, plan as plan_for};
use fleet_model::{Activity, Machine, MachineId, UnitName};
use fleetd::registry::Desired;

pub(crate) fn plan(
    desired: &Desired,
    machines: &BTreeMap<MachineId, Machine>,
    states: &BTreeMap<(UnitName, MachineId), Activity>,
) -> Plan {
    let states = states.iter();
    let states = states.map(|((unit, machine), activity)| (unit, machine, *activity));
    plan_for(&desired.cluster(machines, states))
}
