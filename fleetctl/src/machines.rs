//! `cordon`, `uncordon`, `drain` and `rebalance`.

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

/// `drain`.
pub(crate) fn drain(client: &Client, out: &Out, args: &Drain) -> Result<(), Failure> {
    let machines = resolve(client, &args.machines)?;
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
    for machine in &machines {
        until_empty(client, machine, started, patience)?;
        out.line(&format!("Machine {} drained", place(machine)));
    }
    out.document(json!({"machines": documents(&machines, "drained")}));
    Ok(())
}

/// Until no unit is scheduled on a machine.
fn until_empty(
    client: &Client,
    machine: &wire::Machine,
    started: Instant,
    patience: Patience,
) -> Result<(), Failure> {
    let mut pulse = Pulse::new(client);
    let mut told = Instant::now();
    let mut last = usize::MAX;
    loop {
        let left = match client.units() {
            Ok(units) => {
                pulse.beat(None)?;
                let there = units.into_iter().filter(|u| u.machine_id == machine.id);
                Some(there.map(|u| u.name).collect::<Vec<_>>())
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
                return Err(not_drained(client, machine, &left));
            }
            if told.elapsed() >= TELL && left.len() != last {
                told = Instant::now();
                last = left.len();
                eprintln!(
                    "Machine {} has {} left: {}",
                    place(machine),
                    count(u32::try_from(last).unwrap_or(u32::MAX)),
                    some(&left)
                );
            }
        }
        pulse.pause(patience.left(started));
    }
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

/// Says of the first unit what keeps it there.
fn not_drained(client: &Client, machine: &wire::Machine, left: &[String]) -> Failure {
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
    Failure::NotDrained {
        machine: place(machine),
        units,
    }
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
    waiter.each(&names, "settled elsewhere", |round, name| {
        // What nobody wants any more need not arrive.
        let Some(unit) = round.find(name)? else {
            return Ok(Look::Done);
        };
        if unit.desired_state == TargetState::Inactive.as_str() {
            return Ok(Look::Done);
        }
        if unit.machine_id.is_empty() || unit.current_state != unit.desired_state {
            return Ok(Look::NotYet);
        }
        waiter.say_where(&unit, &unit.current_state)?;
        Ok(Look::Done)
    })?;
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
