//! Keys of the execution context.

use super::line::{Line, Taken, list, path_list, set};
use crate::environment::split_assignment;
use crate::settings::{
    BindPath, Credential, DirectoryKind, EnvironmentFile, ExecDirectories, ExecSettings, Limit,
    LimitKind, NameFilter, Preserve, ProtectHome, ProtectProc, ProtectSystem, StdInput, StdOutput,
    WorkingDirectory,
};
use crate::value::{parse_bool, parse_signal, parse_size, parse_span};

/// Names of capabilities by bit number.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const ALL_CAPABILITIES: u64 = (1 << CAPABILITIES.len()) - 1;

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
                false => apply_sandbox(e, key, l),
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

fn apply_sandbox(e: &mut ExecSettings, key: &str, l: Line<'_>) -> Taken {
    match key {
        "NoNewPrivileges" => set(&mut e.no_new_privileges, l.boolean()),
        "CapabilityBoundingSet" => {
            let before = e.capability_bounding_set.unwrap_or(ALL_CAPABILITIES);
            let first = e.capability_bounding_set.is_none();
            let after = capabilities(l, if first { None } else { Some(before) }, ALL_CAPABILITIES)?;
            set(&mut e.capability_bounding_set, Ok(Some(after)))
        }
        "AmbientCapabilities" => {
            let before = (e.ambient_capabilities != 0).then_some(e.ambient_capabilities);
            set(
                &mut e.ambient_capabilities,
                capabilities(l, before, ALL_CAPABILITIES),
            )
        }
        "SecureBits" => {
            let mut bits = 0;
            for word in l.words()? {
                bits |= match word.as_str() {
                    "noroot" => 1,
                    "noroot-locked" => 2,
                    "no-setuid-fixup" => 4,
                    "no-setuid-fixup-locked" => 8,
                    "keep-caps" => 16,
                    "keep-caps-locked" => 32,
                    other => return Err(format!("{other:?} is not a secure bit")),
                };
            }
            set(&mut e.secure_bits, Ok(bits))
        }
        "PrivateTmp" => set(
            &mut e.private_tmp,
            l.boolean().or(Ok(l.value == "disconnected")),
        ),
        "PrivateDevices" => set(&mut e.private_devices, l.boolean()),
        "PrivateNetwork" => set(&mut e.private_network, l.boolean()),
        "PrivateUsers" => set(&mut e.private_users, l.boolean()),
        "PrivateMounts" => set(&mut e.private_mounts, l.boolean()),
        "PrivateIPC" => set(&mut e.private_ipc, l.boolean()),
        "MountFlags" => set(&mut e.mount_flags, l.text()),
        "ProtectSystem" => set(
            &mut e.protect_system,
            match l.value {
                "full" => Ok(ProtectSystem::Full),
                "strict" => Ok(ProtectSystem::Strict),
                _ => l.boolean().map(|b| {
                    if b {
                        ProtectSystem::Yes
                    } else {
                        ProtectSystem::No
                    }
                }),
            },
        ),
        "ProtectHome" => set(
            &mut e.protect_home,
            match l.value {
                "read-only" => Ok(ProtectHome::ReadOnly),
                "tmpfs" => Ok(ProtectHome::Tmpfs),
                _ => l
                    .boolean()
                    .map(|b| if b { ProtectHome::Yes } else { ProtectHome::No }),
            },
        ),
        "ProtectKernelTunables" => set(&mut e.protect_kernel_tunables, l.boolean()),
        "ProtectKernelModules" => set(&mut e.protect_kernel_modules, l.boolean()),
        "ProtectKernelLogs" => set(&mut e.protect_kernel_logs, l.boolean()),
        "ProtectControlGroups" => set(&mut e.protect_control_groups, l.boolean()),
        "ProtectClock" => set(&mut e.protect_clock, l.boolean()),
        "ProtectHostname" => set(&mut e.protect_hostname, l.boolean()),
        "ProtectProc" => set(
            &mut e.protect_proc,
            l.word(&[
                ("default", ProtectProc::Default),
                ("noaccess", ProtectProc::NoAccess),
                ("invisible", ProtectProc::Invisible),
                ("ptraceable", ProtectProc::Ptraceable),
            ]),
        ),
        "ProcSubset" => set(
            &mut e.proc_subset_pid,
            l.word(&[("all", false), ("pid", true)]),
        ),
        "ReadOnlyPaths" | "ReadOnlyDirectories" => path_list(&mut e.read_only_paths, l),
        "ReadWritePaths" | "ReadWriteDirectories" => path_list(&mut e.read_write_paths, l),
        "InaccessiblePaths" | "InaccessibleDirectories" => path_list(&mut e.inaccessible_paths, l),
        "ExecPaths" => path_list(&mut e.exec_paths, l),
        "NoExecPaths" => path_list(&mut e.no_exec_paths, l),
        "BindPaths" => bind_paths(e, l, false),
        "BindReadOnlyPaths" => bind_paths(e, l, true),
        "TemporaryFileSystem" => {
            if l.is_empty() {
                e.temporary_file_systems.clear();
            }
            for word in l.words()? {
                let (path, options) = word.split_once(':').unwrap_or((&word, ""));
                e.temporary_file_systems
                    .push((path.to_owned(), options.to_owned()));
            }
            Ok(true)
        }
        "RestrictNamespaces" => set(&mut e.restrict_namespaces, namespaces(l)),
        "RestrictAddressFamilies" => filter(&mut e.restrict_address_families, l),
        "RestrictRealtime" => set(&mut e.restrict_realtime, l.boolean()),
        "RestrictSUIDSGID" => set(&mut e.restrict_suid_sgid, l.boolean()),
        "LockPersonality" => set(&mut e.lock_personality, l.boolean()),
        "MemoryDenyWriteExecute" => set(&mut e.memory_deny_write_execute, l.boolean()),
        "SystemCallFilter" => filter(&mut e.system_call_filter, l),
        "SystemCallErrorNumber" => {
            let number = match l.value {
                "" | "kill" => Ok(None),
                text => errno(text)
                    .map(Some)
                    .ok_or_else(|| format!("{text:?} is not an errno")),
            };
            set(&mut e.system_call_error_number, number)
        }
        "SystemCallArchitectures" => list(&mut e.system_call_architectures, l),
        "NetworkNamespacePath" => set(&mut e.network_namespace_path, l.path()),
        "LoadCredential" => credential(e, l, true),
        "SetCredential" => credential(e, l, false),
        _ => Ok(false),
    }
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

/// Number of a capability by name.
pub fn capability_number(name: &str) -> Option<u32> {
    CAPABILITIES
        .iter()
        .position(|c| c.eq_ignore_ascii_case(name))
        .map(|i| i as u32)
}

fn capabilities(l: Line<'_>, before: Option<u64>, all: u64) -> Result<u64, String> {
    if l.is_empty() {
        return Ok(0);
    }
    let (text, invert) = match l.value.strip_prefix('~') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let mut bits = 0;
    for word in text.split_whitespace() {
        bits |=
            1 << capability_number(word).ok_or_else(|| format!("{word:?} is not a capability"))?;
    }
    Ok(match (invert, before) {
        (false, None) => bits,
        (false, Some(b)) => b | bits,
        (true, None) => all & !bits,
        (true, Some(b)) => b & !bits,
    })
}

/// CLONE_NEW* bits by name.
fn namespaces(l: Line<'_>) -> Result<Option<u64>, String> {
    const NAMES: [(&str, u64); 7] = [
        ("cgroup", 0x0200_0000),
        ("uts", 0x0400_0000),
        ("ipc", 0x0800_0000),
        ("user", 0x1000_0000),
        ("pid", 0x2000_0000),
        ("net", 0x4000_0000),
        ("mnt", 0x0002_0000),
    ];
    let all = NAMES.iter().fold(0, |a, (_, b)| a | b);
    if let Some(b) = parse_bool(l.value) {
        return Ok(if b { Some(0) } else { None });
    }
    let (text, invert) = match l.value.strip_prefix('~') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let mut bits = 0;
    for word in text.split_whitespace() {
        bits |= NAMES
            .iter()
            .find(|(n, _)| *n == word)
            .ok_or_else(|| format!("{word:?} is not a namespace type"))?
            .1;
    }
    Ok(Some(if invert { all & !bits } else { bits }))
}

/// Allow and deny lists: the first line decides which kind it is; later lines add or take away.
fn filter(slot: &mut Option<NameFilter>, l: Line<'_>) -> Taken {
    if l.is_empty() {
        *slot = None;
        return Ok(true);
    }
    let (text, invert) = match l.value.strip_prefix('~') {
        Some(rest) => (rest, true),
        None => (l.value, false),
    };
    let filter = slot.get_or_insert_with(|| NameFilter {
        allow: !invert,
        names: Vec::new(),
    });
    if text == "none" && filter.names.is_empty() {
        filter.allow = true;
        return Ok(true);
    }
    for word in text.split_whitespace() {
        if filter.allow != invert {
            filter.names.push(word.to_owned());
        } else {
            // Taking a group out of a list by name needs the tables of the executor: kept as a mark.
            let known = filter.names.len();
            filter.names.retain(|n| n != word);
            if filter.names.len() == known {
                filter.names.push(format!("~{word}"));
            }
        }
    }
    Ok(true)
}

fn bind_paths(e: &mut ExecSettings, l: Line<'_>, read_only: bool) -> Taken {
    if l.is_empty() {
        e.bind_paths.retain(|b| b.read_only != read_only);
        return Ok(true);
    }
    for word in l.words()? {
        let (rest, optional) = match word.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (word.as_str(), false),
        };
        let mut parts = rest.split(':');
        let source = parts.next().unwrap_or("").to_owned();
        let destination = parts.next().unwrap_or(&source).to_owned();
        let recursive = parts.next() != Some("norbind");
        if !source.starts_with('/') || !destination.starts_with('/') {
            return Err(format!("{word:?}: both paths must be absolute"));
        }
        e.bind_paths.push(BindPath {
            source,
            destination,
            optional,
            recursive,
            read_only,
        });
    }
    Ok(true)
}

fn credential(e: &mut ExecSettings, l: Line<'_>, load: bool) -> Taken {
    if l.is_empty() {
        e.credentials.retain(|c| c.path.is_some() != load);
        return Ok(true);
    }
    let (id, rest) = l.value.split_once(':').unwrap_or((l.value, ""));
    if !load && !l.value.contains(':') {
        return Err(format!("{:?} is not ID:VALUE", l.value));
    }
    let rest = l.expand(rest)?;
    let id = l.expand(id)?;
    if id.is_empty() || id.contains('/') {
        return Err(format!("{id:?} is not a credential name"));
    }
    let path = load.then(|| {
        if rest.is_empty() {
            id.clone()
        } else {
            rest.clone()
        }
    });
    let data = (!load).then_some(rest);
    e.credentials.retain(|c| c.id != id);
    e.credentials.push(Credential { id, path, data });
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

fn errno(text: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 17] = [
        ("EPERM", 1),
        ("ENOENT", 2),
        ("ESRCH", 3),
        ("EINTR", 4),
        ("EIO", 5),
        ("ENXIO", 6),
        ("EAGAIN", 11),
        ("ENOMEM", 12),
        ("EACCES", 13),
        ("EFAULT", 14),
        ("EBUSY", 16),
        ("EEXIST", 17),
        ("EINVAL", 22),
        ("ENOSYS", 38),
        ("EUCLEAN", 117),
        ("EOPNOTSUPP", 95),
        ("EAFNOSUPPORT", 97),
    ];
    NAMES
        .iter()
        .find(|(n, _)| *n == text)
        .map(|(_, v)| *v)
        .or_else(|| text.parse().ok().filter(|n| (1..=4095).contains(n)))
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
