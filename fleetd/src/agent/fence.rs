//! Units with `Partition=stop` run only while this machine's lease is certain to last.
//!
//! The rule is in [`crate::presence`]. It is enforced twice, by the same loop: in the daemon, and in
//! a small process of its own (`fleet-guard.service`) that goes on when the daemon dies. Both go by
//! one file in the run directory: until when the lease lasts, and which units are concerned. A unit
//! is written there before it is started.
//!
//! ```text
//!   presence ─ renewed ─▶ fence file ◀─ guard, release ─ agent
//!                             │
//!             daemon, guard ──┴─ too old? ─▶ forget the launch mark, stop, kill
//! ```
//!
//! A unit that was stopped so is no longer launched; when the lease is sure again, the agent starts
//! it if the registry still says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_model::UnitName;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::files::Files;
use super::manager::{ManagerError, ServiceManager};
use crate::clock::Clock;
use crate::presence::{Stage, Validity};

/// Name of the service that goes on when the daemon dies.
pub const GUARD_UNIT: &str = "fleet-guard.service";
/// The longest sleep: clocks may jump when a machine wakes.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Pause between tries while something still runs.
const AGAIN: Duration = Duration::from_millis(200);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Record {
    validity: Option<Validity>,
    units: BTreeSet<UnitName>,
}

impl Record {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let numbers = lines.next().and_then(|line| {
            let (until, ttl) = line.split_once(' ')?;
            let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
            Some(Validity {
                until: millis(until)?,
                ttl: millis(ttl)?,
            })
        });
        Self {
            validity: numbers,
            units: lines.filter_map(|l| UnitName::parse(l).ok()).collect(),
        }
    }

    fn text(&self) -> String {
        let (until, ttl) = self
            .validity
            .map_or((0, 0), |v| (v.until.as_millis(), v.ttl.as_millis()));
        let mut out = format!("{until} {ttl}\n");
        for unit in &self.units {
            out.push_str(unit.as_str());
            out.push('\n');
        }
        out
    }

    /// What is due; without a lease there never was one.
    fn stage(&self, now: Duration) -> Stage {
        self.validity.map_or(Stage::Kill, |v| v.stage(now))
    }
}

/// Why the fence cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The file cannot be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The guard does not run.
    #[error("failed to start {GUARD_UNIT}, without which it must not run")]
    Guard(#[source] ManagerError),
}

/// The fence. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Fence {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    record: Mutex<Record>,
    /// Held while the guard is being started, and whether it was.
    guard: tokio::sync::Mutex<bool>,
    path: PathBuf,
    guard_unit: String,
    clock: Arc<dyn Clock>,
    manager: Arc<dyn ServiceManager>,
    open: watch::Sender<bool>,
    /// The first unit has come.
    first: Notify,
}

impl Fence {
    /// Takes over what the daemon before left in the run directory, and starts enforcing. `command`
    /// is what the guard runs; see [`watch_over`].
    pub fn start(
        run: &Path,
        command: &str,
        files: Files,
        clock: Arc<dyn Clock>,
        manager: Arc<dyn ServiceManager>,
        validity: watch::Receiver<Option<Validity>>,
    ) -> Self {
        let path = run.join("fence");
        let record = Record::parse(&std::fs::read_to_string(&path).unwrap_or_default());
        let open = record.stage(clock.now()) == Stage::Open;
        let guard_unit = format!(
            "[Unit]\nDescription=Stops fleet units that must not run without a lease\n\n\
             [Service]\nExecStart={command}\nRestart=always\nRestartSec=1\n"
        );
        let fence = Self {
            shared: Arc::new(Shared {
                record: Mutex::new(record),
                guard: tokio::sync::Mutex::new(false),
                path,
                guard_unit,
                clock,
                manager,
                open: watch::Sender::new(open),
                first: Notify::new(),
            }),
        };
        tokio::spawn(fence.clone().run(files, validity));
        fence
    }

    /// Whether units behind the fence may be started, and changes of that.
    #[must_use]
    pub fn opened(&self) -> watch::Receiver<bool> {
        self.shared.open.subscribe()
    }

    /// Whether units behind the fence may be started at this very moment.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let open = self.lock().stage(self.shared.clock.now()) == Stage::Open;
        if !open {
            // While there are no units nobody waits for the moment. Who was told so now shall hear
            // of it when it opens.
            self.set_open(false);
        }
        open
    }

    fn set_open(&self, open: bool) {
        self.shared
            .open
            .send_if_modified(|old| std::mem::replace(old, open) != open);
    }

    /// Whether a unit is behind the fence.
    #[must_use]
    pub fn holds(&self, unit: &UnitName) -> bool {
        self.lock().units.contains(unit)
    }

    /// Puts a unit behind the fence; before it is started.
    pub async fn guard(&self, unit: &UnitName) -> Result<(), FenceError> {
        if self.lock().units.insert(unit.clone()) {
            self.write()?;
            self.shared.first.notify_one();
        }
        let mut runs = self.shared.guard.lock().await;
        if !*runs {
            self.start_guard().await?;
            *runs = true;
        }
        Ok(())
    }

    /// Takes a unit that is down out. With the last one the guard goes.
    pub async fn release(&self, unit: &UnitName) {
        if !self.lock().units.remove(unit) {
            return;
        }
        if let Err(error) = self.write() {
            // It is down; being stopped once more does it no harm.
            tracing::warn!("{}", telemetry::chain(&error));
        }
        let mut runs = self.shared.guard.lock().await;
        if self.lock().units.is_empty()
            && let Ok(name) = UnitName::parse(GUARD_UNIT)
        {
            *runs = false;
            if let Err(error) = self.shared.manager.stop(name).await {
                tracing::warn!("failed to stop {GUARD_UNIT}: {}", telemetry::chain(&error));
            }
        }
    }

    async fn start_guard(&self) -> Result<(), FenceError> {
        let path = self.shared.path.with_file_name(GUARD_UNIT);
        std::fs::write(&path, &self.shared.guard_unit).map_err(|source| FenceError::Write {
            path: path.clone(),
            source,
        })?;
        let manager = &self.shared.manager;
        manager.link(vec![path]).await.map_err(FenceError::Guard)?;
        manager.reload().await.map_err(FenceError::Guard)?;
        let name = UnitName::parse(GUARD_UNIT).expect("a literal that parses");
        manager.start(name).await.map_err(FenceError::Guard)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // Nothing that can panic happens while it is locked.
        let record = &self.shared.record;
        record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<(), FenceError> {
        let path = &self.shared.path;
        let failed = |source| FenceError::Write {
            path: path.clone(),
            source,
        };
        // Locked all the while: what is written last is what is true.
        let record = self.lock();
        if record.units.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, record.text()).map_err(failed)?;
        std::fs::rename(&temporary, path).map_err(failed)
    }

    /// Takes renewals over and enforces, until the runtime ends.
    async fn run(self, files: Files, mut validity: watch::Receiver<Option<Validity>>) {
        loop {
            let (record, now) = (self.lock().clone(), self.shared.clock.now());
            let stage = record.stage(now);
            self.set_open(stage == Stage::Open);
            let pause = enforce(&record, now, &*self.shared.manager, &files).await;
            let guards = !record.units.is_empty();
            tokio::select! {
                biased;
                () = self.shared.first.notified() => {}
                changed = validity.changed() => {
                    if changed.is_err() {
                        // Presence is gone with the runtime, and so are we.
                        return;
                    }
                    let news = *validity.borrow_and_update();
                    let guards = {
                        let mut record = self.lock();
                        record.validity = news.or(record.validity);
                        !record.units.is_empty()
                    };
                    if guards && let Err(error) = self.write() {
                        tracing::error!("{}", telemetry::chain(&error));
                    }
                }
                () = sleep(pause), if guards => {}
            }
        }
    }
}

/// What the guard does: enforces what the file in the run directory says, for ever.
pub async fn watch_over(
    run: PathBuf,
    files: Files,
    clock: Arc<dyn Clock>,
    manager: Arc<dyn ServiceManager>,
) {
    let path = run.join("fence");
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let pause = enforce(&Record::parse(&text), clock.now(), &*manager, &files).await;
        sleep(pause).await;
    }
}

/// Stops or kills what must not run now. Returns when to look again.
async fn enforce(
    record: &Record,
    now: Duration,
    manager: &dyn ServiceManager,
    files: &Files,
) -> Duration {
    let stage = record.stage(now);
    if record.units.is_empty() {
        return LONGEST_SLEEP;
    }
    if stage == Stage::Open {
        let left = record.validity.map_or(Duration::ZERO, Validity::stop_at);
        return left.saturating_sub(now).min(LONGEST_SLEEP);
    }
    let states = match manager.states(record.units.iter().cloned().collect()).await {
        Ok(states) => states,
        Err(error) => {
            tracing::error!("cannot look at units to stop: {}", telemetry::chain(&error));
            return AGAIN;
        }
    };
    let mut all_down = true;
    for (name, state) in states {
        if matches!(state.active.as_str(), "inactive" | "failed") {
            continue;
        }
        all_down = false;
        tracing::warn!(unit = %name, ?stage, "{name} must not run while the lease is not renewed");
        // Whoever looks at the mark later shall know that it does not run.
        if let Err(error) = files.mark(&name, None) {
            tracing::warn!("{}", telemetry::chain(&error));
        }
        let mut asked = manager.stop(name.clone()).await;
        if stage == Stage::Kill {
            asked = asked.and(manager.kill(name.clone()).await);
        }
        if let Err(error) = asked {
            tracing::error!(unit = %name, "failed to stop {name}: {}", telemetry::chain(&error));
        }
    }
    if all_down { LONGEST_SLEEP / 2 } else { AGAIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_written_and_nonsense_is_an_expired_one() {
        let name = |text| UnitName::parse(text).unwrap();
        let record = Record {
            validity: Some(Validity {
                until: Duration::from_millis(12_345),
                ttl: Duration::from_secs(10),
            }),
            units: BTreeSet::from([name("a.service"), name("b@1.service")]),
        };
        assert_eq!(Record::parse(&record.text()), record);
        assert_eq!(record.stage(Duration::from_secs(1)), Stage::Open);
        for (text, units) in [("", 0), ("x y\na.service", 1), ("1\nb.service\n!", 1)] {
            let record = Record::parse(text);
            assert_eq!((record.validity, record.units.len()), (None, units));
            assert_eq!(record.stage(Duration::ZERO), Stage::Kill);
        }
    }
}
