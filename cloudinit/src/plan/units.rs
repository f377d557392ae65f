//! Units of a document, units made from options, converted network files, and what follows them.

use std::path::{Path, PathBuf};

use unit_file::name::escape_path;

use super::{Change, Facts, Weight, text};
use crate::config::{CloudConfig, Coreos, DropIn, Mount, Unit};

/// Where the options of a daemon go.
const DROP_IN: &str = "20-cloudinit.conf";

/// What has to happen after the files.
#[derive(Default)]
struct After {
    reload: bool,
    networkd: bool,
    commands: Vec<Change>,
}

pub(super) fn plan(config: &CloudConfig, facts: &Facts, changes: &mut Vec<Change>) {
    let mut after = After::default();
    for unit in &config.coreos.units {
        plan_unit(unit, false, changes, &mut after);
    }
    for mount in &config.extensions.mounts {
        plan_unit(&mount_unit(mount), false, changes, &mut after);
    }
    for unit in generated(&config.coreos) {
        plan_unit(&unit, true, changes, &mut after);
    }
    for (name, content) in &facts.network_files {
        let unit = Unit {
            name: name.clone(),
            content: content.clone(),
            runtime: true,
            ..Unit::default()
        };
        plan_unit(&unit, true, changes, &mut after);
    }
    // A mask that is put back at once would make every boot a change.
    let masked: Vec<PathBuf> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Link { path, target } if target == Path::new("/dev/null") => Some(path.clone()),
            _ => None,
        })
        .collect();
    changes.retain(|c| !matches!(c, Change::Unmask { path } if masked.contains(path)));
    if after.reload {
        changes.push(Change::Reload);
    }
    if after.networkd {
        changes.push(Change::RestartNetworkd);
    }
    changes.append(&mut after.commands);
}

/// Whether the unit is one of networkd's files.
pub(crate) fn is_network(name: &str) -> bool {
    [".network", ".netdev", ".link"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// The directory of a unit's files.
pub(crate) fn directory(name: &str, runtime: bool) -> PathBuf {
    let base = if runtime { "/run" } else { "/etc" };
    let group = if is_network(name) {
        "network"
    } else {
        "system"
    };
    Path::new(base).join("systemd").join(group)
}

fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= 255
        && !name.chars().any(|c| c == '/' || c.is_control())
}

/// `X.service.d/Y.conf`: a drop-in written as a unit, which an old platform did.
pub(crate) fn drop_in_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((dir, file)) => {
            let unit = dir.strip_suffix(".d").unwrap_or_default();
            plain_name(dir) && unit.contains('.') && plain_name(file) && file.ends_with(".conf")
        }
        None => false,
    }
}

fn plan_unit(unit: &Unit, generated: bool, changes: &mut Vec<Change>, after: &mut After) {
    let name = &unit.name;
    let at = format!("line {}", unit.line);
    if name.is_empty() {
        let message = format!("{at}: unit without a name skipped");
        changes.push(Change::problem(message, Weight::Skipped));
        return;
    }
    if drop_in_name(name) {
        if !unit.content.is_empty() {
            let path = directory(name, unit.runtime).join(name);
            changes.push(Change::file(path, unit.content.as_bytes(), 0o644));
            after.reload = true;
        }
        return;
    }
    if !plain_name(name) {
        let message =
            format!("{at}: \"{name}\" is not a unit name (no slashes, except X.service.d/Y.conf)");
        changes.push(Change::problem(message, Weight::Error));
        return;
    }
    let network = is_network(name);
    let path = directory(name, unit.runtime).join(name);
    if !unit.content.is_empty() {
        changes.push(Change::file(&path, unit.content.as_bytes(), 0o644));
        after.reload |= !network;
    }
    for drop_in in &unit.drop_ins {
        if !plain_name(&drop_in.name) {
            let message = format!("{at}: \"{}\" is not a drop-in file name", drop_in.name);
            changes.push(Change::problem(message, Weight::Error));
            continue;
        }
        let dir = directory(name, unit.runtime).join(format!("{name}.d"));
        let file = dir.join(&drop_in.name);
        changes.push(Change::file(file, drop_in.content.as_bytes(), 0o644));
        after.reload |= !network;
    }
    if unit.mask {
        changes.push(Change::Link {
            path,
            target: "/dev/null".into(),
        });
        after.reload |= !network;
    } else if unit.runtime {
        changes.push(Change::Unmask { path });
    }
    if network {
        after.networkd = true;
        return;
    }
    if unit.enable {
        changes.push(Change::EnableUnit {
            unit: name.clone(),
            runtime: unit.runtime,
        });
        after.reload = true;
    }
    if !unit.command.is_empty() {
        let (unit, command) = (name.clone(), unit.command.clone());
        after.commands.push(Change::UnitCommand {
            unit,
            command,
            generated,
        });
    }
}

/// The units that stand for options, in their fixed order.
fn generated(coreos: &Coreos) -> Vec<Unit> {
    let daemon = |name: &str, options: &[(String, String)]| Unit {
        name: name.to_owned(),
        runtime: true,
        drop_ins: if options.is_empty() {
            Vec::new()
        } else {
            let content = text::environment_drop_in(options);
            vec![DropIn {
                name: DROP_IN.to_owned(),
                content,
            }]
        },
        ..Unit::default()
    };
    let mut units = vec![
        daemon("etcd.service", &coreos.etcd),
        daemon("etcd2.service", &coreos.etcd2),
        daemon("fleet.service", &coreos.fleet),
        daemon("locksmithd.service", &coreos.locksmith),
    ];
    let command = |name: &str, command: &str, mask: bool| Unit {
        name: name.to_owned(),
        runtime: true,
        mask,
        command: command.to_owned(),
        ..Unit::default()
    };
    if let Some(strategy) = &coreos.update.reboot_strategy {
        let off = matches!(strategy.value.as_str(), "off" | "false");
        let verb = if off { "stop" } else { "restart" };
        units.push(command("locksmithd.service", verb, off));
    }
    if !coreos.update.group.is_empty() || !coreos.update.server.is_empty() {
        units.push(command("update-engine.service", "restart", false));
    }
    units
}

fn mount_unit(mount: &Mount) -> Unit {
    let what = match mount.what.split_once('=') {
        Some(("LABEL", v)) => format!("/dev/disk/by-label/{v}"),
        Some(("UUID", v)) => format!("/dev/disk/by-uuid/{v}"),
        Some(("PARTLABEL", v)) => format!("/dev/disk/by-partlabel/{v}"),
        Some(("PARTUUID", v)) => format!("/dev/disk/by-partuuid/{v}"),
        _ if mount.what.contains(['/', ':']) => mount.what.clone(),
        // A bare device name, as cloud-init takes it.
        _ => format!("/dev/{}", mount.what),
    };
    let place = crate::config::clean(&mount.place).display().to_string();
    let mut content = format!("[Mount]\nWhat={what}\nWhere={place}\n");
    for (key, value) in [("Type", &mount.kind), ("Options", &mount.options)] {
        if !value.is_empty() {
            content.push_str(&format!("{key}={}\n", value.replace('\n', " ")));
        }
    }
    Unit {
        name: format!("{}.mount", escape_path(&place).unwrap_or_default()),
        runtime: true,
        content: content.replace('%', "%%"),
        command: "start".to_owned(),
        line: mount.line,
        ..Unit::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for good in ["a.service", "x@1.service", "dev-disk-by\\x2dlabel.mount"] {
            assert!(plain_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../a.service", "a/b", "a\n.service"] {
            assert!(!plain_name(bad), "{bad:?}");
        }
        assert!(drop_in_name("user-configdrive.service.d/10-oem.conf"));
        for bad in [
            "../x.d/y.conf",
            "a.service.d/../y.conf",
            "a.service.d/x",
            "a.d/b.conf",
        ] {
            assert!(!drop_in_name(bad), "{bad}");
        }
    }
}
