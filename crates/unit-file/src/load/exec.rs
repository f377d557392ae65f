//! Keys of the execution context.

use super::line::{Line, Taken, list, set};
use crate::environment::split_assignment;
use crate::settings::{
    DirectoryKind, EnvironmentFile, ExecDirectories, ExecSettings, Limit, LimitKind, Preserve,
    StdInput, StdOutput, WorkingDirectory,
};
use crate::value::{parse_signal, parse_size, parse_span};

/// Takes a key of the execution context; `false` when it is none.
pub(super) fn apply(e: &mut ExecSettings, key: &str, l: Line<'_>) -> Taken {
    if let Some(kind) = key.strip_prefix("Limit").and_then(limit_kind) {
        return limit(e, kind, l);
    }
    match key {
        "User" => set(&mut e.user, l.text()),
        "Group" => set(&mut e.group, l.text()),
        "SupplementaryGroups" => list(&mut e.supplementary_groups, l),
        "DynamicUser" => set(&mut e.dynamic_user, l.boolean()),
        "WorkingDirectory" => working_directory(e, l),
        "RootDirectory" => set(&mut e.root_directory, l.path()),
        "UMask" => set(&mut e.umask, l.mode()),
        "Nice" => set(&mut e.nice, l.within(-20, 19).map(|n| Some(n as i32))),
        "OOMScoreAdjust" => set(
            &mut e.oom_score_adjust,
            l.within(-1000, 1000).map(|n| Some(n as i32)),
        ),
        "Environment" => environment(e, l),
        "EnvironmentFile" => environment_file(e, l),
        "PassEnvironment" => list(&mut e.pass_environment, l),
        "UnsetEnvironment" => list(&mut e.unset_environment, l),
        "StandardInput" => set(&mut e.standard_input, std_input(l)),
        "StandardOutput" => set(&mut e.standard_output, std_output(l)),
        "StandardError" => set(&mut e.standard_error, std_output(l)),
        "StandardInputText" => {
            if l.is_empty() {
                e.standard_input_data.clear();
            } else {
                let text =
                    crate::value::split_words(&format!("\"{}\"", l.value.replace('"', "\\\"")))
                        .map_err(|e| e.to_string())?
                        .concat();
                e.standard_input_data
                    .extend_from_slice(l.expand(&text)?.as_bytes());
                e.standard_input_data.push(b'\n');
                if e.standard_input == StdInput::Null {
                    e.standard_input = StdInput::Data;
                }
            }
            Ok(true)
        }
        "TTYPath" => set(&mut e.tty_path, l.path()),
        "TTYReset" => set(&mut e.tty_reset, l.boolean()),
        "TTYVHangup" => set(&mut e.tty_vhangup, l.boolean()),
        "TTYVTDisallocate" => set(&mut e.tty_vt_disallocate, l.boolean()),
        "SyslogIdentifier" => set(&mut e.syslog_identifier, l.text()),
        "SyslogLevelPrefix" => set(&mut e.syslog_level_prefix, l.boolean()),
        "SyslogLevel" => set(&mut e.syslog_level, syslog_level(l)),
        "SyslogFacility" => set(&mut e.syslog_facility, syslog_facility(l)),
        "IgnoreSIGPIPE" => set(&mut e.ignore_sigpipe, l.boolean()),
        "RuntimeDirectoryPreserve" => set(
            &mut e.runtime_directory_preserve,
            match l.value {
                "restart" => Ok(Preserve::Restart),
                _ => l
                    .boolean()
                    .map(|b| if b { Preserve::Yes } else { Preserve::No }),
            },
        ),
        "UtmpIdentifier" => set(&mut e.utmp_identifier, l.text()),
        "PAMName" => set(&mut e.pam_name, l.text()),
        "TimerSlackNSec" => {
            let span = crate::value::parse_span_with(l.value, 1);
            set(
                &mut e.timer_slack_nsec,
                span.map(Some).ok_or_else(|| "bad span".to_owned()),
            )
        }
        "KeyringMode" => set(&mut e.keyring_mode, l.text()),
        "RemoveIPC" => set(&mut e.remove_ipc, l.boolean()),
        _ => match apply_scheduling(e, key, l)? {
            true => Ok(true),
            false => match apply_directories(e, key, l)? {
                true => Ok(true),
                false => super::sandbox::apply(e, key, l),
            },
        },
    }
}

fn apply_scheduling(e: &mut ExecSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "CPUAffinity" => {
            if l.is_empty() {
                e.cpu_affinity.clear();
            } else {
                let cpus = cpu_list(l.value)?;
                e.cpu_affinity.extend(cpus);
            }
            Ok(true)
        }
        "CPUSchedulingPolicy" => set(
            &mut e.cpu_scheduling_policy,
            l.word(&[
                ("other", 0),
                ("fifo", 1),
                ("rr", 2),
                ("batch", 3),
                ("idle", 5),
            ])
            .map(Some),
        ),
        "CPUSchedulingPriority" => set(
            &mut e.cpu_scheduling_priority,
            l.within(0, 99).map(|n| Some(n as u32)),
        ),
        "IOSchedulingClass" => set(
            &mut e.io_scheduling_class,
            l.word(&[
                ("none", 0),
                ("0", 0),
                ("realtime", 1),
                ("1", 1),
                ("best-effort", 2),
                ("2", 2),
                ("idle", 3),
                ("3", 3),
            ])
            .map(Some),
        ),
        "IOSchedulingPriority" => set(
            &mut e.io_scheduling_priority,
            l.within(0, 7).map(|n| Some(n as u32)),
        ),
        // Accepted and without effect: the kernel's defaults stay.
        "CPUSchedulingResetOnFork"
        | "Personality"
        | "LogRateLimitIntervalSec"
        | "LogRateLimitBurst"
        | "LogLevelMax"
        | "LogExtraFields"
        | "LogNamespace"
        | "UtmpMode"
        | "CoredumpFilter"
        | "NUMAPolicy"
        | "NUMAMask"
        | "TTYRows"
        | "TTYColumns" => Ok(true),
        _ => Ok(false),
    }
}

fn apply_directories(e: &mut ExecSettings, key: &str, l: Line<'_>) -> Taken {
    const KINDS: [(&str, DirectoryKind); 5] = [
        ("RuntimeDirectory", DirectoryKind::Runtime),
        ("StateDirectory", DirectoryKind::State),
        ("CacheDirectory", DirectoryKind::Cache),
        ("LogsDirectory", DirectoryKind::Logs),
        ("ConfigurationDirectory", DirectoryKind::Configuration),
    ];
    let Some((word, kind)) = KINDS
        .iter()
        .find(|(w, _)| key.strip_suffix("Mode").unwrap_or(key) == *w)
    else {
        return Ok(false);
    };
    let index = e
        .directories
        .iter()
        .position(|d| d.kind == *kind)
        .unwrap_or_else(|| {
            e.directories.push(ExecDirectories {
                kind: *kind,
                names: Vec::new(),
                mode: 0o755,
            });
            e.directories.len() - 1
        });
    let slot = &mut e.directories[index];
    if key != *word {
        return set(&mut slot.mode, l.mode());
    }
    if l.is_empty() {
        slot.names.clear();
        return Ok(true);
    }
    for name in l.words()? {
        // `name:link` of newer versions: the link is not made.
        let name = name
            .split(':')
            .next()
            .unwrap_or("")
            .trim_end_matches('/')
            .to_owned();
        let clean = crate::name::clean_path(&format!("/{name}"));
        if name.is_empty() || name.starts_with('/') || clean.is_none_or(|c| c[1..] != name) {
            return Err(format!("{name:?} is not a relative path without '..'"));
        }
        slot.names.push(name);
    }
    Ok(true)
}

fn working_directory(e: &mut ExecSettings, l: Line<'_>) -> Taken {
    let (text, optional) = match l.value.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    e.working_directory = match text {
        "" => None,
        "~" => Some(WorkingDirectory {
            path: None,
            optional,
        }),
        _ => {
            let path = Line { value: text, ..l }.path()?;
            Some(WorkingDirectory { path, optional })
        }
    };
    Ok(true)
}

fn environment(e: &mut ExecSettings, l: Line<'_>) -> Taken {
    if l.is_empty() {
        e.environment.clear();
        return Ok(true);
    }
    let mut bad = None;
    for word in l.words()? {
        match split_assignment(&word) {
            Some((name, value)) => e.environment.push((name.to_owned(), value.to_owned())),
            None => bad = Some(word),
        }
    }
    match bad {
        Some(word) => Err(format!(
            "{word:?} is not NAME=value (the rest of the line applies)"
        )),
        None => Ok(true),
    }
}

fn environment_file(e: &mut ExecSettings, l: Line<'_>) -> Taken {
    if l.is_empty() {
        e.environment_files.clear();
        return Ok(true);
    }
    let (text, optional) = match l.value.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let path = l.expand(text)?;
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not an absolute path"));
    }
    e.environment_files.push(EnvironmentFile { path, optional });
    Ok(true)
}

fn std_input(l: Line<'_>) -> Result<StdInput, String> {
    Ok(match l.value {
        "null" => StdInput::Null,
        "tty" => StdInput::Tty,
        "tty-force" => StdInput::TtyForce,
        "tty-fail" => StdInput::TtyFail,
        "data" => StdInput::Data,
        "socket" => StdInput::Socket,
        text => match text.split_once(':') {
            Some(("file", path)) => StdInput::File(l.expand(path)?),
            Some(("fd", name)) => StdInput::Fd(l.expand(name)?),
            _ => return Err(format!("{text:?} is not a kind of standard input")),
        },
    })
}

fn std_output(l: Line<'_>) -> Result<StdOutput, String> {
    Ok(match l.value {
        "inherit" => StdOutput::Inherit,
        "null" => StdOutput::Null,
        "tty" => StdOutput::Tty,
        "journal" | "syslog" => StdOutput::Journal,
        "journal+console" | "syslog+console" => StdOutput::JournalConsole,
        "kmsg" => StdOutput::Kmsg,
        "kmsg+console" => StdOutput::KmsgConsole,
        "socket" => StdOutput::Socket,
        text => match text.split_once(':') {
            Some(("file", path)) => StdOutput::File(l.expand(path)?),
            Some(("append", path)) => StdOutput::Append(l.expand(path)?),
            Some(("truncate", path)) => StdOutput::Truncate(l.expand(path)?),
            Some(("fd", name)) => StdOutput::Fd(l.expand(name)?),
            _ => return Err(format!("{text:?} is not a kind of standard output")),
        },
    })
}

fn syslog_level(l: Line<'_>) -> Result<u8, String> {
    l.word(&[
        ("emerg", 0),
        ("alert", 1),
        ("crit", 2),
        ("err", 3),
        ("warning", 4),
        ("notice", 5),
        ("info", 6),
        ("debug", 7),
    ])
}

fn syslog_facility(l: Line<'_>) -> Result<u8, String> {
    l.word(&[
        ("kern", 0),
        ("user", 1),
        ("mail", 2),
        ("daemon", 3),
        ("auth", 4),
        ("syslog", 5),
        ("lpr", 6),
        ("news", 7),
        ("uucp", 8),
        ("cron", 9),
        ("authpriv", 10),
        ("ftp", 11),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ])
}

fn limit_kind(word: &str) -> Option<LimitKind> {
    Some(match word {
        "CPU" => LimitKind::Cpu,
        "FSIZE" => LimitKind::Fsize,
        "DATA" => LimitKind::Data,
        "STACK" => LimitKind::Stack,
        "CORE" => LimitKind::Core,
        "RSS" => LimitKind::Rss,
        "NOFILE" => LimitKind::Nofile,
        "AS" => LimitKind::As,
        "NPROC" => LimitKind::Nproc,
        "MEMLOCK" => LimitKind::Memlock,
        "LOCKS" => LimitKind::Locks,
        "SIGPENDING" => LimitKind::Sigpending,
        "MSGQUEUE" => LimitKind::Msgqueue,
        "NICE" => LimitKind::Nice,
        "RTPRIO" => LimitKind::Rtprio,
        "RTTIME" => LimitKind::Rttime,
        _ => return None,
    })
}

fn limit(e: &mut ExecSettings, kind: LimitKind, l: Line<'_>) -> Taken {
    e.limits.retain(|x| x.kind != kind);
    if l.is_empty() {
        return Ok(true);
    }
    let one = |text: &str| -> Result<u64, String> {
        if text == "infinity" {
            return Ok(u64::MAX);
        }
        let value = match kind {
            LimitKind::Cpu => parse_span(text).map(|u| u.div_ceil(1_000_000)),
            LimitKind::Rttime => crate::value::parse_span_with(text, 1),
            _ => parse_size(text),
        };
        value.ok_or_else(|| format!("{text:?} is not a limit"))
    };
    let (soft, hard) = match l.value.split_once(':') {
        Some((s, h)) => (one(s)?, one(h)?),
        None => (one(l.value)?, one(l.value)?),
    };
    if soft > hard {
        return Err(format!(
            "soft limit of {:?} is above its hard limit",
            l.value
        ));
    }
    e.limits.push(Limit { kind, soft, hard });
    Ok(true)
}

/// `0-3,5 7` → numbers.
pub(super) fn cpu_list(text: &str) -> Result<Vec<u32>, String> {
    let mut out = Vec::new();
    for item in text.split([',', ' ']).filter(|i| !i.is_empty()) {
        let (a, b) = item.split_once('-').unwrap_or((item, item));
        let parsed = a.parse::<u32>().ok().zip(b.parse::<u32>().ok());
        match parsed {
            Some((a, b)) if a <= b && b < 8192 => out.extend(a..=b),
            _ => return Err(format!("{item:?} is not a CPU or a range of them")),
        }
    }
    Ok(out)
}

/// A list of exit codes and signals.
pub(super) fn exit_status_set(slot: &mut crate::settings::ExitStatusSet, l: Line<'_>) -> Taken {
    if l.is_empty() {
        *slot = crate::settings::ExitStatusSet::default();
        return Ok(true);
    }
    for word in l.value.split_whitespace() {
        if let Ok(code) = word.parse::<u8>() {
            slot.codes.push(code);
        } else if let Some(code) = exit_code(word) {
            slot.codes.push(code);
        } else if let Some(signal) = parse_signal(word) {
            slot.signals.push(signal);
        } else {
            return Err(format!("{word:?} is neither an exit code nor a signal"));
        }
    }
    Ok(true)
}

/// BSD exit code names, as allowed in SuccessExitStatus=.
fn exit_code(word: &str) -> Option<u8> {
    const NAMES: [&str; 15] = [
        "USAGE",
        "DATAERR",
        "NOINPUT",
        "NOUSER",
        "NOHOST",
        "UNAVAILABLE",
        "SOFTWARE",
        "OSERR",
        "OSFILE",
        "CANTCREAT",
        "IOERR",
        "TEMPFAIL",
        "PROTOCOL",
        "NOPERM",
        "CONFIG",
    ];
    NAMES.iter().position(|n| *n == word).map(|i| 64 + i as u8)
}
