//! Devices: one unit per node, link and path in /sys, plugged while the kernel has the device.

use init_control::JobMode;
use unit_file::{UnitName, UnitType};

use crate::api::DeviceInfo;
use crate::engine::{Cx, Engine};
use crate::graph::{UnitId, WANTS};
use crate::job::JobType;
use crate::state::DeviceState as S;
use crate::unit::Kind;

impl Engine {
    pub(crate) fn device_appeared(&mut self, cx: &mut Cx<'_>, info: &DeviceInfo) {
        let mut units = Vec::new();
        for path in info.nodes.iter().chain([&info.sysfs_path]) {
            let Ok(name) = UnitName::from_path(path, UnitType::Device) else {
                continue;
            };
            let id = self.load_unit(cx, &name);
            if !units.contains(&id) {
                units.push(id);
            }
        }
        let before = self.devices.insert(info.sysfs_path.clone(), units.clone());
        for id in before.unwrap_or_default() {
            // Links that the device has no more.
            if !units.contains(&id) {
                self.device_set(cx, id, S::Dead, "");
            }
        }
        for id in units {
            if let Kind::Device(d) = &mut self.unit_mut(id).run.kind {
                d.description.clone_from(&info.description);
            }
            self.device_set(cx, id, S::Plugged, &info.sysfs_path);
            for want in &info.wants {
                self.link_name(cx, id, want, WANTS);
                self.drain_load_queue(cx);
                if let Some(other) = self.names.get(want.as_str()).copied() {
                    self.add_own_job(cx, other, JobType::Start, JobMode::Fail);
                }
            }
        }
    }

    pub(crate) fn device_gone(&mut self, cx: &mut Cx<'_>, sysfs_path: &str) {
        for id in self.devices.remove(sysfs_path).unwrap_or_default() {
            // Two devices may claim one link: the other one keeps it.
            let claimed = self.devices.values().any(|units| units.contains(&id));
            if !claimed && self.get(id).is_some() {
                self.device_set(cx, id, S::Dead, "");
            }
        }
    }

    fn device_set(&mut self, cx: &mut Cx<'_>, id: UnitId, state: S, sysfs_path: &str) {
        let old = self.unit(id).active();
        let Kind::Device(d) = &mut self.unit_mut(id).run.kind else {
            return;
        };
        let before = std::mem::replace(&mut d.state, state);
        sysfs_path.clone_into(&mut d.sysfs_path);
        if before != state {
            self.state_changed(cx, id, old, true);
        }
    }
}
