//! Small value types shared by the typed sections.

use serde::{Deserialize, Serialize};

/// Microseconds; [`INFINITY`] stands for "never".
pub type Usec = u64;

/// The time span `infinity`.
pub const INFINITY: Usec = u64::MAX;

/// A bound of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    /// An absolute number (bytes, tasks).
    Absolute(u64),
    /// Hundredths of a percent of the machine's amount (RAM, tasks).
    PerMyriad(u32),
    /// No bound.
    Infinity,
}

/// A path with the optional `-` (may be missing) and `+` (below RootDirectory=) prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEntry {
    /// The path.
    pub path: String,
    /// It may be missing.
    pub optional: bool,
    /// It is relative to the root directory of the service.
    pub below_root: bool,
}

/// A resource limit kind (`LimitNOFILE=` …), named as the kernel's constants without `RLIMIT_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the kernel's names")]
pub enum LimitKind {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nofile,
    As,
    Nproc,
    Memlock,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}

/// A resource limit; `u64::MAX` is infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Which.
    pub kind: LimitKind,
    /// Soft bound.
    pub soft: u64,
    /// Hard bound.
    pub hard: u64,
}

/// One `ExecStart=`-like command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecCommand {
    /// Program: absolute, or a plain name searched in PATH.
    pub path: String,
    /// Arguments, argv\[0\] first; `$` not expanded yet.
    pub argv: Vec<String>,
    /// Prefix `-`: failure counts as success.
    pub ignore_failure: bool,
    /// Prefix `:`: no `$` expansion.
    pub no_expand: bool,
    /// Prefixes `+`, `!`, `!!`.
    pub privilege: Privilege,
    /// Prefix `|`: run by the user's login shell.
    pub via_shell: bool,
}

/// How much of the execution context a command escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Privilege {
    /// Everything applies.
    #[default]
    Normal,
    /// `+`: no user, capabilities, sandboxing.
    Full,
    /// `!`: user and capabilities are left alone, the rest applies.
    KeepUser,
    /// `!!`: as `!` where the kernel lacks ambient capabilities, so never on ours.
    Ambient,
}

/// A bound of the form `name → signal` in process control.
pub type SignalNumber = i32;
