//! The state machines of the unit types, and how jobs reach them.

mod device;
mod mount;
mod path;
mod scope;
mod service;
mod simple;
mod socket;
mod timer;
mod trigger;

use crate::engine::{Cx, Engine};
use crate::graph::UnitId;
use crate::job::{Begun, JobResult};
use crate::unit::Kind;

impl Engine {
    pub(crate) fn begin_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_start(cx, id),
            Kind::Socket(_) => self.socket_start(cx, id),
            Kind::Mount(_) => self.mount_start(cx, id),
            Kind::Timer(_) => self.timer_start(cx, id),
            Kind::Path(_) => self.path_start(cx, id),
            Kind::Scope(_) => self.scope_start(cx, id),
            Kind::Target(_) | Kind::Slice(_) => self.simple_set(cx, id, true),
            // Waits for the kernel, until the job times out.
            Kind::Device(_) => Begun::Running,
            Kind::Unsupported => Begun::Ends(JobResult::Unsupported),
        }
    }

    pub(crate) fn begin_stop(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_stop(cx, id),
            Kind::Socket(_) => self.socket_stop(cx, id),
            Kind::Mount(_) => self.mount_stop(cx, id),
            Kind::Timer(_) => self.timer_stop(cx, id),
            Kind::Path(_) => self.path_stop(cx, id),
            Kind::Scope(_) => self.scope_stop(cx, id),
            Kind::Target(_) | Kind::Slice(_) => self.simple_set(cx, id, false),
            Kind::Device(_) | Kind::Unsupported => Begun::Ends(JobResult::Unsupported),
        }
    }

    pub(crate) fn begin_reload(&mut self, cx: &mut Cx<'_>, id: UnitId) -> Begun {
        match self.unit(id).run.kind {
            Kind::Service(_) => self.service_reload(cx, id),
            Kind::Mount(_) => self.mount_remount(cx, id),
            _ => Begun::Ends(JobResult::Unsupported),
        }
    }

    /// After daemon-reload: what depends on settings is set up again.
    pub(crate) fn rearm_after_reload(&mut self, cx: &mut Cx<'_>) {
        let ids: Vec<UnitId> = self.ids().collect();
        for id in ids {
            match self.get(id).map(|u| &u.run.kind) {
                Some(Kind::Timer(_)) => self.timer_rearm(cx, id),
                Some(Kind::Path(_)) => self.path_rearm(cx, id),
                _ => {}
            }
        }
    }

    /// Start limits count every start of a unit. False: one too many.
    pub(crate) fn allow_start(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let now = cx.now.monotonic;
        let unit = self.unit_mut(id);
        let (interval, burst) = (
            unit.settings.start_limit_interval_usec,
            unit.settings.start_limit_burst,
        );
        unit.run.start_limit_hit = !unit.run.start_limit.allow(now, interval, burst);
        if !unit.run.start_limit_hit {
            return true;
        }
        let (name, action) = (unit.name.clone(), unit.settings.start_limit_action);
        let text = format!("{name}: Start request repeated too quickly.");
        self.log(cx, crate::api::LogLevel::Warning, Some(name), text);
        self.emergency(cx, id, action, "start limit hit");
        false
    }

    /// A fresh id for a run that begins.
    pub(crate) fn new_invocation(&mut self, cx: &mut Cx<'_>, id: UnitId) {
        let fresh = cx.host.random_id();
        self.unit_mut(id).run.invocation_id = Some(fresh);
        self.unit_mut(id).run.oom_killed = false;
    }
}
