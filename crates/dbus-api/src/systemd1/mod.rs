//! `org.freedesktop.systemd1`: units and jobs, and `org.flotilla.Init1` beside it.
//!
//! Each function makes a [`Call`](crate::Call); the types say what comes back.

mod calls;
mod events;
mod types;

pub use calls::{
    abandon_scope, attach_processes, cancel_job, default_target, delegate_self, disable_unit_files,
    enable_unit_files, kill_unit, link_unit_files, list_jobs, list_unit_files, list_units,
    list_units_by_names, list_units_by_patterns, load_unit, manager_properties, manager_property,
    mask_unit_files, preset_unit_files, queue_job, reenable_unit_files, reexecute, ref_unit,
    reload, reset_failed, reset_failed_unit, revert_unit_files, set_default_target,
    set_environment, set_unit_properties, start_transient_unit, subscribe, unit,
    unit_by_invocation_id, unit_by_pid, unit_file_state, unit_processes, unit_properties,
    unit_property, unmask_unit_files, unref_unit, unset_environment, unsubscribe,
};
pub use events::{Event, MATCH_JOBS, MATCH_MANAGER, MATCH_PROPERTIES};
pub use types::{
    FileChange, Job, JobEntry, JobMode, JobResult, Process, TransientProperty, UnitFile, UnitPath,
    UnitStatus, Verb,
};

/// Name of the service.
pub const NAME: &str = "org.freedesktop.systemd1";
/// Its object.
pub const PATH: &str = "/org/freedesktop/systemd1";
/// The manager's interface.
pub const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// Our own interface on the same object.
pub const INIT1: &str = "org.flotilla.Init1";
/// Properties, everywhere.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
