//! What this machine runs in: `kvm`, `qemu`, `vmware` …, a container, or nothing.

use std::fs;

/// Kind of virtualization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// On metal.
    None,
    /// A virtual machine of this name.
    Vm(&'static str),
    /// A container of this name.
    Container(String),
}

impl Kind {
    /// The name clients know, empty on metal.
    pub(crate) fn name(&self) -> &str {
        match self {
            Kind::None => "",
            Kind::Vm(name) => name,
            Kind::Container(name) => name,
        }
    }

    /// The answer to `ConditionVirtualization=`.
    pub(crate) fn satisfies(&self, parameter: &str) -> bool {
        match parameter {
            "vm" => matches!(self, Kind::Vm(_)),
            "container" => matches!(self, Kind::Container(_)),
            "private-users" => false,
            "yes" | "true" | "1" | "on" | "y" | "t" => *self != Kind::None,
            "no" | "false" | "0" | "off" | "n" | "f" | "none" => *self == Kind::None,
            name => self.name() == name,
        }
    }
}

/// Finds out from /proc and /sys.
pub(crate) fn detect() -> Kind {
    if let Ok(name) = fs::read_to_string("/run/systemd/container") {
        return Kind::Container(name.trim().to_owned());
    }
    let line = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let dmi: Vec<String> = ["sys_vendor", "product_name", "board_vendor", "bios_vendor"]
        .iter()
        .map(|n| line(&format!("/sys/class/dmi/id/{n}")))
        .collect();
    let hypervisor = line("/proc/cpuinfo")
        .lines()
        .any(|l| l.starts_with("flags") && l.contains(" hypervisor"));
    let clocks = line("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    classify(
        &dmi,
        hypervisor,
        &clocks,
        !line("/sys/hypervisor/type").is_empty(),
    )
}

fn classify(dmi: &[String], hypervisor: bool, clocks: &str, xen: bool) -> Kind {
    const VENDORS: [(&str, &str); 10] = [
        ("KVM", "kvm"),
        ("Amazon EC2", "amazon"),
        ("VMware", "vmware"),
        ("VMW", "vmware"),
        ("innotek GmbH", "oracle"),
        ("VirtualBox", "oracle"),
        ("Xen", "xen"),
        ("Bochs", "bochs"),
        ("Parallels", "parallels"),
        ("BHYVE", "bhyve"),
    ];
    if clocks.contains("kvm-clock") {
        return Kind::Vm("kvm");
    }
    if xen {
        return Kind::Vm("xen");
    }
    let any = |prefix: &str| dmi.iter().any(|d| d.starts_with(prefix));
    if let Some((_, name)) = VENDORS.iter().find(|(prefix, _)| any(prefix)) {
        return Kind::Vm(name);
    }
    if any("Google Compute Engine") {
        return Kind::Vm("google");
    }
    if any("Microsoft Corporation") && any("Virtual Machine") {
        return Kind::Vm("microsoft");
    }
    if any("QEMU") {
        return Kind::Vm("qemu");
    }
    if hypervisor {
        Kind::Vm("vm-other")
    } else {
        Kind::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_are_told_apart() {
        let dmi = |s: &str| vec![s.to_owned()];
        assert_eq!(classify(&dmi("QEMU"), true, "tsc", false), Kind::Vm("qemu"));
        assert_eq!(
            classify(&dmi("QEMU"), true, "kvm-clock tsc", false),
            Kind::Vm("kvm")
        );
        assert_eq!(
            classify(&dmi("VMware, Inc."), true, "", false),
            Kind::Vm("vmware")
        );
        assert_eq!(classify(&dmi("Dell Inc."), false, "", false), Kind::None);
        assert_eq!(classify(&dmi("?"), true, "", false), Kind::Vm("vm-other"));
    }

    #[test]
    fn conditions_take_classes_names_and_booleans() {
        let vm = Kind::Vm("qemu");
        assert!(vm.satisfies("vm") && vm.satisfies("qemu") && vm.satisfies("yes"));
        assert!(!vm.satisfies("container") && !vm.satisfies("kvm") && !vm.satisfies("no"));
        assert!(
            Kind::None.satisfies("no") && Kind::Container("docker".to_owned()).satisfies("docker")
        );
    }
}
