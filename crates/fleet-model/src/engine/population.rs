//! The units on one machine, indexed so that conflicts are found without comparing all pairs.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::patterns::Holders;
use crate::amount::{Offer, Reservation};
use crate::glob::Glob;
use crate::machine::Metadata;
use crate::name::UnitName;
use crate::requirements::Requirements;

/// Units that share a machine.
#[derive(Debug, Clone, Default)]
pub struct Population {
    names: BTreeSet<UnitName>,
    pub(super) conflicts: Holders,
    pub(super) replaces: Holders,
    pub(super) prefers: Holders,
    reserved: Reservation,
}

impl Population {
    /// Adds a unit.
    pub fn add(&mut self, name: &UnitName, requirements: &Requirements) {
        if !self.names.insert(name.clone()) {
            return;
        }
        self.reserved = self.reserved.plus(requirements.reservation);
        for glob in &requirements.conflicts {
            self.conflicts.add(glob, name);
        }
        for glob in &requirements.replaces {
            self.replaces.add(glob, name);
        }
        for glob in &requirements.prefer_conflicts {
            self.prefers.add(glob, name);
        }
    }

    /// Removes a unit that was added with these requirements.
    pub fn remove(&mut self, name: &UnitName, requirements: &Requirements) {
        if !self.names.remove(name) {
            return;
        }
        self.reserved = self.reserved.minus(requirements.reservation);
        for glob in &requirements.conflicts {
            self.conflicts.remove(glob, name);
        }
        for glob in &requirements.replaces {
            self.replaces.remove(glob, name);
        }
        for glob in &requirements.prefer_conflicts {
            self.prefers.remove(glob, name);
        }
    }

    /// Names, ascending.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<UnitName> {
        &self.names
    }

    /// What they reserve together.
    #[must_use]
    pub fn reserved(&self) -> Reservation {
        self.reserved
    }

    /// Others that a pattern of a unit matches.
    pub fn matching<'a>(
        &'a self,
        glob: &'a Glob,
        except: &'a UnitName,
    ) -> impl Iterator<Item = &'a UnitName> + 'a {
        let prefix = glob.literal_prefix();
        self.names
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |name| name.as_str().starts_with(prefix))
            .filter(move |name| *name != except && glob.matches(name.as_str()))
    }

    /// Others that a unit cannot be with, whichever side says so.
    pub fn conflicts<'a>(
        &'a self,
        name: &'a UnitName,
        requirements: &'a Requirements,
    ) -> impl Iterator<Item = &'a UnitName> + 'a {
        let own = requirements
            .conflicts
            .iter()
            .flat_map(|glob| self.matching(glob, name));
        own.chain(self.conflicts.matching(name))
    }

    /// Others that replace a unit. Mutual replacement is left to the caller.
    pub fn replacers<'a>(&'a self, name: &'a UnitName) -> impl Iterator<Item = &'a UnitName> + 'a {
        self.replaces.matching(name)
    }
}

/// The global units that run on a machine: its metadata must fit, neither a scheduled unit nor a
/// global one accepted before, in name order, may conflict, and what they reserve must be left.
/// `globals` must come in name order.
pub fn accept_globals<'a>(
    metadata: &Metadata,
    offer: &Offer,
    scheduled: &Population,
    globals: impl Iterator<Item = (&'a UnitName, &'a Requirements)>,
) -> Population {
    let mut accepted = Population::default();
    for (name, requirements) in globals {
        let need = requirements.reservation;
        let reserved = scheduled.reserved.plus(accepted.reserved);
        if requirements.missing_metadata(metadata).is_none()
            && requirements.invalid.is_none()
            && (need.is_nothing() || reserved.plus(need).fits(offer))
            && scheduled.conflicts(name, requirements).next().is_none()
            && accepted.conflicts(name, requirements).next().is_none()
        {
            accepted.add(name, requirements);
        }
    }
    accepted
}
