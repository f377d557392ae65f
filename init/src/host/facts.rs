//! Facts about the machine, for specifiers and conditions.

use std::fs;

use unit_file::specifier::MachineInfo;

/// Facts as they are now.
pub(super) fn machine() -> MachineInfo {
    let line = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let uname = rustix::system::uname();
    MachineInfo {
        machine_id: line("/etc/machine-id"),
        boot_id: line("/proc/sys/kernel/random/boot_id").replace('-', ""),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        pretty_hostname: variable(&line("/etc/machine-info"), "PRETTY_HOSTNAME")
            .unwrap_or_default(),
        kernel_release: uname.release().to_string_lossy().into_owned(),
        architecture: architecture(&uname.machine().to_string_lossy()).to_owned(),
        os_release: os_release(),
    }
}

/// systemd's word for a machine name of the kernel.
pub(crate) fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        other => other,
    }
}

/// Lines of os-release, unquoted.
pub(super) fn os_release() -> Vec<(String, String)> {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|p| fs::read_to_string(p).ok());
    unit_file::environment::parse_environment_file(&text.unwrap_or_default())
}

fn variable(text: &str, name: &str) -> Option<String> {
    unit_file::environment::parse_environment_file(text)
        .into_iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| v)
}
