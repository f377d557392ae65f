//! What `/sys` and `/proc` tell about links and the machine.

use std::fs;
use std::path::Path;

use crate::config::{HostFacts, LinkFacts, Virtualization};
use crate::netlink::Link;

const SYS_NET: &str = "/sys/class/net";

/// Everything a `[Match]` section may ask about a link.
pub(super) fn link(link: &Link) -> LinkFacts {
    let directory = Path::new(SYS_NET).join(&link.name);
    let driver = fs::read_link(directory.join("device/driver"))
        .ok()
        .and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
    LinkFacts {
        name: link.name.clone(),
        altnames: link.altnames.clone(),
        mac: link.mac,
        permanent_mac: link.permanent_mac,
        kind: kind(link, &directory),
        driver: driver.or_else(|| link.kind.clone()),
        path: pci_address(&directory).map(|pci| format!("pci-{pci}")),
    }
}

/// The device type as systemd names it: the kernel's word for special devices, else that of the hardware.
fn kind(link: &Link, directory: &Path) -> String {
    let uevent = fs::read_to_string(directory.join("uevent")).unwrap_or_default();
    if let Some(kind) = uevent.lines().find_map(|l| l.strip_prefix("DEVTYPE=")) {
        return kind.to_owned();
    }
    match (link.hardware, link.kind.as_deref()) {
        (_, Some(kind @ ("bridge" | "bond" | "vlan" | "vxlan" | "geneve" | "wireguard"))) => {
            kind.to_owned()
        }
        (1, _) => "ether".to_owned(),
        (772, _) => "loopback".to_owned(),
        (512, _) => "ppp".to_owned(),
        (768, _) => "tunnel".to_owned(),
        (769, _) => "tunnel6".to_owned(),
        (776, _) => "sit".to_owned(),
        (778, _) => "ipgre".to_owned(),
        (32, _) => "infiniband".to_owned(),
        _ => "none".to_owned(),
    }
}

/// The last PCI function on the way to the device (`0000:00:03.0`); virtio devices sit below one.
fn pci_address(directory: &Path) -> Option<String> {
    let device = fs::canonicalize(directory.join("device")).ok()?;
    let mut parts = device.components().filter_map(|c| c.as_os_str().to_str());
    parts
        .rfind(|part| parse_pci(part).is_some())
        .map(str::to_owned)
}

/// Domain, bus, slot, function.
fn parse_pci(text: &str) -> Option<(u32, u32, u32, u32)> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let hex = |digits: &str, len: usize| {
        (digits.len() >= len)
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
    };
    Some((
        hex(domain, 4)?,
        hex(bus, 2)?,
        hex(slot, 2)?,
        hex(function, 1)?,
    ))
}

/// Names that stay the same when devices are added: by PCI slot, and by hardware address.
pub(super) fn stable_names(link: &Link) -> Vec<String> {
    let directory = Path::new(SYS_NET).join(&link.name);
    if link.hardware != 1 || !directory.join("device").exists() {
        return Vec::new();
    }
    let mut out: Vec<String> = pci_address(&directory)
        .and_then(|p| pci_name(&p))
        .into_iter()
        .collect();
    let burnt_in =
        fs::read_to_string(directory.join("addr_assign_type")).is_ok_and(|t| t.trim() == "0");
    if let Some(mac) = link.permanent_mac.or(link.mac.filter(|_| burnt_in)) {
        out.push(format!("enx{}", mac.to_string().replace(':', "")));
    }
    out
}

fn pci_name(address: &str) -> Option<String> {
    let (domain, bus, slot, function) = parse_pci(address)?;
    let domain = if domain > 0 {
        format!("P{domain}")
    } else {
        String::new()
    };
    let function = if function > 0 {
        format!("f{function}")
    } else {
        String::new()
    };
    Some(format!("en{domain}p{bus}s{slot}{function}"))
}

/// Everything a `[Match]` section may ask about the machine.
pub(super) fn host(root: &Path) -> HostFacts {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    HostFacts {
        hostname: super::hostname::current(),
        machine_id: fs::read_to_string(root.join("etc/machine-id"))
            .unwrap_or_default()
            .trim()
            .to_owned(),
        command_line: read("/proc/cmdline"),
        virtualization: virtualization(),
    }
}

/// From the firmware's tables and the clock sources, which needs no special instructions.
fn virtualization() -> Option<Virtualization> {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let machine = |id: &str| {
        Some(Virtualization {
            id: id.to_owned(),
            container: false,
        })
    };
    if let Some(manager) = std::env::var("container").ok().filter(|c| !c.is_empty()) {
        return Some(Virtualization {
            id: manager,
            container: true,
        });
    }
    let clocks = read("/sys/devices/system/clocksource/clocksource0/available_clocksource");
    if clocks.contains("kvm-clock") {
        return machine("kvm");
    }
    if read("/sys/hypervisor/type") == "xen" {
        return machine("xen");
    }
    let firmware = ["sys_vendor", "product_name", "bios_vendor"]
        .map(|f| read(&format!("/sys/class/dmi/id/{f}")));
    let table = [
        ("QEMU", "qemu"),
        ("KVM", "kvm"),
        ("VMware", "vmware"),
        ("innotek", "oracle"),
        ("VirtualBox", "oracle"),
        ("Microsoft Corporation", "microsoft"),
        ("Amazon EC2", "amazon"),
        ("Google", "google"),
        ("BHYVE", "bhyve"),
        ("Parallels", "parallels"),
    ];
    let known = table
        .iter()
        .find(|(word, _)| firmware.iter().any(|text| text.starts_with(word)));
    match known {
        // Microsoft's own laptops carry its name as well.
        Some((_, "microsoft")) if firmware[1] != "Virtual Machine" => None,
        Some((_, id)) => machine(id),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_slot() {
        for (address, want) in [
            ("0000:00:03.0", Some("enp0s3")),
            ("0000:01:1f.2", Some("enp1s31f2")),
            ("0001:00:03.0", Some("enP1p0s3")),
            ("virtio0", None),
            ("pci0000:00", None),
        ] {
            assert_eq!(pci_name(address).as_deref(), want, "{address}");
        }
    }
}
