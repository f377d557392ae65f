//! The [Unit] and [Install] sections: dependencies, conditions, limits.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::types::Usec;

/// What a Condition*= or Assert*= line asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the directive's name after Condition or Assert"
)]
pub enum ConditionKind {
    PathExists,
    PathExistsGlob,
    PathIsDirectory,
    PathIsSymbolicLink,
    PathIsMountPoint,
    PathIsReadWrite,
    PathIsSocket,
    DirectoryNotEmpty,
    FileNotEmpty,
    FileIsExecutable,
    KernelCommandLine,
    KernelVersion,
    KernelModuleLoaded,
    Virtualization,
    FirstBoot,
    Capability,
    Security,
    Host,
    User,
    Group,
    Architecture,
    AcPower,
    NeedsUpdate,
    Memory,
    Cpus,
    CpuFeature,
    Environment,
    ControlGroupController,
    OsRelease,
    Credential,
    Firmware,
    PathIsEncrypted,
}

impl ConditionKind {
    /// The word after `Condition` in a unit file.
    pub fn word(self) -> &'static str {
        use ConditionKind as K;
        match self {
            K::PathExists => "PathExists",
            K::PathExistsGlob => "PathExistsGlob",
            K::PathIsDirectory => "PathIsDirectory",
            K::PathIsSymbolicLink => "PathIsSymbolicLink",
            K::PathIsMountPoint => "PathIsMountPoint",
            K::PathIsReadWrite => "PathIsReadWrite",
            K::PathIsSocket => "PathIsSocket",
            K::DirectoryNotEmpty => "DirectoryNotEmpty",
            K::FileNotEmpty => "FileNotEmpty",
            K::FileIsExecutable => "FileIsExecutable",
            K::KernelCommandLine => "KernelCommandLine",
            K::KernelVersion => "KernelVersion",
            K::KernelModuleLoaded => "KernelModuleLoaded",
            K::Virtualization => "Virtualization",
            K::FirstBoot => "FirstBoot",
            K::Capability => "Capability",
            K::Security => "Security",
            K::Host => "Host",
            K::User => "User",
            K::Group => "Group",
            K::Architecture => "Architecture",
            K::AcPower => "ACPower",
            K::NeedsUpdate => "NeedsUpdate",
            K::Memory => "Memory",
            K::Cpus => "CPUs",
            K::CpuFeature => "CPUFeature",
            K::Environment => "Environment",
            K::ControlGroupController => "ControlGroupController",
            K::OsRelease => "OSRelease",
            K::Credential => "Credential",
            K::Firmware => "Firmware",
            K::PathIsEncrypted => "PathIsEncrypted",
        }
    }

    /// The kind for a word.
    pub fn from_word(word: &str) -> Option<ConditionKind> {
        use ConditionKind as K;
        [
            K::PathExists,
            K::PathExistsGlob,
            K::PathIsDirectory,
            K::PathIsSymbolicLink,
            K::PathIsMountPoint,
            K::PathIsReadWrite,
            K::PathIsSocket,
            K::DirectoryNotEmpty,
            K::FileNotEmpty,
            K::FileIsExecutable,
            K::KernelCommandLine,
            K::KernelVersion,
            K::KernelModuleLoaded,
            K::Virtualization,
            K::FirstBoot,
            K::Capability,
            K::Security,
            K::Host,
            K::User,
            K::Group,
            K::Architecture,
            K::AcPower,
            K::NeedsUpdate,
            K::Memory,
            K::Cpus,
            K::CpuFeature,
            K::Environment,
            K::ControlGroupController,
            K::OsRelease,
            K::Credential,
            K::Firmware,
            K::PathIsEncrypted,
        ]
        .into_iter()
        .find(|k| k.word() == word)
    }
}

/// One Condition*= or Assert*= line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is asked.
    pub kind: ConditionKind,
    /// `|`: one of all such lines is enough.
    pub trigger: bool,
    /// `!`: the answer is turned round.
    pub negate: bool,
    /// The value.
    pub parameter: String,
}

/// What happens when a limit is hit (StartLimitAction=, JobTimeoutAction=, FailureAction= …).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words of the directive")]
pub enum EmergencyAction {
    #[default]
    None,
    Reboot,
    RebootForce,
    RebootImmediate,
    Poweroff,
    PoweroffForce,
    PoweroffImmediate,
    Exit,
    ExitForce,
    Halt,
    HaltForce,
    HaltImmediate,
    Kexec,
    KexecForce,
    SoftReboot,
    SoftRebootForce,
}

/// CollectMode=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CollectMode {
    /// Failed units stay loaded.
    #[default]
    Inactive,
    /// Failed units go too.
    InactiveOrFailed,
}

/// [Unit]. Names are kept as text: they are checked when the graph is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct UnitSettings {
    pub description: Option<String>,
    pub documentation: Vec<String>,
    pub source_path: Option<String>,
    pub wants: Vec<String>,
    pub requires: Vec<String>,
    pub requisite: Vec<String>,
    pub binds_to: Vec<String>,
    pub part_of: Vec<String>,
    pub upholds: Vec<String>,
    pub conflicts: Vec<String>,
    pub before: Vec<String>,
    pub after: Vec<String>,
    pub on_failure: Vec<String>,
    pub on_success: Vec<String>,
    pub propagates_reload_to: Vec<String>,
    pub reload_propagated_from: Vec<String>,
    pub propagates_stop_to: Vec<String>,
    pub stop_propagated_from: Vec<String>,
    pub joins_namespace_of: Vec<String>,
    pub requires_mounts_for: Vec<String>,
    pub wants_mounts_for: Vec<String>,
    pub on_failure_job_mode: Cow<'static, str>,
    pub on_success_job_mode: Cow<'static, str>,
    pub default_dependencies: bool,
    pub ignore_on_isolate: Option<bool>,
    pub stop_when_unneeded: bool,
    pub refuse_manual_start: bool,
    pub refuse_manual_stop: bool,
    pub allow_isolate: bool,
    pub survive_final_kill_signal: bool,
    pub collect_mode: CollectMode,
    pub conditions: Vec<Condition>,
    pub asserts: Vec<Condition>,
    pub start_limit_interval_usec: Usec,
    pub start_limit_burst: u32,
    pub start_limit_action: EmergencyAction,
    pub failure_action: EmergencyAction,
    pub success_action: EmergencyAction,
    pub job_timeout_usec: Usec,
    pub job_running_timeout_usec: Option<Usec>,
    pub job_timeout_action: EmergencyAction,
}

impl Default for UnitSettings {
    fn default() -> Self {
        UnitSettings {
            description: None,
            documentation: Vec::new(),
            source_path: None,
            wants: Vec::new(),
            requires: Vec::new(),
            requisite: Vec::new(),
            binds_to: Vec::new(),
            part_of: Vec::new(),
            upholds: Vec::new(),
            conflicts: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            on_failure: Vec::new(),
            on_success: Vec::new(),
            propagates_reload_to: Vec::new(),
            reload_propagated_from: Vec::new(),
            propagates_stop_to: Vec::new(),
            stop_propagated_from: Vec::new(),
            joins_namespace_of: Vec::new(),
            requires_mounts_for: Vec::new(),
            wants_mounts_for: Vec::new(),
            on_failure_job_mode: Cow::Borrowed("replace"),
            on_success_job_mode: Cow::Borrowed("fail"),
            default_dependencies: true,
            ignore_on_isolate: None,
            stop_when_unneeded: false,
            refuse_manual_start: false,
            refuse_manual_stop: false,
            allow_isolate: false,
            survive_final_kill_signal: false,
            collect_mode: CollectMode::Inactive,
            conditions: Vec::new(),
            asserts: Vec::new(),
            start_limit_interval_usec: 10_000_000,
            start_limit_burst: 5,
            start_limit_action: EmergencyAction::None,
            failure_action: EmergencyAction::None,
            success_action: EmergencyAction::None,
            job_timeout_usec: super::types::INFINITY,
            job_running_timeout_usec: None,
            job_timeout_action: EmergencyAction::None,
        }
    }
}

/// [Install].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct InstallSettings {
    pub wanted_by: Vec<String>,
    pub required_by: Vec<String>,
    pub upheld_by: Vec<String>,
    pub alias: Vec<String>,
    pub also: Vec<String>,
    pub default_instance: Option<String>,
}
