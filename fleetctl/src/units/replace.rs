//! `replace`: gives running units another text, a few at a time.
//!
//! Each unit keeps its target state and, where it still fits, its machine. Its turn ends when the
//! machine reports the new text as active (or loaded, where no more is wanted). Whatever is down
//! already counts, and has its turn first. The first unit that does not come to it, or fails again,
//! ends the command; nothing is rolled back, and what stands where is told.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use fleet_model::{TargetState, UnitFile, UnitName, mangle, wire};

use super::upload::{check, local_template, read_local};
use super::{bracketed, file_of, is_global};
use crate::api::Client;
use crate::cli::Replace;
use crate::error::Failure;
use crate::explain::waits_for;
use crate::out::Out;
use crate::wait::{Look, Patience, Pulse, Rests, Round, Waiter};

/// One unit's new text.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) name: String,
    path: String,
    pub(super) file: UnitFile,
    pub(super) target: TargetState,
    /// On how many machines it runs at once; 1 unless global.
    width: u32,
    /// The registry has the text already, and not all machines.
    pub(super) stored: bool,
}

/// What is to be done, in order.
#[derive(Debug, Default)]
struct Plan {
    /// Templates: nothing runs under their name.
    templates: Vec<Change>,
    units: Vec<Change>,
    same: Vec<String>,
}

/// `replace`.
pub(crate) fn replace(client: &Client, out: &Out, args: &Replace) -> Result<(), Failure> {
    let plan = plan(client, &args.units)?;
    for name in &plan.same {
        out.unit(name, &[("action", "kept")]);
        out.line(&format!(
            "Found same Unit({name}) in Registry, nothing to do"
        ));
    }
    let all = || plan.templates.iter().chain(&plan.units);
    for change in all() {
        check(&change.path, &change.name, &change.file)?;
    }
    let is_wide = |change: &Change| change.stored || change.width > args.max_unavailable;
    let (wide, narrow): (Vec<_>, Vec<_>) = plan.units.iter().cloned().partition(is_wide);
    if let Some(wide) = wide.first() {
        match client.turns(&wide.name) {
            // The original's fleetd knows no turns.
            Err(Failure::TooOld { .. }) => {
                return Err(Failure::Refused(format!(
                    "global unit {} is replaced on all its {} machines at once: \
                     allow that with --max-unavailable {}",
                    wide.name, wide.width, wide.width
                )));
            }
            other => drop(other?),
        }
    }
    if args.dry_run {
        for change in all() {
            out.unit(&change.name, &[("action", "replace")]);
            out.line(&format!(
                "Would replace {} ({}) from {}",
                change.name, change.target, change.path
            ));
        }
        return Ok(());
    }
    for change in &plan.templates {
        client.create(&change.name, &change.file, change.target)?;
        out.unit(&change.name, &[("action", "replaced")]);
        out.line(&format!("Replaced {}", change.name));
    }
    let mut roll = Roll::new(client, out, args, wide);
    roll.run(narrow)?;
    roll.run_wide()
}

/// Finds out which units the arguments mean and which text each is to have.
fn plan(client: &Client, arguments: &[String]) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let mut seen = BTreeSet::new();
    for argument in arguments {
        let name = mangle(argument);
        let parsed = UnitName::parse(&name)
            .map_err(|error| Failure::Refused(format!("bad unit name \"{name}\": {error}")))?;
        let there = client.unit(&name)?;
        let local = match read_local(argument)? {
            Some(local) => Some(local),
            None => local_template(argument, &name)?,
        };
        if parsed.is_template() {
            let (path, file) = match (local, &there) {
                (Some(local), _) => local,
                (None, Some(unit)) => ("the registry's template".to_owned(), file_of(unit)?),
                (None, None) => return Err(Failure::NoSource { name }),
            };
            let differs = match &there {
                Some(unit) => file_of(unit)?.hash() != file.hash(),
                None => true,
            };
            if differs && seen.insert(name.clone()) {
                let (path, file) = (path.clone(), file.clone());
                let target = TargetState::Inactive;
                plan.templates.push(Change {
                    name,
                    path,
                    file,
                    target,
                    width: 1,
                    stored: false,
                });
            }
            for unit in client.units()? {
                let instance = UnitName::parse(&unit.name).ok();
                if instance.and_then(|n| n.template()).as_ref() == Some(&parsed)
                    && seen.insert(unit.name.clone())
                {
                    plan.add(client, unit, &path, &file)?;
                }
            }
            continue;
        }
        let Some(unit) = there else {
            return Err(Failure::NotFound { name });
        };
        let (path, file) = match local {
            Some(local) => local,
            None => of_template(client, &parsed)?,
        };
        if seen.insert(name) {
            plan.add(client, unit, &path, &file)?;
        }
    }
    Ok(plan)
}

/// The text that the registry's template gives an instance.
fn of_template(client: &Client, name: &UnitName) -> Result<(String, UnitFile), Failure> {
    let template = match name.template() {
        Some(template) => client.unit(template.as_str())?,
        None => None,
    };
    let missing = || Failure::NoSource {
        name: name.to_string(),
    };
    let template = template.ok_or_else(missing)?;
    Ok((
        format!("the registry's {}", template.name),
        file_of(&template)?,
    ))
}

impl Plan {
    fn add(
        &mut self,
        client: &Client,
        unit: wire::Unit,
        path: &str,
        file: &UnitFile,
    ) -> Result<(), Failure> {
        let stored = file_of(&unit)?.hash() == file.hash();
        let target: TargetState = unit.desired_state.parse().unwrap_or(TargetState::Inactive);
        let global = is_global(&unit) && target == TargetState::Launched;
        let broken_off = || match client.turns(&unit.name) {
            Err(Failure::TooOld { .. }) => Ok(false),
            turns => Ok(turns?.is_some()),
        };
        if stored && !(global && broken_off()?) {
            self.same.push(unit.name);
            return Ok(());
        }
        let width = if global {
            u32::try_from(client.states(Some(&unit.name))?.len())
                .unwrap_or(u32::MAX)
                .max(1)
        } else {
            1
        };
        self.units.push(Change {
            name: unit.name,
            path: path.to_owned(),
            file: file.clone(),
            target,
            width,
            stored,
        });
        Ok(())
    }
}

/// A rolling replacement on its way.
pub(super) struct Roll<'a> {
    pub(super) client: &'a Client,
    pub(super) out: &'a Out,
    pub(super) most: u32,
    /// For each unit; of global ones for each machine.
    pub(super) patience: Patience,
    /// Global units on more machines than may be down: the last, one after the other.
    wide: VecDeque<Change>,
    /// How far the one is that is under way.
    pub(super) progress: String,
    done: Vec<String>,
    /// Those of them that shall be active.
    up: Vec<String>,
    pub(super) rests: Rests,
}

/// What may be done next.
enum Next {
    /// This one of those that wait may be replaced.
    Begin(usize),
    /// None, as long as so many are down; this is one of them.
    Pause(String),
    /// None any more: this unit has its new text and has failed.
    End(String, Failure),
}

impl<'a> Roll<'a> {
    fn new(client: &'a Client, out: &'a Out, args: &Replace, wide: Vec<Change>) -> Self {
        Self {
            client,
            out,
            most: args.max_unavailable,
            patience: Patience::from_attempts(args.block_attempts),
            wide: wide.into(),
            progress: String::new(),
            done: Vec::new(),
            up: Vec::new(),
            rests: Rests::default(),
        }
    }

    fn run(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        let mut waiting = VecDeque::from(changes);
        let mut down: Vec<(Change, Instant)> = Vec::new();
        let mut pulse = Pulse::listening(self.client);
        // Since when nothing may be begun because of what has been replaced and is down again.
        let mut held_up: Option<Instant> = None;
        loop {
            let mut trouble = None;
            while !waiting.is_empty() {
                let width = down.iter().map(|(c, _)| c.width).sum();
                let next = match self.next(&waiting, width) {
                    Ok(Next::Begin(next)) => next,
                    Ok(Next::Pause(_)) if !down.is_empty() => break,
                    Ok(Next::Pause(blocker)) => {
                        let since = *held_up.get_or_insert_with(Instant::now);
                        if self.patience.is_over(since) {
                            let failure = self.timed_out(&blocker);
                            return Err(self.stopped(&blocker, failure, &down, &waiting));
                        }
                        break;
                    }
                    Ok(Next::End(name, failure)) => {
                        return Err(self.stopped(&name, failure, &down, &waiting));
                    }
                    Err(failure) => {
                        trouble = Some((String::new(), failure));
                        break;
                    }
                };
                held_up = None;
                let Some(next) = waiting.remove(next) else {
                    break;
                };
                if let Err(failure) = self.client.create(&next.name, &next.file, next.target) {
                    waiting.push_front(next.clone());
                    return Err(self.stopped(&next.name, failure, &down, &waiting));
                }
                down.push((next, Instant::now()));
            }
            if down.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            for i in (0..down.len()).rev() {
                let (change, since) = &down[i];
                match self.look(change) {
                    Ok(Look::Done) => {
                        let (change, _) = down.remove(i);
                        self.finished(&change)?;
                    }
                    Ok(Look::NotYet) => {
                        if self.patience.is_over(*since) {
                            let failure = self.timed_out(&change.name);
                            return Err(self.stopped(&change.name, failure, &down, &waiting));
                        }
                    }
                    Ok(Look::Never(failure)) => {
                        return Err(self.stopped(&change.name, failure, &down, &waiting));
                    }
                    Err(failure) => trouble = Some((change.name.clone(), failure)),
                }
            }
            let name = trouble.as_ref().map(|(name, _)| name.clone());
            if let Err(failure) = pulse.beat(trouble.map(|(_, failure)| failure)) {
                return Err(self.stopped(&name.unwrap_or_default(), failure, &down, &waiting));
            }
            let left = down.iter().map(|(_, since)| self.patience.left(*since));
            pulse.pause(left.min().flatten());
        }
    }

    fn run_wide(&mut self) -> Result<(), Failure> {
        while let Some(change) = self.wide.pop_front() {
            if let Err(failure) = self.turn_by_turn(&change) {
                let begun = [(change.clone(), Instant::now())];
                return Err(self.stopped(&change.name, failure, &begun, &VecDeque::new()));
            }
            self.progress.clear();
            self.done.push(change.name.clone());
            self.out.unit(&change.name, &[("action", "replaced")]);
        }
        Ok(())
    }

    /// What may be done next while `width` are down for it already.
    fn next(&self, waiting: &VecDeque<Change>, width: u32) -> Result<Next, Failure> {
        let has_room = |change: &Change| width + change.width <= self.most;
        if !waiting.iter().any(has_room) {
            return Ok(Next::Pause(String::new()));
        }
        let round = Round::of(self.client, waiting.len() + self.up.len());
        let mut elsewhere = 0;
        let mut blocker = None;
        for name in &self.up {
            let wanted = round.find(name)?;
            if wanted.is_none_or(|unit| unit.desired_state != TargetState::Launched.as_str()) {
                continue;
            }
            let states = round.states(name)?;
            if let Look::Never(failure) = Rests::default().look(name, &states) {
                return Ok(Next::End(name.clone(), failure));
            }
            // What has done its work is not missed.
            let down = missing(&states, &["active", "reloading", "inactive"]);
            elsewhere += down;
            blocker = blocker.or_else(|| (down > 0).then(|| name.clone()));
        }
        let mut queue = Vec::with_capacity(waiting.len());
        for change in waiting {
            let missed = match change.target {
                TargetState::Launched => {
                    missing(&round.states(&change.name)?, &["active", "reloading"])
                }
                _ => 0,
            };
            queue.push((change.width, missed));
        }
        Ok(match pick(self.most, width, elsewhere, &queue) {
            Some(next) => Next::Begin(next),
            None => Next::Pause(blocker.unwrap_or_default()),
        })
    }

    /// How far a unit has come with its new text.
    fn look(&mut self, change: &Change) -> Result<Look, Failure> {
        if change.target == TargetState::Inactive {
            return Ok(Look::Done);
        }
        let name = &change.name;
        let hash = change.file.hash();
        let states = self.client.states(Some(name))?;
        let fresh = states.iter().filter(|s| s.hash == hash).count();
        if fresh < states.len() || states.is_empty() {
            return Ok(Look::NotYet);
        }
        match change.target {
            TargetState::Launched => Ok(self.rests.look(name, &states)),
            _ => {
                let loaded = states.iter().all(|s| s.systemd_load_state == "loaded");
                Ok(if loaded { Look::Done } else { Look::NotYet })
            }
        }
    }

    fn finished(&mut self, change: &Change) -> Result<(), Failure> {
        self.done.push(change.name.clone());
        if change.target == TargetState::Launched {
            self.up.push(change.name.clone());
        }
        self.out.unit(&change.name, &[("action", "replaced")]);
        let unit = super::get(self.client, &change.name)?;
        let waiter = Waiter {
            client: self.client,
            out: self.out,
            patience: Patience::from_attempts(0),
        };
        waiter.say_where(&unit, "replaced")
    }

    pub(super) fn timed_out(&self, name: &str) -> Failure {
        let explanation = self.client.explain(name).ok().flatten();
        Failure::TimedOut {
            name: name.to_owned(),
            state: "active with its new text".into(),
            reason: explanation.as_ref().and_then(waits_for),
        }
    }

    fn stopped(
        &self,
        name: &str,
        failure: Failure,
        down: &[(Change, Instant)],
        waiting: &VecDeque<Change>,
    ) -> Failure {
        let under_way: Vec<String> = down.iter().map(|(c, _)| c.name.clone()).collect();
        let waiting = waiting.iter().chain(&self.wide);
        let untouched: Vec<String> = waiting.map(|c| c.name.clone()).collect();
        let words = [
            ("replaced", &self.done),
            ("begun", &under_way),
            ("untouched", &untouched),
        ];
        for (word, names) in words {
            names
                .iter()
                .for_each(|name| self.out.unit(name, &[("action", word)]));
        }
        let standing = words.map(|(word, names)| format!("{word}: {}", bracketed(names)));
        Failure::Rolling {
            name: name.to_owned(),
            standing: standing.join(", ") + &self.progress,
            source: Box::new(failure),
        }
    }
}

/// On how many machines a unit is in none of these states; on one, if it is on no machine.
fn missing(states: &[wire::UnitState], well: &[&str]) -> u32 {
    if states.is_empty() {
        return 1;
    }
    let bad = |s: &&wire::UnitState| !well.contains(&s.systemd_active_state.as_str());
    u32::try_from(states.iter().filter(bad).count()).unwrap_or(u32::MAX)
}

/// Which of those that wait, each with its width and how much of it is down already, may be begun
/// while `begun` are down for it and `elsewhere` are down of those that are through: one that is
/// down, for that takes nothing away; else the first, if no more than `most` are down then.
fn pick(most: u32, begun: u32, elsewhere: u32, waiting: &[(u32, u32)]) -> Option<usize> {
    let total = begun + elsewhere + waiting.iter().map(|(_, missed)| missed).sum::<u32>();
    let has_room = |width: u32| begun + width <= most;
    let may = |&(width, missed): &(u32, u32), limit: u32| {
        has_room(width) && total - missed + width <= limit
    };
    let eager = || {
        waiting
            .iter()
            .position(|w| w.1 > 0 && may(w, total.max(most)))
    };
    let first = || waiting.first().filter(|w| may(w, most)).map(|_| 0);
    // What keeps all of them down is they themselves: waiting longer mends nothing.
    let any = || waiting.iter().position(|w| has_room(w.0));
    let alone = begun + elsewhere == 0;
    eager().or_else(first).or_else(|| any().filter(|_| alone))
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[test]
    fn what_is_down_counts_and_comes_first() {
        let up = (1, 0);
        let down = (1, 1);
        for (most, begun, elsewhere, waiting, expect) in [
            (1, 0, 0, &[up, up][..], Some(0)),
            (1, 1, 0, &[up, up], None),
            (2, 1, 0, &[up, up], Some(0)),
            (1, 0, 0, &[up, down], Some(1)),
            (1, 0, 0, &[up, down, down], Some(1)),
            (1, 1, 0, &[up, down], None),
            // There is room for one more, and one more is down.
            (2, 1, 0, &[up, down], Some(1)),
            (2, 0, 1, &[up], Some(0)),
            (2, 0, 2, &[up], None),
            (2, 0, 2, &[up, down], Some(1)),
            // Units on several machines.
            (3, 0, 0, &[(3, 0)], Some(0)),
            (3, 1, 0, &[(3, 0)], None),
            (3, 0, 1, &[(3, 0)], None),
            (3, 0, 0, &[(3, 1), down], Some(1)),
            (3, 0, 0, &[(3, 1), (3, 1)], Some(0)),
            (1, 0, 0, &[], None),
        ] {
            let got = pick(most, begun, elsewhere, waiting);
            assert_eq!(got, expect, "{most} {begun} {elsewhere} {waiting:?}");
        }
    }
}
