//! What there is to know about PID 1 as a whole.

use serde::{Deserialize, Serialize};

use crate::request::words;
use crate::unit::Stamp;

words! {
    /// `systemctl is-system-running`.
    SystemState {
        /// Before basic.target.
        Initializing => "initializing",
        /// The boot's jobs are not done.
        Starting => "starting",
        /// Up, nothing failed.
        Running => "running",
        /// Up, something failed.
        Degraded => "degraded",
        /// Rescue or emergency.
        Maintenance => "maintenance",
        /// Going down.
        Stopping => "stopping",
    }
}

/// Everything about the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerSnapshot {
    /// Version text, e.g. `Flotilla 0.1.0`.
    pub version: String,
    /// Architecture in systemd's words: `x86-64`, `arm64`.
    pub architecture: String,
    /// Hypervisor or container, empty on metal.
    pub virtualization: String,
    /// What is odd about this system, colon-separated, empty when nothing.
    pub tainted: String,
    /// State of the whole.
    pub state: SystemState,
    /// When things happened at boot.
    pub times: BootTimes,
    /// Level of PID 1's log.
    pub log_level: String,
    /// Where PID 1 logs to.
    pub log_target: String,
    /// Loaded unit names.
    pub unit_names: u32,
    /// Units in state failed.
    pub failed_units: u32,
    /// Jobs in the queue now.
    pub jobs: u32,
    /// Jobs ever queued.
    pub installed_jobs: u32,
    /// Jobs that failed.
    pub failed_jobs: u32,
    /// The environment of services, each `NAME=value`.
    pub environment: Vec<String>,
    /// Where unit files are looked for, highest first.
    pub unit_path: Vec<String>,
    /// The control group of PID 1's tree, empty for the root.
    pub control_group: String,
    /// `[Manager]` settings in force, e.g. `DefaultTimeoutStartUSec` → microseconds as text.
    pub defaults: Vec<(String, String)>,
}

/// When things happened at boot; a zero [`Stamp`] means it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimes {
    /// Firmware began (monotonic = µs before the kernel).
    pub firmware: Stamp,
    /// Boot loader began (monotonic = µs before the kernel).
    pub loader: Stamp,
    /// Kernel began.
    pub kernel: Stamp,
    /// The initramfs's /init began.
    pub initrd: Stamp,
    /// PID 1 of the real root began.
    pub userspace: Stamp,
    /// The boot's jobs were done.
    pub finish: Stamp,
    /// Set-up of mounts and security began.
    pub security_start: Stamp,
    /// … and was over.
    pub security_finish: Stamp,
    /// Generators began.
    pub generators_start: Stamp,
    /// … and were over.
    pub generators_finish: Stamp,
    /// Loading units began.
    pub units_load_start: Stamp,
    /// … and was over.
    pub units_load_finish: Stamp,
}
