//! Waiting until the cluster has done what was asked for.

use std::time::{Duration, Instant};

use fleet_model::TargetState;

use crate::api::Client;
use crate::error::Failure;
use crate::list::{legend, machines_by_id};

/// Pauses between looks: short at first, since most things are done at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// One attempt of `--block-attempts`.
const ATTEMPT: Duration = Duration::from_secs(2);
/// After this long without a machine the user is told where to look.
const EXPLAIN: Duration = Duration::from_secs(5);
/// How long the cluster may be unable to answer before waiting is given up.
const OUTAGE: Duration = Duration::from_secs(60);
/// A started unit that stays at rest so long has done its work.
const AT_REST: Duration = Duration::from_secs(3);

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Option<Duration>);

impl Patience {
    /// So many attempts; 0 is for ever.
    pub(crate) fn from_attempts(attempts: u32) -> Self {
        Self((attempts > 0).then(|| ATTEMPT * attempts))
    }
}

/// Waits for several units, one after the other; all of them move on meanwhile.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    client: &'a Client,
    patience: Patience,
}

impl<'a> Waiter<'a> {
    pub(crate) fn new(client: &'a Client, patience: Patience) -> Self {
        Self { client, patience }
    }

    /// Looks again and again until `look` has a result.
    fn poll<T>(
        &self,
        name: &str,
        state: &str,
        mut look: impl FnMut(Duration) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let mut last_answer = started;
        let mut pause = FIRST_PAUSE;
        loop {
            match look(started.elapsed()) {
                Ok(Some(result)) => return Ok(result),
                // fleetd has lost etcd, or is being restarted: that passes.
                Err(Failure::Api { status: 503, .. } | Failure::Exchange { .. })
                    if last_answer.elapsed() < OUTAGE => {}
                Err(failure) => return Err(failure),
                Ok(None) => last_answer = Instant::now(),
            }
            if self
                .patience
                .0
                .is_some_and(|limit| started.elapsed() >= limit)
            {
                let (name, state) = (name.to_owned(), state.to_owned());
                return Err(Failure::TimedOut { name, state });
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    /// Until each unit has come to a state; says where.
    pub(crate) fn for_state(&self, names: &[String], target: TargetState) -> Result<(), Failure> {
        for name in names {
            let mut explained = false;
            let unit = self.poll(name, target.as_str(), |elapsed| {
                let unit = self.client.unit(name)?;
                let unit = unit.ok_or_else(|| Failure::NotFound { name: name.clone() })?;
                let reached = unit.current_state == target.as_str()
                    && (target == TargetState::Inactive) == unit.machine_id.is_empty();
                if reached {
                    return Ok(Some(unit));
                }
                if elapsed > EXPLAIN
                    && unit.machine_id.is_empty()
                    && target != TargetState::Inactive
                    && !std::mem::replace(&mut explained, true)
                {
                    eprintln!(
                        "Unit {name} is on no machine yet; the log of the leader's fleetd says \
                         why (journalctl -u fleet)."
                    );
                }
                Ok(None)
            })?;
            if unit.machine_id.is_empty() {
                println!("Unit {name} {target}");
            } else {
                let machines = machines_by_id(self.client)?;
                println!(
                    "Unit {name} {target} on {}",
                    legend(&unit.machine_id, &machines, false)
                );
            }
        }
        Ok(())
    }

    /// Until the service manager says that each unit is active.
    pub(crate) fn for_active(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            let mut rests_since: Option<Duration> = None;
            self.poll(name, "active", |elapsed| {
                let states = self.client.states(Some(name))?;
                let Some(state) = states.first() else {
                    return Ok(None);
                };
                let text = format!(
                    "{} ({}), load state {}",
                    state.systemd_active_state, state.systemd_sub_state, state.systemd_load_state
                );
                let failed = || Failure::NotActive {
                    name: name.clone(),
                    state: text.clone(),
                };
                match (
                    state.systemd_load_state.as_str(),
                    state.systemd_active_state.as_str(),
                ) {
                    ("loaded", "active" | "reloading") => Ok(Some(())),
                    (_, "failed") | ("error" | "bad-setting" | "masked", _) => Err(failed()),
                    ("loaded", "inactive") => {
                        // Done already, as a oneshot is; or its start is yet to come.
                        let since = *rests_since.get_or_insert(elapsed);
                        Ok((elapsed.saturating_sub(since) > AT_REST).then_some(()))
                    }
                    _ => {
                        rests_since = None;
                        Ok(None)
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Until each unit is loaded and its process is down.
    pub(crate) fn for_stopped(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            self.poll(name, "loaded", |_| {
                let unit = self.client.unit(name)?;
                let unit = unit.ok_or_else(|| Failure::NotFound { name: name.clone() })?;
                let states = self.client.states(Some(name))?;
                let down = states
                    .iter()
                    .all(|s| ["inactive", "failed"].contains(&s.systemd_active_state.as_str()));
                let loaded = unit.current_state == TargetState::Loaded.as_str();
                Ok((loaded && down).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Until no unit of these names exists.
    pub(crate) fn for_gone(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            self.poll(name, "destroyed", |_| {
                Ok(self.client.unit(name)?.is_none().then_some(()))
            })?;
        }
        Ok(())
    }
}
