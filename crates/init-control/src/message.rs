//! Frames, answers and signals.

use serde::{Deserialize, Serialize};

use crate::error::ControlError;
use crate::manager::ManagerSnapshot;
use crate::request::Request;
use crate::unit::{ActiveState, JobRef, LoadState, UnitSnapshot};
use crate::unit_files::{UnitFileChange, UnitFileEntry, UnitFileState};

/// From a client to PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFrame {
    /// Chosen by the client, returned in the reply.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

/// From PID 1 to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServerFrame {
    /// The answer to one request.
    Reply {
        /// The request's id.
        id: u32,
        /// What came of it.
        result: Result<Reply, ControlError>,
    },
    /// News, sent to subscribed connections.
    Signal(Signal),
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done; there is nothing more to say.
    Done,
    /// The job that does it.
    Job {
        /// Its id, never 0.
        id: u32,
        /// The unit it is for (canonical id).
        unit: String,
    },
    /// Canonical id of a unit.
    UnitName(String),
    /// A text: control group path, default target, state of a unit file.
    Text(String),
    /// Loaded units.
    Units(Vec<UnitListEntry>),
    /// Jobs.
    Jobs(Vec<JobEntry>),
    /// One unit.
    Unit(Box<UnitSnapshot>),
    /// The manager.
    Manager(Box<ManagerSnapshot>),
    /// Unit files on disk.
    UnitFiles(Vec<UnitFileEntry>),
    /// State of one unit file.
    UnitFileState(UnitFileState),
    /// What was changed on disk.
    UnitFileChanges {
        /// `enable` and `preset`: does any of the files have an `[Install]` section?
        carries_install_info: bool,
        /// In the order done.
        changes: Vec<UnitFileChange>,
    },
}

/// A line of `systemctl list-units`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitListEntry {
    /// Canonical id.
    pub name: String,
    /// `Description=`, else the name.
    pub description: String,
    /// Was it read?
    pub load: LoadState,
    /// Does it run?
    pub active: ActiveState,
    /// The state of its type.
    pub sub: String,
    /// The unit whose state this one follows, else empty.
    pub following: String,
    /// Its job, if one is queued.
    pub job: Option<JobRef>,
}

/// A line of `systemctl list-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEntry {
    /// Its id.
    pub id: u32,
    /// The unit.
    pub unit: String,
    /// `start`, `stop`, `verify-active`, `reload`, `restart`, `try-restart`, `reload-or-start`, `nop`.
    pub job_type: String,
    /// Has it begun? Else it waits for others.
    pub running: bool,
}

/// Which signals a connection gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SubscribeLevel {
    /// None.
    Off,
    /// All but [`Signal::UnitChanged`], [`Signal::UnitNew`], [`Signal::UnitRemoved`].
    Jobs,
    /// All.
    Units,
}

/// News from PID 1. Signals are sent at most once per turn of its loop and are coalesced by unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// A job was queued.
    JobNew {
        /// Its id.
        id: u32,
        /// Its unit.
        unit: String,
    },
    /// A job ended.
    JobRemoved {
        /// Its id.
        id: u32,
        /// Its unit.
        unit: String,
        /// `done canceled timeout failed dependency skipped invalid assert unsupported collected once`.
        result: String,
    },
    /// A unit was loaded.
    UnitNew {
        /// Its id.
        unit: String,
    },
    /// A unit was forgotten.
    UnitRemoved {
        /// Its id.
        unit: String,
    },
    /// Something visible of the unit changed: state, job, main process, status text, result.
    UnitChanged {
        /// Its id.
        unit: String,
        /// Its state now.
        active: ActiveState,
        /// The state of its type now.
        sub: String,
    },
    /// Files were enabled, disabled, masked, linked.
    UnitFilesChanged,
    /// A reload begins (true) or is over (false).
    Reloading {
        /// Which of the two.
        active: bool,
    },
    /// The boot is over; microseconds each, 0 where unknown.
    StartupFinished {
        /// In the firmware.
        firmware: u64,
        /// In the boot loader.
        loader: u64,
        /// In the kernel.
        kernel: u64,
        /// In the initramfs.
        initrd: u64,
        /// In user space.
        userspace: u64,
        /// Together.
        total: u64,
    },
    /// The system state (`starting`, `running`, `degraded` …) changed.
    SystemStateChanged {
        /// Now.
        state: crate::manager::SystemState,
    },
}
