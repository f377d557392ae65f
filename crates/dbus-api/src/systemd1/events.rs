//! Signals, read.

use super::types::JobResult;
use super::{MANAGER, PROPERTIES};
use crate::names;
use crate::properties::Properties;
use crate::wire::{Kind, Message, Value};

/// Match rule for the manager's signals.
pub const MATCH_MANAGER: &str = "type='signal',sender='org.freedesktop.systemd1',\
path='/org/freedesktop/systemd1',interface='org.freedesktop.systemd1.Manager'";
/// Match rule for the ends of jobs, all that waiting for one needs.
pub const MATCH_JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',\
path='/org/freedesktop/systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
/// Match rule for changes of units' properties.
pub const MATCH_PROPERTIES: &str = "type='signal',sender='org.freedesktop.systemd1',\
path_namespace='/org/freedesktop/systemd1/unit',interface='org.freedesktop.DBus.Properties',\
member='PropertiesChanged'";

/// News from the manager.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A job was queued.
    JobNew {
        /// Its id.
        id: u32,
        /// Its unit.
        unit: String,
    },
    /// A job ended.
    JobRemoved {
        /// Its id.
        id: u32,
        /// Its object path.
        job: String,
        /// Its unit.
        unit: String,
        /// How.
        result: JobResult,
    },
    /// A unit was loaded.
    UnitNew {
        /// Its name.
        unit: String,
    },
    /// A unit was forgotten.
    UnitRemoved {
        /// Its name.
        unit: String,
    },
    /// Properties of a unit changed.
    Changed {
        /// Its name.
        unit: String,
        /// The interface.
        interface: String,
        /// New values.
        changed: Properties,
        /// Changed too, to be asked for.
        invalidated: Vec<String>,
    },
    /// A reload begins or is over.
    Reloading {
        /// Begins.
        active: bool,
    },
    /// Unit files were enabled, disabled, masked, linked.
    UnitFilesChanged,
    /// The boot is over.
    StartupFinished {
        /// In microseconds.
        total: u64,
    },
}

impl Event {
    /// Read a signal; none where it is another one.
    pub fn from_message(message: &Message) -> Option<Self> {
        if message.kind != Kind::Signal {
            return None;
        }
        let text = |index: usize| {
            message
                .body
                .get(index)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let number = |index: usize| message.body.get(index).and_then(Value::as_u64);
        match (message.interface.as_str(), message.member.as_str()) {
            (MANAGER, "JobNew") => Some(Self::JobNew {
                id: u32::try_from(number(0)?).ok()?,
                unit: text(2)?,
            }),
            (MANAGER, "JobRemoved") => Some(Self::JobRemoved {
                id: u32::try_from(number(0)?).ok()?,
                job: text(1)?,
                unit: text(2)?,
                result: JobResult::from_word(&text(3)?),
            }),
            (MANAGER, "UnitNew") => Some(Self::UnitNew { unit: text(0)? }),
            (MANAGER, "UnitRemoved") => Some(Self::UnitRemoved { unit: text(0)? }),
            (MANAGER, "Reloading") => Some(Self::Reloading {
                active: message.body.first()?.as_bool()?,
            }),
            (MANAGER, "UnitFilesChanged") => Some(Self::UnitFilesChanged),
            (MANAGER, "StartupFinished") => Some(Self::StartupFinished { total: number(5)? }),
            (PROPERTIES, "PropertiesChanged") => Some(Self::Changed {
                unit: names::unit_of_path(&message.path)?,
                interface: text(0)?,
                changed: Properties::from_value(message.body.get(1)?)?,
                invalidated: message.body.get(2)?.as_strings()?,
            }),
            _ => None,
        }
    }
}
