//! `cordon`, `uncordon`, `drain` and `rebalance`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fleet_model::wire::flotilla::Rebalancing;
use fleet_model::{TargetState, wire};
use serde_json::json;

use crate::api::Client;
use crate::cli::{Drain, Machines, Rebalance};
use crate::error::Failure;
use crate::explain::waits_for;
use crate::list::{legend, machines_by_id, short_id};
use crate::out::Out;
use crate::units::{is_global, requirements};
use crate::wait::{Look, Patience, Pulse, Waiter};

/// How often what is left is told.
const TELL: Duration = Duration::from_secs(2);
/// How many units are named in one line.
const NAMED: usize = 5;

/// `cordon` and `uncordon`.
pub(crate) fn mark(client: &Client, out: &Out, args: &Machines, verb: &str) -> Result<(), Failure> {
    let machines = resolve(client, &args.machines)?;
    for machine in &machines {
        client.machine_verb(&machine.id, verb)?;
        out.line(&format!("Machine {} {verb}ed", place(machine)));
    }
    out.document(json!({"machines": documents(&machines, &format!("{verb}ed"))}));
    Ok(())
}

/// `drain`. It is over when the machines report none of their units any more, and each of those is
/// elsewhere what it shall be.
pub(crate) fn drain(client: &Client, out: &Out, args: &Drain) -> Result<(), Failure> {
    let machines = resolve(client, &args.machines)?;
    // What moves at once would not be seen afterwards.
    let before = client.units()?;
    for machine in &machines {
        client.machine_verb(&machine.id, "drain")?;
    }
    if args.wait.no_block {
        for machine in &machines {
            out.line(&format!("Triggered drain of machine {}", place(machine)));
        }
        out.document(json!({"machines": documents(&machines, "draining")}));
        return Ok(());
    }
    let patience = Patience::from(args.wait);
    let started = Instant::now();
    let mut moved = BTreeMap::new();
    for machine in &machines {
        note_scheduled(&before, machine, &mut moved);
    }
    for machine in &machines {
        until_empty(client, machine, started, patience, &mut moved)?;
    }
    let waiter = Waiter {
        client,
        out,
        patience: patience.rest(started),
    };
    let drained: Vec<&str> = machines.iter().map(|m| m.id.as_str()).collect();
    let names: Vec<String> = moved.keys().cloned().collect();
    out.document(json!({"machines": documents(&machines, "empty"), "units": moved}));
    until_settled(&waiter, &names, &drained)?;
    for machine in &machines {
        out.line(&format!("Machine {} drained", place(machine)));
    }
    out.document(json!({"machines": documents(&machines, "drained"), "units": moved}));
    Ok(())
}

/// Takes note of the units that are scheduled on a machine, and of that machine.
fn note_scheduled(
    units: &[wire::Unit],
    machine: &wire::Machine,
    moved: &mut BTreeMap<String, String>,
) {
    for unit in units.iter().filter(|u| u.machine_id == machine.id) {
        moved.insert(unit.name.clone(), machine.id.clone());
    }
}

/// Until no unit is scheduled on a machine, and it reports none but global ones. Which were there
/// is noted.
fn until_empty(
    client: &Client,
    machine: &wire::Machine,
    started: Instant,
    patience: Patience,
    moved: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    let mut pulse = Pulse::new(client);
    let mut told = Instant::now();
    let mut last = usize::MAX;
    loop {
        let left = match left_on(client, machine, moved) {
            Ok(left) => {
                pulse.beat(None)?;
                Some(left)
            }
            Err(failure) => {
                pulse.beat(Some(failure))?;
                None
            }
        };
        if let Some(left) = left {
            if left.is_empty() {
                return Ok(());
            }
            if patience.is_over(started) {
                return Err(Failure::NotDrained {
                    machine: place(machine),
                    units: with_reason(client, &left),
                });
            }
            if told.elapsed() >= TELL && left.len() != last {
                told = Instant::now();
                last = left.len();
                eprintln!(
                    "Machine {} has {} left: {}",
                    place(machine),
                    count(u32::try_from(last).unwrap_or(u32::MAX)),
                    with_reason(client, &left)
                );
            }
        }
        pulse.pause(patience.left(started));
    }
}

/// The units that a machine still has: those scheduled on it, then those that it has not stopped.
fn left_on(
    client: &Client,
    machine: &wire::Machine,
    moved: &mut BTreeMap<String, String>,
) -> Result<Vec<String>, Failure> {
    let units = client.units()?;
    note_scheduled(&units, machine, moved);
    let here = units.iter().filter(|u| u.machine_id == machine.id);
    let mut left: Vec<String> = here.map(|u| u.name.clone()).collect();
    let staying: BTreeSet<&str> = units
        .iter()
        .filter(|u| is_global(u) && u.machine_id.is_empty())
        .map(|u| u.name.as_str())
        .collect();
    for state in client.states_on(&machine.id)? {
        if !staying.contains(state.name.as_str()) && !left.contains(&state.name) {
            left.push(state.name);
        }
    }
    Ok(left)
}

/// Until units that move have come to what is wanted of them, on none of the machines `away_from`.
fn until_settled(waiter: &Waiter<'_>, names: &[String], away_from: &[&str]) -> Result<(), Failure> {
    waiter.each(names, "settled elsewhere", |round, name| {
        // What nobody wants any more need not arrive.
        let Some(unit) = round.find(name)? else {
            return Ok(Look::Done);
        };
        if unit.desired_state == TargetState::Inactive.as_str() {
            return Ok(Look::Done);
        }
        if unit.machine_id.is_empty() {
            // A batch unit that has ended meanwhile is not placed again.
            let ended = match requirements(&unit).batch {
                Some(batch) => waiter
                    .client
                    .result(name)?
                    .is_some_and(|r| r.is_final(batch.retries)),
                None => false,
            };
            return Ok(if ended { Look::Done } else { Look::NotYet });
        }
        if away_from.contains(&unit.machine_id.as_str()) || unit.current_state != unit.desired_state
        {
            return Ok(Look::NotYet);
        }
        waiter.say_where(&unit, &unit.current_state)?;
        Ok(Look::Done)
    })
}

fn count(units: u32) -> String {
    if units == 1 {
        "1 unit".to_owned()
    } else {
        format!("{units} units")
    }
}

fn some(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    if names.len() > NAMED {
        text.push_str(" …");
    }
    text
}

/// Names of units, and of the first what keeps it there.
fn with_reason(client: &Client, left: &[String]) -> String {
    let mut units = some(left);
    let explained = left
        .first()
        .and_then(|name| client.explain(name).ok().flatten());
    if let (Some(name), Some(explanation)) = (left.first(), explained) {
        let reason = waits_for(&explanation).unwrap_or(explanation.reason);
        if !reason.is_empty() {
            units.push_str(&format!(" ({name}: {reason})"));
        }
    }
    units
}

/// `rebalance`.
pub(crate) fn rebalance(client: &Client, out: &Out, args: &Rebalance) -> Result<(), Failure> {
    let mut document = match args.budget {
        Some(budget) => json!({"budget": budget}),
        None => json!({}),
    };
    client.rebalance(args.budget)?;
    if args.block.no_block {
        out.document(json!({"rebalance": document}));
        out.line(&match args.budget {
            Some(budget) => format!("Triggered rebalance of at most {}", count(budget)),
            None => "Triggered rebalance".to_owned(),
        });
        return Ok(());
    }
    let waiter = Waiter {
        client,
        out,
        patience: Patience::from(args.block),
    };
    let moves = until_dealt_with(client, waiter.patience)?;
    document["moved"] = json!(moves.moved);
    out.document(json!({"rebalance": document, "units": moves.units}));
    let present = machines_by_id(client)?;
    for (unit, from) in &moves.units {
        eprintln!("Unit {unit} leaves {}", legend(from, &present, false));
    }
    let names: Vec<String> = moves.units.into_keys().collect();
    until_settled(&waiter, &names, &[])?;
    out.line(&match moves.moved {
        0 => "Nothing to move".to_owned(),
        moved => format!("Rebalanced: {} moved", count(moved)),
    });
    Ok(())
}

/// Until the leader has dealt with the request to rebalance; what it does about it.
fn until_dealt_with(client: &Client, patience: Patience) -> Result<Rebalancing, Failure> {
    let started = Instant::now();
    let mut pulse = Pulse::new(client);
    loop {
        match client.rebalancing() {
            Ok(found) if !found.pending => return Ok(found),
            Ok(_) => pulse.beat(None)?,
            Err(failure) => pulse.beat(Some(failure))?,
        }
        if patience.is_over(started) {
            return Err(Failure::NoLeader);
        }
        pulse.pause(patience.left(started));
    }
}

fn place(machine: &wire::Machine) -> String {
    let id = short_id(&machine.id, false);
    match machine.primary_ip.as_str() {
        "" => id,
        ip => format!("{id}/{ip}"),
    }
}

fn documents(machines: &[wire::Machine], state: &str) -> Vec<serde_json::Value> {
    let one = |m: &wire::Machine| json!({"machine": m.id, "state": state});
    machines.iter().map(one).collect()
}

/// The machines that arguments name, each once. An ID in full may also be of one that is away.
fn resolve(client: &Client, arguments: &[String]) -> Result<Vec<wire::Machine>, Failure> {
    let present = client.machines()?;
    let mut found: Vec<wire::Machine> = Vec::new();
    for argument in arguments {
        let machine = match &present
            .iter()
            .filter(|m| m.id.starts_with(argument.as_str()))
            .collect::<Vec<_>>()[..]
        {
            [one] => (*one).clone(),
            [] if argument.len() == 32 => wire::Machine {
                id: argument.clone(),
                ..wire::Machine::default()
            },
            [] => {
                return Err(Failure::Refused(format!(
                    "no machine \"{argument}\" is present"
                )));
            }
            _ => {
                let text = format!("several machines begin with \"{argument}\"");
                return Err(Failure::Refused(text));
            }
        };
        if !found.contains(&machine) {
            found.push(machine);
        }
    }
    Ok(found)
}
