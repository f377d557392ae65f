//! `import`: takes the units of an original fleet cluster over.
//!
//! - [`etcd2`]: reading the old registry through etcd's v2 API. Nothing is ever written there.
//! - [`plan`]: what to do with each unit; a pure function.
//!
//! Units that exist here are never touched unless `--replace` says so, and then only where the text
//! differs. Everything is checked before anything is written.

mod etcd2;
mod plan;

use std::collections::BTreeMap;
use std::rc::Rc;

use fleet_model::wire;
use serde_json::json;

use crate::api::Client;
use crate::cli::{Global, Import};
use crate::error::Failure;
use crate::net::ssh::Ssh;
use crate::net::{Endpoint, Login, Transport};
use crate::out::Out;
use crate::table::layout;
use plan::{Action, Existing, Options, Plan};

/// `import`.
pub(crate) fn run(
    client: &Client,
    out: &Out,
    global: &Global,
    args: &Import,
) -> Result<(), Failure> {
    let login = login(args)?;
    let old = etcd2::read(
        &transport(global, &args.from_etcd2, login)?,
        global.etcd_key_prefix(),
    )?;
    let mut existing = Existing::default();
    for unit in client.units()? {
        let hash = crate::units::file_of(&unit)?.hash();
        existing.units.insert(unit.name, hash);
    }
    for machine in client.machines()? {
        existing.metadata.insert(machine.id, machine.metadata);
    }
    let options = Options {
        replace: args.replace,
        inactive: args.inactive,
        metadata: args.metadata,
    };
    let plan = plan::plan(&old, &existing, options);
    report(out, &plan, args.dry_run);
    if !args.dry_run {
        carry_out(client, &plan)?;
    }
    let refused = plan
        .units
        .iter()
        .filter(|u| u.action == Action::Refused)
        .count();
    summary(out, &plan, args.dry_run);
    match refused {
        0 => Ok(()),
        1 => Err(Failure::Refused("1 unit could not be imported".into())),
        n => Err(Failure::Refused(format!("{n} units could not be imported"))),
    }
}

/// The way to the old etcd: the same certificates, and the same tunnel.
fn transport(global: &Global, url: &str, login: Option<Login>) -> Result<Transport, Failure> {
    let endpoint = Endpoint::parse(url)?;
    if matches!(endpoint, Endpoint::Unix(_)) {
        return Err(Failure::Endpoint {
            endpoint: url.to_owned(),
            reason: "etcd is reached by http:// or https://",
        });
    }
    let ssh = Rc::new(Ssh::new(global.ssh(), global.tunnel())?);
    let transport = Transport::new(
        endpoint,
        ssh,
        &global.tls(),
        global.silence(),
        global.debug(),
    )?;
    Ok(match login {
        Some(login) => transport.with_login(login),
        None => transport,
    })
}

/// Who asks the old etcd. The password is in a file, for command lines can be read by others.
fn login(args: &Import) -> Result<Option<Login>, Failure> {
    let (Some(user), Some(path)) = (&args.etcd2_username, &args.etcd2_password_file) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Read {
        path: path.clone(),
        source,
    })?;
    let password = text.lines().next().unwrap_or_default();
    Ok(Some(Login::basic(user, password)))
}

fn carry_out(client: &Client, plan: &Plan) -> Result<(), Failure> {
    for unit in &plan.units {
        if let (Action::Create | Action::Replace, Some(file)) = (unit.action, &unit.file) {
            client.create(&unit.name, file, unit.target)?;
        }
    }
    let changes: Vec<wire::MetadataPatch> = plan
        .metadata
        .iter()
        .filter(|m| matches!(m.action, Action::Create | Action::Replace))
        .map(|m| wire::MetadataPatch {
            op: if m.value.is_empty() { "remove" } else { "add" }.to_owned(),
            path: format!("/{}/metadata/{}", m.machine, m.key),
            value: (!m.value.is_empty()).then(|| wire::PatchValue::Bare(m.value.clone())),
        })
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    client.set_metadata(&changes)
}

fn report(out: &Out, plan: &Plan, dry_run: bool) {
    let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![row(["UNIT", "ACTION", "TARGET", "NOTE"])];
    for unit in &plan.units {
        let note = if unit.note.is_empty() {
            "-"
        } else {
            &unit.note
        };
        rows.push(row([
            &unit.name,
            unit.action.as_str(),
            unit.target.as_str(),
            note,
        ]));
    }
    let mut text = layout(&rows);
    if !plan.metadata.is_empty() {
        let mut rows = vec![row(["MACHINE", "ACTION", "METADATA", "NOTE"])];
        for m in &plan.metadata {
            let pair = format!("{}={}", m.key, m.value);
            let note = if m.note.is_empty() { "-" } else { &m.note };
            rows.push(row([&m.machine, m.action.as_str(), &pair, note]));
        }
        text.push('\n');
        text.push_str(&layout(&rows));
    }
    out.line(text.trim_end());
    let units: Vec<_> = plan
        .units
        .iter()
        .map(|u| {
            let mut unit =
                json!({"unit": u.name, "action": u.action.as_str(), "target": u.target.as_str()});
            if !u.note.is_empty() {
                unit["note"] = json!(u.note);
            }
            unit
        })
        .collect();
    let metadata: Vec<_> = plan
        .metadata
        .iter()
        .map(|m| json!({"machine": m.machine, "key": m.key, "value": m.value, "action": m.action.as_str()}))
        .collect();
    out.document(json!({"units": units, "metadata": metadata, "dry_run": dry_run}));
}

fn summary(out: &Out, plan: &Plan, dry_run: bool) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for unit in &plan.units {
        *counts.entry(unit.action.as_str()).or_default() += 1;
    }
    let counted: Vec<String> = counts
        .iter()
        .map(|(action, n)| format!("{n} {action}"))
        .collect();
    let counted = if counted.is_empty() {
        "no units found".to_owned()
    } else {
        counted.join(", ")
    };
    let end = if dry_run { "; nothing was written" } else { "" };
    out.line(&format!("\n{counted}{end}"));
}
