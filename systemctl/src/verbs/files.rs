//! Verbs about unit files.

use init_control::{
    EnableFlags, ErrorKind, JobMode, PresetMode, Reply, Request, UnitFileChange, UnitFileRequest,
    UnitFileState, Verb,
};

use super::jobs;
use crate::backend::Failure;
use crate::cli::{Context, Outcome};
use crate::names;

fn flags(context: &Context) -> EnableFlags {
    EnableFlags {
        runtime: context.options.runtime,
        force: context.options.force > 0,
    }
}

fn preset_mode(context: &Context) -> Result<PresetMode, Failure> {
    let word = &context.options.preset_mode;
    PresetMode::from_word(word)
        .ok_or_else(|| Failure::Unreachable(format!("Failed to parse preset mode: {word}.")))
}

/// `enable disable reenable preset mask unmask link revert`
pub(crate) fn change(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let mut files = Vec::new();
    for arg in &args {
        if arg.contains('/') {
            files.push(absolute(arg)?);
        } else {
            files.push(names::mangle(arg, ".service"));
        }
    }
    let flags = flags(context);
    let request = match verb {
        "enable" => UnitFileRequest::Enable {
            files: files.clone(),
            flags,
        },
        "disable" => UnitFileRequest::Disable {
            files: files.clone(),
            flags,
        },
        "reenable" => UnitFileRequest::Reenable {
            files: files.clone(),
            flags,
        },
        "preset" => UnitFileRequest::Preset {
            files: files.clone(),
            mode: preset_mode(context)?,
            flags,
        },
        "mask" => UnitFileRequest::Mask {
            files: files.clone(),
            flags,
        },
        "unmask" => UnitFileRequest::Unmask {
            files: files.clone(),
            flags,
        },
        "link" => UnitFileRequest::Link {
            files: files.clone(),
            flags,
        },
        _ => UnitFileRequest::Revert {
            files: files.clone(),
        },
    };
    let (carries, changes) = ask(context, request).map_err(|failure| {
        let what = if verb == "link" { "link unit" } else { verb };
        Failure::Unreachable(format!("Failed to {what} unit: {failure}"))
    })?;
    print(context, &changes);
    reload(context)?;
    if !carries && verb == "enable" && !context.options.quiet {
        eprint!("{NO_INSTALL}");
    }
    if !context.options.now {
        return Ok(0);
    }
    let units: Vec<String> = files
        .iter()
        .map(|file| file.rsplit('/').next().unwrap_or_default().to_owned())
        .collect();
    match verb {
        "enable" | "reenable" => jobs::run(context, &units, Verb::Start, JobMode::Replace, "start"),
        "disable" | "mask" => jobs::run(context, &units, Verb::Stop, JobMode::Replace, "stop"),
        _ => Ok(0),
    }
}

const NO_INSTALL: &str = "\
The unit files have no installation config (WantedBy=, RequiredBy=, Also=,
Alias= settings in the [Install] section, and DefaultInstance= for template
units). This means they are not meant to be enabled using systemctl.
 
Possible reasons for having this kind of units are:
\u{2022} A unit may be statically enabled by being symlinked from another unit's
  .wants/ or .requires/ directory.
\u{2022} A unit's purpose may be to act as a helper for some other unit which has
  a requirement dependency on it.
\u{2022} A unit may be started when needed via activation (socket, path, timer,
  D-Bus, udev, scripted systemctl call, ...).
\u{2022} In case of template units, the unit is meant to be enabled with some
  instance name specified.
";

fn absolute(path: &str) -> Result<String, Failure> {
    std::path::absolute(path)
        .map(|path| path.to_string_lossy().into_owned())
        .map_err(|error| {
            Failure::Unreachable(format!("Failed to make path absolute: {path}: {error}"))
        })
}

fn ask(
    context: &mut Context,
    request: UnitFileRequest,
) -> Result<(bool, Vec<UnitFileChange>), Failure> {
    match context.backend.ask(Request::UnitFiles(request))? {
        Reply::UnitFileChanges {
            carries_install_info,
            changes,
        } => Ok((carries_install_info, changes)),
        _ => Err(Failure::unexpected()),
    }
}

fn print(context: &Context, changes: &[UnitFileChange]) {
    for change in changes {
        let UnitFileChange { kind, path, source } = change;
        match kind.as_str() {
            "symlink" if !context.options.quiet => {
                eprintln!("Created symlink {path} \u{2192} {source}.");
            }
            "unlink" if !context.options.quiet => eprintln!("Removed \"{path}\"."),
            "symlink" | "unlink" => {}
            "masked" => eprintln!("Unit {path} is masked, ignoring."),
            "masked by generator" => {
                eprintln!("Unit {path} is masked via a generator and cannot be unmasked.");
            }
            "dangling" => {
                eprintln!("Unit {path} is an alias to a unit that is not present, ignoring.");
            }
            "destination-not-present" => {
                eprintln!("Unit {path} is added as a dependency to a non-existent unit {source}.");
            }
            "auxiliary-failed" => eprintln!("Failed to enable auxiliary unit {path}, ignoring."),
            other => eprintln!("{path}: {other}"),
        }
    }
}

fn reload(context: &mut Context) -> Result<(), Failure> {
    if !context.options.no_reload {
        context.backend.ask(Request::Reload)?;
    }
    Ok(())
}

/// `preset-all`
pub(crate) fn preset_all(context: &mut Context, _: &str) -> Outcome {
    let request = UnitFileRequest::PresetAll {
        mode: preset_mode(context)?,
        flags: flags(context),
    };
    let (_, changes) = ask(context, request)?;
    print(context, &changes);
    reload(context)?;
    Ok(0)
}

/// `add-wants TARGET UNIT …`, `add-requires …`
pub(crate) fn add_dependency(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let target = names::mangle(&args[0], ".target");
    let files = args[1..]
        .iter()
        .map(|arg| names::mangle(arg, ".service"))
        .collect();
    let requires = verb == "add-requires";
    let request = UnitFileRequest::AddDependency {
        files,
        target,
        requires,
        flags: flags(context),
    };
    let (_, changes) = ask(context, request)
        .map_err(|failure| Failure::Unreachable(format!("Failed to add dependency: {failure}")))?;
    print(context, &changes);
    reload(context)?;
    Ok(0)
}

/// `is-enabled`
pub(crate) fn is_enabled(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let mut enabled = false;
    for arg in args {
        let file = names::mangle(&arg, ".service");
        match context
            .backend
            .ask(Request::UnitFiles(UnitFileRequest::State {
                file: file.clone(),
            })) {
            Ok(Reply::UnitFileState(state)) => {
                enabled |= matches!(
                    state,
                    UnitFileState::Enabled
                        | UnitFileState::EnabledRuntime
                        | UnitFileState::Static
                        | UnitFileState::Alias
                        | UnitFileState::Indirect
                        | UnitFileState::Generated
                );
                if !context.options.quiet {
                    println!("{state}");
                }
            }
            Ok(_) => return Err(Failure::unexpected()),
            Err(failure) => {
                let missing = matches!(
                    failure.kind(),
                    Some(ErrorKind::FileNotFound | ErrorKind::NoSuchUnit)
                );
                let reason = if missing {
                    "No such file or directory".to_owned()
                } else {
                    failure.to_string()
                };
                return Err(Failure::Unreachable(format!(
                    "Failed to get unit file state for {file}: {reason}"
                )));
            }
        }
    }
    Ok(u8::from(!enabled))
}

/// `get-default`
pub(crate) fn get_default(context: &mut Context, _: &str) -> Outcome {
    match context
        .backend
        .ask(Request::UnitFiles(UnitFileRequest::GetDefaultTarget))?
    {
        Reply::Text(name) => {
            println!("{name}");
            Ok(0)
        }
        _ => Err(Failure::unexpected()),
    }
}

/// `set-default`
pub(crate) fn set_default(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let name = names::mangle(&args[0], ".target");
    let (_, changes) = ask(
        context,
        UnitFileRequest::SetDefaultTarget { name, force: true },
    )
    .map_err(|failure| Failure::Unreachable(format!("Failed to set default target: {failure}")))?;
    print(context, &changes);
    reload(context)?;
    Ok(0)
}
