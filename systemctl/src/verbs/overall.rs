//! `status` without a unit: the machine.

use super::status::write;
use crate::backend::{number, text};
use crate::cli::{Context, Outcome};
use crate::format::table::{self, Colour, paint};
use crate::format::time::{self, Zone};
use crate::format::tree;

/// State, counts and the tree of all processes.
pub(super) fn overall(context: &mut Context, zone: &Zone) -> Outcome {
    let manager = context.backend.manager()?;
    let state = text(&manager, "SystemState");
    let colour = match state {
        "running" => Colour::Green,
        "degraded" | "maintenance" => Colour::Red,
        _ => Colour::Yellow,
    };
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let mut out = format!("{} {host}\n", paint(colour, "\u{25cf}"));
    let narrow = |out: &mut String, label: &str, value: &str| {
        out.push_str(&format!("{label:>9}: {value}\n"));
    };
    narrow(&mut out, "State", &paint(colour, state));
    let units = context.list(Vec::new(), Vec::new())?.len();
    narrow(
        &mut out,
        "Units",
        &format!("{units} loaded (incl. loaded aliases)"),
    );
    narrow(
        &mut out,
        "Jobs",
        &format!("{} queued", number(&manager, "NJobs")),
    );
    narrow(
        &mut out,
        "Failed",
        &format!("{} units", number(&manager, "NFailedUnits")),
    );
    let since = number(&manager, "UserspaceTimestamp");
    if since != 0 {
        let moment = time::timestamp(since, zone);
        narrow(
            &mut out,
            "Since",
            &format!("{moment}; {}", time::relative(since, time::now())),
        );
    }
    narrow(&mut out, "systemd", text(&manager, "Version"));
    let tainted = text(&manager, "Tainted");
    if !tainted.is_empty() {
        narrow(&mut out, "Tainted", tainted);
    }
    let group = text(&manager, "ControlGroup");
    narrow(
        &mut out,
        "CGroup",
        if group.is_empty() { "/" } else { group },
    );
    let processes = context.backend.processes("-.slice")?;
    let width = if context.options.full {
        None
    } else {
        table::width()
    };
    for text in tree::lines(group, &processes, &" ".repeat(11), width) {
        out.push_str(&text);
        out.push('\n');
    }
    write(&out)?;
    Ok(0)
}
