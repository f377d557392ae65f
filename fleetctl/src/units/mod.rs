//! Commands that change units.
//!
//! - [`upload`]: from a file or a template into the cluster.
//! - [`up`], [`down`]: load and start; stop, unload and destroy.
//! - [`restart`], [`scale`], [`replace`]: more than one step.
//! - [`result`]: what came of a batch unit.

mod down;
mod replace;
mod restart;
mod result;
mod scale;
mod turns;
mod up;
mod upload;

use fleet_model::{Requirements, UnitFile, UnitName, mangle, wire};
use serde_json::json;

use crate::api::Client;
use crate::cli::Units;
use crate::error::Failure;
use crate::out::Out;

pub(crate) use down::{destroy, stop, unload};
pub(crate) use replace::replace;
pub(crate) use restart::restart;
pub(crate) use result::result;
pub(crate) use scale::scale;
pub(crate) use up::{load, start, submit};

/// `cat`.
pub(crate) fn cat(client: &Client, out: &Out, args: &Units) -> Result<(), Failure> {
    let [unit] = &args.units[..] else {
        return Err(Failure::Refused("one unit file must be provided".into()));
    };
    let unit = get(client, &mangle(unit))?;
    let file = file_of(&unit)?;
    if out.is_json() {
        out.document(json!({"unit": unit.name, "hash": file.hash(), "text": file.to_string()}));
    } else {
        print!("{file}");
    }
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

/// Those of the units that are there, each once.
fn find(client: &Client, arguments: &[String]) -> Result<Vec<wire::Unit>, Failure> {
    let mut found = Vec::new();
    for name in names(arguments) {
        match client.unit(&name)? {
            Some(unit) => found.push(unit),
            None => eprintln!("Unit {name} not found in registry, skipping"),
        }
    }
    if found.is_empty() {
        eprintln!("Units not found in registry");
    }
    Ok(found)
}

/// The units that arguments name, each once, in their order.
fn names(arguments: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in arguments.iter().map(|a| mangle(a)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The text of a unit.
pub(crate) fn file_of(unit: &wire::Unit) -> Result<UnitFile, Failure> {
    let bad = |error: fleet_model::TextError| Failure::UnitFile {
        path: unit.name.clone(),
        reason: error.to_string(),
    };
    UnitFile::from_options(unit.options.clone()).map_err(bad)
}

/// What a unit asks for; nothing if its name or text is beyond us.
pub(crate) fn requirements(unit: &wire::Unit) -> Requirements {
    let file = UnitFile::from_options(unit.options.clone()).unwrap_or_default();
    UnitName::parse(&unit.name)
        .map(|name| Requirements::of(&name, &file))
        .unwrap_or_default()
}

pub(crate) fn is_global(unit: &wire::Unit) -> bool {
    requirements(unit).global
}

/// Names in brackets, as closing lines show them.
fn bracketed(names: &[String]) -> String {
    format!("[{}]", names.join(" "))
}
