//! Properties as `show` prints them: by type, with a few names that have ways of their own.

use dbus_api::wire::Value;

use super::time::{self, Zone};

/// The text of a property; none where it has no printable form.
pub(crate) fn text(name: &str, value: &Value, zone: &Zone) -> Option<String> {
    Some(match value {
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Str(text) | Value::Path(text) | Value::Signature(text) => text.clone(),
        Value::U64(number) => unsigned(name, *number, zone),
        Value::U32(number) if name.ends_with("Mode") || name == "UMask" => format!("{number:04o}"),
        Value::U32(u32::MAX) if matches!(name, "UID" | "GID") => "[not set]".to_owned(),
        Value::U32(number) => number.to_string(),
        Value::I32(-1) if name.ends_with("ActionExitStatus") => String::new(),
        Value::I32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::I16(number) => number.to_string(),
        Value::U16(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Array(element, items) => return array(name, element, items, zone),
        Value::Struct(fields) => match (name, fields.as_slice()) {
            ("Job", [id, _]) => match id.as_u64()? {
                0 => String::new(),
                id => id.to_string(),
            },
            ("Unit", [id, _]) => id.as_str()?.to_owned(),
            ("LoadError", [error, message]) => match (error.as_str()?, message.as_str()?) {
                ("", "") => String::new(),
                (error, message) => format!("{error} \"{message}\""),
            },
            ("ScheduledShutdown", [kind, at]) => format!("{} {}", kind.as_str()?, at.as_u64()?),
            _ => return None,
        },
        Value::Variant(inner) => return text(name, inner, zone),
        Value::Byte(_) | Value::Fd(_) | Value::Entry(_) => return None,
    })
}

fn unsigned(name: &str, number: u64, zone: &Zone) -> String {
    const NOT_SET: [&str; 12] = [
        "CPUWeight",
        "StartupCPUWeight",
        "IOWeight",
        "StartupIOWeight",
        "CPUShares",
        "StartupCPUShares",
        "MemoryCurrent",
        "MemoryPeak",
        "TasksCurrent",
        "CPUUsageNSec",
        "MemorySwapCurrent",
        "EffectiveCPUs",
    ];
    let is_moment = name.ends_with("Timestamp")
        || matches!(
            name,
            "NextElapseUSecRealtime" | "LastTriggerUSec" | "TimeUSec" | "RTCTimeUSec"
        );
    if is_moment {
        return time::timestamp(number, zone);
    }
    if name.contains("USec") {
        return time::span(number, 1);
    }
    match name {
        "CapabilityBoundingSet" | "AmbientCapabilities" => return capabilities(number),
        "MountFlags" => {
            return if number == 0 {
                String::new()
            } else {
                number.to_string()
            };
        }
        _ => {}
    }
    if number == u64::MAX {
        if NOT_SET.contains(&name) {
            return "[not set]".to_owned();
        }
        if name.starts_with("IP") || name.starts_with("IORead") || name.starts_with("IOWrite") {
            return if name.starts_with("IP") {
                "[no data]"
            } else {
                "[not set]"
            }
            .to_owned();
        }
        let bounds = [
            "Memory",
            "Tasks",
            "DefaultTasks",
            "Limit",
            "DefaultLimit",
            "DefaultMemory",
            "Startup",
        ];
        if bounds.iter().any(|prefix| name.starts_with(prefix)) {
            return "infinity".to_owned();
        }
    }
    number.to_string()
}

fn capabilities(bits: u64) -> String {
    unit_file::capability::names(bits)
        .map(str::to_ascii_lowercase)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word in quotes where the shell would need them.
fn quoted(word: &str) -> String {
    let plain =
        |c: char| !(c.is_whitespace() || c.is_control() || "\"\\`$*?['()<>|&;!{}#~=%".contains(c));
    let safe = word.chars().all(|c| plain(c) || "=~%?*[{}!#".contains(c));
    if !word.is_empty() && safe {
        return word.to_owned();
    }
    let mut out = String::from("\"");
    for c in word.chars() {
        if "\"\\`$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

fn array(name: &str, element: &str, items: &[Value], zone: &Zone) -> Option<String> {
    match element {
        "s" => {
            let words = items
                .iter()
                .map(|item| item.as_str().map(quoted))
                .collect::<Option<Vec<_>>>()?;
            Some(words.join(" "))
        }
        "y" if items.is_empty() => Some(String::new()),
        "y" => Some(
            items
                .iter()
                .filter_map(Value::as_u64)
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        ),
        _ if items.is_empty() => Some(String::new()),
        "u" | "i" | "t" => Some(
            items
                .iter()
                .filter_map(|item| text(name, item, zone))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        _ => Some(
            items
                .iter()
                .map(|item| entry(name, item, zone))
                .collect::<Option<Vec<_>>>()?
                .join("\n"),
        ),
    }
}

/// Properties whose entries are lines of their own, each with the property's name before it.
pub(crate) fn is_multi_line(name: &str) -> bool {
    matches!(
        name,
        "Listen"
            | "Paths"
            | "TimersMonotonic"
            | "TimersCalendar"
            | "EnvironmentFiles"
            | "DeviceAllow"
    ) || (name.starts_with("Exec") && !name.starts_with("ExecMain"))
}

fn entry(name: &str, item: &Value, zone: &Zone) -> Option<String> {
    let fields = item.items()?;
    match (name, fields) {
        ("Listen" | "Paths", [kind, what]) => {
            Some(format!("{} ({})", what.as_str()?, kind.as_str()?))
        }
        ("EnvironmentFiles", [path, optional]) => {
            let word = if optional.as_bool()? { "yes" } else { "no" };
            Some(format!("{} (ignore_errors={word})", path.as_str()?))
        }
        ("DeviceAllow", [node, rights]) => Some(format!("{} {}", node.as_str()?, rights.as_str()?)),
        ("TimersMonotonic", [base, value, next]) => Some(format!(
            "{{ {}={} ; next_elapse={} }}",
            base.as_str()?,
            time::span(value.as_u64()?, 1),
            time::span(next.as_u64()?, 1)
        )),
        ("TimersCalendar", [base, spec, next]) => {
            let next = time::timestamp(next.as_u64()?, zone);
            let next = if next.is_empty() {
                "(null)".to_owned()
            } else {
                next
            };
            Some(format!(
                "{{ {}={} ; next_elapse={next} }}",
                base.as_str()?,
                spec.as_str()?
            ))
        }
        (_, [_, _, _, _, _, _, _, _, _, _]) if name.starts_with("Exec") => command(fields, zone),
        _ => None,
    }
}

/// `{ path=… ; argv[]=… ; … }`
fn command(fields: &[Value], zone: &Zone) -> Option<String> {
    let [path, argv, flags, started, _, exited, _, pid, code, status] = fields else {
        return None;
    };
    let moment = |value: &Value| {
        let text = time::timestamp(value.as_u64().unwrap_or_default(), zone);
        if text.is_empty() {
            "n/a".to_owned()
        } else {
            text
        }
    };
    let flags = match flags {
        Value::Bool(ignore) => format!("ignore_errors={}", if *ignore { "yes" } else { "no" }),
        other => format!("flags={}", other.as_strings()?.join(" ")),
    };
    let (code, status) = (code.as_i64()?, status.as_i64()?);
    let word = match code {
        1 => "exited",
        2 => "killed",
        3 => "dumped",
        _ => "(null)",
    };
    let status = match code {
        1 => status.to_string(),
        2 | 3 => format!("{status}/{}", signal_name(status)),
        _ => format!("{status}/0"),
    };
    let (start, stop) = (moment(started), moment(exited));
    let argv = argv.as_strings()?.join(" ");
    Some(format!(
        "{{ path={} ; argv[]={argv} ; {flags} ; start_time=[{start}] ; stop_time=[{stop}] ; pid={} ; code={word} ; status={status} }}",
        path.as_str()?,
        pid.as_u64()?
    ))
}

/// Name of a signal without `SIG`.
pub(crate) fn signal_name(number: i64) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let known = usize::try_from(number - 1)
        .ok()
        .and_then(|index| NAMES.get(index));
    known.map_or_else(
        || format!("RTMIN+{}", number - 34),
        |name| (*name).to_owned(),
    )
}

/// Number of a signal by name or number.
pub(crate) fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .filter(|offset| (0..=30).contains(offset))
            .map(|offset| 34 + offset);
    }
    (1..=31).find(|number| signal_name(i64::from(*number)) == name)
}

/// Names of exit codes that the executor and the C library use.
pub(crate) fn exit_name(status: i64) -> &'static str {
    match status {
        0 => "SUCCESS",
        1 => "FAILURE",
        2 => "INVALIDARGUMENT",
        3 => "NOTIMPLEMENTED",
        4 => "NOPERMISSION",
        5 => "NOTINSTALLED",
        6 => "NOTCONFIGURED",
        7 => "NOTRUNNING",
        64 => "USAGE",
        65 => "DATAERR",
        66 => "NOINPUT",
        67 => "NOUSER",
        68 => "NOHOST",
        69 => "UNAVAILABLE",
        70 => "SOFTWARE",
        71 => "OSERR",
        72 => "OSFILE",
        73 => "CANTCREAT",
        74 => "IOERR",
        75 => "TEMPFAIL",
        76 => "PROTOCOL",
        77 => "NOPERM",
        78 => "CONFIG",
        _ => i32::try_from(status)
            .ok()
            .and_then(init_control::exit_step)
            .unwrap_or("n/a"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let zone = Zone::default();
        for (name, value, expect) in [
            ("MainPID", Value::U32(7), "7"),
            ("RestartUSec", Value::U64(100_000), "100ms"),
            ("UMask", Value::U32(0o22), "0022"),
            ("MemoryCurrent", Value::U64(u64::MAX), "[not set]"),
            ("MemoryMax", Value::U64(u64::MAX), "infinity"),
            ("LimitNOFILE", Value::U64(u64::MAX), "infinity"),
            ("IPIngressBytes", Value::U64(u64::MAX), "[no data]"),
            (
                "Environment",
                Value::strings(["A=1", "B=2 3"]),
                "A=1 \"B=2 3\"",
            ),
            ("InvocationID", Value::bytes(&[1, 0xab]), "01ab"),
            (
                "Job",
                Value::Struct(vec![Value::U32(0), Value::path("/")]),
                "",
            ),
            (
                "CapabilityBoundingSet",
                Value::U64(3),
                "cap_chown cap_dac_override",
            ),
        ] {
            assert_eq!(text(name, &value, &zone).as_deref(), Some(expect), "{name}");
        }
        assert_eq!(signal_number("SIGTERM"), Some(15));
        assert_eq!(signal_number("RTMIN+2"), Some(36));
        assert_eq!(signal_number("99"), None);
        assert_eq!(signal_name(15), "TERM");
    }
}
