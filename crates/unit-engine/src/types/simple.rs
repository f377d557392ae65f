//! Targets and slices: active or not, nothing in between.

use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::Begun;
use crate::unit::Kind;

impl Engine {
    pub(super) fn simple_set(&mut self, cx: &mut Cx<'_>, id: UnitId, up: bool) -> Begun {
        let old = self.unit(id).active();
        if up {
            self.new_invocation(cx, id);
        }
        let slice = match &mut self.unit_mut(id).run.kind {
            Kind::Target(active) => {
                *active = up;
                false
            }
            Kind::Slice(active) => {
                *active = up;
                true
            }
            _ => return Begun::Already,
        };
        if slice && up {
            self.realise_cgroup(cx, id);
        }
        self.state_changed(cx, id, old, true);
        Begun::Running
    }
}
