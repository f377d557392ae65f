//! The built-in generators: units that follow from the kernel command line, the consoles and `/etc/fstab`.
//!
//! [`plan`] is pure: facts in, files and links out. They are written below `/run/systemd/generator`, which
//! is emptied first.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use unit_file::UnitName;
use unit_file::name::{UnitType, escape};

use crate::cmdline::CommandLine;

/// Where generated units go.
pub(crate) const DIRECTORY: &str = "/run/systemd/generator";
/// Where masks by the command line go, above the operator's own files.
pub(crate) const EARLY: &str = "/run/systemd/generator.early";

/// A file or link to be made, by path below its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A unit file or drop-in.
    File(String),
    /// A symbolic link.
    Link(String),
}

/// What is generated, by path.
pub(crate) type Items = BTreeMap<String, Item>;

/// Everything that follows from these facts: items for [`DIRECTORY`] and for [`EARLY`].
pub(crate) fn plan(cmdline: &CommandLine, consoles: &[String], fstab: &str) -> (Items, Items) {
    let mut items = Items::new();
    let mut early = Items::new();
    gettys(consoles, &mut items);
    for line in fstab.lines() {
        fstab_line(line, &mut items);
    }
    let default = |key: &str| cmdline.values(key).map(str::to_owned).collect::<Vec<_>>();
    for unit in default("systemd.wants")
        .iter()
        .filter(|u| UnitName::parse(u).is_ok())
    {
        want("default.target", unit, &mut items);
    }
    for unit in default("systemd.mask")
        .iter()
        .filter(|u| UnitName::parse(u).is_ok())
    {
        early.insert(unit.clone(), Item::Link("/dev/null".to_owned()));
    }
    if cmdline.flag("systemd.debug_shell") || cmdline.flag("systemd.debug-shell") {
        want("sysinit.target", "debug-shell.service", &mut items);
    }
    (items, early)
}

fn want(target: &str, unit: &str, items: &mut Items) {
    items.insert(
        format!("{target}.wants/{unit}"),
        Item::Link(format!("../{unit}")),
    );
}

/// A login on every console that is a serial line; virtual consoles have getty@tty1.
fn gettys(consoles: &[String], items: &mut Items) {
    for console in consoles {
        let virtual_console = console
            .strip_prefix("tty")
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()));
        if !virtual_console && console != "console" {
            let unit = format!("serial-getty@{}.service", escape(console));
            items.insert(
                format!("getty.target.wants/{unit}"),
                Item::Link("/usr/lib/systemd/system/serial-getty@.service".to_owned()),
            );
        }
    }
}

/// One line of fstab: a mount unit, wanted by local-fs.target or remote-fs.target.
fn fstab_line(line: &str, items: &mut Items) {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    let fields: Vec<String> = line.split_whitespace().map(unescape).collect();
    let [what, where_, kind, ..] = fields.as_slice() else {
        return;
    };
    let options = fields.get(3).map_or("defaults", String::as_str);
    let has = |o: &str| options.split(',').any(|x| x == o);
    if kind == "swap"
        || matches!(where_.as_str(), "/" | "/usr" | "/etc" | "none")
        || !where_.starts_with('/')
    {
        return;
    }
    let Ok(unit) = UnitName::from_path(where_, UnitType::Mount) else {
        return;
    };
    let remote = has("_netdev")
        || matches!(
            kind.as_str(),
            "nfs" | "nfs4" | "cifs" | "ceph" | "glusterfs"
        );
    let target = if remote {
        "remote-fs.target"
    } else {
        "local-fs.target"
    };
    let what = device_path(what);
    let mut text = "[Unit]\nSourcePath=/etc/fstab\nDocumentation=man:fstab(5)\n".to_owned();
    if !has("nofail") {
        text.push_str(&format!("Before={target}\n"));
    }
    for (key, setting) in [
        ("x-systemd.requires=", "Requires"),
        ("x-systemd.after=", "After"),
        ("x-systemd.before=", "Before"),
    ] {
        for value in options.split(',').filter_map(|o| o.strip_prefix(key)) {
            text.push_str(&format!("{setting}={value}\n"));
            if setting == "Requires" {
                text.push_str(&format!("After={value}\n"));
            }
        }
    }
    text.push_str(&format!(
        "\n[Mount]\nWhat={}\nWhere={}\nType={kind}\n",
        percent(&what),
        percent(where_)
    ));
    if options != "defaults" {
        text.push_str(&format!("Options={}\n", percent(options)));
    }
    items.insert(unit.as_str().to_owned(), Item::File(text));
    if let Some(timeout) = options
        .split(',')
        .find_map(|o| o.strip_prefix("x-systemd.device-timeout="))
        && let Ok(device) = UnitName::from_path(&what, UnitType::Device)
    {
        items.insert(
            format!("{device}.d/50-device-timeout.conf"),
            Item::File(format!("[Unit]\nJobRunningTimeoutSec={timeout}\n")),
        );
    }
    if !has("noauto") {
        let kind = if has("nofail") || remote {
            "wants"
        } else {
            "requires"
        };
        items.insert(
            format!("{target}.{kind}/{unit}"),
            Item::Link(format!("../{unit}")),
        );
    }
}

fn device_path(what: &str) -> String {
    match what.split_once('=') {
        Some((tag @ ("LABEL" | "UUID" | "PARTLABEL" | "PARTUUID"), value)) => {
            format!(
                "/dev/disk/by-{}/{}",
                tag.to_lowercase(),
                crate::probe::encode_name(value.trim_matches('"'))
            )
        }
        _ => what.to_owned(),
    }
}

/// A text in a unit file, where `%` begins a specifier.
fn percent(text: &str) -> String {
    text.replace('%', "%%")
}

fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// Empties both directories and writes the items.
pub(crate) fn run(cmdline: &CommandLine) -> std::io::Result<()> {
    let fstab = std::fs::read("/etc/fstab")
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default();
    let (items, early) = plan(cmdline, &consoles(cmdline), &fstab);
    write(Path::new(DIRECTORY), &items)?;
    write(Path::new(EARLY), &early)?;
    std::fs::create_dir_all("/run/systemd/generator.late")
}

/// Consoles named on the command line, and those the kernel chose by itself.
fn consoles(cmdline: &CommandLine) -> Vec<String> {
    let named = cmdline
        .values("console")
        .map(|v| v.split(',').next().unwrap_or(v).to_owned());
    let mut all: Vec<String> = named.chain(crate::console::active()).collect();
    all.sort();
    all.dedup();
    all
}

fn write(dir: &Path, items: &Items) -> std::io::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    for (path, item) in items {
        let path = dir.join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        match item {
            Item::File(text) => std::fs::write(&path, text)?,
            Item::Link(target) => symlink(target, &path)?,
        }
    }
    Ok(())
}

/// Whether the name may be given on the command line as a boot target: `rescue`, `3`, `-b` …
pub(crate) fn boot_target(cmdline: &CommandLine) -> Option<String> {
    let named = cmdline
        .value("systemd.unit")
        .filter(|u| UnitName::parse(u).is_ok())
        .map(str::to_owned);
    let word = |w: &str| cmdline.words().iter().any(|(k, v)| k == w && v.is_none());
    let by_word = [
        ("rescue", "rescue.target"),
        ("single", "rescue.target"),
        ("s", "rescue.target"),
        ("S", "rescue.target"),
        ("1", "rescue.target"),
        ("emergency", "emergency.target"),
        ("-b", "emergency.target"),
        ("2", "multi-user.target"),
        ("3", "multi-user.target"),
        ("4", "multi-user.target"),
        ("5", "graphical.target"),
    ];
    named.or_else(|| {
        by_word
            .iter()
            .find(|(w, _)| word(w))
            .map(|(_, t)| (*t).to_owned())
    })
}

/// Keeps the escaping function in one place for tests of names.
#[cfg(test)]
fn mount_name(path: &str) -> String {
    unit_file::name::escape_path(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(cmdline: &str, consoles: &[&str], fstab: &str) -> Items {
        let consoles: Vec<String> = consoles.iter().map(|c| (*c).to_owned()).collect();
        plan(&CommandLine::parse(cmdline), &consoles, fstab).0
    }

    #[test]
    fn serial_consoles_get_a_login() {
        let made = items("", &["tty0", "ttyS0", "hvc0", "ttyAMA0"], "");
        let names: Vec<&str> = made.keys().map(String::as_str).collect();
        let want = ["hvc0", "ttyAMA0", "ttyS0"]
            .map(|c| format!("getty.target.wants/serial-getty@{c}.service"));
        assert_eq!(names, want);
    }

    #[test]
    fn fstab_lines_become_mount_units() {
        let made = items(
            "",
            &[],
            "# c\nLABEL=data /var/lib/docker ext4 defaults,nofail 0 2\n/dev/vdb1 /mnt/x auto noauto,size=10%\nUUID=1 none swap sw\n/dev/a / ext4\n",
        );
        let docker = format!("{}.mount", mount_name("/var/lib/docker"));
        let Some(Item::File(text)) = made.get(&docker) else {
            panic!("{made:?}");
        };
        assert!(
            text.contains("What=/dev/disk/by-label/data\nWhere=/var/lib/docker\nType=ext4\n")
                && !text.contains("Before=")
        );
        assert!(made.contains_key(&format!("local-fs.target.wants/{docker}")));
        let Some(Item::File(text)) = made.get("mnt-x.mount") else {
            panic!("{made:?}");
        };
        assert!(text.contains("Options=noauto,size=10%%\n"));
        assert_eq!(made.len(), 3, "{made:?}");
    }

    #[test]
    fn the_command_line_wants_masks_and_chooses_the_target() {
        let line = CommandLine::parse(
            "systemd.wants=a.service systemd.mask=b.service systemd.unit=x.target rescue",
        );
        let (made, early) = plan(&line, &[], "");
        assert!(made.contains_key("default.target.wants/a.service"));
        assert_eq!(
            early.get("b.service"),
            Some(&Item::Link("/dev/null".to_owned()))
        );
        assert_eq!(boot_target(&line).as_deref(), Some("x.target"));
        assert_eq!(
            boot_target(&CommandLine::parse("single")).as_deref(),
            Some("rescue.target")
        );
        assert_eq!(boot_target(&CommandLine::parse("quiet")), None);
    }

    proptest! {
        #[test]
        fn any_fstab_is_survived(text in "[ -~\n]*") {
            let _ = items("", &[], &text);
        }
    }
}
