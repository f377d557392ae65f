//! D-Bus properties out of PID 1's snapshots.
//!
//! [`unit_interfaces`] gives the interfaces of a unit with their properties, in systemd's names, types and
//! defaults; the long tail of settings comes from tables ([`tables`]) over the snapshot's effective settings.
//! `unit-busd` serves them, our `systemctl` prints them when it talks to PID 1 directly.
//!
//! Absent on purpose, because nothing here stands behind them: BPF and IP accounting programs
//! (`IPIngressBytes` … are "not set"), NUMA, SELinux, AppArmor and SMACK settings, extension images,
//! `ManagedOOM*`, the memory pressure watch. Clients print what they get.

mod manager;
mod tables;
mod text;
mod types;
mod unit;
mod usage;

pub use manager::manager_properties;
pub use usage::{Usage, processes};

use init_control::UnitSnapshot;

use crate::wire::Value;

/// One interface of an object with its properties.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Full name.
    pub name: String,
    /// Properties in systemd's order.
    pub properties: Vec<(&'static str, Value)>,
}

/// The interfaces of a unit: that of its type, then `Unit`, as systemd orders them.
pub fn unit_interfaces(unit: &UnitSnapshot, usage: &Usage) -> Vec<Interface> {
    let (kind, properties) = types::properties(unit, usage);
    vec![
        Interface {
            name: format!("{}.{kind}", crate::systemd1::NAME),
            properties,
        },
        Interface {
            name: format!("{}.Unit", crate::systemd1::NAME),
            properties: unit::properties(unit),
        },
    ]
}
