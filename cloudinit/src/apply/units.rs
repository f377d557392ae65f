//! Talking to the service manager, behind a trait so that tests can record what was asked.

use std::time::{Duration, Instant};

use dbus_api::Error;
use dbus_api::blocking::Connection;
use dbus_api::systemd1::{self, Job, JobMode, JobResult, TransientProperty, Verb};

/// How long a job may stay in the queue while we ourselves are starting, before we stop waiting.
const BLOCKED: Duration = Duration::from_secs(5);

/// How often, and at what pauses, a lost bus is looked for again.
const RECONNECTS: u32 = 50;
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// How to wait for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until it ends: nothing is ordered after us.
    Forever,
    /// Until it ends, or until it is clear that it waits for us: then it stays queued.
    UnlessBlocked,
}

/// How a job went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It ended well.
    Done,
    /// It ended otherwise; the manager's word.
    Badly(String),
    /// It is queued and goes on without us.
    Queued,
}

/// Why the manager did not do something.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// There is no such unit.
    #[error("unit {0} does not exist")]
    NoSuchUnit(String),
    /// Not one of the seven commands.
    #[error(
        "unknown command \"{0}\" (use start, stop, restart, reload, try-restart, reload-or-restart or reload-or-try-restart)"
    )]
    UnknownCommand(String),
    /// The bus or the manager refused.
    #[error("the service manager refused")]
    Bus(#[source] Error),
}

/// What cloud-config needs of a service manager.
pub trait Units {
    /// Enables a unit, replacing links that are in the way.
    fn enable(&mut self, unit: &str, runtime: bool) -> Result<(), UnitError>;
    /// Reads unit files again.
    fn reload(&mut self) -> Result<(), UnitError>;
    /// Gives a command and waits.
    fn command(&mut self, unit: &str, verb: &str, patience: Patience) -> Result<Ended, UnitError>;
    /// Runs a program in a new unit and waits.
    fn run(
        &mut self,
        unit: &str,
        description: &str,
        argv: &[String],
        patience: Patience,
    ) -> Result<Ended, UnitError>;
}

/// The verb of a command word.
pub(crate) fn verb(word: &str) -> Result<Verb, UnitError> {
    Ok(match word {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "restart" => Verb::Restart,
        "reload" => Verb::Reload,
        "try-restart" => Verb::TryRestart,
        "reload-or-restart" => Verb::ReloadOrRestart,
        "reload-or-try-restart" => Verb::ReloadOrTryRestart,
        other => return Err(UnitError::UnknownCommand(other.to_owned())),
    })
}

/// The manager of this machine on the system bus; connects at first use and again after a loss.
#[derive(Debug, Default)]
pub struct SystemBus {
    /// Another bus than the system's.
    address: Option<String>,
    connection: Option<Connection>,
}

impl SystemBus {
    /// The manager on the bus at an address (`unix:path=…`).
    pub fn at(address: &str) -> Self {
        Self {
            address: Some(address.to_owned()),
            connection: None,
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, UnitError> {
        if self.connection.is_none() {
            let mut connection = match &self.address {
                Some(address) => Connection::bus(address),
                None => Connection::system(),
            }
            .map_err(UnitError::Bus)?;
            connection.watch_jobs().map_err(UnitError::Bus)?;
            self.connection = Some(connection);
        }
        self.connection
            .as_mut()
            .ok_or(UnitError::Bus(Error::Closed))
    }

    /// Does something that may be repeated; a lost connection is made anew once.
    fn with<T>(
        &mut self,
        mut act: impl FnMut(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..2 {
            let connection = match self.connection() {
                Ok(connection) => connection,
                Err(UnitError::Bus(error)) => return Err(error),
                Err(_) => return Err(Error::Closed),
            };
            match act(connection) {
                Err(error) if error.is_disconnected() => {
                    tracing::warn!("connection to the bus lost, connecting again");
                    self.connection = None;
                }
                other => return other,
            }
        }
        Err(Error::Closed)
    }

    /// Queues a job and waits for it. The manager restarts its bus without losing jobs, so a lost
    /// connection is made anew and the same job is waited for; it is never given twice for that.
    fn finish(
        &mut self,
        unit: &str,
        queue: impl Fn() -> dbus_api::Call<Job>,
        patience: Patience,
    ) -> Result<Ended, UnitError> {
        let failed = |error: Error| {
            if error.is_no_such_unit() {
                UnitError::NoSuchUnit(unit.to_owned())
            } else {
                UnitError::Bus(error)
            }
        };
        let job = self.with(|bus| bus.call(queue())).map_err(failed)?;
        for _ in 0..RECONNECTS {
            let waited = self.with(|bus| wait_or_miss(bus, &job, unit, patience));
            match waited {
                Err(error) if error.is_disconnected() => std::thread::sleep(RECONNECT_PAUSE),
                other => return other.map_err(failed),
            }
        }
        Err(UnitError::Bus(Error::Closed))
    }
}

/// Waits for a job that may have ended before this connection began to listen.
fn wait_or_miss(
    bus: &mut Connection,
    job: &Job,
    unit: &str,
    patience: Patience,
) -> Result<Ended, Error> {
    if is_known(bus, job)? {
        return wait(bus, job, unit, patience);
    }
    match bus.wait_job(job, Some(Duration::from_millis(1))) {
        // How it ended was said while nobody listened; the unit's own log says it too.
        Err(Error::Timeout { .. }) => Ok(Ended::Done),
        other => other.map(|result| ended(&result)),
    }
}

fn wait(bus: &mut Connection, job: &Job, unit: &str, patience: Patience) -> Result<Ended, Error> {
    if patience == Patience::Forever {
        return bus.wait_job(job, None).map(|result| ended(&result));
    }
    let start = Instant::now();
    loop {
        match bus.wait_job(job, Some(Duration::from_secs(1))) {
            Err(Error::Timeout { .. }) => {}
            other => return other.map(|result| ended(&result)),
        }
        if start.elapsed() >= BLOCKED && is_queued(bus, job)? && we_are_starting(bus) {
            tracing::warn!(
                unit,
                "the job waits for something that waits for us; not waiting"
            );
            return Ok(Ended::Queued);
        }
    }
}

fn ended(result: &JobResult) -> Ended {
    if result.is_done() {
        Ended::Done
    } else {
        Ended::Badly(result.to_string())
    }
}

/// Whether the manager still has the job.
fn is_known(bus: &mut Connection, job: &Job) -> Result<bool, Error> {
    let jobs = bus.call(systemd1::list_jobs())?;
    Ok(jobs.iter().any(|entry| Some(entry.id) == job.id()))
}

/// Whether the job has not begun.
fn is_queued(bus: &mut Connection, job: &Job) -> Result<bool, Error> {
    let jobs = bus.call(systemd1::list_jobs())?;
    Ok(jobs
        .iter()
        .any(|entry| Some(entry.id) == job.id() && entry.state == "waiting"))
}

/// Whether we run in a unit that is itself not started yet, so that jobs ordered after it wait.
fn we_are_starting(bus: &mut Connection) -> bool {
    let own = bus.call(systemd1::unit_by_pid(std::process::id()));
    let Some(name) = own.ok().and_then(|path| path.unit_name()) else {
        return false;
    };
    bus.unit_text(&name, "Unit", "ActiveState")
        .is_ok_and(|state| state == "activating")
}

impl Units for SystemBus {
    fn enable(&mut self, unit: &str, runtime: bool) -> Result<(), UnitError> {
        self.with(|bus| bus.call(systemd1::enable_unit_files(&[unit], runtime, true)))
            .map(|_| ())
            .map_err(UnitError::Bus)
    }

    fn reload(&mut self) -> Result<(), UnitError> {
        self.with(|bus| bus.call(systemd1::reload()))
            .map_err(UnitError::Bus)
    }

    fn command(&mut self, unit: &str, word: &str, patience: Patience) -> Result<Ended, UnitError> {
        let verb = verb(word)?;
        self.finish(
            unit,
            || systemd1::queue_job(verb, unit, JobMode::Replace),
            patience,
        )
    }

    fn run(
        &mut self,
        unit: &str,
        description: &str,
        argv: &[String],
        patience: Patience,
    ) -> Result<Ended, UnitError> {
        let properties = [
            TransientProperty::description(description),
            TransientProperty::new("Type", dbus_api::wire::Value::str("oneshot")),
            TransientProperty::exec_start(argv, false),
        ];
        self.finish(
            unit,
            || systemd1::start_transient_unit(unit, JobMode::Replace, &properties),
            patience,
        )
    }
}
