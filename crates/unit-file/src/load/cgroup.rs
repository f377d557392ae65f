//! Keys of resource control and of process killing.

use super::line::{Line, Taken, set};
use crate::settings::{
    Amount, CgroupSettings, Delegate, DevicePolicy, IoDevice, KillMode, KillSettings,
};
use crate::value::{parse_bool, parse_permyriad, parse_size_si};

/// Takes a key of resource control; `false` when it is none.
pub(super) fn apply(c: &mut CgroupSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "Slice" => set(&mut c.slice, l.text()),
        "CPUWeight" | "StartupCPUWeight" => {
            let weight = match l.value {
                "" => Ok(None),
                // cgroup v2's own word for the lowest class.
                "idle" => Ok(Some(1)),
                _ => l.within(1, 10_000).map(|n| Some(n as u64)),
            };
            if key == "CPUWeight" {
                set(&mut c.cpu_weight, weight)
            } else {
                weight.map(|_| true)
            }
        }
        "CPUShares" => {
            let weight = l
                .within(2, 262_144)
                .map(|n| Some((n as u64 * 100 / 1024).clamp(1, 10_000)));
            set(&mut c.cpu_weight, weight)
        }
        "CPUQuota" => set(
            &mut c.cpu_quota_per_sec_usec,
            match l.value {
                "" => Ok(None),
                text => parse_permyriad(text)
                    .filter(|p| *p > 0)
                    .map(|p| Some(u64::from(p) * 100))
                    .ok_or_else(|| format!("{text:?} is not a percentage")),
            },
        ),
        "AllowedCPUs" => {
            super::exec::cpu_list(l.value)?;
            set(
                &mut c.allowed_cpus,
                Ok((!l.is_empty()).then(|| l.value.replace(' ', ","))),
            )
        }
        "AllowedMemoryNodes" => {
            super::exec::cpu_list(l.value)?;
            set(
                &mut c.allowed_memory_nodes,
                Ok((!l.is_empty()).then(|| l.value.replace(' ', ","))),
            )
        }
        "MemoryMin" => set(&mut c.memory_min, l.amount()),
        "MemoryLow" => set(&mut c.memory_low, l.amount()),
        "MemoryHigh" => set(&mut c.memory_high, l.amount()),
        "MemoryMax" | "MemoryLimit" => set(&mut c.memory_max, l.amount()),
        "MemorySwapMax" => set(&mut c.memory_swap_max, l.amount()),
        "MemoryZSwapMax" => set(&mut c.memory_zswap_max, l.amount()),
        "TasksMax" => {
            let amount = l.amount()?;
            if amount == Some(Amount::Absolute(0)) {
                return Err("0 tasks are too few".to_owned());
            }
            set(&mut c.tasks_max, Ok(amount))
        }
        "IOWeight" => set(
            &mut c.io_weight,
            if l.is_empty() {
                Ok(None)
            } else {
                l.within(1, 10_000).map(|n| Some(n as u64))
            },
        ),
        "BlockIOWeight" => set(
            &mut c.io_weight,
            l.within(10, 1000)
                .map(|n| Some((n as u64 * 100 / 500).clamp(1, 10_000))),
        ),
        "IODeviceWeight" => io_device(c, "weight", l),
        "IOReadBandwidthMax" | "BlockIOReadBandwidth" => io_device(c, "rbps", l),
        "IOWriteBandwidthMax" | "BlockIOWriteBandwidth" => io_device(c, "wbps", l),
        "IOReadIOPSMax" => io_device(c, "riops", l),
        "IOWriteIOPSMax" => io_device(c, "wiops", l),
        "Delegate" => {
            c.delegate = match (l.value, parse_bool(l.value)) {
                ("", _) | (_, Some(false)) => Delegate::No,
                (_, Some(true)) => Delegate::All,
                (text, None) => {
                    Delegate::Controllers(text.split_whitespace().map(str::to_owned).collect())
                }
            };
            Ok(true)
        }
        "DelegateSubgroup" => set(&mut c.delegate_subgroup, l.text()),
        "DevicePolicy" => set(
            &mut c.device_policy,
            l.word(&[
                ("auto", DevicePolicy::Auto),
                ("closed", DevicePolicy::Closed),
                ("strict", DevicePolicy::Strict),
            ]),
        ),
        "DeviceAllow" => {
            if l.is_empty() {
                c.device_allow.clear();
                return Ok(true);
            }
            let text = l.expand(l.value)?;
            let (path, access) = text
                .split_once(char::is_whitespace)
                .unwrap_or((&text, "rwm"));
            c.device_allow
                .push((path.to_owned(), access.trim().to_owned()));
            Ok(true)
        }
        "CPUAccounting" => set(&mut c.cpu_accounting, l.boolean()),
        "MemoryAccounting" => set(&mut c.memory_accounting, l.boolean()),
        "TasksAccounting" => set(&mut c.tasks_accounting, l.boolean()),
        "IOAccounting" | "BlockIOAccounting" => set(&mut c.io_accounting, l.boolean()),
        // Need BPF programs or are hints: accepted, without effect.
        "IPAccounting"
        | "IPAddressAllow"
        | "IPAddressDeny"
        | "IPIngressFilterPath"
        | "IPEgressFilterPath"
        | "BPFProgram"
        | "SocketBindAllow"
        | "SocketBindDeny"
        | "RestrictNetworkInterfaces"
        | "CPUQuotaPeriodSec"
        | "StartupIOWeight"
        | "IODeviceLatencyTargetSec"
        | "DefaultMemoryMin"
        | "DefaultMemoryLow"
        | "ManagedOOMSwap"
        | "ManagedOOMMemoryPressure"
        | "ManagedOOMMemoryPressureLimit"
        | "ManagedOOMPreference"
        | "DisableControllers"
        | "MemoryPressureWatch"
        | "MemoryPressureThresholdSec" => Ok(true),
        _ => Ok(false),
    }
}

fn io_device(c: &mut CgroupSettings, key: &str, l: Line<'_>) -> Taken {
    if l.is_empty() {
        c.io_devices.retain(|d| d.key != key);
        return Ok(true);
    }
    let text = l.expand(l.value)?;
    let (path, value) = text
        .split_once(char::is_whitespace)
        .ok_or_else(|| format!("{text:?} is not a device and a value"))?;
    let value = parse_size_si(value.trim()).ok_or_else(|| format!("{value:?} is not a number"))?;
    c.io_devices.retain(|d| d.key != key || d.path != path);
    c.io_devices.push(IoDevice {
        key: key.to_owned(),
        path: path.to_owned(),
        value,
    });
    Ok(true)
}

/// Takes a key of process killing; `false` when it is none.
pub(super) fn apply_kill(k: &mut KillSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "KillMode" => set(
            &mut k.kill_mode,
            l.word(&[
                ("control-group", KillMode::ControlGroup),
                ("mixed", KillMode::Mixed),
                ("process", KillMode::Process),
                ("none", KillMode::None),
            ]),
        ),
        "KillSignal" => set(&mut k.kill_signal, l.signal()),
        "RestartKillSignal" => set(&mut k.restart_kill_signal, l.signal().map(Some)),
        "FinalKillSignal" => set(&mut k.final_kill_signal, l.signal()),
        "WatchdogSignal" => set(&mut k.watchdog_signal, l.signal()),
        "SendSIGHUP" => set(&mut k.send_sighup, l.boolean()),
        "SendSIGKILL" => set(&mut k.send_sigkill, l.boolean()),
        _ => Ok(false),
    }
}
