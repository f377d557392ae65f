//! Refusals, with the names that systemd's clients know.

use serde::{Deserialize, Serialize};

/// Why a request was refused. The text is for people; [`ErrorKind`] is for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// What kind of refusal this is; gives the D-Bus error name and the exit code of `systemctl`.
    pub kind: ErrorKind,
    /// What went wrong with what, e.g. `Unit nosuch.service not found.`
    pub message: String,
}

impl ControlError {
    /// A refusal of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The refusal for a unit that has no file and is not loaded, in the words `systemctl` users know.
    pub fn no_such_unit(name: &str) -> Self {
        Self::new(ErrorKind::NoSuchUnit, format!("Unit {name} not found."))
    }

    /// The refusal for arguments that make no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgs, message)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Kinds of refusal; each has one D-Bus error name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorKind { $($(#[$doc])* $variant,)* }

        impl ErrorKind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The D-Bus error name, as systemd's clients know it.
            pub const fn dbus_name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The kind with this D-Bus error name.
            pub fn from_dbus_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.dbus_name() == name)
            }
        }
    };
}

kinds! {
    /// The unit is neither loaded nor has a file.
    NoSuchUnit => "org.freedesktop.systemd1.NoSuchUnit",
    /// No unit belongs to this process or invocation.
    NoUnitForPid => "org.freedesktop.systemd1.NoUnitForPID",
    /// No unit with this invocation id.
    NoUnitForInvocationId => "org.freedesktop.systemd1.NoUnitForInvocationID",
    /// The unit's file could not be read.
    LoadFailed => "org.freedesktop.systemd1.LoadFailed",
    /// The unit's file has a setting that makes it unusable.
    BadUnitSetting => "org.freedesktop.systemd1.BadUnitSetting",
    /// No job with this id.
    NoSuchJob => "org.freedesktop.systemd1.NoSuchJob",
    /// Unsubscribe without a subscription.
    NotSubscribed => "org.freedesktop.systemd1.NotSubscribed",
    /// A second subscription.
    AlreadySubscribed => "org.freedesktop.systemd1.AlreadySubscribed",
    /// `RefuseManualStart=` or `RefuseManualStop=`.
    OnlyByDependency => "org.freedesktop.systemd1.OnlyByDependency",
    /// A start and a stop of one unit are both required.
    TransactionJobsConflicting => "org.freedesktop.systemd1.TransactionJobsConflicting",
    /// The required jobs cannot be ordered.
    TransactionOrderIsCyclic => "org.freedesktop.systemd1.TransactionOrderIsCyclic",
    /// Mode `fail`, or an irreversible job stands against it.
    TransactionIsDestructive => "org.freedesktop.systemd1.TransactionIsDestructive",
    /// The unit is masked.
    UnitMasked => "org.freedesktop.systemd1.UnitMasked",
    /// The unit comes from a generator and cannot be enabled.
    UnitGenerated => "org.freedesktop.systemd1.UnitGenerated",
    /// The unit is linked and already there.
    UnitLinked => "org.freedesktop.systemd1.UnitLinked",
    /// A unit of this name is already loaded.
    UnitExists => "org.freedesktop.systemd1.UnitExists",
    /// The unit's type has no such job, e.g. reload of a service without `ExecReload=`.
    JobTypeNotApplicable => "org.freedesktop.systemd1.JobTypeNotApplicable",
    /// `isolate` of a unit without `AllowIsolate=`.
    NoIsolation => "org.freedesktop.systemd1.NoIsolation",
    /// The machine is going down.
    ShuttingDown => "org.freedesktop.systemd1.ShuttingDown",
    /// The scope is not running.
    ScopeNotRunning => "org.freedesktop.systemd1.ScopeNotRunning",
    /// Unref without a reference.
    NotReferenced => "org.freedesktop.systemd1.NotReferenced",
    /// No room for the change.
    DiskFull => "org.freedesktop.systemd1.DiskFull",
    /// `clean` with nothing to do.
    NothingToClean => "org.freedesktop.systemd1.NothingToClean",
    /// The unit is in a state that does not allow it.
    UnitBusy => "org.freedesktop.systemd1.UnitBusy",
    /// The process to signal does not exist.
    NoSuchProcess => "org.freedesktop.systemd1.NoSuchProcess",
    /// A file or unit file does not exist.
    FileNotFound => "org.freedesktop.DBus.Error.FileNotFound",
    /// A file stands in the way.
    FileExists => "org.freedesktop.DBus.Error.FileExists",
    /// A name, mode or value that makes no sense.
    InvalidArgs => "org.freedesktop.DBus.Error.InvalidArgs",
    /// The caller may not do this.
    AccessDenied => "org.freedesktop.DBus.Error.AccessDenied",
    /// Not offered by this manager.
    NotSupported => "org.freedesktop.DBus.Error.NotSupported",
    /// A limit is reached, e.g. of queued requests.
    LimitsExceeded => "org.freedesktop.DBus.Error.LimitsExceeded",
    /// The system call behind it failed.
    Failed => "org.freedesktop.DBus.Error.Failed",
}
