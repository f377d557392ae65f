//! From a file or a template into the cluster.

use std::path::Path;

use fleet_model::{TargetState, UnitFile, UnitName, mangle, unknown_options, validate_unit};

use super::file_of;
use crate::api::Client;
use crate::error::Failure;
use crate::out::Out;

/// What an upload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// The cluster did not know the unit.
    Created,
    /// It has another text now, and is wanted inactive.
    Replaced,
    /// It was there and stays as it is.
    Kept,
    /// A replacement was asked for that the unit's state does not allow.
    NotReplaceable,
}

/// Makes sure that the cluster has a unit. `replaceable` are the states in which it may be replaced
/// where that is asked for.
pub(super) fn upload(
    client: &Client,
    out: &Out,
    argument: &str,
    replaceable: Option<&[TargetState]>,
) -> Result<Uploaded, Failure> {
    let name = mangle(argument);
    let Some(there) = client.unit(&name)? else {
        let (path, file) = match read_local(argument)? {
            Some(local) => local,
            None => (argument.to_owned(), from_template(client, argument, &name)?),
        };
        check(&path, &name, &file)?;
        client.create(&name, &file, TargetState::Inactive)?;
        out.unit(&name, &[("action", "created")]);
        return Ok(Uploaded::Created);
    };
    out.unit(&name, &[("action", "kept")]);
    let local = match read_local(argument)? {
        Some(local) => Some(local),
        None => local_template(argument, &name)?,
    };
    let Some((path, file)) = local else {
        return match replaceable {
            None => Ok(Uploaded::Kept),
            Some(_) => Err(Failure::NoSource { name }),
        };
    };
    if file_of(&there)?.hash() == file.hash() {
        if replaceable.is_some() {
            out.line(&format!(
                "Found same Unit({name}) in Registry, nothing to do"
            ));
        }
        return Ok(Uploaded::Kept);
    }
    let Some(replaceable) = replaceable else {
        eprintln!(
            "WARNING: Unit {name} in registry differs from local unit file {path}. \
             Add --replace to override."
        );
        return Ok(Uploaded::Kept);
    };
    let state: TargetState = there.desired_state.parse().unwrap_or(TargetState::Inactive);
    if !replaceable.contains(&state) {
        eprintln!("WARNING: Unit {name} is {state}, so it is not replaced and left as it is.");
        return Ok(Uploaded::NotReplaceable);
    }
    check(&path, &name, &file)?;
    client.create(&name, &file, TargetState::Inactive)?;
    out.unit(&name, &[("action", "replaced")]);
    Ok(Uploaded::Replaced)
}

/// The local file of an argument, if there is one.
pub(super) fn read_local(argument: &str) -> Result<Option<(String, UnitFile)>, Failure> {
    let mangled = mangle(argument);
    let candidates = [argument.to_owned(), beside(argument, &mangled)];
    match candidates
        .into_iter()
        .find(|path| Path::new(path).is_file())
    {
        Some(path) => read_file(&path).map(|file| Some((path, file))),
        None => Ok(None),
    }
}

/// The local template of an argument that names an instance, if there is one.
pub(super) fn local_template(
    argument: &str,
    name: &str,
) -> Result<Option<(String, UnitFile)>, Failure> {
    let template = UnitName::parse(name).ok().and_then(|name| name.template());
    let path = template.map(|template| beside(argument, template.as_str()));
    match path.filter(|path| Path::new(path).is_file()) {
        Some(path) => read_file(&path).map(|file| Some((path, file))),
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
pub(super) fn from_template(
    client: &Client,
    argument: &str,
    name: &str,
) -> Result<UnitFile, Failure> {
    let missing = || Failure::NoSource {
        name: name.to_owned(),
    };
    let parsed = UnitName::parse(name)
        .map_err(|error| Failure::Refused(format!("bad unit name \"{name}\": {error}")))?;
    let template = parsed.template().ok_or_else(missing)?;
    let local = local_template(argument, name)?;
    match (client.unit(template.as_str())?, local) {
        (Some(unit), local) => {
            let file = file_of(&unit)?;
            if let Some((path, _)) = local.filter(|(_, local)| local.hash() != file.hash()) {
                eprintln!(
                    "WARNING: Template {template} in registry differs from local file {path}; \
                     the registry's is used."
                );
            }
            Ok(file)
        }
        (None, Some((_, local))) => Ok(local),
        (None, None) => Err(missing()),
    }
}

/// Checks a text before it is uploaded, and warns of options nobody knows.
pub(super) fn check(path: &str, name: &str, file: &UnitFile) -> Result<(), Failure> {
    let bad = |reason: String| Failure::UnitFile {
        path: path.to_owned(),
        reason,
    };
    for option in unknown_options(file) {
        eprintln!("WARNING: {path}: unknown option {option} in section X-Fleet is ignored");
    }
    let name = UnitName::parse(name).map_err(|error| bad(error.to_string()))?;
    validate_unit(&name, file).map_err(|error| bad(error.to_string()))
}
