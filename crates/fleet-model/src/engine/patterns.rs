//! Patterns, and which units hold them.

use std::collections::{BTreeMap, BTreeSet};

use crate::glob::Glob;
use crate::name::UnitName;

/// Patterns by the text that every match begins with, and who holds them.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns(BTreeMap<String, BTreeMap<Glob, BTreeSet<UnitName>>>);

impl Patterns {
    pub(super) fn add(&mut self, glob: &Glob, holder: &UnitName) {
        let prefix = glob.literal_prefix();
        if !self.0.contains_key(prefix) {
            self.0.insert(prefix.to_owned(), BTreeMap::new());
        }
        if let Some(globs) = self.0.get_mut(prefix) {
            let holders = globs.entry(glob.clone()).or_default();
            holders.insert(holder.clone());
        }
    }

    pub(super) fn remove(&mut self, glob: &Glob, holder: &UnitName) {
        let Some(globs) = self.0.get_mut(glob.literal_prefix()) else {
            return;
        };
        if let Some(holders) = globs.get_mut(glob) {
            holders.remove(holder);
            if holders.is_empty() {
                globs.remove(glob);
            }
        }
        if globs.is_empty() {
            self.0.remove(glob.literal_prefix());
        }
    }

    /// Patterns that match `name`, with their holders.
    pub(super) fn matching<'a>(
        &'a self,
        name: &'a UnitName,
    ) -> impl Iterator<Item = (&'a Glob, &'a BTreeSet<UnitName>)> + 'a {
        let text = name.as_str();
        (0..=text.len())
            .filter(|_| !self.0.is_empty())
            .filter_map(|end| self.0.get(text.get(..end)?))
            .flatten()
            .filter(|(glob, _)| glob.matches(text))
    }

    /// All others that hold a pattern matching `name`.
    pub(super) fn holders<'a>(
        &'a self,
        name: &'a UnitName,
    ) -> impl Iterator<Item = &'a UnitName> + 'a {
        self.matching(name)
            .flat_map(|(_, holders)| holders)
            .filter(move |holder| *holder != name)
    }
}

/// The same for the few units of one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Holders(BTreeMap<Glob, BTreeSet<UnitName>>);

impl Holders {
    pub(super) fn add(&mut self, glob: &Glob, holder: &UnitName) {
        let holders = self.0.entry(glob.clone()).or_default();
        holders.insert(holder.clone());
    }

    pub(super) fn remove(&mut self, glob: &Glob, holder: &UnitName) {
        if let Some(holders) = self.0.get_mut(glob) {
            holders.remove(holder);
            if holders.is_empty() {
                self.0.remove(glob);
            }
        }
    }

    /// All others that hold one of these patterns.
    pub(super) fn of<'a>(
        &'a self,
        globs: &'a [&'a Glob],
        name: &'a UnitName,
    ) -> impl Iterator<Item = &'a UnitName> + 'a {
        globs
            .iter()
            .filter(|_| !self.0.is_empty())
            .filter_map(|glob| self.0.get(*glob))
            .flatten()
            .filter(move |holder| *holder != name)
    }

    /// All others that hold a pattern matching `name`.
    pub(super) fn matching<'a>(
        &'a self,
        name: &'a UnitName,
    ) -> impl Iterator<Item = &'a UnitName> + 'a {
        self.0
            .iter()
            .filter(|(glob, _)| glob.matches(name.as_str()))
            .flat_map(|(_, holders)| holders)
            .filter(move |holder| *holder != name)
    }
}
