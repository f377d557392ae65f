//! What becomes of work that is done: what is known of local units changes, or the work is due
//! again later. And the two ends of an agent's life: records of ours that nothing stands behind, and
//! the farewell.

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_model::UnitName;
use tokio::time::{Instant, sleep_until};

use super::work::{Done, Outcome};
use super::{Agent, FIRST_RETRY, LONGEST_RETRY, Local, Retry};

/// First pause of what is expected to pass soon.
const SOON: Duration = Duration::from_millis(100);
/// How long a unit may take to stop at the end of the daemon.
const FAREWELL: Duration = Duration::from_secs(60);

impl Agent {
    pub(super) fn finish(&mut self, done: Done) {
        for (name, outcome) in done.0 {
            if matches!(outcome, Outcome::Recorded) {
                // Records that nothing here stands behind.
                if !self.local.contains_key(&name) && !self.busy.contains(&name) {
                    self.forget(name);
                }
                continue;
            }
            self.busy.remove(&name);
            self.coming.remove(&name);
            match outcome {
                Outcome::Loaded(unit, requirements) => {
                    self.retries.remove(&name);
                    let local = Local::new(unit, requirements, None);
                    self.local.insert(name.clone(), local);
                    self.ask.insert(name);
                }
                Outcome::Started { restart } => {
                    self.retries.remove(&name);
                    if let Some(local) = self.local.get_mut(&name) {
                        (local.unit.launched, local.unit.restart) = (true, restart);
                        local.ended = false;
                        // What was seen before the start says nothing of its end.
                        if let Some(state) = &mut local.state {
                            state.job = true;
                        }
                    }
                    self.ask.insert(name.clone());
                    self.tell(&name);
                }
                Outcome::Stopped => {
                    self.retries.remove(&name);
                    if let Some(local) = self.local.get_mut(&name) {
                        local.unit.launched = false;
                    }
                    self.ask.insert(name.clone());
                    self.tell(&name);
                }
                Outcome::Unloaded => {
                    self.reload = true;
                    self.retries.remove(&name);
                    self.local.remove(&name);
                    self.ask.remove(&name);
                    self.forget(name);
                }
                Outcome::Mended => {
                    // Should it not have helped, the next try is later.
                    self.rest(&name, FIRST_RETRY);
                    if let Some(local) = self.local.get_mut(&name)
                        && local.is_down()
                    {
                        local.unit.launched = false;
                    }
                    self.ask.insert(name);
                }
                Outcome::NotOurs => {
                    // The schedule has changed; the news of it is on its way.
                    tracing::debug!(unit = %name, "not taken: scheduled elsewhere meanwhile");
                    self.rest(&name, SOON);
                }
                Outcome::Held => {
                    tracing::info!(unit = %name, "not started: its lease is not sure");
                    if let Some(local) = self.local.get_mut(&name) {
                        local.unit.launched = false;
                    }
                    self.tell(&name);
                    self.rest(&name, SOON);
                }
                Outcome::Runs | Outcome::Ended => {
                    self.retries.remove(&name);
                    if let Some(local) = self.local.get_mut(&name) {
                        local.ended |= matches!(outcome, Outcome::Ended);
                    }
                }
                Outcome::Recorded => {}
                Outcome::Failed { what, error, ours } => {
                    let pause = self.rest(&name, FIRST_RETRY);
                    tracing::error!(unit = %name, "failed to {what} {name}: {error}; \
                        next try in {} s", pause.as_secs());
                    if let Some(local) = self.local.get_mut(&name) {
                        local.news = true;
                    }
                    if !ours {
                        self.forget(name);
                    }
                }
            }
        }
    }

    /// Lets a unit rest, longer each time, until the next try.
    fn rest(&mut self, name: &UnitName, first: Duration) -> Duration {
        let pause = self.retries.get(name).map_or(first, |r| r.pause * 2);
        let pause = pause.min(LONGEST_RETRY);
        let at = Some(Instant::now() + pause);
        self.retries.insert(name.clone(), Retry { at, pause });
        pause
    }

    /// When the next rest ends.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.values().filter_map(|r| r.at).min()
    }

    /// Ends the rests that are over.
    pub(super) fn end_rests(&mut self) {
        let now = Instant::now();
        let over = |r: &&mut Retry| r.at.is_some_and(|at| at <= now);
        let rests = self.retries.values_mut();
        rests.filter(over).for_each(|r| r.at = None);
    }

    /// Drops our record of a unit.
    fn forget(&mut self, name: UnitName) {
        self.dropping.insert(name.clone());
        // The publisher lives as long as we do.
        let _ = self.publish.send((name, None));
    }

    /// Once, when the registry can be read: drops records of ours that nothing here stands behind.
    pub(super) fn sweep(&mut self) {
        if self.swept || self.context.standing.borrow().lease.is_none() {
            return;
        }
        self.swept = true;
        let (registry, me) = (self.context.registry.clone(), self.context.me.clone());
        self.work.spawn(async move {
            let mut pause = FIRST_RETRY;
            loop {
                match registry.recorded_on(&me).await {
                    Ok(names) => {
                        let recorded = names.into_iter().map(|name| (name, Outcome::Recorded));
                        return Done(recorded.collect());
                    }
                    Err(error) => tracing::warn!("{}", telemetry::chain(&error)),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_RETRY);
            }
        });
    }

    /// The end: everything is stopped and taken away, what is only coming included, as far as that
    /// works in time. Whether nothing is left.
    pub(super) async fn unload_everything(&mut self) -> bool {
        let units = self.local.len() + self.coming.len();
        tracing::info!("unloading {units} units");
        // What failed before need not rest now.
        self.retries.clear();
        let end = Instant::now() + FAREWELL;
        while Instant::now() < end && !(self.local.is_empty() && self.busy.is_empty()) {
            let idle = self.local.keys().filter(|name| !self.waits(name));
            for name in idle.cloned().collect::<Vec<UnitName>>() {
                let parts = self.parts();
                self.begin(&name.clone(), async move { parts.unload(name).await });
            }
            let due = self.next_retry().map_or(end, |due| due.min(end));
            tokio::select! {
                biased;
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => tracing::error!("work on a unit broke off: {error}"),
                },
                () = sleep_until(due) => self.end_rests(),
            }
        }
        if self.reload {
            self.parts().reload().await;
        }
        let left: BTreeSet<&UnitName> = self.local.keys().chain(&self.busy).collect();
        for name in &left {
            tracing::error!(unit = %name, "{name} did not stop in time");
        }
        left.is_empty()
    }
}
