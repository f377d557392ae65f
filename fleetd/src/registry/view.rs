//! The registry as the planner wants it.

use std::collections::BTreeMap;

use fleet_model::engine::{Access, ClusterView, MachineView, UnitView};
use fleet_model::{Activity, Machine, MachineId, Metadata, UnitName, merge_metadata};

use super::{Cordon, Desired};

impl Desired {
    /// The whole cluster: what is wished for, the machines that are present, and how far they are
    /// with which units.
    #[must_use]
    pub fn cluster<'a>(
        &self,
        machines: &BTreeMap<MachineId, Machine>,
        states: impl IntoIterator<Item = (&'a UnitName, &'a MachineId, Activity)>,
    ) -> ClusterView {
        let none = Metadata::new();
        let machines = machines.iter().map(|(id, machine)| {
            let overlay = self.overlays.get(id).unwrap_or(&none);
            let view = MachineView {
                metadata: merge_metadata(&machine.metadata, overlay),
                offer: machine.offer(),
                access: self.access(id),
            };
            (id.clone(), view)
        });
        let units = self.units.iter().map(|(name, unit)| {
            let view = UnitView {
                requirements: unit.requirements.clone(),
                target: unit.target,
                scheduled: unit.scheduled.clone(),
                held_by: BTreeMap::new(),
                result: unit.result.clone(),
                answered: unit.answered,
            };
            (name.clone(), view)
        });
        let mut view = ClusterView {
            units: units.collect(),
            machines: machines.collect(),
        };
        for (name, machine, activity) in states {
            if let Some(unit) = view.units.get_mut(name) {
                unit.held_by.insert(machine.clone(), activity);
            }
        }
        view
    }

    /// Whether a machine takes units.
    #[must_use]
    pub fn access(&self, machine: &MachineId) -> Access {
        match self.cordons.get(machine) {
            None => Access::Open,
            Some(Cordon { drain: true, .. }) => Access::Draining,
            Some(_) => Access::Cordoned,
        }
    }
}
