//! The three lists.

use std::collections::BTreeMap;

use fleet_model::{Requirements, UnitFile, UnitName, wire};
use serde_json::{Value, json};

use crate::api::Client;
use crate::cli::List;
use crate::error::Failure;
use crate::table::layout;

type Machines = BTreeMap<String, wire::Machine>;

/// A column: its name and how a row's cell is made.
type Column<'a, T> = (&'static str, Box<dyn Fn(&T) -> String + 'a>);

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

fn short_id(id: &str, full: bool) -> String {
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

/// Prints the columns asked for.
fn print<T>(
    args: &List,
    default: &str,
    columns: &[Column<'_, T>],
    rows: &[T],
) -> Result<(), Failure> {
    let fields = args.fields.as_deref().unwrap_or(default);
    if fields.is_empty() {
        return Err(Failure::Refused("must define output format".into()));
    }
    let mut chosen = Vec::new();
    for field in fields.split(',') {
        let column = columns
            .iter()
            .find(|(name, _)| *name == field)
            .ok_or_else(|| {
                Failure::Refused(format!("Invalid key in output format: \"{field}\""))
            })?;
        chosen.push(column);
    }
    let mut table = Vec::new();
    if !args.no_legend {
        table.push(chosen.iter().map(|(name, _)| name.to_uppercase()).collect());
    }
    table.extend(
        rows.iter()
            .map(|row| chosen.iter().map(|(_, cell)| cell(row)).collect()),
    );
    print!("{}", layout(&table));
    Ok(())
}

/// `list-units`.
pub(crate) fn units(client: &Client, args: &List) -> Result<(), Failure> {
    let states = client.states(None)?;
    if args.json {
        let unit = |s: &wire::UnitState| {
            json!({"unit": s.name, "machine": s.machine_id, "load": s.systemd_load_state,
                "active": s.systemd_active_state, "sub": s.systemd_sub_state, "hash": s.hash})
        };
        return print_json("units", states.iter().map(unit).collect());
    }
    let machines = machines_by_id(client)?;
    let full = args.full;
    let columns: [Column<'_, wire::UnitState>; 6] = [
        ("unit", Box::new(|s| s.name.clone())),
        ("load", Box::new(|s| or_dash(&s.systemd_load_state))),
        ("active", Box::new(|s| or_dash(&s.systemd_active_state))),
        ("sub", Box::new(|s| or_dash(&s.systemd_sub_state))),
        (
            "machine",
            Box::new(|s| legend(&s.machine_id, &machines, full)),
        ),
        ("hash", Box::new(|s| short_hash(&s.hash, full))),
    ];
    print(args, "unit,machine,active,sub", &columns, &states)
}

/// A unit with what its text says.
struct Described {
    unit: wire::Unit,
    file: UnitFile,
    global: bool,
}

/// `list-unit-files`.
pub(crate) fn unit_files(client: &Client, args: &List) -> Result<(), Failure> {
    let describe = |unit: wire::Unit| {
        let file = UnitFile::from_options(unit.options.clone()).unwrap_or_default();
        let global =
            UnitName::parse(&unit.name).is_ok_and(|name| Requirements::of(&name, &file).global);
        Described { unit, file, global }
    };
    let units: Vec<Described> = client.units()?.into_iter().map(describe).collect();
    if args.json {
        let unit = |d: &Described| {
            let mut out = json!({"unit": d.unit.name, "hash": d.file.hash(),
                "desired_state": d.unit.desired_state, "global": d.global});
            let optional = [
                ("state", &d.unit.current_state),
                ("machine", &d.unit.machine_id),
            ];
            for (key, value) in optional.into_iter().filter(|(_, v)| !v.is_empty()) {
                out[key] = Value::from(value.as_str());
            }
            out
        };
        return print_json("unit_files", units.iter().map(unit).collect());
    }
    let machines = machines_by_id(client)?;
    let full = args.full;
    let target = |d: &Described| match d.global {
        true => "global".to_owned(),
        false => legend(&d.unit.machine_id, &machines, full),
    };
    let columns: [Column<'_, Described>; 8] = [
        ("unit", Box::new(|d| d.unit.name.clone())),
        ("hash", Box::new(|d| short_hash(&d.file.hash(), full))),
        ("dstate", Box::new(|d| or_dash(&d.unit.desired_state))),
        (
            "state",
            Box::new(|d| {
                if d.global {
                    "-".into()
                } else {
                    or_dash(&d.unit.current_state)
                }
            }),
        ),
        ("target", Box::new(target)),
        ("tmachine", Box::new(target)),
        ("global", Box::new(|d| d.global.to_string())),
        ("desc", Box::new(|d| or_dash(d.file.description()))),
    ];
    print(args, "unit,hash,dstate,state,target", &columns, &units)
}

/// `list-machines`.
pub(crate) fn machines(client: &Client, args: &List) -> Result<(), Failure> {
    let machines = client.machines()?;
    if args.json {
        let machine = |m: &wire::Machine| {
            let mut out = json!({"machine": m.id, "metadata": m.metadata});
            if !m.primary_ip.is_empty() {
                out["ip"] = Value::from(m.primary_ip.as_str());
            }
            out
        };
        return print_json("machines", machines.iter().map(machine).collect());
    }
    let full = args.full;
    let metadata = |m: &wire::Machine| {
        let pairs: Vec<String> = m.metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
        or_dash(&pairs.join(","))
    };
    let columns: [Column<'_, wire::Machine>; 3] = [
        ("machine", Box::new(|m| short_id(&m.id, full))),
        ("ip", Box::new(|m| or_dash(&m.primary_ip))),
        ("metadata", Box::new(metadata)),
    ];
    print(args, "machine,ip,metadata", &columns, &machines)
}

fn print_json(name: &str, items: Vec<Value>) -> Result<(), Failure> {
    println!("{}", json!({ name: items }));
    Ok(())
}
