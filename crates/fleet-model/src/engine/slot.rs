//! A machine as the index has it: what it offers, what it carries, and how much that is.

use std::collections::BTreeMap;
use std::fmt;

use super::population::Population;
use crate::amount::{Offer, Reservation};
use crate::machine::Metadata;
use crate::name::UnitName;

/// Whether a machine takes units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// It does.
    #[default]
    Open,
    /// It keeps those it has.
    Cordoned,
    /// Those it has leave it if they can.
    Draining,
}

/// How much a machine carries: one for each unit, and one for each hundredth of what it offers that
/// is reserved, whichever of memory and processors is more. Without reservations this is the number
/// of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Load(u64);

/// Load of one unit.
const UNIT: u64 = 10_000;

impl Load {
    pub(super) fn of(units: usize, reserved: Reservation, offer: &Offer) -> Self {
        let units = u64::try_from(units).unwrap_or(u64::MAX / UNIT);
        Self(
            units
                .saturating_mul(UNIT)
                .saturating_add(reserved.share(offer)),
        )
    }

    /// Rounded down.
    #[must_use]
    pub fn whole(self) -> u64 {
        self.0 / UNIT
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / UNIT, self.0 % UNIT / (UNIT / 10)) {
            (1, 0) => f.write_str("1 unit"),
            (whole, 0) => write!(f, "{whole} units"),
            (whole, tenths) => write!(f, "load {whole}.{tenths}"),
        }
    }
}

/// A machine that is present.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) metadata: Metadata,
    pub(super) offer: Offer,
    pub(super) access: Access,
    /// Units scheduled on it, and units that are on their way to it.
    pub(super) residents: Population,
    /// Global units that run on it.
    pub(super) globals: Population,
}

impl Slot {
    pub(super) fn load(&self) -> Load {
        self.load_with(0, Reservation::default())
    }

    /// The load with so many units more that reserve so much.
    pub(super) fn load_with(&self, more: usize, need: Reservation) -> Load {
        let units = self.residents.names().len() + self.globals.names().len();
        Load::of(units + more, self.reserved().plus(need), &self.offer)
    }

    pub(super) fn reserved(&self) -> Reservation {
        self.residents.reserved().plus(self.globals.reserved())
    }
}

/// How many instances of a template there are for each value of the metadata key that they are
/// spread over. Machines without the key have the value "".
#[derive(Debug, Default)]
pub(super) struct Spreads(BTreeMap<(UnitName, String), BTreeMap<String, u64>>);

impl Spreads {
    /// One instance more, or one fewer, on a machine with this metadata.
    pub(super) fn count(&mut self, group: UnitName, key: &str, metadata: &Metadata, more: bool) {
        let value = metadata.get(key).cloned().unwrap_or_default();
        let group = (group, key.to_owned());
        let counts = self.0.entry(group.clone()).or_default();
        let count = counts.entry(value.clone()).or_default();
        *count = if more {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        if *count == 0 {
            counts.remove(&value);
        }
        if counts.is_empty() {
            self.0.remove(&group);
        }
    }

    pub(super) fn counts(&self, group: UnitName, key: &str) -> Option<&BTreeMap<String, u64>> {
        self.0.get(&(group, key.to_owned()))
    }
}
