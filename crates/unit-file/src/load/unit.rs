//! Keys of [Unit] and [Install].

use std::borrow::Cow;

use super::line::{Line, Taken, list, names, set};
use crate::settings::{
    CollectMode, Condition, ConditionKind, EmergencyAction, InstallSettings, UnitSettings,
};

/// Words of job modes, as in OnFailureJobMode=.
const JOB_MODES: [&str; 9] = [
    "replace",
    "replace-irreversibly",
    "fail",
    "isolate",
    "flush",
    "ignore-dependencies",
    "ignore-requirements",
    "triggering",
    "restart-dependencies",
];

/// Takes a key of [Unit]; `false` when it is none.
pub(super) fn apply(u: &mut UnitSettings, key: &str, l: Line<'_>) -> Taken {
    if let Some(kind) = key.strip_prefix("Condition") {
        return condition(&mut u.conditions, kind, l);
    }
    if let Some(kind) = key.strip_prefix("Assert") {
        return condition(&mut u.asserts, kind, l);
    }
    match key {
        "Description" => set(&mut u.description, l.text()),
        "Documentation" => list(&mut u.documentation, l),
        "SourcePath" => set(&mut u.source_path, l.text()),
        "Wants" => names(&mut u.wants, l),
        "Requires" => names(&mut u.requires, l),
        // RequiresOverridable= of old counts as Requires=.
        "RequiresOverridable" => names(&mut u.requires, l),
        "Requisite" | "RequisiteOverridable" => names(&mut u.requisite, l),
        "BindsTo" | "BindTo" => names(&mut u.binds_to, l),
        "PartOf" => names(&mut u.part_of, l),
        "Upholds" => names(&mut u.upholds, l),
        "Conflicts" => names(&mut u.conflicts, l),
        "Before" => names(&mut u.before, l),
        "After" => names(&mut u.after, l),
        "OnFailure" => names(&mut u.on_failure, l),
        "OnSuccess" => names(&mut u.on_success, l),
        "PropagatesReloadTo" | "PropagateReloadTo" => names(&mut u.propagates_reload_to, l),
        "ReloadPropagatedFrom" | "PropagateReloadFrom" => names(&mut u.reload_propagated_from, l),
        "PropagatesStopTo" => names(&mut u.propagates_stop_to, l),
        "StopPropagatedFrom" => names(&mut u.stop_propagated_from, l),
        "JoinsNamespaceOf" => names(&mut u.joins_namespace_of, l),
        "RequiresMountsFor" => mounts(&mut u.requires_mounts_for, l),
        "WantsMountsFor" => mounts(&mut u.wants_mounts_for, l),
        "OnFailureJobMode" => set(&mut u.on_failure_job_mode, job_mode(l)),
        "OnSuccessJobMode" => set(&mut u.on_success_job_mode, job_mode(l)),
        "OnFailureIsolate" => {
            let mode = if l.boolean()? { "isolate" } else { "replace" };
            set(&mut u.on_failure_job_mode, Ok(mode.into()))
        }
        "DefaultDependencies" => set(&mut u.default_dependencies, l.boolean()),
        "IgnoreOnIsolate" => set(&mut u.ignore_on_isolate, l.boolean().map(Some)),
        "StopWhenUnneeded" => set(&mut u.stop_when_unneeded, l.boolean()),
        "RefuseManualStart" => set(&mut u.refuse_manual_start, l.boolean()),
        "RefuseManualStop" => set(&mut u.refuse_manual_stop, l.boolean()),
        "AllowIsolate" => set(&mut u.allow_isolate, l.boolean()),
        "SurviveFinalKillSignal" => set(&mut u.survive_final_kill_signal, l.boolean()),
        "CollectMode" => set(
            &mut u.collect_mode,
            l.word(&[
                ("inactive", CollectMode::Inactive),
                ("inactive-or-failed", CollectMode::InactiveOrFailed),
            ]),
        ),
        "StartLimitIntervalSec" | "StartLimitInterval" => {
            set(&mut u.start_limit_interval_usec, l.span())
        }
        "StartLimitBurst" => set(&mut u.start_limit_burst, l.number()),
        "StartLimitAction" => set(&mut u.start_limit_action, emergency_action(l)),
        "FailureAction" => set(&mut u.failure_action, emergency_action(l)),
        "SuccessAction" => set(&mut u.success_action, emergency_action(l)),
        "JobTimeoutSec" => set(&mut u.job_timeout_usec, l.timeout()),
        "JobRunningTimeoutSec" => set(&mut u.job_running_timeout_usec, l.timeout().map(Some)),
        "JobTimeoutAction" => set(&mut u.job_timeout_action, emergency_action(l)),
        // Known, without effect on this manager.
        "RebootArgument"
        | "JobTimeoutRebootArgument"
        | "IgnoreOnSnapshot"
        | "FailureActionExitStatus"
        | "SuccessActionExitStatus" => Ok(true),
        _ => Ok(false),
    }
}

fn mounts(slot: &mut Vec<String>, l: Line<'_>) -> Taken {
    for word in l.words()? {
        let path = crate::name::clean_path(&word)
            .ok_or_else(|| format!("{word:?} is not an absolute path"))?;
        if !slot.contains(&path) {
            slot.push(path);
        }
    }
    Ok(true)
}

fn job_mode(l: Line<'_>) -> Result<Cow<'static, str>, String> {
    match JOB_MODES.iter().find(|m| **m == l.value) {
        Some(mode) => Ok(Cow::Borrowed(*mode)),
        None => Err(format!("{:?} is not a job mode", l.value)),
    }
}

/// Words of StartLimitAction= and its kin.
pub(super) fn emergency_action(l: Line<'_>) -> Result<EmergencyAction, String> {
    use EmergencyAction as A;
    l.word(&[
        ("none", A::None),
        ("reboot", A::Reboot),
        ("reboot-force", A::RebootForce),
        ("reboot-immediate", A::RebootImmediate),
        ("poweroff", A::Poweroff),
        ("poweroff-force", A::PoweroffForce),
        ("poweroff-immediate", A::PoweroffImmediate),
        ("exit", A::Exit),
        ("exit-force", A::ExitForce),
        ("halt", A::Halt),
        ("halt-force", A::HaltForce),
        ("halt-immediate", A::HaltImmediate),
        ("kexec", A::Kexec),
        ("kexec-force", A::KexecForce),
        ("soft-reboot", A::SoftReboot),
        ("soft-reboot-force", A::SoftRebootForce),
    ])
}

fn condition(slot: &mut Vec<Condition>, word: &str, l: Line<'_>) -> Taken {
    let Some(kind) = ConditionKind::from_word(word) else {
        return Ok(false);
    };
    if l.is_empty() {
        // An empty assignment of any kind resets the whole list.
        slot.clear();
        return Ok(true);
    }
    let mut rest = l.value;
    let mut trigger = false;
    let mut negate = false;
    if let Some(r) = rest.strip_prefix('|') {
        trigger = true;
        rest = r.trim_start();
    }
    if let Some(r) = rest.strip_prefix('!') {
        negate = true;
        rest = r.trim_start();
    }
    let parameter = l.expand(rest)?;
    let wants_path = word.starts_with("Path")
        || word.starts_with("File")
        || kind == ConditionKind::DirectoryNotEmpty;
    if wants_path && !parameter.starts_with('/') {
        return Err(format!("{parameter:?} is not an absolute path"));
    }
    slot.push(Condition {
        kind,
        trigger,
        negate,
        parameter,
    });
    Ok(true)
}

/// Takes a key of [Install]; `false` when it is none.
pub(super) fn apply_install(i: &mut InstallSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "WantedBy" => names(&mut i.wanted_by, l),
        "RequiredBy" => names(&mut i.required_by, l),
        "UpheldBy" => names(&mut i.upheld_by, l),
        "Alias" => names(&mut i.alias, l),
        "Also" => names(&mut i.also, l),
        "DefaultInstance" => set(&mut i.default_instance, l.text()),
        _ => Ok(false),
    }
}
