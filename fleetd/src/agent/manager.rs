//! The service manager, as the agent needs it: a trait, and systemd1 on the system bus.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use dbus_api::Error as BusError;
use dbus_api::Properties;
use dbus_api::asynchronous::Connection;
use dbus_api::systemd1::{self, Event, JobMode, Verb};
use dbus_api::wire::Value;
use etcd_kv::BoxFuture;
use fleet_model::UnitName;
use tokio::sync::{Mutex, broadcast, mpsc};
use tokio::time::sleep;

/// A request to the service manager that failed.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// It cannot be reached; trying again makes sense.
    #[error("the service manager cannot be reached")]
    Away(#[source] BusError),
    /// It said no.
    #[error("the service manager refused")]
    Refused(#[source] BusError),
    /// A job ended otherwise than well.
    #[error("the job ended with \"{0}\"")]
    Job(String),
}

/// State of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualState {
    /// LoadState.
    pub load: String,
    /// ActiveState.
    pub active: String,
    /// SubState.
    pub sub: String,
    /// A job is queued for it, or under way: its state is about to change.
    pub job: bool,
}

impl ActualState {
    /// Whether both are one state: a job that comes or goes is no other.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.load, &self.active, &self.sub) == (&other.load, &other.active, &other.sub)
    }
}

/// How a run of a unit that runs to its end has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// Whether the service manager calls it a success.
    pub success: bool,
    /// Exit status of the main process, or the signal that ended it; `None` where there was none.
    pub exit_status: Option<i32>,
}

/// News of the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Something about this unit may have changed.
    Unit(String),
    /// News may have been lost; look at everything.
    Everything,
}

/// What the agent asks of the service manager.
pub trait ServiceManager: std::fmt::Debug + Send + Sync + 'static {
    /// Makes unit files outside the search path known, until the next boot.
    fn link(&self, files: Vec<PathBuf>) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Makes it forget them, and whatever `enable` did.
    fn unlink(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Honours the unit's `[Install]` section, until the next boot.
    fn enable(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Reads all unit files again.
    fn reload(&self) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Asks for a start and does not wait for it.
    fn start(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Asks for a stop and does not wait for it.
    fn stop(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// The same for a unit that runs to its end; how it ended can be asked for afterwards.
    fn start_run(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// How a unit that was started so has ended; `None` if it has not.
    fn run_end(&self, name: UnitName) -> BoxFuture<'_, Result<Option<RunEnd>, ManagerError>>;
    /// Kills all processes of a unit.
    fn kill(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Stops a unit and waits until it is down. A unit that is not loaded is down.
    fn stop_and_wait(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// Forgets a failure.
    fn reset_failed(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>>;
    /// States of these units.
    fn states(
        &self,
        names: Vec<UnitName>,
    ) -> BoxFuture<'_, Result<Vec<(UnitName, ActualState)>, ManagerError>>;
    /// News from now on.
    fn news(&self) -> mpsc::Receiver<News>;
    /// Type of the job that is queued for the unit of this process, and the manager's state.
    fn own_job(&self) -> BoxFuture<'_, Result<(Option<String>, String), ManagerError>>;
}

/// systemd1 on the system bus.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    connection: Arc<Mutex<Option<Connection>>>,
    /// Units that the connection in use holds a reference to. The manager counts references, and keeps a unit,
    /// even one without a file, while there is one.
    referenced: Arc<std::sync::Mutex<BTreeSet<UnitName>>>,
    /// Another bus than the system's.
    bus: Option<String>,
}

const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const RECONNECT: Duration = Duration::from_secs(1);
/// News that may wait for the agent.
const NEWS_BUFFER: usize = 256;

impl Systemd {
    /// Connects when first used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The manager of the user's session. Connects when first used.
    #[must_use]
    pub fn of_user() -> Self {
        let bus = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|_| {
            let directory = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
            format!("unix:path={directory}/bus")
        });
        Self {
            bus: Some(bus),
            ..Self::default()
        }
    }

    async fn connection(&self) -> Result<Connection, BusError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = match &self.bus {
            Some(address) => Connection::bus(address).await?,
            None => Connection::system().await?,
        };
        *slot = Some(connection.clone());
        // References end with the connection that holds them.
        self.referenced().clear();
        Ok(connection)
    }

    fn referenced(&self) -> MutexGuard<'_, BTreeSet<UnitName>> {
        // Nothing that can panic happens while it is locked.
        let referenced = self.referenced.lock();
        referenced.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a unit, and how it has ended, from being forgotten as soon as it is down.
    async fn hold(&self, name: &UnitName) {
        if self.referenced().contains(name) {
            return;
        }
        match self.call(|| systemd1::ref_unit(name.as_str())).await {
            Ok(()) => {
                self.referenced().insert(name.clone());
            }
            // Failures are kept without.
            Err(error) => tracing::debug!("no reference to {name}: {}", telemetry::chain(&error)),
        }
    }

    /// The opposite of [`Self::hold`]. Without it the manager would go on listing what was destroyed.
    async fn let_go(&self, name: &UnitName) {
        if self.referenced().remove(name)
            && let Err(error) = self.call(|| systemd1::unref_unit(name.as_str())).await
        {
            // It has ended with the connection.
            tracing::debug!("no reference to {name}: {}", telemetry::chain(&error));
        }
    }

    /// Calls on the connection in use; once more on a new one if that has just broken.
    async fn call<T>(
        &self,
        call: impl Fn() -> dbus_api::Call<T> + Send + Sync,
    ) -> Result<T, ManagerError> {
        let mut again = true;
        loop {
            let connection = self.connection().await.map_err(ManagerError::Away)?;
            match connection.call(call()).await {
                Ok(answer) => return Ok(answer),
                Err(error @ (BusError::Closed | BusError::Io(_))) => {
                    *self.connection.lock().await = None;
                    if !std::mem::take(&mut again) {
                        return Err(ManagerError::Away(error));
                    }
                }
                Err(error) => return Err(judge(error)),
            }
        }
    }

    /// Forwards signals until the connection ends.
    async fn forward(&self, tx: &mpsc::Sender<News>) -> Result<(), BusError> {
        let connection = self.connection().await?;
        connection.watch_units().await?;
        let mut signals = connection.signals()?;
        // Whatever happened before is not told.
        let mut news = Some(News::Everything);
        loop {
            if let Some(news) = news.take()
                && tx.send(news).await.is_err()
            {
                return Ok(());
            }
            match signals.recv().await {
                Ok(message) => {
                    news = match Event::from_message(&message) {
                        Some(Event::JobRemoved { unit, .. }) => Some(News::Unit(unit)),
                        Some(Event::Changed {
                            unit, interface, ..
                        }) if interface == UNIT_INTERFACE => Some(News::Unit(unit)),
                        // Not UnitRemoved: asking for the state of a unit that is at rest loads and
                        // forgets it, and we would chase our own tail.
                        _ => None,
                    };
                }
                Err(broadcast::error::RecvError::Lagged(_)) => news = Some(News::Everything),
                Err(broadcast::error::RecvError::Closed) => return Err(BusError::Closed),
            }
        }
    }
}

fn judge(error: BusError) -> ManagerError {
    match error {
        BusError::Remote { .. } => ManagerError::Refused(error),
        other => ManagerError::Away(other),
    }
}

/// Reads from a unit's properties how its run has ended. A unit that the manager has forgotten has
/// ended well: failed ones are kept.
fn run_end(properties: &Properties) -> Option<RunEnd> {
    let job = properties.get("Job").and_then(Value::items);
    let job = job.and_then(|fields| fields.first()?.as_u32());
    if job.is_some_and(|id| id != 0) {
        return None;
    }
    let state = (
        properties.str("ActiveState").unwrap_or("inactive"),
        properties.str("SubState").unwrap_or(""),
    );
    let success = match state {
        ("failed", _) => false,
        ("inactive", _) | ("active", "exited") => true,
        _ => return None,
    };
    let ran = properties
        .u64("ExecMainExitTimestampMonotonic")
        .is_some_and(|time| time != 0);
    let status = properties.i64("ExecMainStatus");
    let exit_status = status
        .filter(|_| ran)
        .and_then(|status| i32::try_from(status).ok());
    Some(RunEnd {
        success,
        exit_status: exit_status.or(success.then_some(0)),
    })
}

impl ServiceManager for Systemd {
    fn link(&self, files: Vec<PathBuf>) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            let paths: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            self.call(|| systemd1::link_unit_files(&paths, true, true))
                .await
                .map(drop)
        })
    }

    fn unlink(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            // A run may have been cut short, its end never asked for.
            self.let_go(&name).await;
            self.call(|| systemd1::disable_unit_files(&[name.as_str()], true))
                .await
                .map(drop)
        })
    }

    fn enable(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            self.call(|| systemd1::enable_unit_files(&[name.as_str()], true, true))
                .await
                .map(drop)
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(self.call(systemd1::reload))
    }

    fn start(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            let call = || systemd1::queue_job(Verb::Start, name.as_str(), JobMode::Replace);
            self.call(call).await.map(drop)
        })
    }

    fn stop(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            let call = || systemd1::queue_job(Verb::Stop, name.as_str(), JobMode::Replace);
            self.call(call).await.map(drop)
        })
    }

    fn start_run(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            self.hold(&name).await;
            self.start(name).await
        })
    }

    fn run_end(&self, name: UnitName) -> BoxFuture<'_, Result<Option<RunEnd>, ManagerError>> {
        Box::pin(async move {
            let properties = self
                .call(|| systemd1::unit_properties(name.as_str()))
                .await?;
            let end = run_end(&properties);
            if end.is_some() {
                self.let_go(&name).await;
            }
            Ok(end)
        })
    }

    fn kill(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        const SIGKILL: i32 = 9;
        Box::pin(async move {
            match self
                .call(|| systemd1::kill_unit(name.as_str(), "all", SIGKILL))
                .await
            {
                Err(ManagerError::Refused(error)) if error.name() == Some(NO_SUCH_UNIT) => Ok(()),
                other => other,
            }
        })
    }

    fn stop_and_wait(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            let connection = self.connection().await.map_err(ManagerError::Away)?;
            // The unit's own stop timeout ends this; there is none besides.
            match connection
                .run_job(Verb::Stop, name.as_str(), JobMode::Replace, None)
                .await
            {
                Ok(result) if result.is_done() => Ok(()),
                Ok(result) => Err(ManagerError::Job(result.as_str().to_owned())),
                Err(error) if error.name() == Some(NO_SUCH_UNIT) => Ok(()),
                Err(error) => Err(judge(error)),
            }
        })
    }

    fn reset_failed(&self, name: UnitName) -> BoxFuture<'_, Result<(), ManagerError>> {
        Box::pin(async move {
            self.call(|| systemd1::reset_failed_unit(name.as_str()))
                .await
        })
    }

    fn states(
        &self,
        names: Vec<UnitName>,
    ) -> BoxFuture<'_, Result<Vec<(UnitName, ActualState)>, ManagerError>> {
        Box::pin(async move {
            let texts: Vec<&str> = names.iter().map(UnitName::as_str).collect();
            let units = self.call(|| systemd1::list_units_by_names(&texts)).await?;
            let state = |unit: systemd1::UnitStatus| {
                let name = UnitName::parse(&unit.name).ok()?;
                let state = ActualState {
                    load: unit.load_state,
                    active: unit.active_state,
                    sub: unit.sub_state,
                    job: unit.job_id != 0,
                };
                Some((name, state))
            };
            Ok(units.into_iter().filter_map(state).collect())
        })
    }

    fn news(&self) -> mpsc::Receiver<News> {
        let (tx, rx) = mpsc::channel(NEWS_BUFFER);
        let systemd = self.clone();
        tokio::spawn(async move {
            let mut complained = false;
            loop {
                match systemd.forward(&tx).await {
                    Ok(()) => return,
                    Err(error) => {
                        if !std::mem::replace(&mut complained, true) {
                            tracing::warn!("no news of units: {}", telemetry::chain(&error));
                        }
                    }
                }
                sleep(RECONNECT).await;
                if tx.is_closed() {
                    return;
                }
            }
        });
        rx
    }

    fn own_job(&self) -> BoxFuture<'_, Result<(Option<String>, String), ManagerError>> {
        Box::pin(async move {
            let system = self
                .call(|| systemd1::manager_property("SystemState"))
                .await?;
            let system = system.as_str().unwrap_or_default().to_owned();
            let pid = std::process::id();
            let path = self.call(|| systemd1::unit_by_pid(pid)).await?;
            let Some(unit) = path.unit_name() else {
                return Ok((None, system));
            };
            let jobs = self.call(systemd1::list_jobs).await?;
            let job = jobs
                .into_iter()
                .find(|job| job.unit == unit)
                .map(|job| job.job_type);
            Ok((job, system))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_read_from_properties() {
        let ended = |success, status| {
            Some(RunEnd {
                success,
                exit_status: status,
            })
        };
        for (job, active, sub, exited, status, expect) in [
            (0, "inactive", "dead", 5, 0, ended(true, Some(0))),
            (0, "active", "exited", 5, 0, ended(true, Some(0))),
            (0, "failed", "failed", 5, 3, ended(false, Some(3))),
            (0, "failed", "failed", 0, 0, ended(false, None)),
            (0, "inactive", "dead", 0, 0, ended(true, Some(0))),
            (7, "inactive", "dead", 5, 0, None),
            (0, "activating", "start", 0, 0, None),
            (0, "active", "running", 0, 0, None),
            (0, "deactivating", "stop-sigterm", 5, 0, None),
        ] {
            let mut properties = Properties::default();
            let job = Value::Struct(vec![Value::U32(job), Value::str("/")]);
            properties.insert("Job", job);
            properties.insert("ActiveState", Value::str(active));
            properties.insert("SubState", Value::str(sub));
            properties.insert("ExecMainExitTimestampMonotonic", Value::U64(exited));
            properties.insert("ExecMainStatus", Value::I32(status));
            assert_eq!(run_end(&properties), expect, "{active}/{sub} {exited}");
        }
    }
}
