//! What calls take and give.

use std::fmt;

use crate::names;
use crate::wire::Value;

/// What to do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start it and what it requires.
    Start,
    /// Stop it and what requires it.
    Stop,
    /// Stop, then start.
    Restart,
    /// Restart if active.
    TryRestart,
    /// Reload its configuration.
    Reload,
    /// Reload where it can, else restart.
    ReloadOrRestart,
    /// Reload where it can, else restart, only if active.
    ReloadOrTryRestart,
}

impl Verb {
    /// The manager's method.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::TryRestart => "TryRestartUnit",
            Self::Reload => "ReloadUnit",
            Self::ReloadOrRestart => "ReloadOrRestartUnit",
            Self::ReloadOrTryRestart => "ReloadOrTryRestartUnit",
        }
    }
}

/// How a new job treats those that are queued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum JobMode {
    /// Replace conflicting jobs.
    #[default]
    Replace,
    /// Replace, and let nothing replace it.
    ReplaceIrreversibly,
    /// Refuse when a queued job conflicts.
    Fail,
    /// Stop everything else.
    Isolate,
    /// Follow no dependency.
    IgnoreDependencies,
    /// Follow ordering only.
    IgnoreRequirements,
}

impl JobMode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::ReplaceIrreversibly => "replace-irreversibly",
            Self::Fail => "fail",
            Self::Isolate => "isolate",
            Self::IgnoreDependencies => "ignore-dependencies",
            Self::IgnoreRequirements => "ignore-requirements",
        }
    }
}

/// A queued job: its object path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job(pub String);

impl Job {
    /// Its id.
    pub fn id(&self) -> Option<u32> {
        names::job_of_path(&self.0)
    }
}

/// A unit's object path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnitPath(pub String);

impl UnitPath {
    /// Its name (of the path; may be an alias).
    pub fn unit_name(&self) -> Option<String> {
        names::unit_of_path(&self.0)
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// As asked.
    Done,
    /// Replaced or cancelled.
    Canceled,
    /// Took too long.
    Timeout,
    /// The unit failed.
    Failed,
    /// A unit it requires failed.
    Dependency,
    /// Nothing to do for this kind of job.
    Skipped,
    /// Another word.
    Other(String),
}

impl JobResult {
    /// From the word on the wire.
    pub fn from_word(word: &str) -> Self {
        match word {
            "done" => Self::Done,
            "canceled" => Self::Canceled,
            "timeout" => Self::Timeout,
            "failed" => Self::Failed,
            "dependency" => Self::Dependency,
            "skipped" => Self::Skipped,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Done => "done",
            Self::Canceled => "canceled",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Dependency => "dependency",
            Self::Skipped => "skipped",
            Self::Other(word) => word,
        }
    }

    /// Did it end as asked? A skipped job counts: there was nothing to do.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }
}

impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A line of `ListUnits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitStatus {
    /// Canonical name.
    pub name: String,
    /// Description.
    pub description: String,
    /// `loaded`, `not-found` …
    pub load_state: String,
    /// `active`, `inactive` …
    pub active_state: String,
    /// State of its type.
    pub sub_state: String,
    /// Unit whose state it follows, else empty.
    pub following: String,
    /// Object path.
    pub path: String,
    /// Id of its job, 0 = none.
    pub job_id: u32,
    /// Type of its job, empty = none.
    pub job_type: String,
    /// Object path of its job, `/` = none.
    pub job_path: String,
}

impl UnitStatus {
    pub(crate) fn read(item: &Value) -> Option<Self> {
        let [
            name,
            description,
            load,
            active,
            sub,
            following,
            path,
            job,
            kind,
            job_path,
        ] = item.items()?
        else {
            return None;
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            name: text(name)?,
            description: text(description)?,
            load_state: text(load)?,
            active_state: text(active)?,
            sub_state: text(sub)?,
            following: text(following)?,
            path: text(path)?,
            job_id: job.as_u32()?,
            job_type: text(kind)?,
            job_path: text(job_path)?,
        })
    }
}

/// A line of `ListJobs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEntry {
    /// Its id.
    pub id: u32,
    /// Its unit.
    pub unit: String,
    /// `start`, `stop` …
    pub job_type: String,
    /// `waiting` or `running`.
    pub state: String,
}

/// A process of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its control group.
    pub control_group: String,
    /// Its id.
    pub pid: u32,
    /// Its command line.
    pub command_line: String,
}

/// A unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// Full path.
    pub path: String,
    /// `enabled`, `static` …
    pub state: String,
}

/// A change on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// `symlink`, `unlink` …
    pub kind: String,
    /// The link.
    pub path: String,
    /// What it points at.
    pub source: String,
}

/// A property of a transient unit, for `StartTransientUnit` and `SetUnitProperties`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransientProperty {
    /// Its name.
    pub name: String,
    /// Its value, not wrapped in a variant.
    pub value: Value,
}

impl TransientProperty {
    /// Any property.
    pub fn new(name: &str, value: Value) -> Self {
        Self {
            name: name.to_owned(),
            value,
        }
    }

    /// The processes of a scope.
    pub fn pids(pids: &[u32]) -> Self {
        Self::new(
            "PIDs",
            Value::array("u", pids.iter().map(|pid| Value::U32(*pid)).collect()),
        )
    }

    /// `Slice=`
    pub fn slice(slice: &str) -> Self {
        Self::new("Slice", Value::str(slice))
    }

    /// `Description=`
    pub fn description(text: &str) -> Self {
        Self::new("Description", Value::str(text))
    }

    /// `Delegate=`
    pub fn delegate(on: bool) -> Self {
        Self::new("Delegate", Value::Bool(on))
    }

    /// `DefaultDependencies=`
    pub fn default_dependencies(on: bool) -> Self {
        Self::new("DefaultDependencies", Value::Bool(on))
    }

    /// `CollectMode=inactive-or-failed`: forget the unit also when it failed.
    pub fn collect_failed() -> Self {
        Self::new("CollectMode", Value::str("inactive-or-failed"))
    }

    /// A list of units: `Before`, `After`, `Wants`, `Requires`, `BindsTo`, `PartOf`, `Conflicts`.
    pub fn units(name: &str, units: &[&str]) -> Self {
        Self::new(name, Value::strings(units.iter().copied()))
    }

    /// `ExecStart=` with one command.
    pub fn exec_start(argv: &[String], ignore_failure: bool) -> Self {
        let path = argv.first().map_or("", String::as_str);
        let command = Value::Struct(vec![
            Value::str(path),
            Value::strings(argv.iter().map(String::as_str)),
            Value::Bool(ignore_failure),
        ]);
        Self::new("ExecStart", Value::array("(sasb)", vec![command]))
    }

    pub(crate) fn list(properties: &[Self]) -> Value {
        let items = properties
            .iter()
            .map(|p| Value::Struct(vec![Value::str(&*p.name), Value::variant(p.value.clone())]))
            .collect();
        Value::array("(sv)", items)
    }
}
