//! Properties of transient units to settings of unit files.
//!
//! Clients send D-Bus names and types (`MemoryMax` t, `ExecStart` a(sasb), `TimeoutStopUSec` t); PID 1 knows
//! settings as text. What has no text form is refused with its name, never dropped.

use dbus_api::wire::Value;
use init_control::{ErrorKind, JobMode, Request, Setting, TransientUnit};
use unit_file::UnitName;

use crate::dispatch::Call;
use crate::manager;
use crate::step::Step;

/// Properties that belong to `[Unit]`; all others go to the section of the type.
const UNIT_PROPERTIES: &[&str] = &[
    "Description",
    "Documentation",
    "SourcePath",
    "Requires",
    "Requisite",
    "Wants",
    "BindsTo",
    "PartOf",
    "Upholds",
    "Conflicts",
    "Before",
    "After",
    "OnFailure",
    "OnSuccess",
    "PropagatesReloadTo",
    "ReloadPropagatedFrom",
    "PropagatesStopTo",
    "StopPropagatedFrom",
    "JoinsNamespaceOf",
    "RequiresMountsFor",
    "StopWhenUnneeded",
    "RefuseManualStart",
    "RefuseManualStop",
    "AllowIsolate",
    "DefaultDependencies",
    "OnFailureJobMode",
    "OnSuccessJobMode",
    "IgnoreOnIsolate",
    "JobTimeoutUSec",
    "JobRunningTimeoutUSec",
    "JobTimeoutAction",
    "StartLimitIntervalUSec",
    "StartLimitBurst",
    "StartLimitAction",
    "FailureAction",
    "SuccessAction",
    "RebootArgument",
    "CollectMode",
];

/// `StartTransientUnit`
pub(crate) fn start(call: &Call) -> Step {
    let Some(mode) = JobMode::from_word(&call.text(1)) else {
        return Step::refuse(
            ErrorKind::InvalidArgs,
            format!("Job mode {} invalid", call.text(1)),
        );
    };
    let unit = match transient_unit(&call.text(0), call.body.get(2), call.pid()) {
        Ok(unit) => unit,
        Err(text) => return Step::refuse(ErrorKind::InvalidArgs, text),
    };
    let mut aux = Vec::new();
    for item in call.body.get(3).and_then(Value::items).unwrap_or_default() {
        let parts = item.items().unwrap_or_default();
        let name = parts.first().and_then(Value::as_str).unwrap_or_default();
        match transient_unit(name, parts.get(1), call.pid()) {
            Ok(unit) => aux.push(unit),
            Err(text) => return Step::refuse(ErrorKind::InvalidArgs, text),
        }
    }
    Step::ask(
        Request::StartTransient { unit, mode, aux },
        manager::job_path,
    )
}

/// `SetUnitProperties`
pub(crate) fn set_properties(name: &str, runtime: bool, properties: Option<&Value>) -> Step {
    match transient_unit(name, properties, 0) {
        Ok(unit) => Step::ask_done(Request::SetUnitProperties {
            name: unit.name,
            runtime,
            settings: unit.settings,
        }),
        Err(text) => Step::refuse(ErrorKind::InvalidArgs, text),
    }
}

/// A unit from `a(sv)`. `caller` stands in where a process list says 0.
fn transient_unit(
    name: &str,
    properties: Option<&Value>,
    caller: u32,
) -> Result<TransientUnit, String> {
    let parsed =
        UnitName::parse(name).map_err(|error| format!("Unit name {name} is not valid: {error}"))?;
    let section = parsed.unit_type().section().unwrap_or("Unit");
    let mut unit = TransientUnit {
        name: name.to_owned(),
        ..TransientUnit::default()
    };
    for item in properties.and_then(Value::items).unwrap_or_default() {
        let parts = item.items().unwrap_or_default();
        let (Some(property), Some(value)) = (parts.first().and_then(Value::as_str), parts.get(1))
        else {
            return Err("properties are not (name, value) pairs".to_owned());
        };
        let value = value.clone().into_inner();
        match property {
            "PIDs" => {
                let pids = value
                    .items()
                    .unwrap_or_default()
                    .iter()
                    .filter_map(Value::as_u32);
                unit.pids = pids
                    .map(|pid| if pid == 0 { caller } else { pid })
                    .collect();
            }
            "Controller" => unit.controller = value.as_str().map(str::to_owned),
            // The reference lives as long as the unit's job; kept for clients that always send it.
            "AddRef" => {}
            _ => {
                let section = if UNIT_PROPERTIES.contains(&property) {
                    "Unit"
                } else {
                    section
                };
                let lines = lines(property, &value).ok_or_else(|| {
                    format!("Cannot set property {property}, or unknown property.")
                })?;
                unit.settings.extend(
                    lines
                        .into_iter()
                        .map(|(key, text)| Setting::new(section, key, text)),
                );
            }
        }
    }
    Ok(unit)
}

/// Key and text of each line that the property stands for.
fn lines(property: &str, value: &Value) -> Option<Vec<(String, String)>> {
    if let Some(lines) = special(property, value) {
        return lines;
    }
    let (key, text) = match value {
        Value::Bool(flag) => (property, if *flag { "yes" } else { "no" }.to_owned()),
        Value::Str(text) => (property, escape(text)?),
        Value::U64(number) if property.ends_with("USec") => {
            let key = format!("{}Sec", &property[..property.len() - 4]);
            let text = if *number == u64::MAX {
                "infinity".to_owned()
            } else {
                format!("{number}us")
            };
            return Some(vec![(key, text)]);
        }
        Value::U64(u64::MAX) => (property, "infinity".to_owned()),
        Value::U64(number) => (property, number.to_string()),
        Value::U32(number) => (property, number.to_string()),
        Value::I32(number) => (property, number.to_string()),
        Value::I64(number) => (property, number.to_string()),
        Value::Array(element, items) if element == "s" => {
            let texts = items
                .iter()
                .map(|item| escape(item.as_str()?))
                .collect::<Option<Vec<_>>>()?;
            return Some(
                texts
                    .into_iter()
                    .map(|text| (property.to_owned(), text))
                    .collect(),
            );
        }
        _ => return None,
    };
    Some(vec![(key.to_owned(), text)])
}

/// Properties whose text is not that of their type. Outer none = not special; inner none = malformed.
#[expect(
    clippy::option_option,
    reason = "the two answers differ: not mine, and mine but wrong"
)]
fn special(property: &str, value: &Value) -> Option<Option<Vec<(String, String)>>> {
    let one = |key: &str, text: Option<String>| Some(text.map(|text| vec![(key.to_owned(), text)]));
    if property.starts_with("Exec")
        && matches!(value, Value::Array(..))
        && !property.ends_with("Paths")
    {
        return Some(commands(property, value));
    }
    match property {
        "CPUQuotaPerSecUSec" => one(
            "CPUQuota",
            value.as_u64().map(|usec| {
                if usec == u64::MAX {
                    String::new()
                } else {
                    format!("{}.{:02}%", usec / 10_000, usec % 10_000 / 100)
                }
            }),
        ),
        "UMask"
        | "RuntimeDirectoryMode"
        | "StateDirectoryMode"
        | "SocketMode"
        | "DirectoryMode" => one(property, value.as_u32().map(|mode| format!("{mode:04o}"))),
        "CPUWeight" | "StartupCPUWeight" | "IOWeight" | "StartupIOWeight" | "CPUShares" => one(
            property,
            value.as_u64().map(|weight| {
                if weight == u64::MAX {
                    String::new()
                } else {
                    weight.to_string()
                }
            }),
        ),
        "DelegateControllers" => one("Delegate", value.as_strings().map(|names| names.join(" "))),
        "Environment" => Some(value.as_strings().and_then(|list| {
            list.iter()
                .map(|item| Some((property.to_owned(), quote(item, false)?)))
                .collect()
        })),
        "EnvironmentFiles" => Some(value.items().and_then(|list| {
            list.iter()
                .map(|item| {
                    let [path, optional] = item.items()? else {
                        return None;
                    };
                    let dash = if optional.as_bool()? { "-" } else { "" };
                    Some((
                        "EnvironmentFile".to_owned(),
                        format!("{dash}{}", escape(path.as_str()?)?),
                    ))
                })
                .collect()
        })),
        "DeviceAllow" => Some(value.items().and_then(|list| {
            list.iter()
                .map(|item| {
                    let [node, rights] = item.items()? else {
                        return None;
                    };
                    Some((
                        property.to_owned(),
                        format!("{} {}", escape(node.as_str()?)?, escape(rights.as_str()?)?),
                    ))
                })
                .collect()
        })),
        _ if property.starts_with("Limit") => {
            let text = value.as_u64().map(|n| {
                if n == u64::MAX {
                    "infinity".to_owned()
                } else {
                    n.to_string()
                }
            });
            // The soft limit comes as a property of its own; the pair is one setting.
            if property.ends_with("Soft") {
                Some(Some(Vec::new()))
            } else {
                one(property, text)
            }
        }
        _ => None,
    }
}

/// `a(sasb)`: path, arguments, ignore failure; or `a(sasas)` with flags as words.
fn commands(property: &str, value: &Value) -> Option<Vec<(String, String)>> {
    let key = property.strip_suffix("Ex").unwrap_or(property);
    value
        .items()?
        .iter()
        .map(|item| {
            let [path, argv, flags] = item.items()? else {
                return None;
            };
            let ignore = match flags {
                Value::Bool(flag) => *flag,
                other => other
                    .as_strings()?
                    .iter()
                    .any(|flag| flag == "ignore-failure"),
            };
            let (path, argv) = (path.as_str()?, argv.as_strings()?);
            let named = argv.first().is_none_or(|zeroth| zeroth == path);
            let mut text = format!(
                "{}{}",
                if ignore { "-" } else { "" },
                if named { "" } else { "@" }
            );
            text.push_str(&quote(path, true)?);
            for word in argv.iter().skip(usize::from(named)) {
                text.push(' ');
                text.push_str(&quote(word, true)?);
            }
            Some((key.to_owned(), text))
        })
        .collect()
}

/// Text for a setting: `%` doubled. A line cannot hold a line break.
fn escape(text: &str) -> Option<String> {
    (!text.contains(['\n', '\0'])).then(|| text.replace('%', "%%"))
}

/// One word in quotes, as unit files have it; `$` is doubled in command lines.
fn quote(word: &str, command: bool) -> Option<String> {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '\0' => return None,
            '\n' => out.push_str("\\n"),
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '%' => out.push_str("%%"),
            '$' if command => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    Some(out)
}

#[cfg(test)]
mod tests {
    use dbus_api::systemd1::TransientProperty;

    use super::*;

    fn unit(name: &str, properties: &[TransientProperty]) -> Result<TransientUnit, String> {
        let items = properties
            .iter()
            .map(|p| Value::Struct(vec![Value::str(&*p.name), Value::variant(p.value.clone())]))
            .collect();
        transient_unit(name, Some(&Value::array("(sv)", items)), 99)
    }

    #[test]
    fn scope_of_a_container() {
        let unit = unit(
            "docker-1.scope",
            &[
                TransientProperty::pids(&[7, 0]),
                TransientProperty::slice("machine.slice"),
                TransientProperty::delegate(true),
                TransientProperty::description("100% of it"),
                TransientProperty::units("After", &["docker.service"]),
                TransientProperty::new("MemoryMax", Value::U64(u64::MAX)),
                TransientProperty::new("TimeoutStopUSec", Value::U64(10_000_000)),
                TransientProperty::new("CPUQuotaPerSecUSec", Value::U64(205_000)),
                TransientProperty::new("LimitNOFILE", Value::U64(65_536)),
            ],
        )
        .unwrap();
        assert_eq!(unit.pids, [7, 99]);
        let lines: Vec<_> = unit
            .settings
            .iter()
            .map(|s| format!("[{}] {}={}", s.section, s.key, s.value))
            .collect();
        assert_eq!(
            lines,
            [
                "[Scope] Slice=machine.slice",
                "[Scope] Delegate=yes",
                "[Unit] Description=100%% of it",
                "[Unit] After=docker.service",
                "[Scope] MemoryMax=infinity",
                "[Scope] TimeoutStopSec=10000000us",
                "[Scope] CPUQuota=20.50%",
                "[Scope] LimitNOFILE=65536",
            ]
        );
    }

    #[test]
    fn service_of_systemd_run() {
        let argv = ["/bin/sh", "-c", "echo \"$HOME\" 100%"].map(str::to_owned);
        let environment = TransientProperty::new("Environment", Value::strings(["A=b c"]));
        let unit = unit(
            "run-1.service",
            &[TransientProperty::exec_start(&argv, true), environment],
        )
        .unwrap();
        assert_eq!(
            unit.settings[0].value,
            r#"-"/bin/sh" "-c" "echo \"$$HOME\" 100%%""#
        );
        assert_eq!(unit.settings[1].value, "\"A=b c\"");
    }

    #[test]
    fn refusals_name_the_property() {
        assert!(unit("nosuffix", &[]).unwrap_err().contains("nosuffix"));
        let odd = TransientProperty::new("StandardInputFileDescriptor", Value::Fd(0));
        assert!(
            unit("a.service", &[odd])
                .unwrap_err()
                .contains("StandardInputFileDescriptor")
        );
        let broken = TransientProperty::new("Description", Value::str("a\nExecStart=/bin/evil"));
        assert!(
            unit("a.service", &[broken])
                .unwrap_err()
                .contains("Description")
        );
    }
}
