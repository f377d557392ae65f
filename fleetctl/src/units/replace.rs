//! `replace`: gives running units another text, a few at a time.
//!
//! Each unit keeps its target state and, where it still fits, its machine. Its turn ends when the
//! machine reports the new text as active (or loaded, where no more is wanted). The first unit that
//! does not come to it ends the command; nothing is rolled back, and what stands where is told.

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
use crate::wait::{Look, Patience, Pulse, Rests, Waiter};

/// One unit's new text.
#[derive(Debug, Clone)]
struct Change {
    name: String,
    path: String,
    file: UnitFile,
    target: TargetState,
    /// On how many machines it is at once; 1 unless global.
    width: u32,
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
    if let Some(wide) = plan.units.iter().find(|c| c.width > args.max_unavailable) {
        return Err(Failure::Refused(format!(
            "global unit {} is replaced on all its {} machines at once: \
             allow that with --max-unavailable {}",
            wide.name, wide.width, wide.width
        )));
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
    Roll::new(client, out, args).run(plan.units)
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
        if file_of(&unit)?.hash() == file.hash() {
            self.same.push(unit.name);
            return Ok(());
        }
        let target: TargetState = unit.desired_state.parse().unwrap_or(TargetState::Inactive);
        let width = if is_global(&unit) && target != TargetState::Inactive {
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
        });
        Ok(())
    }
}

/// A rolling replacement on its way.
struct Roll<'a> {
    client: &'a Client,
    out: &'a Out,
    most: u32,
    /// For each unit.
    patience: Patience,
    done: Vec<String>,
    rests: Rests,
}

impl<'a> Roll<'a> {
    fn new(client: &'a Client, out: &'a Out, args: &Replace) -> Self {
        Self {
            client,
            out,
            most: args.max_unavailable,
            patience: Patience::from_attempts(args.block_attempts),
            done: Vec::new(),
            rests: Rests::default(),
        }
    }

    fn run(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        let mut waiting = VecDeque::from(changes);
        let mut down: Vec<(Change, Instant)> = Vec::new();
        let mut pulse = Pulse::listening(self.client);
        loop {
            let mut width: u32 = down.iter().map(|(c, _)| c.width).sum();
            while waiting
                .front()
                .is_some_and(|next| width + next.width <= self.most)
            {
                let Some(next) = waiting.pop_front() else {
                    break;
                };
                width += next.width;
                if let Err(failure) = self.client.create(&next.name, &next.file, next.target) {
                    waiting.push_front(next.clone());
                    return Err(self.stopped(&next.name, failure, &down, &waiting));
                }
                down.push((next, Instant::now()));
            }
            if down.is_empty() {
                return Ok(());
            }
            let mut trouble = None;
            for i in (0..down.len()).rev() {
                let (change, since) = &down[i];
                match self.look(change) {
                    Ok(Look::Done) => {
                        let (change, _) = down.remove(i);
                        self.finished(&change)?;
                    }
                    Ok(Look::NotYet) => {
                        if self.patience.is_over(*since) {
                            let failure = self.timed_out(change);
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
        self.out.unit(&change.name, &[("action", "replaced")]);
        let unit = super::get(self.client, &change.name)?;
        let waiter = Waiter {
            client: self.client,
            out: self.out,
            patience: Patience::from_attempts(0),
        };
        waiter.say_where(&unit, "replaced")
    }

    fn timed_out(&self, change: &Change) -> Failure {
        let explanation = self.client.explain(&change.name).ok().flatten();
        Failure::TimedOut {
            name: change.name.clone(),
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
        let untouched: Vec<String> = waiting.iter().map(|c| c.name.clone()).collect();
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
            standing: standing.join(", "),
            source: Box::new(failure),
        }
    }
}
