//! Waiting until the cluster has done what was asked for.
//!
//! Several units are looked at together, round by round. Whoever waits longer than a moment for a
//! unit that is on no machine is told why, and told again when the reason changes.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use fleet_model::{TargetState, wire};

use crate::api::Client;
use crate::cli::Wait;
use crate::error::Failure;
use crate::explain::waits_for;
use crate::list::{legend, machines_by_id};
use crate::net::News;
use crate::net::news::Heard;
use crate::out::Out;

/// Pauses between looks: short at first, since most things are done at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause of those who hear of changes.
const LONGEST_QUIET: Duration = Duration::from_secs(2);
/// Who waits longer than this asks fleetd for news.
const LISTEN_AFTER: Duration = Duration::from_secs(1);
/// One attempt of `--block-attempts`.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often the reason for waiting is asked for.
const EXPLAIN: Duration = Duration::from_secs(1);
/// Of how many units at a time.
const EXPLAINED: usize = 5;
/// How long the cluster may be unable to answer before waiting is given up.
const OUTAGE: Duration = Duration::from_secs(60);
/// A started unit that stays at rest so long has done its work.
const AT_REST: Duration = Duration::from_secs(3);
/// More units than this are read as whole lists.
const MANY: usize = 8;

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Option<Duration>);

impl Patience {
    /// So many attempts; 0 is for ever.
    pub(crate) fn from_attempts(attempts: u32) -> Self {
        Self((attempts > 0).then(|| ATTEMPT * attempts))
    }
}

impl Patience {
    /// How much of it is left; `None` is for ever.
    pub(crate) fn left(self, since: Instant) -> Option<Duration> {
        self.0.map(|limit| limit.saturating_sub(since.elapsed()))
    }

    /// What is left of it, for the next thing to wait for.
    pub(crate) fn rest(self, since: Instant) -> Self {
        Self(self.left(since))
    }

    /// Whether so much waiting is too much.
    pub(crate) fn is_over(self, since: Instant) -> bool {
        self.0.is_some_and(|limit| since.elapsed() >= limit)
    }
}

impl From<Wait> for Patience {
    fn from(wait: Wait) -> Self {
        Self::from_attempts(wait.block_attempts)
    }
}

/// What one look at a unit gives.
#[derive(Debug)]
pub(crate) enum Look {
    Done,
    NotYet,
    /// It will not come to it.
    Never(Failure),
}

/// What the cluster says in one round; nothing is read twice.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    client: &'a Client,
    many: bool,
    units: OnceCell<BTreeMap<String, wire::Unit>>,
    states: OnceCell<BTreeMap<String, Vec<wire::UnitState>>>,
}

impl<'a> Round<'a> {
    /// For looking at so many units.
    pub(crate) fn of(client: &'a Client, units: usize) -> Self {
        Self {
            client,
            many: units > MANY,
            units: OnceCell::new(),
            states: OnceCell::new(),
        }
    }

    /// A unit, if it is there.
    pub(crate) fn find(&self, name: &str) -> Result<Option<wire::Unit>, Failure> {
        if !self.many {
            return self.client.unit(name);
        }
        if self.units.get().is_none() {
            let all = self.client.units()?;
            let _ = self
                .units
                .set(all.into_iter().map(|u| (u.name.clone(), u)).collect());
        }
        Ok(self.units.get().and_then(|units| units.get(name)).cloned())
    }

    /// A unit that must be there.
    pub(crate) fn unit(&self, name: &str) -> Result<wire::Unit, Failure> {
        let found = self.find(name)?;
        found.ok_or_else(|| Failure::NotFound {
            name: name.to_owned(),
        })
    }

    /// The states of a unit.
    pub(crate) fn states(&self, name: &str) -> Result<Vec<wire::UnitState>, Failure> {
        if !self.many {
            return self.client.states(Some(name));
        }
        if self.states.get().is_none() {
            let mut by_name = BTreeMap::<String, Vec<_>>::new();
            for state in self.client.states(None)? {
                by_name.entry(state.name.clone()).or_default().push(state);
            }
            let _ = self.states.set(by_name);
        }
        let found = self.states.get().and_then(|states| states.get(name));
        Ok(found.cloned().unwrap_or_default())
    }
}

/// Waits for units.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    pub(crate) client: &'a Client,
    pub(crate) out: &'a Out,
    pub(crate) patience: Patience,
}

impl Waiter<'_> {
    /// Looks at all units, round by round, until each has come to it, will not, or time is up.
    /// `state` says in an error what was waited for.
    pub(crate) fn each(
        &self,
        names: &[String],
        state: &str,
        mut look: impl FnMut(&Round<'_>, &str) -> Result<Look, Failure>,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let mut pending: Vec<&String> = names.iter().collect();
        let mut failures = Vec::new();
        let mut pulse = Pulse::new(self.client);
        let mut reasons = Reasons::new(self.client);
        while !pending.is_empty() {
            let round = Round::of(self.client, pending.len());
            let mut trouble = None;
            let mut rest = Vec::new();
            let mut looking = pending.into_iter();
            for name in looking.by_ref() {
                match look(&round, name) {
                    Ok(Look::Done) => {}
                    Ok(Look::NotYet) => rest.push(name),
                    Ok(Look::Never(failure)) => failures.push(failure),
                    Err(failure) => {
                        trouble = Some(failure);
                        rest.push(name);
                        break;
                    }
                }
            }
            // What was not looked at because of trouble is looked at in the next round.
            rest.extend(looking);
            pending = rest;
            if pending.is_empty() {
                break;
            }
            pulse.beat(trouble)?;
            if self.patience.is_over(started) {
                reasons.ask(&pending);
                failures.extend(pending.iter().map(|name| Failure::TimedOut {
                    name: (*name).clone(),
                    state: state.to_owned(),
                    reason: reasons.of(name),
                }));
                break;
            }
            reasons.tell(&pending, started.elapsed());
            pulse.pause(self.patience.left(started));
        }
        all_well(failures)
    }

    /// Until each unit has come to a state; says where.
    pub(crate) fn for_state(&self, names: &[String], target: TargetState) -> Result<(), Failure> {
        self.each(names, target.as_str(), |round, name| {
            let unit = round.unit(name)?;
            let reached = unit.current_state == target.as_str()
                && (target == TargetState::Inactive) == unit.machine_id.is_empty();
            if !reached {
                return Ok(Look::NotYet);
            }
            self.say_where(&unit, target.as_str())?;
            Ok(Look::Done)
        })
    }

    /// The line that says what a unit has come to, and where.
    pub(crate) fn say_where(&self, unit: &wire::Unit, state: &str) -> Result<(), Failure> {
        let name = &unit.name;
        self.out.unit(name, &[("state", state)]);
        if unit.machine_id.is_empty() {
            self.out.line(&format!("Unit {name} {state}"));
        } else {
            self.out.unit(name, &[("machine", &unit.machine_id)]);
            let place = legend(&unit.machine_id, &machines_by_id(self.client)?, false);
            self.out.line(&format!("Unit {name} {state} on {place}"));
        }
        Ok(())
    }

    /// Until the service manager says that each unit is active, on all machines that have it. One
    /// that has been at rest for a while after its start has done its work.
    pub(crate) fn for_active(&self, names: &[String]) -> Result<(), Failure> {
        let mut rests = Rests::default();
        self.each(names, "active", |round, name| {
            let states = round.states(name)?;
            let look = rests.look(name, &states);
            if matches!(look, Look::Done) {
                self.out.unit(name, &[("active", "active")]);
            }
            Ok(look)
        })
    }

    /// Until the service manager has loaded each unit, on all machines that have it.
    pub(crate) fn for_loaded(&self, names: &[String]) -> Result<(), Failure> {
        self.each(names, "loaded", |round, name| {
            let states = round.states(name)?;
            let bad = states.iter().find(|s| is_broken(s));
            if let Some(state) = bad {
                return Ok(Look::Never(not_active(state)));
            }
            let loaded = states.iter().all(|s| s.systemd_load_state == "loaded");
            Ok(if loaded && !states.is_empty() {
                Look::Done
            } else {
                Look::NotYet
            })
        })
    }

    /// Until each unit is loaded and its process is down.
    pub(crate) fn for_stopped(&self, names: &[String]) -> Result<(), Failure> {
        self.each(names, "loaded", |round, name| {
            let unit = round.unit(name)?;
            let states = round.states(name)?;
            let down = states
                .iter()
                .all(|s| ["inactive", "failed"].contains(&s.systemd_active_state.as_str()));
            let loaded = unit.current_state == TargetState::Loaded.as_str();
            Ok(if loaded && down {
                Look::Done
            } else {
                Look::NotYet
            })
        })
    }

    /// Until no unit of these names exists, and no machine reports one.
    pub(crate) fn for_gone(&self, names: &[String]) -> Result<(), Failure> {
        self.each(names, "destroyed", |round, name| {
            let gone = round.find(name)?.is_none() && round.states(name)?.is_empty();
            Ok(if gone { Look::Done } else { Look::NotYet })
        })
    }
}

/// One failure for several.
pub(crate) fn all_well(failures: Vec<Failure>) -> Result<(), Failure> {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else {
        return Ok(());
    };
    let others = failures
        .inspect(|f| eprintln!("fleetctl: {}", telemetry::chain(f)))
        .count();
    Err(match others {
        0 => first,
        others => Failure::Several {
            first: Box::new(first),
            others,
        },
    })
}

/// Since when units have been at rest.
#[derive(Debug, Default)]
pub(crate) struct Rests(HashMap<String, Instant>);

impl Rests {
    /// What the states of one unit, on all its machines, mean for somebody who waits for it to be
    /// active.
    pub(crate) fn look(&mut self, name: &str, states: &[wire::UnitState]) -> Look {
        if states.is_empty() {
            return Look::NotYet;
        }
        let mut at_rest = false;
        for state in states {
            match (
                state.systemd_load_state.as_str(),
                state.systemd_active_state.as_str(),
            ) {
                _ if is_broken(state) => return Look::Never(not_active(state)),
                (_, "failed") => return Look::Never(not_active(state)),
                ("loaded", "active" | "reloading") => {}
                // Done already, as a oneshot is; or its start is yet to come.
                ("loaded", "inactive") => at_rest = true,
                _ => {
                    self.0.remove(name);
                    return Look::NotYet;
                }
            }
        }
        if !at_rest {
            self.0.remove(name);
            return Look::Done;
        }
        let since = *self.0.entry(name.to_owned()).or_insert_with(Instant::now);
        if since.elapsed() > AT_REST {
            Look::Done
        } else {
            Look::NotYet
        }
    }
}

fn is_broken(state: &wire::UnitState) -> bool {
    ["error", "bad-setting", "masked"].contains(&state.systemd_load_state.as_str())
}

fn not_active(state: &wire::UnitState) -> Failure {
    Failure::NotActive {
        name: state.name.clone(),
        state: format!(
            "{} ({}), load state {}",
            state.systemd_active_state, state.systemd_sub_state, state.systemd_load_state
        ),
    }
}

/// The rhythm of looking, and how long trouble is borne.
///
/// At first by the clock, with growing pauses. Who waits for more than a moment listens to the
/// events of a fleetd that has them, looks when there are some, and seldom otherwise.
#[derive(Debug)]
pub(crate) struct Pulse<'a> {
    client: &'a Client,
    last_answer: Instant,
    pause: Duration,
    ears: Ears,
}

/// How a pulse hears of changes.
#[derive(Debug)]
enum Ears {
    /// Not before then.
    From(Instant),
    Open(News),
    /// This fleetd has no news to give.
    Deaf,
}

impl<'a> Pulse<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        let now = Instant::now();
        Self {
            client,
            last_answer: now,
            pause: FIRST_PAUSE,
            ears: Ears::From(now + LISTEN_AFTER),
        }
    }

    /// For what takes long: listens from the beginning.
    pub(crate) fn listening(client: &'a Client) -> Self {
        Self {
            ears: Ears::From(Instant::now()),
            ..Self::new(client)
        }
    }

    /// Takes note of trouble, or of none. Trouble that passes is an error only after a while.
    pub(crate) fn beat(&mut self, trouble: Option<Failure>) -> Result<(), Failure> {
        match trouble {
            None => self.last_answer = Instant::now(),
            // fleetd has lost etcd, or is being restarted: that passes.
            Some(Failure::Api { status: 503, .. } | Failure::Exchange { .. })
                if self.last_answer.elapsed() < OUTAGE => {}
            Some(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Waits for the next look, no longer than `left`.
    pub(crate) fn pause(&mut self, left: Option<Duration>) {
        let left = left.unwrap_or(Duration::MAX);
        if matches!(&self.ears, Ears::From(then) if Instant::now() >= *then) {
            self.ears = self.client.listen().map_or(Ears::Deaf, Ears::Open);
        }
        if let Ears::Open(news) = &self.ears {
            match news.wait(self.pause.min(left)) {
                // What it is about may take another moment until it can be read.
                Heard::Change => {
                    self.pause = FIRST_PAUSE;
                    std::thread::sleep(FIRST_PAUSE);
                }
                Heard::Nothing => self.pause = (self.pause * 2).min(LONGEST_QUIET),
                // fleetd was restarted, perhaps; it may tell again.
                Heard::End => self.ears = Ears::From(Instant::now() + LISTEN_AFTER),
            }
            return;
        }
        self.pause = self.pause.min(LONGEST_PAUSE);
        std::thread::sleep(self.pause.min(left));
        self.pause = self.pause * 3 / 2;
    }
}

/// Why units wait.
#[derive(Debug)]
struct Reasons<'a> {
    client: &'a Client,
    known: HashMap<String, String>,
    next: Duration,
    /// Whether this fleetd can tell.
    able: bool,
}

impl<'a> Reasons<'a> {
    fn new(client: &'a Client) -> Self {
        Self {
            client,
            known: HashMap::new(),
            next: EXPLAIN,
            able: true,
        }
    }

    fn of(&self, name: &str) -> Option<String> {
        self.known.get(name).cloned()
    }

    /// Asks why some of the units wait; returns the news.
    fn ask(&mut self, names: &[&String]) -> Vec<(String, String)> {
        let mut news = Vec::new();
        for name in names.iter().take(EXPLAINED) {
            if !self.able {
                break;
            }
            let reason = match self.client.explain(name) {
                Ok(Some(explanation)) => waits_for(&explanation),
                Err(Failure::TooOld { .. }) => {
                    self.able = false;
                    None
                }
                // Waiting itself meets the same trouble, and knows what to do.
                Ok(None) | Err(_) => None,
            };
            let Some(reason) = reason else { continue };
            if self.known.get(*name) != Some(&reason) {
                self.known.insert((*name).clone(), reason.clone());
                news.push(((*name).clone(), reason));
            }
        }
        news
    }

    /// Tells the user, now and then, what is new.
    fn tell(&mut self, names: &[&String], elapsed: Duration) {
        if elapsed < self.next {
            return;
        }
        self.next = elapsed + EXPLAIN;
        for (name, reason) in self.ask(names) {
            eprintln!("Unit {name} waits: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(load: &str, active: &str) -> wire::UnitState {
        wire::UnitState {
            name: "a.service".into(),
            systemd_load_state: load.into(),
            systemd_active_state: active.into(),
            ..wire::UnitState::default()
        }
    }

    #[test]
    fn states_are_judged() {
        for (states, expect) in [
            (vec![], "not yet"),
            (vec![state("loaded", "active")], "done"),
            (vec![state("loaded", "reloading")], "done"),
            (vec![state("loaded", "activating")], "not yet"),
            (vec![state("loaded", "inactive")], "not yet"),
            (vec![state("loaded", "failed")], "never"),
            (vec![state("bad-setting", "inactive")], "never"),
            (
                vec![state("loaded", "active"), state("loaded", "activating")],
                "not yet",
            ),
            (
                vec![state("loaded", "active"), state("loaded", "failed")],
                "never",
            ),
            (vec![state("not-found", "inactive")], "not yet"),
        ] {
            let got = match Rests::default().look("a.service", &states) {
                Look::Done => "done",
                Look::NotYet => "not yet",
                Look::Never(_) => "never",
            };
            assert_eq!(got, expect, "{states:?}");
        }
    }

    #[test]
    fn what_stays_at_rest_has_done_its_work() {
        let mut rests = Rests::default();
        let before = Instant::now().checked_sub(AT_REST * 2).unwrap();
        rests.0.insert("a.service".into(), before);
        let states = [state("loaded", "inactive")];
        assert!(matches!(rests.look("a.service", &states), Look::Done));
    }

    #[test]
    fn several_failures_are_one() {
        let refused = || Failure::Refused("no".into());
        assert!(all_well(vec![]).is_ok());
        assert_eq!(all_well(vec![refused()]).unwrap_err().to_string(), "no");
        let text = all_well(vec![refused(), refused(), refused()])
            .unwrap_err()
            .to_string();
        assert_eq!(text, "no (and 2 more units)");
    }
}
