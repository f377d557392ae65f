//! The verbs that print tables and trees.

use std::collections::BTreeSet;

use dbus_api::wire::Value;
use init_control::{
    ActiveState, JobEntry, LoadState, Reply, Request, UnitFileEntry, UnitFileRequest, UnitListEntry,
};

use super::by_type;
use super::status::{dot, dot_colour};
use crate::backend::{Failure, Ordered, find, number, strings, text};
use crate::cli::{Context, Outcome};
use crate::format::table::{Colour, Table, paint};
use crate::format::time::{self, Zone};
use crate::names;

impl Context {
    fn patterns(&self, suffix: &str) -> Vec<String> {
        self.args()
            .iter()
            .map(|arg| names::mangle(arg, suffix))
            .collect()
    }

    fn wants_type(&self, name: &str) -> bool {
        let types = &self.options.types;
        let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
        types.is_empty() || types.iter().any(|kind| kind == suffix)
    }

    /// Loaded units to show, in order.
    fn listed(&mut self, suffix: &str) -> Result<Vec<UnitListEntry>, Failure> {
        let states = self.options.wanted_states();
        let by_state = !states.is_empty();
        let patterns = self.patterns(suffix);
        let mut units = self.list(states, patterns)?;
        let all = self.options.all || by_state;
        units.retain(|unit| {
            self.wants_type(&unit.name)
                && (all
                    || unit.job.is_some()
                    || (unit.active != ActiveState::Inactive && unit.following.is_empty()))
        });
        units.sort_by_key(|unit| by_type(&unit.name));
        Ok(units)
    }

    fn print(&self, table: &Table, marks: Option<&[String]>) {
        for line in table.lines(self.options.with_legend(), marks, self.options.full) {
            println!("{}", line.trim_end());
        }
    }
}

/// `list-units`
pub(crate) fn units(context: &mut Context, _: &str) -> Outcome {
    let units = context.listed(".service")?;
    let with_jobs = units.iter().any(|unit| unit.job.is_some());
    let mut heading = vec!["UNIT", "LOAD", "ACTIVE", "SUB"];
    if with_jobs {
        heading.push("JOB");
    }
    heading.push("DESCRIPTION");
    let mut table = Table::new(&heading);
    let mut marks = Vec::new();
    for unit in &units {
        let mark = match (unit.load, unit.active) {
            (
                LoadState::NotFound | LoadState::BadSetting | LoadState::Error | LoadState::Masked,
                _,
            ) => paint(Colour::Yellow, "\u{25cf}"),
            (_, ActiveState::Failed) => paint(Colour::Red, "\u{25cf}"),
            _ => " ".to_owned(),
        };
        marks.push(format!("{mark} "));
        let mut row = vec![
            unit.name.clone(),
            unit.load.to_string(),
            unit.active.to_string(),
            unit.sub.clone(),
        ];
        if with_jobs {
            row.push(
                unit.job
                    .as_ref()
                    .map_or_else(String::new, |job| job.job_type.clone()),
            );
        }
        row.push(unit.description.clone());
        table.push(row);
    }
    let marks = (!context.options.plain).then_some(marks.as_slice());
    context.print(&table, marks);
    if context.options.with_legend() {
        let count = units.len();
        if count > 0 {
            println!("\nLOAD   = Reflects whether the unit definition was properly loaded.");
            println!("ACTIVE = The high-level unit activation state, i.e. generalization of SUB.");
            println!("SUB    = The low-level unit activation state, values depend on unit type.");
            if with_jobs {
                println!("JOB    = Pending job for the unit.");
            }
        }
        if context.options.wanted_states().is_empty() {
            let hint = if context.options.all {
                ""
            } else {
                " Pass --all to see loaded but inactive units, too."
            };
            println!("{count} loaded units listed.{hint}");
            println!("To show all installed unit files use 'systemctl list-unit-files'.");
        } else {
            println!("{count} loaded units listed.");
        }
    }
    Ok(0)
}

/// `list-unit-files`
pub(crate) fn unit_files(context: &mut Context, _: &str) -> Outcome {
    let request = UnitFileRequest::List {
        states: context.options.wanted_states(),
        patterns: context.patterns(".service"),
    };
    let Reply::UnitFiles(mut files) = context.backend.ask(Request::UnitFiles(request))? else {
        return Err(Failure::unexpected());
    };
    let name = |file: &UnitFileEntry| file.path.rsplit('/').next().unwrap_or_default().to_owned();
    files.retain(|file| context.wants_type(&name(file)));
    files.sort_by_key(|file| by_type(&name(file)));
    let mut table = Table::new(&["UNIT FILE", "STATE", "PRESET"]);
    for file in &files {
        let preset = if file.preset.is_empty() {
            "-"
        } else {
            &file.preset
        };
        table.push(vec![name(file), file.state.to_string(), preset.to_owned()]);
    }
    context.print(&table, None);
    if context.options.with_legend() {
        println!("\n{} unit files listed.", files.len());
    }
    Ok(0)
}

/// `list-jobs`
pub(crate) fn jobs(context: &mut Context, _: &str) -> Outcome {
    let Reply::Jobs(mut jobs) = context.backend.ask(Request::ListJobs)? else {
        return Err(Failure::unexpected());
    };
    let patterns = context.patterns(".service");
    jobs.retain(|job| {
        patterns.is_empty()
            || patterns
                .iter()
                .any(|pattern| names::matches(pattern, &job.unit))
    });
    jobs.sort_by_key(|job: &JobEntry| job.id);
    if jobs.is_empty() {
        if context.options.with_legend() {
            println!(
                "No jobs {}.",
                if patterns.is_empty() {
                    "running"
                } else {
                    "listed"
                }
            );
        }
        return Ok(0);
    }
    let mut table = Table::new(&["JOB", "UNIT", "TYPE", "STATE"]);
    for job in &jobs {
        let state = if job.running { "running" } else { "waiting" };
        table.push(vec![
            job.id.to_string(),
            job.unit.clone(),
            job.job_type.clone(),
            state.to_owned(),
        ]);
    }
    context.print(&table, None);
    if context.options.with_legend() {
        println!("\n{} jobs listed.", jobs.len());
    }
    Ok(0)
}

/// The units of one type with their properties.
fn of_type(context: &mut Context, suffix: &str) -> Result<Vec<(String, Ordered)>, Failure> {
    let units = context.listed(suffix)?;
    let mut out = Vec::new();
    for unit in units.into_iter().filter(|unit| unit.name.ends_with(suffix)) {
        let properties = context.backend.properties(&unit.name)?;
        out.push((unit.name, properties));
    }
    Ok(out)
}

/// `list-sockets`
pub(crate) fn sockets(context: &mut Context, _: &str) -> Outcome {
    let units = of_type(context, ".socket")?;
    let with_types = context.options.show_types;
    let mut rows = Vec::new();
    for (name, properties) in &units {
        let triggered = strings(properties, "Triggers").join(", ");
        for pair in find(properties, "Listen")
            .and_then(Value::items)
            .unwrap_or_default()
        {
            let [kind, address] = pair.items().unwrap_or_default() else {
                continue;
            };
            let (kind, address) = (
                kind.as_str().unwrap_or_default(),
                address.as_str().unwrap_or_default(),
            );
            rows.push((
                address.to_owned(),
                kind.to_owned(),
                name.clone(),
                triggered.clone(),
            ));
        }
    }
    rows.sort();
    let heading: &[&str] = if with_types {
        &["LISTEN", "TYPE", "UNIT", "ACTIVATES"]
    } else {
        &["LISTEN", "UNIT", "ACTIVATES"]
    };
    let mut table = Table::new(heading);
    for (address, kind, unit, triggers) in rows {
        table.push(if with_types {
            vec![address, kind, unit, triggers]
        } else {
            vec![address, unit, triggers]
        });
    }
    context.print(&table, None);
    if context.options.with_legend() {
        println!("\n{} sockets listed.", table.len());
        all_hint(context, "sockets");
    }
    Ok(0)
}

fn all_hint(context: &Context, what: &str) {
    if !context.options.all {
        println!("Pass --all to see loaded but inactive {what}, too.");
    }
}

/// `list-timers`
pub(crate) fn timers(context: &mut Context, _: &str) -> Outcome {
    let zone = Zone::local();
    let (now, now_monotonic) = (time::now(), time::monotonic());
    let mut rows = Vec::new();
    for (name, properties) in of_type(context, ".timer")? {
        let realtime = number(&properties, "NextElapseUSecRealtime");
        let monotonic = number(&properties, "NextElapseUSecMonotonic");
        let from_monotonic = match monotonic {
            0 | u64::MAX => None,
            at if at > now_monotonic => Some(now.saturating_add(at - now_monotonic)),
            at => Some(now.saturating_sub(now_monotonic - at)),
        };
        let next = [
            Some(realtime).filter(|at| !matches!(at, 0 | &u64::MAX)),
            from_monotonic,
        ]
        .into_iter()
        .flatten()
        .min();
        let last = Some(number(&properties, "LastTriggerUSec")).filter(|at| *at != 0);
        rows.push((
            next.unwrap_or(u64::MAX),
            name,
            last,
            strings(&properties, "Triggers").join(", "),
        ));
    }
    rows.sort();
    let mut table = Table::new(&["NEXT", "LEFT", "LAST", "PASSED", "UNIT", "ACTIVATES"]);
    for (next, name, last, triggers) in rows {
        let moment = |at: u64| (time::timestamp(at, &zone), time::relative(at, now));
        let nothing = || ("-".to_owned(), "-".to_owned());
        let (next, left) = if next == u64::MAX {
            nothing()
        } else {
            moment(next)
        };
        let (last, passed) = last.map_or_else(nothing, moment);
        table.push(vec![next, left, last, passed, name, triggers]);
    }
    context.print(&table, None);
    if context.options.with_legend() {
        println!("\n{} timers listed.", table.len());
        all_hint(context, "timers");
    }
    Ok(0)
}

/// `list-automounts`
pub(crate) fn automounts(context: &mut Context, _: &str) -> Outcome {
    let mut table = Table::new(&["WHAT", "WHERE", "MOUNTED", "IDLE TIMEOUT", "UNIT"]);
    for (name, properties) in of_type(context, ".automount")? {
        let place = text(&properties, "Where").to_owned();
        let mount = context
            .backend
            .properties(&names::mangle(&place, ".mount"))?;
        let mounted = if text(&mount, "ActiveState") == "active" {
            "yes"
        } else {
            "no"
        };
        let idle = time::span(number(&properties, "TimeoutIdleUSec"), 1);
        table.push(vec![
            text(&mount, "What").to_owned(),
            place,
            mounted.to_owned(),
            idle,
            name,
        ]);
    }
    context.print(&table, None);
    if context.options.with_legend() {
        println!("\n{} automounts listed.", table.len());
        all_hint(context, "automounts");
    }
    Ok(0)
}

/// `list-dependencies [UNIT …]`
pub(crate) fn dependencies(context: &mut Context, _: &str) -> Outcome {
    let args = context.args();
    let args = if args.is_empty() {
        vec!["default.target".to_owned()]
    } else {
        args
    };
    for (index, unit) in context.units(&args, ".service")?.into_iter().enumerate() {
        if index > 0 {
            println!();
        }
        let properties = context.backend.properties(&unit)?;
        // An alias is shown by its name.
        println!("{}", text(&properties, "Id"));
        let mut path = vec![text(&properties, "Id").to_owned()];
        let mut seen = BTreeSet::new();
        branch(context, &properties, &mut path, &mut seen, &[])?;
    }
    Ok(0)
}

fn kinds(context: &Context) -> &'static [&'static str] {
    match (
        context.options.reverse,
        context.options.before,
        context.options.after,
    ) {
        (_, true, _) => &["Before"],
        (_, _, true) => &["After"],
        (true, ..) => &[
            "RequiredBy",
            "RequisiteOf",
            "WantedBy",
            "BoundBy",
            "PartOf",
            "UpheldBy",
        ],
        _ => &[
            "Requires",
            "Requisite",
            "Wants",
            "BindsTo",
            "ConsistsOf",
            "Upholds",
        ],
    }
}

/// One level; `levels` says for each level above whether more follows there.
fn branch(
    context: &mut Context,
    properties: &Ordered,
    path: &mut Vec<String>,
    seen: &mut BTreeSet<String>,
    levels: &[bool],
) -> Result<(), Failure> {
    let mut units: Vec<String> = kinds(context)
        .iter()
        .flat_map(|kind| strings(properties, kind))
        .collect();
    units.sort_by(|a, b| by_dependency_order(a, b));
    units.dedup();
    let plain = context.options.plain;
    if plain {
        units.retain(|unit| seen.insert(unit.clone()));
    }
    let count = units.len();
    for (index, unit) in units.into_iter().enumerate() {
        let details = context.backend.properties(&unit)?;
        let more = index + 1 < count;
        let state = text(&details, "ActiveState").to_owned();
        let mut line = String::new();
        if plain {
            line.push_str(&"  ".repeat(levels.len() + 1));
        } else {
            line.push_str(&paint(dot_colour(&state), dot(&state)));
            line.push(' ');
            for level in levels {
                line.push_str(if *level { "\u{2502} " } else { "  " });
            }
            line.push_str(if more {
                "\u{251c}\u{2500}"
            } else {
                "\u{2514}\u{2500}"
            });
        }
        println!("{line}{unit}");
        let goes_down = context.options.all || unit.ends_with(".target");
        if goes_down && !path.contains(&unit) {
            path.push(unit);
            let below: Vec<bool> = levels.iter().copied().chain([more]).collect();
            branch(context, &details, path, seen, &below)?;
            path.pop();
        }
    }
    Ok(())
}

/// Targets last, else by name.
fn by_dependency_order(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |name: &str| (name.ends_with(".target"), name.to_owned());
    key(a).cmp(&key(b))
}
