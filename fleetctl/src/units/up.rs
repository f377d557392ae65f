//! `submit`, `load` and `start`.

use fleet_model::TargetState;

use super::upload::{Uploaded, upload};
use super::{get, names, nothing_given, requirements};
use crate::api::Client;
use crate::cli::{Change, Submit};
use crate::error::Failure;
use crate::out::Out;
use crate::wait::{Patience, Waiter};

/// `submit`.
pub(crate) fn submit(client: &Client, out: &Out, args: &Submit) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    warn_of_sign(args.sign);
    let allowed = args.replace.then_some(&[TargetState::Inactive][..]);
    for argument in &args.units {
        let uploaded = upload(client, out, argument, allowed)?;
        if matches!(uploaded, Uploaded::Created | Uploaded::Replaced) {
            out.line(&format!("Unit {} inactive", fleet_model::mangle(argument)));
        }
    }
    Ok(())
}

/// `load`.
pub(crate) fn load(client: &Client, out: &Out, args: &Change) -> Result<(), Failure> {
    let allowed = [TargetState::Inactive, TargetState::Loaded];
    bring_up(client, out, args, TargetState::Loaded, &allowed)
}

/// `start`.
pub(crate) fn start(client: &Client, out: &Out, args: &Change) -> Result<(), Failure> {
    let allowed = [
        TargetState::Inactive,
        TargetState::Loaded,
        TargetState::Launched,
    ];
    bring_up(client, out, args, TargetState::Launched, &allowed)
}

fn warn_of_sign(sign: bool) {
    if sign {
        eprintln!("WARNING: --sign has no effect: signed units are no longer supported");
    }
}

fn bring_up(
    client: &Client,
    out: &Out,
    args: &Change,
    target: TargetState,
    replaceable: &[TargetState],
) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    warn_of_sign(args.sign);
    let waiter = Waiter {
        client,
        out,
        patience: Patience::from(args.wait),
    };
    // First all uploads, so that units that need each other find each other.
    let (mut created, mut replaced, mut left_alone) = (Vec::new(), Vec::new(), Vec::new());
    for argument in &args.units {
        let name = fleet_model::mangle(argument);
        match upload(client, out, argument, args.replace.then_some(replaceable))? {
            Uploaded::Created => created.push(name),
            Uploaded::Replaced => replaced.push(name),
            Uploaded::NotReplaceable => left_alone.push(name),
            Uploaded::Kept => {}
        }
    }
    for name in &created {
        out.line(&format!("Unit {name} inactive"));
    }
    // What is replaced leaves its machine before it is placed anew.
    if !args.wait.no_block {
        let scheduled = |name: &String| Ok(!requirements(&get(client, name)?).global);
        let mut leaving = Vec::new();
        for name in replaced {
            if scheduled(&name)? {
                leaving.push(name);
            }
        }
        waiter.for_state(&leaving, TargetState::Inactive)?;
    }
    let mut all = names(&args.units);
    all.retain(|name| !left_alone.contains(name));
    Up {
        client,
        out,
        waiter,
        target,
    }
    .bring(&all, args.wait.no_block, args.wait_active)
}

/// Bringing units that are there up to a state.
pub(super) struct Up<'a> {
    pub(super) client: &'a Client,
    pub(super) out: &'a Out,
    pub(super) waiter: Waiter<'a>,
    pub(super) target: TargetState,
}

impl Up<'_> {
    /// Sets the target of those that have another, then waits as asked.
    pub(super) fn bring(
        &self,
        names: &[String],
        no_block: bool,
        wait_active: bool,
    ) -> Result<(), Failure> {
        let Self {
            client,
            out,
            waiter,
            target,
        } = self;
        let (mut changed, mut scheduled, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            let unit = get(client, name)?;
            let requirements = requirements(&unit);
            let there = unit.desired_state == target.as_str();
            if !there {
                client.set_target(name, *target)?;
                out.unit(name, &[("target", target.as_str())]);
            }
            if requirements.global {
                if !there {
                    out.line(&format!("Triggered global unit {name} {}", self.verb()));
                }
                continue;
            }
            if requirements.batch.is_some() {
                batch.push(name.clone());
            }
            scheduled.push(name.clone());
            // Also what is wanted already, but has not come to it.
            if !there || unit.current_state != target.as_str() {
                changed.push(name.clone());
            }
        }
        if no_block {
            for name in &changed {
                out.line(&format!("Triggered unit {name} {}", self.verb()));
            }
            return Ok(());
        }
        let await_state: Vec<String> = match (wait_active, target) {
            (true, _) => scheduled,
            (false, _) => changed,
        };
        waiter.for_state(&await_state, *target)?;
        // What runs to completion may take its time; "result --wait" is for that.
        let without_batch = |list: &[String]| -> Vec<String> {
            list.iter()
                .filter(|n| !batch.contains(n))
                .cloned()
                .collect()
        };
        match (target, wait_active) {
            (TargetState::Launched, true) => waiter.for_active(&without_batch(names)),
            (TargetState::Launched, false) => waiter.for_active(&without_batch(&await_state)),
            (_, true) => waiter.for_loaded(names),
            (_, false) => Ok(()),
        }
    }

    fn verb(&self) -> &'static str {
        match self.target {
            TargetState::Inactive => "unload",
            TargetState::Loaded => "load",
            TargetState::Launched => "start",
        }
    }
}
