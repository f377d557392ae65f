//! Questions that the engine asks and the shell answers at once.

use init_control::UnitFileState;
use unit_file::UnitName;
use unit_file::settings::ConditionKind;
use unit_file::specifier::MachineInfo;

/// A file and what tells its versions apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct FileRef {
    /// Absolute path, as found in the search path (links in the last component not followed).
    pub path: String,
    /// Changes when the contents change (from mtime, size, inode).
    pub stamp: u64,
}

/// Is the unit masked?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaskState {
    /// No.
    #[default]
    No,
    /// By a link to /dev/null or an empty file.
    Masked,
}

/// Everything the search path says about one name.
///
/// `unit_file::dropin` has the pure rules; the host lists directories (cached until told otherwise).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitFiles {
    /// The unit's real name when `name` is an alias (the target of the symlinks), instance kept.
    pub id: Option<UnitName>,
    /// The other names that are symlinks to it.
    pub aliases: Vec<UnitName>,
    /// Its fragment: own file, or the template's.
    pub fragment: Option<FileRef>,
    /// Masked?
    pub mask: MaskState,
    /// Drop-ins in the order in which they apply.
    pub drop_ins: Vec<FileRef>,
    /// Names in NAME.wants/ of the whole search path (of all its aliases, and of the template for an instance).
    pub wants: Vec<String>,
    /// Names in NAME.requires/.
    pub requires: Vec<String>,
    /// Names in NAME.upholds/.
    pub upholds: Vec<String>,
    /// The fragment lies below /run/systemd/transient.
    pub transient: bool,
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FileError {
    /// The file.
    pub path: String,
    /// Cause.
    pub message: String,
    /// It does not exist.
    pub missing: bool,
}

/// A line of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Primary group's name (its number when it has none).
    pub group: String,
    /// Home directory.
    pub home: String,
    /// Shell.
    pub shell: String,
}

/// The shell, as the engine sees it. All methods are read-only and answer at once.
pub trait Host {
    /// What the search path says about a name.
    fn unit_files(&self, name: &UnitName) -> UnitFiles;
    /// The text of a fragment or drop-in.
    fn read_unit_file(&self, path: &str) -> Result<String, FileError>;
    /// The texts of the files that match an EnvironmentFile= value (a glob or a path), in name order.
    fn read_environment_files(&self, pattern: &str) -> Result<Vec<String>, FileError>;
    /// The answer to a condition, without `!`.
    fn check_condition(&self, kind: ConditionKind, parameter: &str) -> bool;
    /// Facts about the machine.
    fn machine(&self) -> MachineInfo;
    /// The user by name or number.
    fn user(&self, name: &str) -> Option<UserInfo>;
    /// Pids in a control group and below, or none.
    fn cgroup_processes(&self, cgroup: &str) -> Vec<u32>;
    /// The control group of a process, from the root of the hierarchy.
    fn cgroup_of_process(&self, pid: u32) -> Option<String>;
    /// The number in a PID file.
    fn read_pid_file(&self, path: &str) -> Option<u32>;
    /// Is there such a process (not a zombie)?
    fn process_exists(&self, pid: u32) -> bool;
    /// The stamp of a persistent timer, microseconds since 1970.
    fn timer_stamp(&self, unit: &UnitName) -> Option<u64>;
    /// is-enabled and preset (`enabled`, `disabled`, empty) of a unit with a file.
    fn unit_file_state(&self, unit: &UnitName) -> (Option<UnitFileState>, String);
    /// 128 random bits.
    fn random_id(&self) -> [u8; 16];
}
