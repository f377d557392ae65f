//! `show cat is-active is-failed is-system-running`.

use std::fs;

use init_control::{Reply, Request, UnitFileRequest};

use crate::backend::{Failure, Ordered, strings, text};
use crate::cli::{Context, Outcome};
use crate::format::property;
use crate::format::time::Zone;

/// `show [UNIT|JOB …]`
pub(crate) fn show(context: &mut Context, _: &str) -> Outcome {
    let args = context.args();
    let zone = Zone::local();
    if args.is_empty() {
        let manager = context.backend.manager()?;
        print(context, &manager, &zone);
        return Ok(0);
    }
    let mut first = true;
    for arg in &args {
        let units = match arg.parse::<u32>() {
            Ok(pid) => vec![unit_of_pid(context, pid)?],
            Err(_) => context.units(std::slice::from_ref(arg), ".service")?,
        };
        for unit in units {
            if !first && !context.wants_values() {
                println!();
            }
            first = false;
            let properties = context.backend.properties(&unit)?;
            print(context, &properties, &zone);
        }
    }
    Ok(0)
}

pub(super) fn unit_of_pid(context: &mut Context, pid: u32) -> Result<String, Failure> {
    match context.backend.ask(Request::GetUnitByPid { pid })? {
        Reply::UnitName(name) => Ok(name),
        _ => Err(Failure::unexpected()),
    }
}

impl Context {
    fn wants_values(&self) -> bool {
        self.options.wanted_properties().1
    }
}

/// Wanted properties, or all that are not empty.
fn print(context: &Context, properties: &Ordered, zone: &Zone) {
    let (wanted, only_values) = context.options.wanted_properties();
    let line = |name: &str, text: &str| {
        if only_values {
            println!("{text}");
        } else {
            println!("{name}={text}");
        }
    };
    // The manager's order is kept, also where the command line has another.
    for (name, value) in properties {
        let asked = wanted.iter().any(|wanted| wanted == name);
        if !wanted.is_empty() && !asked {
            continue;
        }
        let Some(text) = property::text(name, value, zone) else {
            // What has no text form is left out, unless somebody wants to know that it is there.
            if asked {
                line(name, "[unprintable]");
            }
            continue;
        };
        let shown = asked || context.options.all || !text.is_empty();
        if !shown {
            continue;
        }
        if property::is_multi_line(name) {
            for part in text.lines() {
                line(name, part);
            }
            if text.is_empty() && (asked || context.options.all) {
                line(name, "");
            }
        } else {
            line(name, &text);
        }
    }
}

/// `is-active`, `is-failed`
pub(crate) fn is_state(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let good: &[&str] = if verb == "is-active" {
        &["active", "reloading"]
    } else {
        &["failed"]
    };
    let units = context.units(&args, ".service")?;
    let mut found = false;
    for unit in &units {
        let properties = context.backend.properties(unit)?;
        let state = text(&properties, "ActiveState");
        found |= good.contains(&state);
        if !context.options.quiet {
            println!("{state}");
        }
    }
    Ok(match (found, verb) {
        (true, _) => 0,
        (false, "is-active") => 3,
        (false, _) => 1,
    })
}

/// `is-system-running [--wait]`
pub(crate) fn is_system_running(context: &mut Context, _: &str) -> Outcome {
    loop {
        let manager = context.backend.manager()?;
        let state = text(&manager, "SystemState");
        if context.options.wait && matches!(state, "initializing" | "starting") {
            std::thread::sleep(std::time::Duration::from_millis(500));
            continue;
        }
        if !context.options.quiet {
            println!("{state}");
        }
        return Ok(u8::from(state != "running"));
    }
}

/// `cat`
pub(crate) fn cat(context: &mut Context, verb: &str) -> Outcome {
    let args = context.some_args(verb)?;
    let units = context.units(&args, ".service")?;
    let mut first = true;
    let mut code = 0;
    for unit in units {
        let (fragment, drop_ins) = match paths(context, &unit)? {
            Some(paths) => paths,
            None => {
                eprintln!("No files found for {unit}.");
                code = 1;
                continue;
            }
        };
        for path in std::iter::once(fragment)
            .chain(drop_ins)
            .filter(|path| !path.is_empty())
        {
            if !first {
                println!();
            }
            first = false;
            println!("# {path}");
            match fs::read(&path) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    print!("{text}");
                    if !text.ends_with('\n') && !text.is_empty() {
                        println!();
                    }
                }
                Err(error) => {
                    eprintln!("Failed to open {path}: {error}");
                    code = 1;
                }
            }
        }
        super::jobs::warn_reload(context, &unit)?;
    }
    Ok(code)
}

/// Main file and drop-ins. A template is not loaded: its file is looked up.
fn paths(context: &mut Context, unit: &str) -> Result<Option<(String, Vec<String>)>, Failure> {
    if unit.contains("@.") {
        let request = UnitFileRequest::List {
            states: vec![],
            patterns: vec![unit.to_owned()],
        };
        let Reply::UnitFiles(files) = context.backend.ask(Request::UnitFiles(request))? else {
            return Err(Failure::unexpected());
        };
        return Ok(files.into_iter().next().map(|file| (file.path, Vec::new())));
    }
    let properties = context.backend.properties(unit)?;
    if text(&properties, "LoadState") == "not-found" {
        return Ok(None);
    }
    if text(&properties, "LoadState") == "masked" {
        println!("# Unit {unit} is masked.");
        return Ok(Some((String::new(), Vec::new())));
    }
    let fragment = text(&properties, "FragmentPath").to_owned();
    let drop_ins = strings(&properties, "DropInPaths");
    Ok((!fragment.is_empty() || !drop_ins.is_empty()).then_some((fragment, drop_ins)))
}
