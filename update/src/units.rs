//! The units whose state decides about a boot, asked and followed over D-Bus.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use dbus_api::blocking::Connection;
use dbus_api::names::unit_path;
use dbus_api::systemd1::{self, Event};
use dbus_api::{Error, bus};

use crate::health::{ALWAYS, IF_WANTED, UNKNOWN, is_fine};

/// Without a bus there are no news; unit-busd is back sooner than this.
const NO_BUS: Duration = Duration::from_secs(1);

/// A connection that is made when it is needed, and again when it broke.
#[derive(Debug, Default)]
pub struct Units {
    bus: Option<Connection>,
}

impl Units {
    /// The state of each unit that every machine needs, and of those others that are enabled or were started.
    pub fn states(&mut self) -> BTreeMap<String, String> {
        self.ask().unwrap_or_else(|_| {
            self.bus = None;
            let unknown = |unit: &&str| ((*unit).to_owned(), UNKNOWN.to_owned());
            ALWAYS.iter().map(unknown).collect()
        })
    }

    /// Waits until one of the units changes, or the time is over. True if one of them was, meanwhile, in a state that it
    /// may not have: a unit that fails and is up again before it is asked is not healthy.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        let Some(bus) = &mut self.bus else {
            sleep(at_most.min(NO_BUS));
            return false;
        };
        let mut left = at_most;
        let mut stumbled = false;
        loop {
            match bus.next_signal(Some(left)) {
                Ok(Some(message)) => {
                    if let Some(Event::Changed { unit, changed, .. }) =
                        Event::from_message(&message)
                    {
                        let state = changed.str("ActiveState");
                        stumbled |= state.is_some_and(|state| !is_fine(&unit, state));
                    }
                    // What came together is looked at together.
                    left = Duration::ZERO;
                }
                Ok(None) => return stumbled,
                Err(_) => {
                    self.bus = None;
                    return stumbled;
                }
            }
        }
    }

    fn ask(&mut self) -> Result<BTreeMap<String, String>, Error> {
        let bus = match &mut self.bus {
            Some(bus) => bus,
            empty => empty.insert(connect()?),
        };
        let names: Vec<&str> = ALWAYS.iter().chain(IF_WANTED).copied().collect();
        let mut found = BTreeMap::new();
        for status in bus.call(systemd1::list_units_by_names(&names))? {
            let wanted = ALWAYS.contains(&&*status.name)
                || status.active_state != "inactive"
                || is_enabled(bus, &status.name)?;
            if wanted {
                found.insert(status.name, status.active_state);
            }
        }
        Ok(found)
    }
}

/// Signals first, so that none is missed between a look and the next.
fn connect() -> Result<Connection, Error> {
    let mut bus = Connection::system()?;
    for unit in ALWAYS.iter().chain(IF_WANTED) {
        let rule = format!(
            "type='signal',sender='org.freedesktop.systemd1',path='{}',interface='org.freedesktop.DBus.Properties',\
             member='PropertiesChanged'",
            unit_path(unit)
        );
        bus.call(bus::add_match(&rule))?;
    }
    bus.subscribe()?;
    Ok(bus)
}

/// A unit without a file is not.
fn is_enabled(bus: &mut Connection, unit: &str) -> Result<bool, Error> {
    match bus.call(systemd1::unit_file_state(unit)) {
        Ok(state) => Ok(state.starts_with("enabled")),
        Err(error) if error.name().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}
