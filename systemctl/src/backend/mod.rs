//! Two ways to the service manager: PID 1's control socket for root on Flotilla (works in rescue too), the system bus
//! for everybody else and on stock systemd. The verbs do not know which.

mod bus;
mod control;

use dbus_api::systemd1::Process;
use dbus_api::wire::Value;
use init_control::{ControlError, ErrorKind, Reply, Request};

/// Properties in the order the manager gives them: `show` prints them so.
pub(crate) type Ordered = Vec<(String, Value)>;

/// Why something could not be asked or was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The manager said no.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// There is no manager to talk to.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// Kind of the refusal.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        if let Self::Refused(error) = self {
            Some(error.kind)
        } else {
            None
        }
    }

    /// Exit code of verbs that queue jobs.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind() {
            Some(
                ErrorKind::AccessDenied
                | ErrorKind::OnlyByDependency
                | ErrorKind::NoIsolation
                | ErrorKind::TransactionIsDestructive,
            ) => 4,
            Some(ErrorKind::NoSuchUnit) => 5,
            Some(ErrorKind::JobTypeNotApplicable | ErrorKind::NotSupported) => 3,
            _ => 1,
        }
    }

    pub(crate) fn unexpected() -> Self {
        Self::Unreachable("the manager's answer is not what was asked for".to_owned())
    }
}

/// A way to the manager.
pub(crate) trait Backend {
    /// Ask something.
    fn ask(&mut self, request: Request) -> Result<Reply, Failure>;
    /// All properties of a unit.
    fn properties(&mut self, unit: &str) -> Result<Ordered, Failure>;
    /// All properties of the manager.
    fn manager(&mut self) -> Result<Ordered, Failure>;
    /// Processes of a unit.
    fn processes(&mut self, unit: &str) -> Result<Vec<Process>, Failure>;
    /// Be told of ends of jobs; before the first job is queued.
    fn watch_jobs(&mut self) -> Result<(), Failure>;
    /// Wait until a job ends; its result.
    fn wait_job(&mut self, job: u32, unit: &str) -> Result<String, Failure>;
}

/// The best way for this user on this system.
pub(crate) fn connect() -> Result<Box<dyn Backend>, Failure> {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        return Err(Failure::Unreachable(
            "System has not been booted with systemd as init system (PID 1). Can't operate."
                .to_owned(),
        ));
    }
    if rustix::process::geteuid().is_root()
        && std::path::Path::new(init_control::SOCKET_PATH).exists()
    {
        return Ok(Box::new(control::ControlBackend::connect()?));
    }
    Ok(Box::new(bus::BusBackend::connect()?))
}

/// One property.
pub(crate) fn find<'a>(properties: &'a Ordered, name: &str) -> Option<&'a Value> {
    properties
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// A property as text, empty where absent.
pub(crate) fn text<'a>(properties: &'a Ordered, name: &str) -> &'a str {
    find(properties, name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A property as number, 0 where absent.
pub(crate) fn number(properties: &Ordered, name: &str) -> u64 {
    find(properties, name)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// A property as list of strings.
pub(crate) fn strings(properties: &Ordered, name: &str) -> Vec<String> {
    find(properties, name)
        .and_then(Value::as_strings)
        .unwrap_or_default()
}
