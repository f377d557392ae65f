//! What timers and paths share: the unit that they start.

use init_control::{JobMode, LoadState};

use crate::api::LogLevel;
use crate::engine::{Cx, Engine};
use crate::graph::{TRIGGERS, UnitId};
use crate::job::JobType;
use crate::state::UnitResult;

impl Engine {
    /// The unit that a timer or path starts.
    pub(super) fn triggered_unit(&self, id: UnitId) -> Option<UnitId> {
        self.unit(id)
            .edges
            .with(TRIGGERS)
            .find(|o| self.get(*o).is_some())
    }

    /// Whether it can be waited for: there is something to start. Says why not.
    pub(super) fn trigger_is_loaded(&mut self, cx: &mut Cx<'_>, id: UnitId) -> bool {
        let target = self.triggered_unit(id);
        if target.is_some_and(|t| self.unit(t).load == LoadState::Loaded) {
            return true;
        }
        let name = self.unit(id).name.clone();
        let text = format!("{name}: Refusing to start, unit to trigger not loaded.");
        self.log(cx, LogLevel::Error, Some(name), text);
        false
    }

    /// Starts what is triggered; the result to fail with where it cannot even be queued.
    pub(super) fn pull_trigger(
        &mut self,
        cx: &mut Cx<'_>,
        id: UnitId,
        target: UnitId,
    ) -> Result<(), UnitResult> {
        let Err(error) = self.add_job(cx, target, JobType::Start, JobMode::Replace) else {
            return Ok(());
        };
        let name = self.unit(id).name.clone();
        let text = format!(
            "{name}: Failed to queue unit startup job: {}",
            error.message
        );
        self.log(cx, LogLevel::Warning, Some(name), text);
        Err(UnitResult::Resources)
    }
}
