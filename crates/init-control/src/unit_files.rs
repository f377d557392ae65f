//! Questions and orders about unit files on disk.

use serde::{Deserialize, Serialize};

use crate::request::words;

/// What to do with files. `root` directories are the client's own business: PID 1 works on `/` only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitFileRequest {
    /// Make the links of `[Install]`. Answer: `UnitFileChanges`. Names may be absolute paths (linked first).
    Enable {
        /// Units or paths.
        files: Vec<String>,
        /// Where and how.
        flags: EnableFlags,
    },
    /// Remove all links to the units. Answer: `UnitFileChanges`.
    Disable {
        /// Units.
        files: Vec<String>,
        /// Where (force has no meaning here).
        flags: EnableFlags,
    },
    /// Disable, then enable. Answer: `UnitFileChanges`.
    Reenable {
        /// Units or paths.
        files: Vec<String>,
        /// Where and how.
        flags: EnableFlags,
    },
    /// Link to `/dev/null`. Answer: `UnitFileChanges`.
    Mask {
        /// Units.
        files: Vec<String>,
        /// Where and how.
        flags: EnableFlags,
    },
    /// Undo mask. Answer: `UnitFileChanges`.
    Unmask {
        /// Units.
        files: Vec<String>,
        /// Where.
        flags: EnableFlags,
    },
    /// Link files from outside the search path into it. Answer: `UnitFileChanges`.
    Link {
        /// Absolute paths.
        files: Vec<String>,
        /// Where and how.
        flags: EnableFlags,
    },
    /// Enable or disable as the preset files say. Answer: `UnitFileChanges`.
    Preset {
        /// Units.
        files: Vec<String>,
        /// Which half.
        mode: PresetMode,
        /// Where and how.
        flags: EnableFlags,
    },
    /// Preset of every unit file. Answer: `UnitFileChanges`.
    PresetAll {
        /// Which half.
        mode: PresetMode,
        /// Where and how.
        flags: EnableFlags,
    },
    /// Back to the vendor's version: drop overrides and drop-ins. Answer: `UnitFileChanges`.
    Revert {
        /// Units.
        files: Vec<String>,
    },
    /// `add-wants` and `add-requires`. Answer: `UnitFileChanges`.
    AddDependency {
        /// Units to add.
        files: Vec<String>,
        /// The unit that shall want them.
        target: String,
        /// `Requires=` instead of `Wants=`.
        requires: bool,
        /// Where and how.
        flags: EnableFlags,
    },
    /// All unit files with their state. Both lists empty = all. Answer: `UnitFiles`.
    List {
        /// Keep these states.
        states: Vec<String>,
        /// Keep names that match one of these globs.
        patterns: Vec<String>,
    },
    /// State of one unit file. Answer: `UnitFileState`; `FileNotFound` when there is none.
    State {
        /// Unit or absolute path.
        file: String,
    },
    /// What `default.target` stands for. Answer: `Text`.
    GetDefaultTarget,
    /// Link `default.target`. Answer: `UnitFileChanges`.
    SetDefaultTarget {
        /// The target.
        name: String,
        /// Replace what is there.
        force: bool,
    },
}

/// Where links go and what may be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnableFlags {
    /// In `/run/systemd/system` instead of `/etc/systemd/system`.
    pub runtime: bool,
    /// Replace links that point elsewhere.
    pub force: bool,
}

words! {
    /// Which half of a preset to apply.
    PresetMode {
        /// Enable and disable.
        Full => "full",
        /// Only enable.
        EnableOnly => "enable-only",
        /// Only disable.
        DisableOnly => "disable-only",
    }
}

words! {
    /// State of a unit file.
    UnitFileState {
        /// Links of `[Install]` exist in /etc.
        Enabled => "enabled",
        /// Links exist in /run.
        EnabledRuntime => "enabled-runtime",
        /// The file is linked into /etc from elsewhere.
        Linked => "linked",
        /// The file is linked into /run from elsewhere.
        LinkedRuntime => "linked-runtime",
        /// The name is an alias.
        Alias => "alias",
        /// Masked in /etc.
        Masked => "masked",
        /// Masked in /run.
        MaskedRuntime => "masked-runtime",
        /// No `[Install]` section.
        Static => "static",
        /// `[Install]` without links of its own, only `Also=`, or enabled through a template's instance.
        Indirect => "indirect",
        /// Not enabled.
        Disabled => "disabled",
        /// Made by a generator.
        Generated => "generated",
        /// Made by a client.
        Transient => "transient",
        /// Unreadable.
        Bad => "bad",
    }
}

/// One unit file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFileEntry {
    /// Full path.
    pub path: String,
    /// Its state.
    pub state: UnitFileState,
    /// What the preset files say: `enabled`, `disabled`, or empty where they do not apply.
    pub preset: String,
}

/// One change on disk, or one remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFileChange {
    /// `symlink` (made), `unlink` (removed), `masked`, `dangling`, `alias-conflict`, `destination-not-present` …
    pub kind: String,
    /// The link.
    pub path: String,
    /// What it points at, empty for `unlink`.
    pub source: String,
}
