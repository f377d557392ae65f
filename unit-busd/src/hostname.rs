//! `org.freedesktop.hostname1`: the machine's names. No state: files and the kernel are the truth.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use dbus_api::snapshot::Interface;
use dbus_api::wire::Value;
use init_control::ErrorKind;

use crate::dispatch::{Access, Call, Method};
use crate::step::{Step, World};

const NAME: &str = "org.freedesktop.hostname1";

macro_rules! row {
    ($member:literal, $input:literal => $output:literal, $access:ident, $run:expr) => {
        Method {
            interface: NAME,
            member: $member,
            input: $input,
            output: $output,
            access: Access::$access,
            run: $run,
        }
    };
}

pub(crate) const METHODS: &[Method] = &[
    row!("SetHostname", "sb" => "", Root, |call| set_running(call, &call.text(0))),
    row!("SetStaticHostname", "sb" => "", Root, set_static),
    row!("SetPrettyHostname", "sb" => "", Root, |call| set_info(call, "PRETTY_HOSTNAME")),
    row!("SetIconName", "sb" => "", Root, |call| set_info(call, "ICON_NAME")),
    row!("SetChassis", "sb" => "", Root, |call| set_info(call, "CHASSIS")),
    row!("SetDeployment", "sb" => "", Root, |call| set_info(call, "DEPLOYMENT")),
    row!("SetLocation", "sb" => "", Root, |call| set_info(call, "LOCATION")),
];

/// All properties, read now.
pub(crate) fn interface(world: &World) -> Interface {
    let uname = rustix::system::uname();
    let running = uname.nodename().to_string_lossy().into_owned();
    let fixed = static_name(&world.root);
    let info = shell_file(&world.root.join("etc/machine-info"));
    let release = shell_file(&world.root.join("etc/os-release"));
    let of = |map: &BTreeMap<String, String>, key: &str| {
        Value::str(map.get(key).cloned().unwrap_or_default())
    };
    let dmi = |name: &str| {
        let text =
            fs::read_to_string(Path::new("/sys/class/dmi/id").join(name)).unwrap_or_default();
        Value::str(text.trim())
    };
    let source = if fixed.is_empty() {
        "transient"
    } else {
        "static"
    };
    let properties = vec![
        ("Hostname", Value::str(running)),
        ("StaticHostname", Value::str(fixed)),
        ("PrettyHostname", of(&info, "PRETTY_HOSTNAME")),
        ("DefaultHostname", Value::str("flotilla")),
        ("HostnameSource", Value::str(source)),
        ("IconName", of(&info, "ICON_NAME")),
        ("Chassis", of(&info, "CHASSIS")),
        ("Deployment", of(&info, "DEPLOYMENT")),
        ("Location", of(&info, "LOCATION")),
        ("KernelName", Value::str(uname.sysname().to_string_lossy())),
        (
            "KernelRelease",
            Value::str(uname.release().to_string_lossy()),
        ),
        (
            "KernelVersion",
            Value::str(uname.version().to_string_lossy()),
        ),
        ("OperatingSystemPrettyName", of(&release, "PRETTY_NAME")),
        ("OperatingSystemCPEName", of(&release, "CPE_NAME")),
        ("HomeURL", of(&release, "HOME_URL")),
        ("HardwareVendor", dmi("sys_vendor")),
        ("HardwareModel", dmi("product_name")),
        ("FirmwareVersion", dmi("bios_version")),
    ];
    Interface {
        name: NAME.to_owned(),
        properties,
    }
}

fn static_name(root: &Path) -> String {
    let text = fs::read_to_string(root.join("etc/hostname")).unwrap_or_default();
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or_default()
        .to_owned()
}

/// `KEY=value` lines, quotes taken off.
pub(crate) fn shell_file(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.trim().split_once('=')?;
            let value = value.trim().trim_matches(['"', '\'']);
            (!key.starts_with('#')).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Labels of letters, digits and hyphens, joined by dots, at most 64 bytes.
fn is_hostname(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn set_running(call: &Call, name: &str) -> Step {
    let fixed = static_name(&call.world.root);
    let name = match (name, fixed.as_str()) {
        ("", "") => "flotilla",
        ("", fixed) => fixed,
        (name, _) => name,
    };
    if !is_hostname(name) {
        return Step::refuse(ErrorKind::InvalidArgs, format!("Invalid hostname '{name}'"));
    }
    match rustix::system::sethostname(name.as_bytes()) {
        Ok(()) => Step::done(),
        Err(error) => Step::refuse(
            ErrorKind::Failed,
            format!("Failed to set hostname: {error}"),
        ),
    }
}

fn set_static(call: &Call) -> Step {
    let name = call.text(0);
    if !name.is_empty() && !is_hostname(&name) {
        return Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Invalid static hostname '{name}'"),
        );
    }
    let path = call.world.root.join("etc/hostname");
    let result = if name.is_empty() {
        fs::remove_file(&path).or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        })
    } else {
        replace_file(&path, &format!("{name}\n"))
    };
    match result {
        Ok(()) if name.is_empty() => Step::done(),
        Ok(()) => set_running(call, &name),
        Err(error) => Step::refuse(
            ErrorKind::Failed,
            format!("Failed to write {}: {error}", path.display()),
        ),
    }
}

fn set_info(call: &Call, key: &str) -> Step {
    let value = call.text(0);
    if value.chars().any(char::is_control) || value.contains(['"', '\\', '$', '`']) {
        return Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Invalid value '{}'", value.escape_debug()),
        );
    }
    let path = call.world.root.join("etc/machine-info");
    let mut all = shell_file(&path);
    if value.is_empty() {
        all.remove(key);
    } else {
        all.insert(key.to_owned(), value);
    }
    let text: String = all
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\"\n"))
        .collect();
    match replace_file(&path, &text) {
        Ok(()) => Step::done(),
        Err(error) => Step::refuse(
            ErrorKind::Failed,
            format!("Failed to write {}: {error}", path.display()),
        ),
    }
}

/// Temporary file, flush, rename, flush of the directory.
pub(crate) fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("unit-busd.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expect) in [
            ("a", true),
            ("node-1.example.org", true),
            ("", false),
            ("-a", false),
            ("a..b", false),
            ("a_b", false),
            ("a\nb", false),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(is_hostname(name), expect, "{name:?}");
        }
    }

    #[test]
    fn files() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        assert_eq!(static_name(root.path()), "");
        let path = root.path().join("etc/hostname");
        replace_file(&path, "# by hand\nnode-1\n").unwrap();
        assert_eq!(static_name(root.path()), "node-1");
        let info = root.path().join("etc/machine-info");
        replace_file(&info, "PRETTY_HOSTNAME=\"A b\"\n").unwrap();
        assert_eq!(shell_file(&info)["PRETTY_HOSTNAME"], "A b");
    }
}
