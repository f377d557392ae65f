//! `status`

use std::fs;
use std::io::Write as _;
use std::process::Command;

use dbus_api::wire::Value;

use super::overall;
use super::show::unit_of_pid;
use crate::backend::{Failure, Ordered, find, number, strings, text};
use crate::cli::{Context, Outcome};
use crate::format::property::{exit_name, signal_name};
use crate::format::table::{self, Colour, paint};
use crate::format::time::{self, Zone};
use crate::format::tree;

/// Journal lines shown unless said otherwise.
const LINES: u32 = 10;

/// The mark of an active state.
pub(super) fn dot(state: &str) -> &'static str {
    match state {
        "active" | "activating" | "deactivating" => "\u{25cf}",
        "reloading" => "\u{21bb}",
        "failed" => "\u{00d7}",
        _ => "\u{25cb}",
    }
}

/// The colour of an active state.
pub(super) fn dot_colour(state: &str) -> Colour {
    match state {
        "active" | "reloading" => Colour::Green,
        "failed" => Colour::Red,
        "activating" | "deactivating" => Colour::Yellow,
        _ => Colour::Plain,
    }
}

/// `status [UNIT|PID …]`
pub(crate) fn status(context: &mut Context, _: &str) -> Outcome {
    let zone = Zone::local();
    let args = context.args();
    if args.is_empty()
        && !context.options.all
        && context.options.types.is_empty()
        && context.options.states.is_empty()
    {
        return overall::overall(context, &zone);
    }
    let mut units = Vec::new();
    if args.is_empty() {
        units = context
            .list(context.options.wanted_states(), Vec::new())?
            .into_iter()
            .map(|unit| unit.name)
            .collect();
    }
    for arg in &args {
        match arg.parse::<u32>() {
            Ok(pid) => units.push(unit_of_pid(context, pid)?),
            Err(_) => units.extend(context.units(std::slice::from_ref(arg), ".service")?),
        }
    }
    let mut code = 0;
    for (index, unit) in units.iter().enumerate() {
        if index > 0 {
            println!();
        }
        let result = one(context, unit, &zone)?;
        if code == 0 {
            code = result;
        }
    }
    Ok(code)
}

fn one(context: &mut Context, unit: &str, zone: &Zone) -> Outcome {
    let properties = context.backend.properties(unit)?;
    if text(&properties, "LoadState") == "not-found"
        && text(&properties, "ActiveState") == "inactive"
    {
        eprintln!("Unit {unit} could not be found.");
        return Ok(4);
    }
    let mut out = String::new();
    head(&properties, zone, &mut out);
    triggers(context, &properties, zone, &mut out)?;
    body(&properties, zone, &mut out);
    counters(&properties, &mut out);
    cgroup(context, unit, &properties, &mut out)?;
    write(&out)?;
    journal(context, unit, &properties)?;
    if find(&properties, "NeedDaemonReload").and_then(Value::as_bool) == Some(true) {
        super::jobs::warn_reload(context, unit)?;
    }
    Ok(match text(&properties, "ActiveState") {
        "active" | "reloading" => 0,
        "activating" | "deactivating" => 3,
        _ => 3,
    })
}

pub(super) fn write(out: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(out.as_bytes())
        .map_err(|error| Failure::Unreachable(format!("failed to write: {error}")))
}

fn line(out: &mut String, label: &str, value: &str) {
    out.push_str(&format!("{label:>11}: {value}\n"));
}

/// The lines down to `Active:`.
fn head(properties: &Ordered, zone: &Zone, out: &mut String) {
    let state = text(properties, "ActiveState");
    let colour = dot_colour(state);
    let (id, description) = (text(properties, "Id"), text(properties, "Description"));
    out.push_str(&paint(colour, dot(state)));
    out.push(' ');
    out.push_str(id);
    if !description.is_empty() && description != id {
        out.push_str(&format!(" - {description}"));
    }
    out.push('\n');
    let following = text(properties, "Following");
    if !following.is_empty() {
        line(out, "Follows", following);
    }
    line(out, "Loaded", &loaded(properties));
    if find(properties, "Transient").and_then(Value::as_bool) == Some(true) {
        line(out, "Transient", "yes");
    }
    drop_ins(&strings(properties, "DropInPaths"), out);
    let sub = text(properties, "SubState");
    let words = if sub.is_empty() || sub == state {
        state.to_owned()
    } else {
        format!("{state} ({sub})")
    };
    let mut active = paint(colour, &words);
    let result = text(properties, "Result");
    if !result.is_empty() && result != "success" {
        active.push_str(&format!(" (Result: {result})"));
    }
    let stamp = match state {
        "active" | "reloading" => "ActiveEnterTimestamp",
        "inactive" | "failed" => "InactiveEnterTimestamp",
        "activating" => "InactiveExitTimestamp",
        _ => "ActiveExitTimestamp",
    };
    let since = number(properties, stamp);
    if since != 0 {
        let moment = time::timestamp(since, zone);
        active.push_str(&format!(
            " since {moment}; {}",
            time::relative(since, time::now())
        ));
    }
    line(out, "Active", &active);
}

fn loaded(properties: &Ordered) -> String {
    let load = text(properties, "LoadState");
    let colour = match load {
        "error" | "not-found" | "bad-setting" => Colour::Red,
        "masked" => Colour::Yellow,
        _ => Colour::Plain,
    };
    let mut out = paint(colour, load);
    if let Some([_, message]) = find(properties, "LoadError").and_then(Value::items)
        && let Some(message) = message.as_str().filter(|message| !message.is_empty())
    {
        return format!("{out} (Reason: {message})");
    }
    let source = text(properties, "SourcePath");
    let path = if source.is_empty() {
        text(properties, "FragmentPath")
    } else {
        source
    };
    let state = text(properties, "UnitFileState");
    let preset = text(properties, "UnitFilePreset");
    let mut parts: Vec<String> = Vec::new();
    if !path.is_empty() {
        parts.push(path.to_owned());
    }
    if !state.is_empty() {
        parts.push(state.to_owned());
        let says_preset = matches!(
            state,
            "enabled" | "enabled-runtime" | "disabled" | "indirect"
        );
        if says_preset && !preset.is_empty() {
            parts.push(format!("preset: {preset}"));
        }
    }
    if !parts.is_empty() {
        out.push_str(&format!(" ({})", parts.join("; ")));
    }
    out
}

/// Drop-ins, grouped by directory.
fn drop_ins(paths: &[String], out: &mut String) {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for path in paths {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        match groups.last_mut() {
            Some((last, names)) if *last == directory => names.push(name),
            _ => groups.push((directory, vec![name])),
        }
    }
    for (index, (directory, names)) in groups.iter().enumerate() {
        let label = if index == 0 {
            format!("{:>11}: ", "Drop-In")
        } else {
            " ".repeat(13)
        };
        out.push_str(&format!("{label}{directory}\n"));
        out.push_str(&format!(
            "{}\u{2514}\u{2500}{}\n",
            " ".repeat(13),
            names.join(", ")
        ));
    }
}

/// `Trigger:` of timers, `TriggeredBy:`, `Triggers:`.
fn triggers(
    context: &mut Context,
    properties: &Ordered,
    zone: &Zone,
    out: &mut String,
) -> Result<(), Failure> {
    if find(properties, "NextElapseUSecRealtime").is_some() {
        let realtime = number(properties, "NextElapseUSecRealtime");
        let monotonic = number(properties, "NextElapseUSecMonotonic");
        let now = time::now();
        let from_monotonic = match monotonic {
            0 | u64::MAX => None,
            at => Some(now.saturating_add(at).saturating_sub(time::monotonic())),
        };
        let next = [
            Some(realtime).filter(|at| !matches!(at, 0 | &u64::MAX)),
            from_monotonic,
        ]
        .into_iter()
        .flatten()
        .min();
        let value = next.map_or_else(
            || "n/a".to_owned(),
            |at| format!("{}; {}", time::timestamp(at, zone), time::relative(at, now)),
        );
        line(out, "Trigger", &value);
    }
    for (label, property) in [("TriggeredBy", "TriggeredBy"), ("Triggers", "Triggers")] {
        for (index, unit) in strings(properties, property).into_iter().enumerate() {
            let other = context.backend.properties(&unit)?;
            let state = text(&other, "ActiveState").to_owned();
            let mark = paint(dot_colour(&state), dot(&state));
            if index == 0 {
                line(out, label, &format!("{mark} {unit}"));
            } else {
                out.push_str(&format!("{}{mark} {unit}\n", " ".repeat(13)));
            }
        }
    }
    Ok(())
}

/// From `Docs:` to `Error:`.
fn body(properties: &Ordered, zone: &Zone, out: &mut String) {
    conditions(properties, "Condition", zone, out);
    conditions(properties, "Assert", zone, out);
    for (label, property) in [
        ("Device", "SysFSPath"),
        ("Where", "Where"),
        ("What", "What"),
    ] {
        let value = text(properties, property);
        if !value.is_empty() {
            line(out, label, value);
        }
    }
    for (index, doc) in strings(properties, "Documentation").iter().enumerate() {
        if index == 0 {
            line(out, "Docs", doc);
        } else {
            out.push_str(&format!("{}{doc}\n", " ".repeat(13)));
        }
    }
    for (index, pair) in find(properties, "Listen")
        .and_then(Value::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let [kind, address] = pair.items().unwrap_or_default() else {
            continue;
        };
        let value = format!(
            "{} ({})",
            address.as_str().unwrap_or_default(),
            kind.as_str().unwrap_or_default()
        );
        if index == 0 {
            line(out, "Listen", &value);
        } else {
            out.push_str(&format!("{}{value}\n", " ".repeat(13)));
        }
    }
    if find(properties, "Accept").and_then(Value::as_bool) == Some(true) {
        let (accepted, connected) = (
            number(properties, "NAccepted"),
            number(properties, "NConnections"),
        );
        line(
            out,
            "Accepted",
            &format!("{accepted}; Connected: {connected};"),
        );
    }
    processes(properties, out);
    let status = text(properties, "StatusText");
    if !status.is_empty() {
        line(out, "Status", &format!("\"{status}\""));
    }
    let errno = find(properties, "StatusErrno")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    if errno > 0 {
        let error = i32::try_from(errno).map(std::io::Error::from_raw_os_error);
        let words = error.map(|error| error.to_string()).unwrap_or_default();
        line(
            out,
            "Error",
            &format!(
                "{errno} ({})",
                words.split(" (os error").next().unwrap_or_default()
            ),
        );
    }
}

fn conditions(properties: &Ordered, kind: &str, zone: &Zone, out: &mut String) {
    let at = number(properties, &format!("{kind}Timestamp"));
    let held = find(properties, &format!("{kind}Result"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if at == 0 || held {
        return;
    }
    let (label, word) = if kind == "Condition" {
        ("Condition", "start condition failed")
    } else {
        ("Assert", "start assertion failed")
    };
    let since = format!(
        "{word} at {}; {}",
        time::timestamp(at, zone),
        time::relative(at, time::now())
    );
    line(out, label, &paint(Colour::Yellow, &since));
    let failed: Vec<String> = find(properties, &format!("{kind}s"))
        .and_then(Value::items)
        .unwrap_or_default()
        .iter()
        .filter_map(|item| {
            let [name, trigger, negate, parameter, state] = item.items()? else {
                return None;
            };
            if state.as_i64()? >= 0 {
                return None;
            }
            let bar = if trigger.as_bool()? { "|" } else { "" };
            let not = if negate.as_bool()? { "!" } else { "" };
            Some(format!(
                "{}={bar}{not}{} was not met",
                name.as_str()?,
                parameter.as_str()?
            ))
        })
        .collect();
    for (index, text) in failed.iter().enumerate() {
        let branch = if index + 1 < failed.len() {
            "\u{251c}\u{2500}"
        } else {
            "\u{2514}\u{2500}"
        };
        out.push_str(&format!("{}{branch} {text}\n", " ".repeat(13)));
    }
}

/// `Process:` of control commands that ran, `Main PID:`.
fn processes(properties: &Ordered, out: &mut String) {
    let main = number(properties, "MainPID");
    let last_main = number(properties, "ExecMainPID");
    for (name, value) in properties {
        if !name.starts_with("Exec") || name.ends_with("Ex") {
            continue;
        }
        for command in value.items().unwrap_or_default() {
            let Some([_, argv, _, started, _, exited, _, pid, code, status]) = command.items()
            else {
                continue;
            };
            let pid = pid.as_u64().unwrap_or_default();
            let ran = started.as_u64().unwrap_or_default() != 0
                && exited.as_u64().unwrap_or_default() != 0;
            if !ran || pid == 0 || pid == last_main {
                continue;
            }
            let argv = argv.as_strings().unwrap_or_default().join(" ");
            let end = end(
                code.as_i64().unwrap_or_default(),
                status.as_i64().unwrap_or_default(),
            );
            line(out, "Process", &format!("{pid} {name}={argv} ({end})"));
        }
    }
    if last_main > 0 {
        let mut value = last_main.to_string();
        if main == last_main {
            if let Some(name) = process_name(main) {
                value.push_str(&format!(" ({name})"));
            }
        } else {
            let signed = |name: &str| {
                find(properties, name)
                    .and_then(Value::as_i64)
                    .unwrap_or_default()
            };
            let code = signed("ExecMainCode");
            if code != 0 {
                value.push_str(&format!(" ({})", end(code, signed("ExecMainStatus"))));
            }
        }
        line(out, "Main PID", &value);
    }
    let control = number(properties, "ControlPID");
    if control > 0 {
        let name = process_name(control)
            .map(|name| format!(" ({name})"))
            .unwrap_or_default();
        line(out, "Cntrl PID", &format!("{control}{name}"));
    }
}

fn process_name(pid: u64) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()
        .map(|name| name.trim_end().to_owned())
}

/// `code=exited, status=0/SUCCESS`
fn end(code: i64, status: i64) -> String {
    match code {
        1 => {
            let name = exit_name(status);
            let text = if name == "n/a" {
                format!("{status}/n/a")
            } else {
                format!("{status}/{name}")
            };
            let text = format!("code=exited, status={text}");
            if status == 0 {
                text
            } else {
                paint(Colour::Red, &text)
            }
        }
        2 => format!("code=killed, signal={}", signal_name(status)),
        3 => format!("code=dumped, signal={}", signal_name(status)),
        _ => "code=(null), status=0/SUCCESS".to_owned(),
    }
}

/// `Tasks:`, `Memory:`, `CPU:`.
fn counters(properties: &Ordered, out: &mut String) {
    let known = |name: &str| {
        find(properties, name)
            .and_then(Value::as_u64)
            .filter(|count| *count != u64::MAX)
    };
    if let Some(tasks) = known("TasksCurrent") {
        let limit = known("TasksMax")
            .map(|max| format!(" (limit: {max})"))
            .unwrap_or_default();
        line(out, "Tasks", &format!("{tasks}{limit}"));
    }
    if let Some(memory) = known("MemoryCurrent") {
        let mut parts = Vec::new();
        for (label, name, none) in [
            ("min", "MemoryMin", 0),
            ("low", "MemoryLow", 0),
            ("high", "MemoryHigh", u64::MAX),
            ("max", "MemoryMax", u64::MAX),
            ("swap max", "MemorySwapMax", u64::MAX),
        ] {
            let value = find(properties, name)
                .and_then(Value::as_u64)
                .unwrap_or(none);
            if value != none {
                parts.push(format!("{label}: {}", time::bytes(value)));
            }
        }
        let limits = if parts.is_empty() {
            String::new()
        } else {
            format!(" ({})", parts.join(" "))
        };
        line(out, "Memory", &format!("{}{limits}", time::bytes(memory)));
    }
    if let Some(cpu) = known("CPUUsageNSec") {
        line(out, "CPU", &time::span(cpu / 1000, 1000));
    }
}

fn cgroup(
    context: &mut Context,
    unit: &str,
    properties: &Ordered,
    out: &mut String,
) -> Result<(), Failure> {
    let group = text(properties, "ControlGroup");
    if group.is_empty() {
        return Ok(());
    }
    line(out, "CGroup", group);
    let processes = context.backend.processes(unit)?;
    let width = if context.options.full {
        None
    } else {
        table::width()
    };
    for text in tree::lines(group, &processes, &" ".repeat(13), width) {
        out.push_str(&text);
        out.push('\n');
    }
    Ok(())
}

/// The last lines of the unit's journal, as `journalctl` prints them.
fn journal(context: &Context, unit: &str, properties: &Ordered) -> Result<(), Failure> {
    let lines = context.options.lines.unwrap_or(LINES);
    if lines == 0 || text(properties, "LoadState") == "not-found" {
        return Ok(());
    }
    let mut command = Command::new("journalctl");
    command
        .args(["--no-pager", "-q", "-b", "-n"])
        .arg(lines.to_string())
        .arg("-u")
        .arg(unit);
    if let Some(format) = &context.options.output {
        command.arg("-o").arg(format);
    }
    // No journal, or none that we may read: the rest of the status stands without it.
    let Ok(output) = command.stderr(std::process::Stdio::null()).output() else {
        return Ok(());
    };
    if output.stdout.is_empty() {
        return Ok(());
    }
    write("\n")?;
    write(&String::from_utf8_lossy(&output.stdout))
}
