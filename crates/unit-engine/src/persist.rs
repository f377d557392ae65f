//! State over daemon-reexec: what runs, jobs, counters. Unit files are read afresh.

use init_control::BootTimes;
use serde::{Deserialize, Serialize};
use unit_file::UnitName;

use crate::api::{Action, Host, LogLevel, Now, Output, SpawnId, SpawnRole};
use crate::engine::{Config, Cx, Engine};
use crate::job::Job;
use crate::state::{PathState, SocketState};
use crate::unit::{Kind, Process, Runtime, TIMER_KINDS};

/// Marks the format; a state of another build is refused.
const MAGIC: &str = concat!("unit-engine ", env!("CARGO_PKG_VERSION"), " 1");

/// Why a saved state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not what [`Engine::serialise`] wrote.
    #[error("saved manager state cannot be read: {0}")]
    Malformed(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedUnit {
    name: UnitName,
    cgroup_path: Option<String>,
    run: Runtime,
    job: Option<Job>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    magic: String,
    units: Vec<SavedUnit>,
    devices: Vec<(String, Vec<UnitName>)>,
    environment: Vec<String>,
    next_job: u32,
    next_spawn: u64,
    installed_jobs: u32,
    failed_jobs: u32,
    boot: BootTimes,
    boot_finished: bool,
    log_level: String,
}

impl Engine {
    /// The state for daemon-reexec.
    pub fn serialise(&self) -> Vec<u8> {
        let saved = Saved {
            magic: MAGIC.to_owned(),
            units: self
                .units
                .iter()
                .flatten()
                .map(|u| SavedUnit {
                    name: u.name.clone(),
                    cgroup_path: u.cgroup_path.clone(),
                    run: u.run.clone(),
                    job: u.job.and_then(|j| self.jobs.get(&j)).cloned(),
                })
                .collect(),
            devices: self
                .devices
                .iter()
                .map(|(path, units)| {
                    let names = units
                        .iter()
                        .filter_map(|i| self.get(*i))
                        .map(|u| u.name.clone());
                    (path.clone(), names.collect())
                })
                .collect(),
            environment: self.environment.clone(),
            next_job: self.next_job,
            next_spawn: self.next_spawn,
            installed_jobs: self.installed_jobs,
            failed_jobs: self.failed_jobs,
            boot: self.boot,
            boot_finished: self.boot_finished,
            log_level: self.log_level.clone(),
        };
        // The types hold no maps with foreign keys and no lengths that are unknown: this cannot fail.
        postcard::to_allocvec(&saved).unwrap_or_default()
    }

    /// The engine as it was when [`Engine::serialise`] ran; unit files are read afresh through the host.
    /// The output re-arms watches (sockets, paths, control groups); perform it before the first event.
    pub fn restore(
        config: Config,
        state: &[u8],
        now: Now,
        host: &dyn Host,
    ) -> Result<(Engine, Output), StateError> {
        let saved: Saved =
            postcard::from_bytes(state).map_err(|e| StateError::Malformed(e.to_string()))?;
        if saved.magic != MAGIC {
            let text = format!("it was written by {:?}, this is {MAGIC:?}", saved.magic);
            return Err(StateError::Malformed(text));
        }
        let mut engine = Engine::new(config);
        let mut cx = Cx {
            now,
            host,
            out: Vec::new(),
        };
        engine.environment = saved.environment;
        engine.next_job = saved.next_job;
        engine.next_spawn = saved.next_spawn;
        engine.installed_jobs = saved.installed_jobs;
        engine.failed_jobs = saved.failed_jobs;
        engine.boot = saved.boot;
        engine.boot_finished = saved.boot_finished;
        engine.log_level = saved.log_level;
        engine.reloading = true;
        let mut jobs = Vec::new();
        // The runtime first: what is mounted or running decides how a unit without file loads.
        for unit in saved.units {
            let id = engine.unit_or_stub(&unit.name);
            let slot = engine.unit_mut(id);
            slot.perpetual = matches!(
                unit.name.as_str(),
                "-.slice" | "system.slice" | "init.scope" | "-.mount"
            );
            if std::mem::discriminant(&slot.run.kind) != std::mem::discriminant(&unit.run.kind) {
                continue;
            }
            slot.run = unit.run;
            slot.cgroup_path = unit.cgroup_path;
            if let Some(job) = unit.job {
                jobs.push((unit.name, job));
            }
        }
        engine.make_perpetual_again(&mut cx);
        engine.restore_jobs(&mut cx, jobs);
        for (path, names) in saved.devices {
            let units = names
                .iter()
                .filter_map(|n| engine.names.get(n).copied())
                .collect();
            engine.devices.insert(path, units);
        }
        engine.restore_units(&mut cx);
        engine.reloading = false;
        // Clients knew them before.
        engine.new_units.clear();
        for unit in engine.units.iter_mut().flatten() {
            unit.announced = true;
        }
        engine.finish_check = true;
        engine.settle_down(&mut cx);
        Ok((engine, cx.out))
    }

    fn make_perpetual_again(&mut self, cx: &mut Cx<'_>) {
        let stamps: Vec<_> = ["-.slice", "system.slice", "init.scope", "-.mount"]
            .iter()
            .filter_map(|n| self.names.get(*n).copied())
            .map(|id| (id, self.unit(id).run.clone()))
            .collect();
        self.make_perpetual(cx);
        for (id, run) in stamps {
            self.unit_mut(id).run = run;
        }
        self.drain_load_queue(cx);
    }

    fn restore_jobs(&mut self, cx: &mut Cx<'_>, jobs: Vec<(UnitName, Job)>) {
        for (name, job) in jobs {
            match self.names.get(&name).copied() {
                Some(unit) => {
                    let id = job.id;
                    self.unit_mut(unit).job = Some(id);
                    self.jobs.insert(id, Job { unit, ..job });
                    self.run_queue.insert(id);
                }
                None => {
                    let text = format!("{name}: its job is lost, the unit is no more");
                    self.log(cx, LogLevel::Warning, None, text);
                }
            }
        }
    }

    /// Sets up what lives outside the units: pids, deadlines, watches.
    fn restore_units(&mut self, cx: &mut Cx<'_>) {
        let ids: Vec<_> = self.ids().collect();
        for id in ids {
            let name = self.unit(id).name.clone();
            let deadlines = self.unit(id).run.deadlines;
            for (kind, at) in TIMER_KINDS
                .into_iter()
                .zip(deadlines)
                .filter(|(_, at)| *at != 0)
            {
                self.timers.insert((at, id, kind));
            }
            let unit = self.unit(id);
            let processes: Vec<(Process, SpawnRole)> = match &unit.run.kind {
                Kind::Service(s) => {
                    vec![(s.main, SpawnRole::Main), (s.control, SpawnRole::Control)]
                }
                Kind::Socket(s) => vec![(s.control, SpawnRole::Control)],
                Kind::Mount(m) => vec![(m.control, SpawnRole::Control)],
                _ => Vec::new(),
            };
            for (process, role) in processes {
                if let Some(pid) = process.pid {
                    self.pids.insert(pid, (id, role));
                }
                if let Some(spawn) = process.spawn {
                    self.spawns.insert(SpawnId(spawn.0), (id, role));
                }
            }
            let unit = self.unit(id);
            match &unit.run.kind {
                Kind::Socket(s) if s.state == SocketState::Listening => {
                    let (tokens, accept) = (s.tokens.clone(), s.settings.accept);
                    cx.out.push(Action::WatchSockets {
                        unit: name.clone(),
                        tokens,
                        accept,
                    });
                }
                Kind::Path(p) if matches!(p.state, PathState::Waiting | PathState::Running) => {
                    let settings = p.settings.clone();
                    cx.out.push(Action::WatchPaths {
                        unit: name.clone(),
                        settings,
                    });
                }
                Kind::Service(s) if s.idle_waiting => self.idle_queue.push(id),
                _ => {}
            }
            let unit = self.unit_mut(id);
            let watched = matches!(unit.run.kind, Kind::Service(_) | Kind::Scope(_));
            if watched && unit.run.cgroup_realised && !unit.perpetual {
                // Said again, so that the shell watches it; what stands in the group already is not changed.
                unit.run.cgroup_realised = false;
                let delegated = unit.run.delegated;
                self.realise_cgroup(cx, id);
                self.unit_mut(id).run.delegated |= delegated;
            }
        }
    }
}
