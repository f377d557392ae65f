//! Dependency edges between loaded units: one edge per pair, a bit per kind, kept in both directions.

use init_control::DependencyKind as K;

/// Index of a loaded unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UnitId(pub(crate) u32);

/// A set of dependency kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deps(pub(crate) u32);

impl Deps {
    pub(crate) const fn has(self, other: Deps) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn or(self, other: Deps) -> Deps {
        Deps(self.0 | other.0)
    }
}

macro_rules! kinds {
    ($($name:ident = $bit:literal, $inverse:ident, $kind:ident;)*) => {
        $(pub(crate) const $name: Deps = Deps(1 << $bit);)*

        /// The kinds seen from the other end.
        pub(crate) fn inverse(deps: Deps) -> Deps {
            let mut out = Deps(0);
            $(if deps.has($name) { out = out.or($inverse); })*
            out
        }

        /// All kinds with their public names.
        pub(crate) const PUBLIC: &[(Deps, K)] = &[$(($name, K::$kind),)*];
    };
}

kinds! {
    REQUIRES = 0, REQUIRED_BY, Requires;
    REQUISITE = 1, REQUISITE_OF, Requisite;
    WANTS = 2, WANTED_BY, Wants;
    BINDS_TO = 3, BOUND_BY, BindsTo;
    PART_OF = 4, CONSISTS_OF, PartOf;
    UPHOLDS = 5, UPHELD_BY, Upholds;
    REQUIRED_BY = 6, REQUIRES, RequiredBy;
    REQUISITE_OF = 7, REQUISITE, RequisiteOf;
    WANTED_BY = 8, WANTS, WantedBy;
    BOUND_BY = 9, BINDS_TO, BoundBy;
    UPHELD_BY = 10, UPHOLDS, UpheldBy;
    CONSISTS_OF = 11, PART_OF, ConsistsOf;
    CONFLICTS = 12, CONFLICTED_BY, Conflicts;
    CONFLICTED_BY = 13, CONFLICTS, ConflictedBy;
    BEFORE = 14, AFTER, Before;
    AFTER = 15, BEFORE, After;
    ON_FAILURE = 16, ON_FAILURE_OF, OnFailure;
    ON_FAILURE_OF = 17, ON_FAILURE, OnFailureOf;
    ON_SUCCESS = 18, ON_SUCCESS_OF, OnSuccess;
    ON_SUCCESS_OF = 19, ON_SUCCESS, OnSuccessOf;
    TRIGGERS = 20, TRIGGERED_BY, Triggers;
    TRIGGERED_BY = 21, TRIGGERS, TriggeredBy;
    PROPAGATES_RELOAD_TO = 22, RELOAD_PROPAGATED_FROM, PropagatesReloadTo;
    RELOAD_PROPAGATED_FROM = 23, PROPAGATES_RELOAD_TO, ReloadPropagatedFrom;
    PROPAGATES_STOP_TO = 24, STOP_PROPAGATED_FROM, PropagatesStopTo;
    STOP_PROPAGATED_FROM = 25, PROPAGATES_STOP_TO, StopPropagatedFrom;
    JOINS_NAMESPACE_OF = 26, JOINS_NAMESPACE_OF, JoinsNamespaceOf;
    IN_SLICE = 27, SLICE_OF, References;
    SLICE_OF = 28, IN_SLICE, SliceOf;
    REFERENCES = 29, REFERENCED_BY, References;
    REFERENCED_BY = 30, REFERENCES, ReferencedBy;
}

/// Started with us, and must work.
pub(crate) const PULL_IN_START: Deps = REQUIRES.or(BINDS_TO);
/// Started with us, may fail.
pub(crate) const PULL_IN_START_IGNORED: Deps = WANTS.or(UPHOLDS);
/// Stopped when we are stopped by a job.
pub(crate) const PROPAGATE_STOP: Deps = REQUIRED_BY
    .or(REQUISITE_OF)
    .or(BOUND_BY)
    .or(CONSISTS_OF)
    .or(PROPAGATES_STOP_TO);
/// Their start job fails when ours does.
pub(crate) const PROPAGATE_START_FAILURE: Deps = REQUIRED_BY.or(REQUISITE_OF).or(BOUND_BY);

/// One edge: the other unit and what it is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) other: UnitId,
    pub(crate) deps: Deps,
}

/// The edges of one unit, sorted by the other's id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edges(Vec<Edge>);

impl Edges {
    pub(crate) fn add(&mut self, other: UnitId, deps: Deps) {
        match self.0.binary_search_by_key(&other, |e| e.other) {
            Ok(at) => self.0[at].deps = self.0[at].deps.or(deps),
            Err(at) => self.0.insert(at, Edge { other, deps }),
        }
    }

    pub(crate) fn remove_unit(&mut self, other: UnitId) {
        if let Ok(at) = self.0.binary_search_by_key(&other, |e| e.other) {
            self.0.remove(at);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn all(&self) -> &[Edge] {
        &self.0
    }

    /// The units with any of these kinds.
    pub(crate) fn with(&self, deps: Deps) -> impl Iterator<Item = UnitId> + '_ {
        self.0
            .iter()
            .filter(move |e| e.deps.has(deps))
            .map(|e| e.other)
    }

    /// As [`Edges::with`], copied so that the engine can be changed meanwhile.
    pub(crate) fn list(&self, deps: Deps) -> Vec<UnitId> {
        self.with(deps).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{AFTER, BEFORE, Edges, PUBLIC, REQUIRED_BY, REQUIRES, UnitId, inverse};

    #[test]
    fn inverses_are_symmetric() {
        for (deps, _) in PUBLIC {
            assert_eq!(inverse(inverse(*deps)), *deps);
        }
        assert_eq!(inverse(AFTER.or(REQUIRES)), BEFORE.or(REQUIRED_BY));
    }

    #[test]
    fn edges_merge() {
        let mut edges = Edges::default();
        for id in [5, 1, 3, 5] {
            edges.add(UnitId(id), AFTER);
        }
        edges.add(UnitId(3), REQUIRES);
        assert_eq!(edges.all().len(), 3);
        assert_eq!(edges.list(REQUIRES), [UnitId(3)]);
        edges.remove_unit(UnitId(3));
        assert_eq!(edges.all().len(), 2);
    }
}
