//! What the executor needs to start one process.

use std::sync::Arc;

use unit_file::UnitName;
use unit_file::settings::{ExecSettings, Privilege};

use super::{FdToken, SpawnId};

/// Main process or one of the helpers around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SpawnRole {
    /// ExecStart= of a service.
    Main,
    /// ExecStartPre=, ExecStop=, mount helpers and the like.
    Control,
}

/// What the child does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Executes a program.
    Exec {
        /// Absolute, or a plain name to be searched in PATH by the executor.
        path: String,
        /// Complete argument vector, argv\[0\] included, variables expanded.
        argv: Vec<String>,
    },
    /// Mounts or unmounts in the manager's mount namespace, then exits: 0 done, 32 failed (one line on stderr,
    /// which goes to the journal of the unit). File systems that need it run `/sbin/mount.TYPE`.
    Mount(MountOperation),
}

/// One mount operation. The mount point is made (with `directory_mode`) when missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountOperation {
    /// mount(8).
    Mount {
        /// Source, as a path or a `LABEL= UUID= PARTLABEL= PARTUUID=` tag.
        what: String,
        /// Mount point.
        where_: String,
        /// Type; `None` or `auto` = found out from the source.
        fs_type: Option<String>,
        /// Comma-separated options, userspace ones (`x-…`, `nofail`, `_netdev`) included: drop them.
        options: String,
        /// Mode of a mount point that has to be made.
        directory_mode: u32,
        /// Fail instead of falling back to read-only.
        read_write_only: bool,
    },
    /// mount -o remount.
    Remount {
        /// Mount point.
        where_: String,
        /// Options.
        options: String,
    },
    /// umount(8).
    Unmount {
        /// Mount point.
        where_: String,
        /// MNT_DETACH.
        lazy: bool,
        /// MNT_FORCE.
        force: bool,
    },
}

/// A descriptor passed from fd 3 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedFd {
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    /// Which.
    pub token: FdToken,
}

/// Everything about one process to be started.
///
/// The executor resolves `exec.user` and its groups (217/216 on failure), opens stdio, makes the directories of
/// `exec.directories`, applies limits, namespaces, capabilities and filters, and reports the step that failed
/// as [`ExecFailure`](super::ExecFailure) and exit code (see [`init_control::exit_step`]). `environment` is complete but for what
/// only the child knows: it adds `SYSTEMD_EXEC_PID`, `JOURNAL_STREAM` (when stdout or stderr is the journal),
/// `LISTEN_PID` (when `fds` is not empty) and `WATCHDOG_PID` (when `WATCHDOG_USEC` is set).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnSpec {
    /// Name of this spawn in the events that follow.
    pub id: SpawnId,
    /// The unit; also the id of its journal stream.
    pub unit: UnitName,
    /// Main or control process.
    pub role: SpawnRole,
    /// What is run.
    pub program: Program,
    /// `NAME=value`, complete but for the above.
    pub environment: Vec<String>,
    /// Execution context.
    pub exec: Arc<ExecSettings>,
    /// Prefixes `+`, `!`, `!!`.
    pub privilege: Privilege,
    /// Control group to be born in, from the root of the hierarchy (`/system.slice/x.service`), already realised.
    pub cgroup: String,
    /// Child group below it to be made and used (DelegateSubgroup=, `.control` of delegated units).
    pub subgroup: Option<String>,
    /// Descriptors from 3 on: LISTEN_FDS and LISTEN_FDNAMES are in `environment`.
    pub fds: Vec<PassedFd>,
    /// The descriptor for `StandardInput=socket` and its kin.
    pub stdio_socket: Option<FdToken>,
    /// O_NONBLOCK on the passed descriptors.
    pub non_blocking: bool,
    /// Id of this run of the unit.
    pub invocation_id: [u8; 16],
    /// The unit whose namespaces and private /tmp are shared (JoinsNamespaceOf=), or the unit itself.
    pub namespace_of: UnitName,
    /// RootDirectory= and the like apply (false for ExecStartPre= under RootDirectoryStartOnly=).
    pub apply_root: bool,
}
