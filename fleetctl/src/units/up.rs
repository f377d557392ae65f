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
            let mut there = unit.desired_state == target.as_str();
            // What has run to its end is started anew.
            if there && *target == TargetState::Launched && requirements.batch.is_some() {
                there = client.result(name)?.is_none();
            }
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
            // Also what is wanted already, but has not come to it.
            let behind = !there || unit.current_state != target.as_str();
            match requirements
                .batch
                .filter(|_| *target == TargetState::Launched)
            {
                Some(options) if behind || wait_active => {
                    batch.push((name.clone(), options.retries));
                }
                Some(_) => {}
                None if behind => changed.push(name.clone()),
                None => {}
            }
            if requirements.batch.is_none() || *target != TargetState::Launched {
                scheduled.push(name.clone());
            }
        }
        if no_block {
            let all = changed.iter().chain(batch.iter().map(|(name, _)| name));
            for name in all {
                out.line(&format!("Triggered unit {name} {}", self.verb()));
            }
            return Ok(());
        }
        let awaited = if wait_active { &scheduled } else { &changed };
        waiter.for_state(awaited, *target)?;
        super::result::for_batch(waiter, &batch, wait_active)?;
        let is_batch = |name: &String| batch.iter().any(|(n, _)| n == name);
        let others: Vec<String> = names.iter().filter(|n| !is_batch(n)).cloned().collect();
        match (target, wait_active) {
            (TargetState::Launched, true) => waiter.for_active(&others),
            (TargetState::Launched, false) => waiter.for_active(&changed),
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
