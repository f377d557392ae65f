//! `stop`, `unload` and `destroy`.

use fleet_model::{TargetState, wire};

use super::{bracketed, find, is_global, nothing_given};
use crate::api::Client;
use crate::cli::{Destroy, Down};
use crate::error::Failure;
use crate::out::Out;
use crate::wait::{Patience, Waiter, all_well};

/// `stop`.
pub(crate) fn stop(client: &Client, out: &Out, args: &Down) -> Result<(), Failure> {
    bring_down(client, out, args, TargetState::Loaded, ["stop", "stopped"])
}

/// `unload`.
pub(crate) fn unload(client: &Client, out: &Out, args: &Down) -> Result<(), Failure> {
    bring_down(
        client,
        out,
        args,
        TargetState::Inactive,
        ["unload", "unloaded"],
    )
}

/// What is to be done with one unit.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is so already.
    Skip,
    /// It must be loaded to be stopped.
    Refuse,
    /// Set the target and wait.
    Change,
    /// Set the target; there is nothing to wait for.
    Trigger,
}

/// A unit that is wanted but on no machine has no process to stop: its target is changed, and that
/// is all.
fn step(unit: &wire::Unit, global: bool, target: TargetState) -> Step {
    let wanted = unit.desired_state.as_str();
    if global {
        return if wanted == target.as_str() {
            Step::Skip
        } else {
            Step::Trigger
        };
    }
    match (target, wanted, unit.current_state.as_str()) {
        (TargetState::Loaded, "inactive", _) => Step::Refuse,
        (_, wanted, current) if wanted == target.as_str() && current == target.as_str() => {
            Step::Skip
        }
        (TargetState::Loaded, "loaded", "inactive") => Step::Skip,
        (TargetState::Loaded, _, "inactive") if unit.machine_id.is_empty() => Step::Trigger,
        _ => Step::Change,
    }
}

fn bring_down(
    client: &Client,
    out: &Out,
    args: &Down,
    target: TargetState,
    [verb, past]: [&str; 2],
) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    let units = find(client, &args.units)?;
    if units.is_empty() {
        return Ok(());
    }
    let mut changed = Vec::new();
    for unit in &units {
        let name = &unit.name;
        let global = is_global(unit);
        match step(unit, global, target) {
            Step::Skip => {
                out.unit(name, &[("state", target.as_str())]);
                continue;
            }
            Step::Refuse => {
                return Err(Failure::Refused(format!(
                    "unable to stop unit {name} in state inactive"
                )));
            }
            Step::Trigger if global => out.line(&format!("Triggered global unit {name} {verb}")),
            Step::Trigger => {
                eprintln!("Unit {name} is on no machine, so nothing had to be stopped");
            }
            Step::Change => changed.push(name.clone()),
        }
        client.set_target(name, target)?;
        out.unit(name, &[("target", target.as_str())]);
    }
    if args.wait.no_block {
        for name in &changed {
            out.line(&format!("Triggered unit {name} {verb}"));
        }
    } else {
        let patience = Patience::from(args.wait);
        Waiter {
            client,
            out,
            patience,
        }
        .for_state(&changed, target)?;
    }
    eprintln!("Successfully {past} units {}.", bracketed(&changed));
    Ok(())
}

/// `destroy`.
pub(crate) fn destroy(client: &Client, out: &Out, args: &Destroy) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    let mut failures = Vec::new();
    let (mut gone, mut awaited) = (Vec::new(), Vec::new());
    for unit in find(client, &args.units)? {
        let name = unit.name.clone();
        match client.destroy(&name) {
            Ok(true) => {
                if !is_global(&unit) && !args.wait.no_block {
                    awaited.push(name.clone());
                }
                gone.push(name);
            }
            // Somebody else was faster.
            Ok(false) => {}
            Err(failure) => failures.push(failure),
        }
    }
    let patience = Patience::from(args.wait);
    failures.extend(
        Waiter {
            client,
            out,
            patience,
        }
        .for_gone(&awaited)
        .err(),
    );
    for name in &gone {
        out.unit(name, &[("action", "destroyed")]);
        out.line(&format!("Destroyed {name}"));
    }
    all_well(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_depends_on_wish_and_state() {
        use TargetState::{Inactive, Loaded};
        for (wanted, current, machine, global, target, expect) in [
            ("launched", "launched", "m", false, Loaded, Step::Change),
            ("launched", "loaded", "m", false, Loaded, Step::Change),
            ("launched", "inactive", "m", false, Loaded, Step::Change),
            ("launched", "inactive", "", false, Loaded, Step::Trigger),
            ("loaded", "loaded", "m", false, Loaded, Step::Skip),
            ("loaded", "launched", "m", false, Loaded, Step::Change),
            ("loaded", "inactive", "", false, Loaded, Step::Skip),
            ("inactive", "inactive", "", false, Loaded, Step::Refuse),
            ("inactive", "launched", "m", false, Loaded, Step::Refuse),
            ("launched", "launched", "m", false, Inactive, Step::Change),
            ("launched", "inactive", "", false, Inactive, Step::Change),
            ("inactive", "loaded", "m", false, Inactive, Step::Change),
            ("inactive", "inactive", "", false, Inactive, Step::Skip),
            ("launched", "", "", true, Loaded, Step::Trigger),
            ("inactive", "", "", true, Loaded, Step::Trigger),
            ("loaded", "", "", true, Loaded, Step::Skip),
            ("launched", "", "", true, Inactive, Step::Trigger),
        ] {
            let unit = wire::Unit {
                desired_state: wanted.into(),
                current_state: current.into(),
                machine_id: machine.into(),
                ..wire::Unit::default()
            };
            assert_eq!(
                step(&unit, global, target),
                expect,
                "{wanted} {current} {target}"
            );
        }
    }
}
