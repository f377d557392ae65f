//! What there is to know about one unit, common to all types.

use serde::{Deserialize, Serialize};

use crate::request::words;
use crate::unit_files::UnitFileState;
use crate::unit_types::TypeSnapshot;

/// A moment on both clocks, in microseconds. Zero = never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Since 1970.
    pub realtime: u64,
    /// Since boot (`CLOCK_MONOTONIC`).
    pub monotonic: u64,
}

words! {
    /// Was the unit's file read?
    LoadState {
        /// Named, not looked at.
        Stub => "stub",
        /// Read.
        Loaded => "loaded",
        /// There is no file.
        NotFound => "not-found",
        /// The file makes no usable unit.
        BadSetting => "bad-setting",
        /// The file could not be read.
        Error => "error",
        /// Became part of another unit.
        Merged => "merged",
        /// Linked to /dev/null, or empty.
        Masked => "masked",
    }
}

words! {
    /// Does the unit run?
    ActiveState {
        /// Yes.
        Active => "active",
        /// Yes, and it reads its configuration again.
        Reloading => "reloading",
        /// No.
        Inactive => "inactive",
        /// No, and it ended badly.
        Failed => "failed",
        /// On the way up.
        Activating => "activating",
        /// On the way down.
        Deactivating => "deactivating",
        /// Being cleaned.
        Maintenance => "maintenance",
    }
}

words! {
    /// Dependencies as seen from the unit; the words are the D-Bus property names.
    DependencyKind {
        /// Started too, must work.
        Requires => "Requires",
        /// Must be active already.
        Requisite => "Requisite",
        /// Started too, may fail.
        Wants => "Wants",
        /// Stops when the other stops.
        BindsTo => "BindsTo",
        /// Stop and restart follow.
        PartOf => "PartOf",
        /// Kept running.
        Upholds => "Upholds",
        /// Reverse of Requires.
        RequiredBy => "RequiredBy",
        /// Reverse of Requisite.
        RequisiteOf => "RequisiteOf",
        /// Reverse of Wants.
        WantedBy => "WantedBy",
        /// Reverse of BindsTo.
        BoundBy => "BoundBy",
        /// Reverse of Upholds.
        UpheldBy => "UpheldBy",
        /// Reverse of PartOf.
        ConsistsOf => "ConsistsOf",
        /// Cannot be active together.
        Conflicts => "Conflicts",
        /// Reverse of Conflicts.
        ConflictedBy => "ConflictedBy",
        /// Ordered before the other.
        Before => "Before",
        /// Ordered after the other.
        After => "After",
        /// Started when this one fails.
        OnFailure => "OnFailure",
        /// Reverse of OnFailure.
        OnFailureOf => "OnFailureOf",
        /// Started when this one ends well.
        OnSuccess => "OnSuccess",
        /// Reverse of OnSuccess.
        OnSuccessOf => "OnSuccessOf",
        /// Started by this one's event (socket → service).
        Triggers => "Triggers",
        /// Reverse of Triggers.
        TriggeredBy => "TriggeredBy",
        /// Reload goes on to the other.
        PropagatesReloadTo => "PropagatesReloadTo",
        /// Reverse of PropagatesReloadTo.
        ReloadPropagatedFrom => "ReloadPropagatedFrom",
        /// Stop goes on to the other.
        PropagatesStopTo => "PropagatesStopTo",
        /// Reverse of PropagatesStopTo.
        StopPropagatedFrom => "StopPropagatedFrom",
        /// Shares namespaces.
        JoinsNamespaceOf => "JoinsNamespaceOf",
        /// Units inside this slice.
        SliceOf => "SliceOf",
        /// Mentioned, for garbage collection only.
        References => "References",
        /// Reverse of References.
        ReferencedBy => "ReferencedBy",
    }
}

/// A job of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRef {
    /// Its id.
    pub id: u32,
    /// Its type, e.g. `start`.
    pub job_type: String,
}

/// One effective setting, with specifiers expanded. Lists are repeated entries in order; resets are applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Section without brackets.
    pub section: String,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

impl Setting {
    /// A setting from its three parts.
    pub fn new(
        section: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            section: section.into(),
            key: key.into(),
            value: value.into(),
        }
    }
}

/// A condition or assert with its last result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionSnapshot {
    /// `ConditionPathExists`, `AssertPathExists` …
    pub kind: String,
    /// Part of the OR group (`|`).
    pub trigger: bool,
    /// Negated (`!`).
    pub negate: bool,
    /// The parameter.
    pub parameter: String,
    /// 0 not checked, positive held, negative did not hold.
    pub state: i32,
}

/// The unit's control group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSnapshot {
    /// Path from the root of the hierarchy, e.g. `/system.slice/x.service`; empty while it does not exist.
    pub path: String,
    /// The slice it is in.
    pub slice: String,
    /// Is it delegated (`Delegate=` or DelegateSelf)?
    pub delegated: bool,
    /// Processor time of a group that is gone, in nanoseconds; live groups are read by the client.
    pub last_cpu_usage_nsec: Option<u64>,
    /// Peak memory of a group that is gone, in bytes.
    pub last_memory_peak: Option<u64>,
}

/// Everything about one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSnapshot {
    /// Canonical name.
    pub id: String,
    /// All names, the canonical one included.
    pub names: Vec<String>,
    /// Unit whose state it follows, else empty.
    pub following: String,
    /// `Description=`, else the name.
    pub description: String,
    /// Was it read?
    pub load: LoadState,
    /// Why not: D-Bus error name and text.
    pub load_error: Option<(String, String)>,
    /// Does it run?
    pub active: ActiveState,
    /// The state of its type.
    pub sub: String,
    /// Its main file, empty where there is none.
    pub fragment_path: String,
    /// The file it was generated from, else empty.
    pub source_path: String,
    /// Its drop-ins, in the order applied.
    pub drop_in_paths: Vec<String>,
    /// State of its file; none where it has no file.
    pub unit_file_state: Option<UnitFileState>,
    /// `enabled`, `disabled` or empty.
    pub unit_file_preset: String,
    /// Last change of state.
    pub state_change: Stamp,
    /// Last time it left inactive.
    pub inactive_exit: Stamp,
    /// Last time it became active.
    pub active_enter: Stamp,
    /// Last time it left active.
    pub active_exit: Stamp,
    /// Last time it became inactive.
    pub inactive_enter: Stamp,
    /// May be started by request.
    pub can_start: bool,
    /// May be stopped by request.
    pub can_stop: bool,
    /// Has a way to reload.
    pub can_reload: bool,
    /// `AllowIsolate=`.
    pub can_isolate: bool,
    /// Its job.
    pub job: Option<JobRef>,
    /// Made by a client.
    pub transient: bool,
    /// Never stops (`-.slice`, `init.scope`, `-.mount`).
    pub perpetual: bool,
    /// Its files changed on disk since they were read.
    pub need_daemon_reload: bool,
    /// Did the conditions hold at the last start?
    pub condition_result: bool,
    /// Did the asserts hold at the last start?
    pub assert_result: bool,
    /// When conditions were checked.
    pub condition_time: Stamp,
    /// When asserts were checked.
    pub assert_time: Stamp,
    /// The conditions.
    pub conditions: Vec<ConditionSnapshot>,
    /// The asserts.
    pub asserts: Vec<ConditionSnapshot>,
    /// Id of the run; none before the first.
    pub invocation_id: Option<[u8; 16]>,
    /// Its dependencies, implicit ones included; kinds without members may be left out.
    pub dependencies: Vec<(DependencyKind, Vec<String>)>,
    /// Its control group, for types that have one.
    pub cgroup: Option<CgroupSnapshot>,
    /// Effective settings of all sections, from which the long tail of D-Bus properties is derived. Those
    /// that are not set are absent; defaults are the reader's to know.
    pub settings: Vec<Setting>,
    /// What belongs to its type.
    pub kind: TypeSnapshot,
}

impl UnitSnapshot {
    /// A unit that exists in name only: `not-found` and `inactive`, everything else empty.
    pub fn not_found(name: &str) -> Self {
        Self {
            id: name.to_owned(),
            names: vec![name.to_owned()],
            following: String::new(),
            description: name.to_owned(),
            load: LoadState::NotFound,
            load_error: Some((
                crate::ErrorKind::NoSuchUnit.dbus_name().to_owned(),
                format!("Unit {name} not found."),
            )),
            active: ActiveState::Inactive,
            sub: "dead".to_owned(),
            fragment_path: String::new(),
            source_path: String::new(),
            drop_in_paths: Vec::new(),
            unit_file_state: None,
            unit_file_preset: String::new(),
            state_change: Stamp::default(),
            inactive_exit: Stamp::default(),
            active_enter: Stamp::default(),
            active_exit: Stamp::default(),
            inactive_enter: Stamp::default(),
            can_start: false,
            can_stop: false,
            can_reload: false,
            can_isolate: false,
            job: None,
            transient: false,
            perpetual: false,
            need_daemon_reload: false,
            condition_result: false,
            assert_result: false,
            condition_time: Stamp::default(),
            assert_time: Stamp::default(),
            conditions: Vec::new(),
            asserts: Vec::new(),
            invocation_id: None,
            dependencies: Vec::new(),
            cgroup: None,
            settings: Vec::new(),
            kind: TypeSnapshot::for_name(name),
        }
    }

    /// The units of one dependency kind.
    pub fn dependency(&self, kind: DependencyKind) -> &[String] {
        self.dependencies
            .iter()
            .find(|(k, _)| *k == kind)
            .map_or(&[], |(_, names)| names)
    }

    /// The last value of a setting.
    pub fn setting(&self, section: &str, key: &str) -> Option<&str> {
        self.settings
            .iter()
            .rev()
            .find(|s| s.section == section && s.key == key)
            .map(|s| s.value.as_str())
    }

    /// All values of a setting, in order.
    pub fn setting_list<'a>(
        &'a self,
        section: &'a str,
        key: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        self.settings
            .iter()
            .filter(move |s| s.section == section && s.key == key)
            .map(|s| s.value.as_str())
    }
}
