//! The interface `org.freedesktop.systemd1.Unit`.

use init_control::{ConditionSnapshot, DependencyKind, Stamp, UnitSnapshot};

use super::{tables, text};
use crate::names;
use crate::wire::Value;

/// A stamp as the property of its name and the one with `Monotonic` behind it.
fn stamp(
    out: &mut Vec<(&'static str, Value)>,
    realtime: &'static str,
    monotonic: &'static str,
    at: Stamp,
) {
    out.push((realtime, Value::U64(at.realtime)));
    out.push((monotonic, Value::U64(at.monotonic)));
}

pub(super) fn properties(unit: &UnitSnapshot) -> Vec<(&'static str, Value)> {
    let mut out = vec![
        ("Id", Value::str(&*unit.id)),
        (
            "Names",
            Value::strings(unit.names.iter().map(String::as_str)),
        ),
        ("Following", Value::str(&*unit.following)),
    ];
    for kind in DependencyKind::ALL {
        if !matches!(
            kind,
            DependencyKind::References | DependencyKind::ReferencedBy
        ) {
            out.push((
                kind.as_str(),
                Value::strings(unit.dependency(*kind).iter().map(String::as_str)),
            ));
        }
    }
    out.extend([
        (
            "Documentation",
            Value::strings(
                unit.setting_list("Unit", "Documentation")
                    .flat_map(text::words),
            ),
        ),
        ("Description", Value::str(&*unit.description)),
        ("LoadState", Value::str(unit.load.as_str())),
        ("ActiveState", Value::str(unit.active.as_str())),
        ("FreezerState", Value::str("running")),
        ("SubState", Value::str(&*unit.sub)),
        ("FragmentPath", Value::str(&*unit.fragment_path)),
        ("SourcePath", Value::str(&*unit.source_path)),
        (
            "DropInPaths",
            Value::strings(unit.drop_in_paths.iter().map(String::as_str)),
        ),
        (
            "UnitFileState",
            Value::str(unit.unit_file_state.map_or("", |state| state.as_str())),
        ),
        ("UnitFilePreset", Value::str(&*unit.unit_file_preset)),
    ]);
    stamp(
        &mut out,
        "StateChangeTimestamp",
        "StateChangeTimestampMonotonic",
        unit.state_change,
    );
    stamp(
        &mut out,
        "InactiveExitTimestamp",
        "InactiveExitTimestampMonotonic",
        unit.inactive_exit,
    );
    stamp(
        &mut out,
        "ActiveEnterTimestamp",
        "ActiveEnterTimestampMonotonic",
        unit.active_enter,
    );
    stamp(
        &mut out,
        "ActiveExitTimestamp",
        "ActiveExitTimestampMonotonic",
        unit.active_exit,
    );
    stamp(
        &mut out,
        "InactiveEnterTimestamp",
        "InactiveEnterTimestampMonotonic",
        unit.inactive_enter,
    );
    out.extend([
        ("CanStart", Value::Bool(unit.can_start)),
        ("CanStop", Value::Bool(unit.can_stop)),
        ("CanReload", Value::Bool(unit.can_reload)),
        ("CanIsolate", Value::Bool(unit.can_isolate)),
        ("CanClean", Value::strings(Vec::<String>::new())),
        ("CanFreeze", Value::Bool(false)),
        ("Job", job(unit)),
    ]);
    tables::derive(unit, "Unit", tables::UNIT, &mut out);
    out.extend([
        ("NeedDaemonReload", Value::Bool(unit.need_daemon_reload)),
        ("Markers", Value::strings(Vec::<String>::new())),
        ("ConditionResult", Value::Bool(unit.condition_result)),
        ("AssertResult", Value::Bool(unit.assert_result)),
    ]);
    stamp(
        &mut out,
        "ConditionTimestamp",
        "ConditionTimestampMonotonic",
        unit.condition_time,
    );
    stamp(
        &mut out,
        "AssertTimestamp",
        "AssertTimestampMonotonic",
        unit.assert_time,
    );
    let (error_name, error_text) = unit.load_error.clone().unwrap_or_default();
    out.extend([
        ("Conditions", conditions(&unit.conditions)),
        ("Asserts", conditions(&unit.asserts)),
        (
            "LoadError",
            Value::Struct(vec![Value::str(error_name), Value::str(error_text)]),
        ),
        ("Transient", Value::Bool(unit.transient)),
        ("Perpetual", Value::Bool(unit.perpetual)),
        (
            "InvocationID",
            Value::bytes(unit.invocation_id.as_ref().map_or(&[], |id| id.as_slice())),
        ),
        ("Refs", Value::strings(Vec::<String>::new())),
    ]);
    out
}

fn job(unit: &UnitSnapshot) -> Value {
    let (id, path) = unit
        .job
        .as_ref()
        .map_or((0, "/".to_owned()), |job| (job.id, names::job_path(job.id)));
    Value::Struct(vec![Value::U32(id), Value::Path(path)])
}

fn conditions(list: &[ConditionSnapshot]) -> Value {
    let items = list
        .iter()
        .map(|c| {
            Value::Struct(vec![
                Value::str(&*c.kind),
                Value::Bool(c.trigger),
                Value::Bool(c.negate),
                Value::str(&*c.parameter),
                Value::I32(c.state),
            ])
        })
        .collect();
    Value::array("(sbbsi)", items)
}
