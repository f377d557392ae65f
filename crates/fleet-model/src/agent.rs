//! One machine's decisions: what to tell its service manager, and why.
//!
//! [`wanted`] picks from the whole registry what this machine shall run; [`plan`] compares it with
//! what is there. A unit whose text changed, or that is wanted no more, is unloaded first; once it
//! is gone the next plan loads what shall be there instead. [`cut_off`] says what to stop when this
//! machine has lost the cluster.
//!
//! A batch unit that has ended well is not started again, nor is one whose last attempt failed on
//! this machine until the engine has scheduled it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::amount::Offer;
use crate::engine::{Population, accept_globals};
use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::record::BatchResult;
use crate::requirements::{Partition, Requirements};
use crate::state::TargetState;
use crate::text::UnitFile;

/// One unit of the registry, as an agent needs it.
#[derive(Debug, Clone)]
pub struct AgentUnit {
    /// Its text.
    pub file: Arc<UnitFile>,
    /// Hash of the text.
    pub hash: Arc<str>,
    /// What it asks for.
    pub requirements: Arc<Requirements>,
    /// What is wanted of it.
    pub target: TargetState,
    /// Where it is scheduled.
    pub scheduled: Option<MachineId>,
    /// Names the last restart asked for; 0 for none.
    pub restart: u64,
    /// How it ended, if it is a batch unit that has.
    pub result: Option<Arc<BatchResult>>,
    /// The last failed attempt after which the engine has changed its schedule; 0 for none.
    pub answered: u32,
    /// The machines whose turn to take the text over has come, while it is being rolled out; all of
    /// them otherwise.
    pub turns: Option<Arc<BTreeSet<MachineId>>>,
}

/// A unit this machine shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Hash of its text.
    pub hash: Arc<str>,
    /// Loaded or launched.
    pub target: TargetState,
    /// It runs here because it is global, not because it is scheduled.
    pub global: bool,
    /// Names the last restart asked for; 0 for none.
    pub restart: u64,
    /// It is a batch unit that has ended: it stays loaded, and is not started.
    pub ended: bool,
    /// What to do with it when this machine loses the cluster.
    pub partition: Partition,
    /// The text is being rolled out, and it is not this machine's turn: what runs with an older
    /// text goes on.
    pub held: bool,
}

impl Wanted {
    /// Whether it shall be started.
    fn runs(&self) -> bool {
        self.target == TargetState::Launched && !self.ended
    }

    fn of(me: &MachineId, unit: &AgentUnit) -> Self {
        let ended = unit.requirements.batch.zip(unit.result.as_ref());
        let ended = ended.is_some_and(|(batch, result)| {
            let open = result.is_open(batch.retries, unit.answered);
            result.is_final(batch.retries) || open && result.machine == me.as_str()
        });
        Self {
            hash: unit.hash.clone(),
            target: unit.target,
            global: unit.requirements.global,
            restart: unit.restart,
            ended,
            partition: unit.requirements.partition,
            held: unit.turns.as_ref().is_some_and(|turns| !turns.contains(me)),
        }
    }
}

/// What this machine shall have: the units scheduled on it, and the global ones it accepts.
#[must_use]
pub fn wanted(
    me: &MachineId,
    metadata: &Metadata,
    offer: &Offer,
    units: &BTreeMap<UnitName, AgentUnit>,
) -> BTreeMap<UnitName, Wanted> {
    let runs = |name: &UnitName, unit: &AgentUnit| {
        unit.target != TargetState::Inactive && !name.is_template()
    };
    let mut out = BTreeMap::new();
    let mut population = Population::default();
    for (name, unit) in units {
        if runs(name, unit) && !unit.requirements.global && unit.scheduled.as_ref() == Some(me) {
            population.add(name, &unit.requirements);
            out.insert(name.clone(), Wanted::of(me, unit));
        }
    }
    let globals = units
        .iter()
        .filter(|(n, u)| runs(n, u) && u.requirements.global);
    let globals = globals.map(|(name, unit)| (name, &*unit.requirements));
    for name in accept_globals(metadata, offer, &population, globals).names() {
        out.insert(name.clone(), Wanted::of(me, &units[name]));
    }
    out
}

/// A unit this machine has: its file is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalUnit {
    /// Hash of the text in place.
    pub hash: Arc<str>,
    /// Its start was asked for, and not its stop since.
    pub launched: bool,
    /// The last restart that it has seen. Whatever is started has seen the one asked for then.
    pub restart: u64,
}

/// What to do with one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTask {
    /// The unit.
    pub unit: UnitName,
    /// What.
    pub step: Step,
    /// Why.
    pub why: Reason,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Stop it if it runs, take its file away.
    Unload,
    /// Put its file in place and tell the service manager.
    Load,
    /// Ask for its stop.
    Stop,
    /// Ask for its start.
    Start,
    /// Stop it, wait until it is down, ask for its start.
    Restart,
}

impl Step {
    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unload => "unload",
            Self::Load => "load",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is scheduled here and was not there.
    ScheduledHere,
    /// It is global, fits here, and was not there.
    GlobalFits,
    /// It is not, or no longer, wanted here.
    NotWantedHere,
    /// Its text has changed.
    TextChanged,
    /// Its target state is launched.
    TargetLaunched,
    /// Its target state is loaded.
    TargetLoaded,
    /// A restart was asked for since it was started.
    RestartAsked,
    /// It is a batch unit that has ended.
    Ended,
    /// This machine has lost the cluster, and the unit must run at most once.
    CutOff,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ScheduledHere => "unit scheduled here but not loaded",
            Self::GlobalFits => "global unit fits here but is not loaded",
            Self::NotWantedHere => "unit loaded but not wanted here",
            Self::TextChanged => "unit file has changed",
            Self::TargetLaunched => "unit loaded but desired state is launched",
            Self::TargetLoaded => "unit launched but desired state is loaded",
            Self::RestartAsked => "a restart was asked for",
            Self::Ended => "unit has run to its end",
            Self::CutOff => "machine cut off from the cluster and Partition=stop",
        })
    }
}

/// The tasks that bring `have` nearer to `wanted`: unload, load, stop, start, restart, each by name.
/// Whatever is started counts as restarted, too.
#[must_use]
pub fn plan(
    wanted: &BTreeMap<UnitName, Wanted>,
    have: &BTreeMap<UnitName, LocalUnit>,
) -> Vec<AgentTask> {
    let mut tasks = Vec::new();
    let mut add = |unit: &UnitName, step, why| {
        tasks.push(AgentTask {
            unit: unit.clone(),
            step,
            why,
        });
    };
    for (name, local) in have {
        match wanted.get(name) {
            None => add(name, Step::Unload, Reason::NotWantedHere),
            Some(w) if w.hash != local.hash && w.held && w.runs() && local.launched => {}
            Some(w) if w.hash != local.hash => add(name, Step::Unload, Reason::TextChanged),
            Some(w) if w.runs() && !local.launched => {
                add(name, Step::Start, Reason::TargetLaunched);
            }
            Some(w) if !w.runs() && local.launched => {
                let why = if w.ended {
                    Reason::Ended
                } else {
                    Reason::TargetLoaded
                };
                add(name, Step::Stop, why);
            }
            Some(w) if local.launched && w.restart != local.restart && w.restart != 0 => {
                add(name, Step::Restart, Reason::RestartAsked);
            }
            Some(_) => {}
        }
    }
    for (name, w) in wanted.iter().filter(|(name, _)| !have.contains_key(*name)) {
        add(
            name,
            Step::Load,
            if w.global {
                Reason::GlobalFits
            } else {
                Reason::ScheduledHere
            },
        );
        if w.runs() {
            add(name, Step::Start, Reason::TargetLaunched);
        }
    }
    tasks.sort_by(|a, b| (a.step, &a.unit).cmp(&(b.step, &b.unit)));
    tasks
}

/// What to do when the machine's lease has ended and nobody can be asked: units that must run at most
/// once are stopped, by name; all others are left alone. `known` is what was wanted last.
#[must_use]
pub fn cut_off(
    known: &BTreeMap<UnitName, Wanted>,
    have: &BTreeMap<UnitName, LocalUnit>,
) -> Vec<AgentTask> {
    let stop = have.iter().filter(|(name, local)| {
        local.launched
            && known
                .get(*name)
                .is_some_and(|w| w.partition == Partition::Stop)
    });
    stop.map(|(name, _)| AgentTask {
        unit: name.clone(),
        step: Step::Stop,
        why: Reason::CutOff,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Outcome;

    fn name(text: &str) -> UnitName {
        UnitName::parse(&format!("{text}.service")).unwrap()
    }

    fn want(hash: &str, target: TargetState) -> Wanted {
        Wanted {
            hash: hash.into(),
            target,
            global: false,
            restart: 0,
            ended: false,
            partition: Partition::Keep,
            held: false,
        }
    }

    fn local(hash: &str, launched: bool) -> LocalUnit {
        LocalUnit {
            hash: hash.into(),
            launched,
            restart: 0,
        }
    }

    fn check(wants: &[(&str, &str, TargetState)], have: &[(&str, &str, bool)], expect: &[&str]) {
        let wanted = wants.iter().map(|(n, h, t)| (name(n), want(h, *t)));
        let have = have.iter().map(|(n, h, l)| (name(n), local(h, *l)));
        let tasks = plan(&wanted.collect(), &have.collect());
        let got: Vec<_> = tasks
            .iter()
            .map(|t| format!("{} {}", t.step.as_str(), t.unit.stem()))
            .collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn differences_become_tasks_in_order() {
        use TargetState::{Launched, Loaded};
        check(&[], &[], &[]);
        check(&[("a", "1", Launched)], &[], &["load a", "start a"]);
        check(&[("a", "1", Loaded)], &[], &["load a"]);
        check(&[("a", "1", Launched)], &[("a", "1", true)], &[]);
        check(&[("a", "1", Launched)], &[("a", "1", false)], &["start a"]);
        check(&[("a", "1", Loaded)], &[("a", "1", true)], &["stop a"]);
        check(&[("a", "2", Launched)], &[("a", "1", true)], &["unload a"]);
        check(&[], &[("a", "1", true)], &["unload a"]);
        check(
            &[("c", "1", Launched), ("b", "1", Launched)],
            &[("z", "1", true), ("d", "1", false)],
            &[
                "unload d", "unload z", "load b", "load c", "start b", "start c",
            ],
        );
    }

    #[test]
    fn a_restart_is_done_once_and_only_where_it_runs() {
        for (target, have, expect) in [
            (TargetState::Launched, (true, 0), &[Step::Restart][..]),
            (TargetState::Launched, (true, 6), &[Step::Restart]),
            (TargetState::Launched, (true, 7), &[]),
            (TargetState::Launched, (false, 0), &[Step::Start]),
            (TargetState::Loaded, (false, 0), &[]),
            (TargetState::Loaded, (true, 0), &[Step::Stop]),
        ] {
            let wanted = Wanted {
                restart: 7,
                ..want("1", target)
            };
            let local = LocalUnit {
                restart: have.1,
                ..local("1", have.0)
            };
            let tasks = plan(
                &BTreeMap::from([(name("a"), wanted)]),
                &BTreeMap::from([(name("a"), local)]),
            );
            let steps: Vec<Step> = tasks.iter().map(|t| t.step).collect();
            assert_eq!(steps, expect, "{target} {have:?}");
        }
    }

    #[test]
    fn a_text_that_is_rolled_out_waits_for_its_turn_where_the_old_one_runs() {
        use TargetState::{Launched, Loaded};
        let file = Arc::new(UnitFile::parse("[X-Fleet]\nGlobal=true").unwrap());
        let me = MachineId::parse("m1").unwrap();
        let turns = |machines: &[&str]| {
            let ids = machines.iter().map(|m| MachineId::parse(m).unwrap());
            Some(Arc::new(ids.collect::<BTreeSet<_>>()))
        };
        for (turns, target, have, expect) in [
            (None, Launched, Some(("1", true)), &[Step::Unload][..]),
            (turns(&["m1"]), Launched, Some(("1", true)), &[Step::Unload]),
            (turns(&["m2"]), Launched, Some(("1", true)), &[]),
            (turns(&[]), Launched, Some(("1", true)), &[]),
            // Nothing of it runs here: nothing is lost by the new text.
            (turns(&[]), Launched, Some(("1", false)), &[Step::Unload]),
            (turns(&[]), Loaded, Some(("1", true)), &[Step::Unload]),
            (turns(&[]), Launched, None, &[Step::Load, Step::Start]),
            (turns(&[]), Launched, Some(("2", false)), &[Step::Start]),
        ] {
            let said = format!("{turns:?} {target} {have:?}");
            let unit = AgentUnit {
                hash: "2".into(),
                requirements: Arc::new(Requirements::of(&name("a"), &file)),
                file: file.clone(),
                target,
                scheduled: None,
                restart: 0,
                result: None,
                answered: 0,
                turns,
            };
            let units = BTreeMap::from([(name("a"), unit)]);
            let wanted = wanted(&me, &Metadata::new(), &Offer::default(), &units);
            let have = have.map(|(hash, launched)| (name("a"), local(hash, launched)));
            let tasks = plan(&wanted, &have.into_iter().collect());
            let steps: Vec<Step> = tasks.iter().map(|t| t.step).collect();
            assert_eq!(steps, expect, "{said}");
        }
    }

    #[test]
    fn scheduled_units_beat_global_ones_whatever_their_names() {
        let me = MachineId::parse("m1").unwrap();
        let unit = |section: &str, scheduled: bool| {
            let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
            let requirements = Arc::new(Requirements::of(&name("x"), &file));
            AgentUnit {
                hash: file.hash().into(),
                file: Arc::new(file),
                requirements,
                target: TargetState::Launched,
                scheduled: scheduled.then(|| me.clone()),
                restart: 0,
                result: None,
                answered: 0,
                turns: None,
            }
        };
        let units = BTreeMap::from([
            (name("a-global"), unit("Global=true\nConflicts=s*", false)),
            (name("b-global"), unit("Global=true", false)),
            (name("c-global"), unit("Global=true\nConflicts=b-*", false)),
            (
                name("d-global"),
                unit("Global=true\nMachineMetadata=a=b", false),
            ),
            (name("elsewhere"), unit("", false)),
            (name("scheduled"), unit("", true)),
            (
                UnitName::parse("t@.service").unwrap(),
                unit("Global=true", false),
            ),
        ]);
        let got = wanted(&me, &Metadata::new(), &Offer::default(), &units);
        let names: Vec<_> = got.keys().map(UnitName::stem).collect();
        assert_eq!(names, ["b-global", "scheduled"]);
    }

    #[test]
    fn a_batch_unit_that_has_ended_here_is_not_started_again() {
        let me = MachineId::parse("m1").unwrap();
        let file = Arc::new(UnitFile::parse("[X-Fleet]\nBatch=yes\nRetries=1").unwrap());
        for (result, answered, runs) in [
            (None, 0, true),
            (Some((Outcome::Success, 1, "m2")), 0, false),
            (Some((Outcome::Failure, 1, "m2")), 0, true),
            (Some((Outcome::Failure, 1, "m1")), 0, false),
            (Some((Outcome::Failure, 1, "m1")), 1, true),
            (Some((Outcome::Failure, 2, "m2")), 1, false),
            (Some((Outcome::Failure, 2, "m1")), 2, false),
        ] {
            let result = result.map(|(outcome, attempts, machine)| {
                Arc::new(BatchResult {
                    outcome,
                    exit_status: 1,
                    attempts,
                    machine: machine.into(),
                    finished: String::new(),
                    failures: BTreeMap::new(),
                })
            });
            let unit = AgentUnit {
                hash: "1".into(),
                requirements: Arc::new(Requirements::of(&name("a"), &file)),
                file: file.clone(),
                target: TargetState::Launched,
                scheduled: Some(me.clone()),
                restart: 0,
                result: result.clone(),
                answered,
                turns: None,
            };
            let units = BTreeMap::from([(name("a"), unit)]);
            let wanted = wanted(&me, &Metadata::new(), &Offer::default(), &units);
            let have = BTreeMap::from([(name("a"), local("1", false))]);
            assert_eq!(
                !plan(&wanted, &have).is_empty(),
                runs,
                "{result:?} {answered}"
            );
        }
    }

    #[test]
    fn a_machine_cut_off_stops_only_what_must_run_at_most_once() {
        let stop = Wanted {
            partition: Partition::Stop,
            ..want("1", TargetState::Launched)
        };
        let known = BTreeMap::from([
            (name("a"), want("1", TargetState::Launched)),
            (name("b"), stop.clone()),
            (name("c"), stop.clone()),
            (name("d"), stop),
        ]);
        let have = BTreeMap::from([
            (name("a"), local("1", true)),
            (name("b"), local("1", true)),
            (name("c"), local("1", false)),
            (name("e"), local("1", true)),
        ]);
        let tasks = cut_off(&known, &have);
        let got: Vec<_> = tasks.iter().map(|t| (t.unit.stem(), t.step)).collect();
        assert_eq!(got, [("b", Step::Stop)]);
    }

    proptest! {
        #[test]
        fn carrying_plans_out_settles(
            wants in prop::collection::btree_map("[a-e]", ("[12]", any::<bool>(), 0..3u64), 0..5),
            have in prop::collection::btree_map("[a-e]", ("[12]", any::<bool>(), 0..3u64), 0..5),
            ended in prop::collection::btree_set("[a-e]", 0..2),
        ) {
            let wanted: BTreeMap<_, _> = wants.iter().map(|(n, (h, l, r))| {
                let target = if *l { TargetState::Launched } else { TargetState::Loaded };
                let ended = ended.contains(n);
                (name(n), Wanted { restart: *r, ended, ..want(h, target) })
            }).collect();
            let mut have: BTreeMap<_, _> = have.iter().map(|(n, (h, l, r))| {
                (name(n), LocalUnit { restart: *r, ..local(h, *l) })
            }).collect();
            for _ in 0..2 {
                for task in plan(&wanted, &have) {
                    match task.step {
                        Step::Unload => { have.remove(&task.unit); }
                        Step::Load => {
                            let unit = local(&wanted[&task.unit].hash, false);
                            have.insert(task.unit, unit);
                        }
                        Step::Stop => have.get_mut(&task.unit).unwrap().launched = false,
                        Step::Start | Step::Restart => {
                            let restart = wanted[&task.unit].restart;
                            let unit = have.get_mut(&task.unit).unwrap();
                            prop_assert_eq!(unit.launched, task.step == Step::Restart);
                            (unit.launched, unit.restart) = (true, restart);
                        }
                    }
                }
            }
            prop_assert_eq!(plan(&wanted, &have), vec![]);
            prop_assert_eq!(have.len(), wanted.len());
        }
    }
}
