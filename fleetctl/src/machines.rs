//! `cordon`, `uncordon`, `drain` and `rebalance`.

use std::time::{Duration, Instant};

use fleet_model::wire;
use serde_json::json;

use crate::api::Client;
use crate::cli::{Drain, Machines};
use crate::error::Failure;
use crate::explain::waits_for;
use crate::list::short_id;
use crate::out::Out;
use crate::wait::Pulse;

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
    let attempts = args.wait.block_attempts;
    let limit = (attempts > 0).then(|| Duration::from_secs(2) * attempts);
    let started = Instant::now();
    for machine in &machines {
        until_empty(client, machine, started, limit)?;
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
    limit: Option<Duration>,
) -> Result<(), Failure> {
    let mut pulse = Pulse::new();
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
            if limit.is_some_and(|limit| started.elapsed() >= limit) {
                return Err(not_drained(client, machine, &left));
            }
            if told.elapsed() >= TELL && left.len() != last {
                told = Instant::now();
                last = left.len();
                eprintln!(
                    "Machine {} has {} left: {}",
                    place(machine),
                    count(last),
                    some(&left)
                );
            }
        }
        pulse.pause();
    }
}

fn count(units: usize) -> String {
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
pub(crate) fn rebalance(client: &Client, out: &Out, budget: Option<u32>) -> Result<(), Failure> {
    client.rebalance(budget)?;
    out.document(match budget {
        Some(budget) => json!({"rebalance": {"budget": budget}}),
        None => json!({"rebalance": {}}),
    });
    out.line(&match budget {
        Some(1) => "Triggered rebalance of at most 1 unit".to_owned(),
        Some(budget) => format!("Triggered rebalance of at most {budget} units"),
        None => "Triggered rebalance".to_owned(),
    });
    Ok(())
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
