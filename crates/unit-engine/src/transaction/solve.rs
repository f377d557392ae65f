//! Making the set of jobs consistent: redundant jobs, cycles, conflicts.

use std::collections::BTreeMap;

use init_control::{ControlError, ErrorKind, JobMode};

use super::{Link, Transaction};
use crate::api::LogLevel;
use crate::engine::{Cx, Engine};
use crate::graph::{AFTER, BEFORE, UnitId};
use crate::job::{JobType, is_redundant, merge_types};

impl Engine {
    pub(super) fn settle(
        &mut self,
        cx: &mut Cx<'_>,
        tr: &mut Transaction,
        anchor: usize,
        mode: JobMode,
    ) -> Result<(), ControlError> {
        tr.mark_needed(anchor);
        self.drop_redundant(tr, anchor);
        let collect = mode != JobMode::Isolate;
        loop {
            if collect {
                tr.collect_garbage(anchor);
            }
            match self.find_cycle(tr) {
                None => break,
                Some(cycle) => {
                    let victim = cycle.iter().copied().find(|j| !self.unit_needed(tr, *j));
                    let names: Vec<String> = cycle
                        .iter()
                        .map(|j| self.unit(tr.jobs[*j].unit).name.to_string())
                        .collect();
                    match victim {
                        Some(victim) => {
                            let unit = self.unit(tr.jobs[victim].unit).name.clone();
                            let text = format!(
                                "Ordering cycle {}: job {unit}/{} deleted to break it",
                                names.join(" -> "),
                                tr.jobs[victim].job_type.word()
                            );
                            self.log(cx, LogLevel::Error, Some(unit), text);
                            let all: Vec<usize> = tr.alive_of(tr.jobs[victim].unit).collect();
                            for job in all {
                                tr.delete(job, true);
                            }
                        }
                        None => {
                            let text = format!(
                                "Transaction order is cyclic: {}. See system logs for details.",
                                names.join(" -> ")
                            );
                            return Err(ControlError::new(
                                ErrorKind::TransactionOrderIsCyclic,
                                text,
                            ));
                        }
                    }
                }
            }
        }
        loop {
            match self.merge_jobs(tr) {
                Ok(()) => break,
                Err(Some(victim)) => {
                    tr.delete(victim, true);
                    if collect {
                        tr.collect_garbage(anchor);
                    }
                }
                Err(None) => {
                    let text = "Transaction contains conflicting jobs 'start' and 'stop' for one unit. Probably contradicting requirement dependencies configured.";
                    return Err(ControlError::new(
                        ErrorKind::TransactionJobsConflicting,
                        text,
                    ));
                }
            }
        }
        self.drop_redundant(tr, anchor);
        if !tr.jobs[anchor].alive {
            let text = "Transaction contains conflicting jobs for the requested unit.";
            return Err(ControlError::new(
                ErrorKind::TransactionJobsConflicting,
                text,
            ));
        }
        Ok(())
    }

    fn unit_needed(&self, tr: &Transaction, job: usize) -> bool {
        tr.alive_of(tr.jobs[job].unit).any(|j| tr.jobs[j].needed)
    }

    /// Deletes jobs of units that are where they shall be.
    fn drop_redundant(&self, tr: &mut Transaction, anchor: usize) {
        let units: Vec<UnitId> = tr.by_unit.keys().copied().collect();
        for unit in units {
            let state = self.unit(unit).active();
            let queued = self.unit(unit).job.and_then(|j| self.jobs.get(&j));
            let all: Vec<usize> = tr.alive_of(unit).collect();
            let redundant = all.iter().all(|j| {
                let job = &tr.jobs[*j];
                *j != anchor
                    && is_redundant(job.job_type, state)
                    && queued.is_none_or(|q| merge_types(q.job_type, job.job_type).is_some())
            });
            if redundant {
                for job in all {
                    tr.delete(job, false);
                }
            }
        }
    }

    /// A cycle of jobs that wait for each other, if there is one.
    fn find_cycle(&self, tr: &Transaction) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Closed,
        }
        let mut marks: BTreeMap<UnitId, Mark> = BTreeMap::new();
        for start in (0..tr.jobs.len()).filter(|j| tr.jobs[*j].alive) {
            let root = tr.jobs[start].unit;
            if marks.get(&root).copied().unwrap_or(Mark::New) != Mark::New {
                continue;
            }
            let mut stack: Vec<(UnitId, Vec<UnitId>)> = vec![(root, self.successors(tr, root))];
            marks.insert(root, Mark::Open);
            while let Some((unit, next)) = stack.last_mut() {
                let Some(other) = next.pop() else {
                    marks.insert(*unit, Mark::Closed);
                    stack.pop();
                    continue;
                };
                match marks.get(&other).copied().unwrap_or(Mark::New) {
                    Mark::Closed => {}
                    Mark::New => {
                        marks.insert(other, Mark::Open);
                        let successors = self.successors(tr, other);
                        stack.push((other, successors));
                    }
                    Mark::Open => {
                        let from = stack.iter().position(|(u, _)| *u == other).unwrap_or(0);
                        let cycle: Vec<usize> = stack[from..]
                            .iter()
                            .filter_map(|(u, _)| tr.alive_of(*u).next())
                            .collect();
                        if !cycle.is_empty() {
                            return Some(cycle);
                        }
                        // Only jobs that were queued before take part: it cannot be broken here.
                    }
                }
            }
        }
        None
    }

    /// Units whose jobs wait for the job of this unit.
    fn successors(&self, tr: &Transaction, unit: UnitId) -> Vec<UnitId> {
        let Some(own) = self.planned_type(tr, unit) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for edge in self.unit(unit).edges.all() {
            if !edge.deps.has(BEFORE.or(AFTER)) {
                continue;
            }
            let Some(other) = self.planned_type(tr, edge.other) else {
                continue;
            };
            let stops = |t: JobType| matches!(t, JobType::Stop | JobType::Restart);
            // The rules of `Engine::is_blocked`, seen from the one that goes first.
            let before = edge.deps.has(BEFORE) && !stops(other);
            let after = edge.deps.has(AFTER) && stops(own);
            if before || after {
                out.push(edge.other);
            }
        }
        out
    }

    fn planned_type(&self, tr: &Transaction, unit: UnitId) -> Option<JobType> {
        let mut merged: Option<JobType> = None;
        for job in tr.alive_of(unit) {
            let planned = &tr.jobs[job];
            if planned.ignore_order {
                return None;
            }
            let new = planned.job_type;
            merged = Some(merged.and_then(|m| merge_types(m, new)).unwrap_or(new));
        }
        merged.or_else(|| {
            let job = self.jobs.get(&self.unit(unit).job?)?;
            (!job.ignore_order).then_some(job.job_type)
        })
    }

    /// One job a unit. `Err(Some)`: this one must go first; `Err(None)`: a conflict that cannot be solved.
    fn merge_jobs(&self, tr: &mut Transaction) -> Result<(), Option<usize>> {
        for unit in tr.by_unit.keys() {
            let all: Vec<usize> = tr.alive_of(*unit).collect();
            for (i, a) in all.iter().enumerate() {
                for b in &all[i + 1..] {
                    if merge_types(tr.jobs[*a].job_type, tr.jobs[*b].job_type).is_none() {
                        return Err(self.less_needed(tr, *a, *b));
                    }
                }
            }
        }
        let units: Vec<UnitId> = tr.by_unit.keys().copied().collect();
        for unit in units {
            let all: Vec<usize> = tr.alive_of(unit).collect();
            let Some((first, rest)) = all.split_first() else {
                continue;
            };
            for other in rest {
                let (a, b) = (tr.jobs[*first].job_type, tr.jobs[*other].job_type);
                if let Some(merged) = merge_types(a, b) {
                    tr.jobs[*first].job_type = merged;
                }
                tr.jobs[*first].needed |= tr.jobs[*other].needed;
                tr.jobs[*other].alive = false;
                for link in tr.into[*other].clone() {
                    let link = tr.links[link];
                    tr.link(Link {
                        object: *first,
                        ..link
                    });
                }
                for link in tr.out_of[*other].clone() {
                    let link = tr.links[link];
                    tr.link(Link {
                        subject: *first,
                        ..link
                    });
                }
            }
        }
        Ok(())
    }

    /// Of two conflicting jobs the one to give up.
    fn less_needed(&self, tr: &Transaction, a: usize, b: usize) -> Option<usize> {
        let (stop, start) = if tr.jobs[a].job_type == JobType::Stop {
            (a, b)
        } else {
            (b, a)
        };
        match (tr.jobs[stop].needed, tr.jobs[start].needed) {
            (true, true) => None,
            (false, true) => Some(stop),
            (true, false) => Some(start),
            (false, false) => {
                // Rather keep what starts, but for a stop that another unit's Conflicts= asks for.
                let for_conflict = tr.into[stop].iter().any(|l| {
                    let link = tr.links[*l];
                    link.conflicts && tr.jobs[link.subject].alive
                });
                Some(if for_conflict { start } else { stop })
            }
        }
    }
}
