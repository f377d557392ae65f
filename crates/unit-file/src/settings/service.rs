//! The [Service] section and the kill settings that scopes, sockets and mounts share.

use serde::{Deserialize, Serialize};

use super::types::{ExecCommand, SignalNumber, Usec};

/// Type=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words of the directive")]
pub enum ServiceType {
    #[default]
    Simple,
    Exec,
    Forking,
    Oneshot,
    Dbus,
    Notify,
    NotifyReload,
    Idle,
}

impl ServiceType {
    /// The word in unit files and properties.
    pub fn word(self) -> &'static str {
        match self {
            ServiceType::Simple => "simple",
            ServiceType::Exec => "exec",
            ServiceType::Forking => "forking",
            ServiceType::Oneshot => "oneshot",
            ServiceType::Dbus => "dbus",
            ServiceType::Notify => "notify",
            ServiceType::NotifyReload => "notify-reload",
            ServiceType::Idle => "idle",
        }
    }

    /// The type for a word.
    pub fn from_word(word: &str) -> Option<ServiceType> {
        use ServiceType as T;
        [
            T::Simple,
            T::Exec,
            T::Forking,
            T::Oneshot,
            T::Dbus,
            T::Notify,
            T::NotifyReload,
            T::Idle,
        ]
        .into_iter()
        .find(|t| t.word() == word)
    }
}

/// Restart=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words of the directive")]
pub enum Restart {
    #[default]
    No,
    OnSuccess,
    OnFailure,
    OnAbnormal,
    OnWatchdog,
    OnAbort,
    Always,
}

impl Restart {
    /// The word in unit files and properties.
    pub fn word(self) -> &'static str {
        match self {
            Restart::No => "no",
            Restart::OnSuccess => "on-success",
            Restart::OnFailure => "on-failure",
            Restart::OnAbnormal => "on-abnormal",
            Restart::OnWatchdog => "on-watchdog",
            Restart::OnAbort => "on-abort",
            Restart::Always => "always",
        }
    }

    /// The value for a word.
    pub fn from_word(word: &str) -> Option<Restart> {
        use Restart as R;
        [
            R::No,
            R::OnSuccess,
            R::OnFailure,
            R::OnAbnormal,
            R::OnWatchdog,
            R::OnAbort,
            R::Always,
        ]
        .into_iter()
        .find(|r| r.word() == word)
    }
}

/// NotifyAccess=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words of the directive")]
pub enum NotifyAccess {
    #[default]
    None,
    Main,
    Exec,
    All,
}

/// OOMPolicy=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words of the directive")]
pub enum OomPolicy {
    Continue,
    #[default]
    Stop,
    Kill,
}

/// KillMode=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the words of the directive")]
pub enum KillMode {
    #[default]
    ControlGroup,
    Mixed,
    Process,
    None,
}

impl KillMode {
    /// The word in unit files and properties.
    pub fn word(self) -> &'static str {
        match self {
            KillMode::ControlGroup => "control-group",
            KillMode::Mixed => "mixed",
            KillMode::Process => "process",
            KillMode::None => "none",
        }
    }
}

/// KillMode= and its signals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct KillSettings {
    pub kill_mode: KillMode,
    pub kill_signal: SignalNumber,
    pub restart_kill_signal: Option<SignalNumber>,
    pub final_kill_signal: SignalNumber,
    pub watchdog_signal: SignalNumber,
    pub send_sighup: bool,
    pub send_sigkill: bool,
}

impl Default for KillSettings {
    fn default() -> Self {
        KillSettings {
            kill_mode: KillMode::ControlGroup,
            kill_signal: 15,
            restart_kill_signal: None,
            final_kill_signal: 9,
            watchdog_signal: 6,
            send_sighup: false,
            send_sigkill: true,
        }
    }
}

/// A set of exit codes and signals (SuccessExitStatus= and its kin).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExitStatusSet {
    /// Exit codes.
    pub codes: Vec<u8>,
    /// Signals.
    pub signals: Vec<SignalNumber>,
}

/// [Service].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct ServiceSettings {
    pub service_type: ServiceType,
    pub exec_condition: Vec<ExecCommand>,
    pub exec_start_pre: Vec<ExecCommand>,
    pub exec_start: Vec<ExecCommand>,
    pub exec_start_post: Vec<ExecCommand>,
    pub exec_reload: Vec<ExecCommand>,
    pub exec_stop: Vec<ExecCommand>,
    pub exec_stop_post: Vec<ExecCommand>,
    pub restart: Restart,
    pub restart_usec: Usec,
    pub restart_steps: u32,
    pub restart_max_delay_usec: Usec,
    /// RestartMode=direct.
    pub restart_direct: bool,
    pub restart_prevent_exit_status: ExitStatusSet,
    pub restart_force_exit_status: ExitStatusSet,
    pub success_exit_status: ExitStatusSet,
    pub timeout_start_usec: Usec,
    /// TimeoutStartSec= was written (a oneshot has none by default).
    pub timeout_start_set: bool,
    pub timeout_stop_usec: Usec,
    pub timeout_abort_usec: Option<Usec>,
    pub runtime_max_usec: Usec,
    /// WatchdogSec=; 0 or infinity = off.
    pub watchdog_usec: Usec,
    pub remain_after_exit: bool,
    pub guess_main_pid: bool,
    pub root_directory_start_only: bool,
    pub permissions_start_only: bool,
    pub pid_file: Option<String>,
    pub bus_name: Option<String>,
    pub notify_access: NotifyAccess,
    pub sockets: Vec<String>,
    pub file_descriptor_store_max: u32,
    pub oom_policy: Option<OomPolicy>,
    pub non_blocking: bool,
    pub reload_signal: SignalNumber,
    pub kill: KillSettings,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        ServiceSettings {
            service_type: ServiceType::Simple,
            exec_condition: Vec::new(),
            exec_start_pre: Vec::new(),
            exec_start: Vec::new(),
            exec_start_post: Vec::new(),
            exec_reload: Vec::new(),
            exec_stop: Vec::new(),
            exec_stop_post: Vec::new(),
            restart: Restart::No,
            restart_usec: 100_000,
            restart_steps: 0,
            restart_max_delay_usec: super::types::INFINITY,
            restart_direct: false,
            restart_prevent_exit_status: ExitStatusSet::default(),
            restart_force_exit_status: ExitStatusSet::default(),
            success_exit_status: ExitStatusSet::default(),
            timeout_start_usec: 90_000_000,
            timeout_start_set: false,
            timeout_stop_usec: 90_000_000,
            timeout_abort_usec: None,
            runtime_max_usec: super::types::INFINITY,
            watchdog_usec: 0,
            remain_after_exit: false,
            guess_main_pid: true,
            root_directory_start_only: false,
            permissions_start_only: false,
            pid_file: None,
            bus_name: None,
            notify_access: NotifyAccess::None,
            sockets: Vec::new(),
            file_descriptor_store_max: 0,
            oom_policy: None,
            non_blocking: false,
            reload_signal: 1,
            kill: KillSettings::default(),
        }
    }
}
