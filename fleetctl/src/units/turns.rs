//! A global unit's new text, a few machines at a time.
//!
//! fleetd keeps the old text running on every machine that has had no turn. What is decided here
//! is decided anew in each round from what fleetd tells, so a roll-out that was broken off can be
//! gone on with.

use std::collections::BTreeSet;
use std::time::Instant;

use fleet_model::wire;

use super::replace::{Change, Roll};
use crate::error::Failure;
use crate::list::{legend, machines_by_id};
use crate::wait::{Look, Pulse};

/// How one machine is with the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has the new text, and is well with it.
    Replaced,
    /// It has had its turn, and is not there yet.
    UnderWay,
    /// It waits for its turn, and runs.
    Waits,
    /// It waits for its turn, and does not run: the new text takes nothing away.
    WaitsDown,
}

/// Who has the next turn: those that are down already, then as many as may be down besides.
fn next(machines: &[(String, Standing)], most: usize) -> Vec<String> {
    let of = |wanted: Standing| {
        let found = machines.iter().filter(move |(_, s)| *s == wanted);
        found.map(|(id, _)| id.clone())
    };
    let down = of(Standing::UnderWay).count() + of(Standing::WaitsDown).count();
    let room = most.saturating_sub(down);
    of(Standing::WaitsDown)
        .chain(of(Standing::Waits).take(room))
        .collect()
}

impl Roll<'_> {
    /// Replaces one global unit turn by turn, and says of each machine when it is done.
    pub(super) fn turn_by_turn(&mut self, change: &Change) -> Result<(), Failure> {
        let name = &change.name;
        if !change.stored {
            let (file, target) = (&change.file, change.target);
            self.client.create_rolling(name, file, target)?;
        }
        let mut said = BTreeSet::new();
        let mut pulse = Pulse::listening(self.client);
        let mut since = Instant::now();
        loop {
            let trouble = match self.round(change, &mut said, &mut since) {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(failure) => Some(failure),
            };
            pulse.beat(trouble)?;
            if self.patience.is_over(since) {
                return Err(self.timed_out(name));
            }
            pulse.pause(self.patience.left(since));
        }
    }

    /// One look at all machines, and their turns. True if all is done.
    fn round(
        &mut self,
        change: &Change,
        said: &mut BTreeSet<String>,
        since: &mut Instant,
    ) -> Result<bool, Failure> {
        let name = &change.name;
        let Some(given) = self.client.turns(name)? else {
            return Err(Failure::Refused(format!(
                "unit {name} was given another text, or all machines their turn, by somebody else"
            )));
        };
        let given: BTreeSet<String> = given.into_iter().collect();
        let states = self.client.states(Some(name))?;
        let present = machines_by_id(self.client)?;
        let mut machines = Vec::new();
        for state in &states {
            machines.push((
                state.machine_id.clone(),
                self.standing(change, state, &given)?,
            ));
        }
        // While it is being replaced a machine may say nothing of the unit.
        let known: BTreeSet<String> = machines.iter().map(|(id, _)| id.clone()).collect();
        let silent = given
            .difference(&known)
            .filter(|id| present.contains_key(*id));
        machines.extend(silent.map(|id| (id.clone(), Standing::UnderWay)));
        machines.sort_by(|a, b| a.0.cmp(&b.0));

        let replaced = machines.iter().filter(|(_, s)| *s == Standing::Replaced);
        for (id, _) in replaced {
            if said.insert(id.clone()) {
                *since = Instant::now();
                let place = legend(id, &present, false);
                self.out.line(&format!("Unit {name} replaced on {place}"));
            }
        }
        self.progress = format!(
            " ({name} has its new text on {} of {} machines; replace goes on from there)",
            machines
                .iter()
                .filter(|(_, s)| *s == Standing::Replaced)
                .count(),
            machines.len()
        );
        if machines.iter().all(|(_, s)| *s == Standing::Replaced) {
            self.client.end_turns(name)?;
            return Ok(true);
        }
        let next = next(&machines, usize::try_from(self.most).unwrap_or(usize::MAX));
        if !next.is_empty() {
            self.client.give_turns(name, next)?;
        }
        Ok(false)
    }

    fn standing(
        &mut self,
        change: &Change,
        state: &wire::UnitState,
        given: &BTreeSet<String>,
    ) -> Result<Standing, Failure> {
        if state.hash == change.file.hash() {
            let here = format!("{} on {}", change.name, state.machine_id);
            return match self.rests.look(&here, std::slice::from_ref(state)) {
                Look::Done => Ok(Standing::Replaced),
                Look::NotYet => Ok(Standing::UnderWay),
                Look::Never(failure) => Err(failure),
            };
        }
        // One that has done its work is not missed.
        let runs = ["active", "reloading", "inactive"];
        Ok(if given.contains(&state.machine_id) {
            Standing::UnderWay
        } else if runs.contains(&state.systemd_active_state.as_str()) {
            Standing::Waits
        } else {
            Standing::WaitsDown
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_down_than_allowed_and_what_is_down_goes_first() {
        use Standing::{Replaced, UnderWay, Waits, WaitsDown};
        for (standing, most, expect) in [
            (&[][..], 1, &[][..]),
            (&[Waits, Waits, Waits], 1, &["m0"]),
            (&[Waits, Waits, Waits], 2, &["m0", "m1"]),
            (&[UnderWay, Waits, Waits], 1, &[]),
            (&[UnderWay, Waits, Waits], 2, &["m1"]),
            (&[Replaced, Waits, Waits], 1, &["m1"]),
            (&[Replaced, Waits, WaitsDown], 1, &["m2"]),
            (&[WaitsDown, Waits, WaitsDown], 1, &["m0", "m2"]),
            (&[WaitsDown, Waits, Waits], 2, &["m0", "m1"]),
            (&[Replaced, Replaced], 2, &[]),
        ] {
            let machines: Vec<_> = standing
                .iter()
                .enumerate()
                .map(|(i, s)| (format!("m{i}"), *s))
                .collect();
            assert_eq!(next(&machines, most), expect, "{standing:?} {most}");
        }
    }
}
