//! What a client may ask.

use serde::{Deserialize, Serialize};

use crate::message::SubscribeLevel;
use crate::unit::Setting;
use crate::unit_files::UnitFileRequest;

/// One question or order. Names are full unit names with type suffix; the client has mangled them already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Queue a job. Answer: [`Reply::Job`](crate::Reply::Job).
    StartUnit {
        /// The unit.
        name: String,
        /// What to do with it.
        verb: Verb,
        /// How to treat jobs that are already queued.
        mode: JobMode,
    },
    /// Is the unit loaded? Answer: `UnitName` (its canonical id), else `NoSuchUnit`.
    GetUnit {
        /// Name or alias.
        name: String,
    },
    /// Load the unit if it is not. Answer: `UnitName`; a unit without file answers too (`not-found`).
    LoadUnit {
        /// Name or alias.
        name: String,
    },
    /// The unit whose control group holds the process. Answer: `UnitName`, else `NoUnitForPid`.
    GetUnitByPid {
        /// Process id in PID 1's namespace.
        pid: u32,
    },
    /// The unit with this invocation id. Answer: `UnitName`.
    GetUnitByInvocationId {
        /// The 128-bit id.
        id: [u8; 16],
    },
    /// Loaded units, sorted by name. Both lists empty = all. Answer: `Units`.
    ListUnits {
        /// Keep units whose load, active or sub state is one of these.
        states: Vec<String>,
        /// Keep units with a name that matches one of these shell globs.
        patterns: Vec<String>,
    },
    /// These units, loaded on demand, in this order, `not-found` ones included. Answer: `Units`.
    ListUnitsByNames {
        /// The names.
        names: Vec<String>,
    },
    /// Queued and running jobs. Answer: `Jobs`.
    ListJobs,
    /// Drop a queued job. Answer: `Done`.
    CancelJob {
        /// Its id.
        id: u32,
    },
    /// Drop all queued jobs. Answer: `Done`.
    ClearJobs,
    /// Everything about one unit, loaded on demand. Answer: `Unit`. Never fails for a well-formed name: an
    /// unknown unit is `not-found` and `inactive`.
    UnitSnapshot {
        /// Name or alias.
        name: String,
    },
    /// Everything about the manager. Answer: `Manager`.
    ManagerSnapshot,
    /// Send a signal to processes of the unit. Answer: `Done`.
    KillUnit {
        /// The unit.
        name: String,
        /// Which of its processes.
        who: KillWho,
        /// Signal number, 1 to 64.
        signal: i32,
    },
    /// Forget failures: of one unit, or of all. Clears the start counter too. Answer: `Done`.
    ResetFailed {
        /// The unit; none = all.
        name: Option<String>,
    },
    /// Make a unit that has no file and start it. Answer: `Job`.
    StartTransient {
        /// The unit to start.
        unit: TransientUnit,
        /// How to treat jobs that are already queued.
        mode: JobMode,
        /// Units made with it, not started by themselves.
        aux: Vec<TransientUnit>,
    },
    /// Move processes into the control group of a running scope or delegated unit. Answer: `Done`.
    AttachProcesses {
        /// The unit.
        name: String,
        /// Path below the unit's control group, empty for the group itself.
        subcgroup: String,
        /// The processes.
        pids: Vec<u32>,
    },
    /// Stop watching over a scope; its processes stay. Answer: `Done`.
    AbandonScope {
        /// The scope.
        name: String,
    },
    /// Read all unit files again. Answer when done: `Done`.
    Reload,
    /// Execute PID 1 anew with its state kept. The connection closes instead of an answer.
    Reexec,
    /// End or restart the machine. Answer: `Done` when the jobs are queued.
    Power {
        /// Which end.
        action: PowerAction,
        /// Do not stop units first (`systemctl -f`): go straight to killing and unmounting.
        immediate: bool,
        /// Argument of `reboot(2)`, if any.
        argument: Option<String>,
    },
    /// Add or replace variables of the manager's environment, each `NAME=value`. Answer: `Done`.
    SetEnvironment {
        /// The assignments.
        assignments: Vec<String>,
    },
    /// Remove variables, given as `NAME` or `NAME=value` (only if equal). Answer: `Done`.
    UnsetEnvironment {
        /// What to remove.
        names: Vec<String>,
    },
    /// Anything about unit files on disk.
    UnitFiles(UnitFileRequest),
    /// Mark the control group of the unit that holds `pid` as delegated. Answer: `Text` (the control group's
    /// path from the root of the hierarchy, `/system.slice/x.service`).
    DelegateSelf {
        /// The caller, by its credentials.
        pid: u32,
    },
    /// Send signals on this connection from now on. A later call replaces the level. Answer: `Done`.
    Subscribe {
        /// Which signals.
        level: SubscribeLevel,
    },
    /// Change settings of a loaded unit (`set-property`). Answer: `Done`.
    SetUnitProperties {
        /// The unit.
        name: String,
        /// Only until the next boot.
        runtime: bool,
        /// The settings; an empty value resets a list.
        settings: Vec<Setting>,
    },
    /// Keep the unit loaded for this client. Answer: `Done`. `unit-busd` counts its own clients and asks once.
    Ref {
        /// The unit.
        name: String,
    },
    /// Give the reference back. Answer: `Done`, or `NotReferenced`.
    Unref {
        /// The unit.
        name: String,
    },
    /// Set the log level of PID 1 (`emerg` … `debug`). Answer: `Done`.
    SetLogLevel {
        /// The level's name.
        level: String,
    },
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word systemd's clients know it by.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The value with this word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What to do with a unit; the words are `systemctl`'s.
    Verb {
        /// Start it and what it requires.
        Start => "start",
        /// Stop it and what requires it.
        Stop => "stop",
        /// Stop, then start; start if inactive.
        Restart => "restart",
        /// Restart if active.
        TryRestart => "try-restart",
        /// Reload; refused where the unit cannot.
        Reload => "reload",
        /// Reload where the unit can, else restart; start if inactive.
        ReloadOrRestart => "reload-or-restart",
        /// Reload where the unit can, else restart; only if active.
        ReloadOrTryRestart => "reload-or-try-restart",
        /// Check that it is active, start nothing.
        VerifyActive => "verify-active",
    }
}

words! {
    /// How a new job treats those that are queued.
    JobMode {
        /// Replace conflicting jobs.
        Replace => "replace",
        /// Replace, and let nothing replace it.
        ReplaceIrreversibly => "replace-irreversibly",
        /// Refuse when a queued job conflicts.
        Fail => "fail",
        /// Stop everything that the unit does not need (`systemctl isolate`).
        Isolate => "isolate",
        /// Drop all queued jobs first.
        Flush => "flush",
        /// Follow no dependency at all.
        IgnoreDependencies => "ignore-dependencies",
        /// Follow ordering only.
        IgnoreRequirements => "ignore-requirements",
        /// Stop the units that trigger it, too.
        Triggering => "triggering",
        /// Restart what depends on it, too.
        RestartDependencies => "restart-dependencies",
    }
}

words! {
    /// Which processes of a unit a signal goes to.
    KillWho {
        /// The main process.
        Main => "main",
        /// The control process (ExecStartPre, ExecStop …).
        Control => "control",
        /// All.
        All => "all",
        /// The main process, an error if there is none.
        MainFail => "main-fail",
        /// The control process, an error if there is none.
        ControlFail => "control-fail",
        /// All, an error if there are none.
        AllFail => "all-fail",
    }
}

words! {
    /// How the machine ends.
    PowerAction {
        /// Boot again through the firmware.
        Reboot => "reboot",
        /// Cut the power.
        PowerOff => "poweroff",
        /// Stop, power on.
        Halt => "halt",
        /// Boot the loaded kernel.
        Kexec => "kexec",
        /// Restart user space only.
        SoftReboot => "soft-reboot",
    }
}

/// A unit described by a client instead of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransientUnit {
    /// Full name with type suffix.
    pub name: String,
    /// Settings in unit file form: specifiers are already escaped, lists are repeated entries.
    pub settings: Vec<Setting>,
    /// Scopes: the processes that belong to it. Never empty for a scope.
    pub pids: Vec<u32>,
    /// Scopes: bus name of the program that asked, told when the scope is to end.
    pub controller: Option<String>,
}
