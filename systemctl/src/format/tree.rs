//! The tree of control groups and processes of `status`.

use std::collections::BTreeMap;

use dbus_api::systemd1::Process;

#[derive(Debug, Default)]
struct Group {
    processes: Vec<(u32, String)>,
    children: BTreeMap<String, Group>,
}

/// Lines of the tree below `root`; each begins with `prefix`. `width` cuts them.
pub(crate) fn lines(
    root: &str,
    processes: &[Process],
    prefix: &str,
    width: Option<usize>,
) -> Vec<String> {
    let mut top = Group::default();
    for process in processes {
        let below = process
            .control_group
            .strip_prefix(root.trim_end_matches('/'))
            .unwrap_or_default();
        let mut group = &mut top;
        for part in below.split('/').filter(|part| !part.is_empty()) {
            group = group.children.entry(part.to_owned()).or_default();
        }
        group
            .processes
            .push((process.pid, process.command_line.clone()));
    }
    let mut out = Vec::new();
    draw(&mut top, prefix, width, &mut out);
    out
}

fn draw(group: &mut Group, prefix: &str, width: Option<usize>, out: &mut Vec<String>) {
    group.processes.sort();
    let digits = group
        .processes
        .last()
        .map_or(1, |(pid, _)| pid.to_string().len());
    let total = group.processes.len();
    for (index, (pid, line)) in group.processes.iter().enumerate() {
        let branch = if index + 1 < total || !group.children.is_empty() {
            "├─"
        } else {
            "└─"
        };
        let line = format!("{prefix}{branch}{pid:>digits$} {line}");
        out.push(width.map_or_else(
            || line.clone(),
            |width| super::table::ellipsize(&line, width),
        ));
    }
    let total = group.children.len();
    for (index, (name, child)) in group.children.iter_mut().enumerate() {
        let (branch, below) = if index + 1 < total {
            ("├─", "│ ")
        } else {
            ("└─", "  ")
        };
        out.push(format!("{prefix}{branch}{name}"));
        draw(child, &format!("{prefix}{below}"), width, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested() {
        let process = |group: &str, pid, line: &str| Process {
            control_group: group.into(),
            pid,
            command_line: line.into(),
        };
        let list = [
            process("/s/a.service", 120, "main"),
            process("/s/a.service", 7, "helper"),
            process("/s/a.service/x", 8, "in x"),
            process("/s/a.service/y/z", 9, "in z"),
        ];
        assert_eq!(
            lines("/s/a.service", &list, "  ", None),
            [
                "  ├─  7 helper",
                "  ├─120 main",
                "  ├─x",
                "  │ └─8 in x",
                "  └─y",
                "    └─z",
                "      └─9 in z"
            ]
        );
    }
}
