//! `ExecSettings`: how processes of a unit are run ([Service], [Socket], [Mount]).

use serde::{Deserialize, Serialize};

use super::types::{Limit, PathEntry};

/// Where standard input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StdInput {
    /// `/dev/null`.
    #[default]
    Null,
    /// The terminal (TTYPath=).
    Tty,
    /// The terminal, taken from whoever has it.
    TtyForce,
    /// The terminal, failing when another has it.
    TtyFail,
    /// The bytes of StandardInputText= and StandardInputData=.
    Data,
    /// A file.
    File(String),
    /// The socket of socket activation.
    Socket,
    /// A named descriptor from a socket unit or the descriptor store.
    Fd(String),
}

/// Where standard output or error goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StdOutput {
    /// What standard input (or, for error, output) is; the manager's default when that is null.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// The terminal.
    Tty,
    /// The journal.
    Journal,
    /// The journal, copied to the console.
    JournalConsole,
    /// The kernel log.
    Kmsg,
    /// The kernel log, copied to the console.
    KmsgConsole,
    /// A file, written from its start.
    File(String),
    /// A file, appended.
    Append(String),
    /// A file, truncated first.
    Truncate(String),
    /// The socket of socket activation.
    Socket,
    /// A named descriptor.
    Fd(String),
}

/// WorkingDirectory=.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingDirectory {
    /// The path; `None` is `~`, the user's home.
    pub path: Option<String>,
    /// Prefix `-`.
    pub optional: bool,
}

/// A file named by EnvironmentFile=.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    /// Path or glob.
    pub path: String,
    /// Prefix `-`.
    pub optional: bool,
}

/// The five kinds of directories that a service may have made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DirectoryKind {
    /// Below `/run`.
    Runtime,
    /// Below `/var/lib`.
    State,
    /// Below `/var/cache`.
    Cache,
    /// Below `/var/log`.
    Logs,
    /// Below `/etc`.
    Configuration,
}

impl DirectoryKind {
    /// The directory that the names are below.
    pub fn base(self) -> &'static str {
        match self {
            DirectoryKind::Runtime => "/run",
            DirectoryKind::State => "/var/lib",
            DirectoryKind::Cache => "/var/cache",
            DirectoryKind::Logs => "/var/log",
            DirectoryKind::Configuration => "/etc",
        }
    }

    /// The environment variable that lists them.
    pub fn variable(self) -> &'static str {
        match self {
            DirectoryKind::Runtime => "RUNTIME_DIRECTORY",
            DirectoryKind::State => "STATE_DIRECTORY",
            DirectoryKind::Cache => "CACHE_DIRECTORY",
            DirectoryKind::Logs => "LOGS_DIRECTORY",
            DirectoryKind::Configuration => "CONFIGURATION_DIRECTORY",
        }
    }
}

/// Directories of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecDirectories {
    /// Which kind.
    pub kind: DirectoryKind,
    /// Relative names, as `flotilla/update`.
    pub names: Vec<String>,
    /// Mode of the last component.
    pub mode: u32,
}

/// RuntimeDirectoryPreserve=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Preserve {
    /// Removed at stop.
    #[default]
    No,
    /// Kept.
    Yes,
    /// Kept over a restart.
    Restart,
}

/// ProtectSystem=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ProtectSystem {
    /// Nothing.
    #[default]
    No,
    /// `/usr`, `/boot`, `/efi` read-only.
    Yes,
    /// Also `/etc`.
    Full,
    /// Everything but `/dev`, `/proc`, `/sys`.
    Strict,
}

/// ProtectHome=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ProtectHome {
    /// Nothing.
    #[default]
    No,
    /// Inaccessible.
    Yes,
    /// Read-only.
    ReadOnly,
    /// An empty tmpfs over each.
    Tmpfs,
}

/// ProtectProc=.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ProtectProc {
    /// `hidepid=off`.
    #[default]
    Default,
    /// `hidepid=noaccess`.
    NoAccess,
    /// `hidepid=invisible`.
    Invisible,
    /// `hidepid=ptraceable`.
    Ptraceable,
}

/// BindPaths= and BindReadOnlyPaths=.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindPath {
    /// What is mounted.
    pub source: String,
    /// Where it appears.
    pub destination: String,
    /// The source may be missing.
    pub optional: bool,
    /// Mounts below it come too.
    pub recursive: bool,
    /// Read-only.
    pub read_only: bool,
}

/// A filter by names: an allow list or a deny list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NameFilter {
    /// True: only the names are allowed; false (`~`): all but the names.
    pub allow: bool,
    /// Names as written (system calls with `@groups` and optional `:ERRNO`, address families).
    pub names: Vec<String>,
}

/// LoadCredential= or SetCredential=.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its name.
    pub id: String,
    /// A path or name to load from, or `None` when `data` holds the value.
    pub path: Option<String>,
    /// The value of SetCredential=.
    pub data: Option<String>,
}

/// The execution context of a unit's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the directive of the same name")]
pub struct ExecSettings {
    pub user: Option<String>,
    pub group: Option<String>,
    pub supplementary_groups: Vec<String>,
    pub dynamic_user: bool,
    pub working_directory: Option<WorkingDirectory>,
    pub root_directory: Option<String>,
    pub umask: u32,
    pub nice: Option<i32>,
    pub oom_score_adjust: Option<i32>,
    pub limits: Vec<Limit>,
    /// Environment= in order, already split and specifier-expanded.
    pub environment: Vec<(String, String)>,
    pub environment_files: Vec<EnvironmentFile>,
    pub pass_environment: Vec<String>,
    pub unset_environment: Vec<String>,
    pub standard_input: StdInput,
    pub standard_output: StdOutput,
    pub standard_error: StdOutput,
    pub standard_input_data: Vec<u8>,
    pub tty_path: Option<String>,
    pub tty_reset: bool,
    pub tty_vhangup: bool,
    pub tty_vt_disallocate: bool,
    pub syslog_identifier: Option<String>,
    pub syslog_level_prefix: bool,
    /// Priority of unprefixed lines, 0–7 (SyslogLevel=, default info) …
    pub syslog_level: u8,
    /// … and facility number (SyslogFacility=, default daemon).
    pub syslog_facility: u8,
    pub ignore_sigpipe: bool,
    pub directories: Vec<ExecDirectories>,
    pub runtime_directory_preserve: Preserve,
    pub no_new_privileges: bool,
    /// Bit per capability; `None` keeps all.
    pub capability_bounding_set: Option<u64>,
    pub ambient_capabilities: u64,
    pub secure_bits: u32,
    pub private_tmp: bool,
    pub private_devices: bool,
    pub private_network: bool,
    pub private_users: bool,
    pub private_mounts: bool,
    pub private_ipc: bool,
    pub mount_flags: Option<String>,
    pub protect_system: ProtectSystem,
    pub protect_home: ProtectHome,
    pub protect_kernel_tunables: bool,
    pub protect_kernel_modules: bool,
    pub protect_kernel_logs: bool,
    pub protect_control_groups: bool,
    pub protect_clock: bool,
    pub protect_hostname: bool,
    pub protect_proc: ProtectProc,
    /// ProcSubset=pid.
    pub proc_subset_pid: bool,
    pub read_only_paths: Vec<PathEntry>,
    pub read_write_paths: Vec<PathEntry>,
    pub inaccessible_paths: Vec<PathEntry>,
    pub exec_paths: Vec<PathEntry>,
    pub no_exec_paths: Vec<PathEntry>,
    pub bind_paths: Vec<BindPath>,
    /// (path, mount options).
    pub temporary_file_systems: Vec<(String, String)>,
    /// Bits of CLONE_NEW* that stay allowed; `None` = no restriction.
    pub restrict_namespaces: Option<u64>,
    pub restrict_address_families: Option<NameFilter>,
    pub restrict_realtime: bool,
    pub restrict_suid_sgid: bool,
    pub lock_personality: bool,
    pub memory_deny_write_execute: bool,
    pub system_call_filter: Option<NameFilter>,
    /// Errno name or number of SystemCallErrorNumber=; `None` = kill.
    pub system_call_error_number: Option<i32>,
    pub system_call_architectures: Vec<String>,
    pub remove_ipc: bool,
    pub keyring_mode: Option<String>,
    /// CPU numbers.
    pub cpu_affinity: Vec<u32>,
    /// `other batch idle fifo rr` → the kernel's number.
    pub cpu_scheduling_policy: Option<u32>,
    pub cpu_scheduling_priority: Option<u32>,
    /// Kernel's class number and level.
    pub io_scheduling_class: Option<u32>,
    pub io_scheduling_priority: Option<u32>,
    pub network_namespace_path: Option<String>,
    pub credentials: Vec<Credential>,
    pub utmp_identifier: Option<String>,
    pub pam_name: Option<String>,
    pub timer_slack_nsec: Option<u64>,
}

impl Default for ExecSettings {
    fn default() -> Self {
        ExecSettings {
            user: None,
            group: None,
            supplementary_groups: Vec::new(),
            dynamic_user: false,
            working_directory: None,
            root_directory: None,
            umask: 0o022,
            nice: None,
            oom_score_adjust: None,
            limits: Vec::new(),
            environment: Vec::new(),
            environment_files: Vec::new(),
            pass_environment: Vec::new(),
            unset_environment: Vec::new(),
            standard_input: StdInput::Null,
            standard_output: StdOutput::Inherit,
            standard_error: StdOutput::Inherit,
            standard_input_data: Vec::new(),
            tty_path: None,
            tty_reset: false,
            tty_vhangup: false,
            tty_vt_disallocate: false,
            syslog_identifier: None,
            syslog_level_prefix: true,
            syslog_level: 6,
            syslog_facility: 3,
            ignore_sigpipe: true,
            directories: Vec::new(),
            runtime_directory_preserve: Preserve::No,
            no_new_privileges: false,
            capability_bounding_set: None,
            ambient_capabilities: 0,
            secure_bits: 0,
            private_tmp: false,
            private_devices: false,
            private_network: false,
            private_users: false,
            private_mounts: false,
            private_ipc: false,
            mount_flags: None,
            protect_system: ProtectSystem::No,
            protect_home: ProtectHome::No,
            protect_kernel_tunables: false,
            protect_kernel_modules: false,
            protect_kernel_logs: false,
            protect_control_groups: false,
            protect_clock: false,
            protect_hostname: false,
            protect_proc: ProtectProc::Default,
            proc_subset_pid: false,
            read_only_paths: Vec::new(),
            read_write_paths: Vec::new(),
            inaccessible_paths: Vec::new(),
            exec_paths: Vec::new(),
            no_exec_paths: Vec::new(),
            bind_paths: Vec::new(),
            temporary_file_systems: Vec::new(),
            restrict_namespaces: None,
            restrict_address_families: None,
            restrict_realtime: false,
            restrict_suid_sgid: false,
            lock_personality: false,
            memory_deny_write_execute: false,
            system_call_filter: None,
            system_call_error_number: None,
            system_call_architectures: Vec::new(),
            remove_ipc: false,
            keyring_mode: None,
            cpu_affinity: Vec::new(),
            cpu_scheduling_policy: None,
            cpu_scheduling_priority: None,
            io_scheduling_class: None,
            io_scheduling_priority: None,
            network_namespace_path: None,
            credentials: Vec::new(),
            utmp_identifier: None,
            pam_name: None,
            timer_slack_nsec: None,
        }
    }
}
