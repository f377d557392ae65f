//! Cgroup settings to control files. [`writes`] is the pure part: which files get which text.

use unit_file::settings::{Amount, CgroupSettings, Delegate, INFINITY};

/// Machine amounts that percentages refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// RAM in bytes.
    pub(crate) memory: u64,
    /// Processes possible at once.
    pub(crate) tasks: u64,
}

impl Machine {
    /// This machine's.
    pub(crate) fn this() -> Machine {
        let info = rustix::system::sysinfo();
        let number = |path: &str| {
            std::fs::read_to_string(path)
                .ok()
                .and_then(|t| t.trim().parse::<u64>().ok())
                .unwrap_or(32768)
        };
        Machine {
            memory: info.totalram * u64::from(info.mem_unit),
            tasks: number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max")),
        }
    }
}

/// Controllers that the settings need in the group.
pub(crate) fn controllers(settings: &CgroupSettings) -> Vec<&'static str> {
    let memory = settings.memory_accounting
        || settings.memory_oom_group
        || [
            &settings.memory_min,
            &settings.memory_low,
            &settings.memory_high,
            &settings.memory_max,
            &settings.memory_swap_max,
            &settings.memory_zswap_max,
        ]
        .iter()
        .any(|a| a.is_some());
    let mut needed = Vec::new();
    let mut need = |on: bool, name: &'static str| {
        if on {
            needed.push(name);
        }
    };
    need(
        settings.allowed_cpus.is_some() || settings.allowed_memory_nodes.is_some(),
        "cpuset",
    );
    need(
        settings.cpu_weight.is_some()
            || settings.cpu_quota_per_sec_usec.is_some()
            || delegated(settings, "cpu"),
        "cpu",
    );
    need(
        settings.io_weight.is_some()
            || !settings.io_devices.is_empty()
            || settings.io_accounting
            || delegated(settings, "io"),
        "io",
    );
    need(memory || delegated(settings, "memory"), "memory");
    need(
        settings.tasks_max.is_some() || settings.tasks_accounting || delegated(settings, "pids"),
        "pids",
    );
    needed
}

fn delegated(settings: &CgroupSettings, controller: &str) -> bool {
    match &settings.delegate {
        Delegate::No => false,
        Delegate::All => true,
        Delegate::Controllers(list) => list.iter().any(|c| c == controller),
    }
}

/// Files to write, in order, with their text. `defaults` are written, too, where a setting was taken back.
pub(crate) fn writes(settings: &CgroupSettings, machine: Machine) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let mut put = |file: &'static str, value: Option<String>| out.extend(value.map(|v| (file, v)));
    let bytes = |amount: &Option<Amount>| amount.as_ref().map(|a| resolve(a, machine.memory));
    put("cpuset.cpus", settings.allowed_cpus.clone());
    put("cpuset.mems", settings.allowed_memory_nodes.clone());
    put("cpu.weight", settings.cpu_weight.map(|w| w.to_string()));
    put("cpu.max", settings.cpu_quota_per_sec_usec.map(cpu_max));
    put("memory.min", bytes(&settings.memory_min));
    put("memory.low", bytes(&settings.memory_low));
    put("memory.high", bytes(&settings.memory_high));
    put("memory.max", bytes(&settings.memory_max));
    put("memory.swap.max", bytes(&settings.memory_swap_max));
    put("memory.zswap.max", bytes(&settings.memory_zswap_max));
    put(
        "memory.oom.group",
        settings.memory_oom_group.then(|| "1".to_owned()),
    );
    put(
        "pids.max",
        settings
            .tasks_max
            .as_ref()
            .map(|a| resolve(a, machine.tasks)),
    );
    put(
        "io.weight",
        settings.io_weight.map(|w| format!("default {w}")),
    );
    for device in &settings.io_devices {
        if let Some(number) = device_number(&device.path) {
            let value = if device.value == u64::MAX {
                "max".to_owned()
            } else {
                device.value.to_string()
            };
            match device.key.as_str() {
                "weight" => put("io.weight", Some(format!("{number} {value}"))),
                key => put("io.max", Some(format!("{number} {key}={value}"))),
            }
        }
    }
    out
}

fn cpu_max(per_second: u64) -> String {
    const PERIOD: u64 = 100_000;
    match per_second {
        INFINITY => format!("max {PERIOD}"),
        // The kernel refuses quotas below one millisecond.
        quota => format!("{} {PERIOD}", (quota / 10).max(1000)),
    }
}

fn resolve(amount: &Amount, whole: u64) -> String {
    match amount {
        Amount::Infinity | Amount::Absolute(u64::MAX) => "max".to_owned(),
        Amount::Absolute(n) => n.to_string(),
        Amount::PerMyriad(part) => (u128::from(whole) * u128::from(*part) / 10_000).to_string(),
    }
}

/// `major:minor` of a device node, or of the disk under a path.
fn device_number(path: &str) -> Option<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(path).ok()?;
    let device = if meta.file_type().is_block_device() {
        meta.rdev()
    } else {
        meta.dev()
    };
    Some(format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine {
        memory: 1 << 30,
        tasks: 4000,
    };

    #[test]
    fn settings_become_files() {
        let settings = CgroupSettings {
            cpu_weight: Some(500),
            cpu_quota_per_sec_usec: Some(200_000),
            memory_max: Some(Amount::PerMyriad(2500)),
            memory_high: Some(Amount::Infinity),
            tasks_max: Some(Amount::PerMyriad(1500)),
            ..CgroupSettings::default()
        };
        assert_eq!(
            writes(&settings, MACHINE),
            [
                ("cpu.weight", "500".to_owned()),
                ("cpu.max", "20000 100000".to_owned()),
                ("memory.high", "max".to_owned()),
                ("memory.max", (1 << 28).to_string()),
                ("pids.max", "600".to_owned()),
            ]
        );
        assert_eq!(controllers(&settings), ["cpu", "memory", "pids"]);
    }

    #[test]
    fn nothing_set_needs_only_the_accounting() {
        assert!(writes(&CgroupSettings::default(), MACHINE).is_empty());
        assert_eq!(controllers(&CgroupSettings::default()), ["memory", "pids"]);
        let off = CgroupSettings {
            memory_accounting: false,
            tasks_accounting: false,
            ..CgroupSettings::default()
        };
        assert!(controllers(&off).is_empty());
    }
}
