//! The unit manager's decisions: dependency graph, transactions, jobs, per-type state machines.
