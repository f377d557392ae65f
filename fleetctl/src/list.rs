//! The three lists.

use std::collections::BTreeMap;

use fleet_model::wire::flotilla;
use fleet_model::{UnitFile, wire};
use serde_json::{Value, json};

use crate::api::Client;
use crate::cli::{List, ListMachines, ListUnitFiles, ListUnits};
use crate::error::Failure;
use crate::out::Out;
use crate::table::layout;
use crate::units::is_global;

type Machines = BTreeMap<String, wire::Machine>;

/// A column: its name and how a row's cell is made.
type Column<T> = (&'static str, fn(&Context, &T) -> String);

/// What cells are made of, beside the row.
#[derive(Debug, Default)]
struct Context {
    full: bool,
    machines: Machines,
    runs: Runs,
}

/// Machines by ID.
pub(crate) fn machines_by_id(client: &Client) -> Result<Machines, Failure> {
    Ok(client
        .machines()?
        .into_iter()
        .map(|m| (m.id.clone(), m))
        .collect())
}

/// A machine as people read it: beginning of the ID and address, or `-`.
pub(crate) fn legend(id: &str, machines: &Machines, full: bool) -> String {
    if id.is_empty() {
        return "-".to_owned();
    }
    let short = short_id(id, full);
    match machines
        .get(id)
        .map(|m| m.primary_ip.as_str())
        .filter(|ip| !ip.is_empty())
    {
        Some(ip) => format!("{short}/{ip}"),
        None => short,
    }
}

/// An ID, shortened unless asked not to.
pub(crate) fn short_id(id: &str, full: bool) -> String {
    match id.get(..8) {
        Some(short) if !full && id.len() > 8 => format!("{short}..."),
        _ => id.to_owned(),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

fn short_hash(hash: &str, full: bool) -> String {
    or_dash(if full {
        hash
    } else {
        hash.get(..7).unwrap_or(hash)
    })
}

/// The columns that are asked for, in their order.
fn choose<T>(fields: &str, columns: &[Column<T>]) -> Result<Vec<Column<T>>, Failure> {
    if fields.is_empty() {
        return Err(Failure::Refused("must define output format".into()));
    }
    let column = |field: &str| {
        let bad = || Failure::Refused(format!("Invalid key in output format: \"{field}\""));
        columns
            .iter()
            .find(|(name, _)| *name == field)
            .copied()
            .ok_or_else(bad)
    };
    fields.split(',').map(column).collect()
}

fn has<T>(columns: &[Column<T>], names: &[&str]) -> bool {
    columns.iter().any(|(name, _)| names.contains(name))
}

fn print<T>(out: &Out, args: &List, context: &Context, columns: &[Column<T>], rows: &[T]) {
    let mut table = Vec::new();
    if !args.no_legend {
        table.push(
            columns
                .iter()
                .map(|(name, _)| name.to_uppercase())
                .collect(),
        );
    }
    table.extend(
        rows.iter()
            .map(|row| columns.iter().map(|(_, cell)| cell(context, row)).collect()),
    );
    if !out.is_json() {
        print!("{}", layout(&table));
    }
}

const UNITS: [Column<wire::UnitState>; 6] = [
    ("unit", |_, s| s.name.clone()),
    ("load", |_, s| or_dash(&s.systemd_load_state)),
    ("active", |_, s| or_dash(&s.systemd_active_state)),
    ("sub", |_, s| or_dash(&s.systemd_sub_state)),
    ("machine", |c, s| legend(&s.machine_id, &c.machines, c.full)),
    ("hash", |c, s| short_hash(&s.hash, c.full)),
];

/// `list-units`.
pub(crate) fn units(client: &Client, out: &Out, args: &ListUnits) -> Result<(), Failure> {
    let columns = choose(&args.fields, &UNITS)?;
    let states = client.states(None)?;
    let mut context = Context {
        full: args.list.full,
        ..Context::default()
    };
    if has(&columns, &["machine"]) && !out.is_json() {
        context.machines = machines_by_id(client)?;
    }
    let unit = |s: &wire::UnitState| {
        json!({"unit": s.name, "machine": s.machine_id, "load": s.systemd_load_state,
            "active": s.systemd_active_state, "sub": s.systemd_sub_state, "hash": s.hash})
    };
    out.document(json!({"units": states.iter().map(unit).collect::<Vec<_>>()}));
    print(out, &args.list, &context, &columns, &states);
    Ok(())
}

/// A unit with what its text says.
struct Described {
    unit: wire::Unit,
    file: UnitFile,
    global: bool,
}

/// On how many machines a unit is active, of how many that have it.
type Runs = BTreeMap<String, (usize, usize)>;

fn count_runs(client: &Client) -> Result<Runs, Failure> {
    let mut runs = Runs::new();
    for state in client.states(None)? {
        let (active, all) = runs.entry(state.name).or_default();
        *active += usize::from(state.systemd_active_state == "active");
        *all += 1;
    }
    Ok(runs)
}

fn target(context: &Context, d: &Described) -> String {
    match d.global {
        true => "global".to_owned(),
        false => legend(&d.unit.machine_id, &context.machines, context.full),
    }
}

fn runs(context: &Context, d: &Described) -> String {
    match context.runs.get(&d.unit.name) {
        Some((active, all)) => format!("{active}/{all}"),
        None => "-".to_owned(),
    }
}

const UNIT_FILES: [Column<Described>; 9] = [
    ("unit", |_, d| d.unit.name.clone()),
    ("hash", |c, d| short_hash(&d.file.hash(), c.full)),
    ("dstate", |_, d| or_dash(&d.unit.desired_state)),
    ("state", |_, d| {
        if d.global {
            "-".to_owned()
        } else {
            or_dash(&d.unit.current_state)
        }
    }),
    ("target", target),
    ("tmachine", target),
    ("global", |_, d| d.global.to_string()),
    ("desc", |_, d| or_dash(d.file.description())),
    ("runs", runs),
];

/// `list-unit-files`.
pub(crate) fn unit_files(client: &Client, out: &Out, args: &ListUnitFiles) -> Result<(), Failure> {
    let columns = choose(&args.fields, &UNIT_FILES)?;
    if has(&columns, &["tmachine"]) {
        eprintln!("WARNING: The \"tmachine\" field is deprecated. Use \"target\" instead");
    }
    let describe = |unit: wire::Unit| {
        let file = UnitFile::from_options(unit.options.clone()).unwrap_or_default();
        let global = is_global(&unit);
        Described { unit, file, global }
    };
    let units: Vec<Described> = client.units()?.into_iter().map(describe).collect();
    let mut context = Context {
        full: args.list.full,
        ..Context::default()
    };
    if has(&columns, &["target", "tmachine"]) && !out.is_json() {
        context.machines = machines_by_id(client)?;
    }
    if has(&columns, &["runs"]) || out.is_json() {
        context.runs = count_runs(client)?;
    }
    let unit = |d: &Described| describe_json(d, &context.runs);
    out.document(json!({"unit_files": units.iter().map(unit).collect::<Vec<_>>()}));
    print(out, &args.list, &context, &columns, &units);
    Ok(())
}

fn describe_json(d: &Described, runs: &Runs) -> Value {
    let mut out = json!({"unit": d.unit.name, "hash": d.file.hash(),
        "desired_state": d.unit.desired_state, "global": d.global});
    let optional = [
        ("state", d.unit.current_state.as_str()),
        ("machine", d.unit.machine_id.as_str()),
        ("description", d.file.description()),
    ];
    for (key, value) in optional.into_iter().filter(|(_, v)| !v.is_empty()) {
        out[key] = Value::from(value);
    }
    if let Some((active, all)) = runs.get(&d.unit.name) {
        out["active"] = Value::from(*active);
        out["machines"] = Value::from(*all);
    }
    out
}

/// A machine, with what only Flotilla's API tells if it was asked for.
struct Row {
    machine: wire::Machine,
    more: Option<flotilla::Machine>,
}

impl Row {
    /// A cell of what only Flotilla's API tells.
    fn more(&self, cell: impl Fn(&flotilla::Machine) -> String) -> String {
        self.more
            .as_ref()
            .map_or_else(|| "-".to_owned(), |more| or_dash(&cell(more)))
    }
}

/// The columns that v1 knows.
const PLAIN: [&str; 3] = ["machine", "ip", "metadata"];

fn metadata(_: &Context, row: &Row) -> String {
    let pairs = row.machine.metadata.iter().map(|(k, v)| format!("{k}={v}"));
    or_dash(&pairs.collect::<Vec<_>>().join(","))
}

const MACHINES: [Column<Row>; 8] = [
    ("machine", |c, r| short_id(&r.machine.id, c.full)),
    ("ip", |_, r| or_dash(&r.machine.primary_ip)),
    ("metadata", metadata),
    ("version", |_, r| r.more(|m| m.version.clone())),
    ("state", |_, r| r.more(|m| machine_state(m).to_owned())),
    ("units", |_, r| r.more(|m| m.units.to_string())),
    ("memory", |_, r| r.more(memory)),
    ("cpus", |_, r| r.more(cpus)),
];

/// `list-machines`.
pub(crate) fn machines(client: &Client, out: &Out, args: &ListMachines) -> Result<(), Failure> {
    let columns = choose(&args.fields, &MACHINES)?;
    let machines = client.machines()?;
    let asked = columns.iter().any(|(name, _)| !PLAIN.contains(name));
    let infos = match asked || out.is_json() {
        true => client.machine_infos(),
        false => Ok(Vec::new()),
    };
    let infos = match infos {
        // As JSON, what is not known is left out.
        Err(Failure::TooOld { .. }) if !asked => Vec::new(),
        infos => infos?,
    };
    let more: BTreeMap<_, _> = infos.into_iter().map(|m| (m.id.clone(), m)).collect();
    let row = |machine: wire::Machine| Row {
        more: more.get(&machine.id).cloned(),
        machine,
    };
    let rows: Vec<Row> = machines.into_iter().map(row).collect();
    out.document(json!({"machines": rows.iter().map(machine_json).collect::<Vec<_>>()}));
    let context = Context {
        full: args.list.full,
        ..Context::default()
    };
    print(out, &args.list, &context, &columns, &rows);
    Ok(())
}

fn machine_state(machine: &flotilla::Machine) -> &'static str {
    match (machine.draining, machine.cordoned) {
        (true, _) => "draining",
        (false, true) => "cordoned",
        (false, false) => "ready",
    }
}

/// Reserved and offered, where it is known what is offered.
fn memory(machine: &flotilla::Machine) -> String {
    let mebibytes = |bytes: u64| format!("{}M", bytes >> 20);
    let reserved = mebibytes(machine.reserved_memory_bytes);
    let offer = machine.memory_bytes.map(mebibytes);
    offer.map_or_else(String::new, |offer| format!("{reserved}/{offer}"))
}

fn cpus(machine: &flotilla::Machine) -> String {
    let reserved = machine.reserved_cpus;
    machine
        .cpus
        .map_or_else(String::new, |offer| format!("{reserved}/{offer}"))
}

fn machine_json(row: &Row) -> Value {
    let machine = &row.machine;
    let mut out = json!({"machine": machine.id, "metadata": machine.metadata});
    if !machine.primary_ip.is_empty() {
        out["ip"] = Value::from(machine.primary_ip.as_str());
    }
    let Some(more) = &row.more else { return out };
    out["state"] = Value::from(machine_state(more));
    out["units"] = json!(more.units);
    out["reserved_memory_bytes"] = json!(more.reserved_memory_bytes);
    out["reserved_cpus"] = json!(more.reserved_cpus);
    if !more.version.is_empty() {
        out["version"] = Value::from(more.version.as_str());
    }
    if let Some(bytes) = more.memory_bytes {
        out["memory_bytes"] = Value::from(bytes);
    }
    if let Some(cpus) = more.cpus {
        out["cpus"] = json!(cpus);
    }
    out
}
