//! `explain`: why a unit is where it is, or nowhere.

use std::collections::BTreeMap;

use fleet_model::mangle;
use fleet_model::wire::flotilla::{Candidate, Explanation};
use serde_json::{Value, json};

use crate::api::Client;
use crate::cli::OneUnit;
use crate::error::Failure;
use crate::list::short_id;
use crate::out::Out;
use crate::table::layout;

/// What a unit waits for, in one line; `None` if it does not wait.
pub(crate) fn waits_for(explanation: &Explanation) -> Option<String> {
    if let Some(text) = fits_nowhere(explanation) {
        return Some(text);
    }
    let waiting = explanation.waiting.as_deref().filter(|w| !w.is_empty());
    let unplaced = explanation.machine.is_empty() && explanation.target != "inactive";
    let reason = Some(explanation.reason.as_str()).filter(|r| unplaced && !r.is_empty());
    waiting.or(reason).map(str::to_owned)
}

/// Why no machine can take a unit that is wanted, counted by obstacle: there may be many machines.
fn fits_nowhere(explanation: &Explanation) -> Option<String> {
    if !explanation.machine.is_empty() || explanation.target == "inactive" {
        return None;
    }
    let obstacles = obstacles(&explanation.machines);
    (!obstacles.is_empty()).then(|| format!("no machine fits: {obstacles}"))
}

/// What is in the way on how many machines, where none fits.
fn obstacles(machines: &[Candidate]) -> String {
    if machines.iter().any(|m| m.fits) {
        return String::new();
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for machine in machines.iter().filter(|m| !m.obstacle.is_empty()) {
        *counts.entry(&machine.obstacle).or_default() += 1;
    }
    let count = |(obstacle, count): (&str, usize)| match count {
        1 => format!("1 machine: {obstacle}"),
        count => format!("{count} machines: {obstacle}"),
    };
    counts.into_iter().map(count).collect::<Vec<_>>().join("; ")
}

/// `explain`.
pub(crate) fn run(client: &Client, out: &Out, args: &OneUnit) -> Result<(), Failure> {
    let name = mangle(&args.unit);
    let Some(explain) = client.explain(&name)? else {
        return Err(Failure::NotFound { name });
    };
    out.document(document(&explain));
    out.line(text(&name, &explain).trim_end());
    Ok(())
}

fn text(name: &str, explain: &Explanation) -> String {
    let place = match explain.machine.as_str() {
        "" => "on no machine".to_owned(),
        id => {
            let ip = explain
                .machines
                .iter()
                .find(|m| m.id == id)
                .map_or("", |m| m.ip.as_str());
            let slash = if ip.is_empty() { "" } else { "/" };
            format!("on {}{slash}{ip}", short_id(id, false))
        }
    };
    let mut text = format!("Unit {name}: {} is wanted, {place}\n", explain.target);
    let why = fits_nowhere(explain).unwrap_or_else(|| explain.reason.clone());
    if !why.is_empty() {
        text.push_str(&format!("Why: {why}\n"));
    }
    let waiting = explain.waiting.as_deref().filter(|w| !w.is_empty());
    if let Some(waiting) = waiting.filter(|w| *w != explain.reason) {
        text.push_str(&format!("Waits for: {waiting}\n"));
    }
    if !explain.machines.is_empty() {
        let cells = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
        let mut rows = vec![cells(["MACHINE", "IP", "LOAD", "FITS", "OBSTACLE"])];
        for machine in &explain.machines {
            rows.push(cells([
                &short_id(&machine.id, false),
                dash(&machine.ip),
                &machine.load.to_string(),
                if machine.fits { "yes" } else { "no" },
                &remark(machine),
            ]));
        }
        text.push('\n');
        text.push_str(&layout(&rows));
    }
    text
}

/// What is in the way on a machine, or else speaks against it.
fn remark(machine: &Candidate) -> String {
    match (machine.obstacle.as_str(), machine.failures) {
        ("", 0) => "-".to_owned(),
        ("", 1) => "none, but has failed there".to_owned(),
        ("", n) => format!("none, but has failed there {n} times"),
        (obstacle, _) => obstacle.to_owned(),
    }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn document(explain: &Explanation) -> Value {
    let machine = |m: &Candidate| {
        let mut out = json!({"machine": m.id, "fits": m.fits, "load": m.load});
        put(&mut out, "ip", &m.ip);
        put(&mut out, "obstacle", &m.obstacle);
        if m.failures > 0 {
            out["failures"] = json!(m.failures);
        }
        out
    };
    let mut out = json!({"unit": explain.unit, "target": explain.target,
        "machines": explain.machines.iter().map(machine).collect::<Vec<_>>()});
    put(&mut out, "machine", &explain.machine);
    put(&mut out, "reason", &explain.reason);
    put(
        &mut out,
        "waiting",
        explain.waiting.as_deref().unwrap_or(""),
    );
    out
}

fn put(out: &mut Value, key: &str, value: &str) {
    if !value.is_empty() {
        out[key] = Value::from(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Explanation {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_a_unit_waits_for_is_one_line() {
        for (json, expect) in [
            (r#"{"target":"launched","machine":"m1"}"#, None),
            (r#"{"target":"inactive","reason":"not wanted"}"#, None),
            (
                r#"{"target":"launched","machine":"m1","waiting":"db.service"}"#,
                Some("db.service"),
            ),
            (
                r#"{"target":"launched","reason":"no machines"}"#,
                Some("no machines"),
            ),
            (r#"{"target":"launched"}"#, None),
            (
                r#"{"target":"launched","machines":[{"id":"a","obstacle":"cordoned"},
                    {"id":"b","obstacle":"conflict with x"},{"id":"c","obstacle":"cordoned"}]}"#,
                Some("no machine fits: 1 machine: conflict with x; 2 machines: cordoned"),
            ),
            (
                r#"{"target":"launched","reason":"nothing fits","machines":[{"id":"a","obstacle":"full"}]}"#,
                Some("no machine fits: 1 machine: full"),
            ),
            (
                r#"{"target":"launched","reason":"soon","machines":[{"id":"a","fits":true},{"id":"b","obstacle":"full"}]}"#,
                Some("soon"),
            ),
        ] {
            assert_eq!(waits_for(&read(json)).as_deref(), expect, "{json}");
        }
    }

    #[test]
    fn an_explanation_is_readable() {
        let explain = read(
            r#"{"unit":"a.service","target":"launched","machine":"0123456789abcdef","reason":"least loaded",
                "machines":[{"id":"0123456789abcdef","ip":"10.0.0.1","fits":true,"load":3},
                {"id":"2123456789abcdef","fits":true,"failures":2,"load":0},
                {"id":"1123456789abcdef","fits":false,"obstacle":"cordoned","failures":1,"load":0}]}"#,
        );
        assert_eq!(
            text("a.service", &explain),
            "Unit a.service: launched is wanted, on 01234567.../10.0.0.1\nWhy: least loaded\n\n\
             MACHINE\t\tIP\t\tLOAD\tFITS\tOBSTACLE\n\
             01234567...\t10.0.0.1\t3\tyes\t-\n\
             21234567...\t-\t\t0\tyes\tnone, but has failed there 2 times\n\
             11234567...\t-\t\t0\tno\tcordoned\n"
        );
        assert_eq!(document(&explain)["machines"][1]["failures"], 2);
        assert!(document(&explain)["machines"][0].get("failures").is_none());
    }
}
