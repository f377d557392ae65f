//! Commands that change units.

use std::path::Path;

use fleet_model::{
    Requirements, TargetState, UnitFile, UnitName, mangle, unknown_options, validate_options, wire,
};

use crate::api::Client;
use crate::cli::{Change, Submit};
use crate::error::Failure;
use crate::wait::{Patience, Waiter};

/// `submit`.
pub(crate) fn submit(client: &Client, args: &Submit) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    let allowed = [TargetState::Inactive];
    for argument in &args.units {
        let name = upload(client, argument, args.replace, &allowed)?.0;
        println!("Unit {name} inactive");
    }
    Ok(())
}

/// `load`.
pub(crate) fn load(client: &Client, args: &Change) -> Result<(), Failure> {
    let allowed = [TargetState::Inactive, TargetState::Loaded];
    bring_up(client, args, TargetState::Loaded, &allowed)
}

/// `start`.
pub(crate) fn start(client: &Client, args: &Change) -> Result<(), Failure> {
    let allowed = [
        TargetState::Inactive,
        TargetState::Loaded,
        TargetState::Launched,
    ];
    bring_up(client, args, TargetState::Launched, &allowed)
}

fn bring_up(
    client: &Client,
    args: &Change,
    target: TargetState,
    replaceable: &[TargetState],
) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    let mut changed = Vec::new();
    // First all uploads, so that units that need each other find each other.
    for argument in &args.units {
        let (name, replace_refused) = upload(client, argument, args.replace, replaceable)?;
        if !replace_refused {
            changed.push(name);
        }
    }
    let mut wait_for = Vec::new();
    for name in changed {
        let unit = get(client, &name)?;
        let there = unit.desired_state == target.as_str();
        if !there {
            client.set_target(&name, target)?;
        }
        if is_global(&unit) {
            println!("Triggered global unit {name} {}", verb(target));
        } else if !there || unit.current_state != target.as_str() {
            wait_for.push(name);
        }
    }
    finish(client, args, &wait_for, target)
}

/// Waits for units, or says that it does not.
fn finish(
    client: &Client,
    args: &Change,
    names: &[String],
    target: TargetState,
) -> Result<(), Failure> {
    if args.no_block {
        for name in names {
            println!("Triggered unit {name} {}", verb(target));
        }
        return Ok(());
    }
    let waiter = Waiter::new(client, Patience::from_attempts(args.block_attempts));
    waiter.for_state(names, target)?;
    if target == TargetState::Launched {
        waiter.for_active(names)?;
    }
    Ok(())
}

fn verb(target: TargetState) -> &'static str {
    match target {
        TargetState::Inactive => "unload",
        TargetState::Loaded => "load",
        TargetState::Launched => "start",
    }
}

/// `stop`.
pub(crate) fn stop(client: &Client, args: &Change) -> Result<(), Failure> {
    bring_down(client, args, TargetState::Loaded, "stop", "stopped")
}

/// `unload`.
pub(crate) fn unload(client: &Client, args: &Change) -> Result<(), Failure> {
    bring_down(client, args, TargetState::Inactive, "unload", "unloaded")
}

fn bring_down(
    client: &Client,
    args: &Change,
    target: TargetState,
    verb: &str,
    past: &str,
) -> Result<(), Failure> {
    let units = find(client, &args.units)?;
    if units.is_empty() {
        eprintln!("Units not found in registry");
        return Ok(());
    }
    let mut wait_for = Vec::new();
    for unit in &units {
        let name = &unit.name;
        if is_global(unit) {
            if unit.desired_state != target.as_str() {
                client.set_target(name, target)?;
            }
            println!("Triggered global unit {name} {verb}");
        } else if target == TargetState::Loaded && unit.desired_state == "inactive" {
            return Err(Failure::Refused(format!(
                "unable to stop unit {name} in state inactive"
            )));
        } else if unit.desired_state == target.as_str() {
            eprintln!("Unit {name} already {target}, skipping");
        } else {
            client.set_target(name, target)?;
            wait_for.push(name.clone());
        }
    }
    if args.no_block {
        wait_for
            .iter()
            .for_each(|name| println!("Triggered unit {name} {verb}"));
    } else {
        let patience = Patience::from_attempts(args.block_attempts);
        Waiter::new(client, patience).for_state(&wait_for, target)?;
    }
    let names: Vec<&str> = units.iter().map(|u| u.name.as_str()).collect();
    eprintln!("Successfully {past} units [{}].", names.join(" "));
    Ok(())
}

/// `restart`: stops the process, waits until it is down, starts it again on the same machine.
pub(crate) fn restart(client: &Client, args: &Change) -> Result<(), Failure> {
    let units = find(client, &args.units)?;
    if units.is_empty() {
        eprintln!("Units not found in registry");
        return Ok(());
    }
    let (mut running, mut all) = (Vec::new(), Vec::new());
    for unit in &units {
        let name = &unit.name;
        match (is_global(unit), unit.desired_state.as_str()) {
            (true, _) => {
                let text =
                    format!("global unit {name} cannot be restarted as a whole; stop and start it");
                return Err(Failure::Refused(text));
            }
            (_, "inactive") => {
                return Err(Failure::Refused(format!(
                    "unable to restart unit {name} in state inactive"
                )));
            }
            (_, "launched") => running.push(name.clone()),
            _ => {}
        }
        all.push(name.clone());
    }
    let waiter = Waiter::new(client, Patience::from_attempts(args.block_attempts));
    for name in &running {
        client.set_target(name, TargetState::Loaded)?;
    }
    waiter.for_stopped(&running)?;
    for name in &all {
        client.set_target(name, TargetState::Launched)?;
    }
    finish(client, args, &all, TargetState::Launched)
}

/// `destroy`.
pub(crate) fn destroy(client: &Client, args: &Change) -> Result<(), Failure> {
    if nothing_given(&args.units) {
        return Ok(());
    }
    let mut gone = Vec::new();
    for argument in &args.units {
        let name = mangle(argument);
        if client.destroy(&name)? {
            println!("Destroyed {name}");
            gone.push(name);
        }
    }
    if gone.is_empty() {
        eprintln!("Units not found in registry");
    } else if !args.no_block {
        let patience = Patience::from_attempts(args.block_attempts);
        Waiter::new(client, patience).for_gone(&gone)?;
    }
    Ok(())
}

/// `cat`.
pub(crate) fn cat(client: &Client, unit: &str) -> Result<(), Failure> {
    let unit = get(client, &mangle(unit))?;
    print!("{}", file_of(&unit)?);
    Ok(())
}

fn nothing_given(units: &[String]) -> bool {
    if units.is_empty() {
        eprintln!("No units given");
    }
    units.is_empty()
}

/// A unit that must be there.
pub(crate) fn get(client: &Client, name: &str) -> Result<wire::Unit, Failure> {
    client.unit(name)?.ok_or_else(|| Failure::NotFound {
        name: name.to_owned(),
    })
}

/// Those of the units that are there.
fn find(client: &Client, arguments: &[String]) -> Result<Vec<wire::Unit>, Failure> {
    let mut found = Vec::new();
    for argument in arguments {
        let name = mangle(argument);
        match client.unit(&name)? {
            Some(unit) => found.push(unit),
            None => eprintln!("Unit {name} not found in registry, skipping"),
        }
    }
    Ok(found)
}

fn file_of(unit: &wire::Unit) -> Result<UnitFile, Failure> {
    let bad = |error: fleet_model::TextError| Failure::UnitFile {
        path: unit.name.clone(),
        reason: error.to_string(),
    };
    UnitFile::from_options(unit.options.clone()).map_err(bad)
}

pub(crate) fn is_global(unit: &wire::Unit) -> bool {
    let file = UnitFile::from_options(unit.options.clone()).unwrap_or_default();
    UnitName::parse(&unit.name).is_ok_and(|name| Requirements::of(&name, &file).global)
}

/// Makes sure that the cluster has a unit. Returns its name, and whether a replacement that was
/// asked for was refused because of the unit's state.
fn upload(
    client: &Client,
    argument: &str,
    replace: bool,
    replaceable: &[TargetState],
) -> Result<(String, bool), Failure> {
    let name = mangle(argument);
    let local = read_local(argument)?;
    let Some(there) = client.unit(&name)? else {
        let file = match local {
            Some(file) => file,
            None => from_template(client, argument, &name)?,
        };
        check(argument, &file)?;
        client.create(&name, &file, TargetState::Inactive)?;
        return Ok((name, false));
    };
    let Some(file) = local else {
        return Ok((name, false));
    };
    if file_of(&there)?.hash() == file.hash() {
        if replace {
            eprintln!("Found same Unit({name}) in Registry, nothing to do");
        }
        return Ok((name, false));
    }
    if !replace {
        eprintln!(
            "WARNING: Unit {name} in registry differs from local unit file {argument}. \
             Add --replace to override."
        );
        return Ok((name, false));
    }
    let state: TargetState = there.desired_state.parse().unwrap_or(TargetState::Inactive);
    if !replaceable.contains(&state) {
        eprintln!("WARNING: Unit {name} is {state}, so it is not replaced and left as it is.");
        return Ok((name, true));
    }
    check(argument, &file)?;
    client.create(&name, &file, TargetState::Inactive)?;
    Ok((name, false))
}

/// The local file of an argument, if there is one.
fn read_local(argument: &str) -> Result<Option<UnitFile>, Failure> {
    let mangled = mangle(argument);
    let candidates = [argument.to_owned(), beside(argument, &mangled)];
    match candidates.iter().find(|path| Path::new(path).is_file()) {
        Some(path) => read_file(path).map(Some),
        None => Ok(None),
    }
}

/// A file name in the directory of the argument.
fn beside(argument: &str, name: &str) -> String {
    match argument.rsplit_once('/') {
        Some((dir, _)) => format!("{dir}/{name}"),
        None => name.to_owned(),
    }
}

fn read_file(path: &str) -> Result<UnitFile, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })?;
    UnitFile::parse(&text).map_err(|error| Failure::UnitFile {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// The text of an instance: the cluster's template, or else a local one.
fn from_template(client: &Client, argument: &str, name: &str) -> Result<UnitFile, Failure> {
    let missing = || Failure::NoSource {
        name: name.to_owned(),
    };
    let parsed = UnitName::parse(name)
        .map_err(|error| Failure::Refused(format!("bad unit name \"{name}\": {error}")))?;
    let template = parsed.template().ok_or_else(missing)?;
    let path = beside(argument, template.as_str());
    let local = if Path::new(&path).is_file() {
        Some(read_file(&path)?)
    } else {
        None
    };
    match (client.unit(template.as_str())?, local) {
        (Some(unit), local) => {
            let file = file_of(&unit)?;
            if local.is_some_and(|local| local.hash() != file.hash()) {
                eprintln!(
                    "WARNING: Template {template} in registry differs from local file {path}; \
                     the registry's is used."
                );
            }
            Ok(file)
        }
        (None, Some(local)) => Ok(local),
        (None, None) => Err(missing()),
    }
}

/// Checks a text before it is uploaded, and warns of options nobody knows.
fn check(argument: &str, file: &UnitFile) -> Result<(), Failure> {
    for option in unknown_options(file) {
        eprintln!("WARNING: {argument}: unknown option {option} in section X-Fleet is ignored");
    }
    validate_options(file).map_err(|error| Failure::UnitFile {
        path: argument.to_owned(),
        reason: error.to_string(),
    })
}
