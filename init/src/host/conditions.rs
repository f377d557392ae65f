//! `Condition…=` and `Assert…=`: each question answered from the system as it is now.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags};
use unit_file::settings::ConditionKind as K;

use super::{System, facts, virtualization};
use crate::{glob, users};

/// The answer, without `!`. What cannot be found out counts as not fulfilled.
pub(super) fn check(system: &System, kind: K, parameter: &str) -> bool {
    let path = Path::new(parameter);
    match kind {
        K::PathExists => path.exists(),
        K::PathExistsGlob => !glob::expand(parameter).is_empty(),
        K::PathIsDirectory => path.is_dir(),
        K::PathIsSymbolicLink => path.is_symlink(),
        K::PathIsMountPoint => is_mount_point(path),
        K::PathIsReadWrite => {
            path.exists()
                && rustix::fs::statvfs(path)
                    .is_ok_and(|s| !s.f_flag.contains(StatVfsMountFlags::RDONLY))
        }
        K::PathIsSocket => fs::metadata(path).is_ok_and(|m| m.file_type().is_socket()),
        K::PathIsEncrypted => false,
        K::DirectoryNotEmpty => fs::read_dir(path).is_ok_and(|mut d| d.next().is_some()),
        K::FileNotEmpty => fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0),
        K::FileIsExecutable => {
            fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        }
        K::KernelCommandLine => command_line(system, parameter),
        K::KernelVersion => version_matches(
            &rustix::system::uname().release().to_string_lossy(),
            parameter,
        ),
        K::KernelModuleLoaded => Path::new("/sys/module")
            .join(parameter.replace('-', "_"))
            .exists(),
        K::Virtualization => virtualization::detect().satisfies(parameter),
        K::FirstBoot => system.first_boot == boolean(parameter),
        K::Capability => capability(parameter),
        K::Security => security(parameter),
        K::Host => host(parameter),
        K::User => user(parameter),
        K::Group => users::system().group(parameter) == Some(0),
        K::Architecture => {
            let uname = rustix::system::uname();
            let machine = uname.machine().to_string_lossy();
            let own = facts::architecture(&machine);
            parameter == own || parameter == "native"
        }
        K::AcPower => on_ac_power() == boolean(parameter),
        K::NeedsUpdate => needs_update(path),
        K::Memory => compare_number(memory_bytes(), parameter),
        K::Cpus => compare_number(
            std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            parameter,
        ),
        K::CpuFeature => cpu_feature(parameter),
        K::Environment => environment(parameter),
        K::ControlGroupController => controllers(system, parameter),
        K::OsRelease => os_release(parameter),
        K::Credential => {
            Path::new("/run/credstore").join(parameter).exists()
                || Path::new("/etc/credstore").join(parameter).exists()
        }
        K::Firmware => match parameter {
            "uefi" => Path::new("/sys/firmware/efi").exists(),
            "device-tree" => Path::new("/sys/firmware/devicetree").exists(),
            _ => false,
        },
    }
}

fn boolean(text: &str) -> bool {
    matches!(text, "1" | "yes" | "y" | "true" | "t" | "on")
}

fn is_mount_point(path: &Path) -> bool {
    let (Ok(own), Some(parent)) = (fs::symlink_metadata(path), path.parent()) else {
        return path == Path::new("/");
    };
    if !own.is_dir() && !own.is_file() {
        return false;
    }
    if fs::metadata(parent).is_ok_and(|p| p.dev() != own.dev()) {
        return true;
    }
    // A bind mount of the same file system has the same device number.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    path.to_str()
        .is_some_and(|p| crate::mounts::parse(&table).iter().any(|m| m.where_ == p))
}

fn command_line(system: &System, parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((key, value)) => system.cmdline.values(key).any(|v| v == value),
        None => system.cmdline.words().iter().any(|(k, _)| k == parameter),
    }
}

fn capability(name: &str) -> bool {
    let Some(number) = unit_file::capability::number(name) else {
        return false;
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok());
    set.is_some_and(|s| s & (1 << number) != 0)
}

fn security(name: &str) -> bool {
    match name {
        "selinux" => {
            Path::new("/sys/fs/selinux").exists()
                && fs::read_dir("/sys/fs/selinux").is_ok_and(|mut d| d.next().is_some())
        }
        "apparmor" => fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|t| t.starts_with('Y')),
        "smack" => Path::new("/sys/fs/smackfs/load2").exists(),
        "ima" => Path::new("/sys/kernel/security/ima").exists(),
        "audit" => false,
        "tpm2" => Path::new("/sys/class/tpmrm")
            .read_dir()
            .is_ok_and(|mut d| d.next().is_some()),
        "uefi-secureboot" => secure_boot(),
        _ => false,
    }
}

fn secure_boot() -> bool {
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    fs::read(variable).is_ok_and(|v| v.get(4) == Some(&1))
}

fn host(parameter: &str) -> bool {
    let info = facts::machine();
    let id = parameter.replace('-', "");
    id.eq_ignore_ascii_case(&info.machine_id)
        || glob::matches(&parameter.to_lowercase(), &info.hostname.to_lowercase())
}

fn user(parameter: &str) -> bool {
    // PID 1 is root, and root is a system user.
    match parameter {
        "@system" => true,
        name => users::system().user(name).is_some_and(|u| u.uid == 0),
    }
}

fn on_ac_power() -> bool {
    let Ok(supplies) = fs::read_dir("/sys/class/power_supply") else {
        return true;
    };
    let line = |path: &Path| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let mains: Vec<bool> = supplies
        .flatten()
        .filter(|s| line(&s.path().join("type")) == "Mains")
        .map(|s| line(&s.path().join("online")) == "1")
        .collect();
    mains.is_empty() || mains.contains(&true)
}

fn needs_update(path: &Path) -> bool {
    if rustix::fs::access(path, Access::WRITE_OK).is_err() {
        return false;
    }
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    match (time(Path::new("/usr")), time(&path.join(".updated"))) {
        (Some(usr), Some(done)) => usr > done,
        (_, None) => true,
        (None, _) => false,
    }
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// A comparison such as `>=4`, `!=2`, `2G` (at least).
fn compare_number(have: u64, parameter: &str) -> bool {
    let (operator, rest) = split_operator(parameter);
    let rest = rest.trim();
    let (digits, factor) = match rest.char_indices().last() {
        Some((i, 'K')) => (&rest[..i], 1 << 10),
        Some((i, 'M')) => (&rest[..i], 1 << 20),
        Some((i, 'G')) => (&rest[..i], 1u64 << 30),
        Some((i, 'T')) => (&rest[..i], 1u64 << 40),
        _ => (rest, 1),
    };
    let Some(want) = digits
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
    else {
        return false;
    };
    ordering_fits(
        have.cmp(&want),
        if operator.is_empty() { ">=" } else { operator },
    )
}

fn split_operator(text: &str) -> (&str, &str) {
    let text = text.trim();
    for operator in ["<=", ">=", "!=", "==", "<>", "<", ">", "="] {
        if let Some(rest) = text.strip_prefix(operator) {
            return (operator, rest);
        }
    }
    ("", text)
}

fn ordering_fits(ordering: std::cmp::Ordering, operator: &str) -> bool {
    match operator {
        "<" => ordering.is_lt(),
        "<=" => ordering.is_le(),
        ">" => ordering.is_gt(),
        ">=" => ordering.is_ge(),
        "!=" | "<>" => ordering.is_ne(),
        _ => ordering.is_eq(),
    }
}

/// `KernelVersion=`: comparisons and globs, all of which must hold.
fn version_matches(release: &str, parameter: &str) -> bool {
    parameter
        .split_whitespace()
        .all(|part| match split_operator(part) {
            ("", pattern) => glob::matches(pattern, release),
            (operator, want) => ordering_fits(compare_versions(release, want), operator),
        })
}

/// Compares version texts: runs of digits as numbers, the rest as text.
fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    fn parts(text: &str) -> Vec<(u64, String)> {
        text.split(['.', '-', '+', '~', '_'])
            .map(|part| {
                let end = part
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(part.len());
                (part[..end].parse().unwrap_or(0), part[end..].to_owned())
            })
            .collect()
    }
    parts(a).cmp(&parts(b))
}

fn cpu_feature(name: &str) -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text
        .lines()
        .find(|l| l.starts_with("flags") || l.starts_with("Features"));
    flags.is_some_and(|l| l.split_whitespace().any(|w| w == name))
}

fn environment(parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((name, value)) => std::env::var(name).is_ok_and(|v| v == value),
        None => std::env::var_os(parameter).is_some(),
    }
}

fn controllers(system: &System, parameter: &str) -> bool {
    if parameter == "v2" {
        return true;
    }
    let have = system
        .cgroups
        .read("/", "cgroup.controllers")
        .unwrap_or_default();
    parameter
        .split_whitespace()
        .all(|want| have.split_whitespace().any(|h| h == want))
}

fn os_release(parameter: &str) -> bool {
    let all = facts::os_release();
    parameter.split_whitespace().all(|part| {
        let Some(at) = part.find(['=', '!', '<', '>']) else {
            return false;
        };
        let (operator, want) = split_operator(&part[at..]);
        let have = all
            .iter()
            .find(|(n, _)| n == &part[..at])
            .map(|(_, v)| v.as_str())
            .unwrap_or_default();
        match operator {
            "=" => have == want,
            "!=" => have != want,
            operator => ordering_fits(compare_versions(have, want), operator),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::CommandLine;

    #[track_caller]
    fn check_one(kind: K, parameter: &str, want: bool) {
        let system = System::new(CommandLine::parse("quiet sshkey=\"a b\" x=1 x=2"), true);
        assert_eq!(
            check(&system, kind, parameter),
            want,
            "{}={parameter}",
            kind.word()
        );
    }

    #[test]
    fn paths_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("empty"), "").unwrap();
        fs::write(path("full"), "x").unwrap();
        check_one(K::PathExists, &path("empty"), true);
        check_one(K::PathExists, &path("nosuch"), false);
        check_one(K::PathExistsGlob, &path("f*l"), true);
        check_one(K::FileNotEmpty, &path("empty"), false);
        check_one(K::FileNotEmpty, &path("full"), true);
        check_one(K::DirectoryNotEmpty, &path(""), true);
        check_one(K::FileIsExecutable, "/bin/sh", true);
        check_one(K::FileIsExecutable, &path("full"), false);
        check_one(K::PathIsMountPoint, "/proc", true);
        check_one(K::PathIsMountPoint, &path(""), false);
        check_one(K::PathIsReadWrite, &path(""), true);
        check_one(K::PathIsDirectory, "/proc", true);
    }

    #[test]
    fn the_kernel_command_line_is_words_and_assignments() {
        check_one(K::KernelCommandLine, "quiet", true);
        check_one(K::KernelCommandLine, "sshkey", true);
        check_one(K::KernelCommandLine, "x=1", true);
        check_one(K::KernelCommandLine, "x=3", false);
        check_one(K::KernelCommandLine, "qui", false);
    }

    #[test]
    fn numbers_and_versions_are_compared() {
        assert!(
            compare_number(4 << 30, "2G")
                && !compare_number(1, "2")
                && compare_number(4, "<5")
                && compare_number(4, "!= 5")
        );
        assert!(
            version_matches("6.12.107-cloud", ">=6.1") && !version_matches("5.10.0", ">=5.10.1")
        );
        assert!(version_matches("6.12.1", "6.*") && version_matches("6.12.1", ">6 <7"));
        check_one(K::Cpus, ">=1", true);
        check_one(K::FirstBoot, "yes", true);
        check_one(K::FirstBoot, "no", false);
        check_one(K::User, "root", true);
        check_one(K::User, "nobody", false);
    }
}
