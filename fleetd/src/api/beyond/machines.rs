//! Machines with what they offer, what is reserved of it, and how many units they carry.

use std::collections::BTreeMap;

use fleet_model::engine::{Population, accept_globals};
use fleet_model::wire::flotilla as wire;
use fleet_model::{
    Machine, MachineId, Metadata, Reservation, TargetState, UnitName, merge_metadata,
};

use super::super::Api;
use super::super::reply::Reply;
use crate::registry::Desired;

/// What units make of each machine.
#[derive(Debug, Default)]
pub(super) struct Burden<'a> {
    residents: Vec<&'a UnitName>,
    reserved: Reservation,
}

/// Each machine's scheduled units that count there.
pub(super) fn burdens(desired: &Desired) -> BTreeMap<&MachineId, Burden<'_>> {
    let mut out: BTreeMap<&MachineId, Burden<'_>> = BTreeMap::new();
    for (name, unit) in &desired.units {
        let Some(machine) = unit.scheduled.as_ref() else {
            continue;
        };
        if unit.target == TargetState::Inactive || unit.requirements.global {
            continue;
        }
        let burden = out.entry(machine).or_default();
        burden.residents.push(name);
        burden.reserved = burden.reserved.plus(unit.requirements.reservation);
    }
    out
}

/// One machine, with its scheduled units and the global ones that it accepts beside them.
pub(super) fn to_wire(
    desired: &Desired,
    id: &MachineId,
    machine: &Machine,
    burden: Option<&Burden<'_>>,
) -> wire::Machine {
    let none = Metadata::new();
    let overlay = desired.overlays.get(id).unwrap_or(&none);
    let metadata = merge_metadata(&machine.metadata, overlay);
    let mut scheduled = Population::default();
    for name in burden.into_iter().flat_map(|b| &b.residents) {
        if let Some(unit) = desired.units.get(*name) {
            scheduled.add(name, &unit.requirements);
        }
    }
    let globals = desired
        .units
        .iter()
        .filter(|(name, u)| {
            u.requirements.global && u.target != TargetState::Inactive && !name.is_template()
        })
        .map(|(name, u)| (name, &*u.requirements));
    let globals = accept_globals(&metadata, &machine.offer(), &scheduled, globals);
    let mut reserved = burden.map(|b| b.reserved).unwrap_or_default();
    for name in globals.names() {
        if let Some(unit) = desired.units.get(name) {
            reserved = reserved.plus(unit.requirements.reservation);
        }
    }
    let cordon = desired.cordons.get(id);
    wire::Machine {
        id: id.to_string(),
        ip: machine.public_ip.clone(),
        metadata,
        version: machine.version.clone(),
        cordoned: cordon.is_some(),
        draining: cordon.is_some_and(|c| c.drain),
        memory_bytes: machine.memory_bytes,
        cpus: machine.cpus,
        reserved_memory_bytes: reserved.memory,
        reserved_cpus: reserved.cpu,
        units: scheduled.names().len() + globals.names().len(),
    }
}

impl Api {
    pub(super) async fn machines_with_load(&self) -> Reply {
        let machines = match self.registry.machines().await {
            Ok(machines) => machines,
            Err(error) => return Reply::failed(&error),
        };
        let desired = self.mirror.read();
        let burdens = burdens(&desired);
        let machines = machines
            .iter()
            .map(|(id, machine)| to_wire(&desired, id, machine, burdens.get(id)))
            .collect();
        Reply::json(&wire::Machines { machines })
    }
}
