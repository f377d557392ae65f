//! reboot, poweroff, halt, shutdown, telinit

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use init_control::{JobMode, PowerAction, Request, Verb};

use crate::backend::{self, Failure};
use crate::cli::{Outcome, finish, parse};
use crate::format::time;
use crate::verbs;

/// Restart, switch off or stop the machine
#[derive(Debug, Parser)]
#[command(name = "reboot", version, after_help = "Example:\n  reboot")]
struct Options {
    /// Argument of the reboot system call
    argument: Option<String>,
    /// At once: do not stop units (twice: the kernel at once)
    #[arg(short = 'f', long, action = clap::ArgAction::Count)]
    force: u8,
    /// Stop instead
    #[arg(long)]
    halt: bool,
    /// Switch off instead
    #[arg(short = 'p', long)]
    poweroff: bool,
    /// Restart instead
    #[arg(long)]
    reboot: bool,
    /// Accepted and without effect
    #[arg(short = 'w', long, hide = true)]
    wtmp_only: bool,
    /// Accepted and without effect
    #[arg(short = 'd', long, hide = true)]
    no_wtmp: bool,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_wall: bool,
}

/// End the machine now or later
#[derive(Debug, Parser)]
#[command(
    name = "shutdown",
    version,
    disable_help_flag = true,
    after_help = "Example:\n  shutdown -r +5"
)]
struct Shutdown {
    /// When: now, +MINUTES, HH:MM (default +1); then a message, which is ignored
    words: Vec<String>,
    /// Restart
    #[arg(short = 'r', long)]
    reboot: bool,
    /// Stop, power on
    #[arg(short = 'H', long)]
    halt: bool,
    /// Switch off
    #[arg(short = 'P', long)]
    poweroff: bool,
    /// Switch off (or halt with --halt)
    #[arg(short = 'h')]
    either: bool,
    /// Cancel what was planned
    #[arg(short = 'c')]
    cancel: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Accepted and without effect
    #[arg(short = 'k', hide = true)]
    only_message: bool,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_wall: bool,
}

pub(crate) fn main(name: &str, args: &[OsString]) -> ExitCode {
    match name {
        "shutdown" => shutdown(args),
        "telinit" => telinit(args),
        _ => now(name, args),
    }
}

fn now(name: &str, args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let action = match (options.halt, options.poweroff, options.reboot, name) {
        (_, true, ..) => PowerAction::PowerOff,
        (_, _, true, _) => PowerAction::Reboot,
        (true, ..) | (.., "halt") => PowerAction::Halt,
        (.., "poweroff") => PowerAction::PowerOff,
        _ => PowerAction::Reboot,
    };
    finish(run(action, options.force, options.argument))
}

fn run(action: PowerAction, force: u8, argument: Option<String>) -> Outcome {
    let mut backend = backend::connect()?;
    verbs::end(backend.as_mut(), action, force, argument, false)
}

fn shutdown(args: &[OsString]) -> ExitCode {
    let options: Shutdown = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    if options.cancel {
        return finish(verbs::schedule(None).map(|_| 0));
    }
    if options.only_message {
        return ExitCode::SUCCESS;
    }
    let action = match (options.reboot, options.halt) {
        (true, _) => PowerAction::Reboot,
        (_, true) => PowerAction::Halt,
        _ => PowerAction::PowerOff,
    };
    let when = options.words.first().map_or("+1", String::as_str);
    let (now, offset) = (time::now(), local_offset());
    match at(when, now, offset) {
        Some(None) => finish(run(action, 0, None)),
        Some(Some(at)) => {
            let outcome = verbs::schedule(Some((action, at))).map(|_| {
                let moment = time::timestamp(at, &time::Zone::local());
                println!("Shutdown scheduled for {moment}, use 'shutdown -c' to cancel.");
                0
            });
            finish(outcome)
        }
        None => finish(Err(Failure::Unreachable(format!(
            "Failed to parse time specification: {when}"
        )))),
    }
}

/// Offset of local time in seconds, from how a moment is printed in both zones.
fn local_offset() -> i64 {
    time::Zone::local().offset(i64::try_from(time::now() / 1_000_000).unwrap_or_default())
}

/// The moment in microseconds; inner none = now. Outer none = malformed.
#[expect(
    clippy::option_option,
    reason = "now, later and malformed are three answers"
)]
fn at(when: &str, now: u64, offset: i64) -> Option<Option<u64>> {
    if matches!(when, "now" | "+0") {
        return Some(None);
    }
    if let Some(minutes) = when
        .strip_prefix('+')
        .or_else(|| when.parse::<u64>().is_ok().then_some(when))
    {
        let minutes: u64 = minutes.parse().ok()?;
        return Some(Some(now.checked_add(minutes.checked_mul(60_000_000)?)?));
    }
    let (hour, minute) = when.split_once(':')?;
    let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) {
        return None;
    }
    let local = i64::try_from(now / 1_000_000).ok()? + offset;
    let mut wanted = local.div_euclid(86_400) * 86_400 + hour * 3600 + minute * 60;
    if wanted <= local {
        wanted += 86_400;
    }
    Some(Some(
        u64::try_from(wanted - offset)
            .ok()?
            .checked_mul(1_000_000)?,
    ))
}

fn telinit(args: &[OsString]) -> ExitCode {
    let level = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default();
    let target = match level {
        "0" => return finish(run(PowerAction::PowerOff, 0, None)),
        "6" => return finish(run(PowerAction::Reboot, 0, None)),
        "1" | "s" | "S" => "rescue.target",
        "2" | "3" | "4" => "multi-user.target",
        "5" => "graphical.target",
        "q" | "Q" => return finish(ask(Request::Reload)),
        "u" | "U" => return finish(ask(Request::Reexec)),
        other => {
            eprintln!("telinit: {other:?} is no run level (0-6, s, q, u)");
            return ExitCode::from(2);
        }
    };
    finish(ask(Request::StartUnit {
        name: target.to_owned(),
        verb: Verb::Start,
        mode: JobMode::Isolate,
    }))
}

fn ask(request: Request) -> Outcome {
    backend::connect()?.ask(request)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sound() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
        Shutdown::command().debug_assert();
    }

    #[test]
    fn moments() {
        let noon = 1_794_312_000_000_000;
        for (when, expect) in [
            ("now", Some(None)),
            ("+5", Some(Some(noon + 300_000_000))),
            ("5", Some(Some(noon + 300_000_000))),
            ("12:30", Some(Some(noon + 1_800_000_000))),
            ("11:00", Some(Some(noon + 23 * 3_600_000_000))),
            ("25:00", None),
            ("soon", None),
        ] {
            assert_eq!(at(when, noon, 0), expect, "{when}");
        }
        assert_eq!(at("12:30", noon, 3600), Some(Some(noon + 84_600_000_000)));
    }
}
