//! systemd-analyze: time, blame, unit-paths, verify.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use init_control::{Reply, Request};
use unit_file::load::{SourceText, load};
use unit_file::specifier::MachineInfo;
use unit_file::{Level, UnitName};

use crate::backend::{self, Backend, Failure, Ordered, find, number};
use crate::cli::{Outcome, finish, parse};
use crate::format::time;

/// How the boot went; whether unit files are right
#[derive(Debug, Parser)]
#[command(
    name = "systemd-analyze",
    version,
    after_help = "Example:\n  systemd-analyze blame"
)]
struct Options {
    /// time | blame | unit-paths | verify FILE …
    words: Vec<String>,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_pager: bool,
    /// The system manager (there is no other)
    #[arg(long, hide = true)]
    system: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    finish(match words.as_slice() {
        [] | ["time"] => backend::connect().and_then(|mut backend| boot(backend.as_mut())),
        ["blame"] => backend::connect().and_then(|mut backend| blame(backend.as_mut())),
        ["unit-paths"] => backend::connect().and_then(|mut backend| {
            for path in backend::strings(&backend.manager()?, "UnitPath") {
                println!("{path}");
            }
            Ok(0)
        }),
        ["verify", files @ ..] if !files.is_empty() => verify(files),
        _ => {
            eprintln!(
                "systemd-analyze: unknown command or wrong number of arguments\nhint: systemd-analyze --help"
            );
            return ExitCode::from(2);
        }
    })
}

/// Spans of the boot: label and microseconds.
fn spans(manager: &Ordered) -> Option<Vec<(&'static str, u64)>> {
    let at = |name: &str| number(manager, &format!("{name}TimestampMonotonic"));
    let finish = at("Finish");
    if finish == 0 {
        return None;
    }
    let (firmware, loader, initrd, userspace) =
        (at("Firmware"), at("Loader"), at("InitRD"), at("Userspace"));
    let mut out = Vec::new();
    if firmware > 0 {
        out.push(("firmware", firmware.saturating_sub(loader)));
    }
    if loader > 0 {
        out.push(("loader", loader));
    }
    out.push(("kernel", if initrd > 0 { initrd } else { userspace }));
    if initrd > 0 {
        out.push(("initrd", userspace.saturating_sub(initrd)));
    }
    out.push(("userspace", finish.saturating_sub(userspace)));
    Some(out)
}

fn boot(backend: &mut dyn Backend) -> Outcome {
    let manager = backend.manager()?;
    let Some(spans) = spans(&manager) else {
        eprintln!("Bootup is not yet finished (the jobs of the boot still run).");
        eprintln!("hint: 'systemctl list-jobs' shows what is waited for");
        return Ok(1);
    };
    let total: u64 = spans.iter().map(|(_, usec)| usec).sum();
    let parts: Vec<String> = spans
        .iter()
        .map(|(name, usec)| format!("{} ({name})", time::span(*usec, 1000)))
        .collect();
    println!(
        "Startup finished in {} = {}",
        parts.join(" + "),
        time::span(total, 1000)
    );
    let target = backend.properties("default.target")?;
    let reached = number(&target, "ActiveEnterTimestampMonotonic");
    let userspace = number(&manager, "UserspaceTimestampMonotonic");
    if reached > userspace {
        let name = find(&target, "Id")
            .and_then(dbus_api::wire::Value::as_str)
            .unwrap_or("default.target");
        println!(
            "{name} reached after {} in userspace.",
            time::span(reached - userspace, 1000)
        );
    }
    Ok(0)
}

fn blame(backend: &mut dyn Backend) -> Outcome {
    let Reply::Units(units) = backend.ask(Request::ListUnits {
        states: vec![],
        patterns: vec![],
    })?
    else {
        return Err(Failure::unexpected());
    };
    let mut rows = Vec::new();
    for unit in units {
        let properties = backend.properties(&unit.name)?;
        let began = number(&properties, "InactiveExitTimestampMonotonic");
        let entered = number(&properties, "ActiveEnterTimestampMonotonic");
        // A oneshot goes from activating to inactive.
        let ended = if entered >= began {
            entered
        } else {
            number(&properties, "InactiveEnterTimestampMonotonic")
        };
        if began > 0 && ended > began {
            rows.push((ended - began, unit.name));
        }
    }
    rows.sort_by(|a, b| b.cmp(a));
    for (usec, name) in rows {
        println!("{:>10} {name}", time::span(usec, 1000));
    }
    Ok(0)
}

/// Parse each file as PID 1 would, and print what it would warn of. Exit code 1 where a unit could not be used.
fn verify(files: &[&str]) -> Outcome {
    let mut bad = false;
    for file in files {
        let path = Path::new(file);
        let base = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let name = match UnitName::parse(base) {
            Ok(name) => name,
            Err(error) => {
                eprintln!("{file}: error: {error}");
                bad = true;
                continue;
            }
        };
        match fs::read_to_string(path) {
            Ok(text) => {
                let machine = MachineInfo::default();
                let (_, remarks) = load(
                    &name,
                    &[SourceText {
                        path: file,
                        text: &text,
                    }],
                    &machine,
                );
                for remark in remarks {
                    eprintln!("{remark}");
                    bad |= remark.level == Level::Error;
                }
            }
            Err(error) => {
                eprintln!("{file}: error: failed to read: {error}");
                bad = true;
            }
        }
    }
    Ok(u8::from(bad))
}
