//! `restart`: the agents stop and start the process where it is.

use fleet_model::wire::flotilla::UnitRun;
use fleet_model::{TargetState, wire};

use super::up::Up;
use super::{get, is_global, names, nothing_given};
use crate::api::Client;
use crate::cli::Restart;
use crate::error::Failure;
use crate::out::Out;
use crate::wait::{Look, Patience, Rests, Waiter};

/// `restart`.
pub(crate) fn restart(client: &Client, out: &Out, args: &Restart) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    // All must be there before any is touched.
    let units = names(&args.units);
    let units = units
        .iter()
        .map(|name| get(client, name))
        .collect::<Result<Vec<_>, _>>()?;
    let waiter = || Waiter {
        client,
        out,
        patience: Patience::from(args.wait),
    };
    let (mut down, mut asked, mut unable) = (Vec::new(), Vec::new(), Vec::new());
    for unit in &units {
        let name = &unit.name;
        let global = is_global(unit);
        match unit.desired_state.as_str() {
            "launched" => {}
            "loaded" if !global => {
                down.push(name.clone());
                continue;
            }
            state => {
                eprintln!("Unable to restart unit {name} in state {state}");
                continue;
            }
        }
        match client.restart(name) {
            Ok(()) => {
                out.unit(name, &[("action", "restarted")]);
                if global && !args.wait_active {
                    out.line(&format!("Triggered global unit {name} restart"));
                } else if args.wait.no_block {
                    out.line(&format!("Triggered unit {name} restart"));
                } else {
                    asked.push(name.clone());
                }
            }
            Err(Failure::TooOld { .. }) if !global => unable.push(name.clone()),
            Err(failure) => return Err(failure),
        }
    }
    for_restarted(&waiter(), &asked)?;
    stop_and_start(client, &waiter(), &unable, args.wait.no_block)?;
    down.extend(unable);
    let up = Up {
        client,
        out,
        waiter: waiter(),
        target: TargetState::Launched,
    };
    up.bring(&down, args.wait.no_block, args.wait_active)
}

/// Until each unit has been started anew, on all machines that have it, and is active.
fn for_restarted(waiter: &Waiter<'_>, names: &[String]) -> Result<(), Failure> {
    let mut rests = Rests::default();
    waiter.each(names, "restarted", |round, name| {
        let runs = waiter.client.runs(name)?;
        let anew = |run: &UnitRun| run.restart.is_some_and(|seen| seen >= runs.restart);
        if runs.states.is_empty() || !runs.states.iter().all(anew) {
            return Ok(Look::NotYet);
        }
        let states: Vec<wire::UnitState> = runs
            .states
            .iter()
            .map(|run| wire::UnitState {
                name: name.to_owned(),
                systemd_load_state: run.load.clone(),
                systemd_active_state: run.active.clone(),
                systemd_sub_state: run.sub.clone(),
                ..wire::UnitState::default()
            })
            .collect();
        let look = rests.look(name, &states);
        if matches!(look, Look::Done) {
            waiter.say_where(&round.unit(name)?, "restarted")?;
        }
        Ok(look)
    })
}

/// The long way, for a fleetd that knows no restart.
fn stop_and_start(
    client: &Client,
    waiter: &Waiter<'_>,
    names: &[String],
    no_block: bool,
) -> Result<(), Failure> {
    if no_block && !names.is_empty() {
        let text = "this fleetd can restart units only while fleetctl waits: leave --no-block out";
        return Err(Failure::Refused(text.into()));
    }
    for name in names {
        client.set_target(name, TargetState::Loaded)?;
    }
    waiter.for_stopped(names)
}
