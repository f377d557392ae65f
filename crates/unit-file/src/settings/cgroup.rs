//! `CgroupSettings`: resource control of services, slices, scopes, sockets and mounts.

use serde::{Deserialize, Serialize};

use super::types::{Amount, Usec};

/// Delegate=.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Delegate {
    /// The manager owns the subtree.
    #[default]
    No,
    /// All controllers that the manager can give.
    All,
    /// These controllers (maybe none).
    Controllers(Vec<String>),
}

/// A value for one block device (`IOReadBandwidthMax=/dev/vda 1M`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoDevice {
    /// Which bound: `weight rbps wbps riops wiops`.
    pub key: String,
    /// A device node or a path on the device.
    pub path: String,
    /// The value; `u64::MAX` = `max`.
    pub value: u64,
}

/// DevicePolicy=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DevicePolicy {
    /// All devices unless DeviceAllow= is set.
    #[default]
    Auto,
    /// The usual pseudo devices and DeviceAllow=.
    Closed,
    /// Only DeviceAllow=.
    Strict,
}

/// Control group settings. `None` leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct CgroupSettings {
    pub slice: Option<String>,
    pub cpu_weight: Option<u64>,
    /// Microseconds of CPU time per second.
    pub cpu_quota_per_sec_usec: Option<Usec>,
    pub allowed_cpus: Option<String>,
    pub allowed_memory_nodes: Option<String>,
    pub memory_min: Option<Amount>,
    pub memory_low: Option<Amount>,
    pub memory_high: Option<Amount>,
    pub memory_max: Option<Amount>,
    pub memory_swap_max: Option<Amount>,
    pub memory_zswap_max: Option<Amount>,
    pub tasks_max: Option<Amount>,
    pub io_weight: Option<u64>,
    pub io_devices: Vec<IoDevice>,
    pub delegate: Delegate,
    pub delegate_subgroup: Option<String>,
    pub device_policy: DevicePolicy,
    /// (device or class pattern, access letters).
    pub device_allow: Vec<(String, String)>,
    pub cpu_accounting: bool,
    pub memory_accounting: bool,
    pub tasks_accounting: bool,
    pub io_accounting: bool,
    /// OOMPolicy=kill: the kernel kills the group as one.
    pub memory_oom_group: bool,
}

impl Default for CgroupSettings {
    fn default() -> Self {
        CgroupSettings {
            slice: None,
            cpu_weight: None,
            cpu_quota_per_sec_usec: None,
            allowed_cpus: None,
            allowed_memory_nodes: None,
            memory_min: None,
            memory_low: None,
            memory_high: None,
            memory_max: None,
            memory_swap_max: None,
            memory_zswap_max: None,
            tasks_max: None,
            io_weight: None,
            io_devices: Vec::new(),
            delegate: Delegate::No,
            delegate_subgroup: None,
            device_policy: DevicePolicy::Auto,
            device_allow: Vec::new(),
            cpu_accounting: false,
            memory_accounting: true,
            tasks_accounting: true,
            io_accounting: false,
            memory_oom_group: false,
        }
    }
}
