//! Pieces of work on units, each carried out beside the agent and reported back to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_kv::Lease;
use fleet_model::agent::{AgentUnit, LocalUnit};
use fleet_model::{
    BatchResult, MachineId, Outcome as Verdict, Partition, Requirements, UnitFile, UnitName,
};

use super::fence::Fence;
use super::files::Files;
use super::manager::{ManagerError, ServiceManager};
use crate::registry::Registry;

/// What work needs.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) registry: Registry,
    pub(super) me: MachineId,
    pub(super) manager: Arc<dyn ServiceManager>,
    pub(super) files: Files,
    pub(super) fence: Fence,
    pub(super) lease: Option<Lease>,
}

/// How a unit is to be started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    hash: Arc<str>,
    restart: u64,
    global: bool,
    /// Only while the lease is sure.
    fenced: bool,
    /// It runs to its end.
    batch: bool,
}

impl Launch {
    pub(super) fn new(unit: &AgentUnit, global: bool) -> Self {
        Self {
            hash: unit.hash.clone(),
            restart: unit.restart,
            global,
            fenced: unit.requirements.partition == Partition::Stop,
            batch: unit.requirements.batch.is_some(),
        }
    }
}

/// A unit to be loaded.
#[derive(Debug)]
pub(super) struct Load {
    file: Arc<UnitFile>,
    pub(super) requirements: Arc<Requirements>,
    launch: Launch,
    /// Start it too.
    pub(super) start: bool,
}

impl Load {
    pub(super) fn new(unit: &AgentUnit, global: bool) -> Self {
        Self {
            file: unit.file.clone(),
            requirements: unit.requirements.clone(),
            launch: Launch::new(unit, global),
            start: false,
        }
    }
}

/// What came of it, unit by unit.
#[derive(Debug)]
pub(super) struct Done(pub(super) Vec<(UnitName, Outcome)>);

/// What came of it for one unit.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is in place.
    Loaded(LocalUnit, Arc<Requirements>),
    /// Its start was asked for, which counts as this restart.
    Started { restart: u64 },
    /// Its stop was asked for.
    Stopped,
    /// It is gone.
    Unloaded,
    /// Its file and its link are there again.
    Mended,
    /// The schedule gave it to another machine meanwhile.
    NotOurs,
    /// It may not be started at the moment.
    Held,
    /// It has run to its end, and that is recorded.
    Ended,
    /// It has not run to its end.
    Runs,
    /// The registry has a record of it from this machine.
    Recorded,
    /// It did not work. `ours` tells whether it is still in place.
    Failed {
        what: &'static str,
        error: String,
        ours: bool,
    },
}

impl Done {
    fn one(name: UnitName, outcome: Outcome) -> Self {
        Self(vec![(name, outcome)])
    }
}

fn failed(what: &'static str, error: &(dyn std::error::Error + 'static), ours: bool) -> Outcome {
    Outcome::Failed {
        what,
        error: telemetry::chain(error),
        ours,
    }
}

impl Parts {
    /// Loads units, and starts those that shall run. One reload serves them all.
    pub(super) async fn load(self, loads: BTreeMap<UnitName, Load>, lease: Lease) -> Done {
        let mut done = Vec::new();
        let mut placed = Vec::new();
        for (name, load) in loads {
            match self.place(&name, &load, lease).await {
                Ok(()) => placed.push((name, load)),
                Err(outcome) => done.push((name, outcome)),
            }
        }
        if placed.is_empty() {
            return Done(done);
        }
        if let Err(error) = self.manager.reload().await {
            for (name, _) in placed {
                let outcome = self.take_back(&name, failed("load", &error, false)).await;
                done.push((name, outcome));
            }
            return Done(done);
        }
        for (name, load) in placed {
            let mut unit = LocalUnit {
                hash: load.launch.hash.clone(),
                launched: load.start,
                restart: load.launch.restart,
            };
            if load.start
                && let Err(outcome) = self.launch(&name, &load.launch).await
            {
                // It is loaded at least; the next plan starts it when the time has come.
                unit.launched = false;
                done.push((name.clone(), Outcome::Loaded(unit, load.requirements)));
                done.push((name, outcome));
                continue;
            }
            done.push((name, Outcome::Loaded(unit, load.requirements)));
        }
        Done(done)
    }

    /// Claims a unit and puts its file where the service manager finds it.
    async fn place(&self, name: &UnitName, load: &Load, lease: Lease) -> Result<(), Outcome> {
        let claim = self
            .registry
            .claim(name, &self.me, load.launch.global, &load.launch.hash, lease)
            .await;
        match claim {
            Ok(true) => {}
            Ok(false) => return Err(Outcome::NotOurs),
            Err(error) => return Err(failed("claim", &error, false)),
        }
        let written = self
            .files
            .mark(name, None)
            .and_then(|()| self.files.write(name, &load.file));
        if let Err(error) = written {
            return Err(self.take_back(name, failed("load", &error, false)).await);
        }
        let mut linked = self.manager.link(vec![self.files.path(name)]).await;
        if linked.is_ok() && load.file.has_install() {
            linked = self.manager.enable(name.clone()).await;
        }
        match linked {
            Ok(()) => Ok(()),
            Err(error) => Err(self.take_back(name, failed("load", &error, false)).await),
        }
    }

    /// Undoes half a load.
    async fn take_back(&self, name: &UnitName, outcome: Outcome) -> Outcome {
        // What fails here was not there, or is replaced by the next try.
        let _ = self.manager.unlink(name.clone()).await;
        let _ = self.files.remove(name);
        outcome
    }

    async fn launch(&self, name: &UnitName, launch: &Launch) -> Result<(), Outcome> {
        let refused = |error: &(dyn std::error::Error + 'static)| failed("start", error, true);
        if launch.fenced {
            self.fence.guard(name).await.map_err(|e| refused(&e))?;
            let Some(lease) = self.lease else {
                return Err(Outcome::Held);
            };
            let held = self.registry.holds(name, &self.me, launch.global, lease);
            if !held.await.map_err(|e| refused(&e))? || !self.fence.is_open() {
                return Err(Outcome::Held);
            }
        }
        // Marked before and after: a daemon that comes after one that died in between looks whether
        // it runs.
        self.files
            .mark_starting(name, &launch.hash, launch.restart)
            .map_err(|e| refused(&e))?;
        let started = if launch.batch {
            self.manager.start_run(name.clone()).await
        } else {
            self.manager.start(name.clone()).await
        };
        match started {
            Ok(()) => {}
            Err(error @ ManagerError::Refused(_)) if !launch.batch => {
                // Asking again would change nothing; its state tells the rest.
                tracing::error!(unit = %name, "failed to start {name}: {}", telemetry::chain(&error));
            }
            Err(error) => {
                let _ = self.files.mark(name, None);
                return Err(refused(&error));
            }
        }
        let mark = Some((&*launch.hash, launch.restart));
        if let Err(error) = self.files.mark(name, mark) {
            tracing::warn!("{}", telemetry::chain(&error));
        }
        Ok(())
    }

    /// Asks for the start of a unit that is in place.
    pub(super) async fn start(self, name: UnitName, launch: Launch) -> Done {
        let outcome = match self.launch(&name, &launch).await {
            Ok(()) => Outcome::Started {
                restart: launch.restart,
            },
            Err(outcome) => outcome,
        };
        Done::one(name, outcome)
    }

    /// Stops a unit, waits until it is down, and asks for its start.
    pub(super) async fn restart(self, name: UnitName, launch: Launch) -> Done {
        if let Err(outcome) = self.bring_down("restart", &name).await {
            return Done::one(name, outcome);
        }
        // A start limit that was reached must not refuse what an operator asks for.
        let _ = self.manager.reset_failed(name.clone()).await;
        self.start(name, launch).await
    }

    /// Finds out whether a batch unit has run to its end, and records how. `before` is what came of
    /// its attempts before this one.
    pub(super) async fn settle(
        self,
        name: UnitName,
        before: Option<&BatchResult>,
        finished: String,
    ) -> Done {
        let outcome = match self.manager.run_end(name.clone()).await {
            Ok(None) => Outcome::Runs,
            Ok(Some(end)) => {
                let machine = self.me.to_string();
                let mut failures = before.map_or_else(BTreeMap::new, |b| b.failures.clone());
                if !end.success {
                    let count = failures.entry(machine.clone()).or_default();
                    *count = count.saturating_add(1);
                }
                let attempts = before.map_or(0, |before| before.attempts);
                let result = BatchResult {
                    outcome: if end.success {
                        Verdict::Success
                    } else {
                        Verdict::Failure
                    },
                    exit_status: end.exit_status.unwrap_or(-1),
                    attempts: attempts.saturating_add(1),
                    machine,
                    finished,
                    failures,
                };
                match self.registry.record_result(&name, &self.me, &result).await {
                    Ok(true) => {
                        tracing::info!(unit = %name, ?result, "{name} has run to its end");
                        Outcome::Ended
                    }
                    // Taken away meanwhile: nobody wants to know.
                    Ok(false) => Outcome::Ended,
                    Err(error) => failed("record the end of", &error, true),
                }
            }
            Err(error) => failed("find out about the end of", &error, true),
        };
        Done::one(name, outcome)
    }

    /// Asks for the stop of a unit, which stays in place.
    pub(super) async fn stop(self, name: UnitName) -> Done {
        let outcome = match self.files.mark(&name, None) {
            Ok(()) => match self.manager.stop(name.clone()).await {
                Ok(()) => Outcome::Stopped,
                Err(error) => failed("stop", &error, true),
            },
            Err(error) => failed("stop", &error, true),
        };
        Done::one(name, outcome)
    }

    /// Stops a unit and waits until it is down. The mark goes first: a daemon that comes after one
    /// that died meanwhile must not believe that the unit runs. If it still does, starting it
    /// changes nothing.
    async fn bring_down(&self, what: &'static str, name: &UnitName) -> Result<(), Outcome> {
        self.files
            .mark(name, None)
            .map_err(|e| failed(what, &e, true))?;
        self.manager
            .stop_and_wait(name.clone())
            .await
            .map_err(|e| failed(what, &e, true))
    }

    /// Stops a unit, waits until it is down, and takes it away.
    pub(super) async fn unload(self, name: UnitName) -> Done {
        if let Err(outcome) = self.bring_down("unload", &name).await {
            return Done::one(name, outcome);
        }
        // It has not necessarily failed, and what is not linked need not be unlinked.
        let _ = self.manager.reset_failed(name.clone()).await;
        let _ = self.manager.unlink(name.clone()).await;
        if let Err(error) = self.files.remove(&name) {
            return Done::one(name, failed("unload", &error, true));
        }
        self.fence.release(&name).await;
        Done::one(name, Outcome::Unloaded)
    }

    /// Puts the file and the link of a unit in place again. Its processes are not touched.
    pub(super) async fn mend(self, name: UnitName, file: Arc<UnitFile>) -> Done {
        let outcome = match self.files.write(&name, &file) {
            Ok(()) => {
                let mut done = self.manager.link(vec![self.files.path(&name)]).await;
                if done.is_ok() && file.has_install() {
                    done = self.manager.enable(name.clone()).await;
                }
                if done.is_ok() {
                    done = self.manager.reload().await;
                }
                done.map_or_else(|e| failed("mend", &e, true), |()| Outcome::Mended)
            }
            Err(error) => failed("mend", &error, true),
        };
        Done::one(name, outcome)
    }

    /// Makes the service manager forget the units that have gone.
    pub(super) async fn reload(self) -> Done {
        if let Err(error) = self.manager.reload().await {
            // The next load does it again.
            tracing::warn!("failed to reload: {}", telemetry::chain(&error));
        }
        Done(Vec::new())
    }
}
